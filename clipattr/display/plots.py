"""Plots: matplotlib figures of given numbers for notebooks, papers and READMEs.

Owns colours, marks and layout. Every function returns a `Chart`, a matplotlib figure that a notebook displays; pyplot
and its global state are not used. Sign and kind are shown by position, shape and text as well as by colour.
Start at `signed_bars`, `reliance_map` or `gallery`.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from clipattr.display.framing import Frame
from clipattr.display.wording import KIND_WORDS, NO_LABEL, kind_word, signed, visible
from clipattr.errors import DataError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from torch import Tensor

    from clipattr.attribution.result import Attribution
    from clipattr.discovery.findings import Finding

UNSEEN = 0.6  # blending with grey of the area that the model does not see, 0 to 1
BLUE, ORANGE, GREY, INK, FAINT = "#2f6db3", "#c8641b", "#8a8f98", "#22252a", "#d9dce1"
DPI = 110
LABEL_LENGTH = 34
# One shape per kind, in the order of the kinds, so that a map can be read without colour.
KIND_MARKS = {
    **dict(zip((kind for kind in KIND_WORDS if kind != "unknown"), "osPX^Dv<>phdH", strict=False)),
    "unknown": "*",
}


class Chart(Figure):
    """A matplotlib figure without pyplot; notebooks display it, and `savefig` saves it.

    Drawings are displayed as PNG, figures made of pictures as JPEG, which takes a tenth of the bytes.
    """

    def __init__(self, width: float, height: float, *, of_pictures: bool = False, **options: Any) -> None:
        super().__init__(figsize=(width, height), dpi=DPI, facecolor="white", layout="constrained", **options)
        FigureCanvasAgg(self)
        self.of_pictures = of_pictures

    def _repr_png_(self) -> bytes | None:
        return None if self.of_pictures else self.png()

    def _repr_jpeg_(self) -> bytes | None:
        return self.jpeg() if self.of_pictures else None

    def png(self) -> bytes:
        """The figure as PNG bytes, identical from run to run."""
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", metadata={"Software": None})
        return buffer.getvalue()

    def jpeg(self) -> bytes:
        """The figure as JPEG bytes."""
        buffer = io.BytesIO()
        self.savefig(buffer, format="jpeg", pil_kwargs={"quality": 86, "optimize": True})
        return buffer.getvalue()


def signed_bars(
    names: Sequence[str],
    values: Sequence[float],
    *,
    rest: Mapping[str, float] | None = None,
    notes: Sequence[str] | None = None,
    unit: str = "points",
    title: str | None = None,
) -> Chart:
    """Horizontal bars to both sides of zero, the first on top.

    Args:
        names: label of each bar.
        values: length of each bar, in `unit`.
        rest: further bars in grey below a line, for parts that are not latents (bias, error, gap).
        notes: a short text beside each name, e.g. an alignment.
        unit: name of the unit for the axis. title: of the figure.

    Raises:
        DataError: names, values or notes differ in number, or there is nothing to draw.

    >>> signed_bars(["kite", "sky"], [3.2, -1.0]).png()[:4]
    b'\x89PNG'
    """
    below = dict(rest or {})
    if not names and not below:
        raise DataError("there is no bar to plot: names and rest are both empty. Give at least one.")
    if len(names) != len(values) or (notes is not None and len(notes) != len(names)):
        raise DataError(
            f"{len(names)} names need as many values and notes; got {len(values)} and {len(notes or names)}."
        )
    labels = [visible(name, LABEL_LENGTH) for name in names]
    if notes is not None:
        labels = [f"{label}  {visible(note, 24)}" for label, note in zip(labels, notes, strict=True)]
    labels += [visible(name, LABEL_LENGTH) for name in below]
    lengths = [float(value) for value in (*values, *below.values())]
    chart = Chart(7.2, 0.7 + 0.27 * len(labels) + (0.3 if title else 0))
    axes = chart.add_subplot()
    rows = [row + (0.45 if row >= len(names) and names else 0) for row in range(len(labels))]
    colours = [BLUE if value >= 0 else ORANGE for value in lengths[: len(names)]] + [GREY] * len(below)
    bars = axes.barh(rows, lengths, height=0.68, color=colours, zorder=2)
    for number, (bar, value) in enumerate(zip(bars, lengths, strict=True)):
        if value < 0 and number < len(names):
            bar.set_hatch("////")
            bar.set_edgecolor("white")
        axes.annotate(
            signed(value),
            (value, rows[number]),
            xytext=(4 if value >= 0 else -4, 0),
            textcoords="offset points",
            ha="left" if value >= 0 else "right",
            va="center",
            fontsize=8.5,
            color=INK,
        )
    if below and names:
        axes.axhline(len(names) - 0.28, color=FAINT, linewidth=1)
    axes.axvline(0, color=INK, linewidth=0.8, zorder=3)
    axes.set_yticks(rows, labels=labels, fontsize=9, parse_math=False)
    axes.set_ylim(rows[-1] + 0.6, -0.6)
    axes.margins(x=0.14)
    axes.set_xlabel(unit, fontsize=9, color=INK)
    _plain(axes, grid="x")
    _title(axes, title)
    return chart


def attribution_bars(
    attribution: Attribution, n: int = 12, *, picture: int = 0, target: int = 0, title: str | None = None
) -> Chart:
    """The `n` latents with the largest attribution to one target on one picture, then bias, error and gap.

    Cosines are shown in points (× 100), other targets in their own unit. Methods that only rank have no bars for bias,
    error and gap.
    """
    rows = attribution.top(n, picture=picture, target=target)
    ranks_only = attribution.unit == "rank only"
    own = attribution.unit if ranks_only or not attribution.units else attribution.units[target]
    scale, unit = (100.0, "points") if own == "cosine" else (1.0, own)
    rest = {}
    if not ranks_only:
        for name in ("bias", "error", "gap"):
            rest[name] = float(getattr(attribution, name)[picture, target]) * scale
    names = [
        label if isinstance(label, str) and label else f"latent {latent}"
        for label, latent in zip(rows["label"], rows["latent"], strict=True)
    ]
    return signed_bars(
        names, [float(v) * scale for v in rows["attribution"]], rest=rest, unit=unit, title=title
    )


def waterfall_steps(
    names: Sequence[str], changes: Sequence[float], *, unit: str = "points", title: str | None = None
) -> Chart:
    """Bars that each start where the bar above ends; the last level is marked with its value.

    Args:
        names: label of each step. changes: change of each step, in `unit`; the first starts at 0. title: of the figure.
        unit: name of the unit for the axis.

    Raises:
        DataError: names and changes differ in number, or there are none.
    """
    if not names or len(names) != len(changes):
        raise DataError(
            f"a waterfall needs at least one name, and as many changes; got {len(names)} and {len(changes)}."
        )
    chart = Chart(7.2, 0.8 + 0.29 * len(names) + (0.3 if title else 0))
    axes = chart.add_subplot()
    level = 0.0
    for row, change in enumerate(changes):
        first = row == 0
        axes.barh(
            row, change, left=level, height=0.66, zorder=2, color=GREY if first else BLUE if change >= 0 else ORANGE,
            hatch="////" if change < 0 and not first else None, edgecolor="white" if change < 0 and not first else None,
        )  # fmt: skip
        axes.annotate(
            signed(change), (max(level, level + change), row), xytext=(4, 0), textcoords="offset points", va="center",
            fontsize=8.5, color=INK,
        )  # fmt: skip
        level += change
        if row + 1 < len(names):
            axes.plot([level, level], [row - 0.33, row + 1.33], color=GREY, linewidth=0.8, zorder=3)
    axes.axvline(level, color=INK, linewidth=0.8, linestyle=":", zorder=1)
    axes.axvline(0, color=INK, linewidth=0.8, zorder=1)
    labels = [visible(name, LABEL_LENGTH) for name in names]
    axes.set_yticks(range(len(names)), labels=labels, fontsize=9, parse_math=False)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.margins(x=0.14)
    axes.set_xlabel(f"{unit}; dotted: the target, {level:.1f}", fontsize=9, color=INK)
    _plain(axes, grid="x")
    _title(axes, title)
    return chart


def reliance_map(findings: Iterable[Finding], *, name: int = 10, title: str | None = None) -> Chart:
    """Findings by alignment (x) and causal effect (y), one shape per kind.

    An audit looks for findings at the upper left: a large effect of a family that does not look like the prompt.
    Vertical lines are 95 % intervals of the causal effect. The `name` strongest findings are labelled.

    Raises:
        DataError: no findings.
    """
    found = sorted(findings, key=lambda f: -f.causal_effect.value)
    if not found:
        raise DataError("there is no finding to plot. Give at least one.")
    chart = Chart(7.6, 4.8)
    axes = chart.add_subplot()
    marks = {**KIND_MARKS, **{f.kind: KIND_MARKS.get(f.kind, "o") for f in found}}
    for kind, mark in marks.items():
        group = [f for f in found if f.kind == kind]
        if not group:
            continue
        x = [f.alignment * 100 for f in group]
        y = [f.causal_effect.value * 100 for f in group]
        low = [max(f.causal_effect.value - f.causal_effect.low, 0) * 100 for f in group]
        high = [max(f.causal_effect.high - f.causal_effect.value, 0) * 100 for f in group]
        axes.errorbar(x, y, [low, high], fmt="none", ecolor=GREY, elinewidth=0.9, zorder=1)
        size = 95 if mark == "*" else 52
        face = (
            GREY
            if kind == "unknown"
            else BLUE
            if kind in ("polysemy", "compound", "coarse_label")
            else ORANGE
        )
        axes.scatter(
            x,
            y,
            s=size,
            marker=mark,
            color=face,
            edgecolor="white",
            linewidth=0.8,
            label=kind_word(kind),
            zorder=3,
        )
    taken: list[tuple[float, float]] = []
    span_x = max(f.alignment for f in found) - min(f.alignment for f in found) or 1.0
    span_y = max(f.causal_effect.high for f in found) - min(f.causal_effect.low for f in found) or 1.0
    for finding in found[: max(name, 0)]:
        place = (finding.alignment / span_x, finding.causal_effect.value / span_y)
        if any(abs(place[0] - x) < 0.22 and abs(place[1] - y) < 0.045 for x, y in taken):
            continue  # overlapping names are unreadable; the table has both
        taken.append(place)
        to_the_left = finding.alignment > min(f.alignment for f in found) + 0.6 * span_x
        axes.annotate(
            f"{visible(finding.prompt, 18)} ← {visible(finding.label or NO_LABEL, 18)}",
            (finding.alignment * 100, finding.causal_effect.value * 100),
            xytext=(-7 if to_the_left else 7, 3),
            textcoords="offset points",
            ha="right" if to_the_left else "left",
            fontsize=8,
            color=INK,
            parse_math=False,
        )
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.margins(x=0.16, y=0.1)
    axes.set_xlabel(
        "alignment of the family with the prompt, points (left: does not look like it)", fontsize=9
    )
    axes.set_ylabel("causal effect, points", fontsize=9)
    axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0)
    _plain(axes, grid="both")
    _title(axes, title)
    return chart


def gallery(
    pictures: Sequence[Any],
    captions: Sequence[str] | None = None,
    *,
    columns: int = 8,
    side: float = 1.05,
    title: str | None = None,
) -> Chart:
    """Pictures in rows, captions below.

    Args:
        pictures: PIL images or (h, w, 3) uint8 arrays.
        captions: one per picture.
        columns: pictures per row.
        side: side of a picture in inches. title: of the figure.

    Raises:
        DataError: there are no pictures, or the number of captions differs.
    """
    if not len(pictures):
        raise DataError("there is no picture to show. Give at least one.")
    if captions is not None and len(captions) != len(pictures):
        raise DataError(f"{len(pictures)} pictures need as many captions; got {len(captions)}.")
    if columns < 1:
        raise DataError(f"a gallery has at least one column; got {columns}.")
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    row_height = side + (0.26 if captions is not None else 0.06)
    chart = Chart(
        max(columns * (side + 0.06), 2.2), rows * row_height + (0.32 if title else 0), of_pictures=True
    )
    grid = chart.subplots(rows, columns, squeeze=False)
    for number, axes in enumerate(grid.flat):
        axes.set_axis_off()
        if number >= len(pictures):
            continue
        axes.imshow(_pixels(pictures[number]), interpolation="lanczos")
        if captions is not None:
            axes.set_title(
                visible(captions[number], 20),
                fontsize=8,
                color=INK,
                y=-0.02,
                va="top",
                pad=0,
                parse_math=False,
            )
    if title:
        chart.suptitle(visible(title, 100), fontsize=10.5, color=INK, x=0.01, ha="left", parse_math=False)
    return chart


def _pixels(picture: Any) -> Any:
    import numpy as np

    return np.asarray(picture.convert("RGB") if hasattr(picture, "convert") else picture)


def _plain(axes: Axes, grid: str) -> None:
    for edge in ("top", "right", "left"):
        axes.spines[edge].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)
    axes.tick_params(length=0, labelsize=8.5, colors=INK)
    axes.grid(axis=grid, color=FAINT, linewidth=0.7, alpha=0.8)  # type: ignore[arg-type]
    axes.set_axisbelow(True)


def _title(axes: Axes, title: str | None) -> None:
    if title:
        axes.set_title(visible(title, 90), fontsize=10.5, color=INK, loc="left", parse_math=False)


def overlay(
    picture: Image.Image, heat: Tensor | np.ndarray, *, strength: float = 0.65, frame: Frame | None = None
) -> Image.Image:
    """Overlay a map on a picture: positive values in a warm colour, negative in a cold one, 0 transparent.

    The largest |value| of the map is drawn at full strength.

    Args:
        picture: a PIL picture. heat: (rows, columns), signed. strength: opacity of the largest |value|, 0 to 1.
        frame: the part of the picture that the model sees, from `frame_of(model, picture.size)`; the map is drawn there
            and the rest is greyed. None: the whole picture.

    Raises:
        DataError: a map that is not (rows, columns).
    """
    heat = np.asarray(heat, dtype=np.float32)
    if heat.ndim != 2:
        raise DataError(f"one map (rows, columns) goes over one picture; got {heat.shape}.")
    frame = frame or Frame()
    left, top, right, bottom = (round(edge) for edge in frame.box(picture.size))
    size = (max(right - left, 1), max(bottom - top, 1))
    largest = float(np.abs(heat).max()) or 1.0
    scaled = Image.fromarray(heat / largest).resize(size, Image.Resampling.BICUBIC)
    base = np.asarray(picture.convert("RGB"), dtype=np.float32)
    level, seen = np.zeros(base.shape[:2], np.float32), np.zeros(base.shape[:2], bool)
    # The part of the frame inside the picture; a frame with margins is larger than the picture.
    rows, columns = (
        slice(max(start, 0), min(end, side))
        for start, end, side in ((top, bottom, len(base)), (left, right, base.shape[1]))
    )
    level[rows, columns] = np.asarray(scaled)[
        rows.start - top : rows.stop - top, columns.start - left : columns.stop - left
    ]
    seen[rows, columns] = True
    level = np.clip(level, -1, 1)[..., None]
    warm, cold = np.array([200, 60, 20], dtype=np.float32), np.array([20, 80, 200], dtype=np.float32)
    base = np.where(seen[..., None], base, base + UNSEEN * (128 - base))
    alpha = strength * np.abs(level)
    mixed = base * (1 - alpha) + np.where(level > 0, warm, cold) * alpha
    return Image.fromarray(mixed.round().astype(np.uint8))
