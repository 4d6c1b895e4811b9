"""Fit of a finding's confidence, and how often families that miss a threshold of the audit are right.

    python benchmarks/confidence.py collect --out OUT [OUT …] --photos PHOTOS [--only WORLD …]
    python benchmarks/confidence.py fit     --out OUT [OUT …]

OUT is what `worlds.py study` wrote; several may hold the same worlds with more pictures. `collect` judges every family
that holds or only misses a threshold by redrawn pictures and keeps it in `OUT/families/WORLD.json`, so that it goes on
where it was interrupted. `fit` prints and writes:

- the logistic fit of findings, asked on worlds left out (`WEIGHTS` in `audit/decision.py`), and the share of them that
  is right by how much more frequent the cause is;
- the fit of text on three lower bounds (`TEXT_WEIGHTS`);
- of families that miss a threshold, the share that is right, by threshold.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
LOWS = ("elsewhere", "beside", "inserted")  # lower bounds, in the order of `TEXT_WEIGHTS`
SIGNS = ("instead", "left", "more_frequent")  # in the order of `WEIGHTS`
STEPS = (0.0, 0.3, 0.5, 0.7, 1.0)  # of the lower bound of the rate difference
PENALTY = 3.0  # inverse strength of the fit's penalty
# A family only misses a threshold where it is not surely without effect, more frequent by half of what is asked, and
# pictures with its candidate surely score higher somewhere.
NEAR_EFFECT, NEAR_DIFFERENCE, NEAR_KEPT = -0.02, 0.1, 0.8


def near(family: Any, evidence: Any, unit: float) -> bool:
    """Whether a family that is no finding only misses a threshold."""
    return (
        not evidence.kept > NEAR_KEPT
        and evidence.causal_effect.value > 0
        and evidence.causal_effect.low > NEAR_EFFECT * unit
        and (family.instead or evidence.difference.low >= NEAR_DIFFERENCE)
        and max(evidence.thing.low, evidence.beside.low) > 0
    )


def families_of(world: Any, study: Any, out: Path) -> list[dict[str, Any]]:
    """Every family of a world that holds or only misses a threshold, and whether redrawn pictures confirm it."""
    from sensitivity import Truth, gathered_of

    from clipattr.discovery.audit.decision import Reason, signs_of
    from clipattr.discovery.audit.run import held_of
    from clipattr.discovery.audit.settings import Settings

    truth, rows, settings = Truth(world, study, out), [], Settings()
    for one in gathered_of(world, study, settings):
        unit, prompt, rise = one.subject.unit, one.subject.prompt.text, one.rise
        if not (math.isfinite(unit) and unit > 0):
            continue
        inserted = rise.inserted.low / unit if rise is not None and rise.latents else 0.0
        told = {id(judged) for judged in held_of(one, settings)[0]}
        for judged in one.judged:
            family, evidence = judged.family, judged.evidence
            if evidence is None or not (judged.reason is Reason.HOLDS or near(family, evidence, unit)):
                continue
            rows.append(
                {
                    "prompt": prompt,
                    "label": family.candidate.label,
                    "text": family.text,
                    "reason": judged.reason.name,
                    "elsewhere": _finite(evidence.thing.low / unit),
                    "beside": _finite(evidence.beside.low / unit),
                    "inserted": inserted,
                    "ablation": _finite(evidence.causal_effect.low / unit),
                    "told": id(judged) in told,
                    **dict(zip(SIGNS, signs_of(family, evidence), strict=True)),
                    "right": truth.verdict((prompt, family.latents)).right,
                }
            )
    return rows


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def logistic(
    values: Any, rows: Sequence[dict[str, Any]], what: str, names: Sequence[str]
) -> dict[str, float]:
    """A logistic fit of being right, with its area under the curve and Brier score on worlds left out.

    Args:
        values: (rows, names). rows: each with its world. what: begins the names of the figures.
    """
    import numpy as np
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict

    from clipattr.statistics import auc

    right, worlds = (np.array([row[name] for row in rows]) for name in ("right", "world"))
    model = LogisticRegression(C=PENALTY, max_iter=5000)
    left_out = cross_val_predict(
        model, values, right, groups=worlds, cv=LeaveOneGroupOut(), method="predict_proba"
    )
    model.fit(values, right)
    base = float(right.mean())
    return {
        f"{what}": len(rows), f"{what}_right": int(right.sum()), f"{what}_worlds": len(set(worlds.tolist())),
        f"{what}_constant": float(model.intercept_[0]),
        f"{what}_area": float(auc(left_out[:, 1], right)),
        f"{what}_brier": float(np.mean((left_out[:, 1] - right) ** 2)),
        f"{what}_brier_of_base_rate": base * (1 - base),
        **{f"{what}_weight_{name}": float(weight) for name, weight in zip(names, model.coef_[0], strict=True)},
    }  # fmt: skip


def fit_of_text(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The fit for families of text that hold."""
    import numpy as np

    from clipattr.discovery.audit.decision import BOUNDS
    from clipattr.statistics import auc

    limits = np.array(BOUNDS)
    known = [[low if row[name] is None else row[name] for name, (low, _) in zip(LOWS, BOUNDS, strict=True)]
             for row in rows]  # fmt: skip
    values = np.array(known, dtype=float).clip(limits[:, 0], limits[:, 1])
    right = np.array([row["right"] for row in rows])
    figures = logistic(values, rows, "text_families", LOWS)
    for place, name in enumerate(LOWS):
        figures[f"text_families_area_{name}"] = float(auc(values[:, place], right))
    ablation = np.array([row["ablation"] or 0.0 for row in rows])
    return figures | {"text_families_area_ablation": float(auc(ablation, right))}


def fit_of_findings(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The fit for findings that are not text, and the share that is right by how much more frequent the cause is."""
    import numpy as np

    figures = logistic(
        np.array([[row[name] for name in SIGNS] for row in rows], dtype=float), rows, "findings", SIGNS
    )
    for low, high in zip(STEPS, STEPS[1:], strict=False):
        some = [row["right"] for row in rows if not row["instead"] and low <= row["more_frequent"] < high]
        name = f"findings_more_frequent_from_{low:g}"
        figures |= {name: len(some), f"{name}_right": sum(some) / max(1, len(some))}
    some = [row["right"] for row in rows if row["instead"]]
    return figures | {"findings_instead": len(some), "findings_instead_right": sum(some) / max(1, len(some))}


def shares(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """How many families only miss a threshold, and the share of them that is right, by threshold."""
    missed = [row for row in rows if row["reason"] != "HOLDS"]
    figures: dict[str, float] = {"missed": len(missed)}
    for reason in ("", *sorted({row["reason"] for row in missed})):
        some = [row["right"] for row in missed if reason in ("", row["reason"])]
        name = f"missed_{reason.casefold()}" if reason else "missed"
        figures |= {name: len(some), f"{name}_right": sum(some) / max(1, len(some))}
    return figures


def collect(out: Path, name: str, photos: Path | None) -> None:
    """Judge the families of one world and keep them."""
    from world_kit.families import open_world
    from world_kit.studying import open_form

    kept = out / "families" / f"{name}.json"
    if kept.exists():
        return
    world = open_world(name, photos)
    rows = families_of(world, open_form(out, name, "plain"), out)
    kept.parent.mkdir(exist_ok=True)
    kept.write_text(json.dumps(rows), encoding="utf-8")
    print(f"{name}: {len(rows)} families, {sum(row['right'] for row in rows)} right", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("collect", "fit"))
    parser.add_argument("--out", type=Path, nargs="+", required=True, help="folders that worlds.py wrote")
    parser.add_argument("--photos", type=Path, help="folder of photographs, for collect")
    parser.add_argument("--only", nargs="*", help="worlds; default all that have a study")
    arguments = parser.parse_args()
    sys.modules["transformers"] = None  # type: ignore[assignment]
    import torch
    from results import write_results

    torch.set_num_threads(1)
    if arguments.what == "collect":
        for out in arguments.out:
            for name in arguments.only or sorted(path.name for path in (out / "studies").iterdir()):
                collect(out, name, arguments.photos)
        return
    rows = []
    for out in arguments.out:
        for path in sorted((out / "families").glob("*.json")):
            rows += [row | {"world": path.stem} for row in json.loads(path.read_text(encoding="utf-8"))]
    if not rows:
        raise SystemExit("no families were collected in these folders; run `confidence.py collect` first")
    figures = (
        fit_of_findings([row for row in rows if row["told"] and not row["text"]])
        | fit_of_text([row for row in rows if row["text"] and row["reason"] == "HOLDS"])
        | shares(rows)
    )
    for key, value in figures.items():
        print(f"{key:28} {value:.3f}")
    write_results("confidence", figures, [])


if __name__ == "__main__":
    main()
