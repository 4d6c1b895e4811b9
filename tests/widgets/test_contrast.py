"""Colours of the panels against their grounds, computed as WCAG 2.1 does, in the themes that ship with JupyterLab."""

import re
import sysconfig
from pathlib import Path

import pytest

import clipattr_widgets

CSS = (Path(clipattr_widgets.__file__).parent / "static" / "panel.css").read_text(encoding="utf-8")
CODE = {
    "light": "--vscode-editor-background:#ffffff;--vscode-editor-foreground:#3b3b3b;--vscode-focusBorder:#005fb8;"
    "--vscode-editorWidget-background:#f8f8f8",
    "dark": "--vscode-editor-background:#1f1f1f;--vscode-editor-foreground:#cccccc;--vscode-focusBorder:#3794ff;"
    "--vscode-editorWidget-background:#202020",
}  # as in VS Code's two standard themes
TEXT, FILL = 4.5, 3.0  # level AA: text, and what is no text
PAIRS = {
    ("text", "page"): TEXT, ("text", "raised"): TEXT, ("dim", "page"): TEXT, ("dim", "raised"): TEXT,
    ("page", "brand"): TEXT, ("brand", "page"): TEXT, ("plus", "page"): FILL, ("minus", "page"): FILL,
}  # fmt: skip


def declared(css):
    """Custom properties of a piece of CSS; the last wins."""
    return {name: value.strip() for name, value in re.findall(r"(--[\w-]+)\s*:\s*([^;}]+)", css)}


def theme(kind):
    """What a JupyterLab theme declares, or nothing for a page without one."""
    folder = Path(sysconfig.get_path("data")) / "share" / "jupyter" / "lab" / "themes" / "@jupyterlab"
    file = folder / f"theme-{kind}-extension" / "index.css"
    if not file.exists():
        pytest.skip(f"JupyterLab's {kind} theme is not installed")
    return declared(file.read_text(encoding="utf-8"))


def split(arguments):
    """At commas outside brackets."""
    parts, depth = [""], 0
    for letter in arguments:
        depth += (letter == "(") - (letter == ")")
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


def colour(value, known):
    """(red, green, blue, alpha) of a CSS value, variables and mixtures with transparency included."""
    value = value.strip()
    if value.startswith("var("):
        name, *fallback = split(value[4:-1])
        return colour(known[name] if name in known else fallback[0], known)
    if value.startswith("color-mix("):
        _, first, second = split(value[10:-1])
        base, percent = re.fullmatch(r"(.+) (\d+)%", first).groups()
        assert second == "transparent"
        *rgb, alpha = colour(base, known)
        return (*rgb, alpha * int(percent) / 100)
    if value.startswith("rgba("):
        red, green, blue, alpha = (float(part) for part in split(value[5:-1]))
        return red, green, blue, alpha
    value = {"white": "#fff"}.get(value, value)
    if len(value) == 4:
        value = "#" + "".join(2 * digit for digit in value[1:])
    assert re.fullmatch("#[0-9a-fA-F]{6}", value), value
    return (*(int(value[i : i + 2], 16) for i in (1, 3, 5)), 1.0)


def luminance(rgb):
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in rgb)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def ratio(text, ground):
    """Of a colour that may be translucent on an opaque one."""
    over = [text[3] * a + (1 - text[3]) * b for a, b in zip(text[:3], ground[:3], strict=True)]
    high, low = sorted((luminance(over), luminance(ground[:3])), reverse=True)
    return (high + 0.05) / (low + 0.05)


def palette(ground, dark):
    """The panels' own colours on a ground of theme variables."""
    first, second = (
        re.search(r"\{(.*?)\}", CSS, re.S),
        re.search(r"theme-light=\"false\".*?\{(.*?)\}", CSS, re.S),
    )
    known = {**ground, **declared(first[1])} | (declared(second[1]) if dark else {})
    return {name: colour(f"var(--ca-{name})", known) for pair in PAIRS for name in pair}


def test_the_formula_gives_the_ratios_that_everybody_knows():
    black, white, grey = (0, 0, 0, 1.0), (255, 255, 255, 1.0), (0x76, 0x76, 0x76, 1.0)
    assert ratio(black, white) == pytest.approx(21)
    assert ratio(grey, white) == pytest.approx(4.54, abs=0.01)
    assert ratio((0, 0, 0, 0.5), white) == pytest.approx(ratio((127.5, 127.5, 127.5, 1.0), white))


@pytest.mark.parametrize(
    "where", ["no theme", "lab light", "lab dark", "lab dark-high-contrast", "code light", "code dark"]
)
def test_text_and_bars_stand_out_from_every_ground(where):
    program, _, kind = where.partition(" ")
    ground = {"no": dict, "lab": lambda: theme(kind), "code": lambda: declared(CODE[kind])}[program]()
    colours = palette(ground, "dark" in kind)
    weak = {
        pair: round(ratio(colours[pair[0]], colours[pair[1]]), 2)
        for pair, least in PAIRS.items()
        if ratio(colours[pair[0]], colours[pair[1]]) < least
    }
    assert not weak


def test_every_colour_of_text_is_one_of_the_checked_ones():
    used = set(re.findall(r"[;{]\s*color:\s*([^;}]+)", CSS))
    assert used <= {
        "inherit",
        "transparent",
        *(f"var(--ca-{name})" for name in ("text", "dim", "brand", "page")),
    }
