"""Matching: the difference between pictures of one class with and without a concept, other concepts held equal.

Least squares on the concept, the class and the control concepts that explain most of the outcome. Concepts that nearly
always co-occur, or nearly never, cannot be distinguished by these pictures and are not used as controls. Owns this
regression. Ignores the outcome (`findings.py`, `null_space.py`) and the source of concept presence (`presence.py`).
Start at `comparison`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from clipattr.discovery.repair.erasure import within_classes
from clipattr.statistics import Interval, Z

FEW = 5  # least pictures with the concept, and least pictures without it
CONTROLS = 40  # most control concepts
PICTURES_A_CONTROL = 10  # least pictures per control concept
INDISTINCT = 0.4  # correlation within classes from which two concepts are not distinguished


def comparison(margin: Tensor, classes: Tensor, own: Tensor, others: Tensor) -> Interval:
    """Difference in margin between pictures with and without a concept, controls held equal, with its 95 % interval.

    The interval is robust to heteroscedasticity (HC1). It is infinitely wide if fewer than `FEW` pictures show the
    concept, or fewer than `FEW` lack it.

    Args:
        margin, classes: (pictures,). own: (pictures,), probability that each picture shows the concept. others:
            (pictures, concepts), the same for possible controls; the concept itself may be among them.
    """
    if not enough(own):
        return Interval(0.0, -math.inf, math.inf)
    y = within_classes(margin, classes)
    design = designed(classes, own, others, y)
    inverse = torch.linalg.pinv(design.T @ design, hermitian=True, rtol=1e-9)
    slopes = inverse @ (design.T @ y)
    freedom = max(len(y) - design.shape[1] - len(classes.unique()), 1)
    weighted = design * (y - design @ slopes)[:, None]
    variance = (inverse @ (weighted.T @ weighted) @ inverse)[0, 0] * len(y) / freedom
    half = Z * float(variance.clamp_min(0).sqrt())
    value = float(slopes[0])
    return Interval(value, value - half, value + half)


def enough(own: Tensor) -> bool:
    """Whether enough pictures show a concept, and enough lack it."""
    return min(float(own.sum()), float((1 - own.double()).sum())) >= FEW


def designed(classes: Tensor, own: Tensor, others: Tensor, says: Tensor | None = None) -> Tensor:
    """Design matrix (pictures, 1 + controls) float64, centred within classes: the concept, then the controls.

    Args:
        says: (pictures,) outcome; the controls are the concepts that correlate most with it. None: those that
            correlate most with the concept.
    """
    x = within_classes(torch.cat([own[:, None], others], 1), classes)
    unit = x / x.norm(dim=0).clamp_min(1e-9)
    along = (unit[:, 1:].T @ unit[:, 0]).abs()
    weight = (along if says is None else (unit[:, 1:].T @ says).abs()) * (along < INDISTINCT)
    most = min(CONTROLS, len(x) // PICTURES_A_CONTROL, int((weight > 0).sum()))
    return torch.cat([x[:, :1], x[:, 1:][:, weight.argsort(descending=True)[:most]]], 1)


def change(classes: Tensor, own: Tensor, others: Tensor) -> Tensor:
    """Weights (pictures,) float64: the weighted sum of any quantity over pictures is its change with the concept."""
    return torch.linalg.pinv(designed(classes, own, others), rtol=1e-9)[0]


def same(own: Tensor, other: Tensor, classes: Tensor) -> bool:
    """Whether two concepts mostly co-occur within classes, so that these pictures do not distinguish them."""
    x = within_classes(torch.stack([own, other], 1), classes)
    unit = x / x.norm(dim=0).clamp_min(1e-9)
    return float(unit[:, 0] @ unit[:, 1]) >= INDISTINCT
