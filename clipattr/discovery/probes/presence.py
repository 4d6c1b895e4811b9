"""Presence: how surely each picture shows each thing that has a word, as the evaluator sees it.

Similarities of pictures to a word fall into two heaps that overlap: of pictures that show the thing, and of those that
do not. Each is taken to be normal, and a picture shows the thing as surely as its similarity belongs to the upper one.
What has no word is there where its latents are active.
Owns which words are looked at and how surely a picture shows them. Ignores what follows from it (`matching.py`).
Start at `shown_words`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from clipattr.discovery.audit.naming import named_families
from clipattr.discovery.encoded import Encoded, summed_codes

if TYPE_CHECKING:
    from clipattr.studies.study import Study

WORDS = 512  # of a longer vocabulary only those that name a family are looked at
BINS = 128  # of similarities, equally wide
STARTS = (0.5, 0.25, 0.1, 0.03)  # shares of the upper heap that the search for it begins with
STEPS = 200
NARROWEST = 0.05  # standard deviation of a heap, in standard deviations of all


def looked_for(study: Study, names: Iterable[str]) -> list[int]:
    """Numbers of the words that are looked for in pictures: the vocabulary's, less the names of classes."""
    words, classes = study.vocabulary.words, {name.casefold() for name in names}
    known = {family.label for family in named_families(study)} if len(words) > WORDS else set(words)
    return [n for n, word in enumerate(words) if word in known and word.casefold() not in classes]


def shown_words(study: Study, seen: Tensor, words: Sequence[int]) -> Tensor:
    """How surely each picture shows what each word says, (pictures, words) float64.

    Args:
        seen: (pictures, embed), the evaluator's embeddings. words: numbers in the vocabulary.
    """
    return upper_heap(seen @ study.vocabulary_embeddings[list(words)].float().T)


def shown_family(pictures: Encoded, latents: Sequence[int]) -> Tensor:
    """Which pictures show what a family without a word stands for, (pictures,) of 0 and 1.

    Those on which its latents are active: no word tells the evaluator what to look for.
    """
    return (summed_codes(pictures.codes, latents) > 0).double()


def upper_heap(values: Tensor) -> Tensor:
    """Probability that each value belongs to the upper of two normal heaps, by column; never falls with the value.

    Expectation and maximisation on the histogram of each column, from several starts, the likeliest end of which
    counts. Zeros where a column does not vary.

    Args:
        values: (pictures, columns).

    Returns:
        (pictures, columns) float64.
    """
    v = values.double()
    spread = v.std(0, correction=0)
    flat = ~(spread > 1e-9)
    v = (v - v.mean(0)) / spread.masked_fill(flat, 1.0)
    low, high = v.amin(0), v.amax(0)
    width = ((high - low) / BINS).clamp_min(1e-12)
    place = ((v - low) / width).long().clamp(0, BINS - 1)
    counts = torch.zeros(BINS, v.shape[1], dtype=torch.float64).scatter_add_(0, place, torch.ones_like(v))
    middles = low + (torch.arange(BINS, dtype=torch.float64)[:, None] + 0.5) * width
    best, sure = torch.full_like(low, -torch.inf), torch.zeros_like(counts)
    for start in STARTS:
        likelihood, belongs = _fitted(counts / len(v), middles, start)
        better = likelihood > best
        best, sure = torch.where(better, likelihood, best), torch.where(better, belongs, sure)
    # A wide upper heap would claim the lowest values too.
    lowest = sure.argmin(0)
    sure = (
        torch.where(torch.arange(BINS)[:, None] < lowest, sure.gather(0, lowest[None]), sure).cummax(0).values
    )
    return sure.gather(0, place).masked_fill(flat, 0.0)


def _fitted(shares: Tensor, middles: Tensor, start: float) -> tuple[Tensor, Tensor]:
    """Log-likelihood (columns,) and probability of the upper heap (bins, columns) where the search ends."""
    above = 1 - shares.cumsum(0) + shares / 2
    sure = (above < start).double() * 0.96 + 0.02
    for _ in range(STEPS):
        logs = []
        for heap in (sure * shares, (1 - sure) * shares):
            size = heap.sum(0).clamp_min(1e-9)
            mean = (heap * middles).sum(0) / size
            deviation = ((heap * (middles - mean).square()).sum(0) / size).sqrt().clamp_min(NARROWEST)
            logs.append(size.log() - deviation.log() - ((middles - mean) / deviation).square() / 2)
        after = torch.sigmoid(logs[0] - logs[1])
        moved, sure = (after - sure).abs().max(), after
        if moved < 1e-6:
            break
    return (torch.logaddexp(*logs) * shares).sum(0), sure
