"""Before and after: the effect of a repair on pictures that were not used for it.

Owns the figures and their display: accuracy, worst group, repaired prompts and all other classes. Ignores the origin of
the two sets of logits. Start at `before_after`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from clipattr.discovery.probes.probe import Probe
from clipattr.display.wording import be, counted
from clipattr.errors import DataError
from clipattr.statistics import mean_interval, wilson

if TYPE_CHECKING:
    import pandas as pd

FEWEST = 5  # least pictures of a group that can be the worst group
COLUMNS = ("measure", "pictures", "before", "before_low", "before_high", "after", "after_low", "after_high", "change",
           "change_low", "change_high", "unit")  # fmt: skip


@dataclass(frozen=True)
class BeforeAfter:
    """Figures of a repair; intervals are 95 %.

    Attributes:
        rows: one per measure, shown by `frame`. classes: one row per class. groups: one row per group; None without
            groups.
        about: what was repaired. notes: remarks, e.g. that there are no groups.
        correct: (pictures, 2) bool, before and after; pictures in the order of `which`.
        which: (pictures,) positions among the measured pictures.
    """

    rows: tuple[dict[str, Any], ...]
    classes: pd.DataFrame
    groups: pd.DataFrame | None
    about: str
    notes: tuple[str, ...] = ()
    correct: Tensor = field(default_factory=lambda: torch.zeros(0, 2, dtype=torch.bool), repr=False)
    which: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long), repr=False)

    @property
    def frame(self) -> pd.DataFrame:
        """One row per measure, before, after and change with bounds: fractions from 0 to 1, contrasts in logits."""
        import pandas as pd

        return pd.DataFrame(list(self.rows), columns=list(COLUMNS))

    def __getitem__(self, measure: str) -> dict[str, Any]:
        """The row of one measure; the worst group's is "worst group"."""
        for row in self.rows:
            if row["measure"] == measure:
                return row
        raise KeyError(f"no measure {measure!r}; there are {[row['measure'] for row in self.rows]}")

    def _shown(self) -> list[tuple[str, str, str, str]]:
        lines = []
        for row in self.rows:
            scale, digits, sign = (100.0, 1, " %") if row["unit"] == "share" else (1.0, 2, "")
            told = []
            for name in ("before", "after", "change"):
                value, low, high = (float(row[key]) * scale for key in (name, f"{name}_low", f"{name}_high"))  # type: ignore[arg-type]
                plus = "+" if name == "change" else ""
                unit = " points" if name == "change" and sign else sign
                shown = f"{value:{plus}.{digits}f}{unit}" if math.isfinite(value) else "–"
                bounds = f" ({low:.{digits}f} to {high:.{digits}f})" if math.isfinite(low) else ""
                told.append(shown + bounds)
            lines.append((f"{row['measure']}, {counted(row['pictures'], 'picture')}", *told))
        return lines  # type: ignore[return-value]

    def __repr__(self) -> str:
        table = [("", "before", "after", "change"), *self._shown()]
        widths = [max(len(line[column]) for line in table) for column in range(4)]
        body = "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in table
        )
        return "\n".join([f"Repair: {self.about}", body, *(f"Note: {note}" for note in self.notes)])

    def _repr_html_(self) -> str:
        import html

        def cells(line: Sequence[str], kind: str) -> str:
            return "".join(f"<{kind} style='text-align:left'>{html.escape(cell)}</{kind}>" for cell in line)

        head = f"<tr>{cells(('', 'before', 'after', 'change'), 'th')}</tr>"
        body = "".join(f"<tr>{cells(line, 'td')}</tr>" for line in self._shown())
        notes = "".join(f"<p>{html.escape(note)}</p>" for note in self.notes)
        return f"<p>Repair: {html.escape(self.about)}</p><table>{head}{body}</table>{notes}"


def before_after(
    classes: Probe,
    before: Tensor,
    after: Tensor,
    labels: Sequence[str | None] | None,
    groups: Sequence[str | None] | None = None,
    *,
    repaired: Sequence[str] = (),
    about: str = "",
    skipped: int = 0,
) -> BeforeAfter:
    """Compare two sets of logits on the same pictures.

    Args:
        classes: classifier whose names the logits' columns have. before, after: (pictures, classes).
        labels: one per picture, None to leave it out. groups: one per picture, or None for no groups at all.
        repaired: the repaired classes; changes of all others are side effects.

    Raises:
        DataError: there are no labels, or a label is not among the classes.
    """
    if labels is None or not any(labels):
        raise DataError(
            "accuracy needs the true class of each picture: these have no labels. Give labels=[...], one per picture."
        )
    known = {name.casefold(): number for number, name in enumerate(classes.names)}
    unknown = sorted({label for label in labels if label and label.casefold() not in known})
    if unknown:
        raise DataError(
            f"{len(unknown)} label(s) are not classes of this classifier, e.g. {', '.join(map(repr, unknown[:4]))}. "
            "Repair with classifier=[...] that names them, or set those labels to None."
        )
    which = torch.tensor([number for number, label in enumerate(labels) if label])
    truth = torch.tensor([known[str(labels[number]).casefold()] for number in which.tolist()])
    before, after = before[which].double(), after[which].double()
    correct = torch.stack([before.argmax(1) == truth, after.argmax(1) == truth], 1)
    notes = (
        [f"{counted(skipped, 'picture')} could not be read and {be(skipped)} left out."] if skipped else []
    )
    left_out = len(labels) - len(which)
    if left_out:
        notes.append(f"{counted(left_out, 'picture')} without a label {be(left_out)} left out.")
    rows = [_row("accuracy", correct)]
    frame, worst = None, None
    if groups is None or not any(groups):
        notes.insert(
            0,
            "There are no groups, so nothing is known of the worst one: give groups=[...], one per picture.",
        )
    else:
        frame, worst = _by_group(correct, [groups[number] for number in which.tolist()], notes)
        if worst is not None:
            rows.append(worst)
    numbers = [classes.index(name) for name in repaired]
    mine = torch.isin(truth, torch.tensor(numbers, dtype=torch.long))
    for name, number in zip(repaired, numbers, strict=True):
        if (truth == number).any():
            rows.append(_row(f"accuracy of {name}", correct[truth == number]))
        called = torch.stack([before.argmax(1) == number, after.argmax(1) == number], 1)[truth != number]
        if len(called):
            rows.append(_row(f"others called {name}", called))
    if (~mine).any() and repaired:
        rows.append(_row("accuracy of other classes", correct[~mine]))
        rows.append(_contrast("margin of other classes", before, after, truth, ~mine))
    return BeforeAfter(
        tuple(rows),
        _by_class(classes, before, after, truth, correct),
        frame,
        about,
        tuple(notes),
        correct,
        which,
    )


def _filled(measure: str, n: int, spans: Sequence[tuple[float, float, float]], unit: str) -> dict[str, Any]:
    values = [number for span in spans for number in span]
    return dict(zip(COLUMNS, (measure, n, *values, unit), strict=True))


def _mean(values: Tensor) -> tuple[float, float, float]:
    """Mean over independent pictures with its 95 % normal interval."""
    found = mean_interval(values)
    return found.value, found.low, found.high


def _row(measure: str, hits: Tensor) -> dict[str, Any]:
    """Shares before and after from (pictures, 2) bool; the interval of the change is paired."""
    n = len(hits)
    spans = []
    for column in (0, 1):
        right = int(hits[:, column].sum())
        spans.append((right / n, *wilson(right, n)))
    spans.append(_mean(hits[:, 1].double() - hits[:, 0].double()))
    return _filled(measure, n, spans, "share")


def _contrast(measure: str, before: Tensor, after: Tensor, truth: Tensor, which: Tensor) -> dict[str, Any]:
    """Logit of the true class minus that of the best other class, before and after."""

    def margin(logits: Tensor) -> Tensor:
        own = logits.gather(1, truth[:, None])[:, 0]
        rest = logits.scatter(1, truth[:, None], -math.inf).amax(1)
        return (own - rest)[which]

    one, two = margin(before), margin(after)
    return _filled(measure, int(which.sum()), [_mean(one), _mean(two), _mean(two - one)], "logit")


def _by_group(
    correct: Tensor, groups: Sequence[str | None], notes: list[str]
) -> tuple[pd.DataFrame, dict[str, Any] | None]:
    import pandas as pd

    names = sorted({group for group in groups if group})
    without = sum(group is None for group in groups)
    if without:
        notes.append(f"{counted(without, 'picture')} {'belongs' if without == 1 else 'belong'} to no group.")
    rows = [_row(name, correct[torch.tensor([group == name for group in groups])]) for name in names]
    large = [row for row in rows if int(row["pictures"]) >= FEWEST]
    frame = pd.DataFrame(rows, columns=list(COLUMNS)).rename(columns={"measure": "group"})
    if not large:
        notes.append(f"No group has {FEWEST} pictures or more, so none is called the worst.")
        return frame, None
    if len(large) < len(rows):
        notes.append(
            f"{counted(len(rows) - len(large), 'group')} of fewer than {FEWEST} pictures "
            f"{be(len(rows) - len(large))} listed, not compared."
        )
    lowest: Callable[[str], dict[str, Any]] = lambda when: min(large, key=lambda row: float(row[when]))  # noqa: E731
    first, last = lowest("before"), lowest("after")
    worst = {key: first[key] for key in COLUMNS}
    for key in ("after", "after_low", "after_high"):
        worst[key] = last[key]
    worst["change"] = last["after"] - first["before"]
    if first["measure"] == last["measure"]:
        worst["change_low"], worst["change_high"] = first["change_low"], first["change_high"]
    else:
        # Two groups with different pictures: unpaired, so half-widths add in quadrature.
        widths = [
            row[f"{when}_high"] - row[f"{when}_low"] for row, when in ((first, "before"), (last, "after"))
        ]
        half = math.hypot(*widths) / 2
        worst["change_low"], worst["change_high"] = worst["change"] - half, worst["change"] + half
    worst["measure"] = "worst group"
    notes.append(f"Worst group before: {first['measure']}; after: {last['measure']}.")
    return frame, worst


def _by_class(classes: Probe, before: Tensor, after: Tensor, truth: Tensor, correct: Tensor) -> pd.DataFrame:
    """Accuracy of every class and the change of its contrast against the mean of the others, over all pictures."""
    import pandas as pd

    n = len(classes.names)
    moved = after - before
    contrast = moved - (moved.sum(1, keepdim=True) - moved) / max(n - 1, 1)
    rows = []
    for number, name in enumerate(classes.names):
        own = truth == number
        shares = correct[own].double().mean(0).tolist() if own.any() else [math.nan, math.nan]
        rows.append(
            (
                name,
                int(own.sum()),
                *shares,
                float(contrast[:, number].mean()),
                float(contrast[:, number].abs().mean()),
            )
        )
    return pd.DataFrame(
        rows,
        columns=["class", "pictures", "before", "after", "mean_change_logit", "mean_absolute_change_logit"],
    )
