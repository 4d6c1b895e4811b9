"""Streams: attributions of very many pictures, written in shards while they are computed.

Owns the folder of shards, its manifest, and what an interrupted stream may go on with. Each shard is a file of
`Attribution.save`; after each the state is noted, and the manifest takes its name at the end, so a folder with a
manifest is complete. Memory holds one shard at a time. Start at `stream`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from clipattr.attribution.attribute import (
    align_with,
    baseline_codes,
    explain_splice,
    labels_of,
    parts_of,
    placed_splices,
)
from clipattr.attribution.methods import Method
from clipattr.attribution.pixels import count
from clipattr.attribution.result import Attribution
from clipattr.attribution.targets import LinearTarget, as_target
from clipattr.errors import DataError

SCHEMA = 1
MANIFEST = "attributions.json"
STATE = MANIFEST + ".partial"


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
                "Run stream(...) again; it goes on where it stopped."
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

    After an interruption the same call goes on behind the last shard that was written, and ends with the same bytes.

    Args:
        source, images, target, dictionary, site, method, baseline, batch: as for `attribute`. Pass an `Images`, or
            paths, so that the pictures are not all in memory either.
        path: a folder, made where it is missing.
        shard: pictures per file, rounded up to whole batches; memory holds that many results.

    Raises:
        DataError: the folder already holds finished attributions, or unfinished ones of another call; or there is no
            picture. What `attribute` raises.
    """
    folder = Path(path)
    if (folder / MANIFEST).exists():
        raise DataError(f"{folder} already holds attributions. Name another folder, or delete this one.")
    plan = _plan(source, images, target, dictionary, site, method, baseline)
    plan |= {"batch": batch, "shard": shard}
    written, start = _done(folder, plan)
    folder.mkdir(parents=True, exist_ok=True)
    labels = labels_of(source)
    held: list[Attribution] = []

    def write(behind: int) -> None:
        file = f"attributions-{len(written):05d}.safetensors"
        joined = Attribution.cat(held)
        joined.save(folder / file)
        written.append({"file": file, "pictures": len(joined)})
        held.clear()
        state = {"schema": SCHEMA, "shards": written, "next": behind, "plan": plan}
        part = folder / (STATE + ".new")
        part.write_text(json.dumps(state, indent=1), encoding="utf-8")
        part.replace(folder / STATE)

    behind = start
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
        for names, places, splice in parts:
            found = explain_splice(
                splice, method, names, align=align_with(source, splice.target), labels=labels
            )
            held.append(found)
            behind = places[-1] + 1
            if sum(map(len, held)) >= shard:
                write(behind)
    if held or not written:
        write(behind)
    (folder / STATE).replace(folder / MANIFEST)
    return Attributions(folder)


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
    digest = hashlib.blake2b(digest_size=8)
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _done(folder: Path, plan: dict[str, Any]) -> tuple[list[dict[str, Any]], int]:
    """The shards that an interrupted stream of the same plan has written, and the place where it goes on."""
    if not (folder / STATE).exists():
        return [], 0
    try:
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
        shards, start, known = list(state["shards"]), int(state["next"]), dict(state["plan"])
    except (OSError, ValueError, KeyError, TypeError):
        return [], 0
    differing = [name for name, value in plan.items() if known.get(name) != value]
    if differing:
        raise DataError(
            f"{folder} holds an unfinished stream of another call: {', '.join(differing)} differ. Name another folder, "
            "or delete this one to start over."
        )
    whole = all((folder / shard["file"]).exists() for shard in shards)
    return (shards, start) if whole else ([], 0)
