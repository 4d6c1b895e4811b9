"""The splice: activations of a batch at one site as latents + bias + error, and the targets as a function of the codes.

Owns the two ways from activations to targets: the closed form where the site has a tail, and a forward pass from the
site onward elsewhere. Every method and faithfulness measure is a function of a `Splice`. A *part* is one active latent
at one token: k per picture, or tokens × k at sites with several tokens. Start at `Splice.slopes`, `Splice.ablated` and
`Splice.states`.
"""

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from clipattr.attribution.padding import padded
from clipattr.attribution.tail import ClosedFormTail
from clipattr.attribution.target import LinearTarget, Target
from clipattr.dictionaries.codes import SparseCodes
from clipattr.errors import DictionaryError
from clipattr.sites import Site, continue_from, versions_from

_ROWS = 256  # pictures per forward pass from the site onward
_VERSIONS = (
    2048  # class tokens per pass through the last block alone, where a row is one token, not a picture
)
_KEPT = 2**25  # numbers; gradients up to this size are cached, as error node and bias need them again


class Splice:
    """Targets of a batch as a function of its codes, with bias and error held where they are.

    Args:
        model: a `Model`.
        dictionary: a `Dictionary`.
        site: where `acts` were read.
        acts: (batch, width) at a CLS site, (batch, tokens, width) at others.
        codes: the codes of `acts`, one row per activation (batch · tokens rows); encoded here where None.
        target: what to explain.
        reference: baseline codes, one row per row of `codes` or one for all; zeros where None. Latents that are active
            in the reference only become parts with amount 0.
        context: all tokens of the block, needed before the last block (see `continue_from`).
        tail: a `ClosedFormTail` of the same targets, to share its tables over many batches; linear targets only.

    Raises:
        SiteError: nothing at this site reaches the embedding.
        DictionaryError: codes or dictionary do not fit the activations.
    """

    def __init__(
        self,
        model: Any,
        dictionary: Any,
        site: Site | str,
        acts: Tensor,
        target: Target,
        *,
        codes: SparseCodes | None = None,
        reference: SparseCodes | None = None,
        context: Tensor | None = None,
        tail: ClosedFormTail | None = None,
    ) -> None:
        self.model, self.dictionary, self.site, self.target = model, dictionary, Site(site), target
        self.site.require_reach(model)
        self.acts, self.context = acts.detach(), context
        self.batch, self.tokens = len(acts), 1 if acts.ndim == 2 else acts.shape[1]
        flat = self.acts.reshape(-1, acts.shape[-1])
        if flat.shape[1] != dictionary.width:
            raise DictionaryError(
                f"the dictionary takes activations of width {dictionary.width}, {self.site} has {flat.shape[1]}. Load "
                "the dictionary that was trained at this site."
            )
        self.codes = dictionary.encode(flat) if codes is None else codes
        if len(self.codes) != len(flat) or self.codes.n_latents != dictionary.n_latents:
            raise DictionaryError(
                f"the codes have shape {self.codes.shape}; these activations and this dictionary need "
                f"{(len(flat), dictionary.n_latents)}. Encode the same pictures with the same dictionary."
            )
        self.dtype = torch.promote_types(acts.dtype, torch.float32)
        self._merge(reference)
        self.decoder = torch.as_tensor(dictionary.decoder).to(acts.device, self.dtype)
        self._given_tail = tail
        self._gradients: Tensor | None = None

    def _merge(self, reference: SparseCodes | None) -> None:
        """Set indices, amounts and reference amounts on the union of the latents active in codes and reference."""
        indices, amounts = (part.to(self.acts.device) for part in padded(self.codes))
        amounts = amounts.to(self.dtype)
        baseline = torch.zeros_like(amounts)
        if reference is not None:
            if reference.n_latents != self.codes.n_latents or len(reference) not in (1, len(indices)):
                raise DictionaryError(
                    f"the baseline codes have shape {reference.shape}; {self.codes.shape}, or one row for all, is "
                    "needed. Encode the baseline with the same dictionary at the same site."
                )
            others, levels = (part.to(self.acts.device) for part in padded(reference))
            others = others.expand(len(indices), -1)
            levels = levels.to(self.dtype).expand(len(indices), -1)
            same = (indices[:, :, None] == others[:, None]) & (amounts != 0)[:, :, None]
            baseline = (same * levels[:, None]).sum(2)
            extra = torch.where(same.any(1), torch.zeros_like(levels), levels)
            used = (extra != 0).any(0)
            indices = torch.cat([indices, others[:, used]], 1)
            amounts = torch.cat([amounts, torch.zeros_like(extra[:, used])], 1)
            baseline = torch.cat([baseline, extra[:, used]], 1)
        self.places = indices.shape[1]
        self.indices = indices.reshape(self.batch, -1)  # (batch, parts)
        self.amounts = amounts.reshape(self.batch, -1)
        self.reference = baseline.reshape(self.batch, -1)

    @property
    def parts(self) -> int:
        """Parts per picture: codes per token times tokens, padding included."""
        return self.indices.shape[1]

    @property
    def n_targets(self) -> int:
        """Number of targets."""
        return len(self.target)

    @property
    def changes(self) -> Tensor:
        """(batch, parts): code minus baseline."""
        return self.amounts - self.reference

    @property
    def is_closed_form(self) -> bool:
        """Whether the tail behind the site has a closed form, so that exact ablation needs no forward pass."""
        return self.site.tail(self.model) is not None

    @property
    def shares_rest(self) -> bool:
        """Whether changed class tokens of one picture share all other tokens of the following block."""
        one = self.context is not None and self.site.tokens == "cls" and not self.site.is_inside
        return one and self.model.image_tower.reads_next(self.site.index(self.model))

    @cached_property
    def _linear(self) -> tuple[Tensor, Tensor] | None:
        return self.target.linear(self.model) if isinstance(self.target, LinearTarget) else None

    @cached_property
    def tail(self) -> ClosedFormTail | None:
        """The closed form for these targets, or for all axes of the embedding where the targets are not linear."""
        if self._given_tail is not None or not self.is_closed_form:
            return self._given_tail
        if self._linear is None:
            weights, constants = torch.eye(self.model.embed_dim), None
        else:
            weights, constants = self._linear
        active = self.indices.unique()
        some = active if len(active) < self.dictionary.n_latents else None
        options: dict[str, Any] = {"site": self.site, "constants": constants, "active": some}
        return ClosedFormTail(self.model, self.dictionary, weights, **options)

    @cached_property
    def merged_codes(self) -> SparseCodes:
        """Codes with one entry per part, rows as in `codes`; parts active in the baseline only have value 0."""
        shape = (self.batch * self.tokens, self.places)
        return SparseCodes(
            self.indices.reshape(shape).int(), self.amounts.reshape(shape), self.codes.n_latents
        )

    # from activations to targets

    def read(self, embeddings: Tensor) -> Tensor:
        """The targets of unit-length embeddings, (rows, embed) to (rows, n), differentiably."""
        if self._linear is not None:
            weights, constants = self._linear
            return embeddings @ weights.to(embeddings) + constants.to(embeddings)
        return self.target.values(embeddings, self.model)

    def embeddings(self, acts: Tensor, pictures: Tensor | None = None) -> Tensor:
        """Unit-length embeddings (rows, embed) of activations, differentiably.

        Args:
            acts: (rows, width) at a CLS site, (rows, tokens, width) at others.
            pictures: index of the picture of each row, whose other tokens are used; default row i is picture i.
        """
        context = self.context
        if context is not None and pictures is not None:
            context = context[pictures]
        return continue_from(self.model, self.site, acts, context)

    @cached_property
    def y(self) -> Tensor:
        """(batch, n): the targets, unchanged."""
        with torch.no_grad():
            return self.read(self.embeddings(self.acts))

    def directions(self, amounts: Tensor, pictures: Tensor | None = None) -> Tensor:
        """Sum of amounts times directions at every token: (rows, parts) to the shape of `acts`."""
        indices = self.indices if pictures is None else self.indices[pictures]
        amounts = amounts.to(self.decoder).reshape(-1, self.places)
        rows = self.decoder[indices.reshape(-1, self.places)]
        summed = torch.bmm(amounts[:, None], rows)[:, 0]
        return summed if self.acts.ndim == 2 else summed.view(-1, self.tokens, summed.shape[1])

    def states(self, amounts: Tensor) -> Tensor:
        """The targets with other codes in place, bias and error node unchanged: (batch, m, parts) to (batch, m, n).

        These are outputs of the spliced model; the picture's own amounts give `y`.
        """
        m = amounts.shape[1]
        if m > 1 and self.shares_rest:
            return self._states_of_versions(amounts.to(self.amounts))
        flat = amounts.reshape(-1, self.parts).to(self.amounts)
        pictures = torch.arange(self.batch, device=flat.device).repeat_interleave(m)
        result = []
        with torch.no_grad():
            for start in range(0, len(flat), _ROWS):
                which = pictures[start : start + _ROWS]
                change = self.directions(flat[start : start + _ROWS] - self.amounts[which], which)
                result.append(
                    self.read(self.embeddings(self.acts[which] + change.to(self.acts.dtype), which))
                )
        if not result:
            return self.y.new_zeros(self.batch, m, self.n_targets)
        return torch.cat(result).view(self.batch, m, -1)

    def _states_of_versions(self, amounts: Tensor) -> Tensor:
        assert self.context is not None
        result = amounts.new_empty(self.batch, amounts.shape[1], self.n_targets, dtype=self.y.dtype)
        with torch.no_grad():
            for picture in range(self.batch):
                row = slice(picture, picture + 1)
                for start in range(0, amounts.shape[1], _VERSIONS):
                    columns = slice(start, start + _VERSIONS)
                    moved = (amounts[picture, columns] - self.amounts[row]).to(self.decoder)
                    own = self.acts[row] + (moved @ self.decoder[self.indices[picture]]).to(self.acts.dtype)
                    found = versions_from(self.model, self.site, own[None], self.context[row])
                    assert found is not None
                    result[picture, columns] = self.read(found[0])
        return result

    @cached_property
    def y_reference(self) -> Tensor:
        """(batch, n): the targets with every part at its baseline, bias and error node unchanged."""
        return self.states(self.reference[:, None])[:, 0]

    # slopes and ablations

    def slopes(self, amounts: Tensor | None = None) -> Tensor:
        """`<dy/dx, v>` of every part, (batch, parts, n), at the picture's codes or at other codes (batch, parts)."""
        acts = self.acts
        if amounts is not None:
            acts = acts + self.directions(amounts - self.amounts).to(acts.dtype)
        if self.tail is not None:
            slopes = self.tail.patching(acts, self._unit_codes)
            return slopes if self._linear is not None else self._chained(self.tail.embeddings(acts), slopes)
        if self._forward_is_cheaper(self.parts):
            return self._forward(acts, lambda rows: self.decoder[self.indices[rows]], self.parts)
        return self._dot_with_parts(self.gradients(None if amounts is None else acts))

    def along(self, directions: Sequence[Tensor]) -> list[Tensor]:
        """`<dy/dx, direction>` of whole-site directions shaped like `acts`, each (batch, n)."""
        if self.tail is not None and self._linear is not None:
            return list(self.tail.gradient(self.acts, torch.stack(list(directions), 1)).unbind(1))
        if self.tail is None and self._forward_is_cheaper(len(directions)):
            together = torch.stack(list(directions), 1)
            return list(self._forward(self.acts, lambda rows: together[rows], len(directions)).unbind(1))
        gradients = self.gradients().flatten(2)
        return [
            torch.einsum("bnx,bx->bn", gradients, direction.flatten(1).to(gradients))
            for direction in directions
        ]

    def _forward_is_cheaper(self, directions: int) -> bool:
        """Whether one forward derivative per direction costs less than one backward pass per target."""
        return self.shares_rest and directions <= min(self.n_targets, self.model.embed_dim)

    def _forward(self, acts: Tensor, directions: Callable[[slice], Tensor], m: int) -> Tensor:
        """Derivatives along m directions per picture by forward mode through the last block: (batch, m, n)."""
        result = []
        step = max(1, _VERSIONS // m)
        for start in range(0, self.batch, step):
            rows = slice(start, start + step)
            own = acts[rows, None].expand(-1, m, -1).contiguous()
            moved = directions(rows).to(own)
            # Forward-mode derivatives need no graph.
            with torch.no_grad():
                embeddings, slopes = torch.func.jvp(partial(self._versions, rows=rows), (own,), (moved,))  # type: ignore[misc]
            if self._linear is not None:
                result.append(slopes.to(self.dtype) @ self._linear[0].to(slopes.device, self.dtype))
            else:
                result.append(self._chained(embeddings[:, 0], slopes))
        return torch.cat(result)

    def _versions(self, own: Tensor, rows: slice) -> Tensor:
        assert self.context is not None
        found = versions_from(self.model, self.site, own, self.context[rows])
        assert found is not None
        return found

    @cached_property
    def _unit_codes(self) -> SparseCodes:
        return SparseCodes(self.indices.int(), torch.ones_like(self.amounts), self.codes.n_latents)

    def _chained(self, embeddings: Tensor, slopes: Tensor) -> Tensor:
        """Slopes of a target that is not linear, from slopes of the embedding (batch, parts, embed): chain rule."""
        return torch.einsum("bpe,bne->bpn", slopes, self._jacobian_of_target(embeddings).to(slopes))

    def _jacobian_of_target(self, embeddings: Tensor) -> Tensor:
        """Derivatives of the targets by the embedding, (batch, n, embed)."""
        with torch.enable_grad():
            leaf = embeddings.detach().requires_grad_()
            values = self.read(leaf)
            rows = [
                torch.autograd.grad(values[:, number].sum(), leaf, retain_graph=True)[0]
                for number in range(self.n_targets)
            ]
        return torch.stack(rows, dim=1)

    def gradients(self, acts: Tensor | None = None) -> Tensor:
        """`dy/dx` at the site, (batch, n, [tokens,] width), by autograd from the site onward.

        One forward pass from the site, then one backward pass per target, or per axis of the embedding where there are
        more targets than axes. The dictionary is not part of the graph.
        """
        if acts is None:
            if self._gradients is None:
                found = self.gradients(self.acts)
                self._gradients = found if found.numel() <= _KEPT else None
                return found
            return self._gradients
        with torch.enable_grad():
            leaf = acts.detach().requires_grad_()
            embeddings = self.embeddings(leaf)
            through_embedding = self.n_targets > embeddings.shape[1]
            outputs = embeddings if through_embedding else self.read(embeddings)
            rows = [
                torch.autograd.grad(
                    outputs[:, number].sum(), leaf, retain_graph=number < outputs.shape[1] - 1
                )[0]
                for number in range(outputs.shape[1])
            ]
        gradients = torch.stack(rows, dim=1)
        if not through_embedding:
            return gradients
        if self._linear is not None:
            return torch.einsum("be...,en->bn...", gradients, self._linear[0].to(gradients))
        return torch.einsum("be...,bne->bn...", gradients, self._jacobian_of_target(embeddings))

    def _dot_with_parts(self, gradients: Tensor) -> Tensor:
        """(batch, n, [tokens,] width) to (batch, parts, n)."""
        width = gradients.shape[-1]
        gradients = gradients.reshape(self.batch, self.n_targets, self.tokens, width).to(self.dtype)
        indices = self.indices.view(self.batch, self.tokens, self.places)
        result = gradients.new_empty(self.batch, self.tokens, self.places, self.n_targets)
        for token in range(self.tokens):
            rows = self.decoder[indices[:, token]]  # (batch, places, width)
            result[:, token] = torch.bmm(rows, gradients[:, :, token].transpose(1, 2))
        return result.view(self.batch, self.parts, self.n_targets)

    def ablated(self) -> Tensor:
        """Exact effect of setting one part at a time to its baseline: `y(x) - y(x - change · v)`, (batch, parts, n)."""
        if self.tail is not None and self._linear is not None:
            return self.tail.exact(self.acts, self.merged_codes, amounts=self.changes)
        if self.tail is not None:
            # A target that is not linear is evaluated at the ablated embeddings.
            lost = self.tail.exact(self.acts, self.merged_codes, amounts=self.changes)
            before = self.tail.embeddings(self.acts)
            after = self.read((before[:, None] - lost).reshape(-1, lost.shape[-1]))
            return self.read(before)[:, None] - after.view(self.batch, self.parts, -1)
        result = self.y.new_zeros(self.batch, self.parts, self.n_targets)
        for picture in range(self.batch):
            moving = self.changes[picture].nonzero()[:, 0]
            amounts = self.amounts[picture].repeat(len(moving), 1)
            amounts[torch.arange(len(moving), device=moving.device), moving] = self.reference[picture, moving]
            if len(moving):
                after = self.only(picture).states(amounts[None])[0]
                result[picture, moving] = self.y[picture] - after
        return result

    def removal(self, directions: Tensor) -> Tensor:
        """Exact effect of subtracting directions, shaped like `acts`: (batch, n)."""
        with torch.no_grad():
            return self.y - self.read(self.embeddings(self.acts - directions.to(self.acts)))

    def only(self, picture: int) -> "Splice":
        """The splice of one picture of the batch."""
        other = object.__new__(Splice)
        kept = {"y", "y_reference", "merged_codes", "_unit_codes", "nodes"}
        other.__dict__.update({name: value for name, value in self.__dict__.items() if name not in kept})
        row = slice(picture, picture + 1)
        other.acts, other.batch, other._gradients = self.acts[row], 1, None
        other.context = None if self.context is None else self.context[row]
        other.indices, other.amounts = self.indices[row], self.amounts[row]
        other.reference = self.reference[row]
        other.codes = self.codes.rows(slice(picture * self.tokens, (picture + 1) * self.tokens))
        return other

    @cached_property
    def nodes(self) -> tuple[Tensor, Tensor]:
        """Error node and bias, each (batch, width) or (batch, tokens, width); acts = parts + bias + error exactly."""
        flat = self.acts.reshape(-1, self.acts.shape[-1])
        error = self.dictionary.error(flat, self.codes).view_as(self.acts)
        return error, self.acts - error - self.directions(self.amounts)
