"""Scatter: how the differences between two models' scores vary over words and prompts without a cause.

Any two trainings differ, so the difference by one word is judged against that by all others. Owns the differences of
one prompt and their scatter; ignores which of them are told (`rises.py`). Start at `differences` and `Scatter`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

FEW = 5  # pictures with and without a word below which a group says nothing
MEDIAN = 0.6745  # median of the absolute value of a standard normal variable
ENOUGH = 20  # rises from which a word, a prompt or a group of pictures has a scatter of its own
AGREE = 10  # pictures that the variance without a word counts for, in the variance with it
PRIOR = 20  # prompts of its own that the scatter of all words counts for, in the scatter of one word


@dataclass(frozen=True)
class Differences:
    """Change of the contrast with each word minus that without, on one group of pictures; (words,) each.

    Attributes:
        rise: raw cosine, NaN with fewer than `FEW` pictures on either side. error: its standard error. n:
            pictures with the word.
    """

    rise: np.ndarray
    error: np.ndarray
    n: np.ndarray


@dataclass(frozen=True)
class Compared:
    """One prompt of a comparison; arrays are (words,).

    Attributes:
        beside, elsewhere: differences on the prompt's pictures, of either model, and on others. candidate: bool.
        allowed: bool, the word is no other name of the prompt.
    """

    name: str
    beside: Differences
    elsewhere: Differences
    candidate: np.ndarray
    allowed: np.ndarray


def differences(change: np.ndarray, among: np.ndarray, seen: Any, sure: Any) -> Differences:
    """Mean change where a word is surely seen (or seen, if that is rare) minus that where it is not seen.

    Args:
        change: (n,). among: (n,) bool. seen, sure: (n, words) CSR of 0 and 1.
    """

    def sums(table: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        inside = among.astype(np.float64)
        return table.T @ inside, table.T @ (change * inside), table.T @ (change**2 * inside)

    every = sums(seen)
    n, total, squares = (np.where(sums(sure)[0] >= FEW, a, b) for a, b in zip(sums(sure), every, strict=True))
    picked = change[among]
    rest = (len(picked) - every[0], picked.sum() - every[1], (picked**2).sum() - every[2])
    with np.errstate(divide="ignore", invalid="ignore"):
        rise = total / n - rest[1] / rest[0]
        one, other = (np.maximum(q - t**2 / m, 0) / (m - 1) for m, t, q in ((n, total, squares), rest))
        # A few pictures may happen to agree: their variance is drawn towards that of the others.
        one = ((n - 1) * one + AGREE * other) / (n - 1 + AGREE)
        error = np.sqrt(one / n + other / rest[0])
    known = (n >= FEW) & (rest[0] >= FEW)
    return Differences(np.where(known, rise, np.nan), np.where(known, error, np.nan), n)


def scatter_of(rise: np.ndarray, error: np.ndarray) -> float:
    """Deviation of rises over words beyond their own errors: the median of |rise|/√(error² + scatter²) is normal's.

    0 if the errors alone explain the rises, or without any.
    """
    known = np.isfinite(rise) & np.isfinite(error)
    size, error = np.abs(rise[known]), error[known]
    if not len(size) or not size.any():
        return 0.0
    low, high = 0.0, float(size.max()) / MEDIAN + 1e-12
    for _ in range(60):
        middle = (low + high) / 2
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.nan_to_num(size / np.hypot(error, middle), nan=0.0, posinf=np.inf)
        low, high = (middle, high) if np.median(ratio) > MEDIAN else (low, middle)
    return low


@dataclass(frozen=True)
class Scatter:
    """(words,) deviation that the rise by a word has between two trainings, on a prompt's pictures and on others.

    A word that fills the picture or names another prompt moves many prompts, a mark or a background moves few: the
    scatter of a word is that over the prompts, drawn towards that over all words. `shared`: correlation of the two.
    """

    beside: np.ndarray
    elsewhere: np.ndarray
    shared: float = 1.0

    @classmethod
    def of(cls, prompts: Sequence[Compared]) -> Scatter:
        allowed = [one.allowed for one in prompts]
        every = pooled([one.elsewhere for one in prompts], allowed)[0]
        near, few = pooled([one.beside for one in prompts], allowed)
        near = near if few >= ENOUGH else max(near, every)
        if not prompts:
            return cls(np.zeros(0), np.zeros(0))
        rise, error = (
            np.stack([getattr(one.elsewhere, name) for one in prompts]) for name in ("rise", "error")
        )
        rise = np.where(np.stack(allowed), rise, np.nan)
        known = np.isfinite(rise).sum(0)
        words = np.array([scatter_of(rise[:, j], error[:, j]) for j in range(rise.shape[1])])
        # Few prompts say little of a word, so the scatter of all words counts like `PRIOR` prompts of its own.
        words = np.sqrt((PRIOR * every**2 + known * words**2) / (PRIOR + known))
        beside = near * (words / every if every > 0 else np.ones_like(words))
        both = np.where(np.stack(allowed), np.stack([one.beside.rise for one in prompts]), np.nan)
        with np.errstate(divide="ignore", invalid="ignore"):
            return cls(beside, words, _correlation(both / beside, rise / words))


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    """How far two standardised values move together, 0 to 1, robustly; 1 if few are known.

    Their errors are independent, so the covariance follows from the deviations of sum and difference (Gnanadesikan and
    Kettenring 1972, Biometrics 28).
    """
    known = np.isfinite(one) & np.isfinite(other)
    if known.sum() < ENOUGH:
        return 1.0
    plus, minus = (np.median(np.abs(one[known] + sign * other[known])) / MEDIAN for sign in (1, -1))
    return float(np.clip((plus**2 - minus**2) / 4, 0, 1))


def pooled(groups: Sequence[Differences], allowed: Sequence[np.ndarray]) -> tuple[float, int]:
    """Scatter of the differences of several prompts, and how many there are."""
    rise = [np.where(some, group.rise, np.nan) for group, some in zip(groups, allowed, strict=True)]
    flat = np.concatenate([*rise, np.zeros(0)])
    return scatter_of(flat, np.concatenate([*(group.error for group in groups), np.zeros(0)])), int(
        np.isfinite(flat).sum()
    )
