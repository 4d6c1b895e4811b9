"""Peak memory of the calling process, for benchmarks that measure in a child process."""

from __future__ import annotations

import resource
import threading
from pathlib import Path


def peak_mb() -> float:
    """Peak memory of this process, MiB.

    On Linux from its own address space: `ru_maxrss` of a child begins with what its parent held when it was started.
    """
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class Private:
    """Samples this process's own memory (not the files it maps) in a thread; `peak_mb` is the largest sample, MiB.

    >>> with Private() as private: ...
    """

    EVERY = 0.05  # seconds

    def __init__(self) -> None:
        self.peak_mb, self._done = 0.0, threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Private:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _sample(self) -> None:
        while True:
            try:
                lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
                held = next(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon"))
            except (OSError, StopIteration):
                held = peak_mb()
            self.peak_mb = max(self.peak_mb, held)
            if self._done.wait(self.EVERY):
                return
