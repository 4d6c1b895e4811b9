"""Methods that evaluate several states of the codes: integrated gradients and Shapley values.

Both hold bias and error node fixed, so their values add up to `y(x) - y(all parts at their baseline)`: integrated
gradients up to a residual below `RESIDUAL`, sampled Shapley values exactly. Start at `integrated_gradients`.
Sources: Sundararajan et al. 2017, arXiv:1703.01365; Castro et al. 2009 (permutation sampling of Shapley values).
"""

import numpy as np
import torch
from torch import Tensor

from clipattr.attribution.methods import register_method
from clipattr.attribution.splice import Splice

RESIDUAL = 1e-3  # raw units; 0.1 points of a cosine
_MAX_STEPS = 256  # nodes of the quadrature after which a residual is reported instead of reduced


def tolerated(total: Tensor) -> Tensor:
    """The largest residual that counts as adding up: 1e-3, relative to |total| where that exceeds 1."""
    return RESIDUAL * total.abs().clamp_min(1.0)


def integrate(splice: Splice, steps: int) -> Tensor:
    """Integrated gradients with `steps` Gauss-Legendre nodes, (batch, parts, n)."""
    mean = None
    for node, weight in zip(*np.polynomial.legendre.leggauss(steps), strict=True):
        share = float(node + 1) / 2  # from (-1, 1) to (0, 1)
        slopes = splice.slopes(splice.reference + share * splice.changes) * (float(weight) / 2)
        mean = slopes if mean is None else mean + slopes
    assert mean is not None
    return mean * splice.changes[..., None].to(mean)


@register_method("integrated_gradients", adds_up=True)
def integrated_gradients(splice: Splice) -> Tensor:
    """Integrated gradients over the codes: from the baseline codes to the picture's, bias and error held fixed.

    Nodes are doubled, from 8 to 256, until every picture's residual is below 1e-3. The remaining residual is the
    result's `gap`; pictures whose residual exceeds 1e-3 are flagged as ill-conditioned.
    """
    total = splice.y - splice.y_reference
    steps = 8
    while True:
        result = integrate(splice, steps)
        residual = (total - result.sum(1)).abs()
        if steps >= _MAX_STEPS or bool((residual < tolerated(total)).all()):
            return result
        steps *= 2


def shapley_values(splice: Splice, permutations: int, seed: int = 0) -> Tensor:
    """Shapley values of the active parts from sampled permutations and their reverses, (batch, parts, n).

    Args:
        permutations: sampled orders of adding the parts; each is also used in reverse. Slow: about
            2 · permutations · parts outputs per picture.
    """
    generator = torch.Generator().manual_seed(seed)
    result = torch.zeros(
        splice.batch, splice.parts, splice.n_targets, dtype=splice.dtype, device=splice.acts.device
    )
    for picture in range(splice.batch):
        one = splice.only(picture)
        moving = one.changes[0].nonzero()[:, 0]
        for _ in range(permutations):
            order = moving[torch.randperm(len(moving), generator=generator).to(moving.device)]
            for walk in (order, order.flip(0)):
                amounts = one.reference[0].repeat(len(walk) + 1, 1)
                for step, part in enumerate(walk.tolist(), start=1):
                    amounts[step:, part] = one.amounts[0, part]
                values = one.states(amounts[None])[0]
                result[picture, walk] += (values[1:] - values[:-1]).to(result)
    return result / max(2 * permutations, 1)


@register_method("shapley", adds_up=True)
def shapley(splice: Splice) -> Tensor:
    """Shapley values over the active latents from 32 sampled permutations and their reverses (slow reference)."""
    return shapley_values(splice, 32)
