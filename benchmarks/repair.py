"""Does the repair of a finding help where class and cause are independent, and what does it cost?

For every learnt plant whose cause can stand beside any class, and which the audit found: a test set drawn anew with as
many pictures of the class and of others, with the cause and without. The gap is how far the worst of these groups lies
below the accuracy where re-rendering has taken the cause out of all pictures. A repair chosen by the finding alone (its
latents, its word) closes some of it; the cost is average accuracy on the same set.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from planted import learnt_plants
from results import write_results

import clipattr as ca
from clipattr_data.build import STUDIES
from clipattr_data.labelled import APART, balanced, write
from clipattr_data.truth import UNSEEN, Truth, judge
from clipattr_data.world import Plant, World

WORTH = 0.02  # a smaller gap is not worth a repair, and is left out of the share closed
CHOSEN = 60  # scenes by which a finding is matched with its plant


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one study, fewer pictures")
    arguments = parser.parse_args()
    begun = time.perf_counter()
    studies = dict(list(STUDIES.items())[:1]) if arguments.quick else STUDIES
    rows = [
        row
        for study, world in studies.items()
        for row in repaired(ca.open_study(study), World.open(world), 20 if arguments.quick else 100)
    ]
    worth = [row for row in rows if row["gap"] > WORTH]
    gaps, gains = (np.array([row[name] for row in worth]) for name in ("gap", "gain"))
    costs = np.array([row["cost"] for row in rows])
    figures = {
        "plants": len(rows),
        "plants_with_gap": len(worth),
        "gap_worst_group": float(gaps.mean()),
        "gap_closed": float(gains.sum() / gaps.sum()),
        "gap_half_closed": float((gains >= gaps / 2).mean()),
        "cost_average": float(costs.mean()),
        "cost_average_most": float(costs.max()),
        "seconds": time.perf_counter() - begun,
    }
    for name, value in figures.items():
        print(f"{name:20} {value:.3f}")
    write_results("repair", figures, rows, quick=arguments.quick)


def repaired(study: ca.Study, world: World, n: int) -> list[dict[str, Any]]:
    """One row for each learnt plant of a study that the audit found, over `n` pictures a group."""
    learnt = [plant for plant in learnt_plants(study, world) if plant.kind in APART]
    findings = ca.audit(study, progress=False)
    truth = Truth(study.model, study.dictionary, world, pictures=500)
    wanted = [finding for finding in findings if finding.prompt in {plant.prompt for plant in learnt}]
    found: dict[Plant, tuple[float, ca.Finding]] = {}
    for finding, verdict in zip(wanted, judge(truth, wanted, learnt, CHOSEN), strict=True):
        # Where several findings of a prompt lose strength without the cause, the one that loses most speaks of it.
        if verdict.plant is not None and verdict.kept < found.get(verdict.plant, (1.0, finding))[0]:
            found[verdict.plant] = verdict.kept, finding
    rows = []
    for plant, (_, finding) in found.items():
        made = measured(study, finding, tested(world, plant, n), plant)
        rows.append(
            {"study": study.path.name, "kind": plant.kind, "prompt": plant.prompt, "cause": plant.cause}
            | made
        )
        told = (f"{name} {value:+.3f}" for name, value in made.items())
        print(f"{plant.kind:11} {plant.prompt:12} ← {plant.cause:12} {', '.join(told)}", flush=True)
    return rows


def tested(world: World, plant: Plant, n: int) -> ca.Images:
    """The balanced test set of one plant, of scenes that served nothing else."""
    with tempfile.TemporaryDirectory() as folder:
        rows = balanced(world, n, [plant], first=UNSEEN)
        return ca.Images.open(f"scenes:{write(rows, Path(folder) / 'balanced.jsonl')}")


def measured(study: ca.Study, finding: ca.Finding, images: ca.Images, plant: Plant) -> dict[str, float]:
    """Worst group and average before and after, raw shares; `gap` to the accuracy without the cause."""
    result = ca.repair(study, finding).evaluate(images)
    group = np.array(images.columns["group"])[result.which.numpy()]
    right = result.correct.double().numpy()
    by_group = np.stack([right[group == name].mean(0) for name in sorted(set(group))])
    neutral = right[[not name.endswith(f"with {plant.cause}") for name in group], 0].mean()
    worst, average = by_group.min(0), by_group.mean(0)
    return {
        "worst": worst[0],
        "worst_after": worst[1],
        "neutralised": float(neutral),
        "gap": neutral - worst[0],
        "gain": worst[1] - worst[0],
        "cost": average[0] - average[1],
    }


if __name__ == "__main__":
    torch.set_num_threads(2)
    main()
