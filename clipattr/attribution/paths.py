"""Methods that look at more than one state of the codes: integrated gradients and Shapley values.

Both hold bias and error where they are, so their values add up to `y(x) - y(all parts at their baseline)`: integrated
gradients up to a residual that is made small, sampled Shapley values exactly. Start at `integrated_gradients`.
Sources: Sundararajan et al. 2017, arXiv:1703.01365; Castro et al. 2009 (permutation sampling of Shapley values).
"""

import torch
from torch import Tensor

from clipattr.attribution.methods import register_method
from clipattr.attribution.splice import Splice

RESIDUAL = 1e-3
_MAX_STEPS = 256


def tolerated(total: Tensor) -> Tensor:
    """The residual that passes as adding up: 1e-3, or the same share of changes larger than 1."""
    return RESIDUAL * total.abs().clamp_min(1.0)


def gauss_legendre(steps: int) -> tuple[Tensor, Tensor]:
    """Places in (0, 1) and weights that sum to 1, exact for polynomials up to degree 2 · steps - 1 (float64)."""
    counts = torch.arange(1, steps, dtype=torch.float64)
    off = counts / (4 * counts**2 - 1).sqrt()
    values, vectors = torch.linalg.eigh(torch.diag(off, 1) + torch.diag(off, -1))
    return (values + 1) / 2, vectors[0].square()


def integrate(splice: Splice, steps: int) -> Tensor:
    """Integrated gradients with a fixed number of Gauss-Legendre places, (batch, parts, n)."""
    mean = None
    for place, weight in zip(*(part.tolist() for part in gauss_legendre(steps)), strict=True):
        slopes = splice.slopes(splice.reference + place * splice.changes) * weight
        mean = slopes if mean is None else mean + slopes
    assert mean is not None
    return mean * splice.changes[..., None].to(mean)


@register_method("integrated_gradients", adds_up=True)
def integrated_gradients(splice: Splice) -> Tensor:
    """Integrated gradients over the codes: from the baseline codes to the picture's, bias and error held fixed.

    Steps are doubled, from 8 to 256, until every picture's residual is below 1e-3; what remains is in the result's
    `gap`, and above 1e-3 the picture is flagged as ill-conditioned.
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
    """Shapley values of the active parts, by permutations and their reverses; (batch, parts, n).

    Args:
        permutations: how many orders of adding the parts, each also walked backwards. Slow: about
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
    """Shapley values over the active latents, 32 sampled orders and their reverses: the slow reference."""
    return shapley_values(splice, 32)
