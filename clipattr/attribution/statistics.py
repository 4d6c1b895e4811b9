"""Statistics of the faithfulness suite: rank correlations, and intervals that treat pictures as the unit.

Owns numbers only: tensors and arrays in, floats out. Several prompts on one picture are not independent, so pictures
are what is resampled. Start at `interval`.
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % bootstrap bounds and the number of pictures behind it."""

    mean: float
    low: float
    high: float
    pictures: int


def per_picture(values: Tensor | np.ndarray) -> np.ndarray:
    """(pictures, …) to the mean per picture over whatever is finite; pictures with nothing finite are left out."""
    rows = np.asarray(values, dtype=np.float64).reshape(len(values), -1)
    finite = np.isfinite(rows)
    counts = finite.sum(1)
    sums = np.where(finite, rows, 0.0).sum(1)
    return sums[counts > 0] / counts[counts > 0]


def interval(values: Tensor | np.ndarray, *, draws: int = 2000, seed: int = 0) -> Interval:
    """Mean over pictures with a percentile bootstrap clustered by picture; values (pictures, …)."""
    means = per_picture(values)
    if not len(means):
        return Interval(float("nan"), float("nan"), float("nan"), 0)
    chosen = np.random.default_rng(seed).integers(0, len(means), (draws, len(means)))
    low, high = np.quantile(means[chosen].mean(1), [0.025, 0.975])
    return Interval(float(means.mean()), float(low), float(high), len(means))


def sign_flip(values: Tensor | np.ndarray, *, draws: int = 4000, seed: int = 0) -> float:
    """Two-sided p-value that the mean over pictures is 0, by flipping the signs of pictures; at least 1/(draws+1)."""
    means = per_picture(values)
    if not len(means):
        return float("nan")
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], (draws, len(means)))
    null = np.abs((signs * means).mean(1))
    return float((1 + (null >= abs(means.mean()) - 1e-15).sum()) / (draws + 1))


def pearson(one: Tensor, two: Tensor) -> Tensor:
    """Correlation along the last dimension, NaN where either does not vary: (…, m) twice to (…)."""
    one = one.double() - one.double().mean(-1, keepdim=True)
    two = two.double() - two.double().mean(-1, keepdim=True)
    scale = one.norm(dim=-1) * two.norm(dim=-1)
    # What varies by rounding alone does not vary.
    return torch.where(scale > 1e-24, (one * two).sum(-1) / scale, torch.nan)


def spearman(one: Tensor, two: Tensor) -> float:
    """Rank correlation of two vectors, ties at their mean rank; NaN below two entries or without variation."""
    if len(one) < 2:
        return float("nan")
    ranks = [torch.from_numpy(rankdata(part.detach().cpu().numpy())) for part in (one, two)]
    return float(pearson(ranks[0], ranks[1]))


def spearman_of_active(values: Tensor, truth: Tensor, active: Tensor) -> Tensor:
    """Spearman of signed values over active parts, per picture and target.

    Args:
        values, truth: (batch, parts, n). active: (batch, parts) bool.

    Returns:
        (batch, n), NaN where fewer than two parts are active.
    """
    result = torch.full((len(values), values.shape[2]), torch.nan, dtype=torch.float64)
    for picture in range(len(values)):
        which = active[picture]
        for target in range(values.shape[2]):
            result[picture, target] = spearman(values[picture, which, target], truth[picture, which, target])
    return result
