"""Concept presence: the probability that a picture shows a concept, by the evaluator.

Image-text similarities are modelled as a mixture of two normal distributions, pictures with and without the concept;
the presence is the posterior of the upper component. A concept without a word is present where its latents are active.
Owns the choice of words and the presence. Ignores its use (`matching.py`).
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

WORDS = 512  # vocabulary size above which only words that name a family are candidates
BINS = 128  # equally wide bins of the histogram of similarities
STARTS = (0.5, 0.25, 0.1, 0.03)  # initial weights of the upper component
STEPS = 200  # most steps of expectation maximisation
NARROWEST = 0.05  # least standard deviation of a component, in standard deviations of all similarities


def candidate_words(study: Study, names: Iterable[str]) -> list[int]:
    """Numbers of the vocabulary words whose presence is estimated, without the names of classes."""
    words, classes = study.vocabulary.words, {name.casefold() for name in names}
    known = {family.label for family in named_families(study)} if len(words) > WORDS else set(words)
    return [n for n, word in enumerate(words) if word in known and word.casefold() not in classes]


def shown_words(study: Study, seen: Tensor, words: Sequence[int]) -> Tensor:
    """Probability that each picture shows the concept of each word, (pictures, words) float64.

    Args:
        seen: (pictures, embed), embeddings by the evaluator. words: numbers in the vocabulary.
    """
    return upper_component(seen @ study.vocabulary_embeddings[list(words)].float().T)


def shown_family(pictures: Encoded, latents: Sequence[int]) -> Tensor:
    """Presence of the concept of a family without a word, (pictures,) of 0 and 1: whether its latents are active.

    Without a word the evaluator cannot be asked.
    """
    return (summed_codes(pictures.codes, latents) > 0).double()


def upper_component(values: Tensor) -> Tensor:
    """Posterior of the upper of two normal mixture components for each value, by column; monotone in the value.

    Expectation maximisation on the histogram of each column from several starts; the result with the highest likelihood
    is used. Zeros if a column is constant.

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
    # A wide upper component would have a high posterior at the lowest values too.
    lowest = sure.argmin(0)
    sure = (
        torch.where(torch.arange(BINS)[:, None] < lowest, sure.gather(0, lowest[None]), sure).cummax(0).values
    )
    return sure.gather(0, place).masked_fill(flat, 0.0)


def _fitted(shares: Tensor, middles: Tensor, start: float) -> tuple[Tensor, Tensor]:
    """Log-likelihood (columns,) and posterior of the upper component (bins, columns) after convergence."""
    above = 1 - shares.cumsum(0) + shares / 2
    sure = (above < start).double() * 0.96 + 0.02
    for _ in range(STEPS):
        logs = []
        for part in (sure * shares, (1 - sure) * shares):
            size = part.sum(0).clamp_min(1e-9)
            mean = (part * middles).sum(0) / size
            deviation = ((part * (middles - mean).square()).sum(0) / size).sqrt().clamp_min(NARROWEST)
            logs.append(size.log() - deviation.log() - ((middles - mean) / deviation).square() / 2)
        after = torch.sigmoid(logs[0] - logs[1])
        moved, sure = (after - sure).abs().max(), after
        if moved < 1e-6:
            break
    return (torch.logaddexp(*logs) * shares).sum(0), sure
