"""Formulas of the closed-form tail that need no dictionary: features, and their change when a direction is ablated.

Input is rows of activations, output three scalars per direction. Scalars are float64, since ablation subtracts nearly
equal numbers. Ignores codes and tables. Start at `TailAlgebra.frame`.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from clipattr.errors import SiteError
from clipattr.models.tails import MEAN, Tail
from clipattr.sites import Site


@dataclass(frozen=True)
class Frame:
    """Values of each row that its latents share: vectors in the model's dtype, scalars in float64, each (rows, 1).

    A row is a picture, or one of its tokens where a LayerNorm comes before the mean over tokens.
    """

    vectors: Tensor  # (rows, width, m): A e, or c and A q, or c, A q and A e; dotted with directions
    targets: Tensor  # (rows, r, n): e·w and, with a LayerNorm, q·w
    inverse: Tensor  # 1/s
    length: Tensor  # |e|
    eq: Tensor  # e·q
    qq: Tensor  # |q|²


class TailAlgebra:
    """A tail as arrays on the model's device.

    Args:
        model: a `Model`. site: where activations are read. tail: of that site.
    """

    def __init__(self, model: Any, site: Site, tail: Tail) -> None:
        self.site, self.tail = site, tail
        self.dtype = torch.promote_types(model.dtype, torch.float32)
        device = model.device
        matrix, offset = tail.affine()
        self.embed = tail.width if matrix is None else matrix.shape[1]
        self._mix = None if matrix is None else matrix.to(device, self.dtype)  # A, (width, embed)
        self._offset = torch.zeros(self.embed, dtype=torch.float64, device=device)  # b0
        if offset is not None:
            self._offset = offset.to(device)
        self._eps = 0.0 if tail.norm is None else tail.norm.eps

    @property
    def device(self) -> torch.device:
        return self._offset.device

    @property
    def offset(self) -> Tensor:
        """b0, (embed,) float64: what the features are where the activation adds nothing."""
        return self._offset

    @property
    def splits_tokens(self) -> bool:
        """Whether every token is a separate row, because a LayerNorm comes before the mean over tokens."""
        return self.tail.pooling == MEAN and self.tail.norm_first

    # activations to features

    def through(self, directions: Tensor) -> Tensor:
        """Directions (…, width) through the linear map: (…, embed)."""
        return directions if self._mix is None else directions @ self._mix

    def back(self, features: Tensor) -> Tensor:
        """`A features`, (…, embed) to (…, width): its dot product with v equals that of v A with the features."""
        return features if self._mix is None else features @ self._mix.T

    def checked(self, acts: Tensor) -> Tensor:
        """Activations on the tail's device, in its dtype; SiteError where the shape does not fit."""
        acts = acts.to(self.device, self.dtype)
        tokens = ", tokens" if self.tail.pooling == MEAN else ""
        if acts.ndim != (3 if tokens else 2) or acts.shape[-1] != self.tail.width:
            raise SiteError(
                f"activations at {self.site} have shape (batch{tokens}, {self.tail.width}); got {tuple(acts.shape)}."
            )
        return acts

    def normed(self, acts: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """q, c and s² of rows (…, width), s² in float64 (…, 1); c and s² None without a LayerNorm."""
        if self.tail.norm is None:
            return self.through(acts), None, None
        centred = acts - acts.mean(-1, keepdim=True)
        spread = centred.double().square().mean(-1, keepdim=True) + self._eps
        return self.through(centred), centred, spread

    def features(self, acts: Tensor) -> Tensor:
        """Features before normalisation of activations shaped as at the site: (…, embed)."""
        return self.features_of_pooled(self.tail.pooled(acts.to(self.device, self.dtype)))

    def features_of_pooled(self, pooled: Tensor) -> Tensor:
        """As `features`, of activations that are already averaged over tokens where the tail does this first."""
        q, _, spread = self.normed(pooled)
        q = q if spread is None else q * spread.rsqrt().to(self.dtype)
        q = q.mean(-2) if self.splits_tokens else q
        return q + self._offset.to(self.dtype)

    def embeddings(self, acts: Tensor) -> Tensor:
        """Unit-length embeddings of activations shaped as at the site: (…, embed)."""
        return normalize(self.features(acts), dim=-1)

    def frame(self, acts: Tensor, weights: Tensor) -> Frame:
        """The `Frame` of checked activations for targets (embed, n)."""
        acts = self.tail.pooled(acts)
        q, centred, spread = self.normed(acts)
        offset = self._offset.to(self.dtype)
        if centred is None or spread is None:
            e = q + offset
            length = e.double().norm(dim=-1, keepdim=True).clamp_min(1e-12)
            ones, zeros = torch.ones_like(length), torch.zeros_like(length)
            return Frame(self.back(e)[:, :, None], (e @ weights)[:, None], ones, length, zeros, zeros)
        inverse = spread.rsqrt()
        e = q * inverse.to(self.dtype)
        vectors = [centred, self.back(q)]
        if self.splits_tokens:
            e = (e.mean(-2, keepdim=True) + offset).expand_as(q)
            vectors.append(self.back(e))
        rows = [part.reshape(-1, part.shape[-1]) for part in (q, e, *vectors)]
        q, e, inverse = rows[0], rows[1], inverse.reshape(-1, 1)
        wide = q.double()
        qq = wide.square().sum(1, keepdim=True)
        if self.splits_tokens:
            eq = (wide * e.double()).sum(1, keepdim=True)
            square = e.double().square().sum(1, keepdim=True)
        else:
            # From the same sums as in ablation, so that a change of 0 has an effect of exactly 0.
            qb = (wide @ self._offset)[:, None]
            eq = qq * inverse + qb
            square = qq * inverse**2 + 2 * qb * inverse + self._offset.square().sum()
            e = e + offset
        targets = torch.stack([e @ weights, q @ weights], dim=1)
        return Frame(torch.stack(rows[2:], 2), targets, inverse, square.clamp_min(1e-24).sqrt(), eq, qq)

    def resolved(self, frame: Frame, dots: list[Tensor], ub: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """v·c, u·q and u·e of directions, from their dots with the frame's vectors and u·b0."""
        if self.tail.norm is None:
            return torch.zeros_like(dots[0]), torch.zeros_like(dots[0]), dots[0]
        if self.splits_tokens:
            return dots[0], dots[1], dots[2]
        return dots[0], dots[1], dots[1] * frame.inverse + ub

    def share(self, acts: Tensor) -> float:
        """Weight of one token's change in the mean over tokens; 1 where there is one token."""
        return 1 / acts.shape[1] if self.tail.pooling == MEAN else 1.0

    def patching_scalars(
        self, frame: Frame, amounts: Tensor, vc: Tensor, uq: Tensor, ue: Tensor, share: float
    ) -> tuple[Tensor, Tensor]:
        """alpha (rows, places) and beta, delta (rows, places, r) of `amounts · <gradient, v>`."""
        inverse, length = frame.inverse, frame.length
        widening = vc * inverse / self.tail.width  # ds along v
        along = ue * inverse - frame.eq * widening * inverse**2  # e·de along v
        amounts = amounts * share
        beta = -amounts * along / length**3
        return amounts * inverse / length, self._pair(beta, -amounts * widening * inverse**2 / length)

    def exact_scalars(
        self,
        frame: Frame,
        amounts: Tensor,
        dots: tuple[Tensor, Tensor, Tensor],
        own: tuple[Tensor, Tensor],
        share: float,
    ) -> tuple[Tensor, Tensor]:
        """alpha and beta, delta of `y(x) - y(x - amounts · v)`; `own` holds |v̄|² and |u|²."""
        (vc, uq, ue), (vv, uu) = dots, own
        inverse, length = frame.inverse, frame.length
        after = inverse.expand_as(amounts)
        if self.tail.norm is not None:
            spread = inverse**-2 + (amounts * amounts * vv - 2 * amounts * vc) / self.tail.width
            after = spread.clamp_min(self._eps).rsqrt()
        taken, grown = share * amounts * after, share * (after - inverse)
        square = length**2 + 2 * (grown * frame.eq - taken * ue)
        square = square + grown**2 * frame.qq - 2 * grown * taken * uq + taken**2 * uu
        shorter = square.clamp_min(1e-24).sqrt()
        return taken / shorter, self._pair(1 / length - 1 / shorter, -grown / shorter)

    def _pair(self, beta: Tensor, delta: Tensor) -> Tensor:
        return beta[..., None] if self.tail.norm is None else torch.stack([beta, delta], dim=-1)

    def slope(self, acts: Tensor, directions: Tensor, weights: Tensor) -> Tensor:
        """Slope of targets (embed, n) along m directions per picture; SiteError as in `ClosedFormTail.gradient`."""
        acts = self.tail.pooled(self.checked(acts))
        directions = self.tail.pooled(directions.to(acts))
        q, centred, spread = self.normed(acts)
        e, moved = q, self.through(directions)
        if centred is not None and spread is not None:
            inverse = spread.rsqrt().to(self.dtype)
            widening = (directions * centred[:, None]).mean(-1, keepdim=True) * inverse[:, None]
            e, moved = q * inverse, moved * inverse[:, None] - q[:, None] * widening * inverse[:, None] ** 2
        if self.splits_tokens:
            e, moved = e.mean(-2), moved.mean(-2)
        e = e + self._offset.to(self.dtype)
        length = e.norm(dim=-1)[:, None, None].clamp_min(1e-12)
        along = (moved * e[:, None]).sum(-1, keepdim=True)
        return moved @ weights / length - along * (e @ weights)[:, None] / length**3
