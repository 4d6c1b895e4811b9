"""Concept erasure: the direction of a concept in the embedding, and class weights that do not depend on it.

Owns the estimate of directions and the new weights of a class; takes plain tensors. Ignores studies and findings
(`directions.py`, `repair.py`). Start at `erased`.

The direction `d` of a concept is the slope of the embedding on its presence *within* classes, over pictures of other
classes: variation along with the class itself belongs to the class, not to the concept. Weights are changed as in
least-squares concept erasure (Belrose et al. 2023, arXiv:2306.03819): among all weights whose margin does not depend on
`d`, take those whose scores on real pictures differ least from the old ones. If the class was always shown with the
concept, its scores are then too low or too high. Its bias is therefore refitted with a logistic loss over pictures of
the class and of other classes, with and without the concept; missing combinations are made by moving embeddings along
`d`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

FEW = 5  # least pictures of other classes with the concept for estimating its direction from them
RIDGE = 1e-2  # fraction of the mean variance that is added to the diagonal of the covariance


@dataclass(frozen=True)
class Factors:
    """Concepts to erase.

    Attributes:
        directions: (embed, factors), change of the embedding per unit of presence.
        presence: (pictures, factors), presence of each concept in each picture, in standard deviations.
        absent, present: (factors,) typical presence in pictures without and with the concept.
    """

    directions: Tensor
    presence: Tensor
    absent: Tensor
    present: Tensor


def standardised(values: Tensor, among: Tensor) -> Tensor:
    """Values in standard deviations from the mean, both over `among`; zeros if these values are constant."""
    chosen = values[among].double()
    spread = chosen.std() if len(chosen) > 1 else chosen.new_zeros(())
    if not spread > 1e-9:
        return torch.zeros_like(values, dtype=torch.float32)
    return ((values.double() - chosen.mean()) / spread).float()


def within_classes(values: Tensor, classes: Tensor) -> Tensor:
    """Values (pictures, …) minus the mean of their class; classes: (pictures,) numbers."""
    values = values.double()
    n = int(classes.max()) + 1
    flat = values.reshape(len(values), -1)
    sums = flat.new_zeros(n, flat.shape[1]).index_add_(0, classes, flat)
    means = sums / torch.bincount(classes, minlength=n).clamp_min(1)[:, None]
    return (flat - means[classes]).view_as(values)


def direction(embeddings: Tensor, presence: Tensor, classes: Tensor, among: Tensor) -> Tensor:
    """Slope of the embedding on a concept's presence within classes, (embed,); zero if the presence is constant.

    Args:
        embeddings: (pictures, embed). presence: (pictures,). classes: (pictures,) numbers from 0. among: (pictures,)
            bool, pictures to use.
    """
    level = within_classes(presence[among], classes[among])
    moved = within_classes(embeddings[among], classes[among])
    return (level @ moved / level.square().sum().clamp_min(1e-9)).float()


def spread_within(embeddings: Tensor, classes: Tensor) -> Tensor:
    """Covariance of embeddings within classes, (embed, embed) float64, with a ridge so that it can be inverted."""
    moved = within_classes(embeddings, classes)
    covariance = moved.T @ moved / max(len(moved), 1)
    ridge = RIDGE * covariance.diagonal().mean().clamp_min(1e-12)
    return covariance + ridge * torch.eye(len(covariance), dtype=covariance.dtype)


def erased(
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
    """Weights and bias of one class with concepts erased.

    Args:
        weights: (classes, embed), bias: (classes,), in logits. number: of the class.
        embeddings: (pictures, embed) unit length. own: (pictures,) bool, the class's pictures.
        covariance: from `spread_within`. strength: 1 removes the effect of the concepts, 0 keeps it.

    Returns:
        (embed,) and (): the new weights and bias.
    """
    others = torch.arange(len(weights)) != number
    margin = (weights[number] - weights[others].mean(0)).double()
    d = F.normalize(factors.directions.double(), dim=0)
    change = torch.linalg.solve(covariance, d)
    # Pseudo-inverse, because two families of one concept have nearly parallel directions.
    amount = torch.linalg.pinv(d.T @ change, hermitian=True, rtol=1e-3) @ (d.T @ margin)
    row = (weights[number].double() - strength * change @ amount).float()
    return row, fitted_bias(row, weights, bias, number, embeddings, own, factors)


def others_weight(weights: Tensor) -> float:
    """Weight of all other classes' pictures beside one class's own: the square root of the number of other classes.

    It lies between one-against-rest (1) and pictures drawn at random (their number).

    Args:
        weights: (classes, embed).
    """
    return float(len(weights) - 1) ** 0.5


def fitted_bias(
    row: Tensor,
    weights: Tensor,
    bias: Tensor,
    number: int,
    embeddings: Tensor,
    own: Tensor,
    factors: Factors,
) -> Tensor:
    """The bias of a class with new weights `row`, fitted over own and other pictures, with and without the concepts.

    Arguments as for `erased`. Where there are no own or no other pictures, the bias that keeps the mean score.
    """
    others = torch.arange(len(weights)) != number
    level = (embeddings.mean(0) @ (weights[number] - row)).float()  # keeps the mean score
    rival = (embeddings @ weights[others].T + bias[others]).amax(1)
    start = bias[number] + level
    if not own.any() or own.all():
        return start
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
    # Real pictures weigh as much as all moved ones together.
    rest = others_weight(weights)
    weight = [
        (1.0 if place < 2 else 1.0 / factors.directions.shape[1]) * (rest if sign < 0 else 1.0)
        for place, sign in enumerate(signs)
    ]
    return torch.tensor(_best_bias(margins, signs, weight, float(start)), dtype=torch.float32)


def _best_bias(
    margins: Sequence[np.ndarray], signs: Sequence[float], weight: Sequence[float], start: float
) -> float:
    """The bias with the least weighted logistic loss over sets of pictures; the loss is convex."""
    from scipy.optimize import minimize_scalar

    def loss(b: float) -> float:
        parts = (
            w * np.logaddexp(0, -(m + s * b)).mean() for m, s, w in zip(margins, signs, weight, strict=True)
        )
        return float(sum(parts))

    reach = max(10.0, *(float(np.abs(m).max()) for m in margins))
    return float(minimize_scalar(loss, bounds=(start - reach, start + reach), method="bounded").x)
