"""ReLU: every positive pre-activation is a code; sparsity comes from an L1 penalty in training.

Owns the kind's inference and its training objective. Start at `Relu`.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from clipattr.dictionaries.codes import SparseCodes, offsets_of
from clipattr.dictionaries.objective import (
    Entries,
    Objective,
    Slopes,
    per_row_bound,
    positive_entries,
    register_objective,
)
from clipattr.dictionaries.sae import Dictionary, register_kind


@register_kind
class Relu(Dictionary):
    """Keeps every positive pre-activation.

    Args:
        core: see `Dictionary`, which also lists the errors.

    Source: Bricken et al. 2023, "Towards Monosemanticity".

    >>> import torch
    >>> made = Relu(decoder=torch.eye(3), encoder=torch.eye(3))
    >>> made.encode(torch.tensor([[1.0, -3.0, 2.0]])).to_dense().tolist()
    [[1.0, 0.0, 2.0]]
    """

    kind = "relu"

    def select(self, pre: Tensor) -> SparseCodes:
        return above(pre, 0.0)


def above(pre: Tensor, bound: Tensor | float) -> SparseCodes:
    """CSR codes of the pre-activations (rows, n_latents) that exceed a bound.

    Args:
        bound: one number, or (n_latents,).
    """
    latents, values, counts = positive_entries(pre, bound)
    return SparseCodes(latents, values, pre.shape[1], offsets_of(counts))


@register_objective
class ReluObjective(Objective):
    """Squared error plus `sparsity` times the sum of the codes (decoder rows have length 1)."""

    kind = "relu"
    steered = True

    def calibrate(self, pre: Tensor, parameters: dict[str, Tensor]) -> None:
        """Set the first biases so that about 2 k latents are active instead of half of all."""
        parameters["encoder_bias"].fill_(-per_row_bound(pre, 2 * self.k))

    def pick(self, pre: Tensor, own: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        return positive_entries(pre)

    def slopes(
        self, dots: Tensor, entries: Entries, values: Tensor, own: dict[str, Tensor], batch: int
    ) -> Slopes:
        slopes = dots + self.state["sparsity"] / batch
        return Slopes(slopes, slopes, {})

    def export(self, core: dict[str, Any], own: dict[str, Tensor], scale: float) -> Dictionary:
        return Relu(**core)
