"""BatchTopK: a training batch keeps k active latents per row on average; at inference one threshold decides.

Owns the inference and the training objective of this kind. Start at `BatchTopK`.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from clipattr.dictionaries.codes import SparseCodes
from clipattr.dictionaries.kernels import kth_largest
from clipattr.dictionaries.objective import (
    Entries,
    Objective,
    per_row_bound,
    positive_entries,
    register_objective,
)
from clipattr.dictionaries.relu import above
from clipattr.dictionaries.sae import Dictionary, register_kind
from clipattr.errors import DictionaryError

THRESHOLD_MEMORY = 0.99  # weight of the old value in the running mean of the threshold, per training batch


@register_kind
class BatchTopK(Dictionary):
    """Keeps the pre-activations above one threshold, so that a row's codes never depend on its batch.

    Args:
        threshold: at least 0; the running mean over training batches of the smallest code that was kept.
        target_k: active latents per row in training, on average. core: see `Dictionary`.

    Raises:
        DictionaryError: a negative threshold, or whatever `Dictionary` refuses.

    Source: Bussmann et al. 2024, arXiv:2412.06410.

    >>> import torch
    >>> made = BatchTopK(threshold=1.5, target_k=1, decoder=torch.eye(3), encoder=torch.eye(3))
    >>> made.encode(torch.tensor([[1.0, 3.0, 2.0]])).to_dense().tolist()
    [[0.0, 3.0, 2.0]]
    """

    kind = "batchtopk"

    def __init__(self, *, threshold: float, target_k: int, **core: Any) -> None:
        super().__init__(**core)
        if not threshold >= 0:
            raise DictionaryError(
                f"BatchTopK needs a threshold of at least 0; got {threshold}. -1 in a file means that it was never "
                "calibrated: give the threshold, or load the file as a TopK."
            )
        self.threshold = float(threshold)
        self.target_k = int(target_k)

    def settings(self) -> dict[str, Any]:
        return {"threshold": self.threshold, "target_k": self.target_k}

    def select(self, pre: Tensor) -> SparseCodes:
        return above(pre, self.threshold)


@register_objective
class BatchTopKObjective(Objective):
    """Squared reconstruction error alone, with the k * batch largest positive pre-activations of the batch."""

    kind = "batchtopk"

    def __init__(self, n_latents: int, k: int, sparsity: float | None = None) -> None:
        super().__init__(n_latents, k, sparsity)
        # Entries below `bound` are not collected; it follows the cuts of earlier steps.
        self.state |= {"bound": 0.0, "threshold": -1.0}

    def calibrate(self, pre: Tensor, parameters: dict[str, Tensor]) -> None:
        self.state["bound"] = max(per_row_bound(pre, 2 * self.k), 0.0)

    def pick(self, pre: Tensor, own: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        return positive_entries(pre, self.state["bound"])

    def settle(self, entries: Entries) -> Entries | None:
        """The entries that the whole batch keeps, or None if the bound left too few to choose from."""
        total = self.k * (len(entries.offsets) - 1)
        if len(entries.pre) < total and self.state["bound"] > 0:
            smaller = self.state["bound"] / 2
            self.state["bound"] = smaller if smaller > 1e-6 else 0.0
            return None
        total = min(total, len(entries.pre))
        if total == 0:
            return entries
        cut = kth_largest(entries.pre, total)
        self.state["bound"] = cut * 0.8
        over, level = entries.pre > cut, entries.pre == cut
        return entries.kept(over | (level & (level.cumsum(0) <= total - over.sum())))

    def after_step(self, l0: float, values: Tensor, own: dict[str, Tensor]) -> None:
        if len(values):
            smallest, old = float(values.min()), self.state["threshold"]
            self.state["threshold"] = smallest if old < 0 else old + (1 - THRESHOLD_MEMORY) * (smallest - old)

    def export(self, core: dict[str, Any], own: dict[str, Tensor], scale: float) -> Dictionary:
        return BatchTopK(threshold=max(self.state["threshold"], 0.0) * scale, target_k=self.k, **core)
