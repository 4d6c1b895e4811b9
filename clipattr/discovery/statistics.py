"""Names of `clipattr.statistics` under their former address, and the clarity of a set of pictures."""

import torch
from torch import Tensor

from clipattr.meaning import clarity
from clipattr.statistics import above_zero, auc, normal_above
from clipattr.statistics import mean_interval as interval

__all__ = ["above_zero", "auc", "clarity_of", "interval", "normal_above"]


def clarity_of(embeddings: Tensor) -> float:
    """Mean pairwise cosine of unit embeddings (n, embed); NaN below two."""
    return float(clarity(embeddings.sum(0, keepdim=True), torch.tensor([len(embeddings)]))[0])
