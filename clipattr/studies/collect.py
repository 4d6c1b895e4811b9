"""Collecting: the forward passes that fill a store of activations, shard by shard, here or on another machine.

Owns what is encoded together: micro-batches that begin anew with every shard, so that its bytes do not depend on who
encodes it or what came before. Ignores the files. Start at `collect_activations`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from clipattr.errors import DataError
from clipattr.execution.engine import Engine, Here, in_halves
from clipattr.images.collection import Images
from clipattr.models.loading import Model
from clipattr.sites import Site, capture
from clipattr.storage.activations import POOLED, ActivationStore
from clipattr.storage.shards import mixed, temporary_folder


@dataclass(frozen=True)
class _Job:
    """What every shard of one call shares; see `collect_activations`."""

    model: Model
    images: Images
    store: ActivationStore
    batch: int


def collect_activations(
    model: Model,
    images: Any,
    site: str | Site | Sequence[str | Site],
    path: str | Path | None = None,
    *,
    batch: int = 64,
    dtype: str = "float16",
    resume: bool = True,
    progress: bool = True,
    shard_pictures: int = 4096,
    shuffle: int | None = None,
    engine: Engine | None = None,
) -> ActivationStore:
    """Encode pictures once and keep the activations at one or several sites.

    Interrupted at any point, the same call continues with the shards that are missing and ends with the same bytes.

    Args:
        images: an `Images` or anything `Images.open` takes.
        path: folder of the store; None keeps it in a temporary folder that goes with the process.
        site: one or several, all filled by one forward pass; `image.pooled` is the tower's output.
        batch, dtype, shard_pictures, shuffle, resume: see `ActivationStore.create`. Where memory does not suffice for
            a batch it is halved, which the store's `notes` tell.
        engine: where shards are encoded, e.g. `clipattr.Ray(workers=8)`; all of its machines must see `path` and the
            pictures.

    Returns:
        The complete store, at the first site. Pictures that cannot be read are in its `skipped`.

    Raises:
        DataError: the folder holds a store of something else, another process writes it, or no picture is readable.
    """
    images = Images.open(images)
    store = ActivationStore.create(
        temporary_folder() if path is None else path,
        model,
        _shapes(model, site),
        pictures=len(images),
        fingerprint=images.fingerprint,
        batch=batch,
        dtype=dtype,
        shard_pictures=shard_pictures,
        shuffle=shuffle,
        resume=resume,
    )
    engine = engine or Here()
    with (
        store.writing(),
        tqdm(total=len(images), disable=not progress, desc="activations", unit="picture") as bar,
    ):
        store.check()  # what earlier calls left
        missing = store.missing()
        bar.update(len(images) - sum(len(store.shard_places(number)) for number in missing))
        job = _Job(model, images, store, batch)
        if engine.at_once:
            for number in missing:
                encode_shard(job, number, bar.update)
        else:
            for number in engine.map(encode_shard, job, missing):
                bar.update(len(store.shard_places(number)))
        store.refresh()
    if not len(store):
        raise DataError(f"None of the {len(images)} pictures could be read; the first: {store.skipped[:3]}.")
    return store


def encode_shard(job: _Job, number: int, told: Callable[[int], object] = lambda done: None) -> int:
    """Encode the pictures of one shard and write it; `told` hears of every batch. Returns the shard's number."""
    store, images, model = job.store, job.images, job.model
    names = list(store.manifest["sites"])
    span = store.shard_places(number)
    places = mixed(len(images), store.shuffle)[span.start : span.stop].tolist()
    kept: set[int] = set()
    parts: dict[str, list[Tensor]] = {name: [] for name in names}
    smallest: int | None = None
    for found, (pixels,) in images.batches([model], job.batch, places=places):

        def encoded(some: slice, pixels: Tensor = pixels) -> dict[str, Tensor]:
            with capture(model, *(name for name in names if name != POOLED)) as acts:
                pooled = model.encode_image(pixels[some])
            return {name: (pooled if name == POOLED else acts[name]).float().cpu() for name in names}

        pieces, size = in_halves(encoded, len(pixels))
        smallest = size if smallest is None else min(smallest, size or smallest)
        for piece in pieces:
            for name in names:
                parts[name].append(piece[name])
        kept.update(found.tolist())
        told(len(found))
    reasons = dict(images.skipped)
    lost = [(place, images[place].id) for place in places if place not in kept]
    joined = {
        name: torch.cat(given) if given else torch.empty(0, store.manifest["sites"][name]["width"])
        for name, given in parts.items()
    }
    left_out = [(place, name, reasons.get(name, "unreadable")) for place, name in lost]
    store.write_shard(joined, left_out, number=number, smallest=smallest)
    told(len(lost))
    return number


def _shapes(model: Model, sites: str | Site | Sequence[str | Site]) -> dict[str, tuple[int, ...]]:
    """Shape of one picture's activation at each site, by the site's written form."""
    written = [str(site) for site in ([sites] if isinstance(sites, (str, Site)) else sites)]
    names = [name if name == POOLED else str(Site(name).canonical(model)) for name in written]
    if len(set(names)) < len(names):
        raise DataError(f"A store needs different sites; got {names}.")
    return {name: (model.embed_dim,) if name == POOLED else Site(name).shape(model) for name in names}
