"""Selectivity: which latents respond to a concept where the prompt's object is absent.

To tell a lemon detector from a banjo detector we need images with lemons and without banjos. A latent that fires for
banjos and for the lemons beside them correlates with the word banjo; only images with lemons and without banjos show
that it is no banjo detector. The same holds for a latent that fires for both senses of one word. A latent that fires
only for candles beside books needs a third test: occluding the book (`occlusion`). Owns the choice of latents; where
prompt and concept occur together is decided in `mediators`. Start at `stands_for`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

FEW = 5  # fewest pictures for a result
LOOKALIKE = (
    0.4  # share of the concept's other pictures that show the prompt, above which the two are confused
)
INSTEAD = 0.12  # share of the prompt's own pictures that show the concept and not the prompt
ALIKE = 0.5  # ratio of two mean codes from which they count as similar
MORE = 1.5  # ratio of the mean code on other pictures of the concept to that on other pictures of the prompt
CLEAR = 3.0  # ratio of the mean code on pictures of the concept to that on pictures of neither
CARRIES = 0.05  # share of a family's reliance below which a latent is left out
PURELY = (
    0.25  # ratio of the mean code on the concept alone to that on both, for a latent of the concept alone
)
CHANCE = 0.01  # p-value of a latent's loss without the concept


@dataclass(frozen=True)
class Apart:
    """Latents through which a meaning raises a prompt's score.

    Attributes:
        prompt: its number. word: number of the meaning's word in the vocabulary.
        latents: largest effect first.
        carried: raw cosine of the prompt's contrast, summed single-latent ablation on pictures with both.
        reason: what chose the latents: "co-occurrence", how they fire on different pictures.
    """

    prompt: int
    word: int
    latents: list[int]
    carried: float
    reason: str


def mean_strength(
    codes: Any, pictures: Tensor, few: int = FEW, sums: tuple[np.ndarray, np.ndarray] | None = None
) -> np.ndarray:
    """(latents,) mean code over some pictures, (all,) bool or weights; NaN where these come to less than `few`.

    Args:
        sums: of each latent the sum of its codes over all pictures and how many are not zero: with them, most of the
            pictures cost no more than the others.
    """
    total = float(pictures.sum())
    if total < few:
        return np.full(codes.shape[1], np.nan)
    if sums is not None and pictures.dtype == torch.bool and 2 * total > len(pictures):
        others = codes[torch.nonzero(~pictures).flatten().numpy()]
        left = sums[0] - np.asarray(others.sum(0, dtype=np.float64)).ravel()
        # A latent that fires only on the other pictures has exactly 0 left; rounding may give a small number.
        return np.where(sums[1] > np.asarray(others.count_nonzero(axis=0)).ravel(), left / total, 0.0)
    chosen = torch.nonzero(pictures).flatten()
    return np.asarray(codes[chosen.numpy()].T @ (pictures[chosen].double().numpy() / total)).ravel()


@dataclass(frozen=True)
class Meeting:
    """Where a prompt and a co-occurring meaning are seen, each (pictures,) bool.

    Attributes:
        is_own: the prompt's own pictures. meaning: those that show the meaning. prompt: those that show the prompt.
        without: certainty that each lacks the meaning, 0 to 1, as the evaluator misses it in some that show it.
        instead: whether a part of the prompt's own pictures shows the meaning in place of the prompt's object.
    """

    is_own: Tensor
    meaning: Tensor
    prompt: Tensor
    without: Tensor
    instead: bool


@dataclass(frozen=True)
class Standing:
    """Which latents respond to a meaning, and how clearly; each (latents,).

    Attributes:
        fits: bool. clearer: how much clearer each responds to the meaning alone than to neither, −1 to 1.
        purely: bool, whether it fires for the meaning alone nearly as strongly as for both together; any other latent
            may respond to the prompt itself.
    """

    fits: np.ndarray
    clearer: np.ndarray
    purely: np.ndarray


def stands_for(codes: Any, meeting: Meeting, sums: tuple[np.ndarray, np.ndarray] | None = None) -> Standing:
    """Which latents respond to the meaning rather than to the prompt.

    In the prompt's place: latents at least half as strong there as on the other part of its own pictures; one latent
    may have learnt both. Beside the prompt: latents that lose half of their strength on own pictures without the
    meaning; where nearly all own pictures have it, those that respond more to the meaning without the prompt than to
    the prompt without the meaning. In either case latents that respond to the meaning alone clearly more than to
    neither, or whose loss without it is significant (Mann-Whitney), as a latent may fire only for both together.

    Args:
        codes: (pictures, latents) scipy CSR. sums: as for `mean_strength`.
    """
    own, there, prompt = meeting.is_own, meeting.meaning, meeting.prompt
    neither = np.nan_to_num(mean_strength(codes, ~there & ~prompt & ~own, sums=sums))
    if meeting.instead:
        alone = mean_strength(codes, there & ~prompt)
        with_it = mean_strength(codes, own & there & ~prompt)
        fits = with_it >= ALIKE * np.nan_to_num(mean_strength(codes, own & prompt & ~there))
    else:
        alone = mean_strength(codes, there & ~prompt & ~own)
        with_it, without = (
            mean_strength(codes, own & there),
            mean_strength(codes, own * meeting.without, few=1),
        )
        prompt_alone = np.nan_to_num(mean_strength(codes, prompt & ~there & ~own))
        fits = np.where(np.isnan(without), alone >= MORE * prompt_alone, ALIKE * with_it >= without)
        fits |= alone >= with_it
    alone = np.nan_to_num(alone)
    clearer = (alone - neither) / np.maximum(alone + neither, 1e-9)
    responds = alone > CLEAR * neither
    if not meeting.instead:
        loses = lost_without(codes, own & there, own & ~there, fits & ~responds)
        responds, clearer = responds | loses, np.where(loses, np.maximum(clearer, 0.0) + 1e-3, clearer)
    return Standing(fits & responds, clearer, fits & responds & (alone >= PURELY * np.nan_to_num(with_it)))


def lost_without(codes: Any, with_it: Tensor, without: Tensor, among: np.ndarray) -> np.ndarray:
    """Which of some latents are weaker without a meaning than chance would have them, (latents,) bool.

    Args:
        codes: (pictures, latents) scipy CSR. with_it, without: (pictures,) bool. among: (latents,) bool.
    """
    if not among.any() or with_it.sum() < FEW or without.sum() < 3:
        return np.zeros(codes.shape[1], dtype=bool)
    one, other = (codes[torch.nonzero(some).flatten().numpy()] for some in (with_it, without))
    return among & (greater(one, other) < CHANCE)


def greater(one: Any, other: Any) -> np.ndarray:
    """(columns,) p-value of Mann and Whitney's test that `one` is greater than `other`, 1 where all are equal.

    Normal approximation with correction for ties and continuity, from the entries that are not zero alone: the zeros
    of a column are one tie.

    Args:
        one, other: (pictures, columns) scipy CSR.
    """
    from scipy.special import ndtr

    n, m = one.shape[0], other.shape[0]
    width = one.shape[1]
    tables = [table.tocoo() for table in (one, other)]
    column = np.concatenate([table.coords[1] for table in tables])
    value = np.concatenate([table.data for table in tables])
    first = np.repeat([True, False], [tables[0].nnz, tables[1].nnz])
    column, value, first = (part[value != 0] for part in (column, value, first))
    order = np.lexsort((value, column))
    column, value, first = column[order], value[order], first[order]
    count = np.bincount(column, minlength=width)
    below = np.bincount(column[value < 0], minlength=width)
    zeros = n + m - count
    # Runs of equal values in a column share their mean rank.
    new = np.ones(len(value), dtype=bool)
    new[1:] = (value[1:] != value[:-1]) | (column[1:] != column[:-1])
    starts = np.flatnonzero(new)
    length = np.diff(starts, append=len(value))
    begins = np.concatenate([[0], np.cumsum(count)[:-1]])[column[starts]]
    rank = np.repeat(starts - begins + (length + 1) / 2, length) + np.where(value > 0, zeros[column], 0)
    own_zeros = n - np.bincount(column[first], minlength=width)
    ranks = np.bincount(column[first], weights=rank[first], minlength=width)
    ranks += own_zeros * (below + (zeros + 1) / 2)
    ties = np.bincount(column[starts], weights=length.astype(float) ** 3 - length, minlength=width)
    ties += zeros.astype(float) ** 3 - zeros
    total = n + m
    deviation = np.sqrt(np.maximum(n * m / 12 * (total + 1 - ties / (total * (total - 1))), 0))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(ndtr(-(ranks - n * (n + 1) / 2 - n * m / 2 - 0.5) / deviation))


def families_apart(
    prompt: int,
    standing: Mapping[int, Standing],
    carried: Mapping[int, Tensor],
    enough: float,
) -> list[Apart]:
    """The families of one prompt, one for each co-occurring meaning.

    A latent that fits several meanings is assigned to the one to which it responds most clearly. Where the pure latents
    of a meaning have enough effect for a finding, its family consists of them.

    Args:
        standing: by word, what `stands_for` or `silenced` says of the latents. carried: by word, (latents,) mean
            single-latent ablation on the prompt's own pictures that show the word; what does not lift the prompt there
            is left out. enough: raw cosine.
    """
    n_latents = len(next(iter(carried.values())))
    best, belongs = np.zeros(n_latents), np.full(n_latents, -1)
    for word, some in standing.items():
        better = some.fits & (carried[word].numpy() > 0) & (some.clearer > best)
        best[better], belongs[better] = some.clearer[better], word
    found = []
    for word, share in carried.items():
        latents = np.flatnonzero(belongs == word)
        purely = latents[standing[word].purely[latents]]
        if share[purely].sum() >= enough:
            latents = purely
        ordered = latents[np.argsort(-share[latents].numpy(), kind="stable")]
        kept = [int(j) for j in ordered if share[j] >= CARRIES * share[latents].sum()]
        if kept:
            found.append(Apart(prompt, word, kept, float(share[kept].sum()), "co-occurrence"))
    return found
