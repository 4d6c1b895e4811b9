"""Times: seconds that each part of a reproduction took, without the parts inside it, beside what was planned.

Owns the clock, the file of times and the file of the plan. Start at `Times`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
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

    def note(self, folder: Path) -> None:
        """Write the seconds to the folder's file, over those of earlier runs; parts of other runs stay.

        Beside them, the seconds of each experiment and what the folder's plan, if there is one, estimated for it.
        """
        if not self.seconds:
            return
        known = _read(folder / TIMES).get("seconds")
        seconds = (known if isinstance(known, dict) else {}) | self.seconds
        rows = _read(folder / PLAN).get("experiments")
        content = {
            "seconds": seconds,
            "experiments": beside_plan(seconds, rows if isinstance(rows, list) else []),
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


def _read(file: Path) -> dict[str, Any]:
    """What a JSON file holds; {} if it is missing, damaged or no table."""
    try:
        found = read_json(file)
    except (OSError, ValueError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}
