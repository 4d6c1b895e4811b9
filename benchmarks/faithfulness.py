"""Faithfulness of attribution methods on the bundled picture worlds and on control dictionaries.

    python benchmarks/faithfulness.py [--quick] [--study NAME_OR_PATH --world NAME] [--with FILE]

For every bundled study, every dictionary (the study's own, neurons, principal components, random directions) and every
method: rank correlation with exact ablation, deletion, insertion, and correlation with the effects of random groups,
pooled over the studies with 95 % intervals over pictures. Then a test against the truth: each planted cause is removed
from its scene, the picture is rendered again, and the change of every prompt's contrast is compared with what
the method predicts from the change of the codes. A method may score well on the first four only because it approximates
single ablation.

`--with FILE` runs a Python file first; methods that it registers are measured beside the rest. With `--keep FOLDER`
what has been measured of each study and dictionary stays there, so that a run that was cut off, or stopped by
`--minutes`, goes on.
"""

import argparse
import json
import runpy
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pieces import Pieces, add_arguments
from results import write_results

import clipattr
from clipattr.attribution import METHODS, Faithfulness, Splice, VocabularyContrast
from clipattr.attribution.faithfulness import default_methods, faithfulness, randomisation
from clipattr.dictionaries import neurons, pca, random_sae
from clipattr.sites import activations
from clipattr.statistics import bootstrap, pearson, sign_flip, spearman

RANDOMISED = ("exact", "patching", "act_logit_lens", "energy")


def bundled() -> dict[str, str]:
    """Studies that are there and whose world has plants, with the world of each."""
    from clipattr_data import studies_dir
    from clipattr_data.build import NULL, STUDIES

    return {
        study: world
        for study, world in STUDIES.items()
        if world != NULL and (studies_dir() / study / "study.json").exists()
    }


def controls(study: Any) -> dict[str, Callable[[], Any]]:
    """The study's dictionary and three untrained ones, with as many active latents; each made when called."""
    acts = torch.as_tensor(np.asarray(study.activations[:4000], dtype=np.float32))
    k = study.dictionary.k or 32
    k = min(k, acts.shape[1])
    site, made_for = str(study.site), study.model.weights_hash
    core = {"site": site, "model_hash": made_for}
    return {
        "sae": lambda: study.dictionary,
        "neurons": lambda: neurons(acts.shape[1], k=k, **core),
        "pca": lambda: pca(acts, k=k, **core),
        "random": lambda: random_sae(acts, study.dictionary.n_latents, k, **core),
    }


def rerendered(
    study: Any, world: Any, dictionary: Any, methods: Sequence[str], *, pairs: int, prompts: int = 24
) -> dict[str, dict[str, torch.Tensor]]:
    """Predicted against true changes when a planted cause is removed from the scene.

    The prediction of a method is the sum of its values with the codes of the re-rendered picture as baseline.

    Returns:
        by method: `per_picture` (pictures,), the correlation across prompts; `own` (plants,), the mean predicted effect
        on each plant's own prompt; `true` (plants,), the mean true one.
    """
    model = study.model
    vocabulary = list(world.vocabulary)
    with torch.no_grad():
        words = model.encode_text(vocabulary)
    generator = torch.Generator().manual_seed(0)
    per_picture: dict[str, list[torch.Tensor]] = {method: [] for method in methods}
    own: dict[str, list[float]] = {method: [] for method in methods}
    true_own: list[float] = []
    for plant in world.plants:
        scenes = plant.scenes(world, pairs)
        order = torch.randperm(len(vocabulary), generator=generator)[:prompts].tolist()
        others = [vocabulary[i] for i in order]
        chosen = [plant.prompt, *(word for word in others if word != plant.prompt)]
        target = VocabularyContrast(chosen, words)
        with_cause, without = (
            activations(model, torch.stack([model.prepare(scene.picture()) for scene in side]), study.site)
            for side in zip(*scenes, strict=True)
        )
        reference = dictionary.encode(without)
        splice = Splice(model, dictionary, study.site, with_cause, target, reference=reference)
        after = Splice(model, dictionary, study.site, without, target)
        true = (splice.y - after.y).double()
        true_own.append(float(true[:, 0].mean()))
        for method in methods:
            predicted = METHODS[method](splice).double().sum(1)
            per_picture[method].append(pearson(predicted, true))
            own[method].append(float(predicted[:, 0].mean()))
    return {
        method: {
            "per_picture": torch.cat(per_picture[method]),
            "own": torch.tensor(own[method], dtype=torch.float64),
            "true": torch.tensor(true_own, dtype=torch.float64),
        }
        for method in methods
    }


def joined(
    parts: Sequence[dict[str, dict[str, torch.Tensor]]],
) -> dict[str, dict[str, torch.Tensor]]:
    """What `rerendered` found in several studies, one behind the other."""
    return {
        method: {name: torch.cat([part[method][name] for part in parts]) for name in found}
        for method, found in parts[0].items()
    }


def number(value: float | None) -> float | None:
    """Six digits after the point. JSON has no NaN: an undefined figure is null."""
    return None if value is None or value != value else round(float(value), 6)


def pooled(reports: Sequence[Faithfulness]) -> Faithfulness:
    """Pictures of several studies, concatenated."""
    scores = {key: torch.cat([report.scores[key] for report in reports]) for key in reports[0].scores}
    return Faithfulness(scores, reports[0].methods, reports[0].unit)


def world_of(name: str) -> Any:
    """The world whose plants are rendered again, None where it is not there."""
    try:
        from clipattr_data.world import World

        return World.open(name)
    except (ImportError, ValueError, OSError) as error:
        print(f"no re-rendering truth for {name}: {error}")
        return None


class Subject:
    """One study, with what is measured on it."""

    def __init__(self, name: str, world_name: str, sizes: tuple[int, int, int]) -> None:
        self.name, self.sizes = name, sizes
        self.study, self.world = clipattr.open_study(name), world_of(world_name)
        held_back = self.study.holdout
        some = held_back if held_back is not None and len(held_back) else self.study.images
        self.images = some[: sizes[0]]
        words = list(self.study.vocabulary.words)
        if self.world is not None:
            words = [plant.prompt for plant in self.world.plants]
        self.target = VocabularyContrast(list(dict.fromkeys(words))[: sizes[1]], self.study.vocabulary)
        self.methods = default_methods()
        self.made = controls(self.study)

    @property
    def about(self) -> list[Any]:
        """Settings that determine the numbers."""
        study = self.study
        return [study.model.weights_hash, study.dictionary.hash, self.target.names, self.methods, self.sizes]

    def suite(self, kind: str) -> dict[str, Any]:
        """The suite and the re-rendering with one dictionary."""
        dictionary, study = self.made[kind](), self.study
        report = faithfulness(
            study, self.images, self.target, methods=self.methods, dictionary=dictionary, site=study.site
        )
        rendered = None
        if self.world is not None and self.world.plants:
            rendered = rerendered(study, self.world, dictionary, self.methods, pairs=self.sizes[2])
        return {"scores": report.scores, "unit": report.unit, "rendered": rendered}

    def chances(self) -> dict[str, torch.Tensor]:
        """By method, its values' rank correlation with those in the randomised model."""
        study = self.study
        pixels = torch.stack([study.model.prepare(record.load()) for record in self.images])
        acts = activations(study.model, pixels, study.site)
        splice = Splice(study.model, study.dictionary, study.site, acts, self.target)
        return {method: randomisation(splice, method) for method in RANDOMISED}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few pictures and pairs")
    parser.add_argument("--study", default=None, help="one study in place of all that are bundled")
    parser.add_argument("--world", default="picture-world-a", help="the world of --study")
    parser.add_argument("--with", dest="file", default=None, help="a Python file that registers methods")
    add_arguments(parser)
    arguments = parser.parse_args()
    if arguments.file is not None:
        runpy.run_path(arguments.file)
    pieces = Pieces(arguments.keep, arguments.minutes)
    studies = bundled() if arguments.study is None else {arguments.study: arguments.world}
    sizes = (16, 4, 4) if arguments.quick else (128, 8, 25)
    rows: list[dict[str, Any]] = []
    figures: dict[str, float | None] = {"studies": float(len(studies))}
    suites: dict[str, list[Faithfulness]] = {}
    truths: dict[str, list[dict[str, dict[str, torch.Tensor]]]] = {}
    chances: dict[str, list[torch.Tensor]] = {}
    subjects = [Subject(name, world, sizes) for name, world in studies.items()]

    def piece(subject: Subject, kind: str, make: Callable[[], Any], optional: bool) -> Any:
        return pieces.piece(f"{Path(subject.name).name}-{kind}", subject.about, make, optional=optional)

    # The studies' own dictionaries first: where time is short, controls are left out.
    for kind in subjects[0].made:
        for subject in subjects:
            make = partial(subject.suite, kind)
            found = piece(subject, kind, make, kind != "sae")
            if found is None:
                continue
            report = Faithfulness(found["scores"], subject.methods, found["unit"])
            suites.setdefault(kind, []).append(report)
            about = {"study": subject.name, "dictionary": kind}
            rows += [{**about, **row} for row in report.table.to_dict("records")]
            if found["rendered"] is not None:
                truths.setdefault(kind, []).append(found["rendered"])
                rows += [{**about, **row} for row in rendered_rows(found["rendered"])]
            print(f"{subject.name}, {kind}: measured", flush=True)
        if kind == "sae":
            for subject in subjects:
                for method, values in piece(subject, "randomised", subject.chances, False).items():
                    chances.setdefault(method, []).append(values)
    for name, reports in suites.items():
        report, prefix = pooled(reports), "" if name == "sae" else f"{name}_"
        print(f"\n{name}\n{report.table.round(4).to_string(index=False)}", flush=True)
        rows += [{"study": "all", "dictionary": name, **row} for row in report.table.to_dict("records")]
        for method in report.methods:
            if method == "exact":
                continue
            score = report.summary(method, "rank_correlation")
            figures[f"{prefix}rank_correlation_{method}"] = number(score.value)
            difference, p = report.compare("exact", method, "deletion")
            measure_name = "deletion, exact - method"
            rows.append(
                {"study": "all", "dictionary": name, "measure": measure_name, "method": method}
                | {**vars(difference), "p": p}
            )
    for name, parts in truths.items():
        together, prefix = joined(parts), "" if name == "sae" else f"{name}_"
        for row in rendered_rows(together):
            rows.append({"study": "all", "dictionary": name, **row})
            if row["measure"] == "re-rendering, over prompts":
                figures[f"{prefix}rerender_correlation_{row['method']}"] = number(row["mean"])
            if row["measure"] == "re-rendering, over plants":
                figures[f"{prefix}rerender_plants_{row['method']}"] = number(row["mean"])
    for method, values in chances.items():
        figures[f"randomised_model_{method}"] = number(bootstrap(torch.cat(values)).value)
    print(json.dumps(figures, indent=2))
    rows = [{key: number(v) if isinstance(v, float) else v for key, v in row.items()} for row in rows]
    figures = {key: number(value) for key, value in figures.items() if number(value) is not None}
    write_results("faithfulness", figures, rows, quick=arguments.quick)


def rendered_rows(found: dict[str, dict[str, torch.Tensor]]) -> list[dict[str, Any]]:
    """Per method: correlation over prompts with its interval, its paired difference to exact ablation, and the rank
    correlation over plants."""
    rows: list[dict[str, Any]] = []
    for method, values in found.items():
        score = bootstrap(values["per_picture"][:, None])
        rows.append({"measure": "re-rendering, over prompts", "method": method, **vars(score)})
        plants = spearman(values["own"], values["true"])
        rows.append({"measure": "re-rendering, over plants", "method": method, "mean": float(plants)})
        if method != "exact":
            difference = (found["exact"]["per_picture"] - values["per_picture"])[:, None]
            rows.append(
                {"measure": "re-rendering, exact - method", "method": method}
                | {**vars(bootstrap(difference)), "p": sign_flip(difference)}
            )
    return rows


if __name__ == "__main__":
    main()
