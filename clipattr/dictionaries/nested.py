"""Nested TopK: a first level of few latents for the strongest factors, further levels for the rest.

Owns the kind's inference and its training objective. Activations often have factors of very different variance, such as
a background and a small object. One TopK over all latents then splits the strong factor over many latents, or uses all
active latents for it; a separate level for strong factors avoids both. Start at `NestedTopK`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from clipattr.dictionaries.codes import SparseCodes
from clipattr.dictionaries.kernels import bag_sum, top_positive
from clipattr.dictionaries.objective import Entries, Objective, Terms, register_objective
from clipattr.dictionaries.sae import Dictionary, register_kind
from clipattr.errors import DictionaryError


@register_kind
class NestedTopK(Dictionary):
    """Keeps, in each level of latents, the level's own number of largest positive pre-activations.

    Args:
        sizes: latents of each level, in order; they sum to n_latents.
        active: active latents of each level, per row.

    Source: a Matryoshka dictionary (Bussmann et al. 2025, arXiv:2503.17547) whose levels are TopK (Gao et al. 2024,
    arXiv:2406.04093), so that a row's codes never depend on its batch and always count sum(active).
    """

    kind = "nested"
    n_fixed = True

    def __init__(self, *, sizes: Sequence[int], active: Sequence[int], **core: Any) -> None:
        super().__init__(**core)
        self.sizes, self.active = checked_levels(sizes, active, self.n_latents)

    @property
    def k(self) -> int:
        return sum(self.active)

    def settings(self) -> dict[str, Any]:
        return {"sizes": self.sizes, "active": self.active}

    def select(self, pre: Tensor) -> SparseCodes:
        return SparseCodes(*top_of_levels(pre, self.sizes, self.active), self.n_latents)


def checked_levels(
    sizes: Sequence[int], active: Sequence[int], n_latents: int
) -> tuple[list[int], list[int]]:
    """The levels as lists; DictionaryError unless they fit each other and the number of latents."""
    sizes, active = [int(size) for size in sizes], [int(count) for count in active]
    fits = len(sizes) == len(active) and sum(sizes) == n_latents
    if not fits or not all(1 <= count <= size for size, count in zip(sizes, active, strict=True)):
        raise DictionaryError(
            f"Levels need sizes that sum to the {n_latents} latents, and for each an active count between 1 and its "
            f"size; got sizes {sizes} and active {active}."
        )
    return sizes, active


def top_of_levels(pre: Tensor, sizes: Sequence[int], active: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Indices and values (rows, sum(active)): the largest of every level, negative ones as 0."""
    indices, values, first = [], [], 0
    for size, count in zip(sizes, active, strict=True):
        places, largest = top_positive(pre[:, first : first + size].contiguous(), count)
        indices.append(places + first)
        values.append(largest)
        first += size
    return torch.cat(indices, 1).int(), torch.cat(values, 1)


@register_objective
class NestedObjective(Objective):
    """The squared error of all latents together, and with a weight that of the first level alone.

    Args:
        first: latents of the first level; default a sixteenth of all.
        first_k: active latents of the first level; default 2 (or k - 1 if that is less).
        first_weight: share of the loss that the first level's own error has.
    """

    kind = "nested"

    def __init__(
        self,
        n_latents: int,
        k: int,
        sparsity: float | None = None,
        first: int | None = None,
        first_k: int | None = None,
        first_weight: float = 0.3,
    ) -> None:
        super().__init__(n_latents, k, sparsity)
        first = max(1, n_latents // 16) if first is None else first
        first_k = max(1, min(2, k - 1, first)) if first_k is None else first_k
        self.sizes, self.active = checked_levels(
            (first, n_latents - first), (first_k, k - first_k), n_latents
        )
        if not 0 <= first_weight < 1:
            raise DictionaryError(
                f"first_weight is a fraction of the loss, at least 0 and below 1; got {first_weight}."
            )
        self.first_weight = float(first_weight)

    def pick(self, pre: Tensor, own: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        indices, values = top_of_levels(pre, self.sizes, self.active)
        return indices.flatten(), values.flatten(), torch.full((len(pre),), self.k, device=pre.device)

    def terms(
        self, x: Tensor, entries: Entries, values: Tensor, decoder: Tensor, bias: Tensor
    ) -> tuple[Terms, Tensor, Tensor]:
        rows, weight = len(x), self.first_weight
        in_first = entries.latents < self.sizes[0]

        def part(mine: Tensor) -> Tensor:
            counts = torch.bincount(entries.rows[mine], minlength=rows)
            chosen = Entries.of_counts(entries.latents[mine], values[mine], counts)
            return bag_sum(decoder, chosen.latents, chosen.pre, chosen.offsets)

        first = part(in_first).add_(bias).sub_(x)
        residual = first + part(~in_first)
        loss = ((1 - weight) * residual.square().sum() + weight * first.square().sum()) / rows
        slope = residual * (2 * (1 - weight) / rows)
        slope_first = first.mul_(2 * weight / rows).add_(slope)
        targets = torch.where(in_first, entries.rows, entries.rows + rows)
        terms = Terms(
            entries.latents,
            entries.rows,
            targets,
            values,
            torch.cat([slope_first, slope]),
            slope_first.sum(0),
        )
        return terms, residual, loss

    def to_settings(self) -> dict[str, Any]:
        levels = {"sizes": self.sizes, "active": self.active, "first_weight": self.first_weight}
        return {**super().to_settings(), **levels}

    def export(self, core: dict[str, Any], own: dict[str, Tensor], scale: float) -> Dictionary:
        return NestedTopK(sizes=self.sizes, active=self.active, **core)
