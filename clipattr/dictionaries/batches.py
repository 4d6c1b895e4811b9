"""Batches: where training reads its activations.

Owns the interface of a source (length, width, shuffled batches from any position) and its implementations for tensors,
memory maps and live models; activation stores implement it themselves. Does not know what batches are used for. Start
at `as_source`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from clipattr.errors import DictionaryError
from clipattr.storage.shards import batch_orders


@runtime_checkable
class Source(Protocol):
    """What `train_sae` needs from its activations."""

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
        self._acts = acts

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
    """A batch of at most `largest` rows that leaves next to none of them over (fewer than there are batches)."""
    return max(1, rows // max(1, -(-rows // largest)))


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
                "The activations hold NaN or infinite values: read them with store.check(), which names shard and "
                "row, or check the model's dtype."
            )
        # Sums are taken around a first guess of the mean, so that a mean far from zero costs no digits.
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
        raise DictionaryError(f"All {rows} activations are equal: there is nothing to decompose.")
    return mean.float(), spread, float(mean.norm()) / spread


class LiveActivations:
    """A source that encodes images as they are needed, for training without a store.

    Images come in a new random order in each epoch. Where an image has several tokens, the tokens of the images of
    `pool` batches are mixed before batches are cut, so that a batch does not consist of a few images.

    Args:
        model: a `Model`.
        images: an `Images` or anything `Images.open` takes. An unreadable image ends training with an error, because
            batches must be reproducible: leave such images out first.
        site: where to read.
        pictures: images per forward pass.
        pool: training batches mixed at a time, for sites with several tokens.
    """

    def __init__(self, model: Any, images: Any, site: Any, *, pictures: int = 64, pool: int = 8) -> None:
        from clipattr.images.collection import Images
        from clipattr.sites import Site

        self._model, self._images = model, Images.open(images)
        self._site = Site(site)
        shape = self._site.shape(model)
        self._tokens = shape[0] if len(shape) == 2 else 1
        self._width = int(shape[-1])
        self._pictures, self._pool = pictures, pool
        self.site = str(self._site)
        self.model_hash = model.weights_hash
        self.fingerprint = f"{self._images.fingerprint}-{self.model_hash}-{self.site}"

    @property
    def width(self) -> int:
        return self._width

    def __len__(self) -> int:
        return len(self._images) * self._tokens

    def _per_pool(self, batch: int) -> int:
        """Images encoded together: pools hold whole batches and whole images, so that a later pool can be reached
        without encoding the earlier ones."""
        group = batch * self._pool if self._tokens > 1 else batch
        return max(1, -(-group // self._tokens))

    def batches(self, batch: int) -> int:
        """Full batches in one epoch; fewer than the rows would fill, since each pool may leave a remainder."""
        per_pool = self._per_pool(batch)
        pools, rest = divmod(len(self._images), per_pool)
        return pools * (per_pool * self._tokens // batch) + rest * self._tokens // batch

    def shuffled(self, batch: int, seed: int, epoch: int, start: int = 0) -> Iterator[Tensor]:
        generator = np.random.Generator(np.random.PCG64([seed, epoch]))
        order = generator.permutation(len(self._images))
        per_pool = self._per_pool(batch)
        position = 0
        for first in range(0, len(order), per_pool):
            chosen = order[first : first + per_pool]
            rows = len(chosen) * self._tokens
            mixed = torch.from_numpy(generator.permutation(rows))
            batches = rows // batch
            if position + batches > start:
                acts = self._encode(chosen)[mixed]
                for number in range(batches):
                    if position + number >= start:
                        yield acts[number * batch : (number + 1) * batch]
            position += batches

    def _encode(self, places: np.ndarray) -> Tensor:
        from clipattr.sites import activations

        parts, found = [], 0
        for kept, (pixels,) in self._images.batches([self._model], self._pictures, places=places):
            parts.append(activations(self._model, pixels, self._site).float().flatten(0, -2).cpu())
            found += len(kept)
        if found < len(places):
            raise DictionaryError(
                f"{len(places) - found} pictures could not be read, e.g. {self._images.skipped[:2]}: leave them out "
                "before training from a live model, or fill a store, which skips them."
            )
        return torch.cat(parts)
