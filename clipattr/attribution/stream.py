"""Streams: attributions of very many pictures, written in shards while they are computed.

Owns the folder of shards and its manifest. Each shard is a file of `Attribution.save`; the manifest is written last, so
a folder with a manifest is complete. Memory holds one shard at a time. Start at `stream`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clipattr.attribution.attribute import align_with, explain_splice, labels_of, splices
from clipattr.attribution.result import Attribution
from clipattr.errors import DataError

SCHEMA = 1
MANIFEST = "attributions.json"


class Attributions:
    """A folder of attributions, read one shard at a time: iterate to get an `Attribution` of some pictures each."""

    def __init__(self, path: str | Path) -> None:
        """Open what `stream` wrote.

        Raises:
            DataError: no such folder, one that was not finished, or one of a newer schema.
        """
        self.path = Path(path)
        try:
            manifest = json.loads((self.path / MANIFEST).read_text(encoding="utf-8"))
            schema, self._shards = int(manifest["schema"]), list(manifest["shards"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{self.path} holds no finished attributions: {MANIFEST} is missing or damaged ({error}). "
                "Run stream(...) again; it starts over."
            ) from error
        if schema > SCHEMA:
            raise DataError(f"{self.path} has schema {schema}, newer than {SCHEMA}: update clipattr.")

    def __len__(self) -> int:
        """How many pictures."""
        return sum(shard["pictures"] for shard in self._shards)

    def __iter__(self) -> Iterator[Attribution]:
        for shard in self._shards:
            yield Attribution.load(self.path / shard["file"])

    def __repr__(self) -> str:
        return f"<Attributions of {len(self):,} pictures in {len(self._shards)} shards>"


def stream(
    source: Any,
    images: Any,
    target: Any,
    path: str | Path,
    *,
    dictionary: Any = None,
    site: Any = None,
    method: Any = None,
    baseline: Any = None,
    batch: int = 64,
    shard: int = 4096,
) -> Attributions:
    """Attribute pictures like `attribute`, and write the results to a folder while they are computed.

    Args:
        source, images, target, dictionary, site, method, baseline, batch: as for `attribute`. Pass an `Images`, or
            paths, so that the pictures are not all in memory either.
        path: a folder, made where it is missing.
        shard: pictures per file, rounded up to whole batches; memory holds that many results.

    Raises:
        DataError: the folder already holds finished attributions, or there is no picture. What `attribute` raises.
    """
    folder = Path(path)
    if (folder / MANIFEST).exists():
        raise DataError(f"{folder} already holds attributions. Name another folder, or delete this one.")
    folder.mkdir(parents=True, exist_ok=True)
    labels = labels_of(source)
    written: list[dict[str, Any]] = []
    held: list[Attribution] = []

    def write() -> None:
        file = f"attributions-{len(written):05d}.safetensors"
        joined = Attribution.cat(held)
        joined.save(folder / file)
        written.append({"file": file, "pictures": len(joined)})
        held.clear()

    for names, splice in splices(
        source, images, target, dictionary=dictionary, site=site, baseline=baseline, batch=batch
    ):
        held.append(
            explain_splice(splice, method, names, align=align_with(source, splice.target), labels=labels)
        )
        if sum(map(len, held)) >= shard:
            write()
    if held or not written:
        write()
    partial = folder / (MANIFEST + ".partial")
    partial.write_text(json.dumps({"schema": SCHEMA, "shards": written}, indent=1), encoding="utf-8")
    partial.replace(folder / MANIFEST)
    return Attributions(folder)
