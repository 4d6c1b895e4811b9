"""The two statistics that evidence is told in. Start at `interval`."""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

from clipattr.discovery.findings import Interval


def interval(values: Tensor) -> Interval:
    """Mean of independent pictures (n,) with its 95 % normal interval; infinitely wide for fewer than two."""
    if len(values) < 2:
        value = float(values.mean()) if len(values) else 0.0
        return Interval(value, -math.inf, math.inf)
    mean, half = values.double().mean().item(), 1.96 * values.double().std().item() / len(values) ** 0.5
    return Interval(mean, mean - half, mean + half)


def auc(scores: np.ndarray, positive: np.ndarray) -> float:
    """Area under the ROC curve, ties counted half; 0.5 when one class is empty."""
    from scipy.stats import rankdata

    n, m = int(positive.sum()), int((~positive).sum())
    if n == 0 or m == 0:
        return 0.5
    return float((rankdata(scores)[positive].sum() - n * (n + 1) / 2) / (n * m))
