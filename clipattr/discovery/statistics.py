"""The statistics that evidence is told in. Start at `interval`."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from clipattr.discovery.findings import Interval
from clipattr.meaning import clarity


def interval(values: Tensor) -> Interval:
    """Mean of independent pictures (n,) with its 95 % normal interval; infinitely wide for fewer than two."""
    if len(values) < 2:
        value = float(values.mean()) if len(values) else 0.0
        return Interval(value, -math.inf, math.inf)
    mean, half = values.double().mean().item(), 1.96 * values.double().std().item() / len(values) ** 0.5
    return Interval(mean, mean - half, mean + half)


def above_zero(estimate: Interval) -> float:
    """Probability that a normal estimate with this interval truly lies above zero; 0 for an infinite one."""
    error = (estimate.high - estimate.low) / (2 * 1.96)
    return normal_above(estimate.value, error) if math.isfinite(error) else 0.0


def normal_above(value: float, error: float) -> float:
    """Probability that a normal estimate with this standard error truly lies above zero."""
    return 0.5 * (1 + math.erf(value / max(error, 1e-9) / math.sqrt(2)))


def clarity_of(embeddings: Tensor) -> float:
    """How much pictures (n, embed), unit length, look alike: mean pairwise cosine; NaN below two."""
    return float(clarity(embeddings.sum(0, keepdim=True), torch.tensor([len(embeddings)]))[0])


def auc(scores: np.ndarray, positive: np.ndarray) -> float:
    """Area under the ROC curve, ties counted half; 0.5 when one class is empty."""
    from scipy.stats import rankdata

    n, m = int(positive.sum()), int((~positive).sum())
    if n == 0 or m == 0:
        return 0.5
    return float((rankdata(scores)[positive].sum() - n * (n + 1) / 2) / (n * m))
