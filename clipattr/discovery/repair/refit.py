"""Refit: a class's weights fitted again on balanced pictures, as near to the old ones as they allow.

Owns the fit; takes plain tensors. Ignores studies and findings (`repair.py`) and how a concept's direction is found
(`directions.py`). Start at `refitted`.

Erasure (`erasure.py`) makes a class's scores ignore a concept, whether or not that helps. Here the scores are fitted:
own and other pictures count alike, each set three times: as it is, with the concept put into every picture, and with it
taken out, by moving embeddings along the concept's direction. A ridge in the pictures' own covariance keeps the scores
near the old ones. The idea is that of last-layer retraining on balanced groups (Kirichenko et al. 2023,
arXiv:2204.02937), with moved embeddings in the place of groups that the pictures lack.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from clipattr.discovery.repair.erasure import Factors

# Weight of the squared change of scores (logits², within classes) beside the mean logistic losses. Of 0.001, 0.01 and
# 0.1 on two bundled worlds: 0.1 closes a little more of the gap and costs the class's other pictures; see
# docs/decisions/repair.md.
RIDGE = 0.01
BIAS_RIDGE = (
    1e-4  # weight of the squared change of the bias beside that of scores; enough for a unique minimum
)
STIFF = 1e4  # weight of the squared change along a fixed direction: logits move by less than 1e-3 there
STEPS = 30  # of Newton's method at most
SMALL = 1e-8  # change of weights at which it ends


def refitted(
    weights: Tensor,
    bias: Tensor,
    number: int,
    embeddings: Tensor,
    own: Tensor,
    factors: Factors,
    covariance: Tensor,
    *,
    ridge: float = RIDGE,
    start: tuple[Tensor, Tensor] | None = None,
    fixed: Tensor | None = None,
    others_weight: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Weights and bias of one class, fitted on balanced pictures; arguments as for `erasure.erased`.

    Args:
        start: row and bias to stay near; default: the class's own. fixed: (embed, n) directions along which the row
            does not change; the identity fits the bias alone. others_weight: of all other pictures beside all own ones.

    Returns:
        (embed,) and (): the new weights and bias; the old ones where the pictures are all of the class, or none is.
    """
    row, level = (weights[number], bias[number]) if start is None else start
    if not own.any() or own.all():
        return row.clone(), level.clone()
    others = torch.arange(len(weights)) != number
    rows, rivals, signs, shares = [], [], [], []
    total = 1 + others_weight
    half = torch.where(own, 1 / total / own.sum(), others_weight / total / (~own).sum()).double()
    states = [embeddings, *moved(embeddings, factors)]
    for state, weight in zip(
        states, (1.0, *[2.0 / max(len(states) - 1, 1)] * (len(states) - 1)), strict=True
    ):
        rows.append(state.double())
        rivals.append((state @ weights[others].T + bias[others]).double().logsumexp(1))
        signs.append(torch.where(own, 1.0, -1.0).double())
        shares.append(half * weight)
    x = torch.cat([torch.cat(rows), torch.ones(len(embeddings) * len(states), 1, dtype=torch.float64)], 1)
    rival, sign, share = torch.cat(rivals), torch.cat(signs), torch.cat(shares)
    near = torch.cat([row.double(), level.double().reshape(1)])
    metric = ridge * covariance.double()
    if fixed is not None and fixed.shape[1]:
        d = F.normalize(fixed.double(), dim=0)
        metric = metric + STIFF * d @ d.T
    penalty = 2 * torch.block_diag(metric, torch.full((1, 1), BIAS_RIDGE * ridge, dtype=torch.float64))
    return _newton(x, rival, sign, share, near, penalty)


def moved(embeddings: Tensor, factors: Factors) -> list[Tensor]:
    """Embeddings (pictures, embed) with each concept put into every picture, and with it taken out."""
    states = []
    for column in range(factors.directions.shape[1]):
        seen, d = factors.presence[:, column], factors.directions[:, column]
        for change in (
            (factors.present[column] - seen).clamp_min(0),
            -(seen - factors.absent[column]).clamp_min(0),
        ):
            states.append(F.normalize(embeddings + change[:, None] * d, dim=1))
    return states


def _newton(
    x: Tensor, rival: Tensor, sign: Tensor, share: Tensor, start: Tensor, penalty: Tensor
) -> tuple[Tensor, Tensor]:
    """The minimum of `Σ share · softplus(-sign (x w - rival)) + (w - start)ᵀ penalty (w - start) / 2`; it is convex."""

    def loss(w: Tensor) -> float:
        change = w - start
        return float((share * F.softplus(-sign * (x @ w - rival))).sum() + change @ penalty @ change / 2)

    w = start.clone()
    before = loss(w)
    for _ in range(STEPS):
        p = torch.sigmoid(-sign * (x @ w - rival))
        gradient = -x.T @ (share * sign * p) + penalty @ (w - start)
        curvature = x.T @ ((share * p * (1 - p))[:, None] * x) + penalty
        step = torch.linalg.solve(curvature, gradient)
        size = 1.0
        while (after := loss(w - size * step)) > before and size > 1e-6:
            size /= 2
        w, before = w - size * step, min(after, before)
        if float(step.abs().max()) * size < SMALL:
            break
    return w[:-1].float(), w[-1].float()
