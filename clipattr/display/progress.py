"""Progress: bars in terminals and notebooks, and one line per tenth elsewhere.

Owns the choice between the two. A log or a pipe would otherwise hold thousands of redrawn bars. Start at `Progress`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Any

from tqdm.auto import tqdm
from tqdm.std import tqdm as terminal_bar

from clipattr.display.wording import counted

PARTS = 10  # lines of one task without a terminal


class Progress(tqdm):  # type: ignore[type-arg, misc, unused-ignore]
    """A `tqdm` bar; without a terminal it prints a line for every tenth of the work, and nothing in between.

    Takes the arguments of `tqdm`. A notebook always has bars.
    """

    def __init__(self, iterable: Any = None, **options: Any) -> None:
        file = options.get("file") or sys.stderr
        in_notebook = "notebook" in tqdm.__module__
        self._lines = not options.get("disable") and not in_notebook and not file.isatty()
        if self._lines:
            options = {**options, "disable": True}  # tqdm then draws nothing, and counting is ours
        super().__init__(iterable, **options)
        if self._lines:
            total = options.get("total")
            self.total = len(iterable) if total is None and hasattr(iterable, "__len__") else total
            self._what = options.get("desc") or "progress"
            unit = str(options.get("unit", "item")).strip()
            self._noun, self._nouns = unit, unit + ("es" if unit.endswith("ch") else "s")
            self._file, self._told, self._begun, self._start = file, 0, time.monotonic(), self.n
            self._aside = 0.0

    def __iter__(self) -> Iterator[Any]:
        if not self._lines:
            yield from super().__iter__()
            return
        for item in self.iterable:
            yield item
            self.update(1)

    def set_aside(self, seconds: float) -> None:
        """Leave seconds that were spent once, for all items, out of the estimate of what is left."""
        if self._lines:
            self._aside += seconds
        elif not self.disable:
            own = self.__dict__  # tqdm declares no type of its start
            own["start_t"] = min(own["start_t"] + seconds, time.time())

    def known(self, n: int = 1) -> None:
        """Leave `n` items, to be counted by `update`, out of the estimate: an earlier run had finished them."""
        if self._lines:
            self._start += n
        elif not self.disable:
            self.initial += n

    def update(self, n: float | None = 1) -> Any:
        """Count `n` more."""
        if not self._lines:
            return super().update(n)
        self.n += n or 0
        part = int(PARTS * self.n / self.total) if self.total else 0
        if part > self._told:
            self._told = part
            gone = time.monotonic() - self._begun
            done = self.n - self._start
            left = max(gone - self._aside, 0.0) * (self.total - self.n) / done if done else 0.0
            count = f"{self.n:,} of {counted(self.total or 0, self._noun, self._nouns)}"
            spent, rest = terminal_bar.format_interval(gone), terminal_bar.format_interval(left)
            print(f"{self._what}: {count}, {spent} gone, {rest} left", file=self._file, flush=True)
        return None
