"""Joining: from the shards of a store to the arrays of a study, one row for each picture that could be read.

Owns the selection and order of pictures, and the detection of near-duplicates. Ignores how shards are encoded
(`encode.py`). Start at `join`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from clipattr.errors import DataError
from clipattr.images.collection import Images
from clipattr.storage.activations import ActivationStore
from clipattr.storage.arrays import load_array
from clipattr.storage.files import written
from clipattr.studies.format import ArrayWriter


def join(
    images: Images,
    acts: ActivationStore,
    kept: ActivationStore,
    target: Path,
    *,
    single: bool,
    thumbnails: bool = True,
) -> Images:
    """Write activations.npy, evaluator.npy, fingerprints.npy and, where there are thumbnails, thumbnails.bin with
    thumbnails.npy (the offset of each). Memory holds one shard at a time.

    Args:
        images: the pictures of both stores.
        acts: the store with the study's site.
        kept: the store with the evaluator's embeddings; often the same.
        target: the study's folder.
        single: whether the site has one token, whose dimension is dropped.

    Returns:
        The pictures that both stores hold, in order; row i of every array is picture i. `skipped` lists the others.

    Raises:
        DamagedShard: a shard has changed since it was written.
        DataError: activations too large for float16.
    """
    for store in (acts, kept):
        for name, reason in store.skipped:
            images.skip(name, reason)
    lost = [place for store in (acts, kept) for shard in store.shards for place in shard["left_out"]]
    places = np.setdiff1d(np.arange(len(images)), np.asarray(lost, dtype=np.int64))
    if not len(places):
        name, reason = images.skipped[0]
        raise DataError(f"None of the {len(images)} pictures could be read. The first, {name!r}: {reason}.")
    rows = len(places)
    activations = ArrayWriter(target / "activations.npy", rows, np.float16)
    evaluator = ArrayWriter(target / "evaluator.npy", rows, np.float16)
    fingerprints = ArrayWriter(target / "fingerprints.npy", rows, np.uint64)
    lengths = np.zeros(rows, dtype=np.int64)
    for store in [acts] if acts is kept else [acts, kept]:
        for number in range(store.shard_count):
            found, values, pictures = store.pictures_of(number)
            which = np.isin(found, places)
            at = np.searchsorted(places, found[which])
            if store is acts and values is not None and which.any():
                with np.errstate(over="ignore"):
                    narrow = values.numpy()[which].astype(np.float16)
                if not np.isfinite(narrow).all():
                    raise DataError(
                        f"Activations at {store.site} exceed the float16 range (65,504), in which studies store them. "
                        "Choose another site, e.g. image.embedding."
                    )
                activations.put(at, narrow[:, 0] if single else narrow)
            if store is kept and which.any():
                evaluator.put(at, pictures["evaluator"].numpy()[which])
                fingerprints.put(at, pictures["fingerprints"].numpy().view(np.uint64)[which])
                lengths[at] = pictures["thumbnail_lengths"].numpy()[which]
    for array in (activations, evaluator, fingerprints):
        array.close()
    if thumbnails and lengths.any():
        _thumbnails(kept, places, lengths, target)
    chosen = images.select(places)
    chosen.notes = [*images.notes, *acts.notes, *([] if acts is kept else kept.notes)]
    return chosen


def _thumbnails(kept: ActivationStore, places: np.ndarray, lengths: np.ndarray, target: Path) -> None:
    """Write the thumbnails in the order of the pictures `places`, and the offset of each."""
    ends = np.concatenate([[0], lengths.cumsum()])
    with written(target / "thumbnails.npy") as partial, partial.open("wb") as file:
        np.save(file, ends)
    with written(target / "thumbnails.bin") as partial, partial.open("wb") as file:
        for number in range(kept.shard_count):
            found, _, pictures = kept.pictures_of(number)
            blob, starts = (
                pictures["thumbnails"].numpy(),
                np.cumsum([0, *pictures["thumbnail_lengths"].tolist()]),
            )
            rows = np.searchsorted(places, found)
            for row, place, start, stop in zip(rows, found, starts[:-1], starts[1:], strict=True):
                if row < len(places) and places[row] == place:
                    file.seek(int(ends[row]))
                    file.write(blob[start:stop].tobytes())


def duplicates(
    fingerprints: np.ndarray, embeddings: np.ndarray, *, bits: int = 3, alike: float = 0.98
) -> np.ndarray:
    """For each picture the first picture of which it is a near-duplicate, itself if none.

    Near-duplicate: at most `bits` of the 64 fingerprint bits differ, and the cosine of the evaluator's embeddings is at
    least `alike` (plain pictures share fingerprints without being alike). Each picture is compared with the last 16
    different ones that share a quarter of its fingerprint, so the cost is linear in the number of pictures.

    Returns:
        (n,) int64; `duplicates(...) == arange(n)` is True for the pictures that serve as examples.
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
    """(pictures,) bool: which pictures of a study's folder are near-duplicates of an earlier one."""
    fingerprints = load_array(folder / "fingerprints.npy", None)
    embeddings = load_array(folder / "evaluator.npy", len(fingerprints))
    return duplicates(fingerprints, embeddings) != np.arange(len(fingerprints))
