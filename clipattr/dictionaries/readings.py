"""Readings: does a dictionary reconstruct, and would another interpretation of the same tensors do better?

Owns the list of alternative readings. It takes any `Dictionary` and imports none, so that `Dictionary.check` can call
it. Start at `check_reading`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from clipattr.errors import DictionaryError


def readings(dictionary: Any) -> dict[str, Any]:
    """The dictionary as loaded and its usual misreadings: pre-bias, row normalisation and sign rule switched."""
    parts = dictionary._all_tensors()
    found = {"as loaded": dictionary}
    subtracts = bool(dictionary.pre_bias.any())
    if subtracts or dictionary.input_width == dictionary.width:
        other = torch.zeros_like(dictionary.pre_bias) if subtracts else dictionary.bias
        if not torch.equal(other, dictionary.pre_bias):
            name = "without pre-bias" if subtracts else "with pre-bias"
            found[name] = dictionary._rebuilt({**parts, "pre_bias": other})
    name = "without row normalisation" if dictionary.row_norm else "with row normalisation"
    found[name] = dictionary._rebuilt(parts, row_norm=None if dictionary.row_norm else "layer_norm")
    signed = dictionary.settings().get("signed")
    if signed is not None:
        changed: dict[str, Any] = {"signed": not signed}
        found["without negative codes" if signed else "with negative codes"] = dictionary._rebuilt(
            parts, **changed
        )
    return found


def unexplained(dictionary: Any, acts: Tensor, outputs: Tensor | None = None) -> float:
    """Fraction of variance unexplained: squared error over squared distance from the mean; in float64.

    Args:
        acts: (rows, input_width).
        outputs: (rows, width), what is predicted; `acts` if None.

    Raises:
        DictionaryError: fewer than 2 rows, or rows without variation.
    """
    wanted = (acts if outputs is None else outputs).float()
    total = float((wanted - wanted.mean(0)).double().square().sum())
    if len(wanted) < 2 or total == 0:
        raise DictionaryError(
            f"A check needs at least 2 different activations; got {len(wanted)} rows without variation. Give rows of "
            "several pictures."
        )
    return float((wanted - dictionary.reconstruct(acts.float())).double().square().sum()) / total


def check_reading(dictionary: Any, acts: Tensor, outputs: Tensor | None = None) -> dict[str, float]:
    """See `Dictionary.check`."""
    if dictionary.is_transcoder and outputs is None:
        raise DictionaryError(
            f"This transcoder predicts {dictionary.site} from {dictionary.input_site}: pass outputs=, the activations "
            "at the output site."
        )
    shares = {}
    for name, reading in readings(dictionary).items():
        shares[name] = unexplained(reading, acts, outputs)
        print(f"{name:28s} FVU {shares[name]:10.4f}")
    own, best = shares["as loaded"], min(shares, key=lambda name: shares[name])
    if not own <= 1:
        raise DictionaryError(
            f"As loaded, the dictionary leaves {own:.3g} times the variance of these activations unexplained, which is "
            f"worse than predicting their mean. The best reading is {best!r} with {shares[best]:.3g}. Check model, "
            f"site ({dictionary.site}) and input normalisation."
        )
    return shares
