"""Measured: one picture's score as a sum of parts, for panels.

Owns the numbers of one measurement that are drawn together. Computes nothing that `clipattr.attribution`
does not. Start at `measure`.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class Measured:
    """One picture's attribution to one target, strongest |attribution| first.

    `latents`, `activations`, `attributions` are (k,), the last in `unit`; `fits` (k,) is the alignment with the prompt
    by the evaluator, NaN where it is not to be had. `y = attributions.sum() + together + bias + error` in `y_unit`, as
    in `ScoreParts`; the three are NaN for methods that only rank. `alone`: by latent, the exact fall of `y` when it
    alone is taken out, where that is quick to compute. `adds_up` says that `together` is zero; `splice` answers what-if
    questions.
    """

    latents: np.ndarray
    activations: np.ndarray
    attributions: np.ndarray
    fits: np.ndarray
    alone: Mapping[int, float]
    y: float
    together: float
    bias: float
    error: float
    unit: str
    y_unit: str
    method: str
    adds_up: bool
    splice: Any


def measure(splice: Any, method: str | None, fits: Callable[[np.ndarray], np.ndarray]) -> Measured:
    """Attribute the one target of a splice of one picture.

    Args:
        method: a name in `clipattr.METHODS`; None for the one whose parts add up (`EXPLAINING`).
        fits: alignment of latents (k,) with the prompt, raw.
    """
    from clipattr.attribution import EXPLAINING, explain_splice, score_parts

    found = explain_splice(splice, method or EXPLAINING)
    if found.unit == "rank only":
        latents, activations, values = _ranked(found)
        together = bias = error = math.nan
    else:
        parts = score_parts(found)
        latents, activations, values = parts.latents, parts.activations, parts.values
        together, bias, error = parts.together, parts.bias, parts.error
    return Measured(
        latents, activations, values, fits=fits(latents), alone=_alone(splice), y=float(found.y[0, 0]),
        together=together, bias=bias, error=error, unit=found.unit, y_unit=splice.target.unit, method=found.method,
        adds_up=bool(found.adds_up and not found.flagged.any()), splice=splice,
    )  # fmt: skip


def _ranked(found: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Active latents (k,), activations and values of a method that only ranks, strongest first."""
    latents, activations, values = (part.detach().cpu().double().numpy() for part in found.latents())
    order = np.argsort(-np.abs(values), kind="stable")
    return latents[order].astype(np.int64), activations[order], values[order]


def _alone(splice: Any) -> dict[int, float]:
    """By latent, the exact fall of the target when it alone is taken out; empty where that takes forward passes."""
    if splice.tail is None:
        return {}
    fall = splice.ablated()[0, :, 0].detach().cpu().double().tolist()
    return {
        int(j): value for j, a, value in zip(splice.indices[0], splice.amounts[0], fall, strict=True) if a
    }
