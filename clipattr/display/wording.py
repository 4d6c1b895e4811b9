"""Wording: how numbers, kinds of findings and text from outside are put before people.

Owns signs, units, the sentences about kinds, and the rule that no foreign text may change what stands around it.
Knows nothing of HTML, terminals or figures, which all use it. Start at `visible` and `points`.
"""

import math
import unicodedata
from collections.abc import Mapping
from typing import Any

NO_VALUE = "–"
NO_LABEL = "(no word for it)"

# What a kind is called, and what it says about a prompt. Keys: `clipattr.discovery.findings.KINDS`.
KIND_WORDS: Mapping[str, tuple[str, str]] = {
    "polysemy": ("another sense", "pictures of another thing with the same name score for the prompt"),
    "compound": ("part of a compound", "one word of the prompt names something else, and that scores for it"),
    "typography": ("written word", "writing in the picture scores for the prompt"),
    "watermark": ("watermark", "a mark laid over the picture scores for the prompt"),
    "context": ("background", "the place where the thing is usually seen scores for it"),
    "companion": ("companion", "something that often stands beside the thing scores for it"),
    "coarse_label": ("coarse label", "one look of a thing with many looks scores for its name"),
    "unknown": ("unknown", "no word fits the family, or the evidence does not decide between the kinds"),
}


def visible(text: object, limit: int | None = None) -> str:
    """Any text as one line that shows what it holds and cannot reorder or hide anything.

    Characters without a picture of their own (control and direction marks, lone surrogates) become their code point,
    as in ⟨U+202E⟩; runs of white space become one space. What goes beyond `limit` characters is cut and counted.
    """
    raw = str(text)
    line = "".join(_shown(c) for c in (raw if limit is None else raw[: 4 * limit]))
    line = " ".join(line.split())
    if limit is None or (len(line) <= limit and len(raw) <= 4 * limit):
        return line
    return f"{line[:limit].rstrip()}… ({len(raw):,} characters)"


def _shown(character: str) -> str:
    if character.isspace():
        return " "
    if (
        unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")
        and character not in "\u200c\u200d"
    ):
        return f"⟨U+{ord(character):04X}⟩"
    return character


def signed(value: float | None, digits: int = 1) -> str:
    """A number with its sign and a real minus; "–" where there is none (None, NaN)."""
    if value is None or not math.isfinite(value):
        return NO_VALUE
    rounded = round(float(value), digits)
    sign = "+" if rounded > 0 else "−" if rounded < 0 else ""
    return f"{sign}{abs(rounded):.{digits}f}"


def points(value: float | None, digits: int = 1) -> str:
    """A raw cosine in points, cosine × 100, signed.

    >>> points(0.123), points(-0.5, 0), points(float("nan"))
    ('+12.3', '−50', '–')
    """
    return signed(None if value is None else value * 100, digits)


def span(low: float, high: float) -> str:
    """The bounds of an interval of raw cosines, in points, without plus signs.

    >>> span(0.11, 0.135)
    '11.0 to 13.5'
    """
    return f"{points(low).lstrip('+')} to {points(high).lstrip('+')}"


def percent(value: float | None) -> str:
    """A share or probability as a whole percentage."""
    return NO_VALUE if value is None or not math.isfinite(value) else f"{value * 100:.0f}\u00a0%"


def kind_word(kind: str) -> str:
    """What a kind is called in a table."""
    return KIND_WORDS.get(kind, (kind.replace("_", " "), ""))[0]


def is_number(value: Any) -> bool:
    """Whether this is a number that can be shown as one; True and False are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)
