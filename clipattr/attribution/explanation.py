"""Explanation: one score as a sum of parts.

Owns the parts that add up to a target of one picture: each active latent, the interaction of all latents, the bias and
the error node. Every part is a difference of outputs of the spliced model. Ignores drawing. Start at `score_parts`.
"""

import math
from dataclasses import dataclass

import numpy as np

from clipattr.attribution.result import Attribution
from clipattr.errors import TargetError

# Method for explaining one score; docs/decisions/explaining_a_score.md gives the reason.
EXPLAINING = "integrated_gradients"


@dataclass(frozen=True, eq=False)
class ScoreParts:
    """One target of one picture, y, as a sum.

    `y = values.sum() + together + bias + error`, all raw.

    Attributes:
        latents, activations, values: (k,) each, largest |value| first; numbers, codes and attributions.
        together: effect of all latents together minus the sum of `values`; 0 for a method that adds up.
        bias: the target of an activation that consists of the dictionary's bias (and baseline codes, if any).
        error: change of that target by the error node. NaN where the bias by itself has no finite target; `bias` then
            includes the error node.
        y: the target. method: the attribution method. adds_up: whether `together` is zero by construction.
        flagged: whether a method that should add up left a residual above 1e-3.
    """

    latents: np.ndarray
    activations: np.ndarray
    values: np.ndarray
    together: float
    bias: float
    error: float
    y: float
    method: str
    adds_up: bool
    flagged: bool

    @property
    def total(self) -> float:
        """The sum of all parts; equal to `y` within 1e-4, as parts are float32."""
        rest = (self.together, self.bias, self.error)
        return float(self.values.sum()) + sum(part for part in rest if math.isfinite(part))


def score_parts(attribution: Attribution, *, picture: int = 0, target: int = 0) -> ScoreParts:
    """Decompose one score into parts that add up to it.

    Args:
        attribution: of a method whose values are in the target's unit.
        picture, target: which score of the attribution.

    Returns:
        `ScoreParts`, in raw units of the target.

    Raises:
        TargetError: the method only ranks latents.

    >>> import clipattr as ca
    >>> study = ca.open_study("picture-world")
    >>> att = ca.attribute(study, study.images[0], "guitar", method="integrated_gradients")
    >>> parts = score_parts(att)
    >>> abs(parts.total - parts.y) < 1e-4
    True
    """
    if attribution.unit == "rank only":
        raise TargetError(
            f"the values of {attribution.method!r} rank latents and are in no unit, so they have no sum. Use "
            f"method={EXPLAINING!r}."
        )
    latents, activations, values = (
        part.detach().cpu().double().numpy() for part in attribution.latents(picture, target)
    )
    order = np.argsort(-np.abs(values), kind="stable")
    y, base, alone, together = (
        float(part[picture, target])
        for part in (attribution.y, attribution.y_baseline, attribution.bias_alone, attribution.gap)
    )
    bias, error = (alone, base - alone) if math.isfinite(alone) else (base, math.nan)
    return ScoreParts(
        latents[order].astype(np.int64), activations[order], values[order], together, bias, error, y,
        attribution.method, attribution.adds_up, bool(attribution.flagged[picture, target]),
    )  # fmt: skip
