"""Reliance: how much an output depends on each latent.

Owns targets, the closed-form tail, methods, results, interventions and faithfulness. Start at `attribute`.
"""

from clipattr.attribution.compute import attribute, explain_splice, mean_codes, read_site, splices
from clipattr.attribution.explanation import EXPLAINING, ScoreParts, score_parts
from clipattr.attribution.faithfulness import Faithfulness, randomisation, randomised
from clipattr.attribution.heatmaps import LatentMaps, firing_map, latent_maps, occlusion_map
from clipattr.attribution.interactions import group_effects, pairwise
from clipattr.attribution.interventions import ablate, intervene, scale, set_to, transplant
from clipattr.attribution.maps import attribution_map, code_map
from clipattr.attribution.methods import METHODS, Method, register_method
from clipattr.attribution.paths import integrate, shapley_values
from clipattr.attribution.result import Attribution
from clipattr.attribution.splice import Splice
from clipattr.attribution.streaming import Attributions, stream
from clipattr.attribution.tail import ClosedFormTail
from clipattr.attribution.target import Target
from clipattr.attribution.targets import (
    Contrast,
    FunctionTarget,
    ImageSimilarity,
    LogOdds,
    ProbeLogit,
    Similarity,
    VocabularyContrast,
    ZeroShot,
    as_target,
)

__all__ = [
    "EXPLAINING",
    "METHODS",
    "Attribution",
    "Attributions",
    "ClosedFormTail",
    "Contrast",
    "Faithfulness",
    "FunctionTarget",
    "ImageSimilarity",
    "LatentMaps",
    "LogOdds",
    "Method",
    "ProbeLogit",
    "ScoreParts",
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
    "latent_maps",
    "mean_codes",
    "occlusion_map",
    "pairwise",
    "randomisation",
    "randomised",
    "read_site",
    "register_method",
    "scale",
    "score_parts",
    "set_to",
    "shapley_values",
    "splices",
    "stream",
    "transplant",
]
