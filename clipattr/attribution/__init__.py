"""Reliance: how much an output owes to each latent.

Owns targets, the closed-form tail, methods, results, interventions and faithfulness. Start at `attribute`.
"""

from clipattr.attribution.tail import ClosedFormTail
from clipattr.attribution.targets import (
    Contrast,
    FunctionTarget,
    ImageSimilarity,
    LogOdds,
    ProbeLogit,
    Similarity,
    Target,
    VocabularyContrast,
    ZeroShot,
    as_target,
)

__all__ = [
    "ClosedFormTail",
    "Contrast",
    "FunctionTarget",
    "ImageSimilarity",
    "LogOdds",
    "ProbeLogit",
    "Similarity",
    "Target",
    "VocabularyContrast",
    "ZeroShot",
    "as_target",
]
