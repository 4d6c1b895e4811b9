"""Erasure: which direction of the embedding carries a factor, and how a classifier is freed of it at the least cost.

Owns the estimate of directions and the new weights of a class; takes plain tensors. Ignores studies and findings
(`directions.py`, `repair.py`). Start at `freed`.

A factor's direction `d` is how far the embedding moves with it *within* a class, over pictures of other classes: what
moves along with the class itself is the thing, not the factor. Weights are freed as in least-squares concept erasure
(Belrose et al. 2023, arXiv:2306.03819): of all weights whose margin is blind to `d`, those whose scores differ least
from the old ones on real pictures. That leaves the class too low or too high, since the factor was part of every
picture of it; so its bias is set anew, by logistic loss over pictures of the class and of the others, with the factor
and without, where those that are missing are made by moving embeddings along `d`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

FEW = 5  # pictures with the factor below which nothing is learnt from other classes
RIDGE = 1e-2  # of the mean variance, added to the covariance


@dataclass(frozen=True)
class Factors:
    """Factors to take out, on some pictures.

    Attributes:
        directions: (embed, factors), change of the embedding per unit of presence.
        presence: (pictures, factors), how much of each factor a picture shows, standard deviations.
        absent, present: (factors,) levels of presence without and with the factor.
    """

    directions: Tensor
    presence: Tensor
    absent: Tensor
    present: Tensor


def standardised(values: Tensor, among: Tensor) -> Tensor:
    """Values in standard deviations from the mean of some of them; zeros where they do not vary."""
    chosen = values[among].double()
    spread = chosen.std() if len(chosen) > 1 else chosen.new_zeros(())
    if not spread > 1e-9:
        return torch.zeros_like(values, dtype=torch.float32)
    return ((values.double() - chosen.mean()) / spread).float()


def within_classes(values: Tensor, classes: Tensor) -> Tensor:
    """Values (pictures, …) less the mean of their class (pictures,) of numbers."""
    values = values.double()
    n = int(classes.max()) + 1
    flat = values.reshape(len(values), -1)
    sums = flat.new_zeros(n, flat.shape[1]).index_add_(0, classes, flat)
    means = sums / torch.bincount(classes, minlength=n).clamp_min(1)[:, None]
    return (flat - means[classes]).view_as(values)


def direction(embeddings: Tensor, presence: Tensor, classes: Tensor, among: Tensor) -> Tensor:
    """Slope of the embedding along a factor's presence within classes, (embed,), zero where it does not vary.

    Args:
        embeddings: (pictures, embed). presence: (pictures,). classes: (pictures,) numbers from 0. among: bool, pictures
            to learn from.
    """
    level = within_classes(presence[among], classes[among])
    moved = within_classes(embeddings[among], classes[among])
    return (level @ moved / level.square().sum().clamp_min(1e-9)).float()


def spread_within(embeddings: Tensor, classes: Tensor) -> Tensor:
    """Covariance of embeddings within classes, (embed, embed) float64, with a little added so that it inverts."""
    moved = within_classes(embeddings, classes)
    covariance = moved.T @ moved / max(len(moved), 1)
    ridge = RIDGE * covariance.diagonal().mean().clamp_min(1e-12)
    return covariance + ridge * torch.eye(len(covariance), dtype=covariance.dtype)


def freed(
    weights: Tensor,
    bias: Tensor,
    number: int,
    embeddings: Tensor,
    own: Tensor,
    factors: Factors,
    covariance: Tensor,
    *,
    strength: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Weights and bias of one class, freed of factors.

    Args:
        weights: (classes, embed), bias: (classes,), in logits. number: of the class.
        embeddings: (pictures, embed) unit length. own: (pictures,) bool, the class's pictures.
        covariance: of `spread_within`. strength: 1 takes the factors' effect out, 0 leaves it.

    Returns:
        (embed,) and (): the new row and its bias.
    """
    others = torch.arange(len(weights)) != number
    margin = (weights[number] - weights[others].mean(0)).double()
    d = F.normalize(factors.directions.double(), dim=0)
    change = torch.linalg.solve(covariance, d)
    # Not a plain inverse: two families of one factor have directions that are nearly the same.
    amount = torch.linalg.pinv(d.T @ change, hermitian=True, rtol=1e-3) @ (d.T @ margin)
    row = (weights[number].double() - strength * change @ amount).float()
    level = (embeddings.mean(0) @ (weights[number] - row)).float()  # keeps the mean score
    rival = (embeddings @ weights[others].T + bias[others]).amax(1)
    start = bias[number] + level
    if not own.any() or own.all():
        return row, start
    sets = [(embeddings[own], rival[own], 1.0), (embeddings[~own], rival[~own], -1.0)]
    for column in range(factors.directions.shape[1]):
        d_one, seen = factors.directions[:, column], factors.presence[:, column]
        for which, change_of, sign in (
            (own, -(seen - factors.absent[column]).clamp_min(0), 1.0),
            (~own, (factors.present[column] - seen).clamp_min(0), -1.0),
        ):
            moved = F.normalize(embeddings[which] + change_of[which, None] * d_one, dim=1)
            sets.append((moved, (moved @ weights[others].T + bias[others]).amax(1), sign))
    margins = [(sign * (some @ row - best)).double().numpy() for some, best, sign in sets]
    signs = [sign for _, _, sign in sets]
    # Real pictures count as much as all factors together. The others count by the root of how many classes they are:
    # halfway between a class against the rest (1) and a picture drawn at random (their number).
    rest = float(others.sum()) ** 0.5
    weight = [
        (1.0 if place < 2 else 1.0 / d.shape[1]) * (rest if sign < 0 else 1.0)
        for place, sign in enumerate(signs)
    ]
    return row, torch.tensor(_best_bias(margins, signs, weight, float(start)), dtype=torch.float32)


def _best_bias(
    margins: Sequence[np.ndarray], signs: Sequence[float], weight: Sequence[float], start: float
) -> float:
    """The bias with the least logistic loss, each set of pictures counted by its weight; convex."""
    from scipy.optimize import minimize_scalar

    def loss(b: float) -> float:
        parts = (
            w * np.logaddexp(0, -(m + s * b)).mean() for m, s, w in zip(margins, signs, weight, strict=True)
        )
        return float(sum(parts))

    reach = max(10.0, *(float(np.abs(m).max()) for m in margins))
    return float(minimize_scalar(loss, bounds=(start - reach, start + reach), method="bounded").x)
