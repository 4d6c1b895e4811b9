"""What comes with a prompt: meanings that the evaluator sees on its pictures more often than on others.

A context, a companion, a mark, a second look of the thing: whatever a model may have learnt instead of the thing itself
must be there when the prompt is. Significance is a hypergeometric test with the false-discovery rate controlled over
all pairs of meaning and prompt; the null is that the prompt's pictures were drawn from the collection at random.
Ignores the audited model. Start at `company`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from clipattr.statistics import false_discovery


@dataclass(frozen=True)
class Company:
    """Which meanings come with which prompts.

    Attributes:
        own: (meanings, prompts) share of the prompt's pictures in which the meaning is seen; NaN without pictures.
        elsewhere: (meanings, prompts) the same share of all other pictures.
        rate: (meanings, prompts) false-discovery rate at which the pair counts as company, 0 to 1.
    """

    own: Tensor
    elsewhere: Tensor
    rate: Tensor

    def of(self, prompt: int, discovery_rate: float, least_lift: float) -> list[int]:
        """Numbers of the meanings that come with a prompt."""
        lift = self.own[:, prompt] - self.elsewhere[:, prompt]
        return (
            torch.nonzero((self.rate[:, prompt] <= discovery_rate) & (lift >= least_lift)).flatten().tolist()
        )


def company(seen: Iterable[Tensor], own: Sequence[Tensor]) -> Company:
    """Test every meaning against every prompt.

    Args:
        seen: which meaning is seen where, (pictures, some meanings) bool, block after block; none is kept.
        own: for each prompt, the numbers of its pictures.
    """
    from scipy.stats import hypergeom

    both, n_seen, total = [], [], 0
    for there in seen:
        total = len(there)
        counts = torch.stack([there[pictures].sum(0) for pictures in own], 1)
        both.append(counts.double().numpy())
        n_seen.append(there.sum(0).double().numpy())
    together, seen_in = np.concatenate(both), np.concatenate(n_seen)[:, None]
    n_own = np.array([len(pictures) for pictures in own], dtype=float)[None]
    with np.errstate(invalid="ignore", divide="ignore"):
        on_own, others = together / n_own, (seen_in - together) / (total - n_own)
    rate = false_discovery(hypergeom.sf(together - 1, total, seen_in, n_own))
    return Company(torch.from_numpy(on_own), torch.from_numpy(others), torch.from_numpy(rate))
