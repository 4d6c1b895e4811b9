"""Summary: examples, labels and scores of every latent, from codes that stream by.

Owns which pictures serve which purpose: all for frequency, no near-duplicates among examples, held-out ones for
validation only, a sample where a whole distribution is needed. Ignores files. Start at `collect`, then `summarise`.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clipattr.meaning.examples import Examples, quantile_examples
from clipattr.meaning.labels import (
    Labels,
    chance_floor,
    label_by_contrast,
    label_by_evidence,
    label_latents,
    validation_auc,
)
from clipattr.meaning.scores import (
    Totals,
    example_clarity,
    mean_top,
    meanings,
    mixture,
    nearest_latents,
    triage,
)

JUDGED = 20_000  # pictures at most on which labels are validated
SAMPLED = 50_000  # pictures at most from which the middle of a latent's range is taken


@dataclass(frozen=True)
class Summary:
    """What `summarise` found; `scores` are the tensors that a study keeps beside labels and examples."""

    examples: Examples
    labels: Labels
    scores: dict[str, Tensor]


def collect(
    blocks: Iterable[tuple[int, Any]],
    embeddings: np.ndarray,
    n_latents: int,
    *,
    held_out: np.ndarray,
    repeats: np.ndarray,
    m: int = 20,
    tokens_of: Callable[[int, int], Tensor | None] = lambda first, behind: None,
) -> tuple[Examples, Totals]:
    """One pass over some pictures' codes; what it returns for parts of a collection can be merged.

    Args:
        blocks: (first row, SparseCodes) block by block; for the others see `summarise`.
        tokens_of: the tokens of the stored entries of rows first to behind, where codes were pooled over tokens.
    """
    stored = torch.from_numpy(np.asarray(embeddings))
    examples, totals = Examples(n_latents, m), Totals(n_latents, stored.shape[1])
    for start, codes in blocks:
        rows = np.arange(start, start + len(codes))
        own = np.where(held_out[rows] | repeats[rows], -1, rows)
        examples.update(codes, indices=own, tokens=tokens_of(start, start + len(codes)))
        totals.update(codes, stored[start : start + len(codes)], keep=~held_out[rows])
    return examples, totals


def merged(parts: Iterable[tuple[Examples, Totals]]) -> tuple[Examples, Totals]:
    """All parts together, in their order."""
    iterator = iter(parts)
    examples, totals = next(iterator)
    for more, others in iterator:
        examples.merge(more)
        totals.merge(others)
    return examples, totals


def summarise(
    examples: Examples,
    totals: Totals,
    rows_of: Callable[[np.ndarray], Any],
    embeddings: np.ndarray,
    words: Tensor,
    empty: Tensor,
    decoder: Tensor,
    *,
    held_out: np.ndarray,
    seed: int = 0,
) -> Summary:
    """Labels and scores from what `collect` gathered. Memory does not grow with the number of pictures.

    Args:
        examples, totals: of all pictures.
        rows_of: the codes of some rows, rising.
        embeddings: (n, embed) the evaluator's, unit length, possibly memory-mapped.
        words: (n_words, embed), empty: (embed,), of the same evaluator; decoder: (n_latents, width).
        held_out: (n,) bool, pictures for validation only. What `collect` calls repeats, (n,) bool, are near-duplicates
            of earlier pictures, which count for frequency but not as examples.
    """
    stored = torch.from_numpy(np.asarray(embeddings))
    m = examples.m
    fit, held = np.flatnonzero(~held_out), np.flatnonzero(held_out)

    floor = chance_floor(stored, words, empty, rows=fit, m=m, seed=seed)
    labels = label_latents(examples, stored, words, empty, floor=floor)
    judged = _some(held if len(held) else fit, JUDGED, seed)
    auc, auc_error = validation_auc(
        rows_of(judged), judged, stored, labels.word_top[:, 0], words, exclude=None if len(held) else examples
    )
    labels = replace(labels, auc=auc, auc_error=auc_error)

    sample = _some(fit, SAMPLED, seed)
    middle = quantile_examples(rows_of(sample), [(0.25, 0.5)], m)[:, 0]
    middle = torch.where(middle >= 0, torch.from_numpy(sample)[middle.clamp(min=0)], middle)
    evidence = label_by_evidence(examples, stored, words, empty, top=1, seed=seed)
    contrast = label_by_contrast(examples, stored, words, empty, middle=middle, top=1, seed=seed)

    clear, clear_error = example_clarity(examples, stored)
    count, group = meanings(examples, stored, seed=seed)
    share, share_error = totals.frequency()
    strength = mean_top(examples)
    nearest, nearest_cosine = nearest_latents(decoder, 5, among=examples.counts > 0)
    scores = {
        "clarity": clear,
        "clarity_error": clear_error,
        "monosemanticity": totals.monosemanticity(),
        "meanings": count,
        "mixture": mixture(examples, stored),
        "meaning_groups": group.to(torch.int8),
        "frequency": share,
        "frequency_error": share_error,
        "mean_top": strength,
        "triage": triage(strength, clear, labels.alignment_top[:, 0]),
        "nearest": nearest,
        "nearest_cosine": nearest_cosine,
        "word_evidence": evidence.word_top[:, 0],
        "word_contrast": contrast.word_top[:, 0],
    }
    return Summary(examples, labels, scores)


def _some(rows: np.ndarray, most: int, seed: int) -> np.ndarray:
    """At most this many of the rows, drawn at random, in rising order."""
    if len(rows) <= most:
        return rows
    return np.sort(np.random.default_rng(seed).permutation(rows)[:most])
