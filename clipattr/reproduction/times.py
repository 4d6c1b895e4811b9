"""Times: seconds that each part of a reproduction took, without the parts inside it, beside what was planned.

Owns the clock, the file of times and the file of the plan. Start at `Times`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clipattr.storage.documents import read_json, write_json

TIMES = "times.json"  # the only file of results that differs between two runs
PLAN = "plan.json"  # left by a plan, read by the run in the same folder


def seconds_of(work: Callable[[], object]) -> float:
    """Seconds that a function takes."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


@dataclass
class Times:
    """Seconds by part, "experiment · unit"; a part that measures another one is not charged for it.

    >>> times = Times()
    >>> with times.of("outer"), times.of("inner"):
    ...     pass
    >>> list(times.seconds)
    ['inner', 'outer']
    """

    seconds: dict[str, float] = field(default_factory=dict)
    updated: dict[str, float] = field(default_factory=dict)
    _inside: list[float] = field(default_factory=list)

    @contextmanager
    def of(self, part: str) -> Iterator[None]:
        """Charge the time inside to a part, on top of what it has."""
        begun = time.perf_counter()
        self._inside.append(0.0)
        try:
            yield
        finally:
            whole = time.perf_counter() - begun
            self.seconds[part] = self.seconds.get(part, 0.0) + whole - self._inside.pop()
            if self._inside:
                self._inside[-1] += whole

    def update(self, folder: Path, name: str) -> float | None:
        """Estimate an experiment that is about to begin, and all that are left with it, by what earlier ones took.

        The estimate of the folder's plan times the pace of this run so far (`pace_of`) is kept in `updated`.

        Returns:
            seconds that are left; None without a plan of this experiment.
        """
        rows = _read(folder / PLAN).get("experiments")
        planned = (
            {row["experiment"]: row["seconds"] for row in rows if isinstance(row, dict)}
            if isinstance(rows, list)
            else {}
        )
        if not planned.get(name):
            return None
        known = _read(folder / TIMES).get("experiments")
        done = [row for row in known if row["experiment"] != name] if isinstance(known, list) else []
        pace = pace_of([row["measured_over_planned"] for row in done])
        self.updated[name] = planned[name] * pace
        finished = {row["experiment"] for row in done}
        return pace * sum(seconds for each, seconds in planned.items() if each not in finished)

    def note(self, folder: Path) -> None:
        """Write the seconds to the folder's file, over those of earlier runs; parts of other runs stay.

        Beside them, the seconds of each experiment, what the folder's plan, if there is one, estimated for it, and the
        estimate as it stood when the experiment began.
        """
        if not self.seconds:
            return
        known = _read(folder / TIMES).get("seconds")
        seconds = (known if isinstance(known, dict) else {}) | self.seconds
        rows = _read(folder / PLAN).get("experiments")
        made = beside_plan(seconds, rows if isinstance(rows, list) else [])
        before = _read(folder / TIMES).get("experiments")
        updated = (
            {row["experiment"]: row.get("updated") for row in before} if isinstance(before, list) else {}
        )
        updated |= self.updated
        content = {
            "seconds": seconds,
            "experiments": [{**row, "updated": updated.get(row["experiment"])} for row in made],
        }
        write_json(folder / TIMES, content)


def beside_plan(seconds: Mapping[str, float], planned: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Measured and planned seconds of each experiment that took time; None where nothing was planned.

    >>> beside_plan({"null · a": 2.0, "null · b": 4.0}, [{"experiment": "null", "seconds": 5.0}])
    [{'experiment': 'null', 'measured': 6.0, 'planned': 5.0, 'measured_over_planned': 1.2}]
    """
    measured: dict[str, float] = {}
    for part, each in seconds.items():
        name = part.partition(" · ")[0]
        measured[name] = measured.get(name, 0.0) + each
    estimate = {row["experiment"]: row["seconds"] for row in planned}
    return [
        {
            "experiment": name,
            "measured": took,
            "planned": estimate.get(name),
            "measured_over_planned": took / estimate[name] if estimate.get(name) else None,
        }
        for name, took in measured.items()
    ]


def pace_of(ratios: Sequence[float | None]) -> float:
    """How much longer a run takes than planned, by the ratios of its finished experiments; 1 without any.

    The geometric mean, drawn towards 1 as by one experiment that took what was planned: one ratio alone may be chance.

    >>> round(pace_of([2.0, 2.0, 2.0]), 2), pace_of([]), pace_of([None, 4.0])
    (1.68, 1.0, 2.0)
    """
    logs = [math.log(ratio) for ratio in ratios if ratio]
    return math.exp(sum(logs) / (len(logs) + 1))


def _read(file: Path) -> dict[str, Any]:
    """What a JSON file holds; {} if it is missing, damaged or no table."""
    try:
        found = read_json(file)
    except (OSError, ValueError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}
