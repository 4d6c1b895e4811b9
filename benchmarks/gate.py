"""Release gate without the old study: does it pass where nothing changed, and fail where a reliance is new?

    python benchmarks/gate.py [--quick] [--worlds NAME ...] [--null NAME ...] [--out FOLDER]
    python benchmarks/gate.py --foreign FOLDER ... --photos PHOTOS [--only NAME ...]    # worlds that worlds.py made

For each world: the same weights with several dictionaries, weights with 1 % noise, and as the old release a model
trained without plants. Every audit is gated against every other as baseline, from JSON as a release would read it. A
prompt whose plant the new release has learnt, and the old one not by half as much, is a new plant; a prompt without
plants, between the two models, is a model trained again without a change. What was built under FOLDER is used again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch  # noqa: E402
from gate_foreign import examine_foreign, foreign_figures  # noqa: E402
from results import FOLDER, about, write_results  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

import clipattr as ca  # noqa: E402
from clipattr.discovery.audit.run import scores  # noqa: E402
from clipattr.discovery.findings import Findings  # noqa: E402
from clipattr.discovery.gate import gate  # noqa: E402
from clipattr.statistics import wilson  # noqa: E402
from clipattr_data import models_dir  # noqa: E402
from clipattr_data.build import EVALUATOR, NULL, write_vocabulary  # noqa: E402
from clipattr_data.effects import measure  # noqa: E402
from clipattr_data.labelled import rows, write  # noqa: E402
from clipattr_data.study_build import dictionary_activations  # noqa: E402
from clipattr_data.world import World  # noqa: E402

RESULTS = FOLDER / "gate.json"
WORLDS = ("picture-world-a", "picture-world-b", "picture-world-c")
SEEDS = (1, 2, 3)
NOISE = 0.01  # of each weight tensor's deviation
LATENTS, ACTIVE, STEPS, TRAINED_ON = 1024, 8, 400, 10_000
PICTURES = (1800, 900)  # for finding and for measuring
PAIRS = 40  # scenes with and without its cause, to see whether the old release has a plant
UNPLANTED = 20  # prompts without a plant, besides all with one
ABOVE = (3.0, 5.0)  # points
WAYS = {
    "scores": "",
    "levels": "_without_scores",
    "cause": "_without_levels",
}  # of the gate, and their figures' ending


def noisy(name: str, folder: Path) -> str:
    """A bundled model with noise on every weight, written under a folder; its reference."""
    return noisy_copy(models_dir() / name, folder)


def noisy_copy(source: Path, folder: Path) -> str:
    """The same for any model's folder."""
    if not folder.exists():
        shutil.copytree(source, folder)
        file, draw = folder / "open_clip_model.safetensors", torch.Generator().manual_seed(0)
        weights = load_file(file)
        for key, weight in weights.items():
            if weight.is_floating_point() and weight.numel() > 1:
                noise = torch.randn(weight.shape, generator=draw) * weight.float().std() * NOISE
                weights[key] = (weight.float() + noise).to(weight.dtype)
        save_file(weights, file)
    return f"local-dir:{folder}"


def activations_of(model: Any, world: World, folder: Path, n: int) -> torch.Tensor:
    """Activations on which dictionaries of a model are trained, kept for the next seed."""
    file = folder / f"acts-{model.weights_hash[:12]}.pt"
    if not file.exists():
        torch.save(dictionary_activations(model, world, n), file)
    return torch.load(file, weights_only=True)


def audited(world: World, model: Any, seed: int, folder: Path, small: bool) -> Findings:
    """Train a dictionary from a seed, build a study of the world's pictures and audit it; kept as JSON."""
    file = folder / "audit.json"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        n, m = (size // 4 if small else size for size in PICTURES)
        write([*rows(world, "train", n), *rows(world, "holdout", m)], folder / "scenes.jsonl")
        write_vocabulary(world, folder / "vocabulary.csv")
        acts = activations_of(model, world, folder.parent, TRAINED_ON // (4 if small else 1))
        dictionary = ca.train_sae(acts, n_latents=LATENTS, k=ACTIVE, steps=STEPS, batch=1024, lr=1e-3, seed=seed,
                                  site="image.-1.cls", model_hash=model.weights_hash)  # fmt: skip
        study = ca.build_study(
            model, ca.Images.open(f"scenes:{folder / 'scenes.jsonl'}"), path=folder / "study",
            vocabulary=ca.Vocabulary.open(folder / "vocabulary.csv"), evaluator=ca.load_model(EVALUATOR),
            dictionary=dictionary, progress=False,
        )  # fmt: skip
        planted = sorted({plant.prompt for plant in world.plants})
        others = [word for word in world.vocabulary if word not in planted]
        prompts = planted[:12] if small else planted + others[:UNPLANTED]
        ca.audit(study, prompts, progress=False).to_json(file)
    found = Findings.from_json(file)
    if "scored" in found.about:
        return found
    # An audit of an earlier version: its findings are kept, and its scores added.
    made = scores(
        ca.open_study(folder / "study"), [verdict.prompt for verdict in found.verdicts], insert=True
    )
    verdicts = [
        replace(verdict, scored=one.scored, inserted=one.inserted)
        for verdict, one in zip(found.verdicts, made.verdicts, strict=True)
    ]
    found = Findings(
        found, None, found.about | {name: made.about[name] for name in ("scored", "vocabulary")}, verdicts
    )
    found.to_json(file)
    return found


def new_plants(world: World, folder: Path) -> set[str]:
    """Prompts of the plants that the world's model has learnt and the model without plants has not by half as much."""
    file = folder / "null-effects.json"
    if not file.exists():
        measure(ca.load_model(NULL), world, PAIRS).to_json(file, orient="records")
    effects = json.loads((models_dir() / world.name / "effects.json").read_text("utf-8"))
    before = json.loads(file.read_text("utf-8"))
    return {
        plant.prompt
        for plant, now, then in zip(world.plants, effects, before, strict=True)
        if now["learnt"] and then["effect"] < now["effect"] / 2
    }


def compared(new: Findings, old: Findings, above: float, way: str) -> dict[str, str]:
    """By prompt that was judged, the reason why it fails the gate; "" if it does not.

    Args:
        way: "scores", all that the gate does; "levels", without the scores; "cause", findings matched by cause alone.
    """
    if way != "scores":
        hidden = {"scored": None} if way == "levels" else {"scored": None, "vocabulary": None}
        old = Findings(old, None, {**old.about, **hidden}, old.verdicts)
    decided = gate(new, above, old)
    failing = {one.prompt: one.why for one in decided.rises}
    failing |= {one.finding.prompt: f"{one.finding.label}: {one.why}" for one in decided.failing}
    return {v.prompt: failing.get(v.prompt, "") for v in new.verdicts if v.outcome != "cannot be judged"}


def examine(world: World, out: Path, quick: bool, with_null: bool) -> list[dict[str, Any]]:
    """One row a comparison; with the model without plants as the old release if `with_null`."""
    made: dict[str, Findings] = {}
    for seed in SEEDS[: 2 if quick else None]:
        made[f"seed {seed}"] = audited(
            world, ca.load_model(world.name), seed, out / world.name / f"seed-{seed}", quick
        )
        print(f"{world.name} seed {seed}: {len(made[f'seed {seed}'])} findings", flush=True)
    if not quick:
        made["noise"] = audited(
            world,
            ca.load_model(noisy(world.name, out / world.name / "model")),
            1,
            out / world.name / "noise",
            quick,
        )
    null = audited(world, ca.load_model(NULL), 1, out / world.name / "null", quick) if with_null else None
    plants, result = new_plants(world, out / world.name) if with_null else set(), []
    for above, way in itertools.product(ABOVE, WAYS):
        common = {"world": world.name, "above": above, "way": way}
        for new, old in itertools.permutations(made, 2):
            told = compared(made[new], made[old], above, way)
            red = {prompt: why for prompt, why in told.items() if why}
            sort = "noise" if "noise" in (new, old) else "reseeded"
            result.append({**common, "sort": sort, "new": new, "old": old, "red": bool(red), "prompts": len(told),
                           "why": red})  # fmt: skip
        for new in [name for name in made if name != "noise"] if null is not None else ():
            assert null is not None
            told = compared(made[new], null, above, way)
            some = {prompt: why for prompt, why in told.items() if prompt in plants}
            rest = {
                prompt: why for prompt, why in told.items() if prompt not in {p.prompt for p in world.plants}
            }
            result.append({**common, "sort": "planted", "new": new, "old": "null", "red": any(some.values()),
                           "prompts": len(some), "red_prompts": sum(map(bool, some.values())),
                           "green": [prompt for prompt, why in some.items() if not why]})  # fmt: skip
            result.append({**common, "sort": "retrained", "new": new, "old": "null", "red": any(rest.values()),
                           "prompts": len(rest), "red_prompts": sum(map(bool, rest.values())),
                           "why": {prompt: why for prompt, why in rest.items() if why}})  # fmt: skip
    return result


def figures_of(result: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Shares of red comparisons by sort and limit, with the upper or lower Wilson bound that a floor needs."""
    figures: dict[str, float] = {}
    sorts = ("reseeded", "noise", "planted", "retrained")
    for above, way, sort in itertools.product(ABOVE, WAYS, sorts):
        some = [r for r in result if (r["above"], r["way"], r["sort"]) == (above, way, sort)]
        if not some:
            continue
        name = f"{sort}_above_{above:.0f}{WAYS[way]}"
        red = sum(r["red"] for r in some)
        figures[f"{name}_comparisons"], figures[f"{name}_red"] = len(some), red / len(some)
        if sort in ("planted", "retrained"):
            of = sum(r["prompts"] for r in some)
            hit = sum(r["red_prompts"] for r in some)
            figures[f"{name}_prompts"], figures[f"{name}_red_prompts"] = of, hit / max(1, of)
        else:
            figures[f"{name}_red_high"] = wilson(red, len(some))[1]
    return figures


def add_foreign(rows: Sequence[dict[str, Any]]) -> None:
    """Put the figures of foreign worlds beside those of the bundled ones; earlier ones stay in `foreign_rounds`."""
    content, figures = json.loads(RESULTS.read_text("utf-8")), foreign_figures(rows, ABOVE)
    for key, value in figures.items():
        print(f"{key:60} {value:.3f}")
    earlier = {key: value for key, value in content["figures"].items() if key.startswith("foreign_")}
    if earlier:
        content.setdefault("foreign_rounds", []).append({**content.get("foreign", {}), "figures": earlier})
    content["figures"] = {
        key: value for key, value in content["figures"].items() if key not in earlier
    } | figures
    content["rows"] = [row for row in content["rows"] if not row["sort"].startswith("foreign")] + list(rows)
    content["foreign"] = about()
    RESULTS.write_text(json.dumps(content, indent=2, default=float) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="two seeds of one world, few pictures and prompts"
    )
    parser.add_argument("--worlds", nargs="*", default=list(WORLDS), help="bundled worlds")
    parser.add_argument(
        "--null",
        nargs="*",
        default=list(WORLDS),
        help="worlds that are also compared with a model without plants",
    )
    parser.add_argument("--out", type=Path, default=Path("out/gate"))
    parser.add_argument(
        "--foreign",
        nargs="*",
        type=Path,
        help="folders of worlds.py: compare models without plants with those with them, and nothing else",
    )
    parser.add_argument("--photos", type=Path, help="of the foreign worlds of photographs")
    parser.add_argument("--only", nargs="*", default=[], help="new releases of foreign worlds, or NAME-noise")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.foreign is not None:
        rows = examine_foreign(
            arguments.foreign, arguments.photos, arguments.out, ABOVE, noisy_copy, arguments.only
        )
        add_foreign(rows)
        return
    out = arguments.out / ("quick" if arguments.quick else "full")
    result = []
    for name in arguments.worlds[: 1 if arguments.quick else None]:
        result += examine(World.open(name), out, arguments.quick, name in arguments.null)
    figures = figures_of(result)
    for key, value in figures.items():
        print(f"{key:50} {value:.3f}")
    before = {"figures": {}, "rows": []} if arguments.quick else json.loads(RESULTS.read_text("utf-8"))
    others = ("foreign", "trained")  # of other measurements
    figures |= {key: value for key, value in before["figures"].items() if key.startswith(others)}
    result += [row for row in before["rows"] if row["sort"].startswith(others)]
    path = write_results("gate", figures, result, quick=arguments.quick)
    content = json.loads(path.read_text("utf-8"))
    content |= {key: before[key] for key in ("foreign", "foreign_rounds") if key in before}
    path.write_text(json.dumps(content, indent=2, default=float) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
