"""Decision: whether evidence makes a finding, why not, and which findings say the same.

Reads frozen values only; measures nothing. Start at `judge`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from clipattr.discovery.audit.candidates import NAMED, Route
from clipattr.discovery.audit.evidence import Evidence, is_part
from clipattr.discovery.audit.mediators import Family
from clipattr.discovery.audit.settings import Settings
from clipattr.discovery.audit.text_insertion import Rise
from clipattr.discovery.findings import Interval


class Reason(StrEnum):
    """What the evidence says of one family."""

    HOLDS = "holds"
    FEW = "too few pictures measure it"
    WEAK = "ablating the family does not lower the prompt enough"
    ABSENT = "it is not surely commoner on the prompt's pictures than elsewhere"
    NO_LEVEL = "pictures that show it without the prompt do not score for the prompt"
    TEXT = "the likeness of the two texts explains the score"
    NOT_ITS_OWN = "the family does not depend on it"
    NAMELESS = "its word does not tell where it fires on the measuring half"
    TOLD = "another finding says the same"


KEPT = 0.6  # share of the codes that may be left without the candidate; removal must silence half, give or take noise


@dataclass(frozen=True)
class Judged:
    """The reason, and the evidence that gave it."""

    reason: Reason
    family: Family
    evidence: Evidence | None


def judge(family: Family, evidence: Evidence | None, unit: float, settings: Settings) -> Judged:
    """Hold one family's evidence against the settings."""
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
    if evidence.kept > KEPT:
        return Reason.NOT_ITS_OWN
    if evidence.named < NAMED / 2:
        return Reason.NAMELESS
    if is_part(family):
        return Reason.HOLDS if evidence.thing.low >= settings.part_effect * unit else Reason.NO_LEVEL
    if family.instead:
        if not evidence.standing >= settings.passes or not evidence.thing.low > 0:
            return Reason.NO_LEVEL
        return Reason.TEXT if evidence.by_text >= settings.by_text else Reason.HOLDS
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
    """Whether inserting a prompt lifts it through latents that the text wakes.

    Over other words as well; or, where the prompt's own pictures carry text more often than others, like any text.

    Args:
        pictured: words for text are over-represented on the prompt's own pictures.
    """
    if rise is None or not rise.latents or rise.kept > KEPT:
        return False
    least = settings.least_rise * unit
    if rise.inserted.low >= least and rise.specific.low >= least:
        return True
    return pictured and rise.inserted.low > 0 and rise.carried.low > 0


def _by_thing(family: Family, evidence: Evidence, unit: float, settings: Settings) -> bool:
    """Whether pictures with the thing beside ones without it prove what ablation of its own latents does not.

    A model may read one thing through latents that stand for many, which are nobody's family. Then the thing must lift
    the prompt both on the prompt's pictures and without it, and ablation must not speak against it.
    """
    if family.instead or evidence.causal_effect.high <= 0:
        return False
    return evidence.thing.low >= settings.least_effect * unit and evidence.beside.low > 0


def _level_known(evidence: Evidence) -> bool:
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


def _rank(verdict: Judged) -> tuple[bool, float, tuple[int, ...]]:
    """What the evaluator sees before what only fires, then the larger effect."""
    effect: Interval | None = verdict.evidence.causal_effect if verdict.evidence else None
    by_firing = verdict.family.candidate.route is Route.LATENTS
    return by_firing, -effect.value if effect else 0.0, verdict.family.latents


# Logistic confidence, fitted on the bundled worlds (docs/decisions): constant, then one weight a feature.
WEIGHTS = (0.2, 1.2, 0.8, -1.5, 0.6)


def confidence(family: Family, evidence: Evidence, unit: float, settings: Settings) -> float:
    """Probability that removing the cause from pictures confirms a finding, 0 to 1."""
    effect = evidence.causal_effect
    sure = math.log(max(effect.low / (settings.least_effect * unit), 1e-3))
    level = math.tanh(max(evidence.thing.low, evidence.beside.low, 0.0) / max(unit, 1e-9) * 3)
    kept = 0.3 if math.isnan(evidence.kept) else evidence.kept
    by_words = float(family.candidate.route is not Route.LATENTS)
    constant, *weights = WEIGHTS
    told = zip(weights, (min(sure, 2.0), level, kept, by_words), strict=True)
    return 1 / (1 + math.exp(-constant - sum(weight * value for weight, value in told)))


def confidence_written(rise: Rise, unit: float, settings: Settings) -> float:
    """The same for an inserted text."""
    sure = math.log(max(rise.specific.low / (settings.least_rise * unit), 1e-3))
    return 1 / (1 + math.exp(-0.8 - min(sure, 2.0)))
