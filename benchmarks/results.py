"""Writes the measurements of a benchmark in the common format."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "results"
PACKAGES = ("clipattr", "torch", "open_clip_torch", "numpy")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _commit() -> str:
    try:
        found = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"],
            cwd=FOLDER.parent,
            capture_output=True,
            text=True,
            check=True,
        )
        return found.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _version(package: str) -> str:
    """The installed version; the checkout's own where clipattr runs without being installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return str(getattr(import_module(package), "__version__", "unknown"))


def about() -> dict[str, Any]:
    """Machine, versions and commit of a measurement."""
    import torch

    return {
        "machine": {
            "processor": _processor(),
            "threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "python": sys.version.split()[0],
            "system": platform.system(),
        },
        "versions": {package: _version(package) for package in PACKAGES},
        "commit": _commit(),
    }


def write_results(
    name: str, figures: Mapping[str, float], rows: Sequence[Mapping[str, Any]], *, quick: bool = False
) -> Path:
    """Write `results/NAME.json` (`NAME.quick.json` for a quick run, which is never committed)."""
    content = {
        **about(),
        "figures": dict(figures),
        "rows": list(rows),
    }
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / (f"{name}.quick.json" if quick else f"{name}.json")
    path.write_text(json.dumps(content, indent=2, default=float) + "\n", encoding="utf-8")
    return path
