"""Evidence: measurements of one family on the measuring half.

The effect of the latents (exact ablation) and that of the concept (pictures with it against pictures without) are
separate numbers. Intervals are Student's, over pictures without near-duplicates.
Ignores how families are found and what is decided. Start at `measured`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from clipattr.discovery.audit.base import Base, Half
from clipattr.discovery.audit.candidates import Candidate, Route
from clipattr.discovery.audit.mediators import Family, missing_of, spread_out
from clipattr.discovery.audit.subject import Side, Subject, seen_word
from clipattr.discovery.findings import Interval
from clipattr.meaning.scores import clarity_of
from clipattr.statistics import difference_interval, rate_difference, t_interval


@dataclass(frozen=True)
class Evidence:
    """What was measured for one prompt and family.

    Attributes:
        pictures: numbers of the measured pictures in the measuring half. on_own: they are the prompt's own.
        named: rate of the candidate's word where its latents fire, minus that elsewhere; 1 where the word suggested it.
        reliance: mean single-latent exact ablation summed over the family, raw cosine of the prompt's contrast.
        causal_effect: fall of the contrast when the whole family is ablated, raw cosine.
        thing: contrast of pictures that show the candidate and not the prompt, minus that of pictures of neither, raw
            cosine: the effect of the concept, not of the latents.
        beside: the same on the prompt's own pictures, with the candidate against without.
        standing: `thing` in units of the prompt's own contrast. by_text: share of it that the likeness of the two
            texts explains; NaN without a text.
        difference: rate difference between the prompt's own and other pictures, over both halves.
        shown, shown_elsewhere: share of the prompt's own and of other pictures that show the candidate.
        together: share of the measured pictures in which the evaluator sees the prompt.
        kept: share of the family's codes that is left without the candidate. alone: the family's mean code where the
            candidate occurs without the prompt, divided by that where both occur.
        presence, presence_elsewhere: share of own and other pictures on which the family is active.
        share: of the positive evidence on the measured pictures. clarity: of the family's strongest pictures.
        diversity: largest share of one answer of the audited model among the candidate's pictures elsewhere.
        alike: mean pairwise cosine of evaluator images between the prompt's shown pictures and the candidate's, over
            the mean within the two: near 1 if they look alike.
    """

    pictures: Tensor
    on_own: bool
    named: float
    reliance: Interval
    causal_effect: Interval
    thing: Interval
    beside: Interval
    standing: float
    by_text: float
    difference: Interval
    shown: float
    shown_elsewhere: float
    together: float
    kept: float
    alone: float
    presence: float
    presence_elsewhere: float
    share: float
    clarity: float
    diversity: float
    alike: float


@dataclass(frozen=True)
class Seen:
    """What a candidate's pictures say, whatever latents stand for it; fields as of `Evidence`."""

    thing: Interval
    beside: Interval
    by_text: float
    difference: Interval
    shown: float
    shown_elsewhere: float


def seen_of(base: Base, subject: Subject, family: Family) -> Seen:
    """The part of the evidence that does not depend on the family's latents."""
    there, side = family.candidate.there[1], subject.measuring
    return Seen(
        *_thing(base, subject, family),
        _difference(subject, family.candidate),
        _share(there, side.own),
        _share(there, ~side.own),
    )


def measured(base: Base, subject: Subject, family: Family) -> Evidence | None:
    """Measure one family on the half on which it was not chosen; None with too few pictures."""
    half, side, settings = base.measuring, subject.measuring, base.settings
    there, surely = family.candidate.there[1], family.candidate.surely[1]
    strength = strength_of(half, family.latents)
    active = strength > 0
    alone = surely & ~(side.clear if family.instead else side.shown | side.own)
    about = alone if family.instead else side.own & there
    if not family.instead and int((about & active).sum()) >= settings.few:
        about = about & active
    choices = [(about, not family.instead)] + ([] if family.instead else [(alone & active, False)])
    told = None
    for pictures, on_own in choices:
        if int(pictures.sum()) < settings.few:
            continue
        numbers = spread_out(torch.nonzero(pictures).flatten(), settings.most)
        effect = t_interval(_group(base, subject, half, numbers, family.latents))
        if told is None or effect.low >= settings.least_effect * subject.unit > told[2].low:
            told = numbers, on_own, effect
    if told is None:
        return None
    numbers, on_own, effect = told
    single, positive, everything = _single(base, subject, half, numbers, family.latents)
    seen = seen_of(base, subject, family)
    return Evidence(
        pictures=numbers,
        on_own=on_own,
        named=_named(base, half, family.candidate),
        reliance=t_interval(single),
        causal_effect=effect,
        thing=seen.thing,
        beside=seen.beside,
        standing=seen.thing.value / subject.unit if subject.unit > 0 else math.nan,
        by_text=seen.by_text,
        difference=seen.difference,
        shown=seen.shown,
        shown_elsewhere=seen.shown_elsewhere,
        together=_share(side.shown, about),
        kept=family.left if math.isfinite(family.left) else _kept(base, half, side, family, strength),
        alone=_alone(strength, side, there, surely),
        presence=_share(active, side.own),
        presence_elsewhere=_share(active, ~side.own),
        share=float(positive.sum() / everything.sum().clamp_min(1e-12)),
        clarity=clarity_of(base.study.seen(half.rows[strength.topk(min(20, len(half))).indices.numpy()])),
        diversity=_diversity(half, alone),
        alike=_alike(base, half, side.own & side.clear & ~there, about),
    )


def _thing(base: Base, subject: Subject, family: Family) -> tuple[Interval, Interval, float]:
    """Effect of the concept on other pictures and on the prompt's own, and the share of it that the two texts explain.

    Both halves are used, since a word is chosen by the pictures that show it, not by its effect on the contrast.
    Candidates that latents or occlusion suggested are measured on the measuring half only, since they were chosen by
    the contrast.
    """
    candidate = family.candidate
    sides = [(base.measuring, subject.measuring, candidate.there[1], candidate.surely[1])]
    if candidate.route not in (Route.LATENTS, Route.OCCLUSION):
        sides.insert(0, (base.finding, subject.finding, candidate.there[0], candidate.surely[0]))
    with_it, without, own_with, own_without = [], [], [], []
    for half, side, there, surely in sides:
        level = side.contrast
        alone = surely & ~(side.clear if family.instead else side.shown | side.own)
        neither = side.elsewhere & ~there
        if not family.instead:
            level = over_what_else(base, half, level, candidate.word, neither)
            aside = alone & (half.rival[:, 0] != (-1 if candidate.word is None else candidate.word))
            alone = aside if int(aside.sum()) >= base.settings.few else alone
        with_it.append(level[alone])
        without.append(level[neither])
        own_with.append(side.contrast[side.own & surely])
        own_without.append(side.contrast[side.own & ~there])
    thing = difference_interval(torch.cat(with_it), torch.cat(without))
    beside = difference_interval(torch.cat(own_with), torch.cat(own_without))
    _, side, there, surely = sides[-1]
    alone = surely & ~(side.clear if family.instead else side.shown | side.own)
    by_text = _by_text(
        base, subject, base.measuring, family.candidate.word, alone, side.elsewhere & ~there, thing
    )
    return thing, beside, by_text


def over_what_else(base: Base, half: Half, level: Tensor, word: int | None, among: Tensor) -> Tensor:
    """(n,) contrast minus its mean over pictures of the same main object by the evaluator, to reduce variance.

    Args:
        level: (n,) contrast. word: the candidate's, which does not count as a main object. among: (n,) bool, pictures
            without the candidate, over which the means are taken.
    """
    first, second = base.main_words(half)
    main = first if word is None else torch.where(first == word, second, first)
    main = main + 1  # pictures without a word are a group of their own
    n = len(base.study.vocabulary) + 1
    count = torch.zeros(n, dtype=torch.float64).index_add_(
        0, main[among], torch.ones(int(among.sum()), dtype=torch.float64)
    )
    total = torch.zeros(n, dtype=torch.float64).index_add_(0, main[among], level[among].double())
    overall = float(level[among].double().mean()) if among.any() else 0.0
    mean = torch.where(count >= 3, total / count.clamp_min(1), overall)
    return (level.double() - mean[main]).float()


def strength_of(half: Half, latents: tuple[int, ...]) -> Tensor:
    """(n,) summed codes of some latents."""
    return torch.from_numpy(np.asarray(half.codes_by_latent[:, list(latents)].sum(1)).ravel())


def _single(
    base: Base, subject: Subject, half: Half, numbers: Tensor, latents: tuple[int, ...]
) -> tuple[Tensor, Tensor, Tensor]:
    rows = half.rows[numbers.numpy()]
    codes = base.study.codes.rows(torch.from_numpy(rows)).to_fixed()
    effect = subject.tail(base).exact(base.acts(rows), codes)[..., 0].cpu()
    inside = torch.isin(codes.indices.long(), torch.tensor(latents)) & (codes.values != 0)
    positive = effect.clamp_min(0)
    return (effect * inside).sum(1), (positive * inside).sum(1), positive.sum(1)


def _group(base: Base, subject: Subject, half: Half, numbers: Tensor, latents: tuple[int, ...]) -> Tensor:
    rows = half.rows[numbers.numpy()]
    codes = base.study.codes.rows(torch.from_numpy(rows)).to_fixed()
    return subject.tail(base).exact_group(base.acts(rows), codes, [list(latents)])[:, 0, 0].cpu()


def _by_text(
    base: Base,
    subject: Subject,
    half: Half,
    word: int | None,
    alone: Tensor,
    neither: Tensor,
    thing: Interval,
) -> float:
    """Share of the concept's effect on the prompt that follows from the similarity of the two texts."""
    if word is None or not thing.value > 0 or not alone.any() or not neither.any():
        return math.nan
    own = base.text([base.study.vocabulary.prompts[word]])[0] - base.background
    along = float(own @ subject.column / own.square().sum().clamp_min(1e-12))
    if along <= 0:
        return 0.0
    score = base.scores(half, own)
    return float(along * (score[alone].mean() - score[neither].mean()) / thing.value)


def _kept(base: Base, half: Half, side: Side, family: Family, strength: Tensor) -> float:
    """Share of the summed codes left without the candidate: on own pictures, or on others if own ones rarely lack it.

    The evaluator misses the candidate in some pictures, so each is weighted by the certainty that it lacks the
        candidate.
    """
    there, surely = family.candidate.there[1], family.candidate.surely[1]
    missing = missing_of(base, half, family.candidate, there)
    own, alone = (side.own & surely, side.own * missing), (surely & side.elsewhere, side.elsewhere * missing)
    pairs = [(surely & ~side.clear, side.elsewhere * missing)] if family.instead else [own, alone]
    for with_it, without in pairs:
        if int(with_it.sum()) >= 3 and float(without.sum()) >= 3 and float(strength[with_it].sum()) > 0:
            left = float((strength * without).sum() / without.sum())
            return left / float(strength[with_it].mean())
    return math.nan


def _difference(subject: Subject, candidate: Candidate) -> Interval:
    """Rate of the candidate on the prompt's own pictures minus that on others, over both halves."""
    own, others = [], []
    for side, there in zip((subject.finding, subject.measuring), candidate.there, strict=True):
        own.append(there[side.own].double())
        others.append(there[~side.own].double())
    return rate_difference(torch.cat(own), torch.cat(others))


def _alone(strength: Tensor, side: Side, there: Tensor, surely: Tensor) -> float:
    """A family's mean code where the candidate occurs without the prompt, divided by that where both occur."""
    both, alone = side.own & there, surely & side.elsewhere
    if min(int(both.sum()), int(alone.sum())) < 3 or not float(strength[both].sum()) > 0:
        return math.nan
    return float(strength[alone].mean() / strength[both].mean())


def _named(base: Base, half: Half, candidate: Candidate) -> float:
    """Rate of a candidate's word where its latents fire, minus the rate where they do not."""
    if candidate.word is None or candidate.route is not Route.LATENTS:
        return 1.0
    fires = strength_of(half, candidate.latents) > 0
    seen = seen_word(base, half, candidate.word)[0].float()
    return float(seen[fires].mean() - seen[~fires].mean()) if fires.any() else 0.0


def _share(there: Tensor, among: Tensor) -> float:
    return float(there[among].float().mean()) if among.any() else math.nan


def _diversity(half: Half, alone: Tensor) -> float:
    answers = half.rival[alone, 0] if len(half) else half.rival[:0, 0]
    return float(torch.bincount(answers).max() / len(answers)) if len(answers) >= 5 else math.nan


def _alike(base: Base, half: Half, one: Tensor, other: Tensor) -> float:
    """Mean cosine between two sets of pictures by the evaluator, divided by the mean cosine within each."""
    if min(int(one.sum()), int(other.sum())) < 3:
        return math.nan
    sums = []
    for some in (one, other):
        numbers = spread_out(torch.nonzero(some).flatten(), 64).numpy()
        sums.append(base.concepts.centred(base.study.seen(half.rows[numbers])))
    within = sum(clarity_of(some) for some in sums) / 2
    return float(sums[0].mean(0) @ sums[1].mean(0)) / within if within > 1e-6 else math.nan


def is_part(family: Family) -> bool:
    """Whether a family's candidate is a part of the prompt's name."""
    return family.candidate.route is Route.PART
