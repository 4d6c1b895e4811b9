"""The steps that every bundled study is built by, of the picture world and of the lesions alike.

Owns the order of the steps: the dictionary is trained on pictures that no model has seen, and the study gets its name
only when it is complete. Ignores which pictures, words and models these are (`build.py`, `lesion_build.py`). Start at
`build_in`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from .scene import render
from .train import to_pixels
from .world import TRAIN

KEPT_LENGTH, MORE_DIGITS = 5e-5, 15
UNSEEN = 1_000_000_000  # first index of the scenes that dictionaries are trained on


class Drawn(Protocol):
    """Interface of a world, such as `World` and `LesionWorld`."""

    def scene(self, index: int, stream: int = ...) -> Any: ...


@dataclass(frozen=True)
class DictionaryPlan:
    """How a bundled dictionary is trained: on so many pictures, so many latents of which so many are active."""

    pictures: int
    latents: int
    active: int
    epochs: int


def rounded(values: torch.Tensor, digits: int) -> torch.Tensor:
    """Numbers to so many binary digits each, and no minus zero: what compresses well."""
    fraction, power = np.frexp(values.detach().double().numpy())
    short = np.ldexp(np.round(fraction * 2**digits) / 2**digits, power)
    return torch.as_tensor(np.asarray(short) + 0.0).to(values.dtype)


def shortened(directions: torch.Tensor) -> torch.Tensor:
    """As precise as the models' own fp16, or a little more where rows would not keep their length.

    Dictionaries read rows whose length differs by more than 1e-4 from 1 as others than they are.
    """
    short, length = directions.half().float(), directions.norm(dim=1)
    keep = (short.norm(dim=1) - length).abs().max() < KEPT_LENGTH * length.max()
    return short if keep else rounded(directions, MORE_DIGITS)


@torch.no_grad()
def dictionary_activations(model: Any, world: Drawn, n: int, batch: int = 250) -> torch.Tensor:
    """Class-token activations of `n` pictures that no model was trained on, (n, width) float32."""
    from clipattr import Site, activations

    parts = []
    for at in range(0, n, batch):
        pictures = render(world.scene(UNSEEN + at + i, TRAIN) for i in range(min(batch, n - at)))
        parts.append(activations(model, to_pixels(pictures), Site("image.-1.cls")).float())
    return torch.cat(parts)


def build_in(
    folder: Path,
    audited: Any,
    evaluator: Any,
    world: Drawn,
    plan: DictionaryPlan,
    *,
    write_scenes: Callable[[Path], object],
    write_vocabulary: Callable[[Path], object],
) -> None:
    """Train a dictionary for a model of a world, and build the study in `folder`.

    Args:
        audited, evaluator: loaded models.
        write_scenes, write_vocabulary: write the study's pictures (JSON lines) and words (CSV) to the path they get.
    """
    from clipattr import Images, Vocabulary, build_study, train_sae

    work = folder.with_name(f"{folder.name}.building")
    work.mkdir(parents=True, exist_ok=True)
    write_scenes(work / "scenes.jsonl")
    write_vocabulary(work / "vocabulary.csv")
    sae = train_sae(
        dictionary_activations(audited, world, plan.pictures),
        n_latents=plan.latents,
        k=plan.active,
        epochs=plan.epochs,
        batch=1024,
        lr=1e-3,
        site="image.-1.cls",
        model_hash=audited.weights_hash,
    )
    for weights in (sae.encoder, sae.decoder):
        weights.copy_(shortened(weights))
    build_study(
        audited,
        Images.open(f"scenes:{work / 'scenes.jsonl'}"),
        path=work / "study",
        vocabulary=Vocabulary.open(work / "vocabulary.csv"),
        evaluator=evaluator,
        dictionary=sae,
    )
    os.replace(work / "study", folder)
    shutil.rmtree(work)
