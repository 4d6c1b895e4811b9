"""Folder of shards: where the files of an activation store lie, writing them, and which of them are sound.

Owns file names, the lock, and what is checked before numbers are written. Ignores reading (`activations.py`).
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

# Folder of what is kept of pictures besides activations; stands for the site in a store without sites.
PICTURES = "pictures"


class ShardFolder:
    """The files of one store, with the manifest that says what they hold."""

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path = path
        self.manifest = manifest

    @property
    def shuffle(self) -> int | None:
        """The seed that pictures and rows were mixed with on writing, None for the given order."""
        return self.manifest.get("shuffle")

    @property
    def shard_count(self) -> int:
        """How many shards the complete store has."""
        return -(-self.manifest["pictures"] // self.manifest["shard_pictures"])

    def writing(self) -> contextlib.AbstractContextManager[None]:
        """Keep other writers out for the duration; the lock goes with the process, however it ends.

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
        """Write a shard: for every site the activations of its pictures, (pictures, width) or
        (pictures, tokens, width), and the (place, id, reason) of those left out.

        Args:
            number: which shard; call `refresh` after the last one.
            smallest: pictures at a time, where memory did not suffice for a whole micro-batch.
            pictures: what a store with an evaluator keeps of the same pictures, see `pictures_of`.
            signature: of the shard's pictures, by which `missing` tells whether they have changed.

        Raises:
            DataError: shapes that do not fit, NaN or infinite values (shard and row named; values beyond float16's
                range become infinite), or a full disk.
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
        """Numbers of the shards that are to be written: those without a record or with a file that is not what the
        record says, and those of which `signatures` says that their pictures have changed."""

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
        """The pictures of a shard, as places in the order they are written in."""
        size = self.manifest["shard_pictures"]
        return range(number * size, min((number + 1) * size, self.manifest["pictures"]))

    def _record(self, number: int) -> Path:
        return self.path / f"{number:05d}.json"

    def _file(self, number: int, site: str) -> Path:
        return self.path / site / f"{number:05d}.{'safetensors' if site == PICTURES else 'bin'}"
