"""Choosing: settings of a dictionary for activations of unknown structure.

Owns the candidates, the budget, and the criterion, which needs no ground truth. All candidates train in one pass and
resume together. docs/decisions/dictionary-defaults.md gives reasons for the candidates and the criterion. Start at
`train_sae` and `choose_sae`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from typing import Any

import torch
from torch import Tensor

from clipattr.dictionaries.batches import as_source, sample_of
from clipattr.dictionaries.codes import SparseCodes
from clipattr.dictionaries.objective import check_options
from clipattr.dictionaries.recipes import Job, Recipe, Schedule, check_schedule, check_whole, split_options
from clipattr.dictionaries.sae import Dictionary
from clipattr.dictionaries.training import train_saes
from clipattr.errors import DictionaryError

BUDGET = 0.0  # multiply-adds beyond the first candidate; no search was shown to beat it (decision note)
STEPS = 1200  # training steps, the length at which recipes were compared
JUDGED = 8192  # rows on which candidates are compared
STRONG = (
    0.5  # fraction of a latent's strength (mean of its five largest codes) from which it counts as present
)
RIDGE = 1e-2  # penalty of the regression in `agreement`, in units of the mean variance
USED = 5  # rows per half on which a latent must be present to count in `agreement`


def train_sae(
    acts: Any, n_latents: int | None = None, k: int | None = None, *, seed: int = 0, **options: Any
) -> Dictionary:
    """Train one dictionary on activations; options are the fields of `Recipe`, `Schedule` and `Job`.

    Without n_latents and k, settings are chosen on the activations (`choose_sae`, which takes a `budget`).

    Args:
        acts: (rows, width) tensor, array or memory map, an `ActivationStore`, or any `batches.Source`.
        n_latents, k: number of latents, and of active ones per row; give both or none.
        seed: of the initial directions.
        options: fields of `Recipe`, `Schedule` and `Job`, e.g. steps=4000 or checkpoint="runs/a".

    Returns:
        The trained `Dictionary`; its `info` records recipe, schedule and final loss.

    Raises:
        DictionaryError: one of n_latents and k alone, or as `train_saes`.

    >>> acts = torch.randn(512, 8, generator=torch.Generator().manual_seed(0))
    >>> made = train_sae(acts, n_latents=32, k=4, steps=20, progress=False)
    >>> codes = made.encode(acts)
    >>> codes.shape, torch.allclose(made.decode(codes) + made.error(acts, codes), acts, atol=1e-5)
    ((512, 32), True)
    """
    if (n_latents is None) != (k is None):
        raise DictionaryError(
            f"Give n_latents and k together, or neither to have them chosen; got n_latents={n_latents} and k={k}."
        )
    if n_latents is None:
        return choose_sae(acts, seed=seed, **options)
    if "budget" in options:
        raise DictionaryError(
            "A budget limits the choice of settings, and n_latents and k leave no choice: give one or the other."
        )
    return train_saes(acts, seeds=(seed,), n_latents=n_latents, k=k, **options)[0]


def candidates(width: int, rows: int) -> list[Recipe]:
    """Recipes to compare, the most promising first.

    Few latents (1.6 per dimension, 3.2 and 8 in later candidates) with at least 7 rows per latent; few active ones,
    since a second active latent for one factor would split it.

    Args:
        width: of the activations. rows: how many there are.
    """

    def size(latents: int) -> int:
        return max(16, min(30_000, latents, rows // 7))

    few, more, wide = size(8 * width // 5), size(16 * width // 5), size(8 * width)
    k = max(1, min(4, few // 8))
    rate = 2e-3 if more <= 4096 else None
    found = [
        Recipe(few, k + 1, kind="nested", whiten=1.0, lr=rate, options={"first": few // 8}),
        Recipe(few, k, whiten=1.0, lr=rate),
        Recipe(more, k + 2, kind="nested", lr=rate, options={"first": max(2, more // 16)}),
    ]
    if wide > more:
        found.append(Recipe(wide, max(k, width // 24), whiten=1.0, lr=rate))
    return found


def default_schedule(rows: int) -> Schedule:
    """1,200 steps of 1/24 of the rows each (32 to 1,024 rows); a small study is seen 50 times."""
    return Schedule(steps=STEPS, batch=max(1, min(1024, max(32, rows // 24), rows)), decay=0.3)


def cost(recipe: Recipe, schedule: Schedule, width: int) -> float:
    """Multiply-adds of a training: the encoder's product, and the updates of encoder and decoder."""
    return float(schedule.steps or STEPS) * (schedule.batch + 4) * recipe.n_latents * width


def affordable(recipes: Sequence[Recipe], schedule: Schedule, width: int, budget: float) -> list[Recipe]:
    """The recipes, in order, that fit into the budget together; the first always does."""
    kept, spent = [recipes[0]], cost(recipes[0], schedule, width)
    for recipe in recipes[1:]:
        spent += cost(recipe, schedule, width)
        if spent > budget:
            break
        kept.append(recipe)
    return kept


def choose_sae(
    acts: Any,
    *,
    recipes: Sequence[Recipe] | None = None,
    budget: float = BUDGET,
    seed: int = 0,
    **options: Any,
) -> Dictionary:
    """Train several candidates in one pass and return the one of largest `score_without_truth`.

    Args:
        acts: as for `train_sae`.
        recipes: candidates, the most promising first; default `candidates(width, rows)`.
        budget: multiply-adds that training may take, e.g. 2e12 (about two minutes on a quiet core). Candidates that
            do not fit are left out, the last first; the first one is always trained, and by default it alone.
        seed: of the start directions.
        options: fields of `Schedule` and `Job`; with a `checkpoint` an interrupted choice resumes.

    Returns:
        The chosen dictionary; `info["choice"]` lists the candidates with score, agreement, FVU and L0, and the reason
        for the choice.

    Raises:
        DictionaryError: as `train_saes`.

    >>> acts = torch.randn(400, 8, generator=torch.Generator().manual_seed(0))
    >>> made = choose_sae(acts, steps=5, progress=False)
    >>> made.info["choice"]["tried"][made.info["choice"]["chosen"]]["n_latents"] == made.n_latents
    True
    """
    source = as_source(acts)
    own, _, _ = split_options(options)
    if unknown := sorted((own.keys() | own["options"].keys()) - {"options"}):
        raise DictionaryError(
            f"Settings are being chosen, so {', '.join(unknown)} cannot be given alone: give n_latents and k as well, "
            "or recipes."
        )
    given = {one.name: options[one.name] for one in fields(Schedule) if options.get(one.name) is not None}
    if "epochs" in given and "steps" not in given:
        given["steps"] = None
    schedule = replace(default_schedule(len(source)), **given)
    asked = list(candidates(source.width, len(source)) if recipes is None else recipes)
    kept = affordable(asked, schedule, source.width, budget)
    job = {one.name: options[one.name] for one in fields(Job) if one.name in options}
    made = train_saes(source, kept, seeds=(seed,), **asdict(schedule), **job)
    sample = sample_of(source, JUDGED, max(1, min(1024, len(source))), schedule.data_seed + 1)
    tried = []
    for recipe, one in zip(kept, made, strict=True):
        figures = score_without_truth(one, sample)
        tried.append({**asdict(recipe), "recipe": recipe.told(), **figures, "l0": one.info["l0"]})
    best = max(range(len(made)), key=lambda number: (tried[number]["score"], -number))
    chosen = made[best]
    chosen.info["choice"] = {
        "chosen": best,
        "tried": tried,
        "left_out": [recipe.told() for recipe in asked[len(kept) :]],
        "budget": budget,
        "why": f"largest score of {len(tried)} candidates on {len(sample)} activations: "
        f"{tried[best]['score']:.3f} ({tried[best]['recipe']})",
    }
    return chosen


def leaves_open(n_latents: int | None, k: int | None, options: Mapping[str, Any]) -> bool:
    """Whether size and kind are unspecified, so that a recipe is chosen."""
    own, _, _ = split_options({name: value for name, value in options.items() if name != "budget"})
    return n_latents is None and k is None and not (own.keys() | own["options"].keys()) - {"options"}


def check_training(n_latents: int | None, k: int | None, options: Mapping[str, Any]) -> None:
    """DictionaryError for a size or options that no training takes, before anything is encoded."""
    for name, value in (("n_latents", n_latents), ("k", k)):
        if value is not None:
            check_whole(name, value)
    if n_latents is not None and k is not None and k > n_latents:
        raise DictionaryError(f"k must lie between 1 and the {n_latents} latents; got {k}.")
    own, schedule, _ = split_options({name: value for name, value in options.items() if name != "budget"})
    check_schedule(schedule, 1, 1)
    check_options(own.get("kind", "topk"), own["options"])


def train_sized(
    acts: Any, n_latents: int | None, k: int | None, options: Mapping[str, Any], **job: Any
) -> Dictionary:
    """Train one dictionary of which size or k may be missing; without both and without a kind, a recipe is chosen.

    A missing size is 8 latents per dimension, at most a quarter of the rows; a missing k a twelfth of the width.
    """
    if leaves_open(n_latents, k, options):
        return train_sae(acts, **job, **options)
    source = as_source(acts)
    size = n_latents or max(16, min(30_000, 8 * source.width, len(source) // 4))
    active = k or max(1, min(64, source.width // 12, size // 8))
    return train_sae(source, size, active, **job, **{"batch": batch_of(len(source)), **options})


def batch_of(rows: int) -> int:
    """Rows a step of a training of given size: an eighth of all, 32 to 1,024."""
    return max(1, min(1024, max(32, rows // 8), rows))


def told_choice(dictionary: Dictionary) -> list[str]:
    """One sentence per candidate of a choice, and the reason for the chosen one; empty without a choice."""
    choice = dictionary.info.get("choice")
    if not choice:
        return []
    told = [
        f"tried {one['recipe']}: score {one['score']:.3f}, agreement {one['agreement']:.3f}, FVU {one['fvu']:.3f}."
        for one in choice["tried"]
    ]
    return [
        *told,
        *(f"left out for the budget: {one}." for one in choice["left_out"]),
        f"chosen: {choice['why']}.",
    ]


def score_without_truth(dictionary: Dictionary, acts: Tensor) -> dict[str, float]:
    """The criterion: agreement * (1 - FVU)^2, with both of its parts.

    Agreement alone favours dictionaries that leave the hard part unexplained; FVU alone favours many active latents.
    """
    mean, missed, total = acts.mean(0), 0.0, 0.0
    for part in acts.split(1024):
        missed += float((part - dictionary.reconstruct(part)).double().square().sum())
        total += float((part - mean).double().square().sum())
    found, fvu = agreement(dictionary, acts), missed / total
    return {"score": found * max(0.0, 1 - fvu) ** 2, "agreement": found, "fvu": fvu}


def agreement(dictionary: Dictionary, acts: Tensor) -> float:
    """Mean F1 over latents of predicting a latent's presence linearly from activations on other rows; 0 to 1.

    A latent is present where its code exceeds half of its strength. Presence on one half of the rows is fitted by ridge
    regression; on the other half, the regression's output is thresholded so that as many rows exceed it as have the
    latent. A latent that splits a factor by chance, or joins parts of several, has a low F1.

    Args:
        acts: (rows, width); halves are its even and odd rows.
    """
    codes = dictionary.encode(acts)
    mean = acts.double().mean(0)
    total, judged = 0.0, 0
    fit = torch.arange(len(acts)) % 2 == 0
    x = acts.double() - mean
    second = x[fit].T @ x[fit] / int(fit.sum())
    damp = RIDGE * second.diagonal().mean() * torch.eye(len(second), dtype=torch.float64)
    factor = torch.linalg.cholesky(second + damp)
    for part in torch.arange(dictionary.n_latents).split(2048):
        dense = _columns(codes, int(part[0]), len(part))
        strength = dense.topk(min(USED, len(dense)), dim=0).values.mean(0)
        there = (dense > STRONG * strength).double()
        here, held = there[fit], there[~fit]
        usual = (here.sum(0) >= USED) & (held.sum(0) >= USED)
        if not bool(usual.any()):
            continue
        here, held = here[:, usual], held[:, usual]
        reading = torch.cholesky_solve(x[fit].T @ (here - here.mean(0)) / len(here), factor)
        scores = x[~fit] @ reading
        counts = held.sum(0).long()
        bound = scores.sort(dim=0, descending=True).values.gather(0, (counts - 1)[None])
        hits = ((scores >= bound).double() * held).sum(0)
        total += float((hits / counts).sum())
        judged += int(usual.sum())
    return total / judged if judged else math.nan


def _columns(codes: SparseCodes, first: int, count: int) -> Tensor:
    """(rows, count): the codes of `count` latents from `first` on; only so many columns are ever dense."""
    latents = codes.indices.flatten().long() - first
    # Codes of a fixed number per row are filled up with zeros at any latent.
    mine = (latents >= 0) & (latents < count) & (codes.values.flatten() != 0)
    dense = torch.zeros(len(codes), count)
    dense[codes.row_of_entries().long().flatten()[mine], latents[mine]] = codes.values.flatten()[mine].float()
    return dense
