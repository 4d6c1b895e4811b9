"""Encoding: the one pass over the pictures that a study needs, in shards that survive a kill.

Owns decoding each picture once for the audited model and the evaluator, and what is kept of it: the site's
activation, the evaluator's embedding, a thumbnail, a fingerprint for near-duplicates. Ignores latents and
words. Start at `encode`.

Pictures are cut into fixed shards and micro-batches, so the files are the same bytes after any number of
interruptions. A shard whose pictures have changed since is computed again.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm.auto import tqdm

from clipattr.errors import DataError
from clipattr.execution.engine import Engine, Here, in_halves
from clipattr.images.collection import Images, preparer
from clipattr.images.decoding import PictureError, difference_hash, thumbnail_bytes
from clipattr.sites import Site, activations
from clipattr.storage.arrays import load_array
from clipattr.storage.documents import parse_json
from clipattr.studies.format import ArrayWriter

ARRAYS = {"activations": np.float16, "evaluator": np.float16, "fingerprints": np.uint64}


class DamagedShard(DataError):
    """A shard is not what was written; it has been removed, so that encoding again makes it anew."""


@dataclass
class _Shard:
    """What one shard has gathered so far."""

    number: int
    places: list[int] = field(default_factory=list)
    activations: list[Tensor] = field(default_factory=list)
    evaluator: list[Tensor] = field(default_factory=list)
    fingerprints: list[int] = field(default_factory=list)
    thumbnails: list[bytes] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    smallest: int | None = None  # pictures at a time where memory did not suffice for a whole micro-batch


@dataclass(frozen=True)
class _Job:
    """What every shard of one call shares; see `encode`."""

    images: Images
    model: Any
    evaluator: Any
    site: Site
    folder: Path
    batch: int
    shard: int
    workers: int | None
    side: int | None
    thumbnails: bool

    def places(self, number: int) -> range:
        """The pictures of a shard."""
        return range(number * self.shard, min((number + 1) * self.shard, len(self.images)))


def encode(
    images: Images,
    model: Any,
    evaluator: Any,
    site: str | Site,
    folder: Path,
    *,
    batch: int = 64,
    shard: int = 1024,
    workers: int | None = None,
    draft: bool = True,
    thumbnails: bool = True,
    progress: bool = True,
    engine: Engine | None = None,
) -> None:
    """Encode what is missing below `folder` (one safetensors file per shard).

    Args:
        model, evaluator: `Model`s; each picture is decoded once for both.
        site: one token per picture, e.g. image.-1.cls, or several, e.g. image.-2.patches, of which all activations are
            kept: tokens times as much disk.
        draft: decode large JPEGs at reduced size, still at least twice what either model takes.
        engine: where shards are encoded; all of its machines must see `folder` and the pictures.

    Raises:
        SiteError: the site does not exist, or nothing there reaches the embedding.
        DataError: activations too large for float16, or every picture broken.
    """
    site = Site(str(site))
    site.require_reach(model)
    folder.mkdir(parents=True, exist_ok=True)
    engine = engine or Here()
    total = -(-len(images) // shard)
    missing = [number for number in range(total) if not _is_done(images, folder, number, shard)]
    if not missing:
        return
    side = 2 * max(*model.image_size, *evaluator.image_size) if draft else None
    job = _Job(images, model, evaluator, site, folder, batch, shard, workers, side, thumbnails)
    left = sum(len(job.places(number)) for number in missing)
    bar = tqdm(
        total=len(images), initial=len(images) - left, unit=" pictures", desc="Encoding", disable=not progress
    )
    with bar:
        if engine.at_once:
            encode_shards(job, missing, bar.update)
        else:
            for (number,) in engine.map(encode_shards, job, [[number] for number in missing]):
                bar.update(len(job.places(number)))


def encode_shards(job: "_Job", numbers: list[int], told: Callable[[int], object] | None = None) -> list[int]:
    """Encode some shards and write their files; the files do not depend on which are done in one call."""
    images, shard, batch = job.images, job.shard, job.batch
    left = [place for number in numbers for place in job.places(number)]
    prepare = preparer([job.model, job.evaluator])

    def prepared(picture: Image.Image) -> tuple[list[Tensor], int, bytes]:
        small = thumbnail_bytes(picture) if job.thumbnails else b""
        return prepare(picture), difference_hash(picture), small

    current: _Shard | None = None
    pixels: list[list[Tensor]] = []
    for place, value in images.stream(prepared, left, workers=job.workers, draft=job.side, ahead=2 * batch):
        if current is None or place // shard != current.number:
            if current is not None:
                _embed(current, pixels, job)
                _write(current, images, job.folder, shard)
            current, pixels = _Shard(place // shard), []
        if isinstance(value, PictureError):
            current.skipped.append((images.ids[place], str(value)))
        else:
            tensors, fingerprint, small = value
            pixels.append(tensors)
            current.places.append(place)
            current.fingerprints.append(fingerprint)
            current.thumbnails.append(small)
            if len(pixels) == batch:
                _embed(current, pixels, job)
                pixels = []
        if told is not None:
            told(1)
    if current is not None:
        _embed(current, pixels, job)
        _write(current, images, job.folder, shard)
    return numbers


def gather(images: Images, folder: Path, target: Path, *, shard: int = 1024) -> Images:
    """Join finished shards into one array per kind below `target`.

    Writes activations.npy, evaluator.npy, fingerprints.npy and, if thumbnails were kept, thumbnails.bin with
    thumbnails.npy (where each begins). Memory holds one shard at a time.

    Returns:
        The pictures that could be read, in order; row i of every array is picture i. `skipped` lists the
        others.
    """
    files = [_file(folder, number) for number in range(-(-len(images) // shard))]
    heads = [_head(file) for file in files]
    places = np.concatenate([np.asarray(head["places"], dtype=np.int64) for head in heads])
    skipped = [tuple(pair) for head in heads for pair in head["skipped"]]
    if not len(places):
        name, reason = skipped[0]
        raise DataError(f"None of the {len(images)} pictures could be read. The first, {name!r}: {reason}.")
    arrays = {name: ArrayWriter(target / f"{name}.npy", len(places), dtype) for name, dtype in ARRAYS.items()}
    lengths: list[np.ndarray] = []
    with (target / "thumbnails.bin.part").open("wb") as blob:
        for file, head in zip(files, heads, strict=True):
            tensors = load_file(file)
            if head["digest"] != _digest(tensors, head):
                file.unlink()
                raise DamagedShard(f"The shard {file} is damaged and was removed.")
            for name, dtype in ARRAYS.items():
                if len(head["places"]):
                    arrays[name].add(tensors[name].numpy().view(dtype))
            lengths.append(tensors["thumbnail_lengths"].numpy())
            blob.write(tensors["thumbnails"].numpy().tobytes())
    for array in arrays.values():
        array.close()
    ends = np.concatenate([[0], np.concatenate(lengths).cumsum()])
    if ends[-1]:
        np.save(target / "thumbnails.npy", ends.astype(np.int64))
        os.replace(target / "thumbnails.bin.part", target / "thumbnails.bin")
    else:
        (target / "thumbnails.bin.part").unlink()
    kept = images.select(places)
    smallest = [head["smallest"] for head in heads if head["smallest"]]
    kept.notes = [*images.notes]
    if smallest:
        kept.notes.append(
            f"Memory did not suffice for the asked micro-batch in {len(smallest)} of {len(files)} shards; down to "
            f"{min(smallest)} pictures were encoded at a time there, which may change last digits."
        )
    for name, reason in skipped:
        images.skip(name, reason)
    return kept


def duplicates(
    fingerprints: np.ndarray, embeddings: np.ndarray, *, bits: int = 3, alike: float = 0.98
) -> np.ndarray:
    """For each picture the first picture that it nearly equals, itself if none.

    Nearly equal: at most `bits` of the 64 fingerprint bits differ, and the evaluator's embeddings have a
    cosine of at least `alike` (plain pictures share fingerprints without being alike). Candidates share one
    quarter of the fingerprint, and each is compared with the last 16 different ones that do, so the work
    grows with the number of pictures and not its square.

    Returns:
        (n,) int64; `duplicates(...) == arange(n)` marks the pictures that count as examples.
    """
    first = np.arange(len(fingerprints))
    quarters = fingerprints[:, None] >> (np.arange(4, dtype=np.uint64) * np.uint64(16)) & np.uint64(0xFFFF)
    buckets: dict[tuple[int, int], list[int]] = {}
    for picture, keys in enumerate(quarters.tolist()):
        own = int(fingerprints[picture])
        vector: np.ndarray | None = None
        for key in enumerate(keys):
            for other in buckets.get(key, ()):
                if (own ^ int(fingerprints[other])).bit_count() > bits:
                    continue
                if vector is None:
                    vector = np.asarray(embeddings[picture], dtype=np.float32)
                if float(vector @ np.asarray(embeddings[other], dtype=np.float32)) >= alike:
                    first[picture] = min(first[picture], other)
        if first[picture] == picture:
            for key in enumerate(keys):
                bucket = buckets.setdefault(key, [])
                bucket.append(picture)
                if len(bucket) > 16:
                    bucket.pop(0)
    return first


def repeated(folder: Path) -> np.ndarray:
    """(pictures,) bool: which pictures of a study's folder nearly equal an earlier one."""
    fingerprints = load_array(folder / "fingerprints.npy", None)
    embeddings = load_array(folder / "evaluator.npy", len(fingerprints))
    return duplicates(fingerprints, embeddings) != np.arange(len(fingerprints))


def _embed(shard: _Shard, pixels: list[list[Tensor]], job: _Job) -> None:
    if not pixels:
        return

    def embedded(some: slice) -> tuple[Tensor, Tensor]:
        first, second = (torch.stack(each) for each in zip(*pixels[some], strict=True))
        with torch.no_grad():
            acts = activations(job.model, first, job.site).float().cpu().half()
            return acts, job.evaluator.encode_image(second).float().cpu().half()

    parts, smallest = in_halves(embedded, len(pixels))
    if smallest is not None:
        shard.smallest = min(smallest, shard.smallest or smallest)
    for acts, embeddings in parts:
        if not (acts.isfinite().all() and embeddings.isfinite().all()):
            raise DataError(f"Activations at {job.site} are not finite, or too large for float16 (65,504).")
        shard.activations.append(acts)
        shard.evaluator.append(embeddings)


def _write(shard: _Shard, images: Images, folder: Path, size: int) -> None:
    def joined(parts: list[Tensor]) -> Tensor:
        return torch.cat(parts) if parts else torch.empty(0, 0, dtype=torch.float16)

    lengths = [len(data) for data in shard.thumbnails]
    blob = np.frombuffer(b"".join(shard.thumbnails), dtype=np.uint8).copy()
    tensors = {
        "activations": joined(shard.activations),
        "evaluator": joined(shard.evaluator),
        "fingerprints": torch.from_numpy(np.asarray(shard.fingerprints, dtype=np.uint64).view(np.int64)),
        "thumbnail_lengths": torch.tensor(lengths, dtype=torch.int64),
        "thumbnails": torch.from_numpy(blob),
    }
    head = {
        "places": shard.places,
        "skipped": shard.skipped,
        "signatures": _signatures(images, shard.number, size),
        "smallest": shard.smallest,
    }
    head["digest"] = _digest(tensors, head)
    file = _file(folder, shard.number)
    part = file.with_suffix(".part")
    save_file(tensors, part, {"head": json.dumps(head)})
    os.replace(part, file)


def _is_done(images: Images, folder: Path, number: int, size: int) -> bool:
    file = _file(folder, number)
    try:
        head = _head(file)
        whole = head["digest"] == _digest(load_file(file), head)
        return whole and head["signatures"] == _signatures(images, number, size)
    except (SafetensorError, KeyError, TypeError, ValueError, OSError):
        if file.is_dir() and not file.is_symlink():
            raise DataError(f"{str(file)!r} should be a shard and is a folder; remove it.") from None
        return False


def _digest(tensors: dict[str, Tensor], head: dict[str, Any]) -> str:
    """Over the tensors and all else that a shard's head says."""
    told = {name: value for name, value in head.items() if name != "digest"}
    digest = hashlib.blake2b(json.dumps(told, sort_keys=True).encode(), digest_size=16)
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].numpy().tobytes())
    return digest.hexdigest()


def _head(file: Path) -> dict[str, Any]:
    with safe_open(file, "pt") as tensors:
        return parse_json(tensors.metadata()["head"])


def _file(folder: Path, number: int) -> Path:
    return folder / f"{number:06d}.safetensors"


def _signatures(images: Images, number: int, size: int) -> str:
    def lines() -> Iterator[str]:
        for place in range(number * size, min((number + 1) * size, len(images))):
            yield f"{images.ids[place]}\n{images.signature(place)}\n"

    digest = hashlib.blake2b(digest_size=8)
    for line in lines():
        digest.update(line.encode())
    return digest.hexdigest()
