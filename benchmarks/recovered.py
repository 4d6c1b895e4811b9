"""Recovery of true factors by a set of scores: best latent, best family, linear probe. Used by `recovery.py`.

Latents, families and thresholds are chosen on the fitting pictures; figures are of held-out pictures.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

LARGEST_FAMILY = 3
RARE = 10  # pictures; a factor in fewer of them, on either side, is left out
PROBE_PENALTY = (
    1e-2  # of the logistic probes; chosen on picture-world among 1e-4 … 1e-2 (median F1 0.71 … 0.745)
)
FOLDS = 3


@dataclass
class Truth:
    """A world's activations, and the factors of its pictures.

    acts (rows, width), words (rows, embed) the evaluator's embeddings, truth (rows, factors) of 0 and 1, names and
    kinds one a factor, fit (rows,) bool: the pictures that dictionaries, probes and thresholds may see.
    """

    name: str
    acts: Tensor
    words: Tensor
    truth: Tensor
    names: list[str]
    kinds: np.ndarray
    fit: Tensor

    @staticmethod
    def of(
        name: str, acts: np.ndarray, words: np.ndarray, factors: list[set[tuple[str, str]]], fit: Tensor
    ) -> Truth:
        """From the (kind, name) pairs of every picture."""
        every = sorted(set().union(*factors))
        truth = torch.tensor([[one in held for one in every] for held in factors], dtype=torch.float32)
        usual = (truth[fit].sum(0) >= RARE) & (truth[~fit].sum(0) >= RARE)
        kept = [one for one, keep in zip(every, usual.tolist(), strict=True) if keep]
        return Truth(
            name,
            torch.from_numpy(acts.astype(np.float32)),
            torch.from_numpy(words.astype(np.float32)),
            truth[:, usual],
            [one for _, one in kept],
            np.array([kind for kind, _ in kept]),
            fit,
        )


def bundled(name: str) -> Truth:
    """A bundled study, with the factors that its scenes name."""
    import clipattr as ca

    study = ca.open_study(name)
    factors = []
    for number in range(len(study.images)):
        scene = study.images[number].scene
        held = {("object", one) for one in (scene.main, *scene.companions) if one}
        held |= {(kind, one) for kind in ("context", "word", "watermark") if (one := getattr(scene, kind))}
        factors.append(held)
    fit = torch.ones(len(factors), dtype=torch.bool)
    fit[torch.as_tensor(np.asarray(study.holdout_rows), dtype=torch.int64)] = False
    return Truth.of(name, np.asarray(study.activations), np.asarray(study.evaluator_embeddings), factors, fit)


def foreign(name: str, folder: Path, specs: Path) -> Truth:
    """A world of `worlds.py`: `studies/NAME/plain` and `pictures/NAME/contents.json` in a folder.

    The last third of the pictures is held out.
    """
    import csv

    study, spec = (
        folder / "studies" / name / "plain",
        json.loads((specs / f"{name}.json").read_text(encoding="utf-8")),
    )
    contents = json.loads((folder / "pictures" / name / "contents.json").read_text(encoding="utf-8"))
    kind_of = {part: kind for kind in ("context", "mark", "look") for part in spec.get(f"{kind}s", ())}
    with (study / "pictures.csv").open(newline="", encoding="utf-8") as file:
        ids = [row["id"] for row in csv.DictReader(file)]

    def factor(part: str) -> tuple[str, str]:
        word = part.removeprefix("the word ")
        return ("word", word) if word != part else (kind_of.get(part, "object"), part)

    factors = [{factor(part) for part in contents[one]} for one in ids]
    fit = torch.arange(len(ids)) < len(ids) * 2 // 3
    return Truth.of(name, np.load(study / "activations.npy"), np.load(study / "evaluator.npy"), factors, fit)


def best_thresholds(scores: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Best F1 of "score above a threshold" and that threshold, (latents, factors) each; thresholds are at least 0.

    Args:
        scores: (rows, latents); only positive scores may count as present. truth: (rows, factors).
    """
    f1 = torch.zeros(scores.shape[1], truth.shape[1])
    bound = torch.full_like(f1, torch.inf)
    positives = truth.sum(0)
    for latent in range(scores.shape[1]):
        rows = (scores[:, latent] > 0).nonzero().flatten()
        if not len(rows):
            continue
        values, order = scores[rows, latent].sort(descending=True)
        hits = truth[rows[order]].cumsum(0)
        every = 2 * hits / (torch.arange(1, len(rows) + 1)[:, None] + positives)
        # Equal scores are above or below the threshold together.
        every[:-1][values[:-1] == values[1:]] = -1
        f1[latent], place = every.max(0)
        below = torch.cat([values[1:], values.new_zeros(1)])
        bound[latent] = (values[place] + below[place]) / 2
    return f1, bound


def f1_of(found: Tensor, truth: Tensor) -> Tensor:
    """F1 of (rows, factors) predictions, (factors,)."""
    return 2 * (found * truth).sum(0) / (found.sum(0) + truth.sum(0)).clamp_min(1)


def auc_of(scores: Tensor, truth: Tensor) -> Tensor:
    """Area under the ROC curve of (rows, factors) scores, ties counted half."""
    from scipy.stats import rankdata

    ranks = torch.from_numpy(rankdata(scores.numpy(), axis=0)).float()
    positives = truth.sum(0)
    return ((ranks * truth).sum(0) - positives * (positives + 1) / 2) / (positives * (len(truth) - positives))


@dataclass
class Recovered:
    """Per factor, on held-out pictures: F1 and AUC of the best latent, F1 of the best family, F1 of "is active".

    latent: which latent; split: share of the factor's fitted positives that the best latent misses and the family's
    others catch; shared: whether the latent is also the best one of another factor.
    """

    f1: Tensor
    auc: Tensor
    family_f1: Tensor
    active_f1: Tensor
    latent: Tensor
    split: Tensor
    shared: Tensor


def recovered(scores: Tensor, world: Truth) -> Recovered:
    """Score (rows, latents) codes or projections against a world's factors."""
    fit, factors = world.fit, torch.arange(world.truth.shape[1])
    chosen, held, truth, held_truth = scores[fit], scores[~fit], world.truth[fit], world.truth[~fit]
    f1, bound = best_thresholds(chosen, truth)
    latent = f1.argmax(0)
    threshold = bound[latent, factors]
    active = (chosen > 0).float()
    hits = active.T @ truth
    by_activity = (2 * hits / (active.sum(0)[:, None] + truth.sum(0)).clamp_min(1)).argmax(0)
    family_f1, split = torch.zeros(len(factors)), torch.zeros(len(factors))
    for factor in factors.tolist():
        found, family = (chosen[:, latent[factor]] > threshold[factor]), [int(latent[factor])]
        first, best = found, float(f1[latent[factor], factor])
        # Only latents that predict the factor better than chance by themselves can help a family.
        for _ in range(LARGEST_FAMILY - 1):
            options = [
                one for one in f1[:, factor].topk(min(12, len(f1))).indices.tolist() if one not in family
            ]
            gains = [
                float(
                    f1_of(
                        (found | (chosen[:, one] > bound[one, factor])).float()[:, None], truth[:, [factor]]
                    )
                )
                for one in options
            ]
            if not gains or max(gains) <= best + 0.01:
                break
            best, added = max(gains), options[int(np.argmax(gains))]
            family.append(added)
            found = found | (chosen[:, added] > bound[added, factor])
        there = torch.stack([held[:, one] > bound[one, factor] for one in family]).any(0)
        family_f1[factor] = f1_of(there.float()[:, None], held_truth[:, [factor]])[0]
        positive = truth[:, factor] > 0
        split[factor] = (found & ~first & positive).sum() / positive.sum()
    return Recovered(
        f1_of((held[:, latent] > threshold).float(), held_truth),
        auc_of(held[:, latent], held_truth),
        family_f1,
        f1_of((held[:, by_activity] > 0).float(), held_truth),
        latent,
        split,
        torch.bincount(latent, minlength=scores.shape[1])[latent] > 1,
    )


def probe(world: Truth) -> Tensor:
    """Held-out F1 of a logistic probe for every factor, (factors,): what a linear reading can reach.

    Thresholds are those of best F1 on out-of-fold scores of the fitting pictures.
    """
    acts, truth = world.acts[world.fit].double(), world.truth[world.fit]
    mean = acts.mean(0)
    values, vectors = torch.linalg.eigh((acts - mean).T @ (acts - mean) / len(acts))
    whiten = vectors / (values + 1e-3 * values.mean()).sqrt()
    x, held = ((one.double() - mean) @ whiten for one in (world.acts[world.fit], world.acts[~world.fit]))
    x, held = x.float(), held.float()
    folds, outside = torch.arange(len(x)) % FOLDS, torch.zeros_like(truth)
    for fold in range(FOLDS):
        inside = folds != fold
        outside[~inside] = _logistic(x[inside], truth[inside], x[~inside])
    low = outside.min()
    found = torch.zeros(int((~world.fit).sum()), truth.shape[1])
    scores = _logistic(x, truth, held)
    for factor in range(truth.shape[1]):
        _, bound = best_thresholds(outside[:, [factor]] - low + 1, truth[:, [factor]])
        found[:, factor] = (scores[:, factor] - low + 1 > bound[0, 0]).float()
    return f1_of(found, world.truth[~world.fit])


def _logistic(x: Tensor, truth: Tensor, held: Tensor) -> Tensor:
    weights = torch.zeros(x.shape[1] + 1, truth.shape[1], requires_grad=True)
    ones, ones_held = torch.ones(len(x), 1), torch.ones(len(held), 1)
    x, held = torch.cat([x, ones], 1), torch.cat([held, ones_held], 1)
    optimiser = torch.optim.LBFGS([weights], max_iter=80, history_size=10, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        fit = torch.nn.functional.binary_cross_entropy_with_logits(x @ weights, truth, reduction="sum")
        loss = fit / len(x) + PROBE_PENALTY * weights[:-1].square().sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    return (held @ weights).detach()
