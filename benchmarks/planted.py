"""Does the audit find what was planted? Recall, precision and kinds against re-rendered pictures.

Plants count when re-rendering shows that the model learnt them; findings are matched by what happens to their latents
when the planted cause is removed from scenes nobody has seen, never by their label.
"""

from __future__ import annotations

import argparse
from collections import Counter

from results import write_results

import clipattr as ca
from clipattr_data.effects import measure
from clipattr_data.truth import Truth, judge
from clipattr_data.world import World

STUDIES = {"picture-world": "picture-world-a"}
ENOUGH = 4  # learnt plants a kind needs to be judged


def wilson(right: int, n: int) -> tuple[float, float]:
    """95 % interval of a proportion."""
    if n == 0:
        return 0.0, 1.0
    z, p = 1.96, right / n
    centre, spread = p + z * z / (2 * n), z * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
    return (centre - spread) / (1 + z * z / n), (centre + spread) / (1 + z * z / n)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer scenes for each check")
    arguments = parser.parse_args()
    n = 60 if arguments.quick else 200
    rows, found, right_kind = [], Counter(), 0
    learnt_by_kind: Counter[str] = Counter()
    n_findings = n_right = n_prompts = 0
    for study_name, world_name in STUDIES.items():
        study, world = ca.open_study(study_name), World.open(world_name)
        frame = measure(study.model, world, n)
        learnt = [plant for plant, ok in zip(world.plants, frame.learnt, strict=True) if ok]
        learnt_by_kind.update(plant.kind for plant in learnt)
        short = {
            kind for kind in {p.kind for p in world.plants} if sum(p.kind == kind for p in learnt) < ENOUGH
        }
        if short:
            raise SystemExit(
                f"{world_name} has learnt fewer than {ENOUGH} plants of {sorted(short)}: no judgement"
            )
        findings = ca.audit(study)
        verdicts = judge(Truth(study.model, study.dictionary, world), findings, learnt, n)
        matched = {}
        for finding, verdict in zip(findings, verdicts, strict=True):
            if verdict.plant is not None and verdict.plant not in matched:
                matched[verdict.plant] = finding
            rows.append(
                {
                    "study": study_name,
                    "prompt": finding.prompt,
                    "label": finding.label,
                    "kind": finding.kind,
                    "planted": verdict.plant.kind if verdict.plant else None,
                    "cause": verdict.cause,
                    "causal_effect": finding.causal_effect.value,
                    "confidence": finding.confidence,
                    "rerender_effect": verdict.effect[0],
                    "kept": verdict.kept,
                    "right": verdict.right,
                }
            )
        found.update(plant.kind for plant in matched)
        right_kind += sum(finding.kind == plant.kind for plant, finding in matched.items())
        n_findings, n_right = n_findings + len(findings), n_right + sum(v.right for v in verdicts)
        n_prompts += len(world.vocabulary)
        for plant in learnt:
            state = matched[plant].kind if plant in matched else "MISSED"
            print(f"{plant.kind:10} {plant.prompt:14} rests on {plant.cause:18} found as {state}")
    wrong = [row for row in rows if not row["right"]]
    for row in wrong:
        what = f"{row['prompt']} ({row['label']}, {row['kind']})"
        print(f"unconfirmed: {what}: cause {row['cause']}, kept {row['kept']:.2f}")
    n_learnt, n_found = sum(learnt_by_kind.values()), sum(found.values())
    figures = {
        "recall": n_found / n_learnt,
        "precision": n_right / max(1, n_findings),
        "kind_accuracy": right_kind / max(1, n_found),
        "false_per_100_prompts": 100 * (n_findings - n_right) / n_prompts,
        "learnt_plants": n_learnt,
        "findings": n_findings,
    }
    for kind, total in sorted(learnt_by_kind.items()):
        low, high = wilson(found[kind], total)
        figures |= {
            f"recall_{kind}": found[kind] / total,
            f"recall_{kind}_low": low,
            f"recall_{kind}_high": high,
        }
    for name, value in figures.items():
        print(f"{name:28} {value:.3f}")
    write_results("planted", figures, rows, quick=arguments.quick)


if __name__ == "__main__":
    main()
