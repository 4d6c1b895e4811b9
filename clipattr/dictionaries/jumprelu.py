"""JumpReLU: a pre-activation above the threshold of its latent is a code, unchanged.

Owns the inference and the training objective of this kind. Start at `JumpRelu`.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from clipattr.dictionaries.codes import SparseCodes
from clipattr.dictionaries.objective import (
    Entries,
    Objective,
    Slopes,
    per_row_bound,
    positive_entries,
    register_objective,
)
from clipattr.dictionaries.parameters import fitting
from clipattr.dictionaries.relu import above
from clipattr.dictionaries.sae import Dictionary, register_kind


@register_kind
class JumpRelu(Dictionary):
    """Keeps the pre-activations that exceed the threshold of their latent.

    Args:
        threshold: (n_latents,), in units of the pre-activations; negative ones act as 0. core: see `Dictionary`.

    Raises:
        DictionaryError: a threshold of another shape, or whatever `Dictionary` refuses.

    Source: Rajamanoharan et al. 2024, arXiv:2407.14435.

    >>> import torch
    >>> made = JumpRelu(threshold=torch.tensor([2.0, 2.0, 0.5]), decoder=torch.eye(3), encoder=torch.eye(3))
    >>> made.encode(torch.tensor([[1.0, 3.0, 2.0]])).to_dense().tolist()
    [[0.0, 3.0, 2.0]]
    """

    kind = "jumprelu"

    def __init__(self, *, threshold: Tensor, **core: Any) -> None:
        super().__init__(**core)
        self.threshold = fitting("threshold", threshold, (self.n_latents,))

    def tensors(self) -> dict[str, Tensor]:
        return {"threshold": self.threshold}

    def select(self, pre: Tensor) -> SparseCodes:
        # Codes are never negative, whatever the threshold.
        return above(pre, self.threshold.clamp_min(0).to(pre.dtype))


@register_objective
class JumpReluObjective(Objective):
    """Squared error plus `sparsity` times the number of active latents.

    Neither term has a derivative with respect to the threshold, so entries within half a bandwidth of it estimate one.
    Without a given sparsity, the penalty keeps a small weight and a common factor on all thresholds is adjusted to
    reach k: a penalty cannot reopen a latent that it has closed, a lower threshold can.
    """

    kind = "jumprelu"
    own_start = {"log_threshold": 0.0}
    steered = True

    def __init__(self, n_latents: int, k: int, sparsity: float | None = None) -> None:
        super().__init__(n_latents, k, sparsity)
        self.state["bandwidth"] = 0.02

    def calibrate(self, pre: Tensor, parameters: dict[str, Tensor]) -> None:
        """Set the first thresholds so that about 2 k latents are active, and the bandwidth to the same value."""
        bound = max(per_row_bound(pre, 2 * self.k), 1e-4)
        parameters["log_threshold"].fill_(math.log(bound))
        self.state["bandwidth"] = bound

    def pick(self, pre: Tensor, own: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        bound = own["log_threshold"].exp() - self.state["bandwidth"] / 2
        return positive_entries(pre, bound.clamp_min_(0).to(pre.dtype))

    def values(self, entries: Entries, own: dict[str, Tensor]) -> Tensor:
        return entries.pre * (entries.pre > own["log_threshold"].exp()[entries.latents.long()])

    def slopes(
        self, dots: Tensor, entries: Entries, values: Tensor, own: dict[str, Tensor], batch: int
    ) -> Slopes:
        latents = entries.latents.long()
        bandwidth = self.state["bandwidth"]
        threshold = own["log_threshold"].exp()[latents]
        near = (entries.pre - threshold).abs() < bandwidth / 2
        by_threshold = -(threshold * dots + self.state["sparsity"] / batch) / bandwidth * near
        by_log = torch.zeros_like(own["log_threshold"]).index_add(0, latents, by_threshold * threshold)
        slopes = dots * (values > 0)
        return Slopes(slopes, slopes, {"log_threshold": by_log})

    def after_step(self, l0: float, values: Tensor, own: dict[str, Tensor]) -> None:
        if self.steer:
            own["log_threshold"].add_(0.01 * self.excess(l0))

    def export(self, core: dict[str, Any], own: dict[str, Tensor], scale: float) -> Dictionary:
        return JumpRelu(threshold=own["log_threshold"].exp() * scale, **core)
