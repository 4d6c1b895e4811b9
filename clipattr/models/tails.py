"""Tails: the computation behind a site where it is an optional LayerNorm, a linear map, and division by the length.

A site with a `Tail` has effects in closed form. Every CLIP has one at `image.embedding`, where only the division
follows. Ignores dictionaries and targets, which `attribution/tail.py` adds. Start at `Tail`; `Site.tail(model)` returns
the tail of a site.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

TOKEN, MEAN = "token", "mean"


@dataclass(frozen=True, repr=False)
class Tail:
    """The computation between a site and the unit-length embedding: pooling, LayerNorm, linear map, normalisation.

    Attributes:
        width: components per token at the site.
        pooling: "token" for one vector per picture; "mean" where tokens are averaged.
        norm: the LayerNorm, None without one.
        norm_first: whether the LayerNorm comes before the average over tokens.
        matrix: (width, embed) of the linear map, None for the identity.
        bias: (embed,), None for zeros.

    >>> Tail(3).describe()
    'division by the length'
    """

    width: int
    pooling: str = TOKEN
    norm: nn.LayerNorm | None = None
    norm_first: bool = False
    matrix: Tensor | None = None
    bias: Tensor | None = None

    def __repr__(self) -> str:
        return f"Tail({self.width}: {self.describe()})"

    def describe(self) -> str:
        """The steps in order, as text."""
        mean = ["mean over tokens"] if self.pooling == MEAN else []
        norm = ["LayerNorm"] if self.norm is not None else []
        steps = [*norm, *mean] if self.norm_first else [*mean, *norm]
        if self.matrix is not None:
            steps.append("linear map" if self.bias is None else "linear map with bias")
        return ", ".join([*steps, "division by the length"])

    def pooled(self, acts: Tensor) -> Tensor:
        """Activations averaged over tokens, (batch, width), where this is the first step; else unchanged."""
        return acts.mean(-2) if self.pooling == MEAN and not self.norm_first else acts

    def features(self, acts: Tensor) -> Tensor:
        """Features before normalisation: (batch, width) or (batch, tokens, width) to (batch, embed)."""
        stream = self.pooled(acts)
        if self.norm is not None:
            stream = self.norm(stream)
        if self.pooling == MEAN and self.norm_first:
            stream = stream.mean(-2)
        if self.matrix is not None:
            stream = stream @ self.matrix
        return stream if self.bias is None else stream + self.bias

    def affine(self) -> tuple[Tensor | None, Tensor | None]:
        """The linear map with the LayerNorm's gain and shift folded in, float64.

        Returns:
            Matrix (width, embed), None for the identity; after a LayerNorm its column means are subtracted, so that the
            mean of its input has no effect. Offset (embed,), None for zeros.
        """
        matrix = None if self.matrix is None else self.matrix.detach().double()
        offset = None if self.bias is None else self.bias.detach().double()
        if self.norm is None:
            return matrix, offset
        device = self.device
        gain = torch.ones(self.width, dtype=torch.float64, device=device)
        if self.norm.weight is not None:
            gain = self.norm.weight.detach().double()
        plain = torch.eye(self.width, dtype=torch.float64, device=device) if matrix is None else matrix
        if self.norm.bias is not None:
            shifted = self.norm.bias.detach().double() @ plain
            offset = shifted if offset is None else offset + shifted
        mixed = gain[:, None] * plain
        return mixed - mixed.mean(0), offset

    @property
    def device(self) -> torch.device | None:
        """Device of its weights, None without weights."""
        held = (self.matrix, self.bias, getattr(self.norm, "weight", None))
        return next((part.device for part in held if part is not None), None)


def read_chain(
    parts: Iterable[Any], width: int, pooling: str = TOKEN, norm_first: bool = False
) -> Tail | None:
    """The tail that consists of some modules or matrices in sequence; None where they are of other kinds.

    Args:
        parts: LayerNorm, linear and dropout modules, sequences of them, matrices (width, embed), or None. At most one
            LayerNorm, before the first linear map.
    """
    norm: nn.LayerNorm | None = None
    matrix: Tensor | None = None
    bias: Tensor | None = None
    for part in flattened(parts):
        if isinstance(part, nn.LayerNorm):
            if norm is not None or matrix is not None or len(part.normalized_shape) != 1:
                return None
            norm = part
            continue
        if isinstance(part, nn.Linear):
            step, shift = part.weight.T, part.bias
        elif isinstance(part, Tensor) and part.ndim == 2:
            step, shift = part, None
        else:
            return None
        bias = None if bias is None else bias @ step
        if shift is not None:
            bias = shift if bias is None else bias + shift
        matrix = step if matrix is None else matrix @ step
    return Tail(width, pooling, norm, norm_first and norm is not None, matrix, bias)


def flattened(parts: Iterable[Any]) -> list[Any]:
    """Parts with sequences flattened, and without modules that are the identity in eval mode."""
    found: list[Any] = []
    for part in parts:
        if part is None or isinstance(part, nn.Identity | nn.Dropout):
            continue
        if isinstance(part, nn.Sequential) or (isinstance(part, Sequence) and not isinstance(part, Tensor)):
            found += flattened(part)
        else:
            found.append(part)
    return found


__all__ = ["MEAN", "TOKEN", "Tail", "read_chain"]
