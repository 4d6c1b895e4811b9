"""Statistics: intervals, rank tests, error rates and correlations that all rooms use.

Functions take arrays or tensors and return floats or an `Interval`. All intervals are two-sided at 95 %. Images are
the independent units: `bootstrap` and `sign_flip` first average over the prompts of an image. Start at `Interval`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

LEVEL = 0.95  # confidence level of every interval
Z = 1.96  # half-width of a normal interval at that level, in standard errors


@dataclass(frozen=True)
class Interval:
    """An estimate and the bounds of its 95 % interval, in the estimate's own unit (raw cosine for scores).

    >>> Interval(0.123, 0.11, 0.135).points()
    '+12.3 (11.0 to 13.5)'
    """

    value: float
    low: float
    high: float

    @property
    def known(self) -> bool:
        """Whether there is an estimate: its value is not NaN."""
        return not math.isnan(self.value)

    def points(self) -> str:
        """The interval as displays show it, in points (cosine × 100)."""
        return f"{self.value * 100:+.1f} ({self.low * 100:.1f} to {self.high * 100:.1f})"


def share_interval(hits: int, n: int) -> Interval:
    """`hits / n` with its Wilson interval; NaN without trials.

    >>> share_interval(8, 10)
    Interval(value=0.8, low=0.490..., high=0.943...)
    """
    return Interval(hits / n if n else math.nan, *wilson(hits, n))


def mean_interval(values: Tensor) -> Interval:
    """Mean of independent values (n,) and its normal interval; infinitely wide below two values.

    >>> mean_interval(torch.tensor([1.0, 2.0, 3.0]))
    Interval(value=2.0, low=0.868..., high=3.131...)
    """
    mean = float(values.double().mean()) if len(values) else 0.0
    if len(values) < 2:
        return Interval(mean, -math.inf, math.inf)
    half = Z * float(values.double().std()) / len(values) ** 0.5
    return Interval(mean, mean - half, mean + half)


def t_interval(values: Tensor) -> Interval:
    """Mean of independent values (n,) and its Student t interval; infinitely wide below two values.

    >>> t_interval(torch.tensor([1.0, 2.0, 3.0]))
    Interval(value=2.0, low=-0.484..., high=4.484...)
    """
    normal = mean_interval(values)
    if len(values) < 2:
        return normal
    from scipy.stats import t

    factor = float(t.ppf((1 + LEVEL) / 2, len(values) - 1)) / Z
    low, high = (normal.value + factor * (end - normal.value) for end in (normal.low, normal.high))
    return Interval(normal.value, low, high)


def difference_interval(one: Tensor, other: Tensor) -> Interval:
    """Difference of the means of two independent samples with Welch's interval; infinitely wide below two each.

    >>> difference_interval(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 1.0, 1.0])).value
    1.0
    """
    if min(len(one), len(other)) < 2:
        value = float(one.mean() - other.mean()) if len(one) and len(other) else 0.0
        return Interval(value, -math.inf, math.inf)
    parts = [float(some.double().var()) / len(some) for some in (one, other)]
    value, error = float(one.double().mean() - other.double().mean()), math.sqrt(sum(parts))
    if error <= 0:
        return Interval(value, value, value)
    from scipy.stats import t

    sizes = (len(one), len(other))
    freedom = sum(parts) ** 2 / sum(part**2 / (n - 1) for part, n in zip(parts, sizes, strict=True))
    half = float(t.ppf((1 + LEVEL) / 2, freedom)) * error
    return Interval(value, value - half, value + half)


def rate_difference(one: Tensor, other: Tensor) -> Interval:
    """Difference of two shares, of samples of 0 and 1, with Newcombe's interval; infinitely wide for an empty one.

    Source: Newcombe 1998, Statistics in Medicine 17, method 10: Wilson's intervals combined.

    >>> rate_difference(torch.tensor([1.0, 1.0]), torch.tensor([0.0, 0.0])).value
    1.0
    """
    if not len(one) or not len(other):
        return Interval(0.0, -math.inf, math.inf)
    here, there = float(one.double().mean()), float(other.double().mean())
    first, second = (wilson(int(some.sum()), len(some)) for some in (one, other))
    low = math.hypot(here - first[0], second[1] - there)
    return Interval(
        here - there, here - there - low, here - there + math.hypot(first[1] - here, there - second[0])
    )


def paired_rate_difference(differences: Tensor) -> Interval:
    """Difference of two shares of the same pictures, of values of -1, 0 and 1, with the interval of Agresti and Min.

    Half a pair is added to each of the four outcomes, so that pairs without any difference give no interval of width 0.
    Infinitely wide without pairs.

    Source: Agresti and Min 2005, Statistics in Medicine 24.

    >>> made = paired_rate_difference(torch.zeros(10))
    >>> made.value, round(made.low, 3), round(made.high, 3)
    (0.0, -0.163, 0.163)
    """
    n = len(differences)
    if not n:
        return Interval(0.0, -math.inf, math.inf)
    more, less = (float((differences == sign).sum() + 0.5) / (n + 2) for sign in (1, -1))
    middle = more - less
    half = Z * math.sqrt((more + less - middle**2) / (n + 2))
    return Interval(float(differences.double().mean()), max(middle - half, -1.0), min(middle + half, 1.0))


def per_picture(values: Tensor | np.ndarray) -> np.ndarray:
    """Mean of the finite values of each picture, (pictures, …) to (m,); pictures without a finite value are dropped."""
    rows = np.asarray(values, dtype=np.float64).reshape(len(values), -1)
    finite = np.isfinite(rows)
    counts = finite.sum(1)
    sums = np.where(finite, rows, 0.0).sum(1)
    return sums[counts > 0] / counts[counts > 0]


def bootstrap(values: Tensor | np.ndarray, *, draws: int = 2000, seed: int = 0) -> Interval:
    """Mean over pictures with a percentile bootstrap interval that resamples pictures; values (pictures, …).

    NaN if no picture has a finite value; width zero for a single picture.
    """
    means = per_picture(values)
    if len(means) < 2:
        value = float(means.mean()) if len(means) else math.nan
        return Interval(value, value, value)
    from scipy import stats

    bounds = stats.bootstrap(
        (means,),
        np.mean,
        n_resamples=draws,
        confidence_level=LEVEL,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(float(means.mean()), float(bounds.low), float(bounds.high))


def sign_flip(values: Tensor | np.ndarray, *, draws: int = 4000, seed: int = 0) -> float:
    """Two-sided p-value of mean 0 over pictures, from random sign flips of pictures; at least 1/(draws+1)."""
    means = per_picture(values)
    if not len(means):
        return math.nan
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], (draws, len(means)))
    null = np.abs((signs * means).mean(1))
    return float((1 + (null >= abs(means.mean()) - 1e-15).sum()) / (draws + 1))


def above_zero(estimate: Interval) -> float:
    """Probability that the true value is above zero, for a normal estimate with this interval; 0 if it is infinite."""
    error = (estimate.high - estimate.low) / (2 * Z)
    return normal_above(estimate.value, error) if math.isfinite(error) else 0.0


def normal_above(value: float, error: float) -> float:
    """Probability that the true value is above zero, for a normal estimate with this standard error.

    >>> normal_above(0.0, 1.0)
    0.5
    """
    return 0.5 * (1 + math.erf(value / max(error, 1e-9) / math.sqrt(2)))


def simultaneous(estimate: Interval, trials: int) -> Interval:
    """The wider interval that holds for `trials` estimates simultaneously (Bonferroni)."""
    factor = normal_quantile(1 - (1 - LEVEL) / 2 / max(trials, 1)) / Z
    low, high = (estimate.value + factor * (end - estimate.value) for end in (estimate.low, estimate.high))
    return Interval(estimate.value, low, high)


def normal_quantile(probability: float) -> float:
    """Quantile of the standard normal distribution.

    >>> round(normal_quantile(0.975), 2)
    1.96
    """
    from scipy.special import ndtri

    return float(ndtri(probability))


def wilson(successes: int, n: int) -> tuple[float, float]:
    """Wilson score interval of a proportion, `successes` of `n`; NaN without trials.

    >>> [round(bound, 3) for bound in wilson(9, 10)]
    [0.596, 0.982]
    """
    if n == 0:
        return math.nan, math.nan
    from scipy.stats import binomtest

    bounds = binomtest(successes, n).proportion_ci(LEVEL, method="wilson")
    return float(bounds.low), float(bounds.high)


def false_discovery(p: np.ndarray) -> np.ndarray:
    """Benjamini and Hochberg's adjusted p-values, of any shape.

    >>> false_discovery(np.array([0.01, 0.02, 0.9])).tolist()
    [0.03, 0.03, 0.9]
    """
    from scipy.stats import false_discovery_control

    return np.asarray(false_discovery_control(p, axis=None)).reshape(p.shape)


def auc(scores: np.ndarray, positive: np.ndarray) -> float:
    """Area under the ROC curve of scores (n,) for a bool mask (n,); ties count half, 0.5 if one class is empty.

    >>> auc(np.array([1, 2, 3, 4]), np.array([False, True, False, True]))
    0.75
    """
    from scipy.stats import rankdata

    value = rank_auc(rankdata(scores), positive)
    return 0.5 if math.isnan(value) else value


def rank_auc(ranks: np.ndarray, positive: np.ndarray) -> float:
    """`auc` from given ranks (n,); NaN if one class is empty. positive: mask (n,), or indices."""
    own = ranks[positive]
    n, rest = len(own), len(ranks) - len(own)
    return float((own.sum() - n * (n + 1) / 2) / (n * rest)) if n and rest else math.nan


def auc_error(value: float, positives: int, negatives: int) -> float:
    """Standard error of an AUC by Hanley and McNeil (1982, Radiology 143, 29); NaN for a NaN."""
    if math.isnan(value):
        return math.nan
    one, two = value / (2 - value), 2 * value**2 / (1 + value)
    variance = (
        value * (1 - value) + (positives - 1) * (one - value**2) + (negatives - 1) * (two - value**2)
    ) / (positives * negatives)
    return float(max(variance, 0.0) ** 0.5)


def pearson(one: Tensor, two: Tensor) -> Tensor:
    """Pearson correlation along the last dimension, (…, m) and (…, m) to (…); NaN if either is constant."""
    one = one.double() - one.double().mean(-1, keepdim=True)
    two = two.double() - two.double().mean(-1, keepdim=True)
    scale = one.norm(dim=-1) * two.norm(dim=-1)
    # Variation below rounding error counts as none.
    return torch.where(scale > 1e-24, (one * two).sum(-1) / scale, torch.nan)


def spearman(one: Tensor, two: Tensor) -> float:
    """Spearman correlation of two vectors, ties at their mean rank; NaN below two entries or if either is constant."""
    from scipy.stats import rankdata

    if len(one) < 2:
        return math.nan
    ranks = [torch.from_numpy(rankdata(part.detach().cpu().numpy())) for part in (one, two)]
    return float(pearson(ranks[0], ranks[1]))


def spearman_of_active(values: Tensor, truth: Tensor, active: Tensor) -> Tensor:
    """Spearman correlation of signed values over active parts, for each picture and target.

    Args:
        values, truth: (batch, parts, n). active: (batch, parts) bool.

    Returns:
        (batch, n); NaN if fewer than two parts are active.
    """
    result = torch.full((len(values), values.shape[2]), torch.nan, dtype=torch.float64)
    for picture in range(len(values)):
        which = active[picture]
        for target in range(values.shape[2]):
            result[picture, target] = spearman(values[picture, which, target], truth[picture, which, target])
    return result
