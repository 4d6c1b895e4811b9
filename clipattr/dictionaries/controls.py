"""Controls: untrained dictionaries as baselines for trained ones.

Owns neurons, principal components, random directions and k-means directions, with the interface of every dictionary.
Start at `neurons`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from clipattr.dictionaries.batches import as_source, even_batch, sample_of
from clipattr.dictionaries.codes import SparseCodes
from clipattr.dictionaries.sae import Dictionary, register_kind
from clipattr.dictionaries.topk import FixedK, TopK
from clipattr.errors import DictionaryError


@register_kind
class Directions(FixedK):
    """Signed projections on directions: all of them, or the k of largest magnitude per row.

    Args:
        k: active directions per row; None for all. core: see `Dictionary`.

    Raises:
        DictionaryError: k out of range, or whatever `Dictionary` refuses.

    >>> import torch
    >>> made = Directions(k=1, decoder=torch.eye(2), encoder=torch.eye(2))
    >>> made.encode(torch.tensor([[1.0, -3.0]])).to_dense().tolist()
    [[0.0, -3.0]]
    """

    kind = "directions"

    def __init__(self, *, k: int | None = None, **core: Any) -> None:
        super().__init__(**core)
        if k is not None and not 1 <= k <= self.n_latents:
            raise DictionaryError(f"k must lie between 1 and the {self.n_latents} directions; got {k}.")
        self._k = self.n_latents if k is None else int(k)

    def select(self, pre: Tensor) -> SparseCodes:
        pre = pre.float()
        if self._k == self.n_latents:
            order = torch.arange(self.n_latents, dtype=torch.int32, device=pre.device)
            return SparseCodes(order.expand(len(pre), -1).contiguous(), pre, self.n_latents)
        return SparseCodes.from_dense(pre, k=self._k)


def neurons(width: int, *, k: int | None = None, **core: Any) -> Dictionary:
    """A dictionary of the coordinates of the activation.

    Args:
        width: components of an activation.
        k: keep the k codes of largest magnitude per row; None keeps all and is exact.
        core: further arguments of `Dictionary`, e.g. site="image.-1.cls".

    Returns:
        A `Dictionary` with one latent per coordinate; codes are signed.

    Raises:
        DictionaryError: k out of range.

    >>> import torch, clipattr as ca
    >>> ca.neurons(3, k=1).reconstruct(torch.tensor([[1.0, -3.0, 2.0]])).tolist()
    [[0.0, -3.0, 0.0]]
    """
    unit = torch.eye(width)
    return Directions(decoder=unit, encoder=unit.clone(), k=k, **_told("neurons", core))


def pca(acts: Any, n_latents: int | None = None, *, k: int | None = None, **core: Any) -> Dictionary:
    """A dictionary of the principal components of activations, largest variance first.

    Args:
        acts: (rows, width) tensor, array, memory map, or a store.
        n_latents: number of components; default `width`, with which the reconstruction is exact.
        k: keep the k codes of largest magnitude per row; None keeps all.
        core: further arguments of `Dictionary`.

    Returns:
        A `Dictionary` with one latent per component, which reconstructs around the mean; codes are signed.

    Raises:
        DictionaryError: more components than the width.

    >>> import torch, clipattr as ca
    >>> acts = torch.randn(100, 1, generator=torch.Generator().manual_seed(0)) * torch.tensor([[3.0, 4.0]])
    >>> ca.pca(acts, 1).decoder.abs().round(decimals=3).tolist()
    [[0.6000000238418579, 0.800000011920929]]
    """
    source = as_source(acts)
    width = source.width
    n_latents = width if n_latents is None else n_latents
    if not 1 <= n_latents <= width:
        raise DictionaryError(
            f"Activations of width {width} have 1 to {width} components; got n_latents={n_latents}."
        )
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
    """An untrained TopK SAE: random unit directions, shared by encoder and decoder.

    Args:
        acts: (rows, width) activations, from which the mean and one gain for all latents are fitted by least squares.
            Without the gain, overlapping directions would make the control too weak.
        n_latents, k: number of directions, and of active ones per row.
        seed: of the directions.
        core: further arguments of `Dictionary`.

    Returns:
        A `Dictionary` of kind TopK.

    Raises:
        DictionaryError: k out of range.

    >>> import torch, clipattr as ca
    >>> acts = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    >>> ca.random_sae(acts, 8, 2).encode(acts[:3]).counts().tolist()
    [2, 2, 2]
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
        seed: of the first centres.
        iterations: of Lloyd's algorithm.
        core: further arguments of `Dictionary`.

    Returns:
        A `Dictionary` of kind TopK with one latent per centre.

    Raises:
        DictionaryError: more centres than rows.

    >>> import torch, clipattr as ca
    >>> acts = torch.eye(2).repeat(20, 1) + 0.01 * torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
    >>> ca.kmeans(acts, 2).n_latents
    2
    """
    source = as_source(acts)
    sample = sample_of(source, 200_000, even_batch(len(source)))
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
        # An empty cluster keeps its centre.
        centres = torch.where(counts[:, None] > 0, sums / counts.clamp_min(1)[:, None], centres)
    lengths = centres.norm(dim=1)
    centres[lengths < 1e-6] = torch.randn(int((lengths < 1e-6).sum()), source.width, generator=generator)
    return _frozen(source, centres, k, _told("kmeans", core, seed=seed))


def _nearest(rows: Tensor, centres: Tensor) -> Tensor:
    return (centres.square().sum(1) - 2 * rows @ centres.T).argmin(1)


def _frozen(source: Any, directions: Tensor, k: int, core: dict[str, Any]) -> Dictionary:
    """A TopK dictionary over fixed directions, with the data's mean and the best common gain."""
    sample = sample_of(source, 20_000, even_batch(len(source)))
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


def _told(name: str, core: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {**core, "info": {"control": name, **more, **core.get("info", {})}}
