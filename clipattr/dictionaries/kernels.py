"""Kernels: the sparse arithmetic behind dictionaries, in plain torch and numpy.

Owns top-k selection, sparse decoding, and per-entry dot products. All work on active entries only and never build a
(tokens, latents) or (tokens, k, width) tensor. They know no kinds and no training schedules, and run on CPU and GPU.
Start at `top_positive`, `bag_sum` and `entry_dots`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

P = TypeVar("P")
T = TypeVar("T")
CHUNK_BYTES = 16 * 2**20  # bytes of pre-activations computed at a time: about what stays in a shared cache


def chunk_rows(n_latents: int, bytes_per_value: int = 4, budget: int = CHUNK_BYTES) -> int:
    """How many rows of (rows, n_latents) fit the budget: a multiple of 64, at least 64."""
    return max(64, budget // (n_latents * bytes_per_value) // 64 * 64)


@lru_cache(maxsize=1)
def has_fast_bfloat16() -> bool:
    """Whether this CPU multiplies bf16 matrices faster than float32 ones (AVX-512-BF16 or AMX)."""
    capability = getattr(torch.cpu, "get_capabilities", None)
    if capability is not None:
        flags = capability()
        return bool(flags.get("avx512_bf16") or flags.get("amx_bf16") or flags.get("amx_tile"))
    probe = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(probe is not None and probe())


def matmul_dtype(device: torch.device, precision: str = "auto") -> torch.dtype:
    """The dtype of the encoder's matrix product: "float32", "bfloat16", or the faster one for "auto"."""
    if precision == "auto":
        fast = has_fast_bfloat16() if device.type == "cpu" else device.type == "cuda"
        return torch.bfloat16 if fast else torch.float32
    if precision not in ("float32", "bfloat16"):
        raise ValueError(f'precision is "auto", "float32" or "bfloat16"; got {precision!r}.')
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


def abreast(work: Callable[[P], T], pieces: Sequence[P], device: torch.device) -> list[T]:
    """Results of `work` for each piece, in order.

    On a CPU each piece runs on one core, as many pieces at a time as torch has threads. Threads that share a piece
    would wait for each other after every operation, and numpy would use only one of them.
    """
    threads = min(torch.get_num_threads(), len(pieces)) if device.type == "cpu" else 1
    return list(_workers(threads).map(work, pieces)) if threads > 1 else [work(piece) for piece in pieces]


@lru_cache(maxsize=2)
def _workers(threads: int) -> ThreadPoolExecutor:
    """Threads in which torch uses one core each."""
    before, all_here = torch.get_num_threads(), threading.Barrier(threads)

    def begin() -> None:
        torch.get_num_threads()  # a thread copies the global setting at its first query or operation
        torch.set_num_threads(1)
        all_here.wait()

    pool = ThreadPoolExecutor(threads, "clipattr-pieces", initializer=begin)
    list(pool.map(lambda _: None, range(threads)))
    # A thread's setting is also the default of threads started later, so restore it.
    torch.set_num_threads(before)
    return pool


if hasattr(os, "register_at_fork"):  # a forked process has none of the threads
    os.register_at_fork(after_in_child=_workers.cache_clear)


def top_positive(pre: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest positive values of each row.

    Args:
        pre: (rows, n), float32 or bfloat16.
        k: 1 <= k <= n.

    Returns:
        indices (rows, k) int32 and values (rows, k) float32, largest first, equal values by smaller index. Rows
        with fewer than k positive values end in zeros (index 0).
    """
    rows, n = pre.shape
    if pre.device.type == "cpu" and rows and n >= 8 * k and n < 2**17 and pre.dtype in _KEYS:
        return _top_positive_by_keys(pre, k)
    values, indices = (
        torch.sort(pre.float(), dim=-1, descending=True, stable=True) if n <= 64 else _ordered(pre, k)
    )
    values, indices = values[:, :k].clamp_min(0), indices[:, :k]
    return torch.where(values > 0, indices, 0).int(), values


def _ordered(pre: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """`topk` in the order that `top_positive` promises; which of several equal values at the cut is kept is torch's
    choice."""
    values, indices = pre.float().topk(k, dim=-1)
    by_index = indices.argsort(-1)
    values, indices = values.gather(-1, by_index), indices.gather(-1, by_index)
    values, by_value = torch.sort(values, dim=-1, descending=True, stable=True)
    return values, indices.gather(-1, by_value)


# Positive IEEE floats sort like their bit patterns as integers, which is several times faster.
_KEYS = {torch.float32: (torch.int32, np.int32), torch.bfloat16: (torch.int16, np.int16)}


def _top_positive_by_keys(pre: Tensor, k: int) -> tuple[Tensor, Tensor]:
    bits = pre.contiguous().view(_KEYS[pre.dtype][0]).numpy()
    rows = len(bits)
    piece = max(16, 2**21 // bits.shape[1])
    starts = range(0, rows, piece)
    threads = min(torch.get_num_threads(), len(starts))
    if threads > 1:
        with ThreadPoolExecutor(threads) as pool:
            parts = list(pool.map(lambda start: _top_keys(bits[start : start + piece], k), starts))
    else:
        parts = [_top_keys(bits[start : start + piece], k) for start in starts]
    indices = torch.from_numpy(np.concatenate([indices for indices, _ in parts]))
    keys = torch.from_numpy(np.concatenate([keys for _, keys in parts]))
    return indices, keys.view(pre.dtype).float()


def _top_keys(bits: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices and bit patterns of each row's k largest positive entries.

    The k-th largest of the maxima of disjoint groups bounds the k-th largest entry from below, so only the few
    entries at or above that bound are sorted, all rows at once, by (row, value downwards, index).
    """
    rows, n = bits.shape
    n_groups = max(n // 15, 3 * k)
    per_group = n // n_groups
    whole = n_groups * per_group
    maxima = bits[:, :whole].reshape(rows, per_group, n_groups).max(axis=1)
    bound = np.partition(maxima, n_groups - k, axis=1)[:, n_groups - k]
    bound = np.maximum(bound, 1)[:, None]  # bit pattern 1 is the smallest positive number
    flat = np.flatnonzero(bits >= bound)
    row, column = np.divmod(flat, n)
    found = bits.reshape(-1)[flat].astype(np.int64)
    # 15 bits of row (a piece is far smaller), 31 of value, 17 of column.
    key = (row << 48) | ((0x7FFFFFFF - found) << 17) | column
    key.sort()
    row = key >> 48
    rank = np.arange(len(key)) - np.searchsorted(row, np.arange(rows))[row]
    key, row, rank = (part[rank < k] for part in (key, row, rank))
    indices = np.zeros((rows, k), dtype=np.int32)
    values = np.zeros((rows, k), dtype=bits.dtype)
    indices[row, rank] = key & 0x1FFFF
    values[row, rank] = 0x7FFFFFFF - ((key >> 17) & 0x7FFFFFFF)
    return indices, values


def bag_sum(table: Tensor, which: Tensor, weights: Tensor, offsets: Tensor) -> Tensor:
    """Weighted sums of rows of a table, one per bag: out[i] = sum over e in bag i of weights[e] table[which[e]].

    Args:
        table: (n, width).
        which: int32 or int64 (entries,), rows of the table.
        weights: (entries,), of the table's dtype.
        offsets: (bags + 1,), of `which`'s dtype.

    Returns:
        (bags, width), of the table's dtype; empty bags give zeros.
    """
    if len(offsets) <= 1 or len(which) == 0:
        return table.new_zeros(max(len(offsets) - 1, 0), table.shape[1])
    return torch.nn.functional.embedding_bag(
        which, table, offsets, mode="sum", per_sample_weights=weights, include_last_offset=True
    )


def entry_dots(bags: Tensor, table: Tensor, which: Tensor, offsets: Tensor, bag_of_entry: Tensor) -> Tensor:
    """Dot products, one per entry: out[e] = <bags[bag of e], table[which[e]]>; see `bag_sum` for the layout.

    Args:
        bags: (bags, width); table: (n, width), same dtype.
        bag_of_entry: (entries,), of `which`'s dtype: the bag that owns each entry.

    Returns:
        (entries,)
    """
    if len(which) == 0:
        return table.new_zeros(0)
    # This product is the derivative of `embedding_bag` with respect to its weights.
    return torch.ops.aten._embedding_bag_per_sample_weights_backward(
        bags, table, which, offsets[:-1].contiguous(), bag_of_entry, 0, -1
    )


def kth_largest(values: Tensor, k: int) -> float:
    """The k-th largest of some non-negative numbers, 1 <= k <= len(values)."""
    if values.device.type != "cpu":
        return float(values.topk(k, sorted=False).values.min())
    bits = values.contiguous().float().numpy().view(np.int32)
    return float(np.partition(bits, len(bits) - k)[len(bits) - k].view(np.float32))
