"""Sparse codes: the active latents of each row, and their values.

Owns the two layouts (fixed k, and CSR for rows of varying length) and the conversions between them. Ignores the meaning
of latents and the dictionary. Start at `SparseCodes`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clipattr.display.wording import few
from clipattr.errors import DictionaryError
from clipattr.storage.documents import parse_json, schema_complaint
from clipattr.storage.files import read_tensors, save_tensors, tensors_digest
from clipattr.storage.paths import user_path

SCHEMA = 1


@dataclass(frozen=True)
class SparseCodes:
    """Codes of a batch: a (batch, n_latents) matrix of which only the active entries are stored.

    Fixed k: `indices` and `values` are (batch, k) and `offsets` is None; unused entries have value 0 and any
    index. CSR: `indices` and `values` are (active entries,), and row i has the entries `offsets[i]:offsets[i + 1]`.

    Args:
        indices: int32, 0 <= index < n_latents; a latent occurs at most once per row (padding aside).
        values: float32, in units of the site's activations (decoder rows have unit length).
        n_latents: the number of columns.
        offsets: int64 (batch + 1,) for CSR, else None.
        row_stats: (batch, 2) mean and deviation of each activation row, from dictionaries with `row_norm` only; their
            `decode` needs it.

    Raises:
        DictionaryError: indices and values of different shapes, or of another number of dimensions than the layout.

    >>> import torch
    >>> codes = SparseCodes.from_dense(torch.tensor([[0.0, 2.0, 0.0], [1.0, 0.0, 3.0]]))
    >>> codes.counts().tolist(), codes.offsets.tolist(), codes.indices.tolist()
    ([1, 2], [0, 1, 3], [1, 0, 2])
    """

    indices: Tensor
    values: Tensor
    n_latents: int
    offsets: Tensor | None = None
    row_stats: Tensor | None = None

    def __post_init__(self) -> None:
        if self.indices.shape != self.values.shape:
            raise DictionaryError(
                f"Indices and values of sparse codes must have one shape; got {tuple(self.indices.shape)} and "
                f"{tuple(self.values.shape)}."
            )
        if self.indices.ndim != (2 if self.offsets is None else 1):
            raise DictionaryError(
                f"Sparse codes are (batch, k), or flat with offsets; got {self.indices.ndim} dimensions "
                f"{'without' if self.offsets is None else 'with'} offsets."
            )

    @property
    def batch(self) -> int:
        """Number of rows."""
        return self.indices.shape[0] if self.offsets is None else len(self.offsets) - 1

    @property
    def shape(self) -> tuple[int, int]:
        """(batch, n_latents)."""
        return self.batch, self.n_latents

    @property
    def k(self) -> int | None:
        """Entries per row in the fixed layout; None for CSR."""
        return self.indices.shape[1] if self.offsets is None else None

    @property
    def nnz(self) -> int:
        """Number of entries that are not zero."""
        return int((self.values != 0).sum())

    @property
    def device(self) -> torch.device:
        """Device of the values."""
        return self.values.device

    def __len__(self) -> int:
        return self.batch

    def counts(self) -> Tensor:
        """(batch,) int64: active entries of each row (its L0)."""
        if self.offsets is None:
            return (self.values != 0).sum(-1)
        filled = offsets_of(self.values != 0)
        return filled[self.offsets[1:]] - filled[self.offsets[:-1]]

    def starts(self) -> Tensor:
        """(batch + 1,) int32: where each row's entries begin in storage order, and the end of the last row."""
        if self.offsets is not None:
            return self.offsets.to(torch.int32)
        step = max(self.indices.shape[1], 1)
        return torch.arange(0, self.indices.numel() + 1, step, dtype=torch.int32, device=self.device)

    def row_of_entries(self) -> Tensor:
        """(entries,) int64: the row that each stored entry belongs to, in storage order, padding included."""
        if self.offsets is None:
            rows = torch.arange(self.batch, device=self.device)
            return rows.repeat_interleave(self.indices.shape[1])
        rows = torch.arange(self.batch, device=self.device)
        return rows.repeat_interleave(self.offsets.diff())

    def rows(self, which: int | slice | Tensor | Sequence[int]) -> SparseCodes:
        """The codes of some rows, in the order asked for.

        Args:
            which: a row number (a batch of one; negative counts from the end), a slice, (n,) row numbers, or (batch,)
                bool.

        Raises:
            IndexError: a row that does not exist.
        """
        if isinstance(which, int):
            index = which + self.batch if which < 0 else which
            if not 0 <= index < self.batch:
                raise IndexError(
                    f"Row {which} was asked for; these codes have {self.batch} rows, counted from 0."
                )
            which = slice(index, index + 1)
        if isinstance(which, slice):
            start, stop, step = which.indices(self.batch)
            if step == 1:
                return self._from_to(start, max(start, stop))
            which = torch.arange(start, stop, step)
        chosen = torch.as_tensor(which, device=self.device)
        chosen = chosen.nonzero().squeeze(-1) if chosen.dtype == torch.bool else chosen.long()
        entries, offsets = chosen, None
        if self.offsets is not None:
            lengths = self.offsets.diff()[chosen]
            offsets = offsets_of(lengths)
            shift = (self.offsets[:-1][chosen] - offsets[:-1]).repeat_interleave(lengths)
            entries = torch.arange(int(offsets[-1]), device=self.device) + shift
        return self._taken(entries, offsets, chosen)

    def _from_to(self, start: int, stop: int) -> SparseCodes:
        """Views of consecutive rows."""
        if self.offsets is None:
            return self._taken(slice(start, stop), None, slice(start, stop))
        first, last = int(self.offsets[start]), int(self.offsets[stop])
        return self._taken(slice(first, last), self.offsets[start : stop + 1] - first, slice(start, stop))

    def _taken(self, entries: slice | Tensor, offsets: Tensor | None, rows: slice | Tensor) -> SparseCodes:
        stats = None if self.row_stats is None else self.row_stats[rows]
        return SparseCodes(self.indices[entries], self.values[entries], self.n_latents, offsets, stats)

    def __getitem__(self, which: int | slice | Tensor | Sequence[int]) -> SparseCodes:
        return self.rows(which)

    def to_csr(self) -> SparseCodes:
        """The same codes row after row without padding; latents keep their order within a row."""
        if self.offsets is not None:
            return self
        keep = self.values != 0
        return replace(
            self, indices=self.indices[keep], values=self.values[keep], offsets=offsets_of(keep.sum(-1))
        )

    def to_fixed(self, k: int | None = None) -> SparseCodes:
        """The same codes as (batch, k), padded with zeros; k defaults to the longest row.

        Raises:
            DictionaryError: a row has more than k active entries.
        """
        csr = self.to_csr()
        assert csr.offsets is not None
        lengths = csr.offsets.diff()
        longest = int(lengths.max()) if len(lengths) else 0
        k = max(longest, 1) if k is None else k
        if longest > k:
            raise DictionaryError(
                f"Codes with {longest} active latents in a row do not fit k = {k}; use a larger k."
            )
        indices = torch.zeros(self.batch, k, dtype=torch.int32, device=self.device)
        values = torch.zeros(self.batch, k, dtype=self.values.dtype, device=self.device)
        rows = csr.row_of_entries()
        places = torch.arange(len(rows), device=self.device) - csr.offsets[:-1][rows]
        indices[rows, places] = csr.indices
        values[rows, places] = csr.values
        return replace(self, indices=indices, values=values, offsets=None)

    def to_dense(self) -> Tensor:
        """(batch, n_latents) floats, for tests and small controls; for large dictionaries this exceeds memory."""
        dense = torch.zeros(self.batch, self.n_latents, dtype=self.values.dtype, device=self.device)
        rows = self.row_of_entries()
        return dense.index_put_(
            (rows, self.indices.reshape(-1).long()), self.values.reshape(-1), accumulate=True
        )

    def to_scipy(self) -> Any:
        """A `scipy.sparse.csr_array`, (batch, n_latents), sharing memory where it can."""
        from scipy.sparse import csr_array

        csr = self.to_csr()
        assert csr.offsets is not None
        parts = (csr.values.cpu().numpy(), csr.indices.cpu().numpy(), csr.offsets.cpu().numpy())
        return csr_array(parts, shape=self.shape)

    def to(self, device: torch.device | str) -> SparseCodes:
        """The same codes on another device."""
        moved = [None if t is None else t.to(device) for t in (self.offsets, self.row_stats)]
        return SparseCodes(
            self.indices.to(device), self.values.to(device), self.n_latents, moved[0], moved[1]
        )

    def for_latents(self, latents: Tensor | Sequence[int], keep: bool = True) -> SparseCodes:
        """The codes with all latents but these set to zero, or (`keep=False`) with these set to zero.

        Args:
            latents: (n,) latent numbers.
            keep: whether the latents keep their values or lose them.

        Raises:
            IndexError: a latent that does not exist.
        """
        chosen = torch.zeros(self.n_latents, dtype=torch.bool, device=self.device)
        chosen[torch.as_tensor(latents, dtype=torch.int64, device=self.device)] = True
        wanted = chosen[self.indices.long()] == keep
        return replace(self, values=torch.where(wanted, self.values, torch.zeros_like(self.values)))

    @staticmethod
    def cat(parts: Sequence[SparseCodes]) -> SparseCodes:
        """Rows of several codes, one after the other; fixed k if all share it, else CSR.

        Raises:
            DictionaryError: nothing to join, or the parts differ in `n_latents`.
        """
        if not parts:
            raise DictionaryError(
                "Cannot join an empty list of codes: the number of latents would be unknown."
            )
        sizes = {part.n_latents for part in parts}
        if len(sizes) > 1:
            raise DictionaryError(
                f"Cannot join codes over different numbers of latents: {few(sorted(sizes))}."
            )
        stats = None
        if all(part.row_stats is not None for part in parts):
            stats = torch.cat([part.row_stats for part in parts if part.row_stats is not None])
        if len({part.k for part in parts}) > 1:
            parts = [part.to_csr() for part in parts]
        indices = torch.cat([part.indices for part in parts])
        values = torch.cat([part.values for part in parts])
        if parts[0].offsets is None:
            return SparseCodes(indices, values, parts[0].n_latents, None, stats)
        lengths = torch.cat([part.offsets.diff() for part in parts if part.offsets is not None])
        return SparseCodes(indices, values, parts[0].n_latents, offsets_of(lengths), stats)

    @staticmethod
    def from_dense(dense: Tensor, k: int | None = None) -> SparseCodes:
        """Codes of a (batch, n_latents) tensor: CSR of its nonzero entries, or with k the k largest magnitudes.

        Raises:
            DictionaryError: a tensor that is not 2-D, or k above the number of latents.
        """
        if dense.ndim != 2:
            raise DictionaryError(f"Dense codes must be (batch, n_latents); got shape {tuple(dense.shape)}.")
        n_latents = dense.shape[1]
        if k is not None:
            if k > n_latents:
                raise DictionaryError(f"k is at most the number of latents, {n_latents}; got {k}.")
            indices = dense.abs().topk(k, dim=-1).indices
            return SparseCodes(indices.int(), dense.gather(-1, indices), n_latents)
        rows, columns = dense.nonzero(as_tuple=True)
        offsets = offsets_of(torch.bincount(rows, minlength=len(dense)))
        return SparseCodes(columns.int(), dense[rows, columns], n_latents, offsets)

    def save(self, path: str | Path, *, half: bool = False) -> None:
        """Write a safetensors file atomically.

        Args:
            path: the file.
            half: keep values as fp16 and indices as 16 bits where they fit: 4 bytes per entry.
        """
        narrow = half and self.n_latents <= 2**16
        indices = self.indices.to(torch.uint16) if narrow else self.indices.to(torch.int32)
        tensors = {"indices": indices.contiguous(), "values": self.values.contiguous()}
        if half:
            tensors["values"] = tensors["values"].half()
        if self.offsets is not None:
            tensors["offsets"] = self.offsets.contiguous()
        if self.row_stats is not None:
            tensors["row_stats"] = self.row_stats.contiguous()
        # One metadata entry: safetensors writes several in no fixed order, and equal codes should give equal bytes.
        head = json.dumps(
            {"schema": SCHEMA, "n_latents": self.n_latents, "digest": tensors_digest(tensors, by="sha256")}
        )
        save_tensors(user_path(path), tensors, {"clipattr_codes": head})

    @staticmethod
    def load(path: str | Path) -> SparseCodes:
        """Read what `save` wrote; values come back as float32, indices as int32.

        Raises:
            DictionaryError: not a codes file, or one of a newer version.
        """
        try:
            tensors, meta = read_tensors(path)
        except OSError as error:
            raise DictionaryError(f"Cannot read codes from {path}: {error}") from error
        except Exception as error:  # safetensors raises its own class for damaged headers
            raise DictionaryError(f"{path} is not a readable safetensors file: {error}") from error
        try:
            if "clipattr_codes" in meta:
                meta = parse_json(meta["clipattr_codes"])
            whole = {name: int(meta.get(name, 0)) for name in ("schema", "n_latents")}
        except (ValueError, TypeError, AttributeError, OverflowError) as error:
            raise DictionaryError(f"{path} has unreadable metadata: {error}") from error
        if "n_latents" not in meta or not {"indices", "values"} <= tensors.keys():
            raise DictionaryError(
                f"{path} holds no sparse codes: indices, values and n_latents are needed; it has the tensors "
                f"{few(sorted(tensors))} and the metadata {few(sorted(meta))}."
            )
        if "digest" in meta and meta["digest"] != tensors_digest(tensors, by="sha256"):
            raise DictionaryError(
                f"{path} is damaged: its numbers differ from the recorded digest. Encode and save the codes again."
            )
        if told := schema_complaint(path, whole["schema"], SCHEMA, "dictionary.encode(acts)", oldest=0):
            raise DictionaryError(told)
        return SparseCodes(
            tensors["indices"].to(torch.int32),
            tensors["values"].float(),
            whole["n_latents"],
            tensors.get("offsets"),
            tensors.get("row_stats"),
        )


def offsets_of(counts: Tensor) -> Tensor:
    """(n + 1,) int64: where each of n consecutive groups begins, from their sizes, and the end of the last.

    >>> offsets_of(torch.tensor([2, 0, 3])).tolist()
    [0, 2, 2, 5]
    """
    return torch.nn.functional.pad(counts.cumsum(0), (1, 0))


def checked_latents(latents: Any, n_latents: int, asked: str = "the call") -> Tensor:
    """Latent numbers as an int64 tensor (n,).

    Raises:
        DictionaryError: a number that the dictionary does not have; `asked` names who asked for it.
    """
    wanted = torch.as_tensor(latents).long().flatten()
    if len(wanted) and not 0 <= int(wanted.min()) <= int(wanted.max()) < n_latents:
        raise DictionaryError(
            f"{asked} names latents {int(wanted.min())} to {int(wanted.max())}; the dictionary has {n_latents}, "
            "counted from 0."
        )
    return wanted


def amounts_of(codes: SparseCodes, latents: Sequence[int] | Tensor) -> Tensor:
    """Codes of given latents: (rows, latents), 0 where a latent is not active.

    Raises:
        DictionaryError: a latent that the dictionary does not have, or one named twice.
    """
    wanted = checked_latents(latents, codes.n_latents).to(codes.values.device)
    if len(wanted.unique()) < len(wanted):
        raise DictionaryError(f"a latent is named twice among {few(wanted.tolist())}. Name each once.")
    column = torch.full((codes.n_latents,), -1, device=wanted.device)
    column[wanted] = torch.arange(len(wanted), device=wanted.device)
    entries = column[codes.indices.reshape(-1).long()]
    values, rows = codes.values.reshape(-1), codes.row_of_entries()
    found = (entries >= 0) & (values != 0)
    result = values.new_zeros(len(codes), len(wanted))
    return result.index_put_((rows[found], entries[found]), values[found], accumulate=True)
