"""The closed-form tail: effects of latents on linear targets at a site followed by a `Tail`, without a backward pass.

A site with a `Tail` is followed by an optional mean over tokens, an optional LayerNorm, a linear map, and division by
the length. With `c = x - mean(x)`, `s = sqrt(|c|²/d + eps)` (1 without LayerNorm), `q = c A` (`A` is the gain times the
map, with its column means subtracted) and offset `b0`, the features are `e = q/s + b0`, and a linear target is
`y = <e, w>/|e| + c`. Ablating `a v` gives `e' = e + (1/s' - 1/s) q - (a/s') v A`, where `s'` and `|e'|` need only dot
products. So

    attribution of latent j for target n = alpha_j G[j, n] + beta_j (e·w_n) + delta_j (q·w_n),   G = V A W,

for attribution patching and for exact ablation, which differ in the three scalars. Where the LayerNorm comes before a
mean over P tokens, `q` and `s` are those of the token, and the change has weight 1/P. `G` is built once. Scalars are
float64, since ablation subtracts nearly equal numbers; rows are in the model's dtype. Ignores pictures. Start at
`ClosedFormTail.effects`; sums over many pictures are in `tail_sums.py`.
Source of the definitions: Dreyer et al. 2025, arXiv:2505.20229.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from clipattr.attribution.padding import padded
from clipattr.attribution.tail_algebra import Frame, TailAlgebra
from clipattr.dictionaries.codes import checked_latents
from clipattr.errors import DictionaryError, SiteError, TargetError
from clipattr.models.tails import MEAN
from clipattr.sites import Site

BLOCK_BYTES = 512 * 1024  # output of one block of rows; fits a core's cache, which three passes read
DEFAULT_SITE = "image.-1.cls"  # for a dictionary whose site is unknown


class ClosedFormTail(TailAlgebra):
    """Attributions and exact counterfactuals for linear targets at a site with a closed-form tail.

    Args:
        model: a `Model`.
        dictionary: anything with `decoder` (n_latents, width).
        weights: (embed, n) of linear targets `y = <unit embedding, w> + c`.
        site: where activations are read; default the dictionary's own site, else `image.-1.cls`.
        constants: (n,) or None for zeros; used by `values` only.
        active: latents to prepare; default all. With few pictures this avoids computing unused rows.
        table_bytes: the table `G` is stored if it is no larger than this, else its rows are computed on demand.

    Raises:
        SiteError: the model has no closed-form tail at this site.
        DictionaryError: the dictionary's width is not the site's.
        TargetError: weights of another embedding width.

    Source: Dreyer et al. 2025, arXiv:2505.20229, for both effects; the closed forms are derived in docs/formulas.md.

    >>> import clipattr as ca
    >>> study = ca.open_study("picture-world")
    >>> weights, _ = ca.Similarity(["kite", "bat"]).linear(study.model)
    >>> tail = ca.ClosedFormTail(study.model, study.dictionary, weights)
    >>> acts = torch.randn(3, study.dictionary.width, generator=torch.Generator().manual_seed(0))
    >>> tail.exact(acts, study.dictionary.encode(acts)).shape  # pictures, active latents, targets
    torch.Size([3, 8, 2])
    """

    def __init__(
        self,
        model: Any,
        dictionary: Any,
        weights: Tensor,
        *,
        site: Site | str | None = None,
        constants: Tensor | None = None,
        active: Tensor | None = None,
        table_bytes: int = 2**31,
    ) -> None:
        place = Site(site or getattr(dictionary, "site", None) or DEFAULT_SITE)
        found = place.tail(model)
        if found is None:
            raise SiteError(
                f"{place}: {model.reference} has no closed form here. It needs the pooled tokens after the last block "
                "with a LayerNorm and a linear map behind them, or image.embedding, which every model has. "
                "method='patching' runs autograd at other sites."
            )
        super().__init__(model, place, found)
        device = self.device
        decoder = torch.as_tensor(dictionary.decoder).detach()
        if decoder.shape[1] != found.width:
            raise DictionaryError(
                f"the dictionary's directions have {decoder.shape[1]} numbers, the site {place} has {found.width}. "
                "Load the dictionary that was trained on this model and site."
            )
        self.n_latents = len(decoder)
        self._row: Tensor | None = None
        if active is not None:
            active = active.to(device).long()
            self._row = torch.full((self.n_latents,), -1, dtype=torch.long, device=device)
            self._row[active] = torch.arange(len(active), device=device)
            decoder = decoder.to(device)[active]
        self.decoder = decoder.to(device, self.dtype).contiguous()
        self._prepare_latents()
        self._table_bytes = table_bytes
        self._aim(weights, constants)

    def _prepare_latents(self) -> None:
        """Set |v̄|², |v A|² and (v A)·b0 of each direction, float64 (n_latents,)."""
        self._vv = torch.empty(len(self.decoder), dtype=torch.float64, device=self.device)
        self._uu, self._ub = torch.empty_like(self._vv), torch.empty_like(self._vv)
        for start in range(0, len(self.decoder), 4096):
            rows = slice(start, start + 4096)
            direction = self.decoder[rows].double()
            self._vv[rows] = (direction - direction.mean(1, keepdim=True)).square().sum(1)
            through = self.through(self.decoder[rows]).double()
            self._uu[rows] = through.square().sum(1)
            self._ub[rows] = through @ self._offset

    def _aim(self, weights: Tensor, constants: Tensor | None) -> None:
        if weights.ndim != 2 or len(weights) != self.embed:
            raise TargetError(
                f"target weights have shape (embed, n) with embed = {self.embed}; got {tuple(weights.shape)}. "
                "Transpose rows of prompt embeddings."
            )
        self.weights = weights.detach().to(self.device, self.dtype)
        self.constants = (
            self.weights.new_zeros(self.n_targets)
            if constants is None
            else constants.detach().to(self.weights)
        )
        self._through = self.weights if self._mix is None else self._mix @ self.weights  # A W, (width, n)
        size = len(self.decoder) * self.n_targets * self.weights.element_size()
        self._table = self.decoder @ self._through if size <= self._table_bytes else None

    @property
    def n_targets(self) -> int:
        """Number of targets."""
        return self.weights.shape[1]

    def aimed_at(self, weights: Tensor, constants: Tensor | None = None) -> "ClosedFormTail":
        """The same tail for other targets; everything that does not depend on targets is shared.

        Args:
            weights: (embed, n). constants: (n,) or None for zeros; as for the class.

        Raises:
            TargetError: weights of another embedding width.
        """
        other = object.__new__(ClosedFormTail)
        other.__dict__.update(self.__dict__)
        other._aim(weights, constants)
        return other

    def values(self, acts: Tensor) -> Tensor:
        """The targets including constants, (batch, n), of activations shaped as at the site."""
        return self.embeddings(acts) @ self.weights + self.constants

    # effects of active latents

    def rows_of(self, codes: Any, acts: Tensor) -> tuple[Tensor, Tensor]:
        """Table rows and amounts (float64) of active latents, each (rows, entries).

        A row holds the entries of a picture, or of a token where `splits_tokens`.

        Raises:
            DictionaryError: codes of another dictionary or of another number of rows, or an active latent that the tail
                was not prepared for (`active`).
        """
        batch = len(acts)
        indices, amounts = padded(codes)
        if codes.n_latents != self.n_latents:
            raise DictionaryError(
                f"the codes count {codes.n_latents} latents, the dictionary {self.n_latents}. "
                "Encode with the tail's dictionary."
            )
        tokens = self.tail.pooling == MEAN
        if len(indices) != batch if not tokens else (not batch or len(indices) % batch):
            each = ", or several each," if tokens else ""
            raise DictionaryError(
                f"{batch} activations need as many rows of codes{each}; got {len(indices)}. Encode the same pictures."
            )
        indices = indices.to(self.device).long()
        amounts = amounts.to(self.device, torch.float64)
        if self._row is not None:
            indices = self._row[indices]
            if (indices < 0).logical_and(amounts != 0).any():
                raise DictionaryError(
                    "a latent is active that is not in `active`. Build the tail without `active`, or with all latents."
                )
            indices = indices.clamp_min(0)
        return self._by_row(indices, acts), self._by_row(amounts, acts)

    def _by_row(self, entries: Tensor, acts: Tensor) -> Tensor:
        rows = len(acts) * acts.shape[1] if self.splits_tokens else len(acts)
        return entries.reshape(rows, -1)

    def dots(self, frame: Frame, indices: Tensor) -> list[Tensor]:
        """Dot products of every active direction with the frame's vectors, each (rows, places) float64."""
        pair = frame.vectors
        rows, k = indices.shape
        found = torch.empty(rows, k, pair.shape[2], dtype=self.dtype, device=pair.device)
        step = max(1, BLOCK_BYTES // max(1, k * self.tail.width * pair.element_size()))
        for start in range(0, rows, step):
            some = slice(start, start + step)
            gathered = self.decoder.index_select(0, indices[some].flatten())
            torch.bmm(gathered.view(-1, k, self.tail.width), pair[some], out=found[some])
        return list(found.double().unbind(2))

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
            acts: activations as read at the site, (batch, width) or (batch, tokens, width).
            codes: their `SparseCodes`, one row per picture, or per token (batch · tokens rows).
            patching, exact: which of the two to compute.
            amounts: to ablate instead of the codes' values, e.g. code minus baseline; shaped like the result without
                its last dimension.

        Returns:
            Attribution patching and exact ablation, each (batch, k, n) in the unit of the targets, or
            (batch, tokens · k, n) at a site of several tokens; None where not requested. Positive: the latent raises
            the target. Padding (amount 0) gets exactly 0.

        Raises:
            SiteError: activations of another shape than the site's. DictionaryError: as for `rows_of`.
        """
        acts = self.checked(acts)
        indices, values = self.rows_of(codes, acts)
        frame, share = self.frame(acts, self.weights), self.share(acts)
        amounts = values if amounts is None else amounts.reshape(values.shape).to(values)
        dots = self.resolved(frame, self.dots(frame, indices), self._ub[indices])
        wanted: list[tuple[Tensor, Tensor] | None] = [None, None]
        # Where tokens are averaged first, a token's change reaches the mean with weight 1/P.
        counted, share = (amounts, share) if self.splits_tokens else (amounts * share, 1.0)
        if patching:
            wanted[0] = self.patching_scalars(frame, counted, *dots, share)
        if exact:
            own = (self._vv[indices], self._uu[indices])
            wanted[1] = self.exact_scalars(frame, counted, dots, own, share)
        first, second = (
            None if part is None else part.view(len(acts), -1, self.n_targets)
            for part in self._combine(frame, indices, wanted)
        )
        return first, second

    def _combine(
        self, frame: Frame, indices: Tensor, wanted: Sequence[tuple[Tensor, Tensor] | None]
    ) -> list[Tensor | None]:
        """alpha G[j] + (beta, delta) @ targets, in blocks whose output stays in cache."""
        rows, k = indices.shape
        n = self.n_targets
        scalars = [None if pair is None else [part.to(self.dtype) for part in pair] for pair in wanted]
        outputs = [None if pair is None else frame.targets.new_empty(rows, k, n) for pair in wanted]
        step = max(1, BLOCK_BYTES // max(1, k * n * frame.targets.element_size()))
        for start in range(0, rows, step):
            some = slice(start, start + step)
            gathered = self._gather(indices[some]).view(-1, k, n)
            for pair, output in zip(scalars, outputs, strict=True):
                if pair is None or output is None:
                    continue
                block = output[some]
                torch.mul(gathered, pair[0][some, :, None], out=block)
                block.baddbmm_(pair[1][some], frame.targets[some])
        return outputs

    def _gather(self, indices: Tensor) -> Tensor:
        flat = indices.flatten()
        if self._table is not None:
            return self._table.index_select(0, flat)
        return self.decoder.index_select(0, flat) @ self._through

    def patching(self, acts: Tensor, codes: Any, *, amounts: Tensor | None = None) -> Tensor:
        """Attribution patching `a_j <dy/dx, v_j>`, (batch, k, n), with the errors (DictionaryError) of `effects`."""
        result, _ = self.effects(acts, codes, exact=False, amounts=amounts)
        assert result is not None
        return result

    def exact(self, acts: Tensor, codes: Any, *, amounts: Tensor | None = None) -> Tensor:
        """Exact ablation `y(x) - y(x - a_j v_j)`, (batch, k, n), with the errors (DictionaryError) of `effects`."""
        _, result = self.effects(acts, codes, patching=False, amounts=amounts)
        assert result is not None
        return result

    # directions and groups

    def gradient(self, acts: Tensor, directions: Tensor) -> Tensor:
        """Directional derivatives of the targets, `<dy/dx, direction>`.

        Args:
            acts: activations as read at the site, (batch, width) or (batch, tokens, width).
            directions: m per picture, (batch, m, width) or (batch, m, tokens, width).

        Returns:
            (batch, m, n), in the unit of the targets per unit of the direction. Positive: the direction raises the
            target.

        Raises:
            SiteError: activations of another shape than the site's.
        """
        return self.slope(acts, directions, self.weights)

    def removal(self, acts: Tensor, directions: Tensor) -> Tensor:
        """Exact effect of subtracting directions, `y(x) - y(x - direction)`: (batch, m, n).

        Arguments and errors (SiteError) are those of `gradient`. Positive: the direction raises the target.
        """
        acts = self.checked(acts)
        return self.values(acts)[:, None] - self.values(acts[:, None] - directions.to(acts))

    def exact_group(self, acts: Tensor, codes: Any, groups: Sequence[Any], *, chunk: int = 256) -> Tensor:
        """Exact effect of ablating all latents of a group together, at every token of a picture.

        Args:
            acts: activations as read at the site; codes: their `SparseCodes`.
            groups: latent numbers of each group, sequences or tensors.
            chunk: pictures × groups evaluated at a time.

        Returns:
            (batch, groups, n): `y(x) - y(x - sum over the group of a_j v_j)`, in the unit of the targets. Positive: the
            group raises the target.

        Raises:
            SiteError, DictionaryError: as for `effects`; DictionaryError also for a latent that does not exist.
        """
        acts = self.checked(acts)
        indices, amounts = self.rows_of(codes, acts)
        latents = self._by_row(padded(codes)[0].to(indices), acts)
        share = 1.0 if self.splits_tokens else self.share(acts)
        pooled = self.tail.pooled(acts)
        result = torch.empty(len(acts), len(groups), self.n_targets, dtype=self.dtype, device=acts.device)
        for number, group in enumerate(groups):
            member = self.members(group, number).to(indices)
            inside = amounts * share * torch.isin(latents, member)
            moved = torch.cat(
                [
                    torch.bmm(weight[:, None].to(self.dtype), self.decoder[rows])[:, 0]
                    for weight, rows in zip(inside.split(chunk), indices.split(chunk), strict=True)
                ]
            ).view_as(pooled)
            for some in torch.arange(len(acts), device=acts.device).split(chunk):
                change = self._unit_of_pooled(pooled[some]) - self._unit_of_pooled(pooled[some] - moved[some])
                result[some, number] = change @ self.weights
        return result

    def _unit_of_pooled(self, pooled: Tensor) -> Tensor:
        return normalize(self.features_of_pooled(pooled), dim=-1)

    def members(self, group: Any, number: int) -> Tensor:
        """A group's latents as a tensor (latents,) int64; DictionaryError where one does not exist."""
        return checked_latents(group, self.n_latents, f"group {number}")
