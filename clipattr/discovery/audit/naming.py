"""Families of latents by the word they follow: over all pictures of the finding half, not over top examples alone.

The top examples of a latent may share an accident (twenty dogs that happen to stand in a forest). A word names a latent
if the evaluator's similarity to that word rises and falls with the latent's code over the whole collection. Latents
that follow one word are one family; those that follow none are grouped by likeness and keep no name.
Start at `named_families`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from clipattr.meaning.families import families

if TYPE_CHECKING:
    from clipattr.studies.study import Study

FOLLOWS = 0.15  # correlation from which a word names a latent
NEARLY = 0.8  # of the best word's correlation, to be a follower of another word as well
PICTURES = 20_000  # at most so many are looked at
WORDS = 512  # words a step
FEW = 10  # active pictures below which nothing is said of a latent


@dataclass(frozen=True)
class Family:
    """Latents that share one meaning, the best word for them (None if none fits) and its vocabulary group."""

    latents: list[int]
    label: str | None
    group: str | None


def standardised(study: Study, rows: np.ndarray, words: Tensor) -> Tensor:
    """Standardised similarity of pictures to words by the evaluator, (pictures, words); mean 0, deviation 1 per word.

    The mean of each picture over the words is subtracted first, since some pictures are closer to any text than others.
    """
    pictures = study.seen(rows)
    similar = pictures @ words.float().T
    # The mean over a few hundred words is the same for every block of a long vocabulary.
    similar = similar - (pictures @ study.vocabulary_embeddings.float().mean(0))[:, None]
    return (similar - similar.mean(0)) / similar.std(0, correction=0).clamp_min(1e-6)


def correlations(strength: Any, similar: Tensor) -> Tensor:
    """Correlation of every column of `strength` with every word, (columns, words).

    Args:
        strength: (pictures, columns) scipy CSR, codes of latents or summed codes of families.
        similar: (pictures, words) of `standardised`.
    """
    strength, n = strength.astype(np.float32), strength.shape[0]
    mean = np.asarray(strength.mean(0)).ravel()
    square = np.asarray(strength.multiply(strength).mean(0)).ravel()
    deviation = np.sqrt(np.maximum(square - mean**2, 0))
    together = np.asarray(strength.T @ similar.numpy()) / n
    return torch.from_numpy(together / np.maximum(deviation, 1e-9)[:, None])


def best_word(study: Study, rows: np.ndarray, strength: Any) -> tuple[Tensor, Tensor]:
    """The vocabulary's word that follows each column of `strength` best: its correlation and its number."""
    best = torch.full((strength.shape[1],), -1.0)
    word = torch.zeros(strength.shape[1], dtype=torch.long)
    for first in range(0, len(study.vocabulary), WORDS):
        similar = standardised(study, rows, study.vocabulary_embeddings[first : first + WORDS])
        some, which = correlations(strength, similar).max(1)
        word = torch.where(some > best, which + first, word)
        best = torch.maximum(best, some)
    return best, word


def followed_words(study: Study, rows: np.ndarray) -> tuple[Tensor, Tensor]:
    """The word whose similarity correlates best with each latent's code.

    Args:
        rows: of the study's pictures; every n-th is used where there are more than `PICTURES`.

    Returns:
        correlation: (latents,), −1 to 1, zero for a latent active on fewer than `FEW` pictures; word: (latents,).
    """
    rows = rows[:: -(-len(rows) // PICTURES)]
    codes = study.codes.rows(torch.from_numpy(rows)).to_scipy().tocsr()
    live = torch.from_numpy(np.diff(codes.tocsc().indptr) >= FEW)
    best, word = best_word(study, rows, codes)
    return torch.where(live, best, 0.0), word


def named_families(study: Study, rows: np.ndarray | None = None, wanted: Sequence[int] = ()) -> list[Family]:
    """The study's families, strongest latent first in each.

    A name that the analyst gave to a latent replaces the vocabulary's word.

    Args:
        rows: pictures that decide on names; default those of the study's finding half.
        wanted: numbers of words that shall have a family even where other words follow its latents a little better;
            such families come last, and share latents with others.
    """
    live = study.examples.counts > 0
    if not bool(live.any()):
        return []
    rows = study.rows if rows is None else rows
    correlation, word = followed_words(study, rows)
    vocabulary, grouped = study.vocabulary, dict[object, Family]()
    nameless = []
    for latent in torch.nonzero(live).flatten().tolist():
        given = study.names.get(latent)
        if given is None and correlation[latent] < FOLLOWS:
            nameless.append(latent)
            continue
        label = vocabulary.words[int(word[latent])] if given is None else given
        group = vocabulary.groups[int(word[latent])]
        grouped.setdefault(label, Family([], label, group)).latents.append(latent)
    for number, part in enumerate(families(study, latents=nameless) if nameless else ()):
        grouped[number] = Family(list(part), None, None)
    found = list(grouped.values())
    for number, members in _followers(study, rows, wanted, correlation):
        label = vocabulary.words[number]
        members = [latent for latent in members if live[latent]]
        if members and (label not in grouped or set(members) != set(grouped[label].latents)):
            found.append(Family(members, label, vocabulary.groups[number]))
    strength = study.examples.values.float().sum(1)
    for family in found:
        family.latents.sort(key=lambda latent: (-float(strength[latent]), latent))
    return found


def _followers(
    study: Study, rows: np.ndarray, words: Sequence[int], best: Tensor
) -> list[tuple[int, list[int]]]:
    """For each word the latents that follow it nearly as well as they follow any, `best` (latents,)."""
    if not words:
        return []
    rows = rows[:: -(-len(rows) // PICTURES)]
    codes = study.codes.rows(torch.from_numpy(rows)).to_scipy().tocsr()
    follows = correlations(codes, standardised(study, rows, study.vocabulary_embeddings[list(words)]))
    members = (follows >= FOLLOWS) & (follows >= NEARLY * best[:, None])
    return [
        (word, torch.nonzero(some).flatten().tolist()) for word, some in zip(words, members.T, strict=True)
    ]
