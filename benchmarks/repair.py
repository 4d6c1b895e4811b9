"""Repair of findings: gain where class and cause are independent, and cost.

For every learnt plant whose cause can stand beside any class: a newly drawn test set with as many pictures of the class
and of others, with the cause and without. The gap is how far the worst of these groups lies below the accuracy where
re-rendering has taken the cause out of all pictures. A repair chosen by the finding alone (its latents, its word)
closes some of it; the costs are accuracy on the same set, and on the study's held-out pictures.

A repair of one prompt cannot change what other pictures are called when they are not called by that prompt.
`attainable` is therefore the gap up to where the prompt is never called in other pictures. `effect_cut` is the share of
the prompt's response to the cause, in pictures of other objects, that is gone. Where the audit has no finding, latents
that fire for the cause take its place; figures that begin with `found_` leave these plants out. Intervals are 95 %, by
drawing plants again.

    python benchmarks/repair.py --part choose|report|second|third [--out FOLDER --photos PHOTOS --store FOLDER]
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np  # noqa: E402
import torch  # noqa: E402
from repair_cases import CHOOSE, REPORT, SECOND, THIRD, Case, cases_of  # noqa: E402
from repair_ways import LIMITS, WAYS, Setting  # noqa: E402
from results import write_results  # noqa: E402

WORTH = 0.02  # a smaller gap is not worth a repair, and is left out of the share closed
DRAWS = 1000  # of the plants, for intervals
Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one bundled world, fewer pictures")
    parser.add_argument("--part", choices=("choose", "report", "second", "third"), default="report")
    parser.add_argument("--only", help="one world; nothing is published")
    parser.add_argument("--out", type=Path, help="folder of the foreign worlds; without it the bundled ones")
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--store", type=Path, help="keeps the test sets for the next run")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), help="only these, and refit; default: all")
    arguments = parser.parse_args()
    for name in set(WAYS) - {*(arguments.ways or WAYS), "refit"}:
        del WAYS[name]
    begun = time.perf_counter()
    worlds = {"choose": CHOOSE, "report": REPORT, "second": SECOND, "third": THIRD}[arguments.part]
    if arguments.quick or arguments.out is None:
        worlds = tuple(world for world in worlds if world.startswith("picture-world"))
    rows: list[Row] = []
    for world in [arguments.only] if arguments.only else worlds[: 1 if arguments.quick else None]:
        cases = cases_of(
            world, arguments.out, arguments.photos, 20 if arguments.quick else 100, arguments.store
        )
        setting = Setting(world, arguments.out, cases)
        for case in cases:
            rows.append(measured(setting, case))
            told(rows[-1])
    figures = {**pooled(rows), "seconds": time.perf_counter() - begun}
    for name, value in figures.items():
        print(f"{name:44} {value:.3f}")
    name = "repair" if arguments.part == "report" else f"repair_{arguments.part}"
    write_results(name, figures, rows, quick=arguments.quick or arguments.only is not None)


def told(row: Row) -> None:
    """One line per plant."""
    gains = " ".join(f"{way} {row[f'gain_{way}']:+.2f}" for way in WAYS if f"gain_{way}" in row)
    print(
        f"{row['world']:18} {row['kind']:12} {row['prompt']:16} ← {row['cause']:16} gap {row['gap']:+.2f}, attainable "
        f"{row['attainable']:+.2f}; {gains}",
        flush=True,
    )


def measured(setting: Setting, case: Case) -> Row:
    """Accuracies by group before and after every way; shares from 0 to 1, the effect in logits."""
    before, test = setting.before, case.encoded(setting.study)
    number, group = before.index(case.prompt), np.array(case.groups)
    truth = np.array([before.index(label) for label in case.labels])
    old = before.logits(case.embeddings).numpy()
    groups = by_group(old, truth, group)
    never = old.copy()
    never[case.other, number] = -np.inf
    ceiling = min(v for name, v in by_group(never, truth, group).items() if name.startswith("others "))
    worst, neutral = min(groups.values()), float((old.argmax(1) == truth)[~case.there].mean())
    row: Row = {
        "world": case.world, "kind": case.kind, "prompt": case.prompt, "cause": case.cause,
        "found": case.finding is not None, "groups": groups, "worst": worst, "neutralised": neutral,
        "gap": neutral - worst, "attainable": max(0.0, min(neutral, ceiling) - worst),
        "called": float((old.argmax(1) == number)[case.other & case.there].mean()),
        "effect": response(old, number, case),
    }  # fmt: skip
    if case.asked is None:
        return row
    task = setting.task(case)
    held, known = setting.held, setting.held_truth >= 0
    right = (before.logits(held.embeddings).numpy().argmax(1) == setting.held_truth)[known].mean()
    for name, way in WAYS.items():
        logits = way(setting, case, task)
        new = logits(test).numpy()
        last = by_group(new, truth, group)
        others = (old.argmax(1) == truth) * 1.0 - (new.argmax(1) == truth)
        row |= {
            f"gain_{name}": min(last.values()) - worst,
            f"cost_{name}": float(np.mean(list(groups.values())) - np.mean(list(last.values()))),
            f"cost_others_{name}": float(others[case.other & ~case.there].mean()),
            f"effect_{name}": response(new, number, case),
        }
        if name not in LIMITS:
            after = (logits(held).numpy().argmax(1) == setting.held_truth)[known].mean()
            row[f"cost_held_{name}"] = float(right - after)
    return row


def pooled(rows: Sequence[Row]) -> dict[str, float]:
    """All figures: of all plants with latents, of found ones alone, and by kind."""
    asked = [row for row in rows if "gain_refit" in row]
    found = [row for row in asked if row["found"]]
    figures: dict[str, float] = {
        "plants": len(rows),
        "plants_found": len(found),
        "plants_repaired": len(asked),
        "plants_attainable": sum(row["attainable"] > WORTH for row in asked),
        "gap_worst_group": float(np.mean([row["gap"] for row in asked])),
        "gap_attainable": float(np.mean([row["attainable"] for row in asked])),
    }
    kinds = sorted({row["kind"] for row in asked})
    for way in WAYS:
        for which, some in (("", asked), ("found_", found)):
            figures |= _spread(
                f"{which}attainable_closed_{way}", some, lambda r, w=way: closed(r, w, "attainable")
            )
            figures |= _spread(f"{which}gap_closed_{way}", some, lambda r, w=way: closed(r, w, "gap"))
        figures |= _spread(f"effect_cut_{way}", asked, lambda r, w=way: cut(r, w))
        for cost in ("cost", "cost_others", "cost_held"):
            if f"{cost}_{way}" in asked[0]:
                values = [row[f"{cost}_{way}"] for row in asked]
                figures |= {f"{cost}_{way}": float(np.mean(values)), f"{cost}_{way}_most": max(values)}
        figures[f"harmed_{way}"] = float(np.mean([row[f"gain_{way}"] < -WORTH for row in asked]))
        for kind in kinds:
            some = [row for row in asked if row["kind"] == kind]
            if any(row["attainable"] > WORTH for row in some):
                figures |= _spread(
                    f"attainable_closed_{way}_{kind}", some, lambda r, w=way: closed(r, w, "attainable")
                )
            figures[f"gap_closed_{way}_{kind}"] = closed(some, way, "gap")
            figures[f"effect_cut_{way}_{kind}"] = cut(some, way)
    for kind in kinds:
        some = [row for row in asked if row["kind"] == kind]
        figures |= {
            f"plants_{kind}": len(some),
            f"plants_attainable_{kind}": sum(row["attainable"] > WORTH for row in some),
        }
    return figures


def closed(rows: Sequence[Row], way: str, what: str) -> float:
    """Share of the gaps that is closed; a gain beyond its gap counts as the gap. NaN where there is no gap."""
    worth = [row for row in rows if row[what] > WORTH]
    total = sum(row[what] for row in worth)
    return sum(min(row[f"gain_{way}"], row[what]) for row in worth) / total if total else float("nan")


def cut(rows: Sequence[Row], way: str) -> float:
    """Share of the prompt's response to the cause that is gone; negative where it grew or turned further."""
    total = sum(abs(row["effect"]) for row in rows)
    return 1 - sum(abs(row[f"effect_{way}"]) for row in rows) / total if total else float("nan")


def _spread(name: str, rows: Sequence[Row], of: Callable[[Sequence[Row]], float]) -> dict[str, float]:
    """A figure with the interval that drawing plants again gives."""
    if not rows:
        return {}
    rng = np.random.default_rng(0)
    draws = [of([rows[i] for i in rng.integers(0, len(rows), len(rows))]) for _ in range(DRAWS)]
    low, high = np.nanquantile(draws, (0.025, 0.975))
    return {name: of(rows), f"{name}_low": float(low), f"{name}_high": float(high)}


def by_group(logits: np.ndarray, truth: np.ndarray, group: np.ndarray) -> dict[str, float]:
    """Accuracy of every group."""
    right = logits.argmax(1) == truth
    return {name: float(right[group == name].mean()) for name in sorted(set(group))}


def response(logits: np.ndarray, number: int, case: Case) -> float:
    """How far the prompt's contrast rises with the cause in pictures of other objects, in logits."""
    rest = (logits.sum(1) - logits[:, number]) / (logits.shape[1] - 1)
    contrast = logits[:, number] - rest
    return float(contrast[case.other & case.there].mean() - contrast[case.other & ~case.there].mean())


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
