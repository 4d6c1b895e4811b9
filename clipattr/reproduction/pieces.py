"""Pieces: measured values on disk under the hash of everything they depend on.

Owns the key of a piece, reading and writing it, and the digest of this package's code. Ignores what the values mean.
Start at `Pieces.of`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clipattr.storage.documents import json_text, read_json
from clipattr.storage.files import digest, digest_parts, json_digest, write_text


@cache
def code_digest() -> str:
    """16 hex digits over the source files of this package: another version computes its pieces again."""
    root = Path(__file__).parents[1]
    files = sorted(root.rglob("*.py"), key=lambda file: file.relative_to(root).as_posix())

    def parts() -> Iterable[str | bytes]:
        for file in files:
            yield file.relative_to(root).as_posix()
            yield file.read_bytes()

    return digest_parts(parts())


def plain(value: Any) -> Any:
    """A value as JSON holds it: arrays become lists, numbers without a finite value None.

    >>> plain({"a": np.array([1.0, np.nan]), "b": (1, "x")})
    {'a': [1.0, None], 'b': [1, 'x']}
    """
    if isinstance(value, Mapping):
        return {str(name): plain(each) for name, each in value.items()}
    if isinstance(value, (np.ndarray, torch.Tensor)):
        return plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def cell(value: Any) -> str | None:
    """A value as text in a CSV: six significant digits for numbers."""
    if value is None or isinstance(value, str):
        return value
    return f"{value:.6g}" if isinstance(value, float) else str(value)


class Pieces:
    """A folder of measured values; a file holds its own digest, so that damaged ones are measured again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def file(self, name: str, key: Sequence[Any]) -> Path:
        """The file of a piece. The name is for readers; the key decides."""
        return self.folder / f"{name}-{json_digest([code_digest(), *key])}.json"

    def read(self, file: Path) -> Any:
        """The value in a file; None if it is not there or damaged."""
        try:
            held = read_json(file)
            value = held["value"]
            return value if held["digest"] == digest(json_text(value, sort_keys=True)) else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def of(self, name: str, key: Sequence[Any], measure: Callable[[], Any]) -> Any:
        """The value of a piece, measured and written if it is not there.

        A value is always what was read back, so that a resumed run computes with the same bytes.
        """
        file = self.file(name, key)
        found = self.read(file)
        if found is None:
            value = plain(measure())
            self.folder.mkdir(parents=True, exist_ok=True)
            content = {
                "key": plain(list(key)),
                "digest": digest(json_text(value, sort_keys=True)),
                "value": value,
            }
            write_text(file, json_text(content, sort_keys=True) + "\n")
            found = self.read(file)
        return found
