"""Comparison: what differs between pictures of one class that show a thing and those that do not, all else alike.

Least squares on the thing, the class and the other things that say most of what is compared. Things that mostly come
along, or mostly not, are the same thing or its opposite as far as these pictures can tell, and are not held equal.
Owns this regression. Ignores what is compared (`findings.py`, `null_space.py`) and who says that a picture shows a
thing (`presence.py`). Start at `comparison`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from clipattr.discovery.repair.erasure import within_classes
from clipattr.statistics import Interval, Z

FEW = 5  # pictures that must show a thing, and lack it
CONTROLS = 40  # other things at most that are held equal
PICTURES_A_CONTROL = 10  # at least
ALIKE = 0.4  # correlation within classes from which two things are one, or opposites


def comparison(margin: Tensor, classes: Tensor, own: Tensor, others: Tensor) -> Interval:
    """How much higher the margin of a picture that shows a thing is, all else alike, with its 95 % interval.

    The interval is robust to unequal spread (HC1). Infinitely wide where fewer than `FEW` pictures show the thing, or
    lack it.

    Args:
        margin, classes: (pictures,). own: (pictures,), how surely each shows the thing. others: (pictures, things), how
            surely each shows what may be held equal; the thing itself may be among them.
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
    """Whether enough pictures show a thing, and lack it."""
    return min(float(own.sum()), float((1 - own.double()).sum())) >= FEW


def designed(classes: Tensor, own: Tensor, others: Tensor, says: Tensor | None = None) -> Tensor:
    """(pictures, 1 + controls) float64 within classes: the thing, then what is held equal.

    Args:
        says: (pictures,) what is compared: controls are those that say most of it. None: those that go most with the
            thing.
    """
    x = within_classes(torch.cat([own[:, None], others], 1), classes)
    unit = x / x.norm(dim=0).clamp_min(1e-9)
    along = (unit[:, 1:].T @ unit[:, 0]).abs()
    weight = (along if says is None else (unit[:, 1:].T @ says).abs()) * (along < ALIKE)
    most = min(CONTROLS, len(x) // PICTURES_A_CONTROL, int((weight > 0).sum()))
    return torch.cat([x[:, :1], x[:, 1:][:, weight.argsort(descending=True)[:most]]], 1)


def change(classes: Tensor, own: Tensor, others: Tensor) -> Tensor:
    """Weights (pictures,) float64 by which anything is summed over pictures to give its change with a thing."""
    return torch.linalg.pinv(designed(classes, own, others), rtol=1e-9)[0]


def same(own: Tensor, other: Tensor, classes: Tensor) -> bool:
    """Whether two things mostly come together within classes, so that these pictures do not tell them apart."""
    x = within_classes(torch.stack([own, other], 1), classes)
    unit = x / x.norm(dim=0).clamp_min(1e-9)
    return float(unit[:, 0] @ unit[:, 1]) >= ALIKE
