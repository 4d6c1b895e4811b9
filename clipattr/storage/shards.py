"""Shards: the files an activation store is made of, written whole or not at all.

Owns the manifest's reading, atomic text files, checksums, maps, and the shuffled orders: of pictures and rows when a
store is written, of rows or whole blocks when it is read. Knows nothing of models. Start at `read_manifest`.
"""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clipattr.errors import DataError
from clipattr.storage.documents import read_json, schema_complaint
from clipattr.storage.files import json_digest, write_text, written

SCHEMA = 1
MANIFEST = "manifest.json"
# Rows that are permuted together: large enough to mix, small enough to stay in memory.
WINDOW = 2**18
# What is read in one go, at least, where rows were mixed on writing: shorter copies cost more to begin than to make.
BLOCK_BYTES = 2**19
DTYPES: dict[str, Any] = {"float16": np.dtype("<f2"), "float32": np.dtype("<f4")}


def as_tensor(array: np.ndarray) -> Tensor:
    """A tensor over a read-only map; nothing here writes to it, which is what torch's warning is about."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(np.asarray(array))


def read_manifest(path: Path) -> dict[str, Any]:
    file = path / MANIFEST
    if not file.is_file():
        raise DataError(f"{path} holds no activation store: {MANIFEST} is missing.")
    try:
        manifest = read_json(file)
    except (OSError, ValueError) as error:
        raise DataError(f"{file} is damaged: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != "clipattr-store":
        raise DataError(f"{file} does not describe an activation store.")
    try:
        again = f"clipattr encode {manifest.get('model', 'MODEL')} IMAGES --out {path}"
        if told := schema_complaint(path, manifest["schema"], SCHEMA, again):
            raise DataError(told)
        sizes = [manifest["pictures"], manifest["batch"], manifest["shard_pictures"]]
        for name, layout in manifest["sites"].items():
            sizes += [layout["tokens"], layout["width"]]
            if not name or set(name) & set("/\\\0") or name.startswith(".."):
                raise ValueError(f"{name!r:.60} is no site")
        if not all(isinstance(size, int) and 0 < size < 10**12 for size in sizes) or not manifest["sites"]:
            raise ValueError("sizes that no store has")
        if manifest["dtype"] not in DTYPES:
            raise ValueError(f"dtype {manifest['dtype']!r:.60}")
    except DataError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise DataError(f"{file} is damaged: {type(error).__name__}: {error}") from error
    return manifest


def read_record(file: Path) -> dict[str, Any] | None:
    """What is known of a shard; None where nothing can be relied on, so that the shard does not count as written."""
    try:
        record = read_json(file)
        told = record.pop("sum", None)
        if told is not None and told != json_digest(record, "sha256"):
            return None
        return record if isinstance(record["files"], dict) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def write_record(file: Path, record: dict[str, Any]) -> None:
    """Write what is known of a shard, with a checksum of its own."""
    write_document(file, {**record, "sum": json_digest(record, "sha256")})


def differences(found: dict[str, Any], wanted: dict[str, Any]) -> str:
    """In words, where two manifests differ; empty if they agree."""
    names = [name for name in {**wanted, **found} if found.get(name) != wanted.get(name)]
    return "; ".join(f"{name}: {found.get(name)} there, {wanted.get(name)} asked" for name in names)


def write_document(file: Path, content: dict[str, Any], **options: Any) -> None:
    """Write a JSON file with sorted keys, complete or not at all; DataError where it cannot be written."""
    try:
        write_text(file, json.dumps(content, sort_keys=True, **options) + "\n")
    except OSError as error:
        raise DataError(f"{file} could not be written ({error}).") from error


def write_array(file: Path, array: np.ndarray) -> None:
    """Raw values into a file, complete or not at all.

    Raises:
        DataError: a full disk or a folder that cannot be written.
    """
    try:
        with written(file) as partial:
            array.tofile(partial)
    except OSError as error:
        advice = f"delete {file}, which is a folder," if file.is_dir() else "free space"
        raise DataError(f"Shard {file} could not be written ({error}); {advice} and resume.") from error


_TEMPORARY: list[Any] = []


def temporary_folder() -> Path:
    """A folder that is removed when the process ends."""
    _TEMPORARY.append(tempfile.TemporaryDirectory(prefix="clipattr-store-"))
    return Path(_TEMPORARY[-1].name)


def batch_orders(rows: int, batch: int, seed: int, epoch: int, window: int = WINDOW) -> Iterator[np.ndarray]:
    """Row numbers of each full batch of an epoch.

    Blocks of 64 rows come in random order; a window of them is permuted row by row. Both draws follow from seed and
    epoch, so that any batch can be reached again without reading the ones before.
    """
    generator = np.random.Generator(np.random.PCG64([seed, epoch]))
    block = 64
    starts = generator.permutation(-(-rows // block)) * block
    carried = np.empty(0, dtype=np.int64)
    per_window = max(window // block, -(-batch // block))
    for first in range(0, len(starts), per_window):
        order = (starts[first : first + per_window, None] + np.arange(block)).ravel()
        order = np.concatenate([carried, generator.permutation(order[order < rows])])
        whole = len(order) // batch * batch
        yield from order[:whole].reshape(-1, batch)
        carried = order[whole:]


def block_orders(
    starts: np.ndarray, batch: int, seed: int, epoch: int, block: int
) -> Iterator[list[tuple[int, int, int]]]:
    """For each full batch of an epoch the pieces it is copied from: (shard, first, last), rows counted in the shard.

    Shards are cut into blocks of `block` neighbouring rows, and the blocks come in an order that seed and epoch decide;
    batches are cut from their sequence, so that every row comes once but for the few that fill no batch. Rows of one
    block stay together: this is for stores whose rows were mixed on writing.

    Args:
        starts: (shards + 1,), the number of each shard's first row, and of all rows.
    """
    generator = np.random.Generator(np.random.PCG64([seed, epoch]))
    sizes = np.diff(starts)
    counts = -(-sizes // block)
    shard = np.repeat(np.arange(len(sizes)), counts)
    first = (np.arange(len(shard)) - np.repeat(np.cumsum(counts) - counts, counts)) * block
    order = generator.permutation(len(shard))
    shard, first = shard[order], first[order]
    last = np.minimum(first + block, sizes[shard])
    ends = np.cumsum(last - first)
    for low in range(0, int(starts[-1]) // batch * batch, batch):
        a, z = np.searchsorted(ends, [low, low + batch - 1], side="right")
        pieces = [
            list(piece) for piece in zip(*(x[a : z + 1].tolist() for x in (shard, first, last)), strict=True)
        ]
        pieces[-1][2] -= int(ends[z]) - (low + batch)
        pieces[0][1] = int(last[a]) - (int(ends[a]) - low)
        yield [(piece[0], piece[1], piece[2]) for piece in pieces]


def mixed(rows: int, shuffle: int | None, shard: int | None = None) -> np.ndarray:
    """int64 (rows,): the order in which pictures (shard None) or a shard's rows are written; given order for None."""
    if shuffle is None:
        return np.arange(rows, dtype=np.int64)
    key = [shuffle] if shard is None else [shuffle, shard + 1]
    return np.random.Generator(np.random.PCG64(key)).permutation(rows)


def gather(table: Tensor, which: Tensor, out: Tensor, piece: int = 256) -> None:
    """out[i] = table[which[i]], from float16 or float32 rows to float32 ones.

    Rows are picked as integers, since torch copies half-precision rows value by value, and in pieces that are still in
    the cache when they are widened.
    """
    wide = table.shape[1] * table.dtype.itemsize % 8 == 0
    numbers = table.view(torch.int64 if wide else torch.int16)
    for part, target in zip(which.split(piece), out.split(piece), strict=True):
        target.copy_(numbers.index_select(0, part).view(table.dtype))
