"""Mediators: latents that respond to a candidate and raise the prompt's score, chosen on the finding half.

A candidate is *beside* the prompt (a context, a companion, a mark) or *instead* of it (another sense, another look, a
part of its name). Owns this distinction and the choice of latents; `selectivity.py` decides which latents respond to a
concept. Start at
`families_of`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from clipattr.discovery.audit.base import Base, Half
from clipattr.discovery.audit.candidates import Candidate, Route
from clipattr.discovery.audit.occlusion import Looked, lost_of, silent
from clipattr.discovery.audit.selectivity import (
    INSTEAD,
    LOOKALIKE,
    Meeting,
    Standing,
    families_apart,
    stands_for,
)
from clipattr.discovery.audit.subject import Side, Subject
from clipattr.discovery.encoded import exact_sums

BESIDE = 0.5  # least share of own pictures with the candidate in which the evaluator sees the prompt too


@dataclass(frozen=True)
class Family:
    """Latents through which a candidate raises the prompt's score.

    Attributes:
        candidate: that the latents respond to. latents: largest effect first. carried: sum of their single-latent
            ablations, raw cosine. instead: whether the candidate replaces the prompt's object. reason: how they were
            chosen.
        left: share of its codes that occluding the candidate leaves; NaN where occlusion did not choose it.
    """

    candidate: Candidate
    latents: tuple[int, ...]
    carried: float
    instead: bool
    reason: str
    left: float = math.nan

    @property
    def text(self) -> bool:
        """Whether the candidate is writing itself."""
        return self.candidate.text


def meetings_of(side: Side, there: Tensor, surely: Tensor, part: bool, missing: Tensor) -> list[Meeting]:
    """How a candidate may occur with a prompt on one half: beside its object, in its place, or both.

    It is not beside the object if the evaluator confuses the two, since similar objects are seen in the same pictures.
    A confusion shows on the candidate's other pictures, in which the evaluator sees the prompt as well.

    Args:
        there, surely: (n,) bool, pictures that show the candidate, and certainly do. part: whether it is a part of the
            prompt's name, and therefore in its object's place.
        missing: (n,) certainty that a picture lacks it, 0 to 1.
    """
    elsewhere = there & ~side.own
    alike = float(side.clear[elsewhere].float().mean()) if int(elsewhere.sum()) >= 5 else 0.0
    made = []
    in_place = part or (side.own.any() and float((there & ~side.clear)[side.own].float().mean()) >= INSTEAD)
    if in_place:
        alone = surely & ~side.clear
        own = side.own | alone if part else side.own
        made.append(Meeting(own, alone, side.clear & ~there, (~there).double(), True))
    together = side.own & there
    beside = together.any() and float(side.shown[together].float().mean()) >= BESIDE
    if not part and beside and alike < LOOKALIKE:
        made.append(Meeting(side.own, there, side.clear, missing, False))
    return made


def where_carried(side: Side, meeting: Meeting) -> Tensor:
    """(n,) bool: pictures on which a candidate may raise the prompt's score."""
    if meeting.instead:
        return meeting.meaning & ~meeting.prompt
    return side.own & meeting.meaning


def carried_by(base: Base, subject: Subject, half: Half, pictures: Tensor) -> Tensor:
    """(latents,) mean exact single-latent ablation of the prompt's contrast over some pictures, raw cosine."""
    numbers = spread_out(torch.nonzero(pictures).flatten(), base.settings.most)
    rows = half.rows[numbers.numpy()]
    codes = base.study.codes.rows(torch.from_numpy(rows))
    return exact_sums(subject.tail(base), base.acts(rows), codes)[0][:, 0] / max(len(rows), 1)


def spread_out(numbers: Tensor, n: int) -> Tensor:
    """At most `n` of some numbers, evenly spread."""
    if len(numbers) <= n:
        return numbers
    return numbers[torch.from_numpy(np.linspace(0, len(numbers) - 1, n).astype(np.int64))]


def missing_of(base: Base, half: Half, candidate: Candidate, there: Tensor) -> Tensor:
    """(n,) certainty that a picture lacks a candidate, as the evaluator misses it in some pictures that show it."""
    if candidate.word is None or int(there.sum()) < base.settings.few:
        return (~there).double()
    cosine = base.along(half, base.concepts.words[candidate.word])
    usual = cosine[there].mean().clamp_min(1e-6)
    return torch.where(there, 0.0, (1 - cosine / usual).clamp(0, 1)).double()


def families_of(base: Base, subject: Subject, candidates: Sequence[Candidate]) -> list[Family]:
    """The families of a prompt, one for each candidate that has latents of its own."""
    half, side, settings = base.finding, subject.finding, base.settings
    enough = settings.least_effect * subject.unit
    made: list[Family] = []
    # Words and latents are assigned apart: a latent may respond to a word and also have suggested a candidate.
    for by_firing, instead in ((False, True), (False, False), (True, True), (True, False)):
        standing: dict[int, Standing] = {}
        carried: dict[int, Tensor] = {}
        for number, candidate in enumerate(candidates):
            if (candidate.route is Route.LATENTS) is not by_firing:
                continue
            there = candidate.there[0]
            missing = missing_of(base, half, candidate, there)
            for meeting in meetings_of(
                side, there, candidate.surely[0], candidate.route is Route.PART, missing
            ):
                pictures = where_carried(side, meeting)
                if meeting.instead is not instead or int(pictures.sum()) < settings.few:
                    continue
                some = stands_for(half.codes, meeting, half.sums)
                if candidate.latents:
                    some = _among(some, candidate.latents)
                standing[number] = some
                carried[number] = carried_by(base, subject, half, pictures).float()
        for family in families_apart(0, standing, carried, enough) if standing else ():
            latents = tuple(family.latents)
            made.append(Family(candidates[family.word], latents, family.carried, instead, family.reason))
    return made


def silenced_family(base: Base, subject: Subject, looked: Looked, candidate: Candidate) -> Family | None:
    """Latents that raise the prompt's score and become inactive where the candidate, but not the prompt, is
    occluded."""
    half, own = base.finding, subject.finding.own & candidate.there[0]
    if candidate.word is None or int(own.sum()) < base.settings.few:
        return None
    carried = carried_by(base, subject, half, own).float()
    places = looked.places(lost_of(base, looked, candidate.word), base.settings)
    latents, left = silent(looked, places, carried, base.settings.silent)
    if not latents:
        return None
    return Family(candidate, latents, float(carried[list(latents)].sum()), False, "occlusion", left)


def _among(standing: Standing, latents: Sequence[int]) -> Standing:
    kept = np.zeros(len(standing.fits), dtype=bool)
    kept[list(latents)] = True
    return Standing(standing.fits & kept, standing.clearer, standing.purely & kept)
