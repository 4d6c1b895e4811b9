"""Embeddings: pictures that are known by their vectors, with or without files behind them.

Owns which rows there are, their ids, paths and labels, and the state of the vectors: finite, normalised, quantised.
Ignores which model made them. How files are read is in vectors.py. Start at `Embeddings`.
"""

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from clipattr.display.wording import few
from clipattr.errors import DataError
from clipattr.images.cells import column_texts, is_missing
from clipattr.images.collection import Images
from clipattr.images.decoding import PictureError, read_picture
from clipattr.images.sources import Source
from clipattr.images.splits import held_out
from clipattr.images.vectors import Vectors, open_vectors
from clipattr.storage.paths import user_path

BLOCK = 65_536  # rows read at a time
UNIT = 5e-3  # how far from 1 a length may be and still count as unit length: float16 keeps 11 bits of each number
# Names of columns with ids, paths and labels; the first that a file has is used.
IDS, PATHS, LABELS = (
    ("id", "key", "ids"),
    ("image_path", "path", "file", "filename"),
    ("label", "class", "labels"),
)


class VectorSource(Source):
    """Pictures known by their vectors; those with a path can be looked at."""

    kind = "vectors"

    def __init__(self, paths: Sequence[str | None] | None) -> None:
        self.paths = paths

    def path(self, row: int) -> str | None:
        return self.paths[row] if self.paths is not None else None

    def read(self, row: int, draft: int | None = None) -> Image.Image:
        if not (path := self.path(row)):
            raise PictureError(
                "only its embedding is known: the source has no paths; give paths= to see pictures"
            )
        return read_picture(Path(path), draft=draft)


class Embeddings:
    """Vectors of pictures as a source of a study, like a folder of pictures. They stay on disk.

    Args:
        vectors: (rows, width) features of an image tower, normalised or not: an array or tensor, or the path of a .npy,
            .npz, .safetensors or .parquet file, or of a clip-retrieval folder (img_emb and metadata).
        ids: one unique name per row, or a column of the file; default its column `id` or `key`, else numbers.
        paths: one file per row (None where there is none), or a column; default the column `image_path` or `path`.
        labels: one class per row, or a column; default the column `label`. groups, splits: likewise, where given.
        key: name of the array or column with the vectors, where a file has several.
        root: folder that relative paths start from; default the file's own folder.
        zero_point: the unsigned integer that means 0.

    Attributes:
        width: components per row.
        images: the rows as `Images`.

    Raises:
        DataError: no such file, another format, no row, values that are not numbers, unsigned integers without
            `zero_point`, or another number of ids, paths or labels than rows.

    >>> rows = Embeddings(np.eye(3, 4, dtype=np.float32), labels=["a", "b", "a"])
    >>> len(rows), rows.width, rows.state
    (3, 4, 'unit length')
    """

    def __init__(
        self,
        vectors: Any,
        *,
        ids: Sequence[str] | str | None = None,
        paths: Sequence[str | None] | str | None = None,
        labels: Sequence[str | None] | str | None = None,
        groups: Sequence[str | None] | str | None = None,
        splits: Sequence[str | None] | str | None = None,
        key: str | None = None,
        root: str | Path | None = None,
        zero_point: float | None = None,
    ) -> None:
        vectors = user_path(vectors) if isinstance(vectors, str) else vectors
        self._vectors: Vectors = open_vectors(vectors, key)
        self._zero = zero_point
        if not len(self):
            raise DataError("The embeddings have no rows. Give at least one row per picture.")
        kind = self._vectors.dtype
        if kind.kind not in "fiu":
            raise DataError(
                f"Embeddings must be numbers; got values of type {kind}. Pass the array of features."
            )
        if kind.kind == "u" and zero_point is None:
            raise DataError(
                f"The vectors are unsigned integers ({kind}), so the value that means 0 is not known: pass "
                "zero_point=, often 128."
            )
        if root is None and isinstance(vectors, Path):
            root = vectors if vectors.is_dir() else vectors.parent
        names = self._column(ids, IDS, "ids")
        files = self._column(paths, PATHS, "paths")
        columns = {
            "label": self._column(labels, LABELS, "labels"),
            "group": self._column(groups, (), "groups"),
            "split": self._column(splits, (), "splits"),
        }
        resolved = None if files is None else [_resolved(path, root) for path in files]
        if names is None:
            digits = len(str(len(self)))
            names = [f"{row:0{digits}d}" for row in range(len(self))]
        texts = [text or str(row) for row, text in enumerate(column_texts(names, "id"))]
        given = {name: column_texts(values, name) for name, values in columns.items() if values is not None}
        notes: list[str] = []
        if "split" in given:
            given["split"], notes = held_out(given["split"])
        self.images = Images(VectorSource(resolved), texts, given, notes=notes)

    def __len__(self) -> int:
        return self._vectors.shape[0]

    def __repr__(self) -> str:
        return f"<Embeddings: {len(self)} × {self.width}, {self._vectors.dtype}>"

    @property
    def width(self) -> int:
        """Components per row."""
        return self._vectors.shape[1]

    def _column(self, given: Any, usual: Sequence[str], what: str) -> list[Any] | None:
        held = self._vectors.columns
        if isinstance(given, str):
            if given not in held:
                raise DataError(
                    f"{what}={given!r} is not a column of the file; it has the columns {few(held)}."
                )
            given = held[given]
        elif given is None:
            given = next((held[name] for name in usual if name in held), None)
        if given is None:
            return None
        values = list(given)
        if len(values) != len(self):
            raise DataError(
                f"{len(self)} rows of vectors need as many {what}; got {len(values)}. Give one per row."
            )
        return values

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows from `start` up to, not including, `stop`: (stop - start, width) float32.

        Integers are divided by 127; this common factor changes no cosine.

        Raises:
            DataError: a row among them is NaN, infinite or all zeros; the message has its number.
        """
        kept = self._vectors.read(start, stop)
        rows = kept.astype(np.float32)
        if kept.dtype.kind in "iu":
            rows = (rows - np.float32(self._zero or 0)) / np.float32(127)
        for wrong, told in (
            (~np.isfinite(rows).all(1), "holds NaN or infinity"),
            (~rows.any(1), "is zero everywhere"),
        ):
            if wrong.any():
                row = start + int(np.flatnonzero(wrong)[0])
                raise DataError(
                    f"Row {row} of the embeddings ({self.images.ids[row]!r}) {told}; {int(wrong.sum())} of the rows "
                    f"{start} to {stop - 1} do. Leave them out, from ids, paths and labels as well."
                )
        return rows

    def blocks(self, size: int = BLOCK) -> Iterator[tuple[int, np.ndarray]]:
        """Block by block the number of the first row, and the rows (block, width) float32; DataError as for `read`."""
        for start in range(0, len(self), size):
            yield start, self.read(start, min(start + size, len(self)))

    @cached_property
    def _told(self) -> tuple[str, float, float]:
        """Hash, shortest and longest length, by one pass over all rows."""
        digest = hashlib.blake2b(
            f"{self._vectors.shape} {self._vectors.dtype} {self._zero}".encode(), digest_size=8
        )
        shortest, longest = np.inf, 0.0
        for _, rows in self.blocks():
            digest.update(np.ascontiguousarray(rows).data)
            lengths = np.linalg.norm(rows, axis=1)
            shortest, longest = min(shortest, float(lengths.min())), max(longest, float(lengths.max()))
        return digest.hexdigest(), shortest, longest

    @property
    def fingerprint(self) -> str:
        """16 hex digits over the vectors, ids, labels and splits."""
        return hashlib.blake2b(
            f"{self._told[0]} {self.images.fingerprint}".encode(), digest_size=8
        ).hexdigest()

    @property
    def is_normalised(self) -> bool:
        """Whether every row has unit length."""
        _, shortest, longest = self._told
        return shortest > 1 - UNIT and longest < 1 + UNIT

    @property
    def state(self) -> str:
        """The vectors in a few words: their lengths, and whether they are quantised."""
        _, shortest, longest = self._told
        lengths = "unit length" if self.is_normalised else f"lengths {shortest:.3g} to {longest:.3g}"
        quantised = self._vectors.dtype.kind in "iu"
        return f"{lengths}, quantised to {self._vectors.dtype}" if quantised else lengths


def open_embeddings(source: Any, *, like: Embeddings | None = None) -> Embeddings:
    """Embeddings as they are, or from an array or path; `like`: row by row the same pictures.

    Raises:
        DataError: another number of rows than `like` has.
    """
    found = source if isinstance(source, Embeddings) else Embeddings(source)
    if like is not None and len(found) != len(like):
        raise DataError(
            f"{len(like)} pictures need as many rows of embeddings; got {len(found)}. Give one row per picture."
        )
    return found


def _resolved(path: Any, root: str | Path | None) -> str | None:
    if is_missing(path):
        return None
    return str(path) if root is None else str(user_path(root) / user_path(str(path)))
