"""Mediators: latents that respond to a concept and feed the class logit.

A latent mediates a concept for a class if its code is higher on pictures that show the concept, other concepts held
equal, and if it raises the class's margin where it is active. A concept without a latent of its own has mediators too,
since it is spread over several latents. They are chosen on the study's finding half and measured on other pictures.
Owns this choice. Ignores the size of their effect (`findings.py`). Start at `Mediators.of`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from clipattr.attribution import ClosedFormTail
from clipattr.discovery.encoded import exact_sums, summed_codes
from clipattr.discovery.probes.matching import change, enough
from clipattr.discovery.probes.presence import shown_words
from clipattr.discovery.repair.directions import learning_pictures
from clipattr.statistics import normal_quantile

if TYPE_CHECKING:
    from clipattr.studies.study import Study

BY_CHANCE = 1.0  # expected number of latents of a dictionary that pass the test by chance
MOST = 50  # mediators of one concept


class Mediators:
    """Mediators of the concepts that have a word.

    Args:
        words: numbers of the words in the vocabulary. tail: for the margins of the classes.
    """

    def __init__(self, study: Study, words: Sequence[int], tail: ClosedFormTail):
        self.pictures = learning_pictures(study)
        self.seen = self.pictures.seen(study)
        self.shown = shown_words(study, self.seen, words)
        self.classes, _ = self.pictures.classes()
        self._codes = self.pictures.codes.to_scipy().tocsr().astype(np.float64)
        self._squares = self._codes.multiply(self._codes).tocsr()
        self._means = np.asarray(self._codes.mean(0)).ravel()
        self.rise = normal_quantile(1 - BY_CHANCE / max(len(self._means), 2))  # standard errors
        self._lift, _ = exact_sums(tail, self.pictures.acts, self.pictures.codes)  # (latents, classes)
        self._rises: dict[int, np.ndarray] = {}

    def of(self, word: int, number: int) -> list[int]:
        """Mediators of a concept for a class, sorted by the significance of their response.

        Args:
            word: position among the words. number: of the class.
        """
        if word not in self._rises:
            self._rises[word] = self._sureness(word)
        rises = np.where(self._lift[:, number].numpy() > 0, self._rises[word], -np.inf)
        order = np.argsort(-rises, kind="stable")[:MOST]
        return [int(latent) for latent in order if rises[latent] >= self.rise]

    def examples(self, word: int, latents: Sequence[int], n: int) -> list[int]:
        """Rows of the study's pictures that show a concept, sorted by the summed codes of its mediators."""
        strength = summed_codes(self.pictures.codes, list(latents)).double() * (self.shown[:, word] > 0.5)
        order = strength.argsort(descending=True, stable=True)[:n].tolist()
        rows = np.asarray(self.pictures.rows)
        return [int(rows[place]) for place in order if strength[place] > 0]

    def meaning(self, word: int) -> Tensor:
        """(embed,): the evaluator's mean embedding of pictures that show a concept."""
        weight = self.shown[:, word].float()
        return (weight @ self.seen) / weight.sum().clamp_min(1e-9)

    def _sureness(self, word: int) -> np.ndarray:
        """(latents,): difference of each code with the concept, other concepts held equal, in standard errors."""
        own = self.shown[:, word]
        if not enough(own):
            return np.full(len(self._means), -np.inf)
        weights = change(self.classes, own, self.shown).numpy()
        squared = weights**2
        # Variance under the null hypothesis (score test), from sums over active entries only.
        variance = squared @ self._squares - 2 * self._means * (squared @ self._codes)
        variance = variance + self._means**2 * squared.sum()
        return (weights @ self._codes) / np.sqrt(np.maximum(variance, 1e-18))
