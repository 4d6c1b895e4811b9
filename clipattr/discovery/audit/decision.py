"""Decision: whether the evidence suffices for a finding, the reason if not, and which findings are duplicates.

Reads frozen values only; measures nothing. Start at `judge`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from clipattr.discovery.audit.candidates import NAMED, Route
from clipattr.discovery.audit.evidence import Evidence, Seen, is_part
from clipattr.discovery.audit.mediators import Family
from clipattr.discovery.audit.settings import Settings
from clipattr.discovery.audit.text_insertion import Rise


class Reason(StrEnum):
    """What the evidence says of one family."""

    HOLDS = "holds"
    FEW = "too few pictures measure it"
    WEAK = "ablating the family does not lower the prompt enough"
    ABSENT = "it is not significantly more frequent on the prompt's pictures than elsewhere"
    NO_LEVEL = "pictures that show it without the prompt do not have a higher score for the prompt"
    TEXT = "the similarity of the two texts explains the score"
    NOT_ITS_OWN = "the family does not depend on it"
    NAMELESS = "its word does not predict where it fires on the measuring half"
    TOLD = "another finding says the same"


@dataclass(frozen=True)
class Judged:
    """A family with its evidence, and the reason for the decision."""

    reason: Reason
    family: Family
    evidence: Evidence | None


def judge(family: Family, evidence: Evidence | None, unit: float, settings: Settings) -> Judged:
    """Compare the evidence of one family with the thresholds in the settings."""
    return Judged(_reason(family, evidence, unit, settings), family, evidence)


def _reason(family: Family, evidence: Evidence | None, unit: float, settings: Settings) -> Reason:
    if evidence is None:
        return Reason.FEW
    if not (math.isfinite(unit) and unit > 0):
        return Reason.WEAK
    if evidence.causal_effect.low < settings.least_effect * unit and not _by_thing(
        family, evidence, unit, settings
    ):
        return Reason.WEAK
    if evidence.kept > settings.kept:
        return Reason.NOT_ITS_OWN
    if evidence.named < NAMED / 2:
        return Reason.NAMELESS
    if is_part(family) or (family.text and family.instead):
        return Reason.HOLDS if evidence.thing.low >= settings.part_effect * unit else Reason.NO_LEVEL
    if family.instead:
        if not evidence.standing >= settings.passes or not evidence.thing.low > 0:
            return Reason.NO_LEVEL
        return Reason.TEXT if evidence.by_text >= settings.by_text else Reason.HOLDS
    return stands_beside(evidence, settings)


def stands_beside(evidence: Evidence | Seen, settings: Settings) -> Reason:
    """What a candidate's pictures say of it as something beside the prompt, whatever its latents."""
    if not evidence.difference.low >= settings.least_difference:
        return Reason.ABSENT
    if not evidence.shown - evidence.shown_elsewhere >= settings.least_difference / 2:
        return Reason.ABSENT
    if not _level_known(evidence):
        return Reason.HOLDS
    if max(evidence.thing.low, evidence.beside.low) > 0 and not evidence.thing.value < 0:
        return Reason.HOLDS
    return Reason.NO_LEVEL


def reads(rise: Rise | None, unit: float, settings: Settings, pictured: bool = False) -> bool:
    """Whether inserting a prompt as text raises its score through latents that the text activates.

    The rise must exceed that of other words. Where the prompt's own pictures show text more often than others, any rise
    is enough.

    Args:
        pictured: words for text are over-represented on the prompt's own pictures.
    """
    if rise is None or not rise.latents or rise.kept > settings.kept:
        return False
    least = settings.least_rise * unit
    if rise.inserted.low >= least and rise.specific.low >= least:
        return True
    return pictured and rise.inserted.low > 0 and rise.carried.low > 0


def _by_thing(family: Family, evidence: Evidence, unit: float, settings: Settings) -> bool:
    """Whether pictures with and without the candidate prove an effect that ablation of the family shows too weakly.

    A model may represent the candidate by latents that respond to many concepts and belong to no family. Then the
    candidate must raise the prompt's score on the prompt's pictures and on others, and ablation must not contradict it.
    Three weaker proofs need latents whose ablation lowers the score as well, by however little, and on the prompt's own
    pictures if the candidate is beside it: a rise that is significant and of the least size in both places; one in the
    prompt's own place of which half a prompt's contrast is certain; and one beside it whose latents occlusion chose.
    """
    least, one, other = settings.least_effect * unit, evidence.thing, evidence.beside
    lowers = evidence.causal_effect.low > 0
    if family.instead:
        return lowers and one.low >= settings.passes * unit
    lowers &= evidence.on_own
    if lowers and min(one.low, other.low) > 0 and min(one.value, other.value) >= least:
        return True
    if evidence.causal_effect.high < 0 or (math.isfinite(family.left) and not lowers):
        return False
    return (one.low >= least and other.high > 0) or (other.low >= least and one.high > 0)


def _level_known(evidence: Evidence | Seen) -> bool:
    return math.isfinite(evidence.thing.low) or math.isfinite(evidence.beside.low)


def told_once(kept: Sequence[Judged]) -> list[Judged]:
    """Findings of one prompt without those that share half of their latents, or their word, with a stronger one."""
    made: list[Judged] = []
    for verdict in sorted(kept, key=_rank):
        latents = set(verdict.family.latents)
        label = verdict.family.candidate.label
        if any(
            2 * len(latents & set(other.family.latents)) >= len(latents)
            or (label is not None and label == other.family.candidate.label)
            for other in made
        ):
            continue
        made.append(verdict)
    return made


def _rank(verdict: Judged) -> tuple[float, ...]:
    """Sort key: parts of the prompt's name, then words, then latents; within these by rate difference.

    A family found by how its latents fire over many pictures precedes one of the same word found by occluding a few.
    """
    evidence, route = verdict.evidence, verdict.family.candidate.route
    if evidence is None:
        return (3.0,)
    order = 0.0 if route is Route.PART else 2.0 if route is Route.LATENTS else 1.0
    common, occluded = -round(evidence.difference.value, 6), float(math.isfinite(verdict.family.left))
    return order, common, occluded, -evidence.causal_effect.value, *map(float, verdict.family.latents)


# Logistic confidence, fitted on the findings of the worlds that constants are chosen on (docs/decisions/audit.md):
# constant, then the weights of: it replaces the prompt's object; share of the codes left without it above a fifth;
# lower bound of how much more frequent it is on the prompt's pictures, where it is beside the object.
WEIGHTS = (1.1, 2.2, -1.9, 2.0)
LEFT = 0.2  # share of the codes left without the candidate up to which confidence does not fall
# The same for text that is over-represented on the prompt's pictures: constant, then the weights of three lower
# bounds, in units of the prompt's own contrast: of pictures with text elsewhere, of the prompt's own with text against
# without, and of inserting the prompt as text.
TEXT_WEIGHTS = (0.1, 2.1, 4.5, 2.2)
# To which they are limited, the least also where nothing is known: own pictures that show text in place of the object
# score lower than the others, which denies nothing.
BOUNDS = ((0.0, 0.8), (-0.2, 0.3), (-0.05, 0.2))


def signs_of(family: Family, evidence: Evidence) -> tuple[float, float, float]:
    """What the confidence of a finding depends on, in the order of `WEIGHTS`."""
    left = 0.0 if math.isnan(evidence.kept) else max(0.0, evidence.kept - LEFT)
    more = evidence.difference.low
    return float(family.instead), left, 0.0 if family.instead or math.isnan(more) else max(0.0, more)


def confidence(family: Family, evidence: Evidence, unit: float, rise: Rise | None = None) -> float:
    """Probability that removing the cause from pictures confirms a finding, 0 to 1.

    Args:
        unit: raw cosine, the prompt's own contrast. rise: what inserting the prompt as text does, for text.
    """
    if family.text:
        inserted = rise.inserted.low / unit if rise is not None and rise.latents else 0.0
        lows = (evidence.thing.low / unit, evidence.beside.low / unit, inserted)
        constant, *weights = TEXT_WEIGHTS
        terms = [
            weight * (least if math.isnan(low) else min(max(low, least), most))
            for weight, low, (least, most) in zip(weights, lows, BOUNDS, strict=True)
        ]
    else:
        constant, *weights = WEIGHTS
        terms = [weight * value for weight, value in zip(weights, signs_of(family, evidence), strict=True)]
    return 1 / (1 + math.exp(-constant - sum(terms)))


def confidence_written(rise: Rise, unit: float, settings: Settings) -> float:
    """Confidence of a finding by text insertion: 0.69 where the text raises the score, more where it exceeds other
    words."""
    sure = math.log(max(rise.specific.low / (settings.least_rise * unit), 1.0))
    return 1 / (1 + math.exp(-0.8 - min(sure, 2.0)))
