"""Streams: attributions of very many pictures, written in shards while they are computed.

Owns the folder of shards, its manifest and lock, and what an interrupted stream may go on with. Each shard is a file
of `Attribution.save`; after each the state is noted with its checksum, and the manifest takes its name at the end, so
a folder with a manifest is complete. Memory holds one shard at a time. Start at `stream`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from clipattr.attribution.compute import (
    align_with,
    baseline_codes,
    explain_splice,
    is_own,
    labels_of,
    parts_of,
    placed_splices,
)
from clipattr.attribution.methods import Method
from clipattr.attribution.pixels import count
from clipattr.attribution.result import Attribution
from clipattr.attribution.targets import LinearTarget, as_target
from clipattr.errors import DataError
from clipattr.storage.documents import read_json, schema_complaint
from clipattr.storage.files import digest_parts, file_digest, sweep, tensor_bytes, write_text
from clipattr.storage.locks import locked

SCHEMA = 1
MANIFEST = "attributions.json"
STATE = "attributions.unfinished.json"
FORMER_STATE = MANIFEST + ".partial"  # until version 0.1


class Attributions:
    """A folder of attributions, read one shard at a time: iterate to get an `Attribution` of some pictures each."""

    def __init__(self, path: str | Path) -> None:
        """Open what `stream` wrote.

        Raises:
            DataError: no such folder, one that was not finished, or one of a newer schema.
        """
        self.path = Path(path)
        again = "stream(...) with the same arguments"
        try:
            manifest = read_json(self.path / MANIFEST)
            schema, self._shards = manifest["schema"], list(manifest["shards"])
            if not all(_is_shard(shard) for shard in self._shards):
                raise ValueError("entries that are no shards")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{self.path} holds no finished attributions: {MANIFEST} is missing or damaged ({error}). "
                "Run stream(...) again; it goes on where it stopped."
            ) from error
        if told := schema_complaint(self.path, schema, SCHEMA, again):
            raise DataError(told)

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

    After an interruption the same call goes on behind the last sound shard, and ends with the same bytes; after that
    it opens what is there.

    Args:
        source, images, target, dictionary, site, method, baseline, batch: as for `attribute`. Pass an `Images`, or
            paths, so that the pictures are not all in memory either.
        path: a folder, made where it is missing.
        shard: pictures per file, rounded up to whole batches; memory holds that many results.

    Raises:
        DataError: the folder holds attributions of another call, another process writes it, it cannot be written, or
            there is no picture. What `attribute` raises.
    """
    folder = Path(path)
    plan = _plan(source, images, target, dictionary, site, method, baseline)
    plan |= {"batch": batch, "shard": shard}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / ".lock", f"writing the attributions in {folder}", DataError):
            if (folder / FORMER_STATE).exists():
                (folder / FORMER_STATE).replace(folder / STATE)
            sweep(folder)
            if (folder / MANIFEST).exists():
                noted, written = _done(folder / MANIFEST, plan)
                if noted and noted == len(written):
                    return Attributions(folder)
                (folder / MANIFEST).replace(folder / STATE)
            _, written = _done(folder / STATE, plan)
            start = written[-1]["next"] if written else 0
            if start < count(images):
                parts = placed_splices(
                    source,
                    images,
                    target,
                    dictionary=dictionary,
                    site=site,
                    baseline=baseline,
                    batch=batch,
                    start=start,
                )
                _write(folder, parts, source, method, shard, written, plan)
            elif not written:
                Attribution.cat([])
            (folder / STATE).replace(folder / MANIFEST)
    except OSError as error:
        raise DataError(
            f"The attributions in {folder} could not be written ({error}). Free space or mend the folder; the same "
            "call goes on."
        ) from error
    return Attributions(folder)


def _write(
    folder: Path, parts: Any, source: Any, method: Any, shard: int, written: list[dict[str, Any]], plan: Any
) -> None:
    """Explain and write what is left; `written` grows by a shard at a time."""
    labels: Any = None
    held: list[Attribution] = []
    behind = 0

    def write() -> None:
        file = folder / f"attributions-{len(written):05d}.safetensors"
        joined = Attribution.cat(held)
        joined.save(file)
        written.append(
            {
                "file": file.name,
                "pictures": len(joined),
                "sum": file_digest(file, "sha256", 64),
                "next": behind,
            }
        )
        held.clear()
        write_text(folder / STATE, json.dumps({"schema": SCHEMA, "shards": written, "plan": plan}, indent=1))

    for names, places, splice in parts:
        own = is_own(source, splice.dictionary)
        # A table of the whole study, made once.
        labels = labels_of(source, splice.dictionary) if labels is None else labels
        align = align_with(source, splice.target) if own else None
        held.append(explain_splice(splice, method, names, align=align, labels=labels))
        behind = places[-1] + 1
        if sum(map(len, held)) >= shard:
            write()
    if held or not written:
        write()


def _plan(
    source: Any, images: Any, target: Any, dictionary: Any, site: Any, method: Any, baseline: Any
) -> dict[str, Any]:
    """What determines the result, as far as it can be told without reading the pictures."""
    model, dictionary, site = parts_of(source, dictionary, site)
    wanted = as_target(target)
    linear = wanted.linear(model) if isinstance(wanted, LinearTarget) else ()
    reference = baseline_codes(model, dictionary, site, baseline)
    codes = () if reference is None else (reference.indices, reference.values)
    name = method.name if isinstance(method, Method) else getattr(method, "__name__", method)
    plan = {
        "model": model.weights_hash,
        "dictionary": getattr(dictionary, "hash", None),
        "site": str(site),
        "targets": [*wanted.names, _digest(*linear)],
        "method": name,
        "baseline": _digest(*codes),
        "pictures": [count(images), str(getattr(images, "fingerprint", ""))],
    }
    return json.loads(json.dumps(plan))


def _digest(*tensors: Tensor) -> str:
    return digest_parts(tensor_bytes(tensor) for tensor in tensors)


def _done(file: Path, plan: dict[str, Any]) -> tuple[int, list[dict[str, Any]]]:
    """How many shards a stream of the same plan has noted in a file, and those up to the first that is damaged."""
    try:
        state = read_json(file)
        shards, known = list(state["shards"]), dict(state["plan"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0, []
    differing = [name for name, value in plan.items() if known.get(name) != value]
    if differing:
        raise DataError(
            f"{file.parent} holds the attributions of another call: {', '.join(differing)} differ. Name another "
            f"folder, or delete {file.parent} to start over."
        )
    whole: list[dict[str, Any]] = []
    for shard in shards:
        path = file.parent / shard["file"] if _is_shard(shard) else None
        if path is None or not path.is_file() or file_digest(path, "sha256", 64) != shard.get("sum"):
            break
        whole.append(shard)
    return len(shards), whole


def _is_shard(entry: Any) -> bool:
    """Whether this is what `stream` notes of a shard; names that lead out of the folder are not."""
    return (
        isinstance(entry, dict)
        and isinstance(entry.get("pictures"), int)
        and entry["pictures"] > 0
        and isinstance(entry.get("next", 0), int)  # the first streams did not note it
        and re.fullmatch(r"attributions-\d{5,}\.safetensors", str(entry.get("file"))) is not None
    )
