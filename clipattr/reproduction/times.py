"""Times: what each part of a reproduction took, without the parts inside it, beside what was planned.

Owns the clocks (wall and processor), the file of times and the file of the plan. Start at `Times`.
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
LOADING, STUDIES, PAGE = "loading", "studies", "page"  # parts that belong to no experiment
PLAN = "plan.json"  # left by a plan, read by the run in the same folder


@dataclass(frozen=True)
class Spent:
    """Wall time and processor time of a part, in seconds. Other jobs on the machine lengthen the first much more.

    Processor time is that of this process with all its threads; other processes and machines are not in it.

    >>> 2 * Spent(3.0, 2.0) + Spent(1.0, 1.0)
    Spent(wall=7.0, processor=5.0)
    """

    wall: float = 0.0
    processor: float = 0.0

    @classmethod
    def now(cls) -> Spent:
        """The time on both clocks."""
        return cls(time.perf_counter(), time.process_time())

    @classmethod
    def of(cls, work: Callable[[], object]) -> Spent:
        """What a function takes."""
        begun = cls.now()
        work()
        return cls.now() - begun

    def __add__(self, other: Spent) -> Spent:
        return Spent(self.wall + other.wall, self.processor + other.processor)

    def __sub__(self, other: Spent) -> Spent:
        return Spent(self.wall - other.wall, self.processor - other.processor)

    def __mul__(self, times: float) -> Spent:
        return Spent(self.wall * times, self.processor * times)

    __rmul__ = __mul__

    def __or__(self, other: Spent) -> Spent:
        """The larger one, on each clock by itself."""
        return Spent(max(self.wall, other.wall), max(self.processor, other.processor))

    def __and__(self, other: Spent) -> Spent:
        """The smaller one, on each clock by itself."""
        return Spent(min(self.wall, other.wall), min(self.processor, other.processor))


@dataclass
class Times:
    """What was spent by part, "experiment · unit"; a part that measures another one is not charged for it.

    >>> times = Times()
    >>> with times.of("outer"), times.of("inner"):
    ...     pass
    >>> list(times.spent)
    ['inner', 'outer']
    """

    spent: dict[str, Spent] = field(default_factory=dict)
    updated: dict[str, float] = field(default_factory=dict)
    _inside: list[Spent] = field(default_factory=list)

    @contextmanager
    def of(self, part: str) -> Iterator[None]:
        """Charge the time inside to a part, on top of what it has."""
        begun = Spent.now()
        self._inside.append(Spent())
        try:
            yield
        finally:
            whole = Spent.now() - begun
            self.spent[part] = self.spent.get(part, Spent()) + whole - self._inside.pop()
            if self._inside:
                self._inside[-1] += whole

    def update(self, folder: Path, name: str) -> float | None:
        """Estimate an experiment that is about to begin, and all that are left with it, by what earlier ones took.

        The estimate of the folder's plan times the pace of this run so far (`pace_of`) is kept in `updated`.

        Returns:
            seconds that are left; None without a plan of this experiment.
        """
        planned = {row["experiment"]: row["seconds"] for row in _experiments(_read(folder / PLAN))}
        if not planned.get(name):
            return None
        done = [row for row in _experiments(_read(folder / TIMES)) if row["experiment"] != name]
        pace = pace_of([row["measured_over_planned"] for row in done])
        self.updated[name] = planned[name] * pace
        finished = {row["experiment"] for row in done}
        return pace * sum(seconds for each, seconds in planned.items() if each not in finished)

    def note(self, folder: Path) -> None:
        """Write the times to the folder's file, over those of earlier runs; parts of other runs stay.

        Beside them, what each experiment took, what the folder's plan, if there is one, estimated for it, and the
        estimate as it stood when the experiment began.
        """
        if not self.spent:
            return
        held = _read(folder / TIMES)
        walls = _table(held, "seconds") | {part: each.wall for part, each in self.spent.items()}
        processor = _table(held, "processor_seconds") | {
            part: each.processor for part, each in self.spent.items()
        }
        made = beside_plan(walls, processor, _experiments(_read(folder / PLAN)))
        updated = {row["experiment"]: row.get("updated") for row in _experiments(held)} | self.updated
        content = {
            "seconds": walls,
            "processor_seconds": processor,
            "experiments": [{**row, "updated": updated.get(row["experiment"])} for row in made],
        }
        write_json(folder / TIMES, content)


def _table(held: Mapping[str, Any], name: str) -> dict[str, float]:
    found = held.get(name)
    return dict(found) if isinstance(found, dict) else {}


def _experiments(held: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """One row per experiment of a plan or of noted times; none where they are damaged."""
    rows = held.get("experiments")
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def beside_plan(
    seconds: Mapping[str, float], processor: Mapping[str, float], planned: list[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """What each experiment took, on both clocks, beside what was planned; None where nothing was planned.

    Args:
        seconds, processor: by part, "experiment · unit". planned: rows of a plan.

    >>> rows = [{"experiment": "null", "seconds": 5.0, "processor_seconds": 1.0}]
    >>> found = beside_plan({"null · a": 2.0, "null · b": 4.0}, {"null · a": 1.0, "null · b": 1.0}, rows)[0]
    >>> found["measured"], found["measured_over_planned"], found["processor_measured_over_planned"]
    (6.0, 1.2, 2.0)
    """
    estimate = {row["experiment"]: row for row in planned}
    found = []
    for name in dict.fromkeys(part.partition(" · ")[0] for part in seconds):
        row: dict[str, Any] = {"experiment": name}
        for clock, column, each in (("", "seconds", seconds), ("processor_", "processor_seconds", processor)):
            took = sum(took for part, took in each.items() if part.partition(" · ")[0] == name)
            asked = estimate.get(name, {}).get(column)
            row |= {
                f"{clock}measured": took,
                f"{clock}planned": asked,
                f"{clock}measured_over_planned": took / asked if asked else None,
            }
        found.append(row)
    return found


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
