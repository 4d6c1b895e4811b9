"""Files: the atomic write and the digest that the whole package uses.

A file is written under a temporary name (`NAME.partial`), synced to disk and renamed, so that its name never stands for
an incomplete file. The folder's entry is synced where the system allows it. Start at `written` and `digest`.
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
TEMPORARY = ("*" + PARTIAL, ".tmp??????")  # files left by killed writers: ours, and those of safetensors


@contextlib.contextmanager
def written(path: Path) -> Iterator[Path]:
    """Give the temporary name of a file to write; rename the file when the block ends without an error.

    Args:
        path: final name. Its folder must exist.

    Raises:
        OSError: the disk is full, or the folder is not writable. The temporary file is removed.
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
    with contextlib.suppress(OSError):  # some systems cannot sync a folder
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_text(path: Path, text: str, **options: Any) -> None:
    """Write a text atomically, by default in UTF-8; `options` of `Path.write_text`. OSError as for `written`."""
    with written(path) as partial:
        partial.write_text(text, **{"encoding": "utf-8", **options})


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file atomically.

    Raises:
        OSError, SafetensorError: the disk is full, or the folder is not writable.
    """
    from safetensors.torch import save_file

    with written(path) as partial:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, partial, metadata)


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file.

    Raises:
        OSError, SafetensorError: no such file, or a damaged one.
    """
    from safetensors import safe_open

    with safe_open(str(path), "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118


def discard(path: Path) -> None:
    """Remove the file of a failed write if possible; errors are suppressed, as the caller reports the failed write."""
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove the unfinished files of killed writers in a folder and its subfolders."""
    for pattern in TEMPORARY:
        for file in folder.rglob(pattern):
            discard(file)


def digest(*parts: str | bytes | memoryview, by: str = "blake2b", digits: int = 16) -> str:
    """Hexadecimal hash of the concatenated parts.

    Args:
        by: "blake2b", with a digest of the requested length, or another name of `hashlib`, cut to the first `digits`.

    >>> digest("kite", b"bat") == digest(b"kitebat")
    True
    >>> digest("kite", by="sha256", digits=8)
    '8e8c7d42'
    """
    return digest_parts(parts, by, digits)


def digest_parts(parts: Iterable[str | bytes | memoryview], by: str = "blake2b", digits: int = 16) -> str:
    """`digest` of an iterable of parts, of which one at a time is in memory."""
    made = hashlib.blake2b(digest_size=digits // 2) if by == "blake2b" else hashlib.new(by)
    for part in parts:
        made.update(part.encode() if isinstance(part, str) else part)
    return made.hexdigest()[:digits]


def json_digest(value: Any, by: str = "blake2b", digits: int = 16) -> str:
    """`digest` of a JSON value; independent of the order of keys."""
    return digest(json.dumps(value, sort_keys=True), by=by, digits=digits)


def tensors_digest(tensors: Mapping[str, Tensor], *before: str, by: str = "blake2b", digits: int = 16) -> str:
    """`digest` of texts, followed by names and values of tensors, sorted by name."""
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


def stand_in(start: bytes) -> str | None:
    """What lies in place of a file, by its first bytes: a Git LFS pointer or a saved web page; None for anything else.

    >>> stand_in(b"version https://git-lfs.github.com/spec/v1")
    'a Git LFS pointer in place of the file: fetch it with `git lfs pull`'
    """
    text = start[:256].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer in place of the file: fetch it with `git lfs pull`"
    if text.startswith((b"<!doctype html", b"<html")):
        return "a web page, as a failed download leaves it: download the file again"
    return None
