"""Stopping: when a test of a prompt may end before all of its pictures are spent, with the error of doing so.

Text insertion is a group-sequential test that can only be given up, never won, early: so stopping adds no false
findings. A prompt is given up at a look when its rise is too small for one whose final test would have an even chance.
Under normal rises such a prompt is given up with probability `error` at most, over all looks and tests together; see
docs/decisions/stopping.md for other distributions. Start at `hopeless`.
"""

from __future__ import annotations

import math
from functools import lru_cache

from torch import Tensor

LOOKS = 2  # looks before the last; a third saved less than half a forward pass a prompt
CONFIDENCE = 0.975  # one-sided, of the lower bound that the final test compares with the least rise


def looks_of(first: int, inserted: int) -> list[int]:
    """Numbers of pictures after which a test may be given up: `first`, twice as many, and so on.

    >>> looks_of(8, 36)
    [8, 16]
    """
    return [n for n in (first * 2**k for k in range(LOOKS)) if n < inserted]


def hopeless(values: Tensor, least: float, final: int, error: float) -> bool:
    """Whether the mean of some values is too low for the lower bound over `final` values to reach `least`.

    Given up is where the t statistic over `least` lies below the `error` quantile that it would have if the final test
    had an even chance, that is, if the mean lay above `least` by the half width of the final interval.

    Args:
        values: (n,) rises so far, n at least 3. error: probability of giving up a mean that large, under a normal
            distribution.
    """
    n, above = len(values), float(values.double().mean()) - least
    spread = float(values.double().std())
    if spread == 0:
        return above < 0
    return above * math.sqrt(n) / spread < even_chance(n, final, error)


@lru_cache(maxsize=256)
def even_chance(n: int, final: int, error: float) -> float:
    """The `error` quantile of the t statistic of `n` values if the lower bound over `final` has an even chance."""
    from scipy.stats import nct
    from scipy.stats import t as student

    even = float(student.ppf(CONFIDENCE, final - 1)) * math.sqrt(n / final)  # noncentrality of an even chance
    return float(nct.ppf(error, n - 1, even))
