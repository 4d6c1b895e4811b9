"""Vectors on disk: arrays of embeddings in common file formats, read block by block.

Owns .npy, .npz, .safetensors, parquet with a column of vectors, and clip-retrieval's folders, all behind `shape`,
`dtype` and `read`. Only the requested block is in memory. Ignores what the rows are of. Start at `open_vectors`.
"""

import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clipattr.display.wording import few
from clipattr.errors import DataError

EXTRA = "pip install 'clipattr[parquet]'"
FORMS = "a 2-D array, a .npy, .npz, .safetensors or .parquet file, or a folder of clip-retrieval (img_emb, metadata)"


class Vectors:
    """Rows of numbers.

    Attributes:
        shape: (rows, width). dtype: as kept. columns: the other columns of the file, by name.
    """

    def __init__(self, array: Any, columns: dict[str, list[Any]] | None = None) -> None:
        if getattr(array, "ndim", None) != 2:
            raise DataError(
                f"Embeddings have shape (rows, width); got {tuple(getattr(array, 'shape', ()))}. A single vector is "
                "array[None]."
            )
        self.array = array
        self.shape: tuple[int, int] = (int(array.shape[0]), int(array.shape[1]))
        self.dtype = np.dtype(array.dtype)
        self.columns = columns or {}

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows start to stop as they are kept."""
        return np.asarray(self.array[start:stop])


class _Joined(Vectors):
    """Several files, one behind the other."""

    def __init__(self, parts: Sequence[Vectors], columns: dict[str, list[Any]] | None = None) -> None:
        widths = {part.shape[1] for part in parts}
        if len(widths) != 1:
            raise DataError(
                f"The files hold vectors of different widths: {few(sorted(widths))}. Give files of one model."
            )
        self.parts = list(parts)
        self.ends = np.cumsum([part.shape[0] for part in parts])
        self.shape = (int(self.ends[-1]), widths.pop())
        self.dtype = parts[0].dtype
        self.columns = columns or {}

    def read(self, start: int, stop: int) -> np.ndarray:
        found = []
        for part, end in zip(self.parts, self.ends.tolist(), strict=True):
            first = end - part.shape[0]
            if start < end and stop > first:
                found.append(part.read(max(start - first, 0), min(stop, end) - first))
        return np.concatenate(found) if found else np.empty((0, self.shape[1]), self.dtype)


class _Safetensors(Vectors):
    def __init__(self, file: Path, key: str | None) -> None:
        from safetensors import SafetensorError, safe_open

        try:
            self.file = safe_open(file, "np")
            slices = {name: self.file.get_slice(name) for name in self.file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise DataError(f"{str(file)!r} is not a readable safetensors file ({error}).") from error
        name = _chosen({n: len(s.get_shape()) for n, s in slices.items()}, key, file)
        self.slice = slices[name]
        shape = self.slice.get_shape()
        self.shape = (int(shape[0]), int(shape[1]))
        kind = self.slice.get_dtype()
        if kind not in ("F64", "F32", "F16", "I8", "U8"):
            raise DataError(f"{str(file)!r}: {name!r} is kept as {kind}; convert it to float16 or float32.")
        self.dtype = self.slice[0:0].dtype
        self.columns = {}

    def read(self, start: int, stop: int) -> np.ndarray:
        return self.slice[start:stop]


class _Parquet(Vectors):
    """A parquet file, one row group in memory at a time."""

    def __init__(self, file: Path, key: str | None) -> None:
        parquet = parquet_or_error(file)
        try:
            self.file = parquet.ParquetFile(file, memory_map=True)
        except Exception as error:  # pyarrow raises errors of its own kinds
            raise DataError(f"{str(file)!r} is not a readable parquet file ({error}).") from error
        schema = self.file.schema_arrow
        ranks = {field.name: 2 if str(field.type).startswith(("list", "fixed_size_list", "large_list")) else 1
                 for field in schema}  # fmt: skip
        self.name = _chosen(ranks, key, file)
        groups = self.file.metadata
        sizes = [groups.row_group(number).num_rows for number in range(groups.num_row_groups)]
        self.ends = np.cumsum(sizes) if sizes else np.zeros(1, np.int64)
        self._held: tuple[int, np.ndarray] = (-1, np.empty((0, 0)))
        first = self._group(0) if sizes else np.empty((0, 0), np.float32)
        self.shape = (int(self.ends[-1]), first.shape[1])
        self.dtype = first.dtype
        plain = [name for name, rank in ranks.items() if rank == 1]
        self.columns = self.file.read(columns=plain).to_pydict() if plain else {}

    def _group(self, number: int) -> np.ndarray:
        if self._held[0] != number:
            column = self.file.read_row_group(number, columns=[self.name]).column(0)
            if column.null_count:
                raise DataError(
                    f"{column.null_count} rows of the column {self.name!r} have no vector. Drop these rows."
                )
            flat = np.concatenate([chunk.flatten().to_numpy(zero_copy_only=False) for chunk in column.chunks])
            width, left = divmod(len(flat), len(column))
            lengths = {len(row) for row in column.slice(0, 2).to_pylist()}
            if left or lengths - {width}:
                raise DataError(
                    f"The vectors in the column {self.name!r} have different lengths. Keep rows of one model only."
                )
            self._held = (number, flat.reshape(len(column), width))
        return self._held[1]

    def read(self, start: int, stop: int) -> np.ndarray:
        found, first = [], 0
        for number, end in enumerate(self.ends.tolist()):
            if start < end and stop > first:
                found.append(self._group(number)[max(start - first, 0) : min(stop, end) - first])
            first = end
        return np.concatenate(found) if found else np.empty((0, self.shape[1]), self.dtype)


def parquet_or_error(file: Path) -> Any:
    """pyarrow's parquet module; DataError that names the extra where it is not installed."""
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise DataError(f"{str(file)!r} is parquet, which needs pyarrow: {EXTRA}.") from error
    return pyarrow.parquet


def open_vectors(source: Any, key: str | None = None) -> Vectors:
    """Open vectors in any of their forms.

    Args:
        source: an array or tensor (rows, width), or a path.
        key: which array or column of a file that has several.

    Raises:
        DataError: nothing there, another format, or several arrays to choose from.
    """
    if isinstance(source, Vectors):
        return source
    if hasattr(source, "detach"):
        source = source.detach().cpu()
        source = (source.float() if str(source.dtype) == "torch.bfloat16" else source).numpy()
    if isinstance(source, np.ndarray):
        return Vectors(source)
    if not isinstance(source, str | Path):
        raise DataError(f"Embeddings are {FORMS}; got {type(source).__name__}.")
    path = Path(source)
    if not path.exists():
        raise DataError(f"There are no embeddings at {str(path)[:300]!r}. Give {FORMS}.")
    if path.is_dir():
        return _clip_retrieval(path)
    suffix = path.suffix.lower()
    if suffix == ".npy":
        return Vectors(_loaded(path, mmap_mode="r"))
    if suffix == ".npz":
        return _from_npz(path, key)
    if suffix == ".safetensors":
        return _Safetensors(path, key)
    if suffix in (".parquet", ".pq"):
        return _Parquet(path, key)
    raise DataError(f"{str(path)!r}: embeddings are {FORMS}.")


def _loaded(path: Path, **options: Any) -> Any:
    try:
        return np.load(path, allow_pickle=False, **options)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{str(path)!r} is not a readable array of numbers ({error}).") from error


def _from_npz(path: Path, key: str | None) -> Vectors:
    with _loaded(path) as held:
        try:
            arrays = {name: held[name] for name in held.files}
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise DataError(f"{str(path)!r} is not a readable archive of arrays ({error}).") from error
    name = _chosen({name: array.ndim for name, array in arrays.items()}, key, path)
    rest = {other: array.tolist() for other, array in arrays.items() if other != name and array.ndim == 1}
    return Vectors(arrays[name], rest)


def _chosen(ranks: dict[str, int], key: str | None, file: Path) -> str:
    """The one array of vectors among those of a file."""
    fitting = [name for name, rank in ranks.items() if rank == 2]
    if key is not None:
        if key not in fitting:
            raise DataError(f"{str(file)!r} has no vectors {key!r}; it has {few(fitting)}.")
        return key
    if len(fitting) != 1:
        raise DataError(
            f"{str(file)!r} holds {len(fitting)} arrays of vectors ({few(fitting)}); exactly one, or "
            "key=NAME, is needed."
        )
    return fitting[0]


def _clip_retrieval(folder: Path) -> Vectors:
    """img_emb/img_emb_0.npy, … with metadata/metadata_0.parquet, … beside them."""
    files = sorted((folder / "img_emb").glob("*.npy"), key=_number)
    if not files:
        raise DataError(
            f"{str(folder)!r} has no img_emb/*.npy: not a folder of clip-retrieval. Give {FORMS}."
        )
    parts = [Vectors(_loaded(file, mmap_mode="r")) for file in files]
    tables = sorted((folder / "metadata").glob("*.parquet"), key=_number)
    columns: dict[str, list[Any]] = {}
    if tables:
        if len(tables) != len(parts):
            raise DataError(
                f"{str(folder)!r} has {len(parts)} files of vectors and {len(tables)} of metadata: they are out of "
                "step."
            )
        for part, table in zip(parts, tables, strict=True):
            found = parquet_or_error(table).read_table(table).to_pydict()
            rows = len(next(iter(found.values()), []))
            if rows != part.shape[0]:
                raise DataError(
                    f"{str(table)!r} has {rows} rows, its vectors {part.shape[0]}: they are out of step."
                )
            for name, values in found.items():
                columns.setdefault(name, []).extend(values)
    total = sum(part.shape[0] for part in parts)
    whole = {name: values for name, values in columns.items() if len(values) == total}
    return _Joined(parts, whole)


def _number(path: Path) -> tuple[int, str]:
    digits = re.findall(r"\d+", path.stem)
    return (int(digits[-1]) if digits else 0, path.name)
