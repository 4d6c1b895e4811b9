"""Levels: how high pictures that show a word score for a prompt, without any dictionary.

Two audits of one collection with the same evaluator measure the same pictures, so the difference of their levels is due
to the models and not to the dictionaries. Owns this measurement for every word that is seen. Ignores
families and decisions; a gate compares it (`discovery/gate.py`). Start at `levels_of`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from clipattr.discovery.audit.base import Base
from clipattr.discovery.audit.subject import Subject

LEAST = 0.02  # of the prompt's own contrast; lower levels are not kept
KEPT = 64  # words kept for one prompt, those of the largest levels: bounds the size of a baseline
DIGITS = 5  # decimals of a stored level, raw cosine


@dataclass(frozen=True)
class PromptLevels:
    """Levels of one prompt, raw cosine of its contrast.

    Attributes:
        words: by word, what it adds to the score where the evaluator does not see the prompt, and where it does; None
            with fewer than `Settings.few` pictures.
        least: every level of a word that is not listed is at most this.
    """

    words: Mapping[str, tuple[float | None, float | None]]
    least: float


def levels_of(base: Base, subject: Subject, named: Sequence[str | None] = ()) -> PromptLevels:
    """Measure the level of every word of the vocabulary for one prompt.

    The evaluator alone decides whether a picture shows a word or the prompt; both halves are used.

    Args:
        subject: a prompt with its contrast on all pictures. named: words that are kept whatever their level.
    """
    n_words = len(base.study.vocabulary)
    totals = [_Sums(n_words), _Sums(n_words)]
    for seen, side in zip(base.seen_words, (subject.finding, subject.measuring), strict=True):
        contrast, prompt = side.contrast.numpy().astype(np.float64), side.shown.numpy()
        totals[0].add(seen, contrast, ~prompt)
        totals[1].add(seen, contrast, prompt)
    elsewhere, beside = (some.differences(base.settings.few) for some in totals)
    largest = np.fmax(elsewhere, beside)
    largest = np.where(np.isnan(largest), -np.inf, largest)
    if subject.same:  # other names of the prompt are no causes
        largest[sorted(subject.same)] = -np.inf
    least = LEAST * subject.unit if subject.unit > 0 else 0.0
    order = np.argsort(-largest, kind="stable")
    chosen = [int(at) for at in order[:KEPT] if largest[at] > least]
    if len(chosen) == KEPT and len(order) > KEPT:
        least = max(least, float(largest[order[KEPT]]))
    words = base.study.vocabulary.words
    chosen += [at for at in map(words.index, {w for w in named if w in words}) if at not in chosen]
    kept = {words[at]: (_plain(elsewhere[at]), _plain(beside[at])) for at in sorted(chosen)}
    return PromptLevels(kept, round(float(least), DIGITS))


class _Sums:
    """Sums of the contrast over pictures with and without each word."""

    def __init__(self, n_words: int) -> None:
        self.with_it, self.n_with = np.zeros(n_words), np.zeros(n_words)
        self.all, self.n = 0.0, 0

    def add(self, seen: Any, contrast: np.ndarray, among: np.ndarray) -> None:
        self.with_it += seen.T @ (contrast * among)
        self.n_with += seen.T @ among.astype(np.float64)
        self.all += float(contrast[among].sum())
        self.n += int(among.sum())

    def differences(self, few: int) -> np.ndarray:
        """(words,) mean with a word minus mean without; NaN where either has fewer than `few` pictures."""
        without = self.n - self.n_with
        with np.errstate(divide="ignore", invalid="ignore"):
            gap = self.with_it / self.n_with - (self.all - self.with_it) / without
        return np.where((self.n_with >= few) & (without >= few), gap, np.nan)


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), DIGITS)
