"""Prompts and probes: how far each follows a shortcut, whether the audit finds it, and what the repair restores.

All pictures are synthetic lesions whose parts can be taken out and drawn again. Curves: training sets in which a
shortcut follows the diagnosis ever more strictly, judged where it does not. Audit: the findings on a probe that uses a
shortcut, compared with its reliance by re-rendering. Repair: the worst group before and after, beside a probe that was
trained without the shortcut; by a refit on the same pictures, blind to the findings; and by a projection of its
weights, which needs no training set. `--plot FILE` draws the curves.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import torch
from results import write_results

import clipattr as ca
from clipattr_data import studies_dir
from clipattr_data.lesion_truth import Causes
from clipattr_data.lesion_world import LesionWorld
from clipattr_data.lesions import SHORTCUTS, SKINS
from clipattr_data.robustness import Material, curves, draw, material, summary

LED = 0.95  # strength of the shortcut in the training sets of the audited probes
DECIDES_NOTHING = ("artefact", "skin")  # groups of the vocabulary on which no diagnosis should rest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="three shortcuts, two seeds, fewer pictures")
    parser.add_argument("--plot", help="write the curves to this file")
    arguments = parser.parse_args()
    begun = time.perf_counter()
    quick = arguments.quick
    shortcuts = SHORTCUTS[:3] if quick else SHORTCUTS
    seeds, n = (2, 400) if quick else (3, 800)
    if not (studies_dir() / "lesions").exists():
        raise SystemExit("The lesion study is not bundled yet: `make data` trains its models and builds it.")
    study = ca.open_study("lesions")
    model, world = study.model, LesionWorld.open("lesions-evaluator")
    pool, judged = (500, 100) if quick else (1200, 400)
    materials = {name: material(model, world, name, pool=pool, judged=judged) for name in SHORTCUTS}
    print(f"{len(materials)} shortcuts drawn and embedded in {time.perf_counter() - begun:.0f} s")

    import pandas as pd

    frame = pd.concat([curves(model, materials[name], seeds=seeds, n=n) for name in shortcuts])
    for quantity in ("worst", "accuracy", "effect"):
        table = summary(frame, quantity)
        cells = table["mean"].map("{:.3f}".format) + " ± " + table["half"].map("{:.3f}".format)
        print(f"\n{quantity}\n{cells.unstack().to_string()}")
    if arguments.plot:
        draw(frame).savefig(arguments.plot)

    known = Causes(model, world, 50 if quick else 100)
    rows = []
    for name in shortcuts:
        some = materials[name]
        for seed in range(1 if quick else 2):
            straight, led = (
                ca.fit_probe(*some.training(strength, n, 100 + seed), folds=3, model_hash=model.weights_hash)
                for strength in (0.0, LED)
            )
            aim = some.judge(straight)
            for probe, kind in ((straight, "straight"), (led, "led")):
                row = audited(study, probe, materials, known)
                row |= {"shortcut": name, "seed": seed, "probe": kind, "straight_worst": aim.worst}
                training = some.training(LED if kind == "led" else 0.0, n, 100 + seed)
                row |= mended(study, probe, row.pop("chosen"), training, some)
                rows.append(row)
                print(
                    f"{name:15} {kind:8} effect {row['effect']:+.2f}, relied on {row['relied']}, found {row['found']}, "
                    f"false {row['false']}, nameless {row['nameless']}; worst group {row['before']:.2f} → "
                    f"{row['after']:.2f} (weights projected: {row['projected']:.2f}; "
                    f"without the shortcut: {aim.worst:.2f})"
                )
    led_rows = [row for row in rows if row["probe"] == "led"]
    at_most = frame[frame.strength == 1.0].groupby("method")[["accuracy", "worst"]].mean()
    at_least = frame[frame.strength == 0.0].groupby("method")[["accuracy", "worst"]].mean()
    relied_on = sum(len(row["relied"]) for row in rows)
    gaps = at_most.accuracy - at_most.worst
    gains = [row["after"] - row["before"] for row in led_rows]
    figures = {
        # accuracy over all groups less that in the worst, at a total shortcut
        "worst_group_gap_prompt": float(gaps["prompts"]),
        "worst_group_gap_probe": float(gaps["probe"]),
        "worst_group_prompt_at_none": float(at_least.worst["prompts"]),
        "worst_group_probe_at_none": float(at_least.worst["probe"]),
        "worst_group_prompt_at_total": float(at_most.worst["prompts"]),
        "worst_group_probe_at_total": float(at_most.worst["probe"]),
        "shortcut_recall": sum(len(row["found"]) for row in rows) / max(1, relied_on),
        "shortcut_relied_on": relied_on,
        "shortcut_probes": len(rows),
        "shortcut_false": float(np.mean([row["false"] for row in rows])),
        "shortcut_false_most": max(row["false"] for row in rows),
        "findings_without_a_name": float(np.mean([row["nameless"] for row in rows])),
        "repair_gain_worst_group": float(np.mean(gains)),
        "repair_cost_average": float(np.mean([r["before_accuracy"] - r["after_accuracy"] for r in led_rows])),
        # share of the gap between the worst groups of the probe with and without the shortcut, at most 1
        "repair_gap_closed": _closed(led_rows, "after"),
        "projection_gap_closed": _closed(led_rows, "projected"),
        "repair_short_of_straight": float(np.mean([r["straight_worst"] - r["after"] for r in led_rows])),
        "repair_short_of_straight_most": max(r["straight_worst"] - r["after"] for r in led_rows),
        "projection_gain_worst_group": float(np.mean([row["projected"] - row["before"] for row in led_rows])),
        "projection_cost_average": float(
            np.mean([row["before_accuracy"] - row["projected_accuracy"] for row in led_rows])
        ),
        "seconds": time.perf_counter() - begun,
    }
    for name, value in figures.items():
        print(f"{name:28} {value:.3f}")
    everything = frame.groupby(["shortcut", "method", "strength"], sort=False).mean(numeric_only=True)
    write_results(
        "probes",
        figures,
        [*rows, *everything.drop(columns="seed").reset_index().to_dict("records")],
        quick=quick,
    )


def _closed(rows: list[dict[str, Any]], side: str) -> float:
    gaps = [max(0.0, row["straight_worst"] - row["before"]) for row in rows]
    gains = [min(row[side] - row["before"], gap) for row, gap in zip(rows, gaps, strict=True)]
    return float(sum(gains) / max(sum(gaps), 1e-9))


def audited(
    study: ca.Study, probe: ca.Probe, materials: dict[str, Material], known: Causes
) -> dict[str, Any]:
    """Findings on a probe, beside its reliance by re-rendering.

    Redrawn pictures, not labels, decide what a finding is about. It is false if it concerns a part that does not define
    the class and on which the probe does not rely. A reliance on diagnostic signs is right, whether or not the audit
    expected it. Findings without a word and without a cause are counted as nameless.
    """
    effects = {part: some.judge(probe) for part, some in materials.items()}
    relied = {part for part, effect in effects.items() if effect.relied}
    findings = list(ca.audit_probe(study, probe=probe).findings())
    directions = ca.directions_of(study, findings).T if findings else []
    causes = [_tone(known.of(direction)) for direction in directions]
    idle = [
        finding.evidence["group"] in DECIDES_NOTHING or cause in SHORTCUTS
        for finding, cause in zip(findings, causes, strict=True)
    ]
    return {
        "relied": sorted(relied),
        "found": sorted(relied & set(causes)),
        "findings": [finding.label for finding in findings],
        "causes": causes,
        "effects": {part: round(effect.effect, 3) for part, effect in effects.items()},
        "nameless": sum(f.label is None and cause is None for f, cause in zip(findings, causes, strict=True)),
        "false": sum(i and cause not in relied for i, cause in zip(idle, causes, strict=True)),
        # What an analyst would remove: chosen by their names alone, without re-rendering.
        "chosen": [finding for finding in findings if finding.evidence["group"] in DECIDES_NOTHING],
    }


def _tone(cause: str | None) -> str | None:
    """Light and dark skin are two values of one factor; the shortcut has the name of one of them."""
    return "dark skin" if cause in SKINS else cause


def mended(
    study: ca.Study,
    probe: ca.Probe,
    findings: list[ca.Finding],
    training: tuple[torch.Tensor, list[str]],
    some: Material,
) -> dict[str, float]:
    """Accuracy, worst group and reliance on a shortcut: before, refitted blind to the findings, and projected."""
    before = after = projected = some.judge(probe)
    if findings:
        blind_to = ca.directions_of(study, findings)
        after = some.judge(ca.fit_probe(*training, folds=3, blind_to=blind_to))
        projected = some.judge(ca.repair(study, findings, how="project", classifier=probe).classifier())
    sides = {"before": before, "after": after, "projected": projected}
    made = {name: judged.worst for name, judged in sides.items()}
    made |= {f"{name}_accuracy": judged.accuracy for name, judged in sides.items()}
    return made | {"effect": before.effect, "effect_after": after.effect}


if __name__ == "__main__":
    main()
