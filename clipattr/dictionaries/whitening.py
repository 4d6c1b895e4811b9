"""Whitening: the metric in which training measures errors, folded into the weights afterwards.

A reconstruction error in raw coordinates is dominated by the few directions of largest variance; factors of small
variance are then split or left to the error node. Whitening with a ridge weighs directions more evenly.
Start at `whitening_of`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from clipattr.dictionaries.batches import Source
from clipattr.errors import DictionaryError


@dataclass(frozen=True)
class Whitening:
    """A symmetric map of centred and scaled activations, and its inverse.

    forward, back: (width, width) float32; rows x become x @ forward, and mean square length 1 stays 1.
    """

    forward: Tensor
    back: Tensor

    def to(self, device: torch.device) -> Whitening:
        """The same maps on another device."""
        return Whitening(self.forward.to(device), self.back.to(device))


def covariance(
    source: Source, batch: int, seed: int, mean: Tensor, scale: float, max_rows: int = 500_000
) -> Tensor:
    """(width, width) float64: mean of z zᵀ over at most `max_rows` random rows, with z = (x - mean) / scale."""
    total = torch.zeros(source.width, source.width, dtype=torch.float64)
    rows = 0
    for part in source.shuffled(batch, seed, 0):
        # Products in float32 on the rows' own device, sums in float64: a store of a million rows takes seconds.
        part = part.float().sub(mean.to(part.device)).div_(scale)
        total += (part.T @ part).double().cpu()
        rows += len(part)
        if rows >= max_rows:
            break
    return total / rows


def whitening_of(second_moment: Tensor, ridge: float) -> Whitening:
    """The map C^(-1/2) of the ridged second moment C + ridge * mean eigenvalue * I.

    Args:
        second_moment: (width, width), of centred activations.
        ridge: above 0, in units of the mean eigenvalue: a large one leaves the activations nearly as they are, a
            small one gives every direction the same weight, those of noise included.

    >>> maps = whitening_of(torch.diag(torch.tensor([3.0, 1.0])), ridge=1.0)
    >>> torch.allclose(maps.forward @ maps.back, torch.eye(2), atol=1e-6)
    True
    """
    if not ridge > 0:
        raise DictionaryError(
            f"Whitening needs a ridge above 0 (in units of the mean variance); got {ridge}."
        )
    values, vectors = torch.linalg.eigh(second_moment.double())
    values = values.clamp_min(0)
    strength = (values + ridge * values.mean()).rsqrt()
    strength /= (values * strength.square()).sum().sqrt()
    forward = (vectors * strength) @ vectors.T
    back = (vectors / strength) @ vectors.T
    return Whitening(forward.float(), back.float())
