"""Activation stores: activations on disk in shards with checksums, resumable and memory-mapped.

Owns the folder layout, writing shards, and reading in order or shuffled. Ignores where activations come from
(`studies/encode.py`) and what is trained on them. Start at `ActivationStore.open`.

Layout: `manifest.json` (inputs and settings), per site a folder of raw little-endian shards `00000.bin`, and per shard
a record `00000.json` with row counts, checksums and skipped pictures. The record is written last; a shard without a
record counts as missing. A store encoded with an evaluator also holds `pictures/00000.safetensors`: for each picture
the evaluator's unit embedding, a fingerprint for near-duplicates and a thumbnail.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from clipattr.errors import DataError
from clipattr.storage.files import digest, file_digest
from clipattr.storage.folder import PICTURES, ShardFolder
from clipattr.storage.orders import batch_orders, block_orders, gather, mixed, unmixed
from clipattr.storage.paths import user_path
from clipattr.storage.shards import (
    BLOCK_BYTES,
    DTYPES,
    MANIFEST,
    SCHEMA,
    DamagedShard,
    as_tensor,
    differences,
    read_manifest,
    read_record,
    write_document,
)

# Pseudo-site of the tower's output: unit embeddings.
POOLED = "image.pooled"


class ActivationStore(ShardFolder):
    """A folder of activations of one model on one collection of pictures.

    Rows are tokens, ordered by picture and, within a picture, by token, unless the store was shuffled when it was
    written (`shuffle`). In both cases `places` and `token_numbers` give the origin of each row. A store object reads
    one site; `at(site)` returns the same store at another site.

    >>> import clipattr as ca
    >>> study = ca.open_study("picture-world")
    >>> store = ca.collect_activations(study.model, study.images.select(range(8)), "image.-1.cls", progress=False)
    >>> store.read(0, 8).shape, store.places.tolist()
    (torch.Size([8, 192]), [0, 1, 2, 3, 4, 5, 6, 7])
    """

    def __init__(self, path: Path, manifest: dict[str, Any], site: str | None = None) -> None:
        super().__init__(path, manifest)
        self.site = site or next(iter(manifest["sites"]), PICTURES)
        self._maps: dict[int, Tensor] = {}
        self.refresh()

    # Creating and opening

    @classmethod
    def create(
        cls,
        path: str | Path,
        model: Any,
        sites: Mapping[str, tuple[int, ...]],
        *,
        pictures: int,
        fingerprint: str,
        batch: int = 64,
        dtype: str = "float16",
        shard_pictures: int = 4096,
        shuffle: int | None = None,
        resume: bool = True,
        evaluator: Any = None,
        thumbnails: bool = False,
        renew: bool = False,
    ) -> ActivationStore:
        """Create an empty store, or open one that was created with exactly these settings.

        Args:
            path: folder of the store.
            model: the encoder; its reference, weights_hash and preprocess_id are stored.
            sites: shape of one picture's activation at each site, e.g. {"image.-1.cls": (512,)}.
            pictures, fingerprint: size and fingerprint of the collection.
            batch: pictures per forward pass; stored in the manifest, since another size may change last digits.
            dtype: "float16" or "float32", of the stored activations.
            shard_pictures: pictures per shard.
            shuffle: seed of the order in which the store is written: pictures are permuted over the whole store, rows
                within each shard. Training then reads whole blocks, about as fast as in order. None keeps the given
                order.
            resume: open a store with these settings that the folder already holds; False refuses any store there.
            evaluator: second model whose embeddings are stored too, with fingerprints; None: activations only.
            thumbnails: with an evaluator, whether thumbnails of the pictures are stored.
            renew: accept a store of other pictures; a shard then counts as missing if its pictures differ.

        Raises:
            DataError: no site and no evaluator, another dtype than float16 or float32, or a size below 1; the folder
                holds a store with other settings (both values are named), or resume is False and it holds any store.
        """
        path = user_path(path)
        if not sites and evaluator is None:
            raise DataError("A store needs at least one site or an evaluator; got neither.")
        if dtype not in DTYPES:
            raise DataError(f"A store holds float16 or float32; got dtype {dtype!r}.")
        if pictures < 1 or batch < 1 or shard_pictures < 1:
            raise DataError(
                f"A store needs at least one picture per collection, batch and shard; got {pictures} pictures, batch "
                f"{batch}, shard_pictures {shard_pictures}."
            )
        manifest: dict[str, Any] = {
            "schema": SCHEMA,
            "format": "clipattr-store",
            "model": model.reference,
            "model_hash": model.weights_hash,
            "preprocess": model.preprocess_id,
            "forward": getattr(model, "facts", {}),
            "sites": {
                name: {"tokens": shape[0] if len(shape) == 2 else 1, "width": shape[-1]}
                for name, shape in sites.items()
            },
            "dtype": dtype,
            "pictures": pictures,
            "fingerprint": fingerprint,
            "batch": batch,
            "shard_pictures": shard_pictures,
        }
        if shuffle is not None:
            manifest["shuffle"] = int(shuffle)
        if evaluator is not None:
            about = {"hash": evaluator.weights_hash, "preprocess": evaluator.preprocess_id}
            about["forward"] = getattr(evaluator, "facts", {})
            manifest["evaluator"] = {**about, "reference": evaluator.reference, "thumbnails": thumbnails}
        if (path / MANIFEST).exists():
            if not resume:
                raise DataError(f"{path} already holds a store; pass resume=True or choose another folder.")
            found = read_manifest(path)
            for part, known in ((manifest, found), (manifest.get("evaluator"), found.get("evaluator"))):
                if part and isinstance(known, dict) and "forward" not in known:
                    del part["forward"]  # stores of earlier versions do not record it
            changing = {"pictures": pictures, "fingerprint": fingerprint} if renew else {}
            if told := differences({**found, **changing}, manifest):
                raise DataError(
                    f"The store in {path} was made with other settings ({told}). Use these settings, or another folder."
                )
            if found == manifest:
                return cls(path, manifest)
        for name in (*sites, *([PICTURES] if evaluator is not None else [])):
            (path / name).mkdir(parents=True, exist_ok=True)
        made = cls(path, manifest)
        with made.writing():
            write_document(path / MANIFEST, manifest, indent=2)
        return made

    @classmethod
    def open(cls, path: str | Path, site: object | None = None) -> ActivationStore:
        """Open a store for reading, at one of its sites (default: the first).

        Raises:
            DataError: there is no store, it is damaged or of a newer schema, or it lacks this site.
        """
        return cls(user_path(path), read_manifest(user_path(path))).at(site)

    def at(self, site: object | None) -> ActivationStore:
        """The same store at another of its sites; DataError if it holds no such site."""
        name = self.site if site is None else str(site)
        if name not in self.manifest["sites"]:
            raise DataError(
                f"The store in {self.path} has no activations at {name!r}; its sites are "
                f"{', '.join(self.manifest['sites']) or 'none'}."
            )
        return self if name == self.site else ActivationStore(self.path, self.manifest, name)

    # Reading

    def __len__(self) -> int:
        """Rows (tokens) stored so far at this site."""
        return int(self._starts[-1])

    @property
    def width(self) -> int:
        """Components of an activation at this site."""
        return int(self.manifest["sites"][self.site]["width"])

    @property
    def tokens(self) -> int:
        """Rows per picture at this site."""
        return int(self.manifest["sites"][self.site]["tokens"])

    @property
    def model_hash(self) -> str:
        """Hash of the weights that encoded the pictures."""
        return str(self.manifest["model_hash"])

    @property
    def fingerprint(self) -> str:
        """16 hex digits over the checksums of this site's shards."""
        sums = [shard["files"][self.site]["sha256"] for shard in self.shards]
        return digest(self.site, *sums, by="sha256")

    @property
    def complete(self) -> bool:
        """Whether every picture has been encoded or skipped."""
        return len(self.shards) * self.manifest["shard_pictures"] >= self.manifest["pictures"]

    @property
    def skipped(self) -> list[tuple[str, str]]:
        """(id, reason) of the pictures that could not be read."""
        return [(name, reason) for shard in self.shards for name, reason in shard["skipped"]]

    @property
    def notes(self) -> list[str]:
        """Remarks about how the activations were computed."""
        sizes = [shard["smallest"] for shard in self.shards if shard.get("smallest")]
        told = "The batch did not fit into memory in {} of {} shards; as few as {} pictures were encoded at a time "
        told += "there, which may change last digits."
        return [told.format(len(sizes), len(self.shards), min(sizes))] if sizes else []

    @property
    def places(self) -> np.ndarray:
        """Number of the picture that each row comes from, (rows,) int64."""
        order, parts = mixed(self.manifest["pictures"], self.shuffle), []
        for number, shard in enumerate(self.shards):
            places = order[shard["first"] : shard["last"]]
            rows = np.repeat(places[~np.isin(places, shard["left_out"])], self.tokens)
            parts.append(rows[mixed(len(rows), self.shuffle, number)])
        return np.concatenate([np.empty(0, np.int64), *parts])

    @property
    def token_numbers(self) -> np.ndarray:
        """Number of the token at this site that each row comes from, (rows,) int64."""
        sizes = np.diff(self._starts).tolist()
        parts = [mixed(rows, self.shuffle, number) % self.tokens for number, rows in enumerate(sizes)]
        return np.concatenate([np.empty(0, np.int64), *parts])

    def read(self, start: int, stop: int) -> Tensor:
        """Rows from `start` up to, not including, `stop`: (stop - start, width) float32.

        Raises:
            DataError: rows that the store does not have, or a damaged shard (`DamagedShard`).
        """
        if not 0 <= start <= stop <= len(self):
            raise DataError(
                f"Rows {start} to {stop} were asked for; the store has {len(self)}, counted from 0."
            )
        out = torch.empty(stop - start, self.width)
        done = start
        while done < stop:
            shard = int(np.searchsorted(self._starts, done, side="right")) - 1
            end = min(stop, int(self._starts[shard + 1]))
            offset = int(self._starts[shard])
            out[done - start : end - start] = self._tensor(shard)[done - offset : end - offset]
            done = end
        return out

    def take(self, rows: np.ndarray) -> Tensor:
        """The given rows in ascending order.

        Args:
            rows: (n,) row numbers in any order.

        Returns:
            (n, width) float32, sorted by row number, not in the order of `rows`.

        Raises:
            DataError: a row that the store does not have, or a damaged shard (`DamagedShard`).
        """
        rows = np.sort(np.asarray(rows, dtype=np.int64))
        if len(rows) and not 0 <= rows[0] <= rows[-1] < len(self):
            raise DataError(
                f"Rows {rows[0]} to {rows[-1]} were asked for; the store has {len(self)}, counted from 0."
            )
        out = torch.empty(len(rows), self.width)
        cuts = np.searchsorted(rows, self._starts)
        for shard in np.flatnonzero(np.diff(cuts)).tolist():
            first, last = int(cuts[shard]), int(cuts[shard + 1])
            which = torch.from_numpy(rows[first:last] - int(self._starts[shard]))
            gather(self._tensor(shard), which, out[first:last])
        return out

    def shuffled(self, batch: int, seed: int = 0, epoch: int = 0, start: int = 0) -> Iterator[Tensor]:
        """Full float32 batches (batch, width) of one epoch from batch number `start` on.

        The order depends on seed and epoch only. Every row occurs once, except rows that do not fill a last batch. A
        store that was shuffled when written is read in whole blocks (`block_orders`), any other store row by row
        (`batch_orders`), which is much slower.

        Raises:
            DataError: a shard is missing or damaged (`DamagedShard`).
        """
        if self.shuffle is None:
            for rows in itertools.islice(batch_orders(len(self), batch, seed, epoch), start, None):
                yield self.take(rows)
            return
        # Blocks of half a batch: few long copies per batch, and other pairs of blocks in every epoch.
        block = max(1, batch // 2, BLOCK_BYTES // (self.width * DTYPES[self.manifest["dtype"]].itemsize))
        orders = block_orders(self._starts, batch, seed, epoch, block)
        # No variable holds the batch: it would stay in memory while the next one is read.
        yield from map(self._joined, itertools.islice(orders, start, None))

    def pictures_of(self, number: int) -> tuple[np.ndarray, Tensor | None, dict[str, Tensor]]:
        """Content of a shard, one row per picture, in the order of `shard_places`.

        Returns:
            numbers of the pictures in the collection, (pictures,) int64; activations at this site,
            (pictures, tokens, width) in the stored dtype, or None for a store without sites; and, for a store with an
            evaluator, the tensors evaluator (pictures, embed) float16, fingerprints (pictures,) int64,
            thumbnail_lengths (pictures,) int64 and thumbnails (bytes,) uint8, else an empty dict.

        Raises:
            DamagedShard: a file is missing or differs from its checksum.
        """
        shard = self.shards[number]
        places = mixed(self.manifest["pictures"], self.shuffle)[shard["first"] : shard["last"]]
        places = places[~np.isin(places, shard["left_out"])]
        acts, kept = None, {}
        if self.manifest["sites"]:
            rows = unmixed(self._tensor(number).numpy(), self.shuffle, number)
            acts = as_tensor(rows).view(len(places), self.tokens, self.width)
        if "evaluator" in self.manifest:
            file, known = self._file(number, PICTURES), shard["files"][PICTURES]
            if not file.is_file() or file_digest(file, "sha256", 64) != known["sha256"]:
                raise DamagedShard(file, "missing or damaged", self._record(number))
            kept = load_file(file)
        return places, acts, kept

    def check(self) -> None:
        """Read every shard once, also those that follow a missing shard.

        Raises:
            DataError: the size or checksum of a shard differs from its record (`DamagedShard`), or a value is NaN or
                infinite; the error names the first such shard and row.
        """
        self.refresh()
        for number in range(self.shard_count):
            shard = read_record(self._record(number))
            for name, record in ({} if shard is None else shard["files"]).items():
                file = self._file(number, name)
                if not file.is_file() or file_digest(file, "sha256", 64) != record["sha256"]:
                    raise DamagedShard(file, "missing or damaged", self._record(number))
                if name == PICTURES:
                    continue
                width = self.manifest["sites"][name]["width"]
                acts = np.fromfile(file, DTYPES[self.manifest["dtype"]]).reshape(-1, width)
                bad = np.flatnonzero(~np.isfinite(acts).all(1))
                if len(bad):
                    raise DataError(f"Shard {file} holds NaN or infinite values, first in row {bad[0]}.")

    def refresh(self) -> None:
        """Read the records of the shards again."""
        self.shards: list[dict[str, Any]] = []
        while (record := read_record(self._record(len(self.shards)))) is not None:
            self.shards.append(record)
        rows = [shard["files"][self.site]["rows"] for shard in self.shards]
        self._starts = np.concatenate([[0], np.cumsum(rows, dtype=np.int64)]).astype(np.int64)

    # Internals

    def _joined(self, pieces: list[tuple[int, int, int]]) -> Tensor:
        sizes = [last - first for _, first, last in pieces]
        out = torch.empty(sum(sizes), self.width)
        for part, (shard, first, last) in zip(out.split(sizes), pieces, strict=True):
            part.copy_(self._tensor(shard)[first:last])
        return out

    def _tensor(self, number: int) -> Tensor:
        """A shard's rows, mapped into memory: (rows, width) in the stored dtype."""
        if number not in self._maps:
            known, file = self.shards[number]["files"][self.site], self._file(number, self.site)
            rows, dtype = known["rows"], DTYPES[self.manifest["dtype"]]
            whole = file.is_file() and file.stat().st_size == rows * self.width * dtype.itemsize
            if not whole or file_digest(file, "sha256", 64) != known["sha256"]:
                what = "damaged" if whole else "missing or cut short"
                raise DamagedShard(file, what, self._record(number))
            # A file without rows cannot be mapped.
            array = np.memmap(file, dtype, "r") if rows else np.empty(0, dtype)
            self._maps[number] = as_tensor(array).view(rows, self.width)
        return self._maps[number]
