"""Check: does a loaded dictionary reconstruct, and would another reading of the same file do better?

Owns the list of candidate readings. Start at `check_reading`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from clipattr.dictionaries.sae import Dictionary
from clipattr.errors import DictionaryError


def readings(dictionary: Dictionary) -> dict[str, Dictionary]:
    """The dictionary as loaded and its usual misreadings: pre-bias, row normalisation and signs switched."""
    parts = dictionary._all_tensors()
    found = {"as loaded": dictionary}
    flipped = torch.zeros_like(dictionary.bias) if bool(dictionary.pre_bias.any()) else dictionary.bias
    name = "without pre-bias" if bool(dictionary.pre_bias.any()) else "with pre-bias"
    if not torch.equal(flipped, dictionary.pre_bias):
        found[name] = dictionary._rebuilt({**parts, "pre_bias": flipped})
    other = None if dictionary.row_norm else "layer_norm"
    found["without row normalisation" if other is None else "with row normalisation"] = dictionary._rebuilt(
        parts, row_norm=other
    )
    signed = dictionary.settings().get("signed")
    if signed is not None:
        changed: dict[str, Any] = {"signed": not signed}
        found["without negative codes" if signed else "with negative codes"] = dictionary._rebuilt(
            parts, **changed
        )
    return found


def check_reading(dictionary: Dictionary, acts: Tensor) -> dict[str, float]:
    """See `Dictionary.check`."""
    acts = acts.float()
    total = float((acts - acts.mean(0)).double().square().sum())
    if len(acts) < 2 or total == 0:
        raise DictionaryError(
            f"A check needs at least 2 different activations; got {len(acts)} without variation."
        )
    shares = {}
    for name, reading in readings(dictionary).items():
        shares[name] = float((acts - reading.reconstruct(acts)).double().square().sum()) / total
        print(f"{name:28s} FVU {shares[name]:10.4f}")
    own, best = shares["as loaded"], min(shares, key=lambda name: shares[name])
    if not own <= 1:
        raise DictionaryError(
            f"As loaded the dictionary leaves {own:.3g} times the variance of these activations unexplained, worse "
            f"than predicting their mean; the best reading is {best!r} with {shares[best]:.3g}. Check model, site "
            f"({dictionary.site}) and input normalisation."
        )
    return shares
