"""TopK: the k largest pre-activations of a row are its codes.

Owns the inference and the training objective of TopK, and GroupMax, its variant with one winner per group. Start at
`TopK`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from clipattr.dictionaries.codes import SparseCodes
from clipattr.dictionaries.kernels import top_positive
from clipattr.dictionaries.objective import Objective, register_objective
from clipattr.dictionaries.sae import Dictionary, register_kind
from clipattr.errors import DictionaryError


class FixedK(Dictionary):
    """What kinds with k active latents in every row share."""

    n_fixed = True
    _k: int

    @property
    def k(self) -> int:
        return self._k

    def settings(self) -> dict[str, Any]:
        return {"k": self._k}


@register_kind
class TopK(FixedK):
    """Keeps the k largest pre-activations of each row.

    Args:
        k: active latents per row, at most n_latents.
        signed: keep negative values among the k largest, as models trained without a ReLU do; otherwise they become 0.
        core: see `Dictionary`.

    Raises:
        DictionaryError: k out of range, or whatever `Dictionary` refuses.

    Source: Gao et al. 2024, arXiv:2406.04093.

    >>> import torch
    >>> made = TopK(k=1, decoder=torch.eye(3), encoder=torch.eye(3))
    >>> codes = made.encode(torch.tensor([[1.0, 3.0, 2.0]]))
    >>> codes.indices.tolist(), codes.values.tolist()
    ([[1]], [[3.0]])
    """

    kind = "topk"

    def __init__(self, *, k: int, signed: bool = False, **core: Any) -> None:
        super().__init__(**core)
        if not 1 <= k <= self.n_latents:
            raise DictionaryError(f"k must lie between 1 and the {self.n_latents} latents; got {k}.")
        self._k = int(k)
        self.signed = bool(signed)

    def settings(self) -> dict[str, Any]:
        return super().settings() | {"signed": self.signed}

    def select(self, pre: Tensor) -> SparseCodes:
        if not self.signed:
            return SparseCodes(*top_positive(pre, self._k), self.n_latents)
        values, indices = torch.topk(pre.float(), self._k, dim=-1)
        return SparseCodes(indices.int(), values, self.n_latents)


@register_kind
class GroupMax(FixedK):
    """Keeps the largest pre-activation of each of k equal groups of consecutive latents; negative values become 0.

    Args:
        k: number of groups, a divisor of n_latents. core: see `Dictionary`.

    Raises:
        DictionaryError: k does not divide n_latents, or whatever `Dictionary` refuses.

    Source: EleutherAI's sparsify, activation "groupmax".

    >>> import torch
    >>> made = GroupMax(k=2, decoder=torch.eye(4), encoder=torch.eye(4))
    >>> made.encode(torch.tensor([[1.0, 3.0, 2.0, -1.0]])).to_dense().tolist()
    [[0.0, 3.0, 2.0, 0.0]]
    """

    kind = "groupmax"

    def __init__(self, *, k: int, **core: Any) -> None:
        super().__init__(**core)
        if k < 1 or self.n_latents % k:
            raise DictionaryError(f"k must divide the {self.n_latents} latents into equal groups; got {k}.")
        self._k = int(k)

    def select(self, pre: Tensor) -> SparseCodes:
        values, places = pre.float().view(len(pre), self._k, -1).max(dim=-1)
        first = torch.arange(self._k, device=pre.device) * (self.n_latents // self._k)
        return SparseCodes((places + first).int(), values.clamp_min(0), self.n_latents)


@register_objective
class TopKObjective(Objective):
    """Squared reconstruction error alone, since the number of active latents is fixed."""

    kind = "topk"

    def export(self, core: dict[str, Any], own: dict[str, Tensor], scale: float) -> Dictionary:
        return TopK(k=self.k, **core)
