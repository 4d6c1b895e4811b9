"""Sampled: pictures of a collection as a model and an evaluator embed them, as many as a stated time allows.

Owns the choice of the pictures and the forward passes of a check. Ignores what is made of them (`check.py`). Start at
`encoded_sample`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from clipattr.errors import DataError
from clipattr.images.collection import Images
from clipattr.images.decoding import PictureError, difference_hash
from clipattr.models.loading import Model

BATCH = 16  # pictures per forward pass; small, so that the time is kept
LEAST = 32  # pictures encoded whatever the time


@dataclass(frozen=True)
class Sample:
    """The pictures looked at, row i of everything the same: places in the collection, embeddings of both models."""

    places: np.ndarray
    model: Tensor
    evaluator: Tensor
    hashes: list[int]
    labels: list[str | None]


def encoded_sample(
    model: Model, judge: Model, images: Images, pictures: int, seconds: float
) -> tuple[Sample, float]:
    """The sample, and pictures per second that both models encoded."""
    n = min(pictures, len(images))
    # An order that is even at every length, so that stopping early leaves pictures from everywhere.
    places = np.linspace(0, len(images) - 1, n).round().astype(int)
    places = places[np.random.default_rng(0).permutation(n)]

    def prepare(picture: Any) -> tuple[Tensor, Tensor, int]:
        picture = picture.convert("RGB")
        return model.prepare(picture), judge.prepare(picture), difference_hash(picture)

    kept: list[int] = []
    hashes: list[int] = []
    parts: list[tuple[Tensor, Tensor]] = []
    begun = time.monotonic()
    stream = images.stream(prepare, places.tolist())
    for batch in _batches((place, made) for place, made in stream if not isinstance(made, PictureError)):
        with torch.no_grad():
            ours = model.encode_image(torch.stack([made[0] for _, made in batch]))
            theirs = (
                ours if judge is model else judge.encode_image(torch.stack([made[1] for _, made in batch]))
            )
        parts.append((unit(ours), unit(theirs)))
        kept += [place for place, _ in batch]
        hashes += [made[2] for _, made in batch]
        if len(kept) >= LEAST and time.monotonic() - begun > seconds:
            break
    if not kept:
        raise DataError(f"None of the {n:,} sampled pictures can be read; images.skipped says why.")
    rate = len(kept) / max(time.monotonic() - begun, 1e-9)
    labels = images.columns["label"]
    sample = Sample(
        np.array(kept), torch.cat([a for a, _ in parts]), torch.cat([b for _, b in parts]), hashes,
        [None if labels[place] is None else str(labels[place]) for place in kept],
    )  # fmt: skip
    return sample, rate


def _batches(items: Iterator[Any]) -> Iterator[list[Any]]:
    batch: list[Any] = []
    for item in items:
        batch.append(item)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def unit(vectors: Tensor) -> Tensor:
    return F.normalize(vectors.float().cpu(), dim=-1)


def texts_of(model: Model, prompts: Sequence[str]) -> Tensor:
    return unit(model.encode_text(list(prompts)))
