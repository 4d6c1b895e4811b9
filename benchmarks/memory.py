"""Peak memory of the process that asks, for benchmarks that measure in a child of their own."""

from __future__ import annotations

import resource
from pathlib import Path


def peak_mb() -> float:
    """MiB that this process has held at most.

    On Linux from its own address space: `ru_maxrss` of a child begins with what its parent held when it was started.
    """
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
