"""A reproduction's estimate against what it took, and whether it ends with the same bytes after being killed.

    python benchmarks/reproduction.py [--quick] [--photos FOLDER --models A,B --evaluator NAME] [--cpu] [--kills N]

The plan is made first, then everything is run: on the bundled models in the quick form, and with `--photos` on a folder
of photographs with other models. `measured_over_planned_*` is 1 for a right estimate. With `--cpu` both count processor
time, for a machine on which other jobs run. A small reproduction is killed (SIGKILL) at random moments, continued
each time, and compared byte by byte with an undisturbed one. `--quick` takes two experiments and three kills.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from results import FOLDER, write_results

BUNDLED: dict[str, Any] = {
    "models": ["picture-world-a", "picture-world-b"], "images": "picture-world",
    "evaluator": "picture-world-evaluator", "vocabulary": "picture-world",
}  # fmt: skip
SMALL = {
    "pictures": 120, "prompts": 3, "n_latents": 24, "k": 4, "epochs": 2, "budget": 8, "faithful_pictures": 6,
    "faithful_masks": 2, "spurious_classes": 2, "spurious_pictures": 40, "spurious_seeds": 1, "verified": 1, "truth": 2,
}  # fmt: skip
LATEST = 0.9  # share of the undisturbed duration up to which a run is killed
AFRESH = (
    0.7  # probability that a run that ended between two kills starts from nothing, not from a missing piece
)
RESULTS = ("index.html", "about.json", "experiments", "pieces")


def estimated(name: str, asked: dict[str, Any]) -> list[dict[str, Any]]:
    """One row an experiment: seconds planned and measured."""
    import clipattr as ca
    from clipattr.storage.documents import read_json

    with tempfile.TemporaryDirectory() as out:
        plan = ca.reproduce("paper", out=out, plan=True, progress=False, **asked)
        ca.reproduce("paper", out=out, progress=False, **asked)
        found = {row["experiment"]: row for row in read_json(Path(out) / "times.json")["experiments"]}
    units = dict(zip(plan.frame["experiment"], plan.frame["units"], strict=True))
    return [
        {"case": name, "units": int(units[row["experiment"]]), **row}
        for row in found.values()
        if row["planned"] is not None
    ]


def with_updates(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows with the estimate as it stood when each experiment began, which follows from the rows before it."""
    from clipattr.reproduction.times import pace_of

    made: list[dict[str, Any]] = []
    for row in rows:
        before = [r["measured_over_planned"] for r in made if r["case"] == row["case"]]
        updated = None if row["experiment"] == "studies" else row["planned"] * pace_of(before)
        made.append({**row, "updated": row.get("updated") or updated})
    return made


def figures_of(rows: list[dict[str, Any]]) -> dict[str, float]:
    """The ratio of the totals of each case, and the share of experiments within a factor of 1.5 and 2."""
    figures = {}
    for name in dict.fromkeys(row["case"] for row in rows):
        mine = [row for row in rows if row["case"] == name]
        total = sum(row["measured"] for row in mine) / sum(row["planned"] for row in mine)
        figures[f"measured_over_planned_{name}"] = total
    ratios = [row["measured_over_planned"] for row in rows if row["measured_over_planned"]]
    updated = [row["measured"] / row["updated"] for row in rows if row.get("updated")]
    for name, some in (("experiments", ratios), ("updated", updated)):
        for factor in (1.5, 2.0) if some else ():
            inside = sum(1 / factor <= ratio <= factor for ratio in some)
            figures[f"{name}_within_{factor:g}"] = inside / len(some)
    return figures


def contents(folder: Path) -> dict[str, bytes]:
    """Bytes of all results."""
    files = [
        file for name in RESULTS for file in ([folder / name] if "." in name else (folder / name).glob("*"))
    ]
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in sorted(files)}


def small(out: Path) -> None:
    """A whole reproduction of a few pictures."""
    import clipattr as ca

    asked = BUNDLED | {"models": BUNDLED["models"][:1]}
    ca.reproduce("paper", out=out, progress=False, form="quick", sizes=SMALL, command="small", **asked)


def killed_after(seconds: float, out: Path) -> bool:
    """Run `small` in a process of its own and kill it after so long; whether it was killed before it ended."""
    child = os.fork()
    if child == 0:
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
        try:
            small(out)
        finally:
            os._exit(0)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if os.waitpid(child, os.WNOHANG)[0]:
            return False
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True


def earlier() -> dict[str, float]:
    """The figures of the kills in the stored result."""
    stored = json.loads((FOLDER / "reproduction.json").read_text("utf-8"))["figures"]
    return {name: stored[name] for name in ("kills", "files_that_differ")}


def disturbed(kills: int, seed: int) -> dict[str, float]:
    """Number of kills, and of files that differ at the end from those of an undisturbed run."""
    draws = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        whole, out = Path(folder) / "whole", Path(folder) / "out"
        begun = time.monotonic()
        killed_after(1e9, whole)
        usual = time.monotonic() - begun
        expected, done, ended = contents(whole), 0, 0
        while done < kills:
            if killed_after(draws.uniform(0.0, LATEST * usual), out):
                done += 1
                continue
            ended += 1
            # It ended: something must be missing for the next kill, everything or one piece.
            if draws.random() < AFRESH:
                shutil.rmtree(out)
            else:
                draws.choice(sorted((out / "pieces").glob("*.json"))).unlink()
        killed_after(1e9, out)
        found = contents(out)
    lost = sum(expected.get(name) != found.get(name) for name in expected.keys() | found.keys())
    print(f"{done} kills, {ended} runs that ended between them, {lost} files that differ")
    return {"kills": done, "files_that_differ": lost}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--photos", help="a folder of photographs, one folder a class")
    parser.add_argument("--models", help="references separated by commas, for the photographs")
    parser.add_argument("--evaluator")
    parser.add_argument("--cpu", action="store_true", help="count processor time")
    parser.add_argument("--kills", type=int, help="0 keeps the result of an earlier run")
    given = parser.parse_args()
    if given.cpu:
        from clipattr.reproduction import times

        times.time = SimpleNamespace(perf_counter=time.process_time)  # type: ignore[attr-defined]
    asked = BUNDLED | {"form": "quick", "lesions": "lesions"}
    if given.quick:
        asked |= {"sizes": SMALL, "only": ["faithfulness", "null"], "lesions": None}
    # The kills first: a process that has started threads must not be forked.
    kills = given.kills if given.kills is not None else 3 if given.quick else 50
    figures = disturbed(kills, 0) if kills else earlier()
    rows = estimated("bundled", asked)
    if given.photos:
        photographs = {
            "models": given.models,
            "images": given.photos,
            "vocabulary": "general",
            "form": "quick",
        }
        rows += estimated("photographs", photographs | {"evaluator": given.evaluator})
    rows = with_updates(rows)
    for row in rows:
        print(f"{row['case']:12} {row['experiment']:14} planned {row['planned']:7.1f}  "
              f"measured {row['measured']:7.1f}  ratio {row['measured_over_planned'] or 0:.2f}")  # fmt: skip
    figures |= figures_of(rows)
    for name, value in figures.items():
        print(f"{name:36} {value:.3f}")
    write_results("reproduction", figures, rows, quick=given.quick)
    return int(figures["files_that_differ"] > 0)


if __name__ == "__main__":
    sys.exit(main())
