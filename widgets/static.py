"""Still views of panels without a kernel: HTML with the picture, PNG, text, and a table to save.

Owns the still views; deterministic, so that stored notebooks stay the same. Ignores widgets. Start at `Static`.
"""

import html
import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from PIL import Image

from clipattr_widgets.desk import PanelError
from clipattr_widgets.sprites import data_uri, encode_jpeg, sprite
from clipattr_widgets.text import attribute_text, markup, shown

if TYPE_CHECKING:
    import pandas as pd

    from clipattr_widgets.explorer_state import ExplorerState

_CSS = """
.cas{font:13px/1.45 system-ui,"DejaVu Sans",sans-serif;color:inherit;max-width:980px}
.cas table{border-collapse:collapse;margin:6px 0;font-size:inherit}
.cas .clipattr-facts span{margin-right:14px}
.cas caption{text-align:left;font-weight:600;padding:2px 0}
.cas th,.cas td{padding:1px 10px 1px 0;text-align:left;border:0;background:none;vertical-align:middle}
.cas td.n,.cas th.n{text-align:right;font-variant-numeric:tabular-nums}
.cas i{display:inline-block;height:10px;vertical-align:middle}
.cas small{opacity:.75}
"""


FORMULA = ("=", "+", "-", "@", "\t", "\r")  # how a cell begins that a spreadsheet would run


class Static:
    """A still view.

    Args:
        body: HTML without scripts.
        figure: makes the picture (a matplotlib figure) when asked.
        table: the numbers.
    """

    def __init__(self, body: str, figure: Callable[[], Any], table: "pd.DataFrame") -> None:
        self.html = f'<div class="cas"><style>{_CSS}</style>{body}</div>'
        self._figure = figure
        self.table = table

    def png(self) -> bytes:
        """The picture as PNG bytes, in at most 256 colours: a third of the size, and no difference to the eye."""
        drawn, small = io.BytesIO(), io.BytesIO()
        self._figure().savefig(drawn, format="png", dpi=100, metadata={"Software": None})
        Image.open(drawn).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(
            small, "PNG", optimize=True
        )
        return small.getvalue()

    def text(self) -> str:
        """The numbers as plain text."""
        if not len(self.table):
            return "nothing to show"
        brief = self.table.head(15).copy()
        for column in brief.select_dtypes("float"):
            brief[column] = brief[column].round(4)
        for column in brief.select_dtypes(["object", "string"]):
            brief[column] = [shown(value, 40) for value in brief[column]]
        return brief.to_string(index=False)

    def page(self) -> str:
        """A page of its own."""
        return (
            '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>clipattr view</title>'
            '<meta http-equiv="Content-Security-Policy" '
            "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">"
            f"</head><body>{self.html}</body></html>"
        )

    def as_file(self, suffix: str) -> bytes:
        """The bytes of a file with this suffix: .png, .html or .csv.

        Raises:
            PanelError: another suffix.
        """
        if suffix == ".png":
            return self.png()
        if suffix == ".html":
            return self.page().encode("utf-8")
        if suffix == ".csv":
            return _csv_safe(self.table).to_csv(index=False).encode("utf-8")
        raise PanelError(f"A view is saved as .png, .html or .csv; got {suffix!r}.")

    def bundle(self) -> dict[str, Any]:
        """For a display without a live kernel."""
        import base64

        png = base64.b64encode(self.png()).decode("ascii")
        return {"text/html": self.html, "image/png": png, "text/plain": self.text()}

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        return self.bundle()

    def __repr__(self) -> str:
        return self.text()


def _csv_safe(table: "pd.DataFrame") -> "pd.DataFrame":
    """Text that a spreadsheet would run as a formula gets a quote in front."""
    safe = table.copy()
    for column in safe.select_dtypes(["object", "string"]):
        safe[column] = [f"'{v}" if isinstance(v, str) and v.startswith(FORMULA) else v for v in safe[column]]
    return safe


def bar_table(rows: Sequence[dict[str, Any]], columns: dict[str, str], caption: str) -> str:
    """The rows of a bar list as an HTML table with bars."""
    largest = max((abs(row["value"]) for row in rows), default=0) or 1
    other = "other" in columns
    keys = ["activation", "fits", "alignment"]
    heads = ["latent", "", columns["value"], *(["other"] if other else []), *(columns[key] for key in keys)]
    cells = "".join(f'<th scope="col"{" class=n" if i > 1 else ""}>{h}</th>' for i, h in enumerate(heads))
    body = []
    for row in rows:
        width = 160 * abs(row["value"]) / largest
        colour = "#2f7fd0" if row["value"] >= 0 else "#cf6a1f"
        name = markup(row["label"], 50)
        if row.get("scale") == 0:
            name = f"<s>{name}</s> <small>off</small>"
        elif row.get("scale", 1) != 1:
            name += f" <small>×{row['scale']:g}</small>"
        if row.get("kind"):
            name += f" <small>[{html.escape(row['kind'])}]</small>"
        numbers = [row.get(key, "") for key in ("text", *(["other_text"] if other else []), *keys)]
        tail = "".join(f'<td class="n">{html.escape(number)}</td>' for number in numbers)
        body.append(
            f'<tr><td>{name}</td><td><i style="width:{width:.0f}px;background:{colour}"></i></td>{tail}</tr>'
        )
    return f"<table><caption>{caption}</caption><thead><tr>{cells}</tr></thead><tbody>{''.join(body)}</tbody></table>"


def picture_html(picture: Image.Image | None, alt: str, side: int = 160) -> str:
    """One picture with its description."""
    if picture is None:
        return ""
    return f'<img width="{side}" alt="{attribute_text(alt)}" src="{data_uri(encode_jpeg(picture, side))}">'


def strip_html(thumbnails: Sequence[Image.Image], alt: str, px: int = 72, n: int = 10) -> str:
    """Thumbnails in one row, as one picture."""
    if not thumbnails:
        return ""
    few = list(thumbnails[:n])
    data, columns = sprite(few, px, columns=len(few), gap=4)
    return f'<img width="{columns * px}" height="{px}" alt="{attribute_text(alt)}" src="{data_uri(data)}">'


def table_html(columns: Sequence[dict[str, Any]], rows: Sequence[dict[str, Any]], caption: str) -> str:
    """The rows of a `DataTable` as an HTML table."""
    numeric = ["n" if column.get("numeric") else "" for column in columns]
    heads = "".join(
        f'<th scope="col" class="{kind}">{html.escape(column["label"])}</th>'
        for column, kind in zip(columns, numeric, strict=True)
    )
    body = "".join(
        "<tr>"
        + "".join(
            f'<td class="{kind}">{markup(cell["text"] if isinstance(cell, dict) else cell, 60)}</td>'
            for cell, kind in zip(row["cells"], numeric, strict=True)
        )
        + "</tr>"
        for row in rows
    )
    return f"<table><caption>{caption}</caption><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>"


def error_line(state: Any) -> str:
    """A panel's error as HTML; "" without one."""
    return f"<p>{markup(state.error, 600)}</p>" if state.error else ""


def score_title(state: Any) -> str:
    """What the score of a panel is, as HTML: its prompt, and the prompt that it is compared with."""
    against = f" rather than {markup(state.against, 60)}" if state.against else ""
    return f"similarity to {markup(state.prompt, 60)}{against}"


def explorer_html(state: "ExplorerState") -> str:
    """The explorer as it is now."""
    words = state.score_words()
    line = f"<b>{score_title(state)}: {words['now']} {words['unit']}</b>"
    if state.scales:
        line += f" · after: <b>{words['after']}</b> ({words['change']})"
    if state.error:
        line = markup(state.error, 600)
    caption = state.caption()
    parts = [f"<p>{markup(state.table.name, 80)} · {line}</p>"]
    image = picture_html(state.pixels(), f"picture {caption}")
    side = f"{image}<br><small>{markup(caption, 80)}</small>"
    if state.compare >= 0:
        second = state.caption(state.compare)
        shown_second = picture_html(
            state.table.picture(state.compare), f"compared with picture {second}", 110
        )
        side += f"<br>{shown_second}<br><small>other: {markup(second, 80)}</small>"
    table = bar_table(state.rows, state.columns, "what it rests on") if state.rows else ""
    parts.append(f'<table><tr><td style="vertical-align:top">{side}</td><td>{table}</td></tr></table>')
    if state.card is not None:
        strip = strip_html(state.examples.thumbnails, state.examples.title)
        name = f"{markup(state.card.name, 60)} <small>(latent {state.card.latent})</small>"
        parts.append(f"<p>examples of {name}<br>{strip}</p>")
    return "".join(parts)


def bars_figure(state: "ExplorerState") -> Any:
    """The explorer as a figure: picture, signed bars, and the chosen latent's examples."""
    rows = state.rows
    figure = blank(9, 1.6 + 0.24 * max(len(rows), 8))
    grid = figure.add_gridspec(2, 2, width_ratios=[1, 2.4], height_ratios=[max(len(rows), 8) * 0.24, 1.0])
    left, right, below = (figure.add_subplot(grid[place]) for place in ((0, 0), (0, 1), (1, slice(None))))
    picture = state.pixels()
    if picture is not None:
        left.imshow(picture, interpolation="nearest" if max(picture.size) <= 128 else None)
    left.set_title(no_math(state.caption(), 34), fontsize=8)
    words = state.score_words()
    title = f"similarity to {shown(state.prompt, 30)}"
    title += f" rather than {shown(state.against, 30)}" if state.against else ""
    title += f": {words['now']} {words['unit']}" + (f", after {words['after']}" if state.scales else "")
    right.set_title(no_math(title, 90), fontsize=9, loc="left")
    if rows:
        places = range(len(rows))[::-1]
        colours = ["#2f7fd0" if row["value"] >= 0 else "#cf6a1f" for row in rows]
        starts = [row.get("start", 0) for row in rows]
        high = 0.42 if "other" in state.columns else 0.8
        at = [place + (0.21 if high < 0.8 else 0) for place in places]
        drawn = right.barh(at, [row["value"] for row in rows], left=starts, color=colours, height=high)
        if high < 0.8:
            values = [row.get("other") or 0.0 for row in rows]
            soft = ["#8fbbe6" if value >= 0 else "#e6b48f" for value in values]
            second = right.barh([place - 0.21 for place in places], values, color=soft, height=high)
            said = [row.get("other_text", "") if row.get("other") else "" for row in rows]
            right.bar_label(second, said, padding=3, fontsize=6.5)
            title += f" (pale: picture {no_math(state.caption(state.compare), 30)})"
            right.set_title(no_math(title, 110), fontsize=9, loc="left")
        for bar, row in zip(drawn, rows, strict=True):
            if row.get("scale") == 0:
                bar.set(hatch="////", facecolor="white", edgecolor="#777777")
        said = [row["text"] if row["value"] or high == 0.8 else "" for row in rows]
        right.bar_label(drawn, said, padding=3, fontsize=7.5)
        right.set_yticks(list(places), [no_math(row["label"], 28) for row in rows], fontsize=8)
        right.axvline(0, color="#999999", lw=0.8)
        right.margins(x=0.16, y=0.01)
        right.set_xlabel(f"attribution, {words['unit']}", fontsize=8)
        right.tick_params(axis="x", labelsize=7.5)
    right.spines[["top", "right", "left"]].set_visible(False)
    right.tick_params(axis="y", length=0)
    thumbs = list(state.examples.thumbnails[:12])
    if thumbs:
        data, _ = sprite(thumbs, 72, columns=len(thumbs), gap=4)
        below.imshow(Image.open(io.BytesIO(data)))
        below.set_title(no_math(state.examples.title, 80), fontsize=8, loc="left")
    for axes in (left, below):
        axes.set_axis_off()
    return figure


def blank(width: float, height: float) -> Any:
    """An empty white figure of this size in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def no_math(text: str, limit: int) -> str:
    """Text for matplotlib: no mathematics, no glyphs that would raise."""
    return shown(text, limit).replace("$", r"\$")


def plain_bars_figure(rows: Sequence[dict[str, Any]], title: str) -> Any:
    """The latents of a bar list as a figure."""
    from clipattr.display.plots import signed_bars

    latents = [row for row in rows if row["part"] == "latent"]
    rest = {row["label"]: row["value"] for row in rows if row["part"] == "part"}
    if not latents and not rest:
        rest = {"nothing to show": 0.0}
    return signed_bars(
        [row["label"] for row in latents], [row["value"] for row in latents], rest=rest, title=title
    )


def gallery_figure(shelf: Any) -> Any:
    """A shelf as a figure."""
    figure = blank(9, 2.6)
    axes = figure.add_subplot()
    thumbs = list(shelf.thumbnails[:20])
    if thumbs:
        data, _ = sprite(thumbs, 80, columns=min(10, len(thumbs)), gap=4)
        axes.imshow(Image.open(io.BytesIO(data)))
    axes.set_title(no_math(shelf.title or "no pictures", 100), fontsize=9, loc="left")
    axes.set_axis_off()
    return figure


def findings_figure(findings: Sequence[Any], rows: Sequence[dict[str, Any]]) -> Any:
    """The findings in view as bars of their causal effects."""
    from clipattr.display.plots import signed_bars

    few = [findings[row["id"]] for row in rows[:15]]
    names = [f"{f.prompt} ← {f.label or '(no word for it)'}" for f in few]
    values = [f.causal_effect.value * 100 for f in few]
    return signed_bars(
        names, values, rest=None if few else {"no findings": 0.0}, title="causal effect of findings"
    )
