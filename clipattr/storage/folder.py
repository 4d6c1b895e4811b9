"""Folder of shards: the file names of an activation store, writing shards, and finding missing or damaged ones.

Owns file names, the lock, and the checks of numbers before they are written. Ignores reading (`activations.py`).
Start at `ShardFolder.write_shard`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from clipattr.errors import DataError
from clipattr.storage.files import digest, file_digest
from clipattr.storage.locks import locked
from clipattr.storage.orders import mixed
from clipattr.storage.shards import narrowed, read_record, write_array, write_pictures, write_record

# Folder of evaluator embeddings, fingerprints and thumbnails; takes the place of the site in a store without sites.
PICTURES = "pictures"


class ShardFolder:
    """The files of one store, and the manifest that describes them."""

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path = path
        self.manifest = manifest

    @property
    def shuffle(self) -> int | None:
        """Seed of the permutation of pictures and rows; None for the given order."""
        return self.manifest.get("shuffle")

    @property
    def shard_count(self) -> int:
        """Number of shards of the complete store."""
        return -(-self.manifest["pictures"] // self.manifest["shard_pictures"])

    def writing(self) -> contextlib.AbstractContextManager[None]:
        """Lock the store against other writers while the block runs; the lock ends with the process.

        Raises:
            DataError: another process is writing this store.
        """
        return locked(self.path / ".lock", f"writing the store in {self.path}", DataError)

    def write_shard(
        self,
        acts: Mapping[str, Tensor],
        skipped: Sequence[tuple[int, str, str]],
        *,
        number: int,
        smallest: int | None = None,
        pictures: dict[str, Tensor] | None = None,
        signature: str | None = None,
    ) -> None:
        """Write one shard and then its record.

        Args:
            acts: per site the activations of the pictures, (pictures, width) or (pictures, tokens, width).
            skipped: (place, id, reason) of each unreadable picture.
            number: of the shard; call `refresh` after the last one.
            smallest: the smallest micro-batch that was encoded, if memory did not suffice for a whole one.
            pictures: tensors stored besides activations if the store has an evaluator, see `pictures_of`.
            signature: of the shard's pictures, with which `missing` detects changed pictures.

        Raises:
            DataError: shapes do not fit, values are NaN or infinite (the error names shard and row; values beyond
                float16's range become infinite), or the disk is full.
        """
        places = self.shard_places(number)
        files = {}
        for name, layout in self.manifest["sites"].items():
            if acts[name].shape[-1] != layout["width"]:
                shape = tuple(acts[name].shape)
                raise DataError(f"Activations at {name} must be {layout['width']} wide; got shape {shape}.")
            flat = acts[name].reshape(-1, layout["width"]).cpu().float().numpy()
            expected = (len(places) - len(skipped)) * layout["tokens"]
            if len(flat) != expected:
                raise DataError(f"Shard {number} of {name} needs {expected} rows; got {len(flat)}.")
            if self.shuffle is not None:
                flat = flat[mixed(expected, self.shuffle, number)]
            dtype = self.manifest["dtype"]
            where = f"Activations at {name} are NaN or infinite in {dtype}, first in shard {number}"
            array = narrowed(flat, dtype, where)
            write_array(self._file(number, name), array)
            files[name] = {"rows": len(array), "sha256": digest(array.data, by="sha256", digits=64)}
        if pictures is not None:
            file = self._file(number, PICTURES)
            write_pictures(file, pictures)
            files[PICTURES] = {"rows": len(pictures["evaluator"]), "sha256": file_digest(file, "sha256", 64)}
        record: dict[str, Any] = {
            "first": places.start,
            "last": places.stop,
            "left_out": [place for place, _, _ in skipped],
            "skipped": [[name, reason] for _, name, reason in skipped],
            "files": files,
        }
        record |= {} if smallest is None else {"smallest": smallest}
        record |= {} if signature is None else {"signature": signature}
        write_record(self._record(number), record)

    def missing(self, signatures: Callable[[int], str] | None = None) -> list[int]:
        """Numbers of the shards to write: those without a record, those with a file that differs from its record, and
        those whose pictures have changed according to `signatures`."""

        def sound(number: int) -> bool:
            record = read_record(self._record(number))
            try:
                return (
                    record is not None
                    and {PICTURES, *self.manifest["sites"]}
                    >= set(record["files"])
                    >= set(self.manifest["sites"])
                    and (PICTURES in record["files"]) == ("evaluator" in self.manifest)
                    and (signatures is None or record.get("signature") == signatures(number))
                    and all(
                        file_digest(self._file(number, name), "sha256", 64) == known["sha256"]
                        for name, known in record["files"].items()
                    )
                )
            except (OSError, KeyError, TypeError):
                return False

        return [number for number in range(self.shard_count) if not sound(number)]

    def shard_places(self, number: int) -> range:
        """The pictures of a shard, as positions in the order of writing."""
        size = self.manifest["shard_pictures"]
        return range(number * size, min((number + 1) * size, self.manifest["pictures"]))

    def _record(self, number: int) -> Path:
        return self.path / f"{number:05d}.json"

    def _file(self, number: int, site: str) -> Path:
        return self.path / site / f"{number:05d}.{'safetensors' if site == PICTURES else 'bin'}"
