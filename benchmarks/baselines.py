"""Simpler ways to suspect reliances, each with as many suspects as the audit has findings.

The ways themselves are in `world_kit/simpler.py`. Start at `BASELINES`.
"""

from __future__ import annotations

from collections.abc import Callable

from world_kit.simpler import Looks, Suspect, activation, activation_lens, logit_lens, low_alignment

import clipattr as ca
from clipattr.discovery.findings import Finding
from clipattr.statistics import Interval

NOTHING = Interval(0.0, 0.0, 0.0)


def _named(way: Callable[[Looks, int], list[Suspect]]) -> Callable[[ca.Study, int], list[Finding]]:
    """A simpler way as a function of a study and a number, over the study's words."""

    def suspects(study: ca.Study, n: int) -> list[Finding]:
        found = way(Looks(study, list(study.vocabulary.words)), n)
        return [
            Finding(
                one.prompt, one.latents or (), one.label, "unknown", 0.0, NOTHING, NOTHING, 0.0, 0.0, 0.0, 0.0
            )
            for one in found
        ]

    return suspects


BASELINES = {
    "low_alignment": _named(low_alignment),
    "activation": _named(activation),
    "logit_lens": _named(logit_lens),
    "activation_lens": _named(activation_lens),
}
