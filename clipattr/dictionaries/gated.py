"""Gated: one affine map decides whether a latent is active, another map of the same product how strongly.

Owns the inference and the training objective of this kind. Start at `Gated`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from clipattr.dictionaries.codes import SparseCodes
from clipattr.dictionaries.kernels import bag_sum
from clipattr.dictionaries.objective import (
    Entries,
    Objective,
    Slopes,
    Terms,
    per_row_bound,
    positive_entries,
    register_objective,
)
from clipattr.dictionaries.parameters import fitting
from clipattr.dictionaries.relu import above
from clipattr.dictionaries.sae import Dictionary, register_kind


@register_kind
class Gated(Dictionary):
    """A latent with pre-activation p > 0 is active with strength max(mag_gain p + mag_bias, 0).

    The usual parameters (r_mag, b_gate, b_mag over one product Wx) are mag_gain = exp(r_mag), encoder_bias = b_gate and
    mag_bias = b_mag - exp(r_mag) b_gate here.

    Args:
        mag_gain, mag_bias: (n_latents,). core: see `Dictionary`.

    Raises:
        DictionaryError: tensors of another shape, or whatever `Dictionary` refuses.

    Source: Rajamanoharan et al. 2024, arXiv:2404.16014.

    >>> import torch
    >>> parts = {"decoder": torch.eye(2), "encoder": torch.eye(2), "encoder_bias": torch.tensor([0.0, -5.0])}
    >>> made = Gated(mag_gain=torch.full((2,), 2.0), mag_bias=torch.zeros(2), **parts)
    >>> made.encode(torch.tensor([[1.0, 3.0]])).to_dense().tolist()
    [[2.0, 0.0]]
    """

    kind = "gated"

    def __init__(self, *, mag_gain: Tensor, mag_bias: Tensor, **core: Any) -> None:
        super().__init__(**core)
        self.mag_gain = fitting("mag_gain", mag_gain, (self.n_latents,))
        self.mag_bias = fitting("mag_bias", mag_bias, (self.n_latents,))

    def tensors(self) -> dict[str, Tensor]:
        return {"mag_gain": self.mag_gain, "mag_bias": self.mag_bias}

    def select(self, pre: Tensor) -> SparseCodes:
        codes = above(pre, 0.0)
        latents = codes.indices.long()
        values = (self.mag_gain[latents] * codes.values + self.mag_bias[latents]).clamp_min(0)
        return SparseCodes(codes.indices, values, codes.n_latents, codes.offsets)


@register_objective
class GatedObjective(Objective):
    """Squared error, plus `sparsity` times the sum of the open gates, plus the squared error of a reconstruction
    from the gates themselves through a decoder held fixed (which is what trains the gates)."""

    kind = "gated"
    own_start = {"log_mag_gain": 0.0, "mag_bias": 0.0}
    steered = True

    def calibrate(self, pre: Tensor, parameters: dict[str, Tensor]) -> None:
        """Set the first biases so that about 2 k gates per row are open and strengths equal the plain product."""
        bound = per_row_bound(pre, 2 * self.k)
        parameters["encoder_bias"].fill_(-bound)
        parameters["mag_bias"].fill_(bound)

    def pick(self, pre: Tensor, own: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        return positive_entries(pre)

    def values(self, entries: Entries, own: dict[str, Tensor]) -> Tensor:
        latents = entries.latents.long()
        return (own["log_mag_gain"].exp()[latents] * entries.pre + own["mag_bias"][latents]).clamp_min(0)

    def terms(
        self, x: Tensor, entries: Entries, values: Tensor, decoder: Tensor, bias: Tensor
    ) -> tuple[Terms, Tensor, Tensor]:
        main, residual, loss = super().terms(x, entries, values, decoder, bias)
        by_gates = bag_sum(decoder, entries.latents, entries.pre, entries.offsets).add_(bias).sub_(x)
        terms = Terms(
            entries.latents.repeat(2),
            entries.rows.repeat(2),
            torch.cat([entries.rows, entries.rows + len(x)]),
            torch.cat([values, torch.zeros_like(values)]),
            torch.cat([main.residuals, by_gates * (2 / len(x))]),
            main.bias_slope,
        )
        return terms, residual, loss

    def slopes(
        self, dots: Tensor, entries: Entries, values: Tensor, own: dict[str, Tensor], batch: int
    ) -> Slopes:
        count = len(values)
        latents = entries.latents.long()
        by_strength = dots[:count] * (values > 0)
        through = by_strength * own["log_mag_gain"].exp()[latents]
        by_gate = dots[count:] + self.state["sparsity"] / batch
        per_latent = torch.zeros_like(own["mag_bias"])
        slopes = torch.cat([through, by_gate])
        return Slopes(
            slopes,
            slopes,
            {
                "mag_bias": per_latent.index_add(0, latents, by_strength),
                "log_mag_gain": per_latent.index_add(0, latents, through * entries.pre),
            },
        )

    def export(self, core: dict[str, Any], own: dict[str, Tensor], scale: float) -> Dictionary:
        return Gated(mag_gain=own["log_mag_gain"].exp(), mag_bias=own["mag_bias"] * scale, **core)
