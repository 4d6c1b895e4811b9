"""Presence: the pictures in which the evaluator sees a meaning, by a threshold on similarities.

The threshold depends on the meaning. A plain object always looks the same, but similar objects come close to it; a
watermark has several forms, and nothing else comes close to any of them. Where the similarities form two populations,
the threshold lies in the gap between them; elsewhere only pictures nearly as similar as the best ones count. Ignores
the audited model. Start at `shown`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

BEST = 20  # pictures that show the evaluator what a meaning looks like
NEARLY = 0.75  # of the way from the average picture to the best ones; what is merely alike reaches about half
GAP = (0.5, 0.85)  # where on that way a gap may lie
HALF_WIDTH = 0.05  # of the windows in which a gap's pictures are counted
DEPTH = 0.65  # a gap holds fewer pictures than this share of the fullest window above it
FEW = 5  # pictures on either side of a bound
BLOCK = 64  # meanings a step


def ways(pictures: Tensor, meanings: Tensor) -> Tensor:
    """How far each picture lies on the way from the average picture (0) to a meaning's best ones (1).

    Args:
        pictures: (pictures, embed), meanings: (meanings, embed), both the evaluator's, unit length.

    Returns:
        (pictures, meanings) float64.
    """
    return relative((pictures @ meanings.float().T).double())


def relative(similar: Tensor) -> Tensor:
    """The same of similarities (pictures, meanings) float64."""
    average = similar.mean(0)
    best = similar.topk(min(BEST, len(similar)), 0).values.mean(0)
    return (similar - average) / (best - average).clamp_min(1e-9)


def shown(pictures: Tensor, meanings: Tensor) -> Tensor:
    """In which pictures the evaluator sees which meaning, (pictures, meanings) bool; arguments as for `ways`."""
    seen = [way > gap(way) for way in (ways(pictures, some) for some in meanings.split(BLOCK))]
    return torch.cat(seen, 1) if seen else torch.zeros(len(pictures), 0, dtype=torch.bool)


def gap(way: Tensor) -> Tensor:
    """Where two populations part, (columns,); `NEARLY` for a column without a gap.

    Args:
        way: (n, columns) how far each picture lies on the way from the average picture (0) to the best ones (1).
    """
    ordered = way.sort(0).values.T.contiguous()  # (columns, n)
    cut = least_error(ordered, *GAP)
    above = torch.arange(GAP[0], 1.2, HALF_WIDTH, dtype=way.dtype)
    windows = torch.cat([cut[:, None], above.expand(len(cut), -1)], 1)
    counts = (
        torch.searchsorted(ordered, windows + HALF_WIDTH) - torch.searchsorted(ordered, windows - HALF_WIDTH)
    ).double()
    fullest = counts[:, 1:].where(windows[:, 1:] > cut[:, None] + HALF_WIDTH, 0.0).amax(1)
    return torch.where(counts[:, 0] < DEPTH * fullest, cut, NEARLY)


def least_error(ordered: Tensor, low: float, high: float) -> Tensor:
    """The cut between two normal populations that misjudges least, within [low, high], (columns,).

    Minimises Σ share·log(deviation/share) over the two sides of every cut (minimum error thresholding, Kittler and
    Illingworth 1986).

    Args:
        ordered: (columns, n) values, each row ascending.

    Returns:
        halfway between two values, or as near to that as the limits allow; infinity where no cut leaves `FEW` values on
        each side.
    """
    n = ordered.shape[1]
    if n < 2 * FEW:
        return ordered.new_full((len(ordered),), math.inf)
    below = torch.arange(1, n, dtype=ordered.dtype)
    sums, squares = ordered.cumsum(1), ordered.square().cumsum(1)
    error = torch.zeros_like(ordered[:, 1:])
    for count, total, square in (
        (below, sums[:, :-1], squares[:, :-1]),
        (n - below, sums[:, -1:] - sums[:, :-1], squares[:, -1:] - squares[:, :-1]),
    ):
        variance = (square / count - (total / count).square()).clamp_min(1e-9)
        error += count / n * (0.5 * variance.log() - (count / n).log())
    cuts = ((ordered[:, :-1] + ordered[:, 1:]) / 2).clamp(low, high)
    allowed = (ordered[:, 1:] > low) & (ordered[:, :-1] < high) & (below >= FEW) & (n - below >= FEW)
    found = cuts.gather(1, error.masked_fill(~allowed, math.inf).argmin(1, keepdim=True))[:, 0]
    return torch.where(allowed.any(1), found, math.inf)
