"""Reliance: how much an output owes to each latent.

Owns targets, the closed-form tail, methods, results, interventions and faithfulness. Start at `attribute`.
"""

from clipattr.attribution.compute import attribute, explain_splice, mean_codes, read_site, splices
from clipattr.attribution.faithfulness import Faithfulness, randomisation, randomised
from clipattr.attribution.heatmaps import firing_map, occlusion_map
from clipattr.attribution.interactions import group_effects, pairwise
from clipattr.attribution.interventions import ablate, intervene, scale, set_to, transplant
from clipattr.attribution.maps import attribution_map, code_map
from clipattr.attribution.methods import METHODS, Method, register_method
from clipattr.attribution.paths import integrate, shapley_values
from clipattr.attribution.result import Attribution
from clipattr.attribution.splice import Splice
from clipattr.attribution.streaming import Attributions, stream
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
    "Attributions",
    "ClosedFormTail",
    "Contrast",
    "Faithfulness",
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
    "ablate",
    "as_target",
    "attribute",
    "attribution_map",
    "code_map",
    "explain_splice",
    "firing_map",
    "group_effects",
    "integrate",
    "intervene",
    "mean_codes",
    "occlusion_map",
    "pairwise",
    "randomisation",
    "randomised",
    "read_site",
    "register_method",
    "scale",
    "set_to",
    "shapley_values",
    "splices",
    "stream",
    "transplant",
]
