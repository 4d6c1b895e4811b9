"""Files: the one atomic write and the one digest of the package.

A file appears under its name complete or not at all: it is written under a temporary name (`NAME.partial`), synced to
disk and renamed, and the folder's entry is synced where the system allows it. Start at `written` and `digest`.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

PARTIAL = ".partial"  # suffix of a file that is being written
TEMPORARY = ("*" + PARTIAL, ".tmp??????")  # what killed writers leave: ours, and those of safetensors


@contextlib.contextmanager
def written(path: Path) -> Iterator[Path]:
    """The temporary name to write a file to; the file is put in place if the block ends without an error.

    Args:
        path: of the finished file. Its folder must exist.

    Raises:
        OSError: a full disk, or a folder that cannot be written. The temporary file is removed.
    """
    partial = path.with_name(path.name + PARTIAL)
    try:
        yield partial
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        discard(partial)
        raise
    with contextlib.suppress(OSError):  # no system needs it, and some cannot
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_text(path: Path, text: str, **options: Any) -> None:
    """Write a text atomically, in UTF-8 unless the options of `Path.write_text` say otherwise; OSError as `written`."""
    with written(path) as partial:
        partial.write_text(text, **{"encoding": "utf-8", **options})


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file atomically.

    Raises:
        OSError, SafetensorError: a full disk, or a folder that cannot be written.
    """
    from safetensors.torch import save_file

    with written(path) as partial:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, partial, metadata)


def discard(path: Path) -> None:
    """Remove what a failed write has left, if it can be removed; the failure itself is what is reported."""
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove the unfinished files that killed writers have left in a folder and below."""
    for pattern in TEMPORARY:
        for file in folder.rglob(pattern):
            discard(file)


def digest(*parts: str | bytes | memoryview, by: str = "blake2b", digits: int = 16) -> str:
    """Hexadecimal hash over the parts, one after the other.

    Args:
        by: "blake2b", of which as many bytes are made as asked for, or another name of `hashlib`, whose first
            `digits` are taken.

    >>> digest("kite", b"bat") == digest(b"kitebat")
    True
    >>> digest("kite", by="sha256", digits=8)
    '8e8c7d42'
    """
    return digest_parts(parts, by, digits)


def digest_parts(parts: Iterable[str | bytes | memoryview], by: str = "blake2b", digits: int = 16) -> str:
    """`digest` of parts that are made while they are hashed, so that memory holds one at a time."""
    made = hashlib.blake2b(digest_size=digits // 2) if by == "blake2b" else hashlib.new(by)
    for part in parts:
        made.update(part.encode() if isinstance(part, str) else part)
    return made.hexdigest()[:digits]


def json_digest(value: Any, by: str = "blake2b", digits: int = 16) -> str:
    """`digest` of a JSON value; the order of keys does not count."""
    return digest(json.dumps(value, sort_keys=True), by=by, digits=digits)


def tensors_digest(tensors: Mapping[str, Tensor], *before: str, by: str = "blake2b", digits: int = 16) -> str:
    """`digest` of some texts, and of the names and values of tensors in the order of their names."""
    values = (part for name in sorted(tensors) for part in (name, tensor_bytes(tensors[name])))
    return digest_parts(itertools.chain(before, values), by, digits)


def tensor_bytes(tensor: Tensor) -> bytes:
    """A tensor's values as bytes, row by row."""
    return tensor.detach().cpu().contiguous().numpy().tobytes()


def file_digest(path: Path, by: str = "blake2b", digits: int = 16) -> str:
    """`digest` of a file's bytes, in constant memory.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        return digest_parts(iter(lambda: file.read(1 << 20), b""), by, digits)
