"""One training run: parameters, moments, and the step that updates them from active entries only.

Owns the arithmetic of a step (pre-activations in pieces, sparse decode, sparse gradients, Adam slice by slice) and
the dead-latent revival. Ignores where batches come from and when to stop. Start at `Run.step`.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from clipattr.dictionaries.codes import offsets_of
from clipattr.dictionaries.kernels import (
    abreast,
    bag_sum,
    chunk_rows,
    entry_dots,
    matmul_dtype,
    top_positive,
)
from clipattr.dictionaries.objective import Entries, Objective, Slopes, Terms
from clipattr.dictionaries.whitening import Whitening
from clipattr.errors import DictionaryError

BETAS, ADAM_EPS = (0.9, 0.999), 1e-8
# Latents per slice of the update: gradient, weights and moments of a slice stay in the cache between operations.
SLICE_BYTES = 2 * 2**20


@dataclass(frozen=True)
class Revival:
    """AuxK: dead latents are trained to reconstruct the error that the living ones leave.

    dead_after: tokens without an activation after which a latent counts as dead.
    weight: of the auxiliary loss, the mean over rows of |e - e_hat|^2 with e the (fixed) error of the living.
    k: dead latents used per row.
    share: the share of a batch's rows that take part.

    Source: Gao et al. 2024, arXiv:2406.04093, appendix A.2.
    """

    dead_after: int
    weight: float = 1 / 32
    k: int = 256
    share: float = 0.125


class Run:
    """One dictionary in training, on activations brought to mean 0 and mean square length 1.

    Args:
        objective: of the kind.
        width: of the activations.
        seed: decides the start directions, on any device.
        revival: dead-latent revival, None for none.
        precision: dtype of the encoder product, see `kernels.matmul_dtype`.
        directions: (n_latents, width) start directions instead of random ones.
    """

    in_order = False  # whether slices of the matrices must be updated one after the other

    def __init__(
        self,
        objective: Objective,
        width: int,
        *,
        seed: int = 0,
        revival: Revival | None = None,
        precision: str = "auto",
        device: torch.device | str = "cpu",
        directions: Tensor | None = None,
    ) -> None:
        device = torch.device(device)
        n = objective.n_latents
        if directions is None:
            directions = torch.randn(n, width, generator=torch.Generator().manual_seed(seed))
        directions = torch.nn.functional.normalize(directions.float(), dim=1).to(device)
        self.objective = objective
        self.revival = revival
        self.dtype = matmul_dtype(device, precision)
        self.parameters: dict[str, Tensor] = {
            "decoder": directions,
            "encoder": directions.clone(),
            "encoder_bias": torch.zeros(n, device=device),
            "bias": torch.zeros(width, device=device),
        }
        self.own = {
            name: torch.full((n,), start, device=device) for name, start in objective.own_start.items()
        }
        self.parameters |= self.own
        self.first_moments = {name: torch.zeros_like(p) for name, p in self.parameters.items()}
        self.second_moments = {name: torch.zeros_like(p) for name, p in self.parameters.items()}
        self.tokens_since_active = torch.zeros(n, dtype=torch.int64, device=device)
        self.steps_done = 0
        self._encoder_16: Tensor | None = None

    @property
    def device(self) -> torch.device:
        return self.parameters["decoder"].device

    def calibrate(self, x: Tensor) -> None:
        """Let the objective choose start values from some rows; before the first step."""
        rows = x[: min(len(x), 256)]
        pre = rows @ self.parameters["encoder"].T + self.parameters["encoder_bias"]
        self.objective.calibrate(pre, self.parameters)
        self._encoder_16 = None

    def step(self, x: Tensor, lr: float) -> dict[str, float]:
        """One update from a batch.

        Args:
            x: (batch, width) float32, centred and scaled.
            lr: learning rate of this step.

        Returns:
            loss (mean squared error per row; 1 is what predicting the mean costs), l0, dead (share), aux.
        """
        objective, own = self.objective, self.own
        decoder = self.parameters["decoder"]
        entries = self._entries(x)
        values = objective.values(entries, own)
        terms, residual, loss = objective.terms(x, entries, values, decoder, self.parameters["bias"])
        if not bool(torch.isfinite(loss)):
            raise DictionaryError(
                f"The loss became {float(loss)} at step {self.steps_done + 1}: lower lr (now {lr:.2g}), or look for "
                "extreme activations."
            )
        active = torch.zeros(objective.n_latents, dtype=torch.bool, device=x.device)
        active[entries.latents[values > 0].long()] = True
        l0 = float((values > 0).sum()) / len(x)
        n_main = len(terms.latents)
        terms, aux_loss = self._with_revival(x, residual, terms)

        # By latent, so that every gradient row is one bag and every decoder row is read once.
        latents, order = torch.sort(terms.latents, stable=True)
        offsets = offsets_of(torch.bincount(terms.latents, minlength=objective.n_latents)).int()
        targets = terms.targets[order]
        inputs = targets if terms.inputs is terms.targets else terms.inputs[order]
        weights = terms.weights[order]
        sorted_dots = entry_dots(decoder, terms.residuals, targets, offsets, latents)
        # How far each latent's decoder gradient points along its own direction, from the dots that are there anyway.
        along = torch.zeros(objective.n_latents, device=x.device)
        along.index_add_(0, latents.long(), weights * sorted_dots)
        dots = torch.empty_like(terms.weights)
        dots[order] = sorted_dots
        slopes = objective.slopes(dots[:n_main], entries, values, own, len(x))
        if len(dots) > n_main:
            revived = dots[n_main:] * (terms.weights[n_main:] > 0)
            slopes = Slopes(
                torch.cat([slopes.encoder, revived]), torch.cat([slopes.encoder_bias, revived]), slopes.own
            )

        self.steps_done += 1
        encoder_slopes = slopes.encoder[order]
        self._update_matrices(
            x, terms.residuals, targets, inputs, weights, encoder_slopes, along, offsets, lr
        )
        bias_gradient = torch.zeros_like(self.parameters["encoder_bias"])
        bias_gradient.index_add_(0, terms.latents.long(), slopes.encoder_bias)
        self._adam("encoder_bias", bias_gradient, lr)
        self._adam("bias", terms.bias_slope, lr)
        for name, gradient in slopes.own.items():
            self._adam(name, gradient, lr)
        objective.after_step(l0, values, own)
        self.tokens_since_active.add_(len(x)).masked_fill_(active, 0)
        return {"loss": float(loss), "l0": l0, "dead": self.dead_share(), "aux": aux_loss}

    def dead_share(self) -> float:
        """Share of latents without an activation for `dead_after` tokens (0 without revival settings)."""
        return float(self._dead().float().mean())

    def state(self) -> dict[str, Tensor]:
        """Everything the next step depends on."""
        parts = {f"parameter.{name}": p for name, p in self.parameters.items()}
        parts |= {f"first.{name}": p for name, p in self.first_moments.items()}
        parts |= {f"second.{name}": p for name, p in self.second_moments.items()}
        parts["tokens_since_active"] = self.tokens_since_active
        parts["steps_done"] = torch.tensor(self.steps_done)
        for name, value in self.objective.state.items():
            parts[f"objective.{name}"] = torch.tensor(value, dtype=torch.float64)
        return parts

    def restore(self, parts: dict[str, Tensor]) -> None:
        """Continue from a `state`; raises KeyError where a part is missing."""
        for store, prefix in (
            (self.parameters, "parameter"),
            (self.first_moments, "first"),
            (self.second_moments, "second"),
        ):
            for name, tensor in store.items():
                tensor.copy_(parts[f"{prefix}.{name}"])
        self.tokens_since_active.copy_(parts["tokens_since_active"])
        self.steps_done = int(parts["steps_done"])
        for name in self.objective.state:
            self.objective.state[name] = float(parts[f"objective.{name}"])
        self._encoder_16 = None

    # Inside

    def _entries(self, x: Tensor) -> Entries:
        encoder, encoder_bias = self.parameters["encoder"], self.parameters["encoder_bias"]
        if self.dtype != torch.float32:
            if self._encoder_16 is None:
                self._encoder_16 = encoder.to(self.dtype)
            encoder, encoder_bias, x = self._encoder_16, encoder_bias.to(self.dtype), x.to(self.dtype)
        rows = chunk_rows(self.objective.n_latents, self.dtype.itemsize)
        thread = threading.local()

        def pick(piece: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            # One buffer for all pieces of a thread: fresh memory would cost as much as the product.
            if not hasattr(thread, "buffer"):
                thread.buffer = torch.empty(
                    min(rows, len(x)), len(encoder), dtype=self.dtype, device=x.device
                )
            pre = torch.mm(piece, encoder.T, out=thread.buffer[: len(piece)]).add_(encoder_bias)
            return self.objective.pick(pre, self.own)

        while True:
            parts = abreast(pick, x.split(rows), x.device)
            latents, pre, counts = (torch.cat(part) for part in zip(*parts, strict=True))
            entries = self.objective.settle(Entries.of_counts(latents, pre, counts))
            if entries is not None:
                return entries

    def _dead(self) -> Tensor:
        if self.revival is None:
            return torch.zeros_like(self.tokens_since_active, dtype=torch.bool)
        return self.tokens_since_active >= self.revival.dead_after

    def _with_revival(self, x: Tensor, residual: Tensor, terms: Terms) -> tuple[Terms, float]:
        """Adds the auxiliary terms of the first rows of the batch (batches are shuffled).

        The leftover e = x - x_hat already has the decoder bias taken out, so the dead latents' own reconstruction
        must not add it again.
        """
        if self.revival is None:
            return terms, 0.0
        dead = self._dead().nonzero().squeeze(-1)
        if len(dead) == 0:
            return terms, 0.0
        rows = max(1, round(len(x) * self.revival.share))
        x, leftover = x[:rows], -residual[:rows]
        pre = torch.addmm(self.parameters["encoder_bias"][dead], x, self.parameters["encoder"][dead].T)
        indices, values = top_positive(pre, min(self.revival.k, len(dead)))
        latents = dead[indices.flatten().long()].int()
        values = values.flatten()
        inputs = torch.arange(rows, dtype=torch.int32, device=x.device).repeat_interleave(indices.shape[1])
        offsets = torch.arange(0, len(latents) + 1, indices.shape[1], dtype=torch.int32, device=x.device)
        guess = bag_sum(self.parameters["decoder"], latents, values, offsets)
        size = leftover.square().sum().clamp_min(1e-12)
        miss = guess.sub_(leftover)
        share = float(miss.square().sum() / size)
        scale = 2 * self.revival.weight / rows
        return Terms(
            torch.cat([terms.latents, latents]),
            torch.cat([terms.inputs, inputs]),
            torch.cat([terms.targets, inputs + len(terms.residuals)]),
            torch.cat([terms.weights, values]),
            torch.cat([terms.residuals, miss * scale]),
            terms.bias_slope,
        ), share

    def _update_matrices(
        self,
        x: Tensor,
        residuals: Tensor,
        targets: Tensor,
        inputs: Tensor,
        weights: Tensor,
        slopes: Tensor,
        along: Tensor,
        offsets: Tensor,
        lr: float,
    ) -> None:
        """Encoder and decoder, slice of latents by slice: gradients never exist as whole matrices."""
        decoder, encoder = self.parameters["decoder"], self.parameters["encoder"]
        n, width = decoder.shape
        # Sums over a latent's entries run in the dtype of the product: half the memory traffic in bf16.
        x, residuals, weights, slopes = (part.to(self.dtype) for part in (x, residuals, weights, slopes))
        size = n if self.device.type != "cpu" else max(64, SLICE_BYTES // (4 * width))

        def update(start: int) -> None:
            stop = min(start + size, n)
            first, last = int(offsets[start]), int(offsets[stop])
            local = offsets[start : stop + 1] - first
            gradient = bag_sum(residuals, targets[first:last], weights[first:last], local).float()
            rows = decoder[start:stop]
            # Only the part of the gradient that turns a direction counts: lengths stay 1.
            gradient.addcmul_(along[start:stop, None], rows, value=-1)
            self._adam("decoder", gradient, lr, slice(start, stop))
            rows.div_(torch.linalg.vector_norm(rows, dim=1, keepdim=True).clamp_min_(1e-12))
            gradient = bag_sum(x, inputs[first:last], slopes[first:last], local).float()
            self._adam("encoder", gradient, lr, slice(start, stop))
            if self._encoder_16 is not None:
                self._encoder_16[start:stop].copy_(encoder[start:stop])

        starts = range(0, n, size)
        if self.in_order:
            for start in starts:
                update(start)
        else:
            abreast(update, starts, self.device)

    def _adam(self, name: str, gradient: Tensor, lr: float, rows: slice = slice(None)) -> None:
        torch._fused_adam_(
            [self.parameters[name][rows]],
            [gradient],
            [self.first_moments[name][rows]],
            [self.second_moments[name][rows]],
            [],
            [torch.tensor(float(self.steps_done), device=self.device)],
            lr=lr,
            beta1=BETAS[0],
            beta2=BETAS[1],
            weight_decay=0.0,
            eps=ADAM_EPS,
            amsgrad=False,
            maximize=False,
        )


def folded(
    run: Run, mean: Tensor, scale: float, extra: dict[str, Any], whitening: Whitening | None = None
) -> Any:
    """The run's dictionary with centring, scaling and whitening folded into its weights.

    Training saw z = ((x - mean) / scale) W. With W folded, pre-activations are the same numbers times `scale`; rows of
    the decoder become v W^-1, which are no longer of unit length: `Dictionary` moves their lengths into `gain`.
    """
    encoder, decoder, bias = (run.parameters[name] for name in ("encoder", "decoder", "bias"))
    if whitening is not None:
        encoder, decoder, bias = encoder @ whitening.forward, decoder @ whitening.back, bias @ whitening.back
    core = {
        "decoder": decoder.clone(),
        "encoder": encoder.clone(),
        "encoder_bias": run.parameters["encoder_bias"] * scale,
        "pre_bias": mean.clone(),
        "bias": mean + scale * bias,
        **extra,
    }
    return run.objective.export(core, run.own, scale)
