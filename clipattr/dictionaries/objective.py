"""Objectives: the training loss of each kind of dictionary, over active entries only.

Owns the shared shape of a training step's sparse data (`Entries`, `Terms`) and the base class with the TopK-like
defaults; each kind's module holds its own objective. Ignores optimisers and data. Start at `Objective`.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from clipattr.dictionaries.codes import offsets_of
from clipattr.dictionaries.kernels import bag_sum, top_positive
from clipattr.dictionaries.sae import Dictionary
from clipattr.errors import DictionaryError


@dataclass
class Entries:
    """Candidate entries of a batch, row after row: row i owns `offsets[i]:offsets[i + 1]`.

    rows, latents: int32 (entries,); pre: float32 (entries,), pre-activations; offsets: int32 (batch + 1,).
    """

    rows: Tensor
    latents: Tensor
    pre: Tensor
    offsets: Tensor

    @staticmethod
    def of_counts(latents: Tensor, pre: Tensor, counts: Tensor) -> Entries:
        """Entries from the number of them in each row."""
        rows = torch.arange(len(counts), dtype=torch.int32, device=counts.device).repeat_interleave(counts)
        return Entries(rows, latents.int(), pre, offsets_of(counts).int())

    def kept(self, keep: Tensor) -> Entries:
        """Only the entries where `keep`."""
        counts = torch.bincount(self.rows[keep], minlength=len(self.offsets) - 1)
        return Entries.of_counts(self.latents[keep], self.pre[keep], counts)


@dataclass
class Terms:
    """The loss as a sum over entries of <residual row, decoder row>, from which all gradients follow.

    Entry e adds `weights[e] * residuals[targets[e]]` to its latent's decoder gradient, and the dot of that residual
    row with the decoder row is the slope of the loss by the entry's value.

    latents, inputs, targets: int32 (terms,): the latent, the row of the batch, the row of `residuals`.
    weights: (terms,), the entry's value, or 0 where the decoder is held fixed.
    residuals: (tables, width), d loss / d reconstruction.
    bias_slope: (width,), d loss / d decoder bias.
    """

    latents: Tensor
    inputs: Tensor
    targets: Tensor
    weights: Tensor
    residuals: Tensor
    bias_slope: Tensor


@dataclass
class Slopes:
    """Derivatives of the loss, one per term: by encoder @ x, by the encoder bias, and by the kind's own vectors
    (there already summed, (n_latents,))."""

    encoder: Tensor
    encoder_bias: Tensor
    own: dict[str, Tensor]


class Objective:
    """How one kind is trained. One instance per run; `state` (floats) travels with checkpoints.

    Args:
        n_latents: latents of the dictionary.
        k: active latents per row; for kinds without a fixed number, what the sparsity weight is steered towards.
        sparsity: the weight of the sparsity term; None lets it be steered so that L0 approaches k.
    """

    kind: ClassVar[str] = ""
    # The vectors of n_latents numbers that are trained beside encoder, decoder and biases, with their start.
    own_start: ClassVar[dict[str, float]] = {}
    steered: ClassVar[bool] = False

    def __init__(self, n_latents: int, k: int, sparsity: float | None = None) -> None:
        if not 1 <= k <= n_latents:
            raise DictionaryError(f"k must lie between 1 and the {n_latents} latents; got {k}.")
        self.n_latents = n_latents
        self.k = k
        self.steer = self.steered and sparsity is None
        self.state: dict[str, float] = {"sparsity": 0.003 if sparsity is None else float(sparsity)}

    # What a kind may override

    def calibrate(self, pre: Tensor, parameters: dict[str, Tensor]) -> None:
        """Set start values from the pre-activations (rows, n_latents) of the first rows, before the first step."""

    def pick(self, pre: Tensor, own: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Candidates of some rows: (latents, pre, count per row), row after row."""
        indices, values = top_positive(pre, self.k)
        return indices.flatten(), values.flatten(), torch.full((len(pre),), self.k, device=pre.device)

    def settle(self, entries: Entries) -> Entries | None:
        """Cut candidates down once the whole batch is known; None asks for picking again (with more)."""
        return entries

    def values(self, entries: Entries, own: dict[str, Tensor]) -> Tensor:
        """Codes of the entries, (entries,)."""
        return entries.pre

    def terms(
        self, x: Tensor, entries: Entries, values: Tensor, decoder: Tensor, bias: Tensor
    ) -> tuple[Terms, Tensor, Tensor]:
        """The reconstruction part of the loss: its terms, the residual x_hat - x (batch, width), and the loss.

        The loss is the mean over rows of the squared error.
        """
        recon = bag_sum(decoder, entries.latents, values, entries.offsets).add_(bias)
        residual = recon.sub_(x)
        loss = residual.square().sum() / len(x)
        slope = residual * (2 / len(x))
        terms = Terms(entries.latents, entries.rows, entries.rows, values, slope, slope.sum(0))
        return terms, residual, loss

    def slopes(
        self, dots: Tensor, entries: Entries, values: Tensor, own: dict[str, Tensor], batch: int
    ) -> Slopes:
        """From each term's slope by its value to slopes by the trained parameters."""
        slopes = dots * (values > 0)
        return Slopes(slopes, slopes, {})

    def after_step(self, l0: float, values: Tensor, own: dict[str, Tensor]) -> None:
        """Called once per step, after the update, with the mean number of active latents."""
        if self.steer:
            self.state["sparsity"] *= 1 + 0.03 * self.excess(l0)

    def excess(self, l0: float) -> float:
        """How far L0 lies above its aim, as a share of it, between -1 and 1."""
        return min(max((l0 - self.k) / self.k, -1.0), 1.0)

    def export(self, core: dict[str, Any], own: dict[str, Tensor], scale: float) -> Dictionary:
        """The trained dictionary.

        Args:
            core: arguments every kind shares, already in the activations' units.
            own: the kind's own vectors, in units of the scaled activations; codes there times `scale` are codes here.
        """
        raise DictionaryError(
            f"{type(self).__name__} makes no dictionary; train with one of the kinds, e.g. 'topk'."
        )

    def to_settings(self) -> dict[str, Any]:
        """Settings of the objective, to compare with a checkpoint's."""
        return {"kind": self.kind, "k": self.k, "steer": self.steer}


OBJECTIVES: dict[str, type[Objective]] = {}


def check_options(kind: str, options: Mapping[str, Any]) -> None:
    """DictionaryError for a kind that cannot be trained, or options that its objective does not take."""
    if kind not in OBJECTIVES:
        raise DictionaryError(
            f"Kind {kind!r} cannot be trained; known kinds: {', '.join(sorted(OBJECTIVES))}."
        )
    known = set(inspect.signature(OBJECTIVES[kind]).parameters) - {"n_latents", "k", "sparsity"}
    if unknown := sorted(set(options) - known):
        raise DictionaryError(
            f"Training does not know {', '.join(unknown)}; it takes steps, epochs, batch, lr and the other fields of "
            f"Recipe, and for the kind {kind!r} {', '.join(sorted(known)) or 'no more'}."
        )


def register_objective(cls: type[Objective]) -> type[Objective]:
    """Class decorator: makes an objective trainable under its kind's name."""
    OBJECTIVES[cls.kind] = cls
    return cls


def per_row_bound(pre: Tensor, count: int) -> float:
    """The mean over rows of the count-th largest value: a threshold that leaves about `count` active per row."""
    count = min(count, pre.shape[1])
    return float(pre.float().topk(count, dim=-1).values[:, -1].mean())


def positive_entries(pre: Tensor, bound: Tensor | float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
    """Entries above a bound (at least 0; a number or one per latent), as `Objective.pick` returns them."""
    keep = pre > bound
    if pre.device.type == "cpu":
        flat = torch.from_numpy(np.flatnonzero(keep.numpy()))
    else:
        flat = keep.flatten().nonzero().squeeze(-1)
    rows = flat // pre.shape[1]
    counts = torch.bincount(rows, minlength=len(pre))
    return (flat - rows * pre.shape[1]).int(), pre.flatten()[flat].float(), counts
