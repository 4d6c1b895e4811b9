"""Scores: clarity, polysemanticity, frequency and redundancy of each latent.

Every score is computed in one pass or from sparse data: no (latents, latents) or (pictures, latents) matrix is in
memory. Ignores words. Start at `clarity`.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import csr_array
from torch import Tensor

from clipattr.meaning.examples import Examples, entries

CHUNK = 1024  # latents per block


def clarity(sum_vector: Tensor, count: Tensor) -> Tensor:
    """Mean pairwise cosine of n unit vectors from their sum: (‖Σ e‖² / n − 1) / (n − 1).

    Args:
        sum_vector: (…, embed) sum of the unit vectors.
        count: (…) number n of vectors.

    Returns:
        (…) raw cosine between −1 / (n − 1) and 1; nan for fewer than two vectors.

    Raises:
        RuntimeError: shapes that do not broadcast.

    >>> unit = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])  # pairwise cosines 1, 0, 0
    >>> clarity(unit.sum(0), torch.tensor(3))
    tensor(0.3333)

    Source: Dreyer et al. 2025, arXiv:2505.20229.
    """
    n = count.double()
    value = (sum_vector.double().square().sum(-1) / n - 1) / (n - 1)
    return torch.where(count >= 2, value, torch.full_like(value, float("nan"))).float()


def clarity_of(embeddings: Tensor) -> float:
    """`clarity` of one set of unit embeddings (n, embed); NaN for fewer than two."""
    return float(clarity(embeddings.sum(0, keepdim=True), torch.tensor([len(embeddings)]))[0])


def example_clarity(examples: Examples, embeddings: Tensor | np.ndarray) -> tuple[Tensor, Tensor]:
    """Clarity of each latent's examples, and its jackknife standard error.

    Returns:
        Clarity and error, each (n_latents,); nan for fewer than two (three) examples.
    """
    stored = torch.as_tensor(embeddings)
    values, errors = [], []
    for start in range(0, examples.n_latents, CHUNK):
        index = examples.indices[start : start + CHUNK]
        has = index >= 0
        vectors = F.normalize(stored[index.clamp(min=0)].double(), dim=-1) * has[..., None]
        total, count = vectors.sum(1), has.sum(1)
        values.append(clarity(total, count))
        # ‖S − e‖² for all e at once
        without = total.square().sum(-1, keepdim=True) - 2 * torch.einsum("je,jme->jm", total, vectors) + 1
        n = (count - 1).double()[:, None]
        left = torch.where(has, (without / n - 1) / (n - 1), 0.0)
        mean = left.sum(1, keepdim=True) / count[:, None]
        spread = torch.where(has, (left - mean).square(), 0.0).sum(1) * (count - 1) / count
        errors.append(torch.where(count >= 3, spread.sqrt(), float("nan")).float())
    return torch.cat(values), torch.cat(errors)


class Totals:
    """Running sums over pictures for frequency and monosemanticity; memory is (n_latents, embed) floats."""

    def __init__(self, n_latents: int, embed: int) -> None:
        self.pictures = 0
        self.count = torch.zeros(n_latents, dtype=torch.int64)
        self.weight = torch.zeros(n_latents, dtype=torch.float64)
        self.square = torch.zeros(n_latents, dtype=torch.float64)
        self.vector = torch.zeros(n_latents, embed)

    def update(
        self, codes: Any, embeddings: Tensor | np.ndarray, *, keep: np.ndarray | Tensor | None = None
    ) -> None:
        """Add a block: codes (b, n_latents), embeddings (b, embed), and a mask of rows to count (default all)."""
        rows, latents, weights = entries(codes)
        wanted = torch.ones(len(codes), dtype=torch.bool) if keep is None else torch.as_tensor(keep)
        active = (weights > 0) & wanted[rows]
        rows, latents, weights = rows[active], latents[active], weights[active].double()
        unit = F.normalize(torch.as_tensor(embeddings).float(), dim=-1)
        self.pictures += int(wanted.sum())
        self.count.index_add_(0, latents, torch.ones_like(latents))
        self.weight.index_add_(0, latents, weights)
        self.square.index_add_(0, latents, weights.square())
        weighted = csr_array(
            (weights.float().numpy(), (latents.numpy(), rows.numpy())), (len(self.count), len(codes))
        )
        self.vector += torch.from_numpy(weighted @ unit.numpy())

    def merge(self, other: "Totals") -> "Totals":
        """Add the sums of another pass, in place. For equal last digits, merge parts in a fixed order."""
        self.pictures += other.pictures
        self.count += other.count
        self.weight += other.weight
        self.square += other.square
        self.vector += other.vector
        return self

    def frequency(self) -> tuple[Tensor, Tensor]:
        """Share of pictures on which each latent is active, and its standard error, each (n_latents,)."""
        share = self.count.double() / max(self.pictures, 1)
        return share.float(), (share * (1 - share) / max(self.pictures, 1)).sqrt().float()

    def monosemanticity(self) -> Tensor:
        """Mean pairwise cosine of all pictures on which a latent is active, weighted by the product of activations.

        Unlike clarity it is not restricted to the top examples.

        Returns:
            (n_latents,) in raw cosine; nan for latents active on fewer than two pictures.
        """
        value = (self.vector.double().square().sum(1) - self.square) / (self.weight.square() - self.square)
        return torch.where(self.count >= 2, value, float("nan")).float()


def mean_top(examples: Examples) -> Tensor:
    """Mean activation over the examples, (n_latents,), in the unit of codes; 0 without examples."""
    return examples.values.sum(1) / examples.counts.clamp(min=1)


def triage(mean_top_activation: Tensor, clearness: Tensor, best_alignment: Tensor) -> Tensor:
    """The paper's order of inspection: mean top activation × clarity × best alignment, negative factors set to 0.

    High: strong, clear and well labelled. Strong and clear latents with a low alignment are outliers to inspect.
    """
    product = mean_top_activation * clearness.clamp(min=0) * best_alignment.clamp(min=0)
    return torch.nan_to_num(product, nan=0.0)


def meanings(
    examples: Examples,
    embeddings: Tensor | np.ndarray,
    *,
    threshold: float | None = None,
    least: int = 3,
) -> tuple[Tensor, Tensor]:
    """Polysemanticity: number of clusters among a latent's example embeddings.

    Average-linkage clustering of the m example embeddings; clusters merge while their mean cosine is at least
    `threshold`. Clusters of fewer than `least` examples do not count.

    Args:
        examples: m examples per latent.
        embeddings: (n_pictures, embed) of the evaluator.
        threshold: raw cosine; default `usual_cosine`.
        least: smallest cluster that counts as a meaning.

    Returns:
        Number of clusters, (n_latents,) int64: 0 without examples, at least 1 otherwise. Cluster of each example,
        (n_latents, m) int64: 0 for the largest, -1 for clusters that do not count and for missing examples.
    """
    stored = torch.as_tensor(embeddings)
    if threshold is None:
        threshold = usual_cosine(examples, stored, 0)
    count = torch.zeros(examples.n_latents, dtype=torch.int64)
    group = torch.full((examples.n_latents, examples.m), -1, dtype=torch.int64)
    for start in range(0, examples.n_latents, CHUNK):
        index = examples.indices[start : start + CHUNK]
        vectors = F.normalize(stored[index.clamp(min=0)].float(), dim=-1)
        similar = torch.einsum("jme,jne->jmn", vectors, vectors)
        number, members = _average_linkage(similar, index >= 0, threshold, least)
        count[start : start + CHUNK], group[start : start + CHUNK] = number, members
    return count, group


def mixture(examples: Examples, embeddings: Tensor | np.ndarray) -> Tensor:
    """Ratio of the second to the first eigenvalue of the examples' cosine matrix.

    Near 0 where all examples are alike, 1 for two equally large orthogonal groups. Unlike `meanings` it needs no
    threshold.

    Returns:
        (n_latents,) in [0, 1]; nan for fewer than two examples.
    """
    stored = torch.as_tensor(embeddings)
    values = []
    for start in range(0, examples.n_latents, CHUNK):
        index = examples.indices[start : start + CHUNK]
        vectors = F.normalize(stored[index.clamp(min=0)].double(), dim=-1) * (index >= 0)[..., None]
        spectrum = torch.linalg.eigvalsh(vectors @ vectors.transpose(1, 2))
        ratio = spectrum[:, -2:-1].clamp(min=0).sum(1) / spectrum[:, -1].clamp(min=1e-12)
        values.append(torch.where((index >= 0).sum(1) >= 2, ratio, float("nan")).float())
    return torch.cat(values)


def nearest_latents(vectors: Tensor, n: int = 5, *, among: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The n nearest other latents of each latent by cosine.

    Args:
        vectors: (n_latents, any): decoder rows for redundant directions, mean embeddings for related meanings.
        among: (n_latents,) bool; other latents are excluded and have index -1 and cosine nan.

    Returns:
        Index (n_latents, n) int64 and cosine (n_latents, n), nearest first.
    """
    index = torch.full((len(vectors), n), -1, dtype=torch.int64)
    cosine = torch.full((len(vectors), n), float("nan"))
    asked = torch.arange(len(vectors)) if among is None else torch.nonzero(among).flatten()
    unit = F.normalize(vectors[asked].float(), dim=-1)
    size = min(n, len(asked) - 1)
    if size < 1:
        return index, cosine
    for start in range(0, len(asked), CHUNK):
        block = unit[start : start + CHUNK] @ unit.T
        own = torch.arange(len(block))
        block[own, own + start] = -2
        best = block.topk(size, dim=1)
        index[asked[start : start + CHUNK], :size] = asked[best.indices]
        cosine[asked[start : start + CHUNK], :size] = best.values
    return index, cosine


def usual_cosine(examples: Examples, stored: Tensor, seed: int) -> float:
    """Interpolated cosine: 0.2 × that of two random pictures + 0.8 × the median within examples of a latent."""
    generator = torch.Generator().manual_seed(seed)
    pairs = torch.randint(len(stored), (2, 4000), generator=generator)
    unrelated = F.cosine_similarity(stored[pairs[0]].float(), stored[pairs[1]].float(), dim=-1).mean()
    within, _ = example_clarity(examples, stored)
    return float(unrelated + 0.8 * (torch.nanmedian(within) - unrelated))


def _average_linkage(similar: Tensor, has: Tensor, threshold: float, least: int) -> tuple[Tensor, Tensor]:
    """Average linkage of many small sets at once: from cosines (sets, m, m) to the clusters that `meanings` returns."""
    sets, m = has.shape
    row = torch.arange(sets)
    # Sums of cosines between groups; a group is stored at the index of its first member.
    between = similar * has[:, :, None] * has[:, None, :]
    size = has.float()
    group = torch.where(has, torch.arange(m).expand(sets, m), -1)
    diagonal = torch.arange(m)
    for _ in range(m - 1):
        mean = between / (size[:, :, None] * size[:, None, :]).clamp(min=1e-9)
        mean = mean.masked_fill((size[:, :, None] == 0) | (size[:, None, :] == 0), -2)
        mean[:, diagonal, diagonal] = -2
        value, at = mean.reshape(sets, -1).max(1)
        merge = value >= threshold
        if not merge.any():
            break
        one, two = at // m, at % m
        keep, gone = torch.minimum(one, two)[merge], torch.maximum(one, two)[merge]
        which = row[merge]
        between[which, keep] += between[which, gone]
        between[which, :, keep] += between[which, :, gone]
        between[which, gone] = 0
        between[which, :, gone] = 0
        size[which, keep] += size[which, gone]
        size[which, gone] = 0
        group[which] = torch.where(group[which] == gone[:, None], keep[:, None], group[which])
    # Groups are numbered by falling size. A latent with examples has at least one meaning.
    order = size.argsort(dim=1, descending=True, stable=True)
    rank = torch.empty_like(order)
    rank.scatter_(1, order, diagonal.expand(sets, m).clone())
    big = (size >= least).sum(1)
    number = torch.where(has.any(1), big.clamp(min=1), torch.zeros_like(big))
    named = torch.where(group >= 0, rank.gather(1, group.clamp(min=0)), -1)
    return number, torch.where(named < number[:, None], named, -1)
