"""The closed-form tail: what a latent at the last block's CLS token does to the output, without a backward pass.

Behind `image.-1.cls` come LayerNorm, a linear projection and normalisation. With `c = x - mean(x)`,
`s = sqrt(|c|²/d + eps)`, `p = x A` (`A` the gain times projection, with its column means taken off so that `A` ignores
the mean) and `b0 = shift · projection`, the embedding is `e = p/s + b0` and a linear target `y = <e, w>/|e| + const`.
Taking out `a v` changes `p`, `s` and `|e|` through scalars only (dot products of `v` with two vectors per picture), so

    attribution of latent j for target n = alpha_j G[j, n] + beta_j (p·w_n) + delta_j (b0·w_n),   G = V A W,

for attribution patching and for exact ablation alike; they differ in the three scalars. `G` is built once. Scalars are
float64, since ablation subtracts nearly equal numbers; rows are in the model's dtype. Ignores targets and pictures.
Start at `ClosedFormTail.effects`. Source of the definitions: Dreyer et al. 2025, arXiv:2505.20229.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from clipattr.attribution.padding import padded
from clipattr.errors import DictionaryError, SiteError, TargetError

# Output of one block of pictures: small enough to stay in a core's cache through the three passes over it.
_BLOCK_BYTES = 512 * 1024


@dataclass(frozen=True)
class _Frame:
    """What every picture brings: rows (batch, n) and (batch, width) in the model's dtype, scalars in float64."""

    centred: Tensor  # c, (batch, width)
    back: Tensor  # A p, (batch, width): its dot product with v is the change of p along p
    rows: Tensor  # (batch, 2, n): p·w and b0·w
    spread: Tensor  # s², (batch, 1)
    pp: Tensor  # |p|²
    pb: Tensor  # p·b0


class ClosedFormTail:
    """Attributions and exact counterfactuals at `image.-1.cls` for linear targets.

    Args:
        model: a `Model` whose `tail_is_closed_form` holds.
        dictionary: anything with `decoder` (n_latents, width).
        weights: (embed, n) of linear targets `y = <unit embedding, w> + c`.
        constants: (n,) or None for zeros; they matter to `values` alone.
        active: latents to prepare (all where None). With few pictures this saves building rows that nobody reads.
        table_bytes: the table `G` is kept if it is no larger than this, else its rows are made when needed.

    Raises:
        SiteError: the model has no closed-form tail.
        DictionaryError: the dictionary's width is not the model's.
        TargetError: weights of another embedding width.
    """

    def __init__(
        self,
        model: Any,
        dictionary: Any,
        weights: Tensor,
        *,
        constants: Tensor | None = None,
        active: Tensor | None = None,
        table_bytes: int = 2**31,
    ) -> None:
        if not model.tail_is_closed_form:
            raise SiteError(
                "the closed form needs CLS pooling, a LayerNorm and a linear projection behind the last block; this "
                "model has another tail. Use method='patching', which falls back to autograd."
            )
        norm = model.ln_post
        decoder = torch.as_tensor(dictionary.decoder).detach()
        if decoder.shape[1] != len(norm.weight):
            raise DictionaryError(
                f"the dictionary's directions have {decoder.shape[1]} numbers, the site {len(norm.weight)}. "
                "Load the dictionary that was trained on this model and site."
            )
        self.dtype = torch.promote_types(model.dtype, torch.float32)
        wide = {"device": norm.weight.device, "dtype": torch.float64}
        gain = norm.weight.detach().to(**wide)
        shift = torch.zeros_like(gain) if norm.bias is None else norm.bias.detach().to(**wide)
        projection = (
            torch.eye(len(gain), **wide)
            if model.image_projection is None
            else model.image_projection.detach().to(**wide)
        )
        mixed = gain[:, None] * projection
        self._mix = (mixed - mixed.mean(0)).to(self.dtype)  # A, (width, embed)
        self._shift = shift @ projection  # b0, (embed,), float64
        self._eps, self._width = norm.eps, len(gain)
        self.n_latents = len(decoder)
        self._row: Tensor | None = None
        if active is not None:
            active = active.to(norm.weight.device).long()
            self._row = torch.full((self.n_latents,), -1, dtype=torch.long, device=active.device)
            self._row[active] = torch.arange(len(active), device=active.device)
            decoder = decoder.to(active.device)[active]
        self._decoder = decoder.to(norm.weight.device, self.dtype).contiguous()
        self._prepare_latents()
        self._table_bytes = table_bytes
        self._aim(weights, constants)

    def _prepare_latents(self) -> None:
        """Squared lengths and projections of every direction: |v̄|², |v A|², (v A)·b0, all float64 (n_latents,)."""
        self._vv = torch.empty(len(self._decoder), dtype=torch.float64, device=self._decoder.device)
        self._uu, self._ub = torch.empty_like(self._vv), torch.empty_like(self._vv)
        for start in range(0, len(self._decoder), 4096):
            rows = slice(start, start + 4096)
            direction = self._decoder[rows].double()
            self._vv[rows] = (direction - direction.mean(1, keepdim=True)).square().sum(1)
            through = self._decoder[rows] @ self._mix
            self._uu[rows] = through.double().square().sum(1)
            self._ub[rows] = through.double() @ self._shift

    def _aim(self, weights: Tensor, constants: Tensor | None) -> None:
        if weights.ndim != 2 or len(weights) != len(self._shift):
            raise TargetError(
                f"target weights have shape (embed, n) with embed = {len(self._shift)}; got {tuple(weights.shape)}. "
                "Transpose rows of prompt embeddings."
            )
        self.weights = weights.detach().to(self._decoder.device, self.dtype)
        self.constants = (
            self.weights.new_zeros(self.n_targets)
            if constants is None
            else constants.detach().to(self.weights)
        )
        self._through = self._mix @ self.weights  # A W, (width, n)
        self._shift_row = (self._shift @ self.weights.double()).to(self.dtype)  # b0·w, (n,)
        size = len(self._decoder) * self.n_targets * self.weights.element_size()
        self._table = self._decoder @ self._through if size <= self._table_bytes else None

    @property
    def n_targets(self) -> int:
        return self.weights.shape[1]

    def aimed_at(self, weights: Tensor, constants: Tensor | None = None) -> "ClosedFormTail":
        """The same tail for other targets, sharing everything that does not depend on them."""
        other = object.__new__(ClosedFormTail)
        other.__dict__.update(self.__dict__)
        other._aim(weights, constants)
        return other

    def _frame(self, acts: Tensor) -> _Frame:
        acts = acts.to(self._decoder.device, self.dtype)
        if acts.ndim != 2 or acts.shape[1] != self._width:
            raise SiteError(f"activations have shape (batch, {self._width}); got {tuple(acts.shape)}.")
        centred = acts - acts.mean(1, keepdim=True)
        projected = centred @ self._mix
        wide = projected.double()
        rows = torch.stack([projected @ self.weights, self._shift_row.expand(len(acts), -1)], dim=1)
        return _Frame(
            centred=centred,
            back=projected @ self._mix.T,
            rows=rows,
            spread=centred.double().square().mean(1, keepdim=True) + self._eps,
            pp=wide.square().sum(1, keepdim=True),
            pb=(wide @ self._shift)[:, None],
        )

    def _length(self, spread: Tensor, pp: Tensor, pb: Tensor) -> Tensor:
        """|e|, from s², |p|² and p·b0."""
        square = pp / spread + 2 * pb / spread.sqrt() + self._shift.square().sum()
        return square.clamp_min(1e-24).sqrt()

    def _rows_of(self, codes: Any) -> tuple[Tensor, Tensor]:
        """Table rows (batch, k) and amounts (batch, k), float64."""
        indices, amounts = padded(codes)
        if codes.n_latents != self.n_latents:
            raise DictionaryError(
                f"the codes count {codes.n_latents} latents, the dictionary {self.n_latents}. "
                "Encode with the dictionary that is attributed to."
            )
        indices = indices.to(self._decoder.device).long()
        amounts = amounts.to(self._decoder.device, torch.float64)
        if self._row is not None:
            indices = self._row[indices]
            if (indices < 0).logical_and(amounts != 0).any():
                raise DictionaryError(
                    "a latent is active that this tail was not prepared for. Leave out `active`."
                )
            indices = indices.clamp_min(0)
        return indices, amounts

    def _dots(self, frame: _Frame, indices: Tensor) -> tuple[Tensor, Tensor]:
        """v·c and (v A)·p for every active latent, (batch, k) float64."""
        pair = torch.stack([frame.centred, frame.back], dim=2)  # (batch, width, 2)
        batch, k = indices.shape
        dots = torch.empty(batch, k, 2, dtype=self.dtype, device=pair.device)
        step = max(1, _BLOCK_BYTES // max(1, k * self._width * pair.element_size()))
        for start in range(0, batch, step):
            rows = slice(start, start + step)
            gathered = self._decoder.index_select(0, indices[rows].flatten())
            torch.bmm(gathered.view(-1, k, self._width), pair[rows], out=dots[rows])
        return dots[..., 0].double(), dots[..., 1].double()

    def _patching_scalars(
        self, frame: _Frame, amounts: Tensor, vc: Tensor, up: Tensor, ub: Tensor
    ) -> tuple[Tensor, Tensor]:
        """alpha (batch, k) and (beta, delta) (batch, k, 2) of `amounts · <gradient, v>`."""
        root = frame.spread.sqrt()
        length = self._length(frame.spread, frame.pp, frame.pb)
        widening = vc / (self._width * root)  # ds along v
        along = (up / root + ub) / root - (
            frame.pp / root + frame.pb
        ) * widening / frame.spread  # e·de along v
        turning = along / length**3
        alpha = amounts / (root * length)
        beta = -amounts * (widening / (frame.spread * length) + turning / root)
        return alpha, torch.stack([beta, -amounts * turning], dim=2)

    def _exact_scalars(
        self, frame: _Frame, amounts: Tensor, vc: Tensor, up: Tensor, vv: Tensor, uu: Tensor, ub: Tensor
    ) -> tuple[Tensor, Tensor]:
        """alpha and (beta, delta) of `y(x) - y(x - amounts · v)`."""
        spread = frame.spread + (amounts * amounts * vv - 2 * amounts * vc) / self._width
        spread = spread.clamp_min(self._eps)
        length = self._length(frame.spread, frame.pp, frame.pb)
        shorter = self._length(
            spread, frame.pp - 2 * amounts * up + amounts * amounts * uu, frame.pb - amounts * ub
        )
        after = 1 / (spread.sqrt() * shorter)
        before = 1 / (frame.spread.sqrt() * length)
        return amounts * after, torch.stack([before - after, 1 / length - 1 / shorter], dim=2)

    def effects(
        self,
        acts: Tensor,
        codes: Any,
        *,
        patching: bool = True,
        exact: bool = True,
        amounts: Tensor | None = None,
    ) -> tuple[Tensor | None, Tensor | None]:
        """Attribution patching and exact ablation for every active latent and every target in one gather.

        Args:
            acts: (batch, width) at `image.-1.cls`.
            codes: their `SparseCodes`.
            amounts: (batch, k) to take out in place of the codes' values, e.g. code minus baseline.

        Returns:
            Two tensors (batch, k, n) in the unit of the targets, None where not asked for. Positive: the latent
            raises the target. Padding (amount 0) gets exactly 0.
        """
        frame = self._frame(acts)
        indices, values = self._rows_of(codes)
        if len(indices) != len(acts):
            raise DictionaryError(
                f"{len(acts)} activations but codes of {len(indices)}. Encode the same pictures."
            )
        amounts = values if amounts is None else amounts.to(values)
        vc, up = self._dots(frame, indices)
        ub = self._ub[indices]
        wanted: list[tuple[Tensor, Tensor] | None] = [None, None]
        if patching:
            wanted[0] = self._patching_scalars(frame, amounts, vc, up, ub)
        if exact:
            wanted[1] = self._exact_scalars(frame, amounts, vc, up, self._vv[indices], self._uu[indices], ub)
        first, second = self._combine(frame, indices, wanted)
        return first, second

    def _combine(
        self, frame: _Frame, indices: Tensor, wanted: Sequence[tuple[Tensor, Tensor] | None]
    ) -> list[Tensor | None]:
        """alpha G[j] + (beta, delta) @ rows, block by block so that each block's output stays in cache."""
        batch, k = indices.shape
        n = self.n_targets
        scalars = [None if pair is None else [part.to(self.dtype) for part in pair] for pair in wanted]
        outputs = [None if pair is None else frame.rows.new_empty(batch, k, n) for pair in wanted]
        step = max(1, _BLOCK_BYTES // max(1, k * n * frame.rows.element_size()))
        for start in range(0, batch, step):
            rows = slice(start, start + step)
            gathered = self._gather(indices[rows]).view(-1, k, n)
            for pair, output in zip(scalars, outputs, strict=True):
                if pair is None or output is None:
                    continue
                block = output[rows]
                torch.mul(gathered, pair[0][rows, :, None], out=block)
                block.baddbmm_(pair[1][rows], frame.rows[rows])
        return outputs

    def _gather(self, indices: Tensor) -> Tensor:
        flat = indices.flatten()
        if self._table is not None:
            return self._table.index_select(0, flat)
        return self._decoder.index_select(0, flat) @ self._through

    def patching(self, acts: Tensor, codes: Any, *, amounts: Tensor | None = None) -> Tensor:
        """Attribution patching `a_j <dy/dx, v_j>`, (batch, k, n); see `effects`."""
        result, _ = self.effects(acts, codes, exact=False, amounts=amounts)
        assert result is not None
        return result

    def exact(self, acts: Tensor, codes: Any, *, amounts: Tensor | None = None) -> Tensor:
        """Exact ablation `y(x) - y(x - a_j v_j)`, (batch, k, n); see `effects`."""
        _, result = self.effects(acts, codes, patching=False, amounts=amounts)
        assert result is not None
        return result

    def embeddings(self, acts: Tensor) -> Tensor:
        """Unit-length embeddings of activations (…, width): (…, embed)."""
        acts = acts.to(self._decoder.device, self.dtype)
        centred = acts - acts.mean(-1, keepdim=True)
        scale = (centred.square().mean(-1, keepdim=True) + self._eps).rsqrt()
        return torch.nn.functional.normalize(
            (centred @ self._mix) * scale + self._shift.to(self.dtype), dim=-1
        )

    def values(self, acts: Tensor) -> Tensor:
        """The targets themselves, constants included: (…, width) to (…, n)."""
        return self.embeddings(acts) @ self.weights + self.constants

    def gradient(self, acts: Tensor, directions: Tensor) -> Tensor:
        """Slope of the targets along given directions, `<dy/dx, direction>`: (batch, m, width) to (batch, m, n)."""
        frame = self._frame(acts)
        directions = directions.to(frame.centred)
        through = directions @ self._mix
        vc = torch.bmm(directions, frame.centred[:, :, None])[..., 0].double()
        up = torch.bmm(directions, frame.back[:, :, None])[..., 0].double()
        ones = torch.ones_like(vc)
        alpha, rest = self._patching_scalars(frame, ones, vc, up, through.double() @ self._shift)
        result = (through @ self.weights) * alpha.to(self.dtype)[..., None]
        return result.baddbmm_(rest.to(self.dtype), frame.rows)

    def removal(self, acts: Tensor, directions: Tensor) -> Tensor:
        """Exact effect of taking directions out, `y(x) - y(x - direction)`: (batch, m, width) to (batch, m, n)."""
        acts, directions = (
            acts.to(self._decoder.device, self.dtype),
            directions.to(self._decoder.device, self.dtype),
        )
        return self.values(acts)[:, None] - self.values(acts[:, None] - directions)

    def exact_group(self, acts: Tensor, codes: Any, groups: Sequence[Any], *, chunk: int = 256) -> Tensor:
        """Exact effect of ablating whole groups of latents at once.

        Args:
            acts: (batch, width); codes: their `SparseCodes`.
            groups: latent numbers of each group, sequences or tensors.
            chunk: pictures × groups evaluated at a time.

        Returns:
            (batch, groups, n): `y(x) - y(x - sum over the group of a_j v_j)`.
        """
        indices, amounts = self._rows_of(codes)
        latents = padded(codes)[0].to(indices)
        members = [torch.as_tensor(group, device=indices.device).long().flatten() for group in groups]
        result = torch.empty(
            len(indices), len(members), self.n_targets, dtype=self.dtype, device=indices.device
        )
        for number, member in enumerate(members):
            if len(member) and not 0 <= int(member.min()) <= int(member.max()) < self.n_latents:
                raise DictionaryError(
                    f"group {number} names latent {int(member.max())}; the dictionary has {self.n_latents}, from 0."
                )
            inside = amounts * torch.isin(latents, member)
            for start in range(0, len(indices), chunk):
                rows = slice(start, start + chunk)
                direction = torch.bmm(inside[rows, None].to(self.dtype), self._decoder[indices[rows]])
                result[rows, number] = self.removal(acts[rows], direction)[:, 0]
        return result
