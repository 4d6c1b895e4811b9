"""Recipes: the settings of training, grouped by what they decide.

`Recipe` says what is trained, `Schedule` how long and in which order, `Job` where it runs and which files it writes.
Only the first two decide the result. Keyword arguments of `train_sae` are fields of these three. Start at `Recipe`.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from clipattr.errors import DictionaryError


@dataclass(frozen=True)
class Recipe:
    """Kind, size and objective of a dictionary to train.

    Attributes:
        n_latents, k: size, and active latents per row (for kinds without a fixed number: the targeted L0).
        kind: "topk", "batchtopk", "matryoshka", "nested", "relu", "gated" or "jumprelu".
        whiten: ridge of the whitening in which errors are measured (`whitening_of`), None for raw activations; it is
            folded into the weights of the result, which takes and gives raw activations either way.
        center: subtract the data's mean (folded into the weights of the result).
        lr: peak learning rate; default `default_lr(n_latents)`.
        sparsity: weight of the sparsity term, for kinds that have one; None steers it so that L0 approaches k.
        dead_after: activations without a firing after which a latent is revived; default a tenth of the run, at
            most 10 million. 0 turns revival off. aux_weight, aux_k: see `trainer.Revival`.
        options: what the kind's objective takes besides, e.g. {"prefixes": [64, 512]}.

    >>> import clipattr as ca
    >>> recipe = ca.Recipe(n_latents=64, k=4)
    >>> recipe.kind, recipe.center
    ('topk', True)
    """

    n_latents: int
    k: int
    kind: str = "topk"
    whiten: float | None = None
    center: bool = True
    lr: float | None = None
    sparsity: float | None = None
    dead_after: int | None = None
    aux_weight: float = 1 / 32
    aux_k: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def told(self) -> str:
        """The recipe in a few words, for tables."""
        metric = "raw" if self.whiten is None else f"whitened, ridge {self.whiten:g}"
        more = "".join(f", {name} {value}" for name, value in self.options.items())
        return f"{self.kind}, {self.n_latents} latents, k {self.k}, {metric}{more}"


@dataclass(frozen=True)
class Schedule:
    """How long training takes and in which order it sees the activations; one for all recipes of a pass.

    Attributes:
        steps, epochs: how long; give at most one. Default: 2,000 steps.
        batch: activations per step; cut to the number there are.
        warmup: steps of linear rise (default: 5 % of all, at most 1,000); decay: final share with linear fall.
        patience: stop when the smoothed loss has not fallen by 0.1 % for this many steps.
        data_seed: order of the activations.
    """

    steps: int | None = None
    epochs: float | None = None
    batch: int = 4096
    warmup: int | None = None
    decay: float = 0.2
    patience: int | None = None
    data_seed: int = 0


@dataclass(frozen=True)
class Job:
    """Where training runs and which files it writes; changes the result by rounding only.

    Attributes:
        precision: "auto", "float32" or "bfloat16", the encoder product's.
        device: default the CPU.
        checkpoint: folder for checkpoints, one every `checkpoint_every` steps; an interrupted run with the same
            settings continues from there and ends with the weights it would have had, bit by bit on one machine with
            the same number of threads.
        log: called after each step with step, loss, l0, dead (of the first dictionary).
        progress: whether a bar is drawn.
        site, model_hash: recorded; taken from a store when it knows them.
    """

    precision: str = "auto"
    device: torch.device | str | None = None
    checkpoint: str | Path | None = None
    checkpoint_every: int = 500
    log: Callable[[dict[str, float]], None] | None = None
    progress: bool = True
    site: str | None = None
    model_hash: str | None = None


def taken(cls: type, options: dict[str, Any]) -> dict[str, Any]:
    """Moves the options that are fields of `cls` out of `options`, and returns them."""
    names = {one.name for one in fields(cls)} - {"options"}
    return {name: options.pop(name) for name in sorted(names & options.keys())}


def split_options(options: Mapping[str, Any]) -> tuple[dict[str, Any], Schedule, Job]:
    """Keyword arguments of `train_sae` as the fields of a `Recipe` (what no field takes goes to the kind's own
    `options`), a `Schedule` and a `Job`."""
    left = dict(options)
    schedule, job = Schedule(**taken(Schedule, left)), Job(**taken(Job, left))
    recipe = taken(Recipe, left)
    recipe["options"] = {**left.pop("options", {}), **left}
    return recipe, schedule, job


def check_whole(name: str, value: Any, least: int = 1) -> None:
    """DictionaryError for a value that is no whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or int(value) < least:
        raise DictionaryError(f"{name} is a whole number of at least {least}; got {value!r}.")


def check_schedule(schedule: Schedule, rows: int, seeds: int) -> None:
    """DictionaryError for a schedule that cannot run."""
    if schedule.steps is not None and schedule.epochs is not None:
        raise DictionaryError(
            f"Give steps or epochs, not both; got steps={schedule.steps} and epochs={schedule.epochs}."
        )
    for name, least in (("steps", 1), ("warmup", 0), ("patience", 1)):
        if getattr(schedule, name) is not None:
            check_whole(name, getattr(schedule, name), least)
    if schedule.epochs is not None and not schedule.epochs > 0:
        raise DictionaryError(f"epochs is a number above 0; got {schedule.epochs!r}.")
    if rows == 0 or schedule.batch < 1 or not seeds:
        raise DictionaryError(
            f"Training needs activations, a batch and a seed; got {rows}, {schedule.batch}, {seeds} seeds."
        )
