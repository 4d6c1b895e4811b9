"""Controls: dictionaries that nobody trained, to hold trained ones against.

Owns neurons, principal components, random directions and k-means directions, with the same interface as every
dictionary. A trained SAE that does not beat these has not found much. Start at `neurons`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from clipattr.dictionaries.batches import as_source, even_batch
from clipattr.dictionaries.codes import SparseCodes
from clipattr.dictionaries.sae import Dictionary, register_kind
from clipattr.dictionaries.topk import TopK
from clipattr.errors import DictionaryError


@register_kind
class Directions(Dictionary):
    """Plain projections on directions, signed: all of them, or the k of largest magnitude per row."""

    kind = "directions"
    n_fixed = True

    def __init__(self, *, k: int | None = None, **core: Any) -> None:
        super().__init__(**core)
        if k is not None and not 1 <= k <= self.n_latents:
            raise DictionaryError(f"k must lie between 1 and the {self.n_latents} directions; got {k}.")
        self._k = self.n_latents if k is None else int(k)

    @property
    def k(self) -> int:
        return self._k

    def settings(self) -> dict[str, Any]:
        return {"k": self._k}

    def select(self, pre: Tensor) -> SparseCodes:
        pre = pre.float()
        if self._k == self.n_latents:
            order = torch.arange(self.n_latents, dtype=torch.int32, device=pre.device)
            return SparseCodes(order.expand(len(pre), -1).contiguous(), pre, self.n_latents)
        return SparseCodes.from_dense(pre, k=self._k)


def neurons(width: int, *, k: int | None = None, **core: Any) -> Dictionary:
    """The activation's own coordinates as latents; exact without k, else the k of largest magnitude."""
    unit = torch.eye(width)
    return Directions(decoder=unit, encoder=unit.clone(), k=k, **_told("neurons", core))


def pca(acts: Any, n_latents: int | None = None, *, k: int | None = None, **core: Any) -> Dictionary:
    """Principal components of activations, largest variance first.

    Args:
        acts: (rows, width) tensor, array, memory map, or a store.
        n_latents: components kept; default all `width`, with which the reconstruction is exact.
        k: keep only the k of largest magnitude per row.
    """
    source = as_source(acts)
    width = source.width
    n_latents = width if n_latents is None else n_latents
    if not 1 <= n_latents <= width:
        raise DictionaryError(f"There are {width} principal components at most; got n_latents={n_latents}.")
    total, products, rows = (
        torch.zeros(width, dtype=torch.float64),
        torch.zeros(width, width, dtype=torch.float64),
        0,
    )
    for part in source.shuffled(even_batch(len(source)), 0, 0):
        part = part.double()
        total += part.sum(0)
        products += part.T @ part
        rows += len(part)
    mean = total / rows
    _, vectors = torch.linalg.eigh(products / rows - torch.outer(mean, mean))
    directions = vectors.flip(1).T[:n_latents].float().contiguous()
    mean = mean.float()
    return Directions(
        decoder=directions,
        encoder=directions.clone(),
        bias=mean,
        pre_bias=mean.clone(),
        k=k,
        **_told("pca", core),
    )


def random_sae(acts: Any, n_latents: int, k: int, *, seed: int = 0, **core: Any) -> Dictionary:
    """A TopK SAE with random unit directions, never trained: encoder and decoder share them.

    Args:
        acts: (rows, width) activations for the mean and one common gain (least squares); without the gain the
            overlapping directions would overshoot, which would make the control needlessly easy to beat.
    """
    source = as_source(acts)
    directions = torch.randn(n_latents, source.width, generator=torch.Generator().manual_seed(seed))
    return _frozen(source, directions, k, _told("random", core, seed=seed))


def kmeans(
    acts: Any, n_latents: int, k: int = 1, *, seed: int = 0, iterations: int = 10, **core: Any
) -> Dictionary:
    """A TopK dictionary over the directions of k-means centres of the centred activations.

    Args:
        acts: (rows, width); at most 200,000 of them are used.
        n_latents: centres; at most as many as rows.
        k: active directions per row.
    """
    source = as_source(acts)
    sample = _sample(source, 200_000)
    if not 1 <= n_latents <= len(sample):
        raise DictionaryError(
            f"k-means needs 1 to {len(sample)} centres for {len(sample)} rows; got {n_latents}."
        )
    sample = sample - sample.mean(0)
    generator = torch.Generator().manual_seed(seed)
    centres = sample[torch.randperm(len(sample), generator=generator)[:n_latents]].clone()
    for _ in range(iterations):
        nearest = torch.cat([_nearest(part, centres) for part in sample.split(4096)])
        counts = torch.bincount(nearest, minlength=n_latents)
        sums = torch.zeros_like(centres).index_add_(0, nearest, sample)
        # A centre that lost all its rows stays where it was.
        centres = torch.where(counts[:, None] > 0, sums / counts.clamp_min(1)[:, None], centres)
    lengths = centres.norm(dim=1)
    centres[lengths < 1e-6] = torch.randn(int((lengths < 1e-6).sum()), source.width, generator=generator)
    return _frozen(source, centres, k, _told("kmeans", core, seed=seed))


def _nearest(rows: Tensor, centres: Tensor) -> Tensor:
    return (centres.square().sum(1) - 2 * rows @ centres.T).argmin(1)


def _frozen(source: Any, directions: Tensor, k: int, core: dict[str, Any]) -> Dictionary:
    """A TopK dictionary over fixed directions, with the data's mean and the best common gain."""
    sample = _sample(source, 20_000)
    mean = sample.mean(0)
    directions = torch.nn.functional.normalize(directions, dim=1)
    parts: dict[str, Any] = {
        "decoder": directions,
        "encoder": directions.clone(),
        "pre_bias": mean,
        "bias": mean,
    }
    plain = TopK(k=k, **parts, **core)
    guess = plain.reconstruct(sample) - mean
    gain = ((sample - mean) * guess).sum() / guess.square().sum().clamp_min(1e-12)
    return TopK(k=k, gain=gain.expand(len(directions)), **parts, **core)


def _sample(source: Any, rows: int) -> Tensor:
    parts, found = [], 0
    for part in source.shuffled(even_batch(len(source)), 0, 0):
        parts.append(part.float().cpu())
        found += len(part)
        if found >= rows:
            break
    return torch.cat(parts)[:rows]


def _told(name: str, core: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {**core, "info": {"control": name, **more, **core.get("info", {})}}
