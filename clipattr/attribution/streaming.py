"""Streams: attributions of many pictures, written in shards while they are computed.

Owns the folder of shards, its manifest and lock, and resuming after an interruption. Each shard is a file of
`Attribution.save`. The state file with the checksums of all shards is written after each shard and renamed to the
manifest at the end, so a folder with a manifest is complete. Memory holds one shard at a time. Start at `stream`.
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
from clipattr.attribution.target import LinearTarget
from clipattr.attribution.targets import as_target
from clipattr.display.wording import counted
from clipattr.errors import DataError
from clipattr.storage.documents import read_json, schema_complaint
from clipattr.storage.files import digest_parts, file_digest, sweep, tensor_bytes, write_text
from clipattr.storage.locks import locked
from clipattr.storage.paths import user_path

SCHEMA = 1
MANIFEST = "attributions.json"
STATE = "attributions.unfinished.json"
FORMER_STATE = MANIFEST + ".partial"  # until version 0.1


class Attributions:
    """A folder of attributions; iterating over it reads one shard at a time as an `Attribution`."""

    def __init__(self, path: str | Path) -> None:
        """Open what `stream` wrote.

        Raises:
            DataError: no such folder, one that is not finished, or one of a newer schema.
        """
        self.path = user_path(path)
        again = "stream(...) with the same arguments"
        try:
            manifest = read_json(self.path / MANIFEST)
            schema, self._shards = manifest["schema"], list(manifest["shards"])
            if not all(_is_shard(shard) for shard in self._shards):
                raise ValueError("invalid shard entries")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{self.path} holds no finished attributions: {MANIFEST} is missing or damaged ({error}). "
                "Run stream(...) again; it resumes where it stopped."
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
        return f"<Attributions of {counted(len(self), 'picture')} in {counted(len(self._shards), 'shard')}>"


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
    """Attribute pictures as `attribute` does, and write the results to a folder while they are computed.

    After an interruption the same call resumes after the last valid shard, and the result has the same bytes. Called
    again when finished, it opens the folder.

    Args:
        source, images, target, dictionary, site, method, baseline, batch: as for `attribute`. With an `Images` or
            paths, pictures are loaded one batch at a time.
        path: a folder, created where it is missing.
        shard: pictures per file, rounded up to whole batches; this many results are in memory.

    Raises:
        DataError: the folder holds attributions of another call, another process writes it, it cannot be written, or
            there is no picture. What `attribute` raises.
    """
    folder = user_path(path)
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
            f"The attributions in {folder} could not be written ({error}). Free space or repair the folder; the same "
            "call then resumes."
        ) from error
    return Attributions(folder)


def _write(
    folder: Path, parts: Any, source: Any, method: Any, shard: int, written: list[dict[str, Any]], plan: Any
) -> None:
    """Attribute and write the remaining pictures; appends each shard to `written`."""
    labels: Any = None
    held: list[Attribution] = []
    following = 0  # index of the next picture

    def write() -> None:
        file = folder / f"attributions-{len(written):05d}.safetensors"
        joined = Attribution.cat(held)
        joined.save(file)
        written.append(
            {
                "file": file.name,
                "pictures": len(joined),
                "sum": file_digest(file, "sha256", 64),
                "next": following,
            }
        )
        held.clear()
        write_text(folder / STATE, json.dumps({"schema": SCHEMA, "shards": written, "plan": plan}, indent=1))

    for names, places, splice in parts:
        own = is_own(source, splice.dictionary)
        # The table of the whole study is computed once.
        labels = labels_of(source, splice.dictionary) if labels is None else labels
        align = align_with(source, splice.target) if own else None
        held.append(explain_splice(splice, method, names, align=align, labels=labels))
        following = places[-1] + 1
        if sum(map(len, held)) >= shard:
            write()
    if held or not written:
        write()


def _plan(
    source: Any, images: Any, target: Any, dictionary: Any, site: Any, method: Any, baseline: Any
) -> dict[str, Any]:
    """Everything that determines the result, except the pixels of the pictures."""
    model, dictionary, site = parts_of(source, dictionary, site)
    wanted = as_target(target)
    linear = wanted.linear(model) if isinstance(wanted, LinearTarget) else ()
    reference = baseline_codes(model, dictionary, site, baseline)
    codes = () if reference is None else (reference.indices, reference.values)
    name = method.name if isinstance(method, Method) else getattr(method, "__name__", method)
    plan = {
        "model": model.weights_hash,
        "forward": model.facts,
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
    """Number of shards listed in a state file of the same plan, and the shards before the first damaged one."""
    try:
        state = read_json(file)
        shards, known = list(state["shards"]), dict(state["plan"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0, []
    known.setdefault("forward", plan["forward"])  # earlier versions do not record it
    differing = [name for name, value in plan.items() if known.get(name) != value]
    if differing:
        raise DataError(
            f"{file.parent} holds the attributions of another call: {', '.join(differing)} differ. Choose another "
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
    """Whether this is an entry that `stream` writes for a shard; file names outside the folder are refused."""
    return (
        isinstance(entry, dict)
        and isinstance(entry.get("pictures"), int)
        and entry["pictures"] > 0
        and isinstance(entry.get("next", 0), int)  # absent in the first streams
        and re.fullmatch(r"attributions-\d{5,}\.safetensors", str(entry.get("file"))) is not None
    )
