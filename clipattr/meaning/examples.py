"""Examples: the inputs with the largest activation of each latent, collected in one pass.

Owns the running top-m per latent, exact for any order and any sharding, and examples from other quantiles. Ignores the
content of pictures. Start at `Examples.update`.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from clipattr.errors import DataError
from clipattr.storage.files import save_tensors
from clipattr.storage.paths import user_path

if TYPE_CHECKING:
    pass


class Examples:
    """The m inputs with the largest value per latent; ties are ranked by smaller index.

    Only positive values count. The result depends only on the set of (picture, latent, value) seen, so shards may be
    merged in any order. Memory is n_latents × m × 16 bytes for any number of pictures.

    Args:
        n_latents: number of latents.
        m: examples per latent.

    Attributes:
        indices: (n_latents, m) int64, picture indices by falling value; -1 where there are fewer than m.
        values: (n_latents, m) float32, activations or attributions; 0 where empty.
        tokens: (n_latents, m) int32, the token of the value where codes came per token, else -1.

    Raises:
        DataError: fewer than one latent or example.

    >>> from clipattr import Examples, SparseCodes
    >>> examples = Examples(n_latents=2, m=2)
    >>> examples.update(SparseCodes.from_dense(torch.tensor([[1.0, 0.0], [3.0, 0.0], [2.0, 5.0]])))
    >>> examples.of(0), examples.of(1)  # pictures by falling activation
    ([1, 2], [2])
    """

    def __init__(self, n_latents: int, m: int = 20) -> None:
        if n_latents < 1 or m < 1:
            raise DataError(
                f"Examples need at least one latent and m of at least 1; got n_latents={n_latents}, m={m}."
            )
        self.n_latents, self.m = n_latents, m
        self.indices = torch.full((n_latents, m), -1, dtype=torch.int64)
        self.values = torch.zeros((n_latents, m))
        self.tokens = torch.full((n_latents, m), -1, dtype=torch.int32)

    def __repr__(self) -> str:
        live = int((self.indices[:, 0] >= 0).sum())
        return f"<Examples: {live} of {self.n_latents} latents have some, at most {self.m} each>"

    def latents(self, which: slice) -> "Examples":
        """The examples of some of the latents."""
        indices = self.indices[which]
        part = Examples(max(1, len(indices)), self.m)
        part.indices, part.values, part.tokens = indices, self.values[which], self.tokens[which]
        return part

    def update(
        self,
        codes: Any,
        first_index: int = 0,
        *,
        indices: Tensor | np.ndarray | None = None,
        values: Tensor | None = None,
        tokens: Tensor | None = None,
    ) -> None:
        """Add a batch.

        Args:
            codes: SparseCodes (batch, n_latents).
            first_index: index of the batch's first picture; the others follow.
            indices: (batch,) picture indices, in place of `first_index`; each picture only once over all updates and
                merges; -1 omits a row.
            values: numbers to rank by, shaped like `codes.values`, for instance attributions to a target; default the
                activations.
            tokens: token of each entry, shaped like `codes.values`; stored with each example.

        Raises:
            DataError: codes of another number of latents, or values or indices of another shape.
        """
        if codes.n_latents != self.n_latents:
            raise DataError(
                f"These examples are of {self.n_latents} latents; the codes have {codes.n_latents}."
            )
        pictures, latents, activations = entries(codes)
        if values is not None:
            if values.shape != codes.values.shape:
                raise DataError(
                    f"values must be aligned with codes.values {tuple(codes.values.shape)}; got {tuple(values.shape)}."
                )
            activations = values.detach().reshape(-1).float().cpu()
        token = torch.full_like(latents, -1) if tokens is None else tokens.reshape(-1).cpu().long()
        if indices is None:
            pictures = pictures + first_index
        else:
            own = torch.as_tensor(indices, dtype=torch.int64)
            if own.shape != (len(codes),):
                raise DataError(
                    f"indices must hold one picture index per row ({len(codes)}); got {tuple(own.shape)}."
                )
            pictures = own[pictures]
        keep = (activations > 0) & (pictures >= 0)
        # Dropping values below a latent's current m-th first keeps the sort small.
        floor = self.values[:, -1][latents]
        keep &= activations >= floor
        self._insert(latents[keep], pictures[keep], activations[keep], token[keep])

    def merge(self, other: "Examples") -> "Examples":
        """Add the examples of another pass, in place; equal to one pass over both.

        Raises:
            DataError: another number of latents or examples.
        """
        if (other.n_latents, other.m) != (self.n_latents, self.m):
            raise DataError(
                f"Cannot merge examples of {other.n_latents} latents × {other.m} into {self.n_latents} × {self.m}."
            )
        filled = other.indices >= 0
        latents = torch.nonzero(filled)[:, 0]
        self._insert(latents, other.indices[filled], other.values[filled], other.tokens[filled].long())
        return self

    def _insert(self, latents: Tensor, pictures: Tensor, values: Tensor, tokens: Tensor) -> None:
        if not len(latents):
            return
        touched = torch.unique(latents)
        old = self.indices[touched] >= 0
        old_latents = touched[:, None].expand(-1, self.m)[old]
        latents = torch.cat([latents, old_latents])
        pictures = torch.cat([pictures, self.indices[touched][old]])
        values = torch.cat([values, self.values[touched][old]])
        tokens = torch.cat([tokens, self.tokens[touched][old].long()])
        order = torch.from_numpy(np.lexsort((pictures.numpy(), -values.numpy(), latents.numpy())))
        latents, pictures, values, tokens = latents[order], pictures[order], values[order], tokens[order]
        place = _place_in_run(latents)
        keep = place < self.m
        self.indices[touched], self.values[touched], self.tokens[touched] = -1, 0.0, -1
        self.indices[latents[keep], place[keep]] = pictures[keep]
        self.values[latents[keep], place[keep]] = values[keep]
        self.tokens[latents[keep], place[keep]] = tokens[keep].int()

    @property
    def counts(self) -> Tensor:
        """Number of examples of each latent, (n_latents,)."""
        return (self.indices >= 0).sum(1)

    def of(self, latent: int) -> list[int]:
        """Picture indices of one latent, strongest first."""
        return [index for index in self.indices[latent].tolist() if index >= 0]

    def save(self, path: str | Path) -> None:
        """Write as safetensors; picture indices as int32 where they fit."""
        small = self.indices.max() < 2**31
        tensors = {"indices": self.indices.int() if small else self.indices, "values": self.values}
        if bool((self.tokens >= 0).any()):
            tensors["tokens"] = self.tokens
        save_tensors(user_path(path), tensors)

    @classmethod
    def load(cls, path: str | Path) -> "Examples":
        """Read what `save` wrote."""
        from safetensors.torch import load_file

        tensors = load_file(path)
        examples = cls(*tensors["indices"].shape)
        examples.indices, examples.values = tensors["indices"].long(), tensors["values"]
        examples.tokens = tensors.get("tokens", examples.tokens)
        return examples


def entries(codes: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Row, latent and value of every stored entry of SparseCodes, each (entries,), in storage order."""
    values = codes.values.detach().float().cpu()
    latents = codes.indices.detach().cpu().long()
    if codes.offsets is None:
        rows = torch.arange(len(codes))[:, None].expand(values.shape).reshape(-1)
    else:
        rows = torch.repeat_interleave(torch.arange(len(codes)), codes.offsets.cpu().diff())
    return rows, latents.reshape(-1), values.reshape(-1)


def strongest_token(token_codes: Any, tokens: int, *, how: str = "max") -> tuple[Any, Tensor]:
    """Pool codes per token to codes per picture.

    Args:
        token_codes: SparseCodes (batch × tokens, n_latents), the tokens of a picture adjacent.
        tokens: tokens per picture.
        how: "max" for the largest value over a picture's tokens, "mean" for the mean over all of them.

    Returns:
        SparseCodes (batch, n_latents) in CSR, and for each entry the token with the largest value (the first of ties),
        int64.
    """
    from clipattr.dictionaries.codes import SparseCodes, offsets_of

    if how not in ("max", "mean"):
        raise DataError(f"how must be 'max' or 'mean'; got {how!r}.")
    if len(token_codes) % tokens:
        raise DataError(
            f"{len(token_codes)} rows of codes are not a whole number of pictures of {tokens} tokens."
        )
    rows, latents, values = entries(token_codes)
    active = values > 0
    rows, latents, values = rows[active], latents[active], values[active]
    pictures, token = rows // tokens, rows % tokens
    order = torch.from_numpy(np.lexsort((token.numpy(), -values.numpy(), latents.numpy(), pictures.numpy())))
    pictures, latents, values, token = pictures[order], latents[order], values[order], token[order]
    key = pictures * token_codes.n_latents + latents
    first = torch.ones(len(key), dtype=torch.bool)
    first[1:] = key[1:] != key[:-1]
    pooled = values[first]
    if how == "mean":
        pooled = torch.zeros(int(first.sum())).index_add_(0, first.long().cumsum(0) - 1, values) / tokens
    offsets = offsets_of(torch.bincount(pictures[first], minlength=len(token_codes) // tokens))
    return SparseCodes(latents[first].int(), pooled, token_codes.n_latents, offsets), token[first]


def by_latent(codes: Any, rows: Tensor | np.ndarray | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Active entries sorted by latent: offsets (n_latents + 1,), pictures (active,), values (active,).

    Within a latent, pictures are in rising order. `rows` restricts to these pictures; indices remain those of `codes`.
    """
    pictures, latents, values = entries(codes)
    keep = values > 0
    if rows is not None:
        allowed = torch.zeros(len(codes), dtype=torch.bool)
        allowed[torch.as_tensor(rows, dtype=torch.int64)] = True
        keep &= allowed[pictures]
    pictures, latents, values = pictures[keep], latents[keep], values[keep]
    order = torch.argsort(latents, stable=True)
    offsets = torch.zeros(codes.n_latents + 1, dtype=torch.int64)
    offsets[1:] = torch.bincount(latents, minlength=codes.n_latents).cumsum(0)
    return offsets, pictures[order], values[order]


def quantile_examples(
    codes: Any,
    bands: Iterable[tuple[float, float]] = ((0.0, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1.0)),
    m: int = 8,
    *,
    rows: Tensor | np.ndarray | None = None,
) -> Tensor:
    """Examples from quantile bands of each latent's positive activations.

    The band (0.25, 0.5) holds the active pictures whose rank by rising value lies between the two quantiles. Up to m of
    them are taken at even spacing.

    Returns:
        (n_latents, bands, m) int64 picture indices; -1 where empty.
    """
    limits = list(bands)
    offsets, pictures, values = by_latent(codes, rows)
    latent = torch.repeat_interleave(torch.arange(codes.n_latents), offsets.diff())
    order = torch.from_numpy(np.lexsort((pictures.numpy(), values.numpy(), latent.numpy())))
    pictures = pictures[order]
    result = torch.full((codes.n_latents, len(limits), m), -1, dtype=torch.int64)
    count = offsets.diff()
    for band, (low, high) in enumerate(limits):
        if not 0 <= low < high <= 1:
            raise DataError(f"A band must be 0 <= low < high <= 1; got ({low}, {high}).")
        start = torch.ceil(count * low).long()
        size = torch.ceil(count * high).long() - start
        for place in range(m):
            taken = torch.where(size > m, ((place + 0.5) * size / m).long(), torch.full_like(size, place))
            has = place < size
            result[has, band, place] = pictures[(offsets[:-1] + start + taken)[has]]
    return result


def _place_in_run(sorted_values: Tensor) -> Tensor:
    """Position within each run of equal numbers: 0, 1, 2, …"""
    count = len(sorted_values)
    place = torch.arange(count)
    starts = torch.ones(count, dtype=torch.bool)
    starts[1:] = sorted_values[1:] != sorted_values[:-1]
    first = torch.where(starts, place, torch.zeros_like(place)).cummax(0).values
    return place - first
