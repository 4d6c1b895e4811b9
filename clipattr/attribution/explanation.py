"""Explanation: one score as a sum of parts.

Owns the parts that add up to a target of one picture: each active latent, what several latents do together, the bias
and the error node. Every part is a difference of outputs of the spliced model. Ignores drawing. Start at
`score_parts`.
"""

import math
from dataclasses import dataclass

import numpy as np

from clipattr.attribution.result import Attribution
from clipattr.errors import TargetError

EXPLAINING = (
    "integrated_gradients"  # the method by which one score is explained; docs/decisions/explaining_a_score.md
)
CHECK = 1e-4  # raw units: a sum of float32 parts is equal to the score within this


@dataclass(frozen=True, eq=False)
class ScoreParts:
    """One target of one picture, y, as a sum.

    `y = values.sum() + together + bias + error`, all raw.

    Attributes:
        latents, activations, values: (k,) each, largest |value| first; what the method credits each latent with.
        together: what all latents change together beyond the sum of `values`; 0 for a method that adds up.
        bias: the target of an activation that holds the dictionary's bias alone (and the baseline codes, if any).
        error: what the error node changes of that. The two are one number in `bias`, and `error` is NaN, where an
            activation of the bias alone has no finite target.
        y: the target. method: who credited the latents. adds_up: whether `together` is zero by construction.
        flagged: a method that should add up did not here.
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
        """The sum of all parts; equal to `y` within `CHECK`."""
        rest = (self.together, self.bias, self.error)
        return float(self.values.sum()) + sum(part for part in rest if math.isfinite(part))


def score_parts(attribution: Attribution, *, picture: int = 0, target: int = 0) -> ScoreParts:
    """The parts that one score is the sum of.

    Args:
        attribution: of a method in the target's unit.

    Raises:
        TargetError: the method only ranks.

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
