"""Faults and hostile input in numbers: hundreds of randomly timed faults, thousands of fuzz cases.

    python benchmarks/faults.py [--quick] [--faults N] [--cases N] [--seed S]

Every fault is followed by the same call again, whose result must be the undisturbed one byte for byte. Every fuzz case
must end with a value or a documented error. A failure is printed with the seed that repeats it, and the exit status
is 1.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

from results import write_results

TESTS = Path(__file__).parents[1] / "tests"
sys.path[:0] = [str(TESTS / "faults"), str(TESTS / "hostile")]


def faults(count: int, seed: int) -> list[dict[str, object]]:
    """One row per verb and fault: how many, how many lost or corrupted something, how many had to be asked about."""
    import jobs

    rows: Counter[tuple[str, str, str]] = Counter()
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        jobs.prepare(root)
        jobs.run("codes", root, root / "warm")
        reference = {}
        for verb in jobs.VERBS:
            (root / f"{verb}-good").mkdir()
            begun = time.perf_counter()
            status, text = jobs.run(verb, root, root / f"{verb}-good" / "out")
            if status != jobs.DONE:
                raise SystemExit(f"{verb} fails undisturbed: {text}")
            reference[verb] = (jobs.digests(root / f"{verb}-good" / "out"), time.perf_counter() - begun)
            print(
                f"{verb}: {reference[verb][1]:.2f} s undisturbed, {len(reference[verb][0])} files", flush=True
            )
        pairs = [(verb, fault) for fault in jobs.FAULTS for verb in jobs.VERBS]
        for number in range(count):
            verb, fault = pairs[number % len(pairs)]
            try:
                text = jobs.survives(verb, fault, root, *reference[verb], seed + number)
                rows[verb, fault, "asked" if text else "mended"] += 1
            except Exception:
                rows[verb, fault, "lost"] += 1
                print(f"LOST: {verb}, {fault}, seed {seed + number}", flush=True)
                traceback.print_exc(limit=-2)
    return [
        {"verb": verb, "fault": fault, **{end: rows[verb, fault, end] for end in ("mended", "asked", "lost")}}
        for verb, fault in sorted({key[:2] for key in rows})
    ]


def cases(count: int, seed: int) -> list[dict[str, object]]:
    """One row per parser: cases, and how many kinds of end other than a value or a documented error."""
    import fuzz

    rows: list[dict[str, object]] = []
    parsers = fuzz.parsers()
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        for name, (strategy, function) in parsers.items():
            done, crashes = fed(name, strategy, function, -(-count // len(parsers)), seed, place)
            rows.append({"parser": name, "cases": done, "crashes": crashes})
            print(f"{name}: {done} cases, {crashes} kinds of crash", flush=True)
        os.chdir("/")
    return rows


def fed(name: str, strategy: Any, function: Any, count: int, seed: int, place: str) -> tuple[int, int]:
    """Feed one parser; (cases, kinds of crash)."""
    import fuzz
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import seed as seeded

    crashes: dict[str, int] = {}
    done = [0]

    def case(value):
        done[0] += 1
        try:
            fuzz.attempt(function, value, place)
        except Exception as error:
            kind = f"{type(error).__name__}: {str(error)[:60]}"
            if kind not in crashes:
                print(f"CRASH: {name}: {kind}\n  {value!r:.300}", flush=True)
                traceback.print_exc(limit=-3)
            crashes[kind] = crashes.get(kind, 0) + 1

    limits = settings(
        max_examples=count, deadline=None, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    seeded(seed)(limits(given(strategy)(case)))()
    return done[0], len(crashes)


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--quick", action="store_true")
    arguments.add_argument("--faults", type=int)
    arguments.add_argument("--cases", type=int)
    arguments.add_argument("--seed", type=int, default=1)
    given = arguments.parse_args()
    random.seed(given.seed)
    n_faults = given.faults if given.faults is not None else 56 if given.quick else 224
    n_cases = given.cases if given.cases is not None else 3_000 if given.quick else 12_000
    disturbed = faults(n_faults, given.seed) if n_faults else []
    parsed = cases(n_cases, given.seed) if n_cases else []
    figures = {
        "faults": sum(int(str(row[end])) for row in disturbed for end in ("mended", "asked", "lost")),
        "faults_asked": sum(int(str(row["asked"])) for row in disturbed),
        "faults_lost": sum(int(str(row["lost"])) for row in disturbed),
        "fuzz_cases": sum(int(str(row["cases"])) for row in parsed),
        "fuzz_crashes": sum(int(str(row["crashes"])) for row in parsed),
    }
    for row in disturbed:
        print(f"{row['verb']:>8}  {row['fault']:<20} mended {row['mended']:>3}  asked {row['asked']:>3}  "
              f"lost {row['lost']:>3}")  # fmt: skip
    print(figures)
    write_results("faults", figures, [*disturbed, *parsed], quick=given.quick)
    return int(bool(figures["faults_lost"] or figures["fuzz_crashes"]))


if __name__ == "__main__":
    sys.exit(main())
