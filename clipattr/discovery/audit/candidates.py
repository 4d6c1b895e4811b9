"""Candidates: words and latents that may raise a prompt's score in place of its object, before anything is measured.

Three routes, all computed on the finding half by sparse products: words that the evaluator sees on the prompt's own
pictures more often than elsewhere; latents that fire there more often than elsewhere and also for many other concepts,
for which no evaluator is needed; and parts of the prompt's name. Other names of the prompt, and words that look like
it, are excluded. Start at `candidates_of`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clipattr.discovery.audit.base import Base, Half
from clipattr.discovery.audit.names import constituents
from clipattr.discovery.audit.subject import Subject, seen_word, shows
from clipattr.statistics import false_discovery

SAME_FIRINGS = 0.3  # overlap (intersection over union) of firings from which two latents are one candidate
NAMED = 0.4  # rate difference from which a word names what latents fire for


class Route(StrEnum):
    """Why a candidate was considered."""

    WORD = "co-occurrence"
    LATENTS = "latents that co-occur"
    PART = "part of the name"
    TEXT = "written"
    OCCLUSION = "occlusion"


@dataclass(frozen=True)
class Candidate:
    """A concept that may raise a prompt's score.

    Attributes:
        route: why. label: its name; None where no word fits. word: its number in the vocabulary, if it has one.
        there: (n,) bool for the finding and for the measuring half: pictures on which it is seen, or fires. surely:
            those for which this is certain.
        latents: those that suggested it; empty where a word did. text: whether its word means writing.
        difference: rate difference between the prompt's own and other pictures. chance: adjusted p-value of that.
    """

    route: Route
    label: str | None
    word: int | None
    there: tuple[Tensor, Tensor]
    surely: tuple[Tensor, Tensor]
    latents: tuple[int, ...]
    difference: float
    chance: float
    text: bool = False


def rates(
    table: Any, own: Tensor, total: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each column: on how many own pictures it is positive, on how many at all, and the rate difference.

    Args:
        table: (n, columns) CSR of zero and one. own: (n,) bool. total: (columns,) sums of the table, if at hand.
    """
    n, n_own = table.shape[0], int(own.sum())
    both = np.asarray(table[np.flatnonzero(own.numpy())].sum(0)).ravel()
    total = np.asarray(table.sum(0)).ravel() if total is None else total
    return both, total, both / max(1, n_own) - (total - both) / max(1, n - n_own)


def over_represented(
    table: Any, own: Tensor, least: float, rate: float, few: int, total: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Columns that are positive on own pictures more often than elsewhere, the largest difference first.

    P-values are hypergeometric, and the false-discovery rate is controlled over all columns. Columns that differ too
    little are not tested, but count in this correction.

    Returns:
        columns, their rate difference, their adjusted p-value.
    """
    from scipy.stats import hypergeom

    both, total, difference = rates(table, own, total)
    tested = np.flatnonzero((difference >= least) & (both >= min(few, 3)))
    chance = np.ones(table.shape[1])
    chance[tested] = hypergeom.sf(both[tested] - 1, table.shape[0], total[tested], int(own.sum()))
    adjusted = false_discovery(chance)[tested]
    kept = adjusted <= rate
    order = np.argsort(-difference[tested[kept]], kind="stable")
    return tested[kept][order], difference[tested[kept]][order], adjusted[kept][order]


def positive(table: Any, bound: float) -> Any:
    """The table with 1 where it exceeds a bound, as float32 in its own layout."""
    some = table.copy()
    some.data = (some.data > bound).astype(np.float32)
    some.eliminate_zeros()
    return some


def candidates_of(base: Base, subject: Subject, tables: Tables) -> list[Candidate]:
    """All candidates of one prompt: parts of its name, words, latents."""
    own = subject.finding.own
    if int(own.sum()) < base.settings.few:
        return _parts(base, subject)
    parts = _parts(base, subject)
    named = {found.word for found in parts if found.word is not None}
    words = [found for found in _words(base, subject, tables) if found.word not in named]
    return [*parts, *words, *_latents(base, subject, tables)]


@dataclass(frozen=True)
class Tables:
    """Binary tables of the finding half: on which pictures each word is seen and each latent fires."""

    seen: Any
    fires: Any

    @cached_property
    def totals(self) -> tuple[np.ndarray, np.ndarray]:
        """On how many pictures each word is seen, and each latent fires."""
        seen, fires = (np.asarray(table.sum(0)).ravel() for table in (self.seen, self.fires))
        return seen, fires

    @classmethod
    def of(cls, base: Base) -> Tables:
        return cls(positive(base.finding.seen, base.settings.seen), positive(base.finding.codes, 0.0))


def _words(base: Base, subject: Subject, tables: Tables) -> list[Candidate]:
    settings = base.settings
    found = over_represented(
        tables.seen, subject.finding.own, settings.least_difference, settings.discovery_rate, settings.few,
        tables.totals[0],
    )  # fmt: skip
    made: list[Candidate] = []
    for word, difference, chance in zip(*found, strict=True):
        if int(word) in subject.same or len(made) == settings.candidates:
            continue
        label = base.study.vocabulary.words[int(word)]
        where = _where(base, int(word))
        made.append(Candidate(Route.WORD, label, int(word), *where, (), float(difference), float(chance)))
    return made


def _where(base: Base, word: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Where a word is seen, and surely seen, on both halves."""
    finding, measuring = (seen_word(base, half, word) for half in (base.finding, base.measuring))
    return (finding[0], measuring[0]), (finding[1], measuring[1])


def _parts(base: Base, subject: Subject) -> list[Candidate]:
    """Words that are a part of the prompt's name; those of an open compound need not be in the vocabulary."""
    words = base.study.vocabulary.words
    made = []
    spelled = constituents([subject.prompt.text], words, base.numbers)
    for word in dict.fromkeys(int(base.concepts.stands[part]) for part in spelled):
        if word == subject.word:
            continue
        made.append(Candidate(Route.PART, words[word], word, *_where(base, word), (), math.nan, math.nan))
    named = {(found.label or "").casefold() for found in made}
    parts = subject.prompt.text.split()
    for part in dict.fromkeys(parts if len(parts) > 1 else ()):
        if len(part) < 3 or part.casefold() in named or base.word_of(part) is not None:
            continue
        if not base.study.evaluator.knows([part], base.templates):
            continue
        text = base.study.evaluator.encode_text([part], templates=base.templates).float().cpu()
        meant = base.concepts.texts(text)[0]
        if float(meant @ subject.meant) >= base.settings.same_text / 2:
            continue
        there = shows(base, base.finding, meant)[0], shows(base, base.measuring, meant)[0]
        made.append(Candidate(Route.PART, part, None, there, there, (), math.nan, math.nan))
    return made


def _latents(base: Base, subject: Subject, tables: Tables) -> list[Candidate]:
    settings, side, half = base.settings, subject.finding, base.finding
    found, difference, chance = over_represented(
        tables.fires, side.own, settings.least_difference, settings.discovery_rate, settings.few,
        tables.totals[1],
    )  # fmt: skip
    firing = positive(half.codes_by_latent[:, found], 0.0)
    kept, usual = [], float(side.shown[~side.own].float().mean())
    for place in range(len(found)):
        on = torch.zeros(len(half), dtype=torch.bool)
        on[
            torch.from_numpy(firing.indices[firing.indptr[place] : firing.indptr[place + 1]].astype(np.int64))
        ] = True
        elsewhere = on & ~side.own
        if int(elsewhere.sum()) < 2 * settings.few:
            continue
        if float(side.shown[elsewhere].float().mean()) > usual + settings.spread / 3:
            continue  # fires for the prompt itself in pictures of other objects
        answers = half.rival[elsewhere, 0]
        if torch.bincount(answers).max() > settings.spread * len(answers):
            continue
        kept.append((place, elsewhere))
        if len(kept) == settings.candidates:
            break
    groups = _grouped([elsewhere for _, elsewhere in kept])
    made = []
    for group in groups:
        places = [kept[member][0] for member in group]
        latents = tuple(int(found[place]) for place in places)
        there = surely = fires(base.finding, latents), fires(base.measuring, latents)
        label, word = named(base, tables, there[0] & ~side.own)
        best = min(places)
        if word in subject.same or (word is None and difference[best] <= settings.nameless):
            continue
        if (
            word is not None
        ):  # the word's pictures are better evidence than those of the latents that suggested it
            there, surely = _where(base, word)
        made.append(
            Candidate(
                Route.LATENTS,
                label,
                word,
                there,
                surely,
                latents,
                float(difference[best]),
                float(chance[best]),
            )  # fmt: skip
        )
    return made


def _grouped(firings: list[Tensor]) -> list[list[int]]:
    """Latents that fire on much the same pictures, in the order of the first of each group."""
    groups: list[list[int]] = []
    for number, one in enumerate(firings):
        for group in groups:
            other = firings[group[0]]
            if float((one & other).sum()) >= SAME_FIRINGS * float((one | other).sum()):
                group.append(number)
                break
        else:
            groups.append([number])
    return groups


def fires(half: Half, latents: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(np.asarray(half.codes_by_latent[:, list(latents)].sum(1)).ravel() > 0)


def named(base: Base, tables: Tables, there: Tensor) -> tuple[str | None, int | None]:
    """The word whose rate in these pictures exceeds its rate elsewhere most; None below `NAMED`."""
    if int(there.sum()) < base.settings.few:
        return None, None
    difference = rates(tables.seen, there, tables.totals[0])[2]
    best = int(np.argmax(difference))
    if difference[best] < NAMED:
        return None, None
    return base.study.vocabulary.words[best], best
