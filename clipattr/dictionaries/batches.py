"""Batches: where training reads its activations.

Owns the interface of a source (length, width, shuffled batches from any position) and its implementations for tensors,
memory maps and live models; activation stores implement it themselves. Ignores the use of batches. Start at
`as_source`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from clipattr.errors import DictionaryError
from clipattr.storage.orders import batch_orders


@runtime_checkable
class Source(Protocol):
    """Interface of a source of activations for `train_sae`."""

    @property
    def width(self) -> int:
        """Width of one activation."""
        ...

    def __len__(self) -> int:
        """Number of activations."""
        ...

    def shuffled(self, batch: int, seed: int, epoch: int, start: int = 0) -> Iterator[Tensor]:
        """Full float32 batches (batch, width) of one epoch from batch number `start` on; the order follows from
        seed and epoch alone."""
        ...


class Rows:
    """A source over a (rows, width) tensor, array or memory map."""

    def __init__(self, acts: Any) -> None:
        if getattr(acts, "ndim", None) != 2 or 0 in acts.shape:
            raise DictionaryError(
                "Activations to train on must have shape (rows, width), both above 0; got "
                f"{tuple(getattr(acts, 'shape', ())) or type(acts).__name__}. Flatten token activations."
            )
        real = (
            acts.is_floating_point() if isinstance(acts, Tensor) else np.issubdtype(acts.dtype, np.floating)
        )
        if not real:
            raise DictionaryError(
                f"Activations to train on must be real floating point numbers; got {acts.dtype}. Convert them "
                "with .float() if they are activations, and not ids, codes or pixels."
            )
        self._acts = acts.detach() if isinstance(acts, Tensor) else acts

    @property
    def width(self) -> int:
        return int(self._acts.shape[1])

    def __len__(self) -> int:
        return int(self._acts.shape[0])

    def shuffled(self, batch: int, seed: int, epoch: int, start: int = 0) -> Iterator[Tensor]:
        for position, order in enumerate(batch_orders(len(self), batch, seed, epoch)):
            if position < start:
                continue
            if isinstance(self._acts, Tensor):
                yield self._acts[torch.from_numpy(order).to(self._acts.device)].float()
            else:
                # Ascending reads are faster from a memory map; the order within a batch does not matter.
                yield torch.from_numpy(np.ascontiguousarray(self._acts[np.sort(order)])).float()


def batches_in(source: Source, batch: int) -> int:
    """Full batches in one epoch of a source."""
    own = getattr(source, "batches", None)
    return len(source) // batch if own is None else int(own(batch))


def even_batch(rows: int, largest: int = 4096) -> int:
    """A batch size of at most `largest` that leaves fewer rows unused than there are batches."""
    return max(1, rows // max(1, -(-rows // largest)))


def sample_of(source: Source, rows: int, batch: int, seed: int = 0) -> Tensor:
    """At most `rows` random activations of a source, read in batches, float32 on the CPU."""
    parts, found = [], 0
    for part in source.shuffled(batch, seed, 0):
        parts.append(part.float().cpu())
        found += len(part)
        if found >= rows:
            break
    return torch.cat(parts)[:rows]


def as_source(acts: Any) -> Source:
    """The activations as a source: itself if it is one, else a tensor, array or memory map wrapped."""
    return acts if isinstance(acts, Source) else Rows(acts)


def mean_and_scale(
    source: Source, batch: int, seed: int, max_rows: int = 500_000
) -> tuple[Tensor, float, float]:
    """Mean, root mean square distance from it, and the ratio |mean| / that distance (gamma), in float64.

    Read from at most `max_rows` random rows.

    Raises:
        DictionaryError: NaN or infinite values, or activations that are all equal.
    """
    total = torch.zeros(source.width, dtype=torch.float64)
    squares = torch.zeros((), dtype=torch.float64)
    rows = 0
    shift: Tensor | None = None
    for part in source.shuffled(batch, seed, 0):
        part = part.double().cpu()
        if not bool(torch.isfinite(part).all()):
            raise DictionaryError(
                "The activations hold NaN or infinite values: store.check() names the shard and row; a model in "
                "float16 is the usual cause."
            )
        # Sums are taken around a first estimate of the mean, so that a mean far from zero loses no precision.
        shift = part.mean(0) if shift is None else shift
        part = part - shift
        total += part.sum(0)
        squares += part.square().sum()
        rows += len(part)
        if rows >= max_rows:
            break
    assert shift is not None
    offset = total / rows
    spread = float(((squares / rows) - offset.square().sum()).clamp_min(0).sqrt())
    mean = shift + offset
    if spread <= 1e-12 * max(float(mean.norm()), 1e-30):
        raise DictionaryError(
            f"All {rows} activations are equal, so there is nothing to train on. Check site and pictures."
        )
    return mean.float(), spread, float(mean.norm()) / spread
