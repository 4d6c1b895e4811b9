"""Recall against budget: the share of planted reliances that an audit finds, by forward passes per prompt.

    python benchmarks/audit_budget.py --out FOLDER --photos PHOTOS [--worlds NAME ...] [--budgets N ...]

Measured on the foreign worlds of `worlds.py`, with their studies under FOLDER, and on the bundled variant a, with the
prompts of its learnt plants and as many others. Redrawn pictures decide whether a finding is right, as in `worlds.py`
and `planted.py`. Forwards are those spent; the budget is an upper bound. Worlds that are not requested keep the rows of
an earlier run.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import clipattr as ca  # noqa: E402

BUDGETS = (0, 15, 30, 60, 120)
BUNDLED, PAIRS = "picture-world", 60
WORLDS = (BUNDLED, "photos-report-a", "photos-report-b", "rendered-report-a", "rendered-report-b")
Judged = Callable[[Sequence[Any]], list[Any]]


def remembered(judge: Judged) -> Judged:
    """The same judge with a cache: a family of one prompt is judged once for all budgets."""
    known: dict[tuple[str, tuple[int, ...]], Any] = {}

    def judged(findings: Sequence[Any]) -> list[Any]:
        new = [f for f in findings if (f.prompt, f.latents) not in known]
        for finding, verdict in zip(new, judge(new), strict=True):
            known[finding.prompt, finding.latents] = verdict
        return [known[f.prompt, f.latents] for f in findings]

    return judged


def curve(name: str, study: Any, prompts: Sequence[str], learnt: Sequence[Any], judge: Judged,
          budgets: Sequence[int]) -> list[dict[str, Any]]:  # fmt: skip
    """One row a budget: plants found, findings that are right, forwards and processor seconds."""
    rows, judged = [], remembered(judge)
    for budget in budgets:
        start = time.process_time()
        findings = ca.audit(study, prompts, budget=budget, progress=False)
        seconds = time.process_time() - start
        verdicts = judged(list(findings))
        found = {v.plant for v in verdicts if v.plant is not None and v.plant in set(learnt)}
        rows.append(
            {
                "world": name, "budget": budget, "prompts": len(prompts), "learnt": len(learnt),
                "found": len(found), "findings": len(findings), "right": sum(v.right for v in verdicts),
                "forwards": sum(v.forwards for v in findings.verdicts), "seconds": round(seconds, 1),
            }
        )  # fmt: skip
        print(rows[-1], flush=True)
    return rows


def foreign(name: str, out: Path, photos: Path | None, budgets: Sequence[int]) -> list[dict[str, Any]]:
    """The curve of one world of `worlds.py`."""
    from world_kit.auditing import learnt_of, truth_of
    from world_kit.families import open_world
    from world_kit.judging import Judge
    from world_kit.studying import open_form

    world, study = open_world(name, photos), open_form(out, name, "plain")
    contents = json.loads((out / "pictures" / name / "contents.json").read_text(encoding="utf-8"))
    learnt = learnt_of(world, truth_of(world, out))
    judge = Judge(study, world, contents, learnt)
    return curve(
        name,
        study,
        world.prompts,
        learnt,
        lambda some: [judge.judge(f.prompt, f.latents) for f in some],
        budgets,
    )


def bundled(budgets: Sequence[int]) -> list[dict[str, Any]]:
    """The curve of the bundled variant a: the prompts of learnt plants, and as many others."""
    from planted import learnt_plants

    from clipattr_data.build import STUDIES
    from clipattr_data.truth import Truth, judge
    from clipattr_data.world import World

    study, world = ca.open_study(BUNDLED), World.open(STUDIES[BUNDLED])
    learnt = learnt_plants(study, world)
    prompts = sorted({plant.prompt for plant in learnt})
    others = [word for word in study.vocabulary.words if word not in prompts]
    prompts += others[:: max(1, len(others) // len(prompts))][: len(prompts)]
    truth = Truth(study.model, study.dictionary, world)
    return curve(
        BUNDLED, study, prompts, learnt, lambda some: list(judge(truth, some, learnt, PAIRS)), budgets
    )


def figures_of(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Recall, precision and forwards a prompt at each budget, of the foreign worlds pooled and of the bundled one."""
    pooled: dict[tuple[str, int], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        pooled["bundled" if row["world"] == BUNDLED else "worlds", row["budget"]].append(row)
    figures = {}
    for (pool, budget), some in pooled.items():
        total = {key: sum(row[key] for row in some) for key in some[0] if key not in ("world", "budget")}
        figures |= {
            f"{pool}_recall_{budget}": total["found"] / max(1, total["learnt"]),
            f"{pool}_precision_{budget}": total["right"] / max(1, total["findings"]),
            f"{pool}_forwards_a_prompt_{budget}": total["forwards"] / total["prompts"],
        }
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("out"))
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--worlds", nargs="*", default=list(WORLDS))
    parser.add_argument("--budgets", nargs="*", type=int, default=list(BUDGETS))
    parser.add_argument("--dry", action="store_true", help="write no results")
    arguments = parser.parse_args()
    sys.modules["transformers"] = None  # type: ignore[assignment]
    import torch
    from results import FOLDER, write_results

    torch.set_num_threads(1)
    rows = [
        row
        for name in arguments.worlds
        for row in (
            bundled(arguments.budgets)
            if name == BUNDLED
            else foreign(name, arguments.out, arguments.photos, arguments.budgets)
        )
    ]
    file = FOLDER / "audit_budget.json"
    known = json.loads(file.read_text(encoding="utf-8"))["rows"] if file.exists() else []
    rows = [row for row in known if row["world"] not in arguments.worlds] + rows
    figures = figures_of(rows)
    for name, value in figures.items():
        print(f"{name:36} {value:.3f}")
    write_results("audit_budget", figures, rows, quick=arguments.dry)


if __name__ == "__main__":
    main()
