"""Trainees: what takes part in one pass of training, and how each of them sees the activations.

Owns the start of a run from its recipe, and the views (centred, scaled, whitened) that recipes need. Ignores the
loop over batches. Start at `Trainee.of` and `Views`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from clipattr.dictionaries.batches import Source, mean_and_scale
from clipattr.dictionaries.objective import OBJECTIVES, check_options
from clipattr.dictionaries.recipes import Job, Recipe
from clipattr.dictionaries.trainer import Revival, Run
from clipattr.dictionaries.whitening import Whitening, covariance, whitening_of


def default_lr(n_latents: int) -> float:
    """Adam's rate falls with the square root of the dictionary's size (Gao et al. 2024, arXiv:2406.04093)."""
    return min(2e-4 * math.sqrt(2**14 / n_latents), 2e-3)


@dataclass
class Trainee:
    """One recipe from one seed, in training."""

    recipe: Recipe
    run: Run
    peak: float  # learning rate
    settings: dict[str, Any]

    @staticmethod
    def of(
        recipe: Recipe,
        seed: int,
        width: int,
        tokens: int,
        batch: int,
        job: Job,
        device: torch.device,
        team: Any,
    ) -> Trainee:
        """The start of a run over `tokens` activations."""
        check_options(recipe.kind, recipe.options)
        team.check(recipe.kind, batch)
        dead_after = recipe.dead_after
        if dead_after is None:
            dead_after = min(10_000_000, max(tokens // 10, batch))
        revival = None
        if dead_after:
            revival = Revival(dead_after, recipe.aux_weight, recipe.aux_k or max(1, min(width // 2, 512)))
        objective = OBJECTIVES[recipe.kind](recipe.n_latents, recipe.k, recipe.sparsity, **recipe.options)
        run = team.run(objective, width, seed=seed, revival=revival, precision=job.precision, device=device)
        peak = default_lr(recipe.n_latents) if recipe.lr is None else recipe.lr
        settings = {
            **objective.to_settings(), "n_latents": recipe.n_latents, "lr": peak, "seeds": [seed],
            "center": recipe.center, "whiten": recipe.whiten, "sparsity": recipe.sparsity,
            "dead_after": dead_after, "aux_weight": recipe.aux_weight, "aux_k": recipe.aux_k,
            "precision": str(run.dtype),
        }  # fmt: skip
        return Trainee(recipe, run, peak, settings)


class Views:
    """Activations as each recipe sees them: centred, scaled, whitened; a view that several share is made once."""

    def __init__(self, source: Source, batch: int, seed: int, device: torch.device) -> None:
        self._source, self._batch, self._seed, self._device = source, batch, seed, device
        self._mean, self._scale, self.gamma = mean_and_scale(source, batch, seed)
        self._whitenings: dict[tuple[bool, float | None], Whitening] = {}
        self._moments: dict[bool, Tensor] = {}

    def _centring(self, center: bool) -> tuple[Tensor, float]:
        if center:
            return self._mean, self._scale
        return torch.zeros_like(self._mean), self._scale * math.sqrt(1 + self.gamma**2)

    def prepare(self, recipe: Recipe) -> None:
        """Compute what a recipe's view needs."""
        key = (recipe.center, recipe.whiten)
        if recipe.whiten is None or key in self._whitenings:
            return
        if recipe.center not in self._moments:
            mean, scale = self._centring(recipe.center)
            self._moments[recipe.center] = covariance(self._source, self._batch, self._seed, mean, scale)
        self._whitenings[key] = whitening_of(self._moments[recipe.center], recipe.whiten).to(self._device)

    def prepared(self, recipe: Recipe) -> tuple[Tensor, float, Whitening | None]:
        """Mean, scale and whitening of a recipe's view."""
        mean, scale = self._centring(recipe.center)
        return mean.to(self._device), scale, self._whitenings.get((recipe.center, recipe.whiten))

    def of(self, acts: Tensor) -> Callable[[Recipe], Tensor]:
        """The views of one batch, each made when first asked for."""
        made: dict[tuple[bool, float | None], Tensor] = {}

        def view(recipe: Recipe) -> Tensor:
            key = (recipe.center, recipe.whiten)
            if key not in made:
                mean, scale, whitening = self.prepared(recipe)
                x = acts.to(self._device).sub(mean).div_(scale)
                made[key] = x if whitening is None else x @ whitening.forward
            return made[key]

        return view
