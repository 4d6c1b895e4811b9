"""Encoding: one pass over pictures that fills a store of activations, for stores and studies alike.

Owns decoding of each picture once for all models, and micro-batches that restart with every shard, so that the bytes of
a shard do not depend on the process that encodes it or on other shards. Ignores the files (`storage/activations.py`)
and their use. Start at `collect_activations`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clipattr.display.progress import Progress
from clipattr.errors import DataError
from clipattr.execution.engine import Engine, Here, in_halves
from clipattr.images.collection import Images, preparer
from clipattr.images.decoding import PictureError, difference_hash, thumbnail_bytes
from clipattr.models.loading import Model, load_model
from clipattr.models.surroundings import unaffected
from clipattr.sites import Site, activations, capture
from clipattr.storage.activations import POOLED, ActivationStore
from clipattr.storage.files import digest_parts
from clipattr.storage.orders import mixed
from clipattr.storage.shards import temporary_folder

EMBEDDINGS = "evaluator"  # key of the evaluator's unit embeddings in a store


@dataclass(frozen=True)
class Pass:
    """Inputs that all shards of one call share.

    Attributes:
        model: model whose activations are stored; None where the store has no sites.
        evaluator: second model whose embeddings are stored; None for activations only.
        draft: smallest side in pixels at which large JPEGs may be decoded; None for full size.
        renewing: whether shards whose pictures have changed are encoded again.
    """

    images: Images
    store: ActivationStore
    model: Model | None
    evaluator: Model | None
    workers: int | None = None
    draft: int | None = None
    renewing: bool = False

    def signature(self, number: int) -> str:
        """Hash of the pictures of a shard."""
        return digest_parts(
            f"{self.images.ids[place]}\n{self.images.signature(place)}\n" for place in self.places(number)
        )

    def places(self, number: int) -> list[int]:
        """The pictures of a shard, in encoding order."""
        span = self.store.shard_places(number)
        return mixed(len(self.images), self.store.shuffle)[span.start : span.stop].tolist()


@dataclass
class _Shard:
    """Arrays of one shard while it is encoded."""

    number: int
    parts: dict[str, list[Tensor]] = field(default_factory=dict)
    fingerprints: list[int] = field(default_factory=list)
    thumbnails: list[bytes] = field(default_factory=list)
    skipped: list[tuple[int, str, str]] = field(default_factory=list)
    smallest: int | None = None  # batch size where memory did not suffice for a whole micro-batch


@unaffected
def collect_activations(
    model: Model,
    images: Any,
    site: str | Site | Sequence[str | Site],
    path: str | Path | None = None,
    *,
    evaluator: Any = None,
    batch: int = 64,
    dtype: str = "float16",
    resume: bool = True,
    progress: bool = True,
    shard_pictures: int = 4096,
    shuffle: int | None = None,
    engine: Engine | None = None,
) -> ActivationStore:
    """Encode pictures once and store the activations at one or several sites.

    After an interruption, the same call encodes the shards that are missing or damaged; the result has the same bytes.

    Args:
        model: a `Model`.
        images: an `Images` or anything `Images.open` takes.
        path: folder of the store; None uses a temporary folder that is deleted with the process.
        site: one or several sites, all filled by one forward pass; `image.pooled` is the tower's output.
        evaluator: a second CLIP, anything `load_model` takes, whose embeddings are stored with fingerprints and
            thumbnails. `build_study(..., store=path)` then needs no pass over the pictures.
        batch, dtype, shuffle, resume: see `ActivationStore.create`. A batch that exceeds memory is halved, which the
            store's `notes` record.
        shard_pictures: pictures per shard, rounded up to whole batches.
        engine: runs the shards, e.g. `clipattr.Ray(workers=8)`; all of its machines need access to `path` and the
            pictures.
        progress: show a progress bar.

    Returns:
        The complete `ActivationStore`, opened at the first site; rows are (width,) or (tokens, width). Pictures that
        cannot be read are in its `skipped`.

    Raises:
        DataError: the folder holds another store, another process writes it, or no picture can be read.
        SiteError: the model has no such site.

    >>> import clipattr as ca
    >>> study = ca.open_study("picture-world")
    >>> store = ca.collect_activations(study.model, study.images.select(range(8)), "image.-1.cls", progress=False)
    >>> store.read(0, 8).shape
    torch.Size([8, 192])
    """
    images = Images.open(images)
    judge = None if evaluator is None else load_model(evaluator)
    written = [str(name) for name in ([site] if isinstance(site, (str, Site)) else site)]
    names = [name if name == POOLED else str(Site(name).canonical(model)) for name in written]
    if not names or len(set(names)) < len(names):
        raise DataError(f"A store needs at least one site, each given once; got {names}.")
    store = ActivationStore.create(
        temporary_folder() if path is None else path,
        model,
        {name: (model.embed_dim,) if name == POOLED else Site(name).shape(model) for name in names},
        pictures=len(images),
        fingerprint=images.fingerprint,
        batch=batch,
        dtype=dtype,
        shard_pictures=-(-min(shard_pictures, len(images)) // batch) * batch,
        shuffle=shuffle,
        resume=resume,
        evaluator=judge,
        thumbnails=images.source.kind != "scenes",
    )
    fill(Pass(images, store, model, judge), engine=engine, progress=progress)
    return store


def fill(made: Pass, *, engine: Engine | None = None, progress: bool = True) -> None:
    """Encode the shards of a store that are missing, damaged or whose pictures have changed.

    Raises:
        DataError: another process writes the store, activations too large for its dtype, or no picture is readable.
    """
    store, engine = made.store, engine or Here()
    total = len(made.images)
    with (
        store.writing(),
        Progress(total=total, disable=not progress, desc="Encoding", unit=" picture") as bar,
    ):
        missing = store.missing(made.signature if made.renewing else None)
        bar.update(total - sum(len(store.shard_places(number)) for number in missing))
        if engine.at_once:
            encode_shards(made, missing, bar.update)
        else:
            for (number,) in engine.map(encode_shards, made, [[number] for number in missing]):
                bar.update(len(store.shard_places(number)))
        store.refresh()
    for name, reason in store.skipped:
        made.images.skip(name, reason)
    if len(store.skipped) == total:
        name, reason = store.skipped[0]
        raise DataError(f"None of the {total} pictures could be read. The first, {name!r}: {reason}.")


def encode_shards(
    made: Pass, numbers: list[int], told: Callable[[int], object] = lambda done: None
) -> list[int]:
    """Encode some shards and write their files, which do not depend on the other shards of the call.

    `told` is called once per picture. Returns the shard numbers.
    """
    batch = made.store.manifest["batch"]
    spans = {number: made.places(number) for number in numbers}
    stream = _stream(made, [place for places in spans.values() for place in places])
    for number, places in spans.items():
        shard, pixels = _Shard(number), []
        for place in places:
            _, value = next(stream)
            if isinstance(value, PictureError):
                shard.skipped.append((place, made.images.ids[place], str(value)))
            else:
                tensors, fingerprint, small = value
                pixels.append(tensors)
                shard.fingerprints.append(fingerprint)
                shard.thumbnails.append(small)
                if len(pixels) == batch:
                    _embed(made, shard, pixels)
                    pixels = []
            told(1)
        _embed(made, shard, pixels)
        _write(made, shard)
    return numbers


def _stream(made: Pass, places: list[int]) -> Iterator[tuple[int, Any]]:
    """(index, (pixels for each model, fingerprint, thumbnail)) of each picture, or (index, PictureError)."""
    prepare = preparer([model for model in (made.model, made.evaluator) if model is not None])
    thumbnails = made.store.manifest.get("evaluator", {}).get("thumbnails")

    def prepared(picture: Image.Image) -> tuple[list[Tensor], int, bytes]:
        fingerprint = 0 if made.evaluator is None else difference_hash(picture)
        return prepare(picture), fingerprint, thumbnail_bytes(picture) if thumbnails else b""

    batch = made.store.manifest["batch"]
    return made.images.stream(prepared, places, workers=made.workers, draft=made.draft, ahead=2 * batch)


def _embed(made: Pass, shard: _Shard, pixels: list[list[Tensor]]) -> None:
    """Encode a micro-batch with all models."""
    if not pixels:
        return

    def encoded(some: slice) -> dict[str, Tensor]:
        tensors = [torch.stack(each) for each in zip(*pixels[some], strict=True)]
        with torch.no_grad():
            found = (
                {}
                if made.model is None
                else _read(made.model, list(made.store.manifest["sites"]), tensors[0])
            )
            if made.evaluator is not None:
                found[EMBEDDINGS] = made.evaluator.encode_image(tensors[-1])
        return {name: value.float().cpu() for name, value in found.items()}

    pieces, smallest = in_halves(encoded, len(pixels))
    if smallest is not None:
        shard.smallest = min(smallest, shard.smallest or smallest)
    for piece in pieces:
        for name, value in piece.items():
            shard.parts.setdefault(name, []).append(value)


def _read(model: Model, names: list[str], pixels: Tensor) -> dict[str, Tensor]:
    """Activations at several sites from one forward pass; with one site, the pass stops there."""
    if len(names) == 1 and names[0] != POOLED:
        return {names[0]: activations(model, pixels, names[0])}
    with capture(model, *(name for name in names if name != POOLED)) as acts:
        pooled = model.encode_image(pixels)
    return {name: pooled if name == POOLED else acts[name] for name in names}


def _write(made: Pass, shard: _Shard) -> None:
    store, pictures = made.store, None

    def joined(name: str, width: int) -> Tensor:
        return torch.cat(shard.parts[name]) if name in shard.parts else torch.empty(0, width)

    acts = {name: joined(name, layout["width"]) for name, layout in store.manifest["sites"].items()}
    if made.evaluator is not None:
        embeddings = joined(EMBEDDINGS, made.evaluator.embed_dim)
        if not embeddings.isfinite().all():
            raise DataError(
                f"Embeddings by {made.evaluator.reference} are NaN or infinite, first in shard {shard.number}: check "
                "the evaluator's weights and dtype."
            )
        blob = np.frombuffer(b"".join(shard.thumbnails), dtype=np.uint8).copy()
        pictures = {
            EMBEDDINGS: embeddings.half(),
            "fingerprints": torch.from_numpy(np.asarray(shard.fingerprints, dtype=np.uint64).view(np.int64)),
            "thumbnail_lengths": torch.tensor([len(data) for data in shard.thumbnails], dtype=torch.int64),
            "thumbnails": torch.from_numpy(blob),
        }
    store.write_shard(
        acts,
        shard.skipped,
        number=shard.number,
        smallest=shard.smallest,
        pictures=pictures,
        signature=made.signature(shard.number) if made.renewing else None,
    )
