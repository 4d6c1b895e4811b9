"""Summary: examples, labels and scores of every latent, from one pass over codes.

Owns which pictures serve which purpose: all for frequency, no near-duplicates for examples, held-out ones for
validation only, a sample for distributions; and the blocks of latents that are labelled together by an engine. Ignores
files. Start at `collect`, then `summarise`.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clipattr.execution.engine import Engine, Here
from clipattr.meaning.examples import Examples, quantile_examples
from clipattr.meaning.labels import (
    Labels,
    label_by_contrast,
    label_by_evidence,
    label_latents,
)
from clipattr.meaning.scores import (
    Totals,
    example_clarity,
    mean_top,
    meanings,
    mixture,
    nearest_latents,
    triage,
    usual_cosine,
)
from clipattr.meaning.validation import chance_floor, validation_auc

JUDGED = 20_000  # most pictures on which labels are validated
NAMED = 4096  # latents labelled per block; another value may change last digits of sums
SAMPLED = 50_000  # most pictures from which middle examples are taken


@dataclass(frozen=True)
class Summary:
    """Result of `summarise`; `scores` are the other tensors of latents that a study stores."""

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
    """One pass over the codes of some pictures; results of several parts can be merged with `merged`.

    Args:
        blocks: (first row, SparseCodes) of each block; for the other arguments see `summarise`.
        tokens_of: function of (first, end) that returns the tokens of these rows' entries, where codes were pooled over
            tokens.
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
    """Results of all parts, merged in the given order."""
    iterator = iter(parts)
    examples, totals = next(iterator)
    for more, others in iterator:
        examples.merge(more)
        totals.merge(others)
    return examples, totals


@dataclass(frozen=True)
class _Naming:
    """Inputs of `name_part` that all blocks of latents share."""

    examples: Examples
    embeddings: np.ndarray | Path
    words: Tensor
    empty: Tensor
    judged: np.ndarray  # pictures on which labels are validated, and their codes
    codes: Any
    held_out: bool  # whether these pictures were excluded from examples
    middle: Tensor
    floor: float
    threshold: float  # cosine at which clusters of examples merge
    seed: int
    size: int


def summarise(
    examples: Examples,
    totals: Totals,
    rows_of: Callable[[np.ndarray], Any],
    embeddings: np.ndarray | Path,
    words: Tensor,
    empty: Tensor,
    decoder: Tensor,
    *,
    held_out: np.ndarray,
    seed: int = 0,
    engine: Engine | None = None,
) -> Summary:
    """Labels and scores from the result of `collect`. Memory does not grow with the number of pictures.

    Args:
        examples, totals: of all pictures.
        rows_of: function that returns the codes of given rows (rising).
        embeddings: (n, embed) of the evaluator, unit length, or a .npy file of them, which is memory-mapped.
        words: (n_words, embed) of the same evaluator.
        empty: (embed,) of the same evaluator.
        decoder: (n_latents, width).
        held_out: (n,) bool, pictures for validation only. `repeats` of `collect`, (n,) bool, are near-duplicates of
            earlier pictures, which count for frequency but not as examples.
        engine: runs the blocks of latents; None: this process.
    """
    stored = _stored(embeddings)
    fit, held = np.flatnonzero(~held_out), np.flatnonzero(held_out)
    judged, sample = _some(held if len(held) else fit, JUDGED, seed), _some(fit, SAMPLED, seed)
    middle = quantile_examples(rows_of(sample), [(0.25, 0.5)], examples.m)[:, 0]
    middle = torch.where(middle >= 0, torch.from_numpy(sample)[middle.clamp(min=0)], middle)
    floor = chance_floor(stored, words, empty, rows=fit, m=examples.m, seed=seed)
    naming = _Naming(
        examples,
        embeddings,
        words,
        empty,
        judged,
        rows_of(judged),
        bool(len(held)),
        middle,
        floor,
        usual_cosine(examples, stored, seed),
        seed,
        NAMED,
    )
    starts = range(0, examples.n_latents, NAMED)
    parts = list((engine or Here()).map(name_part, naming, starts))
    labels = _joined([part for part, _ in parts])
    named = {name: torch.cat([scores[name] for _, scores in parts]) for name in parts[0][1]}

    share, share_error = totals.frequency()
    strength = mean_top(examples)
    nearest, nearest_cosine = nearest_latents(decoder, 5, among=examples.counts > 0)
    scores = {
        **named,
        "monosemanticity": totals.monosemanticity(),
        "frequency": share,
        "frequency_error": share_error,
        "mean_top": strength,
        "triage": triage(strength, named["clarity"], labels.alignment_top[:, 0]),
        "nearest": nearest,
        "nearest_cosine": nearest_cosine,
    }
    return Summary(examples, labels, scores)


def name_part(naming: _Naming, start: int) -> tuple[Labels, dict[str, Tensor]]:
    """Labels and scores of the block of latents that begins at `start`."""
    stored, everything = _stored(naming.embeddings), naming.examples
    here = slice(start, min(start + naming.size, everything.n_latents))
    examples = everything.latents(here)
    asked = (examples, stored, naming.words, naming.empty)
    labels = label_latents(*asked, floor=naming.floor)
    word = torch.full((everything.n_latents,), -1)
    word[here] = labels.word_top[:, 0]
    exclude = None if naming.held_out else everything
    auc, auc_error = validation_auc(naming.codes, naming.judged, stored, word, naming.words, exclude=exclude)
    labels = replace(labels, auc=auc[here], auc_error=auc_error[here])
    evidence = label_by_evidence(*asked, top=1, seed=naming.seed)
    contrast = label_by_contrast(*asked, middle=naming.middle[here], top=1, seed=naming.seed)
    clear, clear_error = example_clarity(examples, stored)
    count, group = meanings(examples, stored, threshold=naming.threshold)
    return labels, {
        "clarity": clear,
        "clarity_error": clear_error,
        "meanings": count,
        "mixture": mixture(examples, stored),
        "meaning_groups": group.to(torch.int8),
        "word_evidence": evidence.word_top[:, 0],
        "word_contrast": contrast.word_top[:, 0],
    }


def _joined(parts: list[Labels]) -> Labels:
    """Labels of all latents from those of blocks."""
    names = ("word_top", "alignment_top", "mean_embedding", "auc", "auc_error")
    tensors: dict[str, Any] = {name: torch.cat([getattr(part, name) for part in parts]) for name in names}
    return replace(parts[0], **tensors)


def _stored(embeddings: np.ndarray | Path) -> Tensor:
    mapped = np.load(embeddings, mmap_mode="c") if isinstance(embeddings, Path) else embeddings
    return torch.from_numpy(np.asarray(mapped))


def _some(rows: np.ndarray, most: int, seed: int) -> np.ndarray:
    """A random sample of at most `most` rows, in rising order."""
    if len(rows) <= most:
        return rows
    return np.sort(np.random.default_rng(seed).permutation(rows)[:most])
