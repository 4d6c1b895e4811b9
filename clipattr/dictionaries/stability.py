"""Stability: how alike two dictionaries from different seeds are.

Owns the matching of directions one to one. Start at `stability`.
"""

from __future__ import annotations

from clipattr.dictionaries.sae import Dictionary
from clipattr.errors import DictionaryError


def stability(one: Dictionary, other: Dictionary) -> float:
    """Mean cosine between the directions of two dictionaries, matched one to one so that it is largest (Hungarian).

    Raises:
        DictionaryError: other shapes, or more latents than can be matched (8,192; match a sample of them).
    """
    if one.decoder.shape != other.decoder.shape or one.n_latents > 8192:
        raise DictionaryError(
            f"Stability compares dictionaries of one shape with at most 8192 latents; got {tuple(one.decoder.shape)} "
            f"and {tuple(other.decoder.shape)}."
        )
    from scipy.optimize import linear_sum_assignment

    cosines = (one.decoder @ other.decoder.T).cpu().numpy()
    rows, columns = linear_sum_assignment(cosines, maximize=True)
    return float(cosines[rows, columns].mean())
