"""Orders: the order in which a store's pictures and rows are written, and in which training reads its rows.

Owns seeded permutations in which any position can be reached without the earlier ones, and the fast copy of rows.
Ignores files. Start at `mixed` and `batch_orders`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

# Rows permuted together: enough for mixing, few enough for memory.
WINDOW = 2**18


def batch_orders(rows: int, batch: int, seed: int, epoch: int, window: int = WINDOW) -> Iterator[np.ndarray]:
    """Row numbers of each full batch of an epoch.

    Blocks of 64 rows come in random order, and the rows of a window of blocks are permuted. Both permutations depend on
    seed and epoch only, so any batch can be reached without reading the earlier ones.
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
    """The pieces (shard, first row, last row) that each full batch of an epoch is copied from.

    Shards are divided into blocks of `block` neighbouring rows, and the blocks are permuted by seed and epoch. Batches
    are consecutive parts of that sequence, so every row occurs once, except rows that do not fill a last batch. Rows of
    one block stay together: use this for stores whose rows were shuffled when written.

    Args:
        starts: (shards + 1,), number of each shard's first row, then the number of all rows.
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
    """(rows,) int64: writing order of the pictures (shard None) or of a shard's rows; `shuffle` None: given order."""
    if shuffle is None:
        return np.arange(rows, dtype=np.int64)
    key = [shuffle] if shard is None else [shuffle, shard + 1]
    return np.random.Generator(np.random.PCG64(key)).permutation(rows)


def unmixed(rows: np.ndarray, shuffle: int | None, shard: int) -> np.ndarray:
    """A shard's rows in the order of its pictures; the inverse of `mixed`."""
    if shuffle is None:
        return rows
    plain = np.empty_like(rows)
    plain[mixed(len(rows), shuffle, shard)] = rows
    return plain


def gather(table: Tensor, which: Tensor, out: Tensor, piece: int = 256) -> None:
    """out[i] = table[which[i]], from float16 or float32 rows to float32 ones.

    Rows are selected as integers, since torch copies half-precision rows value by value, and in pieces small enough to
    stay in the cache until they are converted.
    """
    wide = table.shape[1] * table.dtype.itemsize % 8 == 0
    numbers = table.view(torch.int64 if wide else torch.int16)
    for part, target in zip(which.split(piece), out.split(piece), strict=True):
        target.copy_(numbers.index_select(0, part).view(table.dtype))
