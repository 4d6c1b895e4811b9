"""Shards: the files an activation store is made of, written whole or not at all.

Owns the manifest's reading, atomic text files, checksums, maps, and the shuffled order of rows. Knows nothing of
models. Start at `read_manifest`.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clipattr.errors import DataError

SCHEMA = 1
MANIFEST = "manifest.json"
# Rows that are permuted together: large enough to mix, small enough to stay in memory.
WINDOW = 2**18
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
        manifest = json.loads(file.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{file} is damaged: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != "clipattr-store":
        raise DataError(f"{file} does not describe an activation store.")
    if manifest.get("schema", 0) > SCHEMA:
        raise DataError(f"{file} has schema {manifest['schema']}, newer than {SCHEMA}: update clipattr.")
    return manifest


def write_text(file: Path, text: str) -> None:
    partial = file.with_name(file.name + ".partial")
    try:
        with open(partial, "w") as out:
            out.write(text)
            out.flush()
            os.fsync(out.fileno())
        partial.replace(file)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise DataError(f"{file} could not be written ({error}).") from error


def digest(file: Path) -> str:
    with open(file, "rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()


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


def gather(table: Tensor, which: Tensor, out: Tensor, piece: int = 256) -> None:
    """out[i] = table[which[i]], from float16 or float32 rows to float32 ones.

    Rows are picked as integers, since torch copies half-precision rows value by value, and in pieces that are still in
    the cache when they are widened.
    """
    wide = table.shape[1] * table.dtype.itemsize % 8 == 0
    numbers = table.view(torch.int64 if wide else torch.int16)
    for part, target in zip(which.split(piece), out.split(piece), strict=True):
        target.copy_(numbers.index_select(0, part).view(table.dtype))
