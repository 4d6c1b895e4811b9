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
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm.auto import tqdm

from clipattr.errors import DataError, SiteError
from clipattr.images import Images, preparer
from clipattr.pictures import PictureError, difference_hash, thumbnail_bytes
from clipattr.sites import Site, activations

ARRAYS = {"activations": np.float16, "evaluator": np.float16, "fingerprints": np.uint64}


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
) -> None:
    """Encode what is missing below `folder` (one safetensors file per shard).

    Args:
        model, evaluator: `Model`s; each picture is decoded once for both.
        site: one token per picture, e.g. image.-1.cls.
        draft: decode large JPEGs at reduced size, still at least twice what either model takes.

    Raises:
        SiteError: the site has several tokens per picture.
        DataError: activations too large for float16, or every picture broken.
    """
    site = Site(str(site))
    if site.tokens != "cls":
        raise SiteError(
            f"A study keeps one activation per picture, so its site must end in .cls; got {site}. For patches, "
            "collect token codes and pool them: clipattr.meaning.strongest_token."
        )
    folder.mkdir(parents=True, exist_ok=True)
    total = -(-len(images) // shard)
    missing = [number for number in range(total) if not _is_done(images, folder, number, shard)]
    left = [
        place for number in missing for place in range(number * shard, min((number + 1) * shard, len(images)))
    ]
    prepare = preparer([model, evaluator])

    def prepared(picture: Image.Image) -> tuple[list[Tensor], int, bytes]:
        small = thumbnail_bytes(picture) if thumbnails else b""
        return prepare(picture), difference_hash(picture), small

    side = 2 * max(*model.image_size, *evaluator.image_size) if draft else None
    bar = tqdm(
        total=len(images),
        initial=len(images) - len(left),
        unit=" pictures",
        desc="Encoding",
        disable=not progress,
    )
    with bar:
        current: _Shard | None = None
        pixels: list[list[Tensor]] = []
        for place, value in images.stream(prepared, left, workers=workers, draft=side, ahead=2 * batch):
            if current is None or place // shard != current.number:
                if current is not None:
                    _embed(current, pixels, model, evaluator, site)
                    _write(current, images, folder, shard)
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
                    _embed(current, pixels, model, evaluator, site)
                    pixels = []
            bar.update()
        if current is not None:
            _embed(current, pixels, model, evaluator, site)
            _write(current, images, folder, shard)


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
    arrays: dict[str, np.memmap] = {}
    lengths: list[np.ndarray] = []
    row = 0
    with (target / "thumbnails.bin.part").open("wb") as blob:
        for file in files:
            with safe_open(file, "pt") as tensors:
                count = 0
                for name, dtype in ARRAYS.items():
                    part = tensors.get_tensor(name).numpy().view(dtype)
                    count = len(part)
                    if count and name not in arrays:
                        arrays[name] = np.lib.format.open_memmap(
                            target / f"{name}.npy.part", "w+", dtype, (len(places), *part.shape[1:])
                        )
                    if count:
                        arrays[name][row : row + count] = part
                row += count
                lengths.append(tensors.get_tensor("thumbnail_lengths").numpy())
                blob.write(tensors.get_tensor("thumbnails").numpy().tobytes())
    for name, array in arrays.items():
        array.flush()
        os.replace(target / f"{name}.npy.part", target / f"{name}.npy")
    ends = np.concatenate([[0], np.concatenate(lengths).cumsum()])
    if ends[-1]:
        np.save(target / "thumbnails.npy", ends.astype(np.int64))
        os.replace(target / "thumbnails.bin.part", target / "thumbnails.bin")
    else:
        (target / "thumbnails.bin.part").unlink()
    kept = images.select(places)
    kept.notes = [*images.notes]
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


def _embed(shard: _Shard, pixels: list[list[Tensor]], model: Any, evaluator: Any, site: Site) -> None:
    if not pixels:
        return
    first, second = (torch.stack(each) for each in zip(*pixels, strict=True))
    with torch.no_grad():
        acts = activations(model, first, site).float().cpu().half()
        embeddings = evaluator.encode_image(second).float().cpu().half()
    if not (acts.isfinite().all() and embeddings.isfinite().all()):
        raise DataError(f"Activations at {site} are not finite, or too large for float16 (65,504).")
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
    }
    file = _file(folder, shard.number)
    part = file.with_suffix(".part")
    save_file(tensors, part, {"head": json.dumps(head)})
    os.replace(part, file)


def _is_done(images: Images, folder: Path, number: int, size: int) -> bool:
    file = _file(folder, number)
    if not file.exists():
        return False
    try:
        return _head(file)["signatures"] == _signatures(images, number, size)
    except (SafetensorError, KeyError, ValueError, OSError):
        return False


def _head(file: Path) -> dict[str, Any]:
    with safe_open(file, "pt") as tensors:
        return json.loads(tensors.metadata()["head"])


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
