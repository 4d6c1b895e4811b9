"""A reproduction's estimate against what it took, and whether it ends with the same bytes after being killed.

    python benchmarks/reproduction.py [--quick] [--kills N] [--photos FOLDER --models A,B --evaluator NAME]
        [--worlds FOLDER --world NAME,NAME]

A plan and the run are made one after the other, each in a process of its own: on two bundled models on which the plan
was chosen, and, reported apart, on two others, with `--photos` on a folder of photographs, and with `--world` on models
and pictures that `benchmarks/worlds.py` made. Ratios are of measured over planned processor time, which other jobs on
the machine change less than wall time; rows hold both. A small reproduction is killed (SIGKILL) at random moments,
continued each time, and compared byte by byte with an undisturbed one. `--quick` takes two experiments and three kills.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from results import FOLDER, write_results

BUNDLED: dict[str, Any] = {
    "models": ["picture-world-a", "picture-world-b"], "images": "picture-world",
    "evaluator": "picture-world-evaluator", "vocabulary": "picture-world",
}  # fmt: skip
CHOSEN = "bundled"  # the case on which the plan's constants were chosen
OTHERS = ["picture-world-c", "picture-world-null"]
SMALL = {
    "pictures": 120, "prompts": 3, "n_latents": 24, "k": 4, "epochs": 2, "budget": 8, "faithful_pictures": 6,
    "faithful_masks": 2, "spurious_classes": 2, "spurious_pictures": 40, "spurious_seeds": 1, "verified": 1, "truth": 2,
}  # fmt: skip
LATEST = 0.9  # share of the undisturbed duration up to which a run is killed
AFRESH = (
    0.7  # probability that a run that ended between two kills starts from nothing, not from a missing piece
)
RESULTS = ("index.html", "about.json", "experiments", "pieces")


def called(asked: dict[str, Any]) -> None:
    """A plan or a run, in a process of its own."""
    import clipattr as ca

    ca.reproduce("paper", progress=False, **asked)


def estimated(name: str, asked: dict[str, Any]) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """One row an experiment with what was planned and measured, and the pilot's share of the processor time."""
    from clipattr.storage.documents import read_json

    processes = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as out:
        for plan in (True, False):
            process = processes.Process(target=called, args=({**asked, "out": out, "plan": plan},))
            process.start()
            process.join()
            if process.exitcode:
                raise SystemExit(f"{name}: the {'plan' if plan else 'run'} failed")
        plan, found = read_json(Path(out) / "plan.json"), read_json(Path(out) / "times.json")["experiments"]
    units = {row["experiment"]: row["units"] for row in plan["experiments"]}
    rows = [
        {"case": name, "units": int(units[row["experiment"]]), **row}
        for row in found
        if row["planned"] is not None
    ]
    took = sum(row["processor_measured"] for row in found)
    return rows, {f"pilot_share_{name}": plan["pilot_processor_seconds"] / took}


def figures_of(rows: list[dict[str, Any]]) -> dict[str, float]:
    """The ratio of the totals of each case, and the share of estimates within a factor of 1.5 and 2.

    Shares are over the cases on which nothing was chosen: before the start, and as each experiment began (wall time).
    """
    figures = {}
    for name in dict.fromkeys(row["case"] for row in rows):
        mine = [row for row in rows if row["case"] == name]
        for clock, told in (("processor_", ""), ("", "wall_")):
            total = sum(row[f"{clock}measured"] for row in mine) / sum(row[f"{clock}planned"] for row in mine)
            figures[f"{told}measured_over_planned_{name}"] = total
        figures[f"within_1.5_{name}"] = within(mine, 1.5)
    reported = [row for row in rows if row["case"] != CHOSEN] or rows
    figures |= {f"experiments_within_{factor:g}": within(reported, factor) for factor in (1.5, 2.0)}
    updated = [
        {"processor_measured": 1.0, "processor_measured_over_planned": row["measured"] / row["updated"]}
        for row in reported
        if row.get("updated")
    ]
    if updated:
        figures["updated_within_1.5"] = within(updated, 1.5)
    seconds = sum(row["processor_measured"] for row in reported)
    close = sum(row["processor_measured"] for row in reported if within([row], 1.5))
    return figures | {"time_within_1.5": close / seconds}


def within(rows: list[dict[str, Any]], factor: float) -> float:
    """Share of rows whose processor time is within a factor of the estimate; of those that have one."""
    ratios = [row["processor_measured_over_planned"] for row in rows]
    known = [ratio for ratio in ratios if ratio]
    return sum(1 / factor <= ratio <= factor for ratio in known) / max(len(known), 1)


def of_world(folder: Path, names: list[str]) -> dict[str, Any]:
    """What `reproduce` is asked for models of foreign worlds; pictures and words are the first one's."""
    pictures, models = folder / "pictures" / names[0], f"local-dir:{folder}/models/"
    prompts = (pictures / "prompts.txt").read_text("utf-8").split("\n")
    return {
        "models": [models + name for name in names], "images": str(pictures / "images"),
        "evaluator": models + names[0].partition("-")[0] + "-evaluator",
        "vocabulary": str(pictures / "vocabulary.txt"), "prompts": [each for each in prompts if each],
        "form": "quick",
    }  # fmt: skip


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
    parser.add_argument("--worlds", help="the folder of `benchmarks/worlds.py`")
    parser.add_argument("--world", help="names of its models of one kind, separated by commas")
    parser.add_argument("--kills", type=int, help="0 keeps the result of an earlier run")
    given = parser.parse_args()
    asked = BUNDLED | {"form": "quick", "lesions": "lesions"}
    if given.quick:
        asked |= {"sizes": SMALL, "only": ["faithfulness", "null"], "lesions": None}
    # The kills first: a process that has started threads must not be forked.
    kills = given.kills if given.kills is not None else 3 if given.quick else 50
    figures = disturbed(kills, 0) if kills else earlier()
    cases = {CHOSEN: asked, "other_bundled": asked | {"models": OTHERS}}
    if given.photos:
        cases["photographs"] = {
            "models": given.models, "images": given.photos, "evaluator": given.evaluator, "vocabulary": "general",
            "form": "quick",
        }  # fmt: skip
    if given.world:
        cases["foreign_world"] = of_world(Path(given.worlds), given.world.split(","))
    rows: list[dict[str, Any]] = []
    for name, case in cases.items():
        found, share = estimated(name, case)
        rows, figures = rows + found, figures | share
        for row in found:
            print(f"{row['case']:14} {row['experiment']:14} planned {row['processor_planned']:7.1f}  measured "
                  f"{row['processor_measured']:7.1f}  ratio {row['processor_measured_over_planned'] or 0:.2f}  (wall "
                  f"{row['measured_over_planned'] or 0:.2f})", flush=True)  # fmt: skip
        # After each case, as a later one may be interrupted.
        figures |= figures_of(rows)
        write_results("reproduction", figures, rows, quick=given.quick)
    for name, value in figures.items():
        print(f"{name:36} {value:.3f}")
    return int(figures["files_that_differ"] > 0)


if __name__ == "__main__":
    sys.exit(main())
