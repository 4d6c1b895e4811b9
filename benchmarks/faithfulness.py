"""Which attribution method is faithful, on the bundled picture world and on control dictionaries.

    python benchmarks/faithfulness.py [--quick] [--study NAME_OR_PATH] [--world NAME]

For every dictionary (the study's own, neurons, principal components, random directions) and every method: rank
correlation with exact ablation, deletion, insertion, and correlation with the effects of random groups, with 95 %
intervals over pictures. Then the truth that no method has seen: each planted cause is removed from its scene, the
picture is rendered again, and the change of every prompt's contrast is compared with what the method predicts from
the change of the codes. A method may score well on the first four only because it approximates single ablation.
"""

import argparse
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from results import write_results

import clipattr
from clipattr.attribution import METHODS, Splice, VocabularyContrast, faithfulness
from clipattr.attribution.faithfulness import randomisation
from clipattr.attribution.statistics import interval, pearson, spearman
from clipattr.dictionaries import neurons, pca, random_sae
from clipattr.sites import activations

NAMES = {
    "patching": "patching",
    "integrated_gradients": "integrated_gradients",
    "logit_lens": "logit_lens",
    "act_logit_lens": "act_logit_lens",
    "energy": "energy",
    "random": "random",
}


def controls(study: Any) -> dict[str, Any]:
    """The study's dictionary and three that nobody trained, with as many active latents."""
    acts = torch.as_tensor(np.asarray(study.activations[:4000], dtype=np.float32))
    k = study.dictionary.k or 32
    k = min(k, acts.shape[1])
    site, made_for = str(study.site), study.model.weights_hash
    core = {"site": site, "model_hash": made_for}
    return {
        "sae": study.dictionary,
        "neurons": neurons(acts.shape[1], k=k, **core),
        "pca": pca(acts, k=k, **core),
        "random": random_sae(acts, study.dictionary.n_latents, k, **core),
    }


def rerendered(
    study: Any, world: Any, methods: Sequence[str], *, pairs: int, prompts: int = 24
) -> dict[str, dict[str, Any]]:
    """Predicted against true changes when a planted cause is removed from the scene.

    The prediction of a method is the sum of its values with the codes of the re-rendered picture as baseline.

    Returns:
        by method: `over_prompts`, the correlation across prompts per picture (an interval); `over_plants`, Spearman
        across plants of the mean predicted and the mean true effect on the plant's own prompt.
    """
    model = study.model
    vocabulary = list(world.vocabulary)
    generator = torch.Generator().manual_seed(0)
    per_picture: dict[str, list[torch.Tensor]] = {method: [] for method in methods}
    own: dict[str, list[float]] = {method: [] for method in methods}
    true_own: list[float] = []
    for plant in world.plants:
        scenes = plant.scenes(world, pairs)
        others = [
            vocabulary[i] for i in torch.randperm(len(vocabulary), generator=generator)[:prompts].tolist()
        ]
        chosen = [plant.prompt, *(word for word in others if word != plant.prompt)]
        target = VocabularyContrast(chosen, vocabulary)
        with_cause, without = (
            activations(model, torch.stack([model.prepare(scene.picture()) for scene in side]), study.site)
            for side in zip(*scenes, strict=True)
        )
        reference = study.dictionary.encode(without)
        splice = Splice(model, study.dictionary, study.site, with_cause, target, reference=reference)
        after = Splice(model, study.dictionary, study.site, without, target)
        true = (splice.y - after.y).double()
        true_own.append(float(true[:, 0].mean()))
        for method in methods:
            predicted = METHODS[method](splice).double().sum(1)
            per_picture[method].append(pearson(predicted, true))
            own[method].append(float(predicted[:, 0].mean()))
    truth = torch.tensor(true_own)
    return {
        method: {
            "over_prompts": interval(torch.cat(per_picture[method])[:, None]),
            "over_plants": spearman(torch.tensor(own[method]), truth),
        }
        for method in methods
    }


def number(value: float) -> float | None:
    """JSON has no NaN: an undefined figure is null."""
    return None if value != value else float(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few pictures and pairs")
    parser.add_argument("--study", default="picture-world")
    parser.add_argument("--world", default="picture-world-a", help="the world whose plants are re-rendered")
    arguments = parser.parse_args()
    study = clipattr.open_study(arguments.study)
    methods = ["exact", *NAMES]
    pictures, prompts, pairs = (16, 4, 4) if arguments.quick else (128, 8, 25)
    held_back = study.holdout
    images = (held_back if held_back is not None and len(held_back) else study.images)[:pictures]
    try:
        from clipattr_data.world import World

        world = World.open(arguments.world)
    except (ImportError, ValueError) as error:
        world = None
        print(f"no re-rendering truth for {arguments.world}: {error}")
    words = [plant.prompt for plant in world.plants] if world is not None else list(study.vocabulary.words)
    target = VocabularyContrast(list(dict.fromkeys(words))[:prompts], study.vocabulary)
    rows: list[dict[str, Any]] = []
    figures: dict[str, float | None] = {}
    for name, dictionary in controls(study).items():
        report = faithfulness(study, images, target, methods=methods, dictionary=dictionary, site=study.site)
        table = report.table
        print(f"\n{name}\n{table.round(4).to_string(index=False)}", flush=True)
        rows += [{"dictionary": name, **row} for row in table.to_dict("records")]
        for method, shown in NAMES.items():
            prefix = "" if name == "sae" else f"{name}_"
            score = report.summary(method, "rank_correlation")
            figures[f"{prefix}rank_correlation_{shown}"] = number(score.mean)
        for method in NAMES:
            difference, p = report.compare("exact", method, "deletion")
            rows.append(
                {
                    "dictionary": name,
                    "measure": "deletion, exact - method",
                    "method": method,
                    **vars(difference),
                    "p": p,
                }
            )
    pixels = torch.stack([study.model.prepare(record.load()) for record in images])
    splice = Splice(
        study.model, study.dictionary, study.site, activations(study.model, pixels, study.site), target
    )
    for method in ("exact", "patching", "act_logit_lens", "energy"):
        figures[f"randomised_model_{method}"] = number(interval(randomisation(splice, method)).mean)
    if world is not None:
        for method, found in rerendered(study, world, methods, pairs=pairs).items():
            figures[f"rerender_correlation_{method}"] = number(found["over_prompts"].mean)
            figures[f"rerender_plants_{method}"] = number(found["over_plants"])
            rows.append(
                {
                    "dictionary": "sae",
                    "measure": "re-rendering",
                    "method": method,
                    **vars(found["over_prompts"]),
                }
            )
    print(json.dumps(figures, indent=2))
    rows = [{key: number(v) if isinstance(v, float) else v for key, v in row.items()} for row in rows]
    write_results("faithfulness", figures, rows, quick=arguments.quick)


if __name__ == "__main__":
    main()
