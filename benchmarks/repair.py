"""Does the repair of a finding help where class and cause are independent, and what does it cost?

For every learnt plant whose cause can stand beside any class, and which the audit found: a test set drawn anew with as
many pictures of the class and of others, with the cause and without. The gap is how far the worst of these groups lies
below the accuracy where re-rendering has taken the cause out of all pictures. A repair chosen by the finding alone (its
latents, its word) closes some of it; the cost is average accuracy on the same set.

A repair of one prompt cannot change what other pictures are called when they are not called by that prompt.
`attainable` is therefore the gain of a classifier that never calls another picture by the prompt, or the whole gap
where the worst group is the prompt's own. `effect_cut` is the share of the prompt's response to the cause, in pictures
of other things, that is gone. All methods of `ca.repair` are measured side by side on the same pictures.
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
from clipattr.discovery.encoded import encoded
from clipattr_data.build import STUDIES
from clipattr_data.labelled import APART, balanced, write
from clipattr_data.truth import UNSEEN, Truth, judge
from clipattr_data.world import Plant, World

WORTH = 0.02  # a smaller gap is not worth a repair, and is left out of the share closed
METHODS = ("project", "latents", "combined", "refit", "measured")  # of `ca.repair`; the first is its default
CHOSEN = 60  # scenes by which a finding is matched with its plant


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one study, fewer pictures")
    parser.add_argument("--only", choices=list(STUDIES), help="one study, all pictures; nothing is written")
    arguments = parser.parse_args()
    begun = time.perf_counter()
    studies = dict(list(STUDIES.items())[:1]) if arguments.quick else STUDIES
    rows = [
        row
        for study, world in studies.items()
        if arguments.only in (None, study)
        for row in repaired(ca.open_study(study), World.open(world), 20 if arguments.quick else 100)
    ]
    worth = [row for row in rows if row["gap"] > WORTH]
    gaps, gains = (np.array([row[name] for row in worth]) for name in ("gap", "gain"))
    costs = np.array([row["cost"] for row in rows])
    figures = {
        **by_method(rows),
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
    write_results("repair", figures, rows, quick=arguments.quick or arguments.only is not None)


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
        told = (
            f"{name} {made[name]:+.3f}" for name in ("gap", "attainable", *(f"gain_{how}" for how in METHODS))
        )
        print(f"{plant.kind:11} {plant.prompt:12} ← {plant.cause:12} {', '.join(told)}", flush=True)
    return rows


def tested(world: World, plant: Plant, n: int) -> ca.Images:
    """The balanced test set of one plant, of scenes that served nothing else."""
    with tempfile.TemporaryDirectory() as folder:
        rows = balanced(world, n, [plant], first=UNSEEN)
        return ca.Images.open(f"scenes:{write(rows, Path(folder) / 'balanced.jsonl')}")


def by_method(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Per method: the share of the attainable gap that is closed, of the effect that is cut, and the costs."""
    figures: dict[str, float] = {}
    worth = [row for row in rows if row["attainable"] > WORTH]
    for how in METHODS:
        closed = sum(min(row[f"gain_{how}"], row["attainable"]) for row in worth)
        figures[f"attainable_closed_{how}"] = closed / sum(row["attainable"] for row in worth)
        left = sum(abs(row[f"effect_{how}"]) for row in rows) / sum(abs(row["effect"]) for row in rows)
        figures[f"effect_cut_{how}"] = 1 - left
        figures[f"cost_average_{how}"] = float(np.mean([row[f"cost_{how}"] for row in rows]))
        figures[f"cost_others_{how}"] = float(np.mean([row[f"cost_others_{how}"] for row in rows]))
        for kind in sorted({row["kind"] for row in rows}):
            some = [row for row in rows if row["kind"] == kind]
            left = sum(abs(row[f"effect_{how}"]) for row in some) / sum(abs(row["effect"]) for row in some)
            figures[f"effect_cut_{how}_{kind}"] = 1 - left
    return figures


def measured(study: ca.Study, finding: ca.Finding, images: ca.Images, plant: Plant) -> dict[str, float]:
    """Worst group and average before and after, raw shares; `gap` to the accuracy without the cause."""
    pictures = encoded(study, images)
    group = np.array(images.columns["group"])
    there = np.array([name.endswith(f" with {plant.cause}") for name in group])
    other = np.array([name.startswith("others ") for name in group])
    found: dict[str, float] = {}
    for how in METHODS:
        repair = ca.repair(study, finding, how=how)
        before, number = repair.before, repair.before.index(plant.prompt)
        truth = np.array([before.index(label) for label in images.columns["label"]])
        old = before.logits(pictures.embeddings).numpy()
        new = repair.classifier().logits(pictures.embeddings).numpy()
        first, last = (by_group(logits, truth, group) for logits in (old, new))
        if how == METHODS[0]:
            neutral = float((old.argmax(1) == truth)[~there].mean())
            name, worst = min(first.items(), key=lambda item: item[1])
            never = old.copy()
            never[other, number] = -np.inf
            own = not name.startswith("others ")
            gap = neutral - worst
            attainable = gap if own else min(gap, by_group(never, truth, group)[name] - worst)
            found |= {
                "worst": worst,
                "worst_after": min(last.values()),
                "neutralised": neutral,
                "gap": gap,
                "gain": min(last.values()) - worst,
                "cost": float(np.mean(list(first.values())) - np.mean(list(last.values()))),
                "attainable": attainable,
                "effect": response(old, number, there, other),
            }
        found |= {
            f"gain_{how}": min(last.values()) - found["worst"],
            f"effect_{how}": response(new, number, there, other),
            f"cost_{how}": float(np.mean(list(first.values())) - np.mean(list(last.values()))),
            f"cost_others_{how}": float(
                ((old.argmax(1) == truth) * 1.0 - (new.argmax(1) == truth))[other & ~there].mean()
            ),
        }
    return found


def by_group(logits: np.ndarray, truth: np.ndarray, group: np.ndarray) -> dict[str, float]:
    """Accuracy of every group."""
    right = logits.argmax(1) == truth
    return {name: float(right[group == name].mean()) for name in sorted(set(group))}


def response(logits: np.ndarray, number: int, there: np.ndarray, other: np.ndarray) -> float:
    """How far the prompt's contrast rises with the cause in pictures of other things, in logits."""
    rest = (logits.sum(1) - logits[:, number]) / (logits.shape[1] - 1)
    contrast = logits[:, number] - rest
    return float(contrast[other & there].mean() - contrast[other & ~there].mean())


if __name__ == "__main__":
    torch.set_num_threads(2)
    main()
