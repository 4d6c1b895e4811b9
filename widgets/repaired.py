"""Repaired: a repair in numbers, for the findings panel, and the job that makes it.

Owns the rows of its table, and what is told while it is made: prompts done, and an estimate of the rest. The repair
itself is `clipattr.repair`. Start at `Repairer.start`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from clipattr.display.wording import counted
from clipattr_widgets.tables import column, row
from clipattr_widgets.text import plain, shown, signed
from clipattr_widgets.worker import PacedJob

HOWS = (
    ("erase the directions and refit", "sharpened"),
    ("project the directions out", "project"),
    ("ablate the latents", "ablate"),
)
REPAIR_COLUMNS = (
    column("measure", "on held-out pictures"),
    *(column(key, key, numeric=True) for key in ("before", "after", "change")),
)


@dataclass(frozen=True, eq=False)
class Repaired:
    """A repair in numbers: what was done, to how many findings, what came of it (a `BeforeAfter`)."""

    about: str
    findings: int
    outcome: Any

    def rows(self) -> list[dict[str, Any]]:
        """Rows for a `DataTable`, shares in per cent; intervals beside the values."""
        return [
            row(
                i,
                shown(f"{one['measure']}, {counted(one['pictures'], 'picture')}", 60),
                *(_measured(one, key) for key in ("before", "after", "change")),
            )
            for i, one in enumerate(self.outcome.rows)
        ]


class Repairer(PacedJob):
    """Repairs findings in the worker's long lane.

    Args:
        told: called with prompts done, prompts asked, and seconds left (None before the first is done); all are done
            while the outcome is measured. Called with () at the end.
        came: called with the `Repaired`.
        failed: called with what went wrong.
    """

    LANE = "repair"

    def start(self, study: Any, findings: Sequence[Any], how: str) -> None:
        """Repair these findings, and measure before and after on the held-out pictures."""
        prompts_done = self.worker.paced(self.LANE, self._told)

        def work() -> Repaired:
            from clipattr.discovery.repair.repair import repair

            made = repair(study, findings, how=how, on_prompt=prompts_done)
            return Repaired(made.about, len(findings), made.evaluate())

        self._submit(work, (0, len({finding.prompt for finding in findings}), None))


def _measured(row: Mapping[str, Any], key: str) -> str:
    share = row["unit"] == "share"
    value, low, high = (
        float(row[name]) * (100 if share else 1) for name in (key, f"{key}_low", f"{key}_high")
    )
    digits = 1 if share else 2
    text = signed(value, digits) if key == "change" else plain(value, digits)
    unit = " %" if share and key != "change" and math.isfinite(value) else ""
    bounds = f" ({plain(low, digits)} to {plain(high, digits)})" if math.isfinite(low + high) else ""
    return text + unit + bounds
