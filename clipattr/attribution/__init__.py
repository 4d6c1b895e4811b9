"""Reliance: how much an output owes to each latent.

Owns targets, the closed-form tail, methods, results, interventions and faithfulness. Start at `attribute`.
"""

from clipattr.attribution.attribute import attribute, explain_splice, mean_codes, splices
from clipattr.attribution.methods import METHODS, Method, register_method
from clipattr.attribution.paths import integrate, shapley_values
from clipattr.attribution.result import Attribution
from clipattr.attribution.splice import Splice
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
    "METHODS",
    "Attribution",
    "ClosedFormTail",
    "Contrast",
    "FunctionTarget",
    "ImageSimilarity",
    "LogOdds",
    "Method",
    "ProbeLogit",
    "Similarity",
    "Splice",
    "Target",
    "VocabularyContrast",
    "ZeroShot",
    "as_target",
    "attribute",
    "explain_splice",
    "integrate",
    "mean_codes",
    "register_method",
    "shapley_values",
    "splices",
]
