"""Prompts or probes? How far each follows a shortcut, whether the audit finds it, and what the repair restores.

All pictures are synthetic lesions whose parts can be taken out and drawn again. Curves: training sets in which a
shortcut follows the diagnosis ever more strictly, judged where it does not. Audit: a probe that took a shortcut, held
against what re-rendering says it relies on. Repair: the worst group before and after, beside a probe that was never led
astray. `--plot FILE` draws the curves.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from results import write_results

import clipattr as ca
from clipattr_data import studies_dir
from clipattr_data.lesion_truth import Causes
from clipattr_data.lesion_world import LesionWorld
from clipattr_data.lesions import SHORTCUTS, SKINS
from clipattr_data.robustness import curves, draw, material, summary

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
    seeds, n = (2, 600) if quick else (5, 1000)
    if not (studies_dir() / "lesions").exists():
        raise SystemExit("The lesion study is not bundled yet: `make data` trains its models and builds it.")
    study = ca.open_study("lesions")
    model, world = study.model, LesionWorld.open("lesions-evaluator")
    pool, judged = (800, 200) if quick else (1500, 400)
    materials = {name: material(model, world, name, pool=pool, judged=judged) for name in shortcuts}
    print(f"{len(materials)} shortcuts drawn and embedded in {time.perf_counter() - begun:.0f} s")

    import pandas as pd

    frame = pd.concat([curves(model, some, seeds=seeds, n=n) for some in materials.values()])
    for quantity in ("worst", "accuracy", "effect"):
        table = summary(frame, quantity)
        cells = table["mean"].map("{:.3f}".format) + " ± " + table["half"].map("{:.3f}".format)
        print(f"\n{quantity}\n{cells.unstack().to_string()}")
    if arguments.plot:
        draw(frame).savefig(arguments.plot)

    known = Causes(model, study.dictionary, world, 50 if quick else 100)
    groups = dict(zip(study.vocabulary.words, study.vocabulary.groups, strict=True))
    rows = []
    for name, some in materials.items():
        for seed in range(1 if quick else 2):
            led = ca.fit_probe(*some.training(LED, n, 100 + seed), model_hash=model.weights_hash)
            straight = ca.fit_probe(*some.training(0.0, n, 100 + seed), model_hash=model.weights_hash)
            truth = {part: other.judge(led) for part, other in materials.items()}
            relied = {part for part, judged in truth.items() if judged.relied}
            findings = list(ca.audit_probe(study, probe=led).findings())
            causes = [
                "dark skin" if cause in SKINS else cause for cause in (known.of(f.latents) for f in findings)
            ]
            found = relied & set(causes)
            # A finding is false if it speaks of something that decides nothing, and that the probe does not rely on
            # either. That a probe rests on signs is right, whether or not the audit expected it.
            speaks = [
                groups.get(f.label) in DECIDES_NOTHING or cause in SHORTCUTS
                for f, cause in zip(findings, causes, strict=True)
            ]
            false = sum(idle and cause not in relied for idle, cause in zip(speaks, causes, strict=True))
            row = {
                "shortcut": name,
                "seed": seed,
                "relied": sorted(relied),
                "found": sorted(found),
                "findings": [f.label for f in findings],
                "causes": causes,
                "false": false,
                "effect": truth[name].effect,
                "before": truth[name].worst,
                "before_accuracy": truth[name].accuracy,
                "straight": some.judge(straight).worst,
            }
            chosen = [f for f in findings if groups.get(f.label) in DECIDES_NOTHING]  # by their names alone
            if chosen:
                mended = ca.repair(study, chosen, classifier=led).classifier()
                after = some.judge(mended)
                row |= {"after": after.worst, "after_accuracy": after.accuracy, "effect_after": after.effect}
            else:
                row |= {"after": row["before"], "after_accuracy": row["before_accuracy"]}
            rows.append(row)
            print(
                f"{name:15} effect {row['effect']:+.2f}, relied on {row['relied']}, causes found {causes}; worst group "
                f"{row['before']:.2f} → {row['after']:.2f} (never led astray {row['straight']:.2f})"
            )
    at_most = frame[frame.strength == 1.0].groupby("method")[["accuracy", "worst"]].mean()
    at_least = frame[frame.strength == 0.0].groupby("method")[["accuracy", "worst"]].mean()
    relied_on = sum(len(row["relied"]) for row in rows)
    gaps = at_most.accuracy - at_most.worst
    gains = [row["after"] - row["before"] for row in rows if row["relied"]]
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
        "shortcut_false": float(np.mean([row["false"] for row in rows])),
        "shortcut_false_most": max(row["false"] for row in rows),
        "repair_gain_worst_group": float(np.mean(gains)) if gains else 0.0,
        "repair_cost_average": float(
            np.mean([row["before_accuracy"] - row["after_accuracy"] for row in rows])
        ),
        "repair_short_of_straight": float(np.mean([row["straight"] - row["after"] for row in rows])),
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


if __name__ == "__main__":
    main()
