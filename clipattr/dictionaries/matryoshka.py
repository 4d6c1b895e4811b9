"""Matryoshka: trained so that every prefix of latents reconstructs, and longer prefixes reconstruct better.

Owns the inference, the prefixes and the training objective of this kind. Start at `Matryoshka`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from clipattr.dictionaries.batchtopk import BatchTopK, BatchTopKObjective
from clipattr.dictionaries.kernels import bag_sum
from clipattr.dictionaries.objective import Entries, Terms, register_objective
from clipattr.dictionaries.sae import Dictionary, register_kind
from clipattr.errors import DictionaryError


@register_kind
class Matryoshka(BatchTopK):
    """A BatchTopK dictionary trained so that every prefix of its latents is a dictionary.

    Args:
        prefixes: the sizes that were trained, in increasing order, the last one n_latents.
        core: see `BatchTopK` and `Dictionary`.

    Raises:
        DictionaryError: prefixes that do not increase to n_latents, or whatever `BatchTopK` refuses.

    Source: Bussmann et al. 2025, arXiv:2503.17547.

    >>> import torch
    >>> parts = {"decoder": torch.eye(4), "encoder": torch.eye(4)}
    >>> made = Matryoshka(prefixes=[2, 4], threshold=0.5, target_k=2, **parts)
    >>> made.prefix(2).encode(torch.ones(1, 4)).to_dense().tolist()
    [[1.0, 1.0]]
    """

    kind = "matryoshka"

    def __init__(self, *, prefixes: Sequence[int], **core: Any) -> None:
        super().__init__(**core)
        self.prefixes = checked_prefixes(prefixes, self.n_latents)

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "prefixes": self.prefixes}

    def prefix(self, size: int) -> Matryoshka:
        """The dictionary of the first `size` latents; DictionaryError unless size is 1 to n_latents."""
        if not 1 <= size <= self.n_latents:
            raise DictionaryError(f"A prefix holds 1 to {self.n_latents} latents; got {size}.")
        per_latent = {"decoder", "encoder", "encoder_bias", "gain"}
        parts = {name: t[:size] if name in per_latent else t for name, t in self._all_tensors().items()}
        return self._rebuilt(parts, prefixes=[p for p in self.prefixes if p < size] + [size])


def checked_prefixes(prefixes: Sequence[int], n_latents: int) -> list[int]:
    """The prefixes as a list; DictionaryError unless they increase from at least 1 to n_latents."""
    sizes = [int(size) for size in prefixes]
    if not sizes or sizes[0] < 1 or sizes != sorted(set(sizes)) or sizes[-1] != n_latents:
        raise DictionaryError(
            f"Prefixes must increase from at least 1 to the {n_latents} latents; got {sizes}."
        )
    return sizes


@register_objective
class MatryoshkaObjective(BatchTopKObjective):
    """The mean over prefixes of each prefix's squared error.

    Args:
        prefixes: sizes; default 1/16, 1/8, 1/4, 1/2 and all of the latents.
    """

    kind = "matryoshka"

    def __init__(
        self, n_latents: int, k: int, sparsity: float | None = None, prefixes: Sequence[int] | None = None
    ) -> None:
        super().__init__(n_latents, k, sparsity)
        default = sorted({max(1, n_latents // part) for part in (16, 8, 4, 2, 1)})
        self.prefixes = checked_prefixes(default if prefixes is None else prefixes, n_latents)

    def terms(
        self, x: Tensor, entries: Entries, values: Tensor, decoder: Tensor, bias: Tensor
    ) -> tuple[Terms, Tensor, Tensor]:
        bounds = torch.tensor(self.prefixes, dtype=torch.int32, device=x.device)
        group = torch.bucketize(entries.latents, bounds, right=True)
        levels = len(self.prefixes)
        recon = bias.expand_as(x)
        residuals = x.new_empty(levels, *x.shape)
        for level in range(levels):
            mine = group == level
            counts = torch.bincount(entries.rows[mine], minlength=len(x))
            part = Entries.of_counts(entries.latents[mine], values[mine], counts)
            recon = recon + bag_sum(decoder, part.latents, part.pre, part.offsets)
            residuals[level] = recon - x
        residual = residuals[-1].clone()
        loss = residuals.square().sum() / (levels * len(x))
        slopes = residuals.mul_(2 / (levels * len(x)))
        bias_slope = slopes.sum((0, 1))
        # A latent belongs to its own prefix and to all larger ones.
        for level in reversed(range(levels - 1)):
            slopes[level] += slopes[level + 1]
        targets = group.int() * len(x) + entries.rows
        return (
            Terms(entries.latents, entries.rows, targets, values, slopes.flatten(0, 1), bias_slope),
            residual,
            loss,
        )

    def to_settings(self) -> dict[str, Any]:
        return {**super().to_settings(), "prefixes": self.prefixes}

    def export(self, core: dict[str, Any], own: dict[str, Tensor], scale: float) -> Dictionary:
        threshold = max(self.state["threshold"], 0.0) * scale
        return Matryoshka(threshold=threshold, target_k=self.k, prefixes=self.prefixes, **core)
