"""Recovery: how much of what an activation holds has a latent, or a small family, of its own.

    python benchmarks/recovery.py [--quick] [--foreign FOLDER] [--worlds NAME …] [--seeds N] [--keep FOLDER]

For every factor of a world with truth (objects, contexts, marks, looks, written words): F1 of the best latent and of
the best family of at most three, beside a linear probe (the upper bound), neurons, PCA, k-means, a frozen random
dictionary, the named and the joined dictionary. Latents and thresholds are chosen on the pictures that the dictionary
was trained on and reported on held-out ones. `--foreign` is the folder that `worlds.py` builds studies in.

Axes: kind, number of latents, k, whitening, and tokens seen, one at a time around the default. With `--quick` one seed
and no axes.

Worlds on which settings were chosen: picture-world, picture-world-b, and foreign worlds named `…-choose-…`. The
headline figures are those of the other worlds.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pieces import Pieces, add_arguments
from recovered import Recovered, Truth, bundled, foreign, probe, recovered
from results import write_results

import clipattr as ca
from clipattr.dictionaries import Dictionary, Recipe, train_saes
from clipattr.dictionaries.choosing import agreement, candidates, default_schedule

CHOSEN_ON = ("picture-world", "picture-world-b")
BUNDLED = ("picture-world", "picture-world-b", "picture-world-c")
BEFORE_STEPS = (
    2000  # of the default before settings were chosen: 8 latents a dimension, k a twelfth of the width
)
FOUND = 0.7  # F1 from which a factor counts as having a latent
FLOOR = 0.05  # of the probe's F1 when something is divided by it
DRAWS = 1000
OWN_WORDS = 150  # held-out pictures whose largest attribution is compared with their label


def settings_chosen_on(world: str) -> bool:
    """Whether a default was chosen on this world."""
    return world in CHOSEN_ON or "-choose-" in world


def scores_of(dictionary: Dictionary, world: Truth) -> torch.Tensor:
    """(rows, latents): codes; of signed projections both signs, as latents of their own."""
    codes = dictionary.encode(world.acts).to_dense()
    if bool((codes < 0).any()):
        codes = torch.cat([codes.clamp_min(0), (-codes).clamp_min(0)], 1)
    return codes


def controls(world: Truth, study: Any, like: Recipe) -> dict[str, Callable[[int], Dictionary]]:
    """Controls for a trained dictionary; functions by seed."""
    fitted, width = world.acts[world.fit], world.acts.shape[1]
    made: dict[str, Callable[[int], Dictionary]] = {
        "neurons": lambda seed: ca.neurons(width),
        "pca": lambda seed: ca.pca(fitted),
        "kmeans": lambda seed: ca.kmeans(fitted, min(like.n_latents, len(fitted) // 4), like.k, seed=seed),
        "random": lambda seed: ca.random_sae(fitted, like.n_latents, like.k, seed=seed),
    }
    if study is not None:
        words, names = study.vocabulary_embeddings, list(study.vocabulary.words)
        made["named"] = lambda seed: ca.named_dictionary(
            fitted, world.words[world.fit], np.asarray(words, np.float32), names
        )
        made["joined"] = lambda seed: ca.joined_dictionary(
            fitted, world.words[world.fit], np.asarray(words, np.float32), names, seed=seed, progress=False
        )
    return made


def summary(found: Recovered, top: torch.Tensor, world: Truth) -> dict[str, Any]:
    """Plain numbers of one dictionary in one world, by kind of factor; F1 of every factor beside them."""
    kinds = {}
    for kind in sorted(set(world.kinds.tolist())):
        mine = torch.from_numpy(world.kinds == kind)
        f1, best = found.f1[mine], top[mine]
        kinds[kind] = {
            "factors": int(mine.sum()),
            "f1": float(f1.median()),
            "f1_70": float((f1 >= FOUND).float().mean()),
            "over_probe": float((f1 / best.clamp_min(FLOOR)).median()),
            "family_f1": float(found.family_f1[mine].median()),
            "family_over_probe": float((found.family_f1[mine] / best.clamp_min(FLOOR)).median()),
            "active_f1": float(found.active_f1[mine].median()),
            "auc": float(found.auc[mine].median()),
            "split": float(found.split[mine].mean()),
            "shared": float(found.shared[mine].float().mean()),
            "probe": float(best.median()),
            "probe_70": float((best >= FOUND).float().mean()),
        }
    return {"kinds": kinds, "f1": found.f1.tolist(), "latent": found.latent.tolist()}


def measured(world: Truth, recipe: Recipe, seed: int, steps: int | None, top: torch.Tensor) -> dict[str, Any]:
    """Train one dictionary on the fitting pictures and score it; with the criterion that needs no truth."""
    fitted = world.acts[world.fit]
    schedule = default_schedule(len(fitted))
    made = train_saes(
        fitted, recipe, seeds=(seed,), steps=steps or schedule.steps, batch=schedule.batch, decay=schedule.decay,
        progress=False,
    )[0]  # fmt: skip
    codes = made.encode(world.acts[~world.fit])
    error = made.error(world.acts[~world.fit], codes)
    held = world.acts[~world.fit]
    return {
        **summary(recovered(scores_of(made, world), world), top, world),
        "fvu": float(error.square().sum() / (held - held.mean(0)).square().sum()),
        "agreement": agreement(made, fitted),
        "directions": made.decoder.half().tolist() if seed < 2 else None,
    }


def axes(default: Recipe) -> list[tuple[str, Any, Recipe, int | None]]:
    """(axis, value, recipe, steps) around the default, one setting changed at a time."""
    n, k = default.n_latents, default.k
    kinds = [
        (kind, replace(default, kind=kind, options={}))
        for kind in ("topk", "batchtopk", "matryoshka", "nested")
    ]
    found: list[tuple[str, Any, Recipe, int | None]] = [
        ("kind", kind, recipe, None) for kind, recipe in kinds
    ]
    plain = replace(default, kind="topk", options={})
    found += [("n_latents", size, replace(plain, n_latents=size), None) for size in (n // 2, 2 * n, 3 * n)]
    found += [("k", count, replace(plain, k=count), None) for count in (max(1, k // 2), 2 * k, 4 * k)]
    found += [("whiten", ridge, replace(plain, whiten=ridge), None) for ridge in (None, 0.1, 10.0)]
    return found + [("steps", steps, plain, steps) for steps in (500, 4000)]


def own_word(name: str) -> dict[str, float]:
    """How often a bundled study's labelled pictures are explained by their own word, and what bounds that.

    Returns:
        shares of the same held-out pictures: `is_largest`, the largest attribution is named by the picture's own word;
        `by_classifier`, a logistic regression on the activations, fitted with true labels, names it; `by_evaluator`,
        the evaluator prefers it to every other label.
    """
    from sklearn.linear_model import LogisticRegression

    study = ca.open_study(name)
    known, held = set(study.vocabulary.words), set(np.asarray(study.holdout_rows).tolist())
    labels = [study.images[row].label for row in range(len(study.images))]
    labelled = [row for row, label in enumerate(labels) if label in known]
    rows = [row for row in labelled if row in held][:OWN_WORDS]
    fitted = [row for row in labelled if row not in held]
    right = 0
    for row in rows:
        top = ca.attribute(study, study.images[row], ca.Similarity(labels[row])).top(1)
        right += top.iloc[0]["label"] == labels[row]
    acts = np.asarray(study.activations[:], np.float32)
    acts = (acts - acts[fitted].mean(0)) / acts[fitted].std()
    classifier = LogisticRegression(C=0.3, max_iter=200).fit(acts[fitted], [labels[row] for row in fitted])
    words = sorted({labels[row] for row in fitted})
    texts = study.evaluator.encode_text(words)
    seen = torch.from_numpy(np.asarray(study.evaluator_embeddings[rows], np.float32)) @ texts.float().T
    told = [words[number] for number in seen.argmax(1).tolist()]
    return {
        "is_largest": right / len(rows),
        "by_classifier": float(np.mean(classifier.predict(acts[rows]) == [labels[row] for row in rows])),
        "by_evaluator": float(np.mean([one == labels[row] for one, row in zip(told, rows, strict=True)])),
    }


def interval(values: Sequence[float]) -> str:
    """Mean and range over seeds."""
    return f"{statistics.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def margin(one: Sequence[float], other: Sequence[float]) -> list[float]:
    """Mean difference of two F1 lists over factors with a 95 % bootstrap interval over factors."""
    difference = np.asarray(one) - np.asarray(other)
    draws = np.random.default_rng(0).choice(difference, (DRAWS, len(difference))).mean(1)
    return [float(difference.mean()), *np.quantile(draws, (0.025, 0.975)).tolist()]


def spearman(rows: list[dict[str, Any]], name: str) -> float:
    """Rank correlation of a figure with recovery within a world, averaged over worlds."""
    from scipy.stats import spearmanr

    found = []
    for world in sorted({row["world"] for row in rows}):
        mine = [row for row in rows if row["world"] == world and row["axis"] != "control"]
        if len(mine) > 3:
            found.append(spearmanr([row[name] for row in mine], [row["recovery"] for row in mine]).statistic)
    return statistics.mean(found) if found else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one seed, no axes")
    parser.add_argument("--foreign", type=Path, help="folder of `worlds.py`'s studies and pictures")
    parser.add_argument("--specs", type=Path, default=Path(__file__).parent / "world_kit" / "specs")
    parser.add_argument("--worlds", nargs="*", help="only these")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--no-axes", action="store_true")
    add_arguments(parser)
    options = parser.parse_args()
    seeds = range(1 if options.quick else options.seeds)
    names = list(BUNDLED)
    if options.foreign is not None:
        names += sorted(one.parent.name for one in options.foreign.glob("studies/*/plain"))
    names = [name for name in names if not options.worlds or name in options.worlds]
    pieces = Pieces(options.keep, options.minutes)
    rows: list[dict[str, Any]] = []
    for name in names:
        study = name if name in BUNDLED else options.foreign / "studies" / name / "plain"
        rows += rows_of(name, study, options, seeds, pieces)
    figures = figures_of(rows, names)
    for name in BUNDLED[:1] if options.quick else BUNDLED:
        found = pieces.piece("own word and its bounds", [name], partial(own_word, name))
        figures |= {f"own_word_{what}_{name}": share for what, share in found.items()}
    for name, value in figures.items():
        print(f"{name:44s} {value:.4f}")
    kept = [
        {key: value for key, value in row.items() if key not in ("f1", "latent", "directions")}
        for row in rows
    ]
    print(f"written to {write_results('recovery', figures, kept, quick=options.quick)}")


def rows_of(
    name: str, place: Any, options: Any, seeds: Sequence[int], pieces: Pieces
) -> list[dict[str, Any]]:
    """All measurements in one world, as rows of the result."""
    world = bundled(name) if name in BUNDLED else foreign(name, options.foreign, options.specs)
    study = ca.open_study(place if isinstance(place, str) else str(place))
    top = pieces.piece(f"probe {name}", [name], lambda: probe(world))
    default = candidates(world.acts.shape[1], int(world.fit.sum()))[0]
    rows: list[dict[str, Any]] = []

    def add(axis: str, value: Any, seed: int, made: dict[str, Any]) -> None:
        ratio = np.asarray(made["f1"]) / np.maximum(top.numpy(), FLOOR)
        recovery = float(np.minimum(ratio, 1.2).mean())
        rows.append({"world": name, "axis": axis, "value": value, "seed": seed, "recovery": recovery, **made})
        shown = " ".join(f"{kind} {one['f1']:.2f}/{one['probe']:.2f}" for kind, one in made["kinds"].items())
        print(f"{name:22s} {axis:10s} {value!s:>14s} seed {seed}: {shown}", flush=True)

    for seed in seeds:
        about = [name, default.told(), seed, None]
        made = pieces.piece("trained", about, partial(measured, world, default, seed, None, top))
        add("default", default.told(), seed, made)
    width, fitted = world.acts.shape[1], int(world.fit.sum())
    before = Recipe(max(16, min(8 * width, fitted // 4)), max(1, min(64, width // 12)))
    about = [name, before.told(), 0, BEFORE_STEPS]
    add(
        "before",
        before.told(),
        0,
        pieces.piece("before", about, partial(measured, world, before, 0, BEFORE_STEPS, top)),
    )
    for label, make in controls(world, study, default).items():
        for seed in seeds if label in ("kmeans", "random", "joined") else (0,):

            def scored(make: Callable[[int], Dictionary] = make, seed: int = seed) -> dict[str, Any]:
                return summary(recovered(scores_of(make(seed), world), world), top, world)

            add("control", label, seed, pieces.piece(label, [name, label, seed, default.told()], scored))
    if not options.quick and not options.no_axes:
        for axis, value, recipe, steps in axes(default):
            about = [name, recipe.told(), 0, steps]
            add(axis, value, 0, pieces.piece(axis, about, partial(measured, world, recipe, 0, steps, top)))
    return rows


def figures_of(rows: list[dict[str, Any]], names: Sequence[str]) -> dict[str, float]:
    """Headline figures: means over seeds and over the worlds on which nothing was chosen; margins over controls."""
    figures: dict[str, float] = {}
    reported = [name for name in names if not settings_chosen_on(name)]
    for label, worlds in (
        ("", reported),
        ("chosen_on_", [name for name in names if settings_chosen_on(name)]),
    ):
        for who in ("default", "before", *sorted({row["value"] for row in rows if row["axis"] == "control"})):
            mine = [
                row for row in rows if row["world"] in worlds
                and (row["axis"] == who if who in ("default", "before") else row["value"] == who)
            ]  # fmt: skip
            if not mine:
                continue
            tail = "" if who == "default" else f"_{who}"
            for kind, short in (("object", "objects"), ("context", "contexts"), ("word", "words")):
                found = [row["kinds"][kind] for row in mine if kind in row["kinds"]]
                if found:
                    figures[f"{label}{short}_over_probe{tail}"] = statistics.mean(
                        o["over_probe"] for o in found
                    )
                    figures[f"{label}{short}_f1_70{tail}"] = statistics.mean(o["f1_70"] for o in found)
                if found and who == "default":
                    figures[f"{label}{short}_probe_f1_70"] = statistics.mean(o["probe_70"] for o in found)
                    figures[f"{label}{short}_family_over_probe"] = statistics.mean(
                        o["family_over_probe"] for o in found
                    )
            if who != "default":
                pairs = [
                    (own["f1"], other["f1"]) for other in mine for own in rows
                    if own["axis"] == "default" and (own["world"], own["seed"]) == (other["world"], other["seed"])
                ]  # fmt: skip
                low = margin(sum((one for one, _ in pairs), []), sum((two for _, two in pairs), []))
                figures |= {
                    f"{label}margin_over_{who}{part}": value
                    for part, value in zip(("", "_low", "_high"), low, strict=True)
                }
    for row in rows:
        if "agreement" in row:
            row["score"] = row["agreement"] * (1 - row["fvu"]) ** 2
    for name in ("score", "agreement", "fvu"):
        scored = [row for row in rows if name in row]
        figures[f"recovery_correlation_{name}"] = spearman(scored, name)
    stable = []
    for name in names:
        pair = [
            row["directions"]
            for row in rows
            if row["world"] == name and row["axis"] == "default" and row["seed"] < 2
        ]
        if len(pair) == 2:
            one, two = (torch.nn.functional.normalize(torch.tensor(p).float(), dim=1) for p in pair)
            stable.append(float((one @ two.T).max(1).values.mean()))
    if stable:
        figures["seed_stability"] = statistics.mean(stable)
    return figures


if __name__ == "__main__":
    main()
