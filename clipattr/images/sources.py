"""Sources: the storage of a collection's pictures, behind one interface.

Owns files, scenes and pictures in memory, joined sources, and the sample of a file for its fingerprint. Shards are in
`webdataset.py`, data sets in `datasets.py`. Start at `Source`; a new kind of storage is a subclass and one line in
`opening.py`.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from clipattr.errors import DataError
from clipattr.images.cells import cell_text
from clipattr.images.decoding import PictureError, read_picture, to_picture
from clipattr.storage.documents import parse_json
from clipattr.storage.files import digest

MAX_LINE = 10_000_000  # characters of a line that describes a scene
SMALL = 2**16  # bytes up to which a whole file is hashed for its fingerprint
ENDS, BLOCK, BLOCKS = (
    2**14,
    2**12,
    8,
)  # bytes at both ends, bytes of each block between them, number of blocks


class Source:
    """Pictures by row number. `threads`: whether `read` may be called from several threads at once."""

    kind = "nowhere"
    threads = True

    def read(self, row: int, draft: int | None = None) -> Image.Image:
        """The picture, upright RGB; PictureError with the reason if it cannot be read."""
        raise PictureError("this source holds no pictures")

    def path(self, row: int) -> str | None:
        """The picture's file, if it has one of its own."""
        return None

    def weight(self, row: int) -> int:
        """The size in bytes where known, for the collection's fingerprint."""
        return 0

    def sampled(self, rows: np.ndarray) -> np.ndarray:
        """The rows whose `content` is hashed for the fingerprint: all, or a sample where that would be slow."""
        return rows

    def content(self, row: int) -> str:
        """A digest of (a sample of) the picture's content, independent of place and time; "" where `weight` already
        distinguishes pictures."""
        return ""

    def pixels(self, row: int) -> str:
        """16 hex digits over the decoded pixels; the reason where the picture cannot be read."""
        try:
            picture = self.read(row)
        except PictureError as error:
            return str(error)
        return digest(picture.tobytes(), repr(picture.size))

    def signature(self, row: int) -> str:
        """Hash that changes when the picture may have changed."""
        return self.content(row)

    def scene(self, row: int) -> Any:
        """The scene a picture is rendered from."""
        raise DataError(f"Pictures from {self.kind} have no scene; only rendered ones can be edited.")


class FileSource(Source):
    """One file per picture."""

    kind = "files"

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = list(files)

    def read(self, row: int, draft: int | None = None) -> Image.Image:
        return read_picture(self.files[row], draft=draft)

    def path(self, row: int) -> str:
        return str(self.files[row])

    def weight(self, row: int) -> int:
        try:
            return self.files[row].stat().st_size
        except (OSError, ValueError):
            return -1

    def signature(self, row: int) -> str:
        try:
            stat = self.files[row].stat()
        except (OSError, ValueError):
            return "gone"
        return f"{stat.st_size}-{stat.st_mtime_ns}-{self.content(row)}"

    def content(self, row: int) -> str:
        return file_sample(self.files[row])


class MemorySource(Source):
    """Pictures or arrays the caller holds."""

    kind = "memory"

    def __init__(self, items: Sequence[Any]) -> None:
        self.items = list(items)

    def read(self, row: int, draft: int | None = None) -> Image.Image:
        return to_picture(self.items[row])

    def signature(self, row: int) -> str:
        return self.pixels(row)

    def weight(self, row: int) -> int:
        return int(digest(self.signature(row), digits=12), 16)


class JoinedSource(Source):
    """Several sources in sequence.

    Args:
        parts: sources, each with the rows to take.
    """

    def __init__(self, parts: Sequence[tuple[Source, Sequence[int] | np.ndarray]]) -> None:
        self.parts = [(source, np.asarray(rows, dtype=np.int64)) for source, rows in parts]
        self.kind = self.parts[0][0].kind
        self.threads = all(source.threads for source, _ in self.parts)
        self._ends = np.cumsum([len(rows) for _, rows in self.parts])

    def _at(self, row: int) -> tuple[Source, int]:
        part = int(np.searchsorted(self._ends, row, side="right"))
        source, rows = self.parts[part]
        return source, int(rows[row - (int(self._ends[part - 1]) if part else 0)])

    def read(self, row: int, draft: int | None = None) -> Image.Image:
        source, own = self._at(row)
        return source.read(own, draft)

    def path(self, row: int) -> str | None:
        source, own = self._at(row)
        return source.path(own)

    def weight(self, row: int) -> int:
        source, own = self._at(row)
        return source.weight(own)

    def sampled(self, rows: np.ndarray) -> np.ndarray:
        chosen, start = [], 0
        for (source, own), end in zip(self.parts, self._ends.tolist(), strict=True):
            here = rows[(rows >= start) & (rows < end)]
            kept = set(source.sampled(own[here - start]).tolist())
            chosen.append(
                np.array([row for row in here.tolist() if int(own[row - start]) in kept], dtype=np.int64)
            )
            start = end
        return np.concatenate(chosen)

    def content(self, row: int) -> str:
        source, own = self._at(row)
        return source.content(own)

    def signature(self, row: int) -> str:
        source, own = self._at(row)
        return source.signature(own)

    def scene(self, row: int) -> Any:
        source, own = self._at(row)
        return source.scene(own)


class SceneSource(Source):
    """A file with one scene per line, rendered on access. Lines: {"id", "label", "group", "split", "scene"}."""

    kind = "scenes"

    def __init__(self, file: Path) -> None:
        if not file.is_file():
            raise DataError(f"The scenes file {str(file)!r} does not exist.")
        self.file = file
        self.scenes: list[str] = []
        self.names: list[str] = []
        self.columns: dict[str, list[str | None]] = {"label": [], "group": [], "split": []}
        number = 0
        try:
            with file.open(encoding="utf-8-sig") as lines:
                while line := lines.readline(MAX_LINE + 1):
                    number += 1
                    if len(line) > MAX_LINE:
                        raise ValueError(f"more than {MAX_LINE:,} characters")
                    if line.strip():
                        self._add(number, line)
        except DataError:
            raise
        except (OSError, ValueError) as error:
            raise DataError(f"{str(file)!r} cannot be read after line {number}: {error}.") from error

    def _add(self, number: int, line: str) -> None:
        try:
            entry = parse_json(line)
            scene = json.dumps(entry["scene"], sort_keys=True)
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{str(self.file)!r} line {number} is not a scene, an object with a field 'scene': {error}."
            ) from error
        self.scenes.append(scene)
        self.names.append(str(entry.get("id", f"{len(self.names):06d}")))
        for name, values in self.columns.items():
            values.append(cell_text(entry.get(name)))

    def read(self, row: int, draft: int | None = None) -> Image.Image:
        try:
            return Image.fromarray(self.scene(row).render())
        except Exception as error:  # the content of a line is not trusted
            raise PictureError(f"the scene cannot be drawn: {type(error).__name__}: {error}") from error

    def scene(self, row: int) -> Any:
        from clipattr_data import read_scene

        return read_scene(self.scenes[row])

    def signature(self, row: int) -> str:
        return digest(self.scenes[row])

    def weight(self, row: int) -> int:
        return int(self.signature(row)[:12], 16)


def file_sample(file: Path, offset: int = 0, size: int | None = None) -> str:
    """16 hex digits over the size and a sample of the bytes of a file, or of `size` bytes of it from `offset`.

    Up to 64 KiB all bytes count, beyond that the first and last 16 KiB and 8 blocks of 4 KiB evenly between: another
    picture of the same size differs nearly everywhere. "gone" where the file cannot be read.
    """
    try:
        with file.open("rb") as data:
            if size is None:
                size = os.fstat(data.fileno()).st_size
            parts = [str(size).encode()]
            for start, length in _pieces(size):
                data.seek(offset + start)
                parts.append(data.read(length))
    except (OSError, ValueError):
        return "gone"
    return digest(*parts)


def _pieces(size: int) -> list[tuple[int, int]]:
    if size <= SMALL:
        return [(0, size)]
    between = [ENDS + (size - 2 * ENDS) * part // (BLOCKS + 1) for part in range(1, BLOCKS + 1)]
    return [(0, ENDS), *((start, BLOCK) for start in between), (size - ENDS, ENDS)]
