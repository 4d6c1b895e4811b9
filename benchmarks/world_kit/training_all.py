"""Trains the models of all worlds beside each other and packs them. Start at `train_all`.

Nulls and twins take a fixed number of steps, so that a pair of twins differs in its pictures alone; the others take as
many as the time allows, up to their limit.
"""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .families import names
from .packing import pack

# What a training's name contains: steps at most, and the share of the time after which it ends whatever its steps.
# Web captions are learnt in under a million pictures; longer, the objects alone would do and shortcuts fade.
LIMITS = {"evaluator": (14_000, 1.0), "rendered": (1_400, 0.93), "photos": (2_200, 0.93)}
FINISHING = 40.0  # seconds kept for measuring, saving and packing


def limits_of(name: str) -> tuple[int, float]:
    """Steps and share of the time of a world's training."""
    return next(value for key, value in LIMITS.items() if key in name)


def train_all(
    script: Path,
    photos: Path,
    out: Path,
    *,
    device: str,
    seconds: float,
    jobs: int,
    part: str = "",
    batch: int = 512,
    scale: float = 1.0,
    extra: list[str] | None = None,
) -> None:
    """Train every world's model with `script`, then pack what is finished.

    Args:
        script: the command line of these worlds.
        photos: the folder of photographs.
        out: `models/NAME`, `logs/NAME.log` and `packed/` are written here.
        device: of all trainings.
        seconds: for everything together.
        jobs: trainings at a time; with fewer than there are worlds, each gets its part of the time.
        part: worlds whose names hold this.
        batch: pictures a step.
        scale: of all numbers of steps.
        extra: further arguments of each training.
    """
    start = time.time()
    worlds = sorted(
        (name for name in names() if part in name), key=lambda name: ("evaluator" not in name, name)
    )
    rounds = -(-len(worlds) // jobs)
    budget = (seconds - FINISHING) / rounds
    (out / "logs").mkdir(parents=True, exist_ok=True)

    def run(name: str) -> str:
        steps, share = limits_of(name)
        begun = time.time() if rounds > 1 else start
        command = [
            *(sys.executable, str(script), "train", name, "--photos", str(photos), "--device", device),
            *("--out", str(out / "models" / name), "--steps", str(max(2, round(steps * scale)))),
            *("--until", f"{begun + budget * share:.0f}", "--batch", str(batch)),
            *("--workers", "3" if "evaluator" in name and jobs > 8 else "1"),
            *(extra or []),
        ]
        with (out / "logs" / f"{name}.log").open("w") as log:
            try:
                limit = budget + FINISHING / 2
                done = subprocess.run(
                    command, stdout=log, stderr=subprocess.STDOUT, timeout=limit, check=False
                )
                state = f"exit status {done.returncode}"
            except subprocess.TimeoutExpired:
                state = f"stopped after {limit:.0f} s"
        tail = (out / "logs" / f"{name}.log").read_text(errors="replace").strip().splitlines()[-1:]
        return f"{time.time() - start:5.0f} s  {name}: {state}; {' '.join(tail)[:300]}"

    with ThreadPoolExecutor(jobs) as pool:
        for line in pool.map(run, worlds):
            print(line, flush=True)
    for name, size in pack(out / "models", out / "packed"):
        print(f"{name}: {size / 2**20:.2f} MiB", flush=True)
    print(f"everything in {time.time() - start:.0f} s", flush=True)
