"""Figures: charts of a reproduction as SVG, the same bytes in every run.

Owns the shared layout of estimates with intervals. Ignores where the numbers come from. Start at `svg` and
`estimates`.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np

from clipattr.display.plots import BLUE, GREY, INK, ORANGE, Chart
from clipattr.display.wording import visible
from clipattr.statistics import Interval

COLOURS = (BLUE, ORANGE, GREY, INK)
MARKS = "osD^vP*X"


def svg(chart: Any) -> str:
    """A figure as SVG; letters are drawn as shapes, so that it looks the same everywhere."""
    buffer = io.BytesIO()
    # The salt makes the names of shapes the same in every run; a date would differ.
    with matplotlib.rc_context({"svg.hashsalt": "clipattr", "svg.fonttype": "path"}):
        chart.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue().decode("utf-8")


def estimates(
    series: Mapping[str, Sequence[tuple[str, Interval]]], label: str, *, scale: float = 1.0, zero: bool = True
) -> Chart:
    """Estimates with 95 % intervals, one line per name, one mark per series.

    Args:
        series: (name, estimate) pairs by series. label: of the axis. scale: factor for display.
    """
    names = list(dict.fromkeys(name for pairs in series.values() for name, _ in pairs))
    chart = Chart(7.2, 1.1 + 0.3 * max(1, len(names)))
    axes = chart.add_subplot()
    for number, (title, pairs) in enumerate(series.items()):
        offset = 0.2 * (number - (len(series) - 1) / 2) if len(series) < 5 else 0.0
        kept = [(name, each) for name, each in pairs if each.known]
        values, lows, highs = (
            np.array([list(vars(each).values()) for _, each in kept]).reshape(-1, 3).T * scale
        )
        errors = np.clip([values - lows, highs - values], 0.0, 1e6)
        axes.errorbar(
            values, [names.index(name) + offset for name, _ in kept], xerr=errors, linestyle="none",
            marker=MARKS[number % len(MARKS)], color=COLOURS[number % len(COLOURS)], markersize=5, elinewidth=0.9,
            label=visible(title, 40),
        )  # fmt: skip
    axes.set_yticks(range(len(names)), labels=[visible(name, 40) for name in names], parse_math=False)
    axes.set_ylim(len(names) - 0.4, -0.6)
    if zero:
        axes.axvline(0, color=INK, linewidth=0.8, zorder=1)
    axes.set_xlabel(f"{label} (95 % interval)", fontsize=9, color=INK)
    if len(series) > 1:
        axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1))
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8.5, colors=INK)
    return chart
