"""Recall, precision and kinds of the audit on planted reliances, judged by re-rendered pictures.

Plants count when re-rendering shows that the model learnt them; findings are matched by what happens to their latents
when the planted cause is removed from scenes nobody has seen, never by their label. `--fresh SEED` does the same in a
world whose plants, words and CLIP are made from that seed (long; resumes), the null variant has no plants at all.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from baselines import BASELINES
from results import FOLDER, write_results

import clipattr as ca
from clipattr.statistics import wilson
from clipattr_data import models_dir
from clipattr_data.build import NULL, STUDIES, build_one
from clipattr_data.effects import measure, save
from clipattr_data.train import recipe_of, train
from clipattr_data.truth import Truth, judge
from clipattr_data.world import CAUSES, Plant, World

ENOUGH = 4  # learnt plants of each kind that a variant needs to be judged
MINIMUM = 100  # learnt plants over all variants
FRESH = Path("out")


@dataclass
class Tally:
    """Counts over several variants."""

    learnt: Counter[str] = field(default_factory=Counter)
    found: Counter[str] = field(default_factory=Counter)
    named: int = 0
    findings: int = 0
    right: int = 0
    sure: int = 0
    sure_right: int = 0
    prompts: int = 0
    baselines: dict[str, list[int]] = field(default_factory=lambda: {name: [0, 0, 0] for name in BASELINES})
    rows: list[dict[str, Any]] = field(default_factory=list)

    def figures(self, prefix: str = "") -> dict[str, float]:
        """Pooled figures, and recall by kind with Wilson intervals."""
        n_learnt, n_found = sum(self.learnt.values()), sum(self.found.values())
        figures = {
            "recall": n_found / max(1, n_learnt),
            "precision": self.right / max(1, self.findings),
            "kind_accuracy": self.named / max(1, n_found),
            "false_per_100_prompts": 100 * (self.findings - self.right) / max(1, self.prompts),
            "confirmed_at_confidence_90": self.sure_right / max(1, self.sure),
            "findings_at_confidence_90": self.sure,
            "learnt_plants": n_learnt,
            "findings": self.findings,
        }
        for kind, total in sorted(self.learnt.items()):
            low, high = wilson(self.found[kind], total)
            figures |= {
                f"recall_{kind}": self.found[kind] / total,
                f"recall_{kind}_low": low,
                f"recall_{kind}_high": high,
            }
        for name, (hit, right, made) in self.baselines.items():
            if made:
                figures |= {
                    f"recall_of_{name}": hit / max(1, n_learnt),
                    f"precision_of_{name}": right / made,
                }
        return {prefix + name: value for name, value in figures.items()}


def learnt_plants(study: ca.Study, world: World) -> list[Plant]:
    """The plants that re-rendering shows the model to have learnt, over 200 pairs each; a bundled model brings them."""
    if not world.plants:
        return []
    folder = models_dir() / world.name
    if not folder.exists():  # a fresh world
        folder = FRESH / world.name
        folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "effects.json").exists():
        save(measure(study.model, world), folder)
    rows = json.loads((folder / "effects.json").read_text(encoding="utf-8"))
    return [plant for plant, row in zip(world.plants, rows, strict=True) if row["learnt"]]


def examine(study: ca.Study, world: World, n: int, tally: Tally, baselines: bool) -> None:
    """Audit one study and judge every finding by the truth."""
    learnt = learnt_plants(study, world)
    tally.learnt.update(plant.kind for plant in learnt)
    truth, findings = Truth(study.model, study.dictionary, world), ca.audit(study)
    matched = {}
    for finding, verdict in zip(findings, judge(truth, findings, learnt, n), strict=True):
        if verdict.plant is not None and verdict.plant not in matched:
            matched[verdict.plant] = finding
        tally.right += verdict.right
        if finding.confidence >= 0.9:
            tally.sure, tally.sure_right = tally.sure + 1, tally.sure_right + verdict.right
        tally.rows.append(
            {
                "world": world.name,
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
        if not verdict.right:
            what = f"{finding.prompt} ({finding.label}, {finding.kind}, {finding.confidence:.2f})"
            print(f"unconfirmed: {what}: cause {verdict.cause}, kept {verdict.kept:.2f}")
    tally.found.update(plant.kind for plant in matched)
    tally.named += sum(finding.kind == plant.kind for plant, finding in matched.items())
    tally.findings, tally.prompts = tally.findings + len(findings), tally.prompts + len(world.vocabulary)
    for plant in learnt:
        state = matched[plant].kind if plant in matched else "MISSED"
        print(f"{plant.kind:12} {plant.prompt:14} rests on {plant.cause:16} found as {state}")
    for name, baseline in BASELINES.items() if baselines and learnt else ():
        # Each baseline names as many suspects as the audit, its own best ones, and is judged in the same way.
        suspects = baseline(study, len(findings))
        verdicts = judge(truth, suspects, learnt, max(20, n // 5))  # four times as many suspects to judge
        hit = len({verdict.plant for verdict in verdicts if verdict.plant is not None})
        for place, value in enumerate((hit, sum(verdict.right for verdict in verdicts), len(suspects))):
            tally.baselines[name][place] += value


def check(tally: Tally, variants: int) -> None:
    """Refuse a judgement on too few learnt plants."""
    short = [kind for kind in CAUSES if tally.learnt[kind] < ENOUGH * variants]
    if short or sum(tally.learnt.values()) < MINIMUM:
        raise SystemExit(f"too few learnt plants for a judgement: {dict(tally.learnt)}")


def null_study() -> ca.Study:
    """The study of the model without plants, under out/."""
    folder = FRESH / NULL
    if not folder.exists():
        build_one(World.open(NULL), NULL, folder)
    return ca.open_study(folder)


def fresh_study(seed: int) -> tuple[ca.Study, World]:
    """World, CLIP, dictionary and study from one seed, under out/; what is there already is used again."""
    world, folder = World(seed), FRESH / f"fresh-{seed}"
    if not (folder / "model" / "open_clip_model.safetensors").exists():
        recipe = recipe_of(World.open(NULL))  # the quickest architecture to train
        train(world, folder / "model", recipe, seed=seed, checkpoint=folder / "checkpoint.pt")
    if not (folder / "study").exists():
        build_one(world, f"local-dir:{folder / 'model'}", folder / "study")
    return ca.open_study(folder / "study"), world


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one variant, fewer scenes for each check")
    parser.add_argument("--fresh", type=int, nargs="*", default=[], help="seeds of worlds to make and judge")
    parser.add_argument("--scenes", type=int, default=200, help="rendered to check each finding")
    parser.add_argument("--baselines", action="store_true", help="also judge simpler ways to choose suspects")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    n = 60 if arguments.quick else arguments.scenes
    stored = FOLDER / "planted.json"
    known = json.loads(stored.read_text(encoding="utf-8"))["figures"] if stored.exists() else {}
    if arguments.fresh:
        tally = Tally()
        for seed in arguments.fresh:
            examine(*fresh_study(seed), n, tally, arguments.baselines)
        rows = json.loads(stored.read_text(encoding="utf-8"))["rows"] if stored.exists() else []
        rows = [row for row in rows if not row["world"].startswith("fresh")] + tally.rows
        figures = {name: value for name, value in known.items() if not name.startswith("fresh_")}
        fresh = tally.figures("fresh_")
    else:
        planted, null = Tally(), Tally()
        names = dict(list(STUDIES.items())[:1]) if arguments.quick else STUDIES
        for study, name in names.items():
            examine(ca.open_study(study), World.open(name), n, planted, arguments.baselines)
        if not arguments.quick:
            check(planted, len(names))
            examine(null_study(), World.open(NULL), n, null, False)
        figures = planted.figures()
        figures |= {"null_" + k: v for k, v in null.figures().items() if k.startswith(("false", "findings"))}
        rows = [*planted.rows, *null.rows]
        fresh = {name: value for name, value in known.items() if name.startswith("fresh_")}
    for name, value in (figures | fresh).items():
        print(f"{name:36} {value:.3f}")
    write_results("planted", figures | fresh, rows, quick=arguments.quick)


if __name__ == "__main__":
    main()
