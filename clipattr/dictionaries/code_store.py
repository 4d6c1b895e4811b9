"""Codes on disk: the sparse codes of a whole activation store in shards, at most 4 k + 16 bytes per row.

Owns the folder: a manifest that names dictionary and activations, and safetensors shards of float16 values with 16-bit
indices where they fit. One shard is in memory at a time; after an interruption the same call continues. Start at
`encode_store`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from tqdm.auto import tqdm

from clipattr.dictionaries.codes import SparseCodes
from clipattr.dictionaries.sae import Dictionary
from clipattr.errors import DictionaryError
from clipattr.storage.documents import discard, read_json, schema_complaint, sweep
from clipattr.storage.shards import MANIFEST, differences, digest, locked, write_text

FORMAT, SCHEMA = "clipattr-codes", 1


class CodeStore:
    """The codes of an activation store's rows, read by row number.

    Args:
        path: the folder that `encode_store` wrote.

    Raises:
        DictionaryError: no manifest there, one of a newer schema, or a damaged one.

    Example: see `encode_store`.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self.manifest: dict[str, Any] = read_json(self.path / MANIFEST)
        except (OSError, ValueError) as error:
            raise DictionaryError(f"{self.path} holds no codes: {self.path / MANIFEST}: {error}") from error
        known = isinstance(self.manifest, dict) and self.manifest.get("format") == FORMAT
        if not known:
            raise DictionaryError(f"{self.path / MANIFEST} does not describe the codes of a store.")
        again = f"encode_store(dictionary, store, {str(self.path)!r}) after deleting the folder"
        if told := schema_complaint(self.path, self.manifest.get("schema"), SCHEMA, again):
            raise DictionaryError(told)
        sizes = [self.manifest.get(name) for name in ("rows", "n_latents", "shard_rows")]
        if not all(isinstance(size, int) and 0 < size < 10**12 for size in sizes):
            raise DictionaryError(
                f"{self.path / MANIFEST} is damaged: sizes {sizes!r:.100} that no codes have."
            )

    def __len__(self) -> int:
        return int(self.manifest["rows"])

    @property
    def n_latents(self) -> int:
        """Latents of the dictionary that made the codes."""
        return int(self.manifest["n_latents"])

    @property
    def complete(self) -> bool:
        """Whether every shard has been written."""
        return all(self._file(number).is_file() for number in range(self._count()))

    def read(self, start: int, stop: int) -> SparseCodes:
        """Codes of rows start to stop.

        Raises:
            DictionaryError: rows outside the store, or shards that have not been written.
        """
        if not 0 <= start < stop <= len(self):
            raise DictionaryError(f"Rows {start} to {stop} were asked of codes for {len(self)} rows.")
        size = int(self.manifest["shard_rows"])
        parts = []
        for number in range(start // size, -(-stop // size)):
            file = self._file(number)
            if not file.is_file():
                raise DictionaryError(
                    f"Shard {file} is missing; call encode_store again to write what is missing."
                )
            first = number * size
            parts.append(SparseCodes.load(file).rows(slice(max(start - first, 0), min(stop - first, size))))
        return SparseCodes.cat(parts)

    def checksums(self) -> list[str]:
        """sha256 of every shard, in order."""
        return [digest(self._file(number)) for number in range(self._count())]

    def _count(self) -> int:
        return -(-len(self) // int(self.manifest["shard_rows"]))

    def _file(self, number: int) -> Path:
        return self.path / f"{number:05d}.safetensors"


def encode_store(
    dictionary: Dictionary,
    store: Any,
    path: str | Path,
    *,
    shard_rows: int = 16_384,
    precision: str = "float32",
    progress: bool = True,
) -> CodeStore:
    """Write the codes of every row of an activation store, or those that are missing.

    Args:
        store: an `ActivationStore`, or anything with `read(start, stop)`, a length and a `fingerprint`.
        path: the folder. shard_rows: rows per file. precision: see `Dictionary.encode`. progress: show a bar.

    Returns:
        The store of codes.

    Raises:
        DictionaryError: an empty store, a full disk, or a folder with the codes of another dictionary or store.
    """
    if len(store) == 0:
        raise DictionaryError("The activation store is empty: there is nothing to encode.")
    path = Path(path)
    manifest = {
        "format": FORMAT, "schema": SCHEMA, "rows": len(store), "n_latents": dictionary.n_latents,
        "dictionary": dictionary.hash, "activations": store.fingerprint, "site": dictionary.site,
        "shard_rows": shard_rows, "precision": precision,
    }  # fmt: skip
    if (path / MANIFEST).exists():
        if told := differences(CodeStore(path).manifest, manifest):
            raise DictionaryError(
                f"The codes in {path} are of something else ({told}). Choose another folder."
            )
    else:
        path.mkdir(parents=True, exist_ok=True)
        with locked(path):
            write_text(path / MANIFEST, json.dumps(manifest, indent=2, sort_keys=True) + "\n")
    made = CodeStore(path)
    with locked(path):
        sweep(path)
        starts = range(0, len(store), shard_rows)
        missing = [start for start in starts if not _is_sound(made._file(start // shard_rows))]
        for start in tqdm(missing, desc="codes", unit="shard", disable=not progress):
            acts = store.read(start, min(start + shard_rows, len(store)))
            codes = dictionary.encode(acts, precision=precision)
            largest = float(codes.values.abs().max()) if len(codes.values) else 0.0
            if largest > np.finfo(np.float16).max:
                raise DictionaryError(
                    f"Codes up to {largest:.3g} do not fit 16 bits; scale the decoder's gain down."
                )
            file = made._file(start // shard_rows)
            try:
                codes.save(file, half=True)
            except (OSError, SafetensorError) as error:
                discard(file.with_name(file.name + ".partial"))
                raise DictionaryError(
                    f"Shard {file} could not be written ({error}); free space and call again."
                ) from error
    return made


def _is_sound(file: Path) -> bool:
    try:
        SparseCodes.load(file)
    except DictionaryError:
        return False
    return True
