"""Faults and hostile input in numbers: hundreds of randomly timed faults, thousands of fuzz cases.

    python benchmarks/faults.py [--quick] [--faults N] [--cases N] [--seed S] [--minutes M]

Every fault is followed by the same call again, whose result must be the undisturbed one byte for byte. Every fuzz case
must end with a value or a documented error. A failure is printed with the seed that repeats it, and the exit status
is 1. With --minutes it stops after so long, and the same call goes on; what was done is kept in out/.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from results import write_results

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests" / "faults"), str(ROOT / "tests" / "hostile")]
CASES = 250  # fuzz cases in one go
RAY_FAULTS = ("worker killed", "worker stopped for a while", "cancelled cell")
RAY_SHARE = 9  # one fault in so many is under Ray


class Progress:
    """Finished pieces, one line each, from which another call continues."""

    def __init__(self, file: Path, minutes: float | None) -> None:
        self.file, self.behind = file, None if minutes is None else time.monotonic() + 60 * minutes
        self.done: dict[str, dict[str, Any]] = {}
        if file.exists():
            for line in file.read_text().splitlines():
                with contextlib.suppress(ValueError):
                    self.done.update(json.loads(line))

    @property
    def time_is_up(self) -> bool:
        return self.behind is not None and time.monotonic() > self.behind

    def note(self, name: str, row: dict[str, Any]) -> None:
        self.done[name] = row
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("a") as out:
            out.write(json.dumps({name: row}) + "\n")


def planned(faults: int, cases: int, seed: int) -> Iterator[tuple[str, str, str, int]]:
    """(what, verb or parser, fault or nothing, seed) of every piece."""
    import fuzz
    import jobs

    pairs = [(verb, fault) for fault in jobs.FAULTS for verb in jobs.VERBS]
    ray = [(verb, fault) for fault in RAY_FAULTS for verb in ("study", "encode")]
    for number in range(faults):
        under_ray = number % RAY_SHARE == 0
        earlier = -(-number // RAY_SHARE)  # under Ray
        some = ray[earlier % len(ray)] if under_ray else pairs[(number - earlier) % len(pairs)]
        yield ("Ray" if under_ray else "fault", *some, seed + number)
    names = list(fuzz.parsers()) if cases else []
    for number in range(-(-cases // (CASES * max(1, len(names)))) if cases else 0):
        for name in names:
            yield "parser", name, "", seed + number


class Undisturbed:
    """The folder in which faults happen, and the results of each verb without a fault."""

    def __init__(self, root: Path) -> None:
        import jobs

        self.root = root
        jobs.prepare(root)
        jobs.run("encode", root, root / "warm")
        self.results: dict[str, tuple[dict[str, str], float]] = {}
        for verb in jobs.VERBS:
            (root / f"{verb}-good").mkdir()
            begun = time.perf_counter()
            status, text = jobs.run(verb, root, root / f"{verb}-good" / "out")
            if status != jobs.DONE:
                raise SystemExit(f"{verb} fails undisturbed: {text}")
            self.results[verb] = jobs.digests(root / f"{verb}-good" / "out"), time.perf_counter() - begun
            print(f"{verb}: {self.results[verb][1]:.2f} s, {len(self.results[verb][0])} files", flush=True)

    def survives(self, verb: str, fault: str, seed: int) -> str:
        import jobs

        return str(jobs.survives(verb, fault, self.root, *self.results[verb], seed))


class Cluster:
    """Two Ray workers, one of which gets the fault."""

    def __init__(self, undisturbed: Undisturbed) -> None:
        from clipattr.execution.ray import Ray

        self.undisturbed, self.engine = undisturbed, Ray(workers=2)
        self.seconds: dict[str, float] = {}
        for verb in ("study", "encode", "study", "encode"):  # the first time, workers import what they need
            begun = time.perf_counter()
            self.run(verb, undisturbed.root / "ray-warm")
            self.seconds[verb] = time.perf_counter() - begun
            shutil.rmtree(undisturbed.root / "ray-warm")

    def run(self, verb: str, out: Path) -> None:
        import jobs

        jobs.JOBS[verb](self.undisturbed.root, out, engine=self.engine)

    def survives(self, verb: str, fault: str, seed: int) -> str:
        """As `jobs.survives`."""
        import jobs

        chance = random.Random(seed)
        place = self.undisturbed.root / f"ray-{seed}"
        place.mkdir()
        timer = threading.Timer(chance.random() * self.seconds[verb], self._strike, [fault, chance])
        try:
            timer.start()
            with contextlib.suppress(KeyboardInterrupt):
                self.run(verb, place / "out")
            with contextlib.suppress(KeyboardInterrupt):  # it may happen late
                timer.cancel()
                timer.join()
                time.sleep(0.01)
            self.run(verb, place / "out")
            found, reference = jobs.digests(place / "out"), self.undisturbed.results[verb][0]
            wrong = [
                name for name in found.keys() | reference.keys() if found.get(name) != reference.get(name)
            ]
            if wrong:
                raise AssertionError(wrong)
            return ""
        finally:
            timer.cancel()
            shutil.rmtree(place, ignore_errors=True)

    def _strike(self, fault: str, chance: random.Random) -> None:
        import psutil

        if fault == "cancelled cell":
            os.kill(os.getpid(), signal.SIGINT)
            return
        titles = {
            process: " ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])
        }
        # Not Ray's own agents, which have such titles too: a machine without them leaves the cluster.
        workers = [
            process for process, title in titles.items() if title.startswith("ray::") and "Agent" not in title
        ]
        for process in chance.sample(workers, min(1, len(workers))):
            with contextlib.suppress(psutil.Error):
                if fault == "worker killed":
                    process.kill()
                else:
                    process.suspend()
                    time.sleep(chance.uniform(0.2, 2))
                    process.resume()


def fed(name: str, seed: int) -> dict[str, Any]:
    """Feed one parser."""
    import fuzz
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import seed as seeded

    strategy, function = fuzz.parsers()[name]
    crashes: Counter[str] = Counter()
    done = [0]

    def case(value: Any) -> None:
        done[0] += 1
        try:
            fuzz.attempt(function, value, place)
        except Exception as error:
            kind = f"{type(error).__name__}: {str(error)[:60]}"
            if kind not in crashes:
                print(f"CRASH: {name}, seed {seed}: {kind}\n  {value!r:.300}", flush=True)
                traceback.print_exc(limit=-3)
            crashes[kind] += 1

    limits = settings(
        max_examples=CASES, deadline=None, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        try:
            seeded(seed)(limits(given(strategy)(case)))()
        finally:
            os.chdir(here)
    return {"parser": name, "cases": done[0], "crashes": len(crashes)}


def work(pieces: list[tuple[str, str, str, int]], progress: Progress) -> None:
    """Work on the remaining pieces until the end or until time is up."""
    left = [piece for piece in pieces if "/".join(map(str, piece)) not in progress.done]
    with tempfile.TemporaryDirectory() as place:
        undisturbed: Undisturbed | None = None
        cluster: Cluster | None = None
        for what, name, fault, seed in sorted(left, key=lambda piece: piece[0] == "Ray"):
            if progress.time_is_up:
                return
            if what == "parser":
                row = fed(name, seed)
            else:
                undisturbed = undisturbed or Undisturbed(Path(place))
                cluster = cluster or (Cluster(undisturbed) if what == "Ray" else None)
                row = {"verb": f"{name} by Ray" if what == "Ray" else name, "fault": fault}
                try:
                    worlds: Any = cluster if what == "Ray" else undisturbed
                    row["end"] = "asked" if worlds.survives(name, fault, seed) else "mended"
                except Exception:
                    row["end"] = "lost"
                    print(f"LOST: {what}, {name}, {fault}, seed {seed}", flush=True)
                    traceback.print_exc(limit=-2)
            progress.note("/".join(map(str, (what, name, fault, seed))), row)
        if cluster is not None:
            cluster.engine.close()


def tables(rows: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Faults by verb and kind with how they ended; fuzz cases by parser."""
    ends = Counter((row["verb"], row["fault"], row["end"]) for row in rows if "verb" in row)
    disturbed = [
        {"verb": verb, "fault": fault, **{end: ends[verb, fault, end] for end in ("mended", "asked", "lost")}}
        for verb, fault in sorted({key[:2] for key in ends})
    ]
    names = dict.fromkeys(row["parser"] for row in rows if "parser" in row)
    parsed = [
        {
            "parser": name,
            **{
                key: sum(row[key] for row in rows if row.get("parser") == name)
                for key in ("cases", "crashes")
            },
        }
        for name in names
    ]
    return disturbed, parsed


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--quick", action="store_true")
    arguments.add_argument("--faults", type=int)
    arguments.add_argument("--cases", type=int)
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--minutes", type=float)
    given = arguments.parse_args()
    n_faults = given.faults if given.faults is not None else 216 if given.quick else 270
    n_cases = given.cases if given.cases is not None else 10_800 if given.quick else 12_000
    file = ROOT / "out" / f"faults-{n_faults}-{n_cases}-{given.seed}.jsonl"
    if given.minutes is None:
        file.unlink(missing_ok=True)
    pieces = list(planned(n_faults, n_cases, given.seed))
    progress = Progress(file, given.minutes)
    work(pieces, progress)
    left = len(pieces) - len(progress.done)
    if left:
        print(f"{len(progress.done)} of {len(pieces)} pieces done; the same call goes on")
        return 2
    disturbed, parsed = tables(list(progress.done.values()))
    figures = {
        "faults": sum(row[end] for row in disturbed for end in ("mended", "asked", "lost")),
        "faults_asked": sum(row["asked"] for row in disturbed),
        "faults_lost": sum(row["lost"] for row in disturbed),
        "fuzz_cases": sum(row["cases"] for row in parsed),
        "fuzz_crashes": sum(row["crashes"] for row in parsed),
    }
    for row in disturbed:
        print(f"{row['verb']:>14}  {row['fault']:<26} mended {row['mended']:>3}  asked {row['asked']:>3}  "
              f"lost {row['lost']:>3}")  # fmt: skip
    for row in parsed:
        print(f"{row['parser']:>20}  cases {row['cases']:>5}  kinds of crash {row['crashes']}")
    print(figures)
    write_results("faults", figures, [*disturbed, *parsed], quick=given.quick)
    file.unlink(missing_ok=True)
    return int(bool(figures["faults_lost"] or figures["fuzz_crashes"]))


if __name__ == "__main__":
    sys.exit(main())
