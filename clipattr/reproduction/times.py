"""Times: seconds that each part of a reproduction took, without the parts inside it.

Owns the clock and the file of times. Start at `Times`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from clipattr.storage.documents import json_text, read_json
from clipattr.storage.files import write_text

TIMES = "times.json"  # the only file that differs between two runs


@dataclass
class Times:
    """Seconds by part; a part that measures another one is not charged for it.

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
        """Write the seconds to the folder's file, over those of earlier runs; parts of other runs stay."""
        if not self.seconds:
            return
        file = folder / TIMES
        try:
            known = dict(read_json(file))
        except (OSError, ValueError, TypeError):
            known = {}
        write_text(file, json_text(known | self.seconds, indent=1) + "\n")
