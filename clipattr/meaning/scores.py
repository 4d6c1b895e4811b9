"""Scores: how clear, how mixed, how frequent and how redundant each latent is.

Owns one number per latent and question, each streaming or sparse: no (latents, latents) or (pictures,
latents) matrix is ever held. Ignores words. Start at `clarity`.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import csr_array
from torch import Tensor

from clipattr.meaning.examples import Examples, entries

CHUNK = 1024


def clarity(sum_vector: Tensor, count: Tensor) -> Tensor:
    """Mean pairwise cosine of n unit vectors from their sum: (‖Σ e‖² / n − 1) / (n − 1).

    Args:
        sum_vector: (…, embed) sum of the unit vectors; count: (…) how many.

    Returns:
        (…) between −1 / (n − 1) and 1; nan below two vectors. Source: Dreyer et al. 2025, arXiv:2505.20229.
    """
    n = count.double()
    value = (sum_vector.double().square().sum(-1) / n - 1) / (n - 1)
    return torch.where(count >= 2, value, torch.full_like(value, float("nan"))).float()


def clarity_of(embeddings: Tensor) -> float:
    """`clarity` of one set of unit embeddings (n, embed); NaN below two."""
    return float(clarity(embeddings.sum(0, keepdim=True), torch.tensor([len(embeddings)]))[0])


def example_clarity(examples: Examples, embeddings: Tensor | np.ndarray) -> tuple[Tensor, Tensor]:
    """Clarity of each latent's examples, and its standard error by leaving one example out at a time.

    Returns:
        clarity and error, each (n_latents,); nan below two (three) examples.
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
    """Running sums over pictures, from which frequency and monosemanticity follow; (n_latents, embed) of memory."""

    def __init__(self, n_latents: int, embed: int) -> None:
        self.pictures = 0
        self.count = torch.zeros(n_latents, dtype=torch.int64)
        self.weight = torch.zeros(n_latents, dtype=torch.float64)
        self.square = torch.zeros(n_latents, dtype=torch.float64)
        self.vector = torch.zeros(n_latents, embed)

    def update(
        self, codes: Any, embeddings: Tensor | np.ndarray, *, keep: np.ndarray | Tensor | None = None
    ) -> None:
        """Take in a block: codes (b, n_latents), embeddings (b, embed), and which rows count (default all)."""
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
        """Both together, in place. Sums of floats: merge parts in a fixed order for the same last digits."""
        self.pictures += other.pictures
        self.count += other.count
        self.weight += other.weight
        self.square += other.square
        self.vector += other.vector
        return self

    def frequency(self) -> tuple[Tensor, Tensor]:
        """(n_latents,) share of pictures on which each latent is active, and its standard error as a sample."""
        share = self.count.double() / max(self.pictures, 1)
        return share.float(), (share * (1 - share) / max(self.pictures, 1)).sqrt().float()

    def monosemanticity(self) -> Tensor:
        """Mean pairwise cosine over *all* pictures a latent is active on, pairs weighted by their activations' product.

        Where clarity looks at the strongest examples only, this sees the whole range.

        Returns:
            (n_latents,) in raw cosine; nan for latents active on fewer than two pictures.
        """
        value = (self.vector.double().square().sum(1) - self.square) / (self.weight.square() - self.square)
        return torch.where(self.count >= 2, value, float("nan")).float()


def mean_top(examples: Examples) -> Tensor:
    """(n_latents,) mean activation over the examples, in units of the site; 0 without examples."""
    return examples.values.sum(1) / examples.counts.clamp(min=1)


def triage(mean_top_activation: Tensor, clearness: Tensor, best_alignment: Tensor) -> Tensor:
    """The paper's order of inspection: mean top activation × clarity × best alignment; negatives count as 0.

    High: strong, clear and well named. Strong and clear latents with a *low* alignment are the outliers to
        look at.
    """
    product = mean_top_activation * clearness.clamp(min=0) * best_alignment.clamp(min=0)
    return torch.nan_to_num(product, nan=0.0)


def meanings(
    examples: Examples,
    embeddings: Tensor | np.ndarray,
    *,
    apart: float | None = None,
    least: int = 3,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """Polysemanticity: into how many separate groups of look-alikes a latent's examples fall.

    Average-linkage clustering of the m example embeddings; two groups are one meaning while their mean cosine
    is at least `apart`. Groups of fewer than `least` examples are strays and do not count.

    Args:
        apart: default: 0.8 of the way from the mean cosine of random pictures to that of examples of one latent.

    Returns:
        How many, (n_latents,) int64: 0 without examples, at least 1 otherwise; and the group of every example,
        (n_latents, m) int64: 0 for the largest, -1 for strays and gaps.
    """
    stored = torch.as_tensor(embeddings)
    if apart is None:
        apart = usual_cosine(examples, stored, seed)
    count = torch.zeros(examples.n_latents, dtype=torch.int64)
    group = torch.full((examples.n_latents, examples.m), -1, dtype=torch.int64)
    for start in range(0, examples.n_latents, CHUNK):
        index = examples.indices[start : start + CHUNK]
        vectors = F.normalize(stored[index.clamp(min=0)].float(), dim=-1)
        similar = torch.einsum("jme,jne->jmn", vectors, vectors)
        number, members = _average_linkage(similar, index >= 0, apart, least)
        count[start : start + CHUNK], group[start : start + CHUNK] = number, members
    return count, group


def mixture(examples: Examples, embeddings: Tensor | np.ndarray) -> Tensor:
    """How evenly the examples lie along two separate directions: second over first eigenvalue of their cosine matrix.

    Near 0 where all look alike, towards 1 where two equally large groups have nothing in common. Unlike the count of
    `meanings` it needs no threshold.

    Returns:
        (n_latents,) in [0, 1]; nan below two examples.
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
    """Each latent's nearest others by cosine, in blocks.

    Args:
        vectors: (n_latents, any): decoder rows for redundancy of direction, mean embeddings for meaning.
        among: (n_latents,) bool; others are neither asked nor answered (-1, nan).

    Returns:
        index (n_latents, n) int64 and cosine (n_latents, n), nearest first.
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
    """Near the cosine of two examples of one latent: 0.8 of the way there from that of two random pictures."""
    generator = torch.Generator().manual_seed(seed)
    pairs = torch.randint(len(stored), (2, 4000), generator=generator)
    unrelated = F.cosine_similarity(stored[pairs[0]].float(), stored[pairs[1]].float(), dim=-1).mean()
    within, _ = example_clarity(examples, stored)
    return float(unrelated + 0.8 * (torch.nanmedian(within) - unrelated))


def _average_linkage(similar: Tensor, has: Tensor, apart: float, least: int) -> tuple[Tensor, Tensor]:
    """Average linkage for many small sets at once: (sets, m, m) cosines -> number of groups, group per
    member."""
    sets, m = has.shape
    row = torch.arange(sets)
    # Sums of cosines between groups; a group lives at the place of its first member.
    between = similar * has[:, :, None] * has[:, None, :]
    size = has.float()
    group = torch.where(has, torch.arange(m).expand(sets, m), -1)
    diagonal = torch.arange(m)
    for _ in range(m - 1):
        mean = between / (size[:, :, None] * size[:, None, :]).clamp(min=1e-9)
        mean = mean.masked_fill((size[:, :, None] == 0) | (size[:, None, :] == 0), -2)
        mean[:, diagonal, diagonal] = -2
        value, at = mean.reshape(sets, -1).max(1)
        merge = value >= apart
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
    # Number the groups by falling size; small ones are strays, but a latent with examples has one meaning at
    # least.
    order = size.argsort(dim=1, descending=True, stable=True)
    rank = torch.empty_like(order)
    rank.scatter_(1, order, diagonal.expand(sets, m).clone())
    big = (size >= least).sum(1)
    number = torch.where(has.any(1), big.clamp(min=1), torch.zeros_like(big))
    named = torch.where(group >= 0, rank.gather(1, group.clamp(min=0)), -1)
    return number, torch.where(named < number[:, None], named, -1)
