"""Checkpoints of jobs over items: each finished result is a file, so that a stopped job goes on where it was.

Owns the files, their names and checksums. Ignores what is computed and by which engine. Start at `resumed`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from clipattr import __version__
from clipattr.errors import DataError
from clipattr.execution.engine import Engine, is_out_of_memory
from clipattr.storage.documents import read_json, write_json
from clipattr.storage.files import json_digest, sweep
from clipattr.storage.locks import locked

KEPT = "What was finished is kept there: make room, and the same call goes on with the rest."


def resumed(
    engine: Engine,
    function: Callable[[Any, Any], Any],
    shared: Any,
    items: Sequence[Any],
    *,
    folder: str | Path | None,
    keys: Sequence[Any],
    pack: Callable[[Any], Any],
    unpack: Callable[[Any], Any],
    known: Callable[[], Any] = lambda: None,
) -> Iterator[Any]:
    """`function(shared, item)` for every item, in order; results that an earlier run finished are read from files.

    Every result is packed and unpacked, also a new one, so that a resumed job yields what an undisturbed one yields.
    A file that is damaged, or of another key, counts as missing.

    Args:
        folder: of the files, made if it is missing; None keeps nothing. Two processes cannot use it at once.
        keys: one JSON value for each item, with everything that its result depends on.
        pack, unpack: from a result to a JSON value and back; `unpack` raises DataError for a wrong value.
        known: called before each result that was read from a file.

    Raises:
        DataError: another process uses the folder, it cannot be written, or memory does not suffice. Any other error of
            `function`.
    """
    if folder is None:
        yield from engine.map(function, shared, items)
        return
    place = Path(folder)
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"The checkpoint {str(place)!r} could not be written ({error}).") from error
    with locked(place / ".lock", f"working with the checkpoint {str(place)!r}", DataError):
        sweep(place)
        files = [place / f"{json_digest([__version__, key])}.json" for key in keys]
        done = [_read(file, unpack) for file in files]
        missing = [item for item, found in zip(items, done, strict=True) if found is None]
        made = engine.map(function, shared, missing)
        for file, found in zip(files, done, strict=True):
            if found is not None:
                known()
                yield found[0]
                continue
            try:
                value = pack(next(made))
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                raise DataError(
                    f"The machine ran out of memory ({str(error)[:200] or 'no details'}). {KEPT}"
                ) from error
            try:  # keys stay in their order, which is that of the final JSON
                write_json(file, {"value": value, "sum": json_digest(value)})
            except OSError as error:
                raise DataError(
                    f"The checkpoint {str(file)!r} could not be written ({error}). {KEPT}"
                ) from error
            yield unpack(value)


def _read(file: Path, unpack: Callable[[Any], Any]) -> tuple[Any] | None:
    """The result in a file; None where there is none or it is damaged."""
    try:
        content = read_json(file)
        if content["sum"] != json_digest(content["value"]):
            return None
        return (unpack(content["value"]),)
    except (OSError, ValueError, KeyError, TypeError, DataError):
        return None
