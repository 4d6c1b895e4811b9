"""A table of pairs as a figure: image parts down, text parts across, sums at the edges.

Owns the choice of rows and columns that are shown and the drawing. Ignores where the numbers come from. Start at
`pair_table`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from clipattr.display.plots import INK, Chart
from clipattr.display.wording import signed, visible

SUM = "sum"
LABEL_LENGTH = 22
NODES = 2  # rows and columns at the end that are bias and error node, always shown


def pair_table(
    values: Sequence[Sequence[float]] | np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    n: int = 8,
    title: str | None = None,
) -> Chart:
    """A heat table of pair values in points (cosine × 100), whose cells add up to the sums at its edges.

    Args:
        values: (rows, columns), raw cosine; the last two rows and columns are bias and error.
        rows, columns: their names. n: the largest rows and columns shown one by one; the others are summed.
    """
    points = 100 * np.asarray(values, dtype=float)
    points, rows = _shortened(points, rows, n)
    turned, columns = _shortened(points.T, columns, n)
    points = turned.T
    full = np.block(
        [[points, points.sum(1, keepdims=True)], [points.sum(0, keepdims=True), points.sum(keepdims=True)]]
    )
    rows, columns = [*rows, SUM], [*columns, SUM]
    chart = Chart(2.4 + 0.62 * len(columns), 1.5 + 0.3 * len(rows))
    axes = chart.add_subplot()
    reach = float(np.abs(points).max()) or 1.0
    shown = full.copy()
    shown[-1], shown[:, -1] = np.nan, np.nan  # sums are larger than their cells, and are not coloured
    axes.imshow(shown, cmap="RdBu", vmin=-reach, vmax=reach, aspect="auto")
    for (row, column), value in np.ndenumerate(full):
        edge = row == len(rows) - 1 or column == len(columns) - 1
        dark = not edge and abs(value) > 0.6 * reach
        axes.text(
            column, row, signed(value), ha="center", va="center", fontsize=7.5,
            color="white" if dark else INK, fontweight="bold" if edge else "normal",
        )  # fmt: skip
    names = [visible(name, LABEL_LENGTH) for name in columns]
    axes.set_xticks(range(len(columns)), labels=names, rotation=40, ha="right", fontsize=8, parse_math=False)
    axes.set_yticks(
        range(len(rows)), labels=[visible(name, LABEL_LENGTH) for name in rows], fontsize=8, parse_math=False
    )
    axes.set_xlabel("text latents (points)", fontsize=8.5, color=INK)
    axes.set_ylabel("image latents", fontsize=8.5, color=INK)
    if title:
        axes.set_title(visible(title, 70), fontsize=9.5, color=INK, loc="left", parse_math=False)
    return chart


def _shortened(points: np.ndarray, names: Sequence[str], n: int) -> tuple[np.ndarray, list[str]]:
    """The `n` rows with the largest entries, the sum of the others, and the nodes."""
    latents = len(points) - NODES
    order = np.argsort(-np.abs(points[:latents]).max(1), kind="stable") if latents else np.arange(0)
    kept, rest = order[:n], order[n:]
    parts = [points[kept]]
    labels = [names[row] for row in kept]
    if len(rest):
        parts.append(points[rest].sum(0, keepdims=True))
        labels.append(f"{len(rest)} others")
    parts.append(points[latents:])
    return np.concatenate(parts), [*labels, *names[latents:]]
