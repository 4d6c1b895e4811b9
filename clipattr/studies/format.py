"""Files of a study: reading and writing, with schema, sizes and hashes.

Owns the formats inside a study folder. Ignores their meaning. Start at `read_manifest`.
"""

import contextlib
import csv
import json
import os
import shlex
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from torch import Tensor

from clipattr.dictionaries import SparseCodes
from clipattr.errors import StudyError
from clipattr.images.collection import Images
from clipattr.images.decoding import PictureError, read_picture
from clipattr.images.folders import readable_name
from clipattr.images.opening import COLUMNS
from clipattr.images.sources import FileSource, SceneSource, Source
from clipattr.sites import Site
from clipattr.storage.documents import json_text, read_json, schema_complaint, write_rows
from clipattr.storage.files import file_digest, written
from clipattr.storage.paths import full_path

SCHEMA = 1
MOST = 10**12  # largest valid count of pictures or latents in a manifest
LARGEST_THUMBNAIL = 2**24  # bytes
MANIFEST = "study.json"
CHANGING = ("names.json", MANIFEST)


class AbsentSource(Source):
    """Pictures without a path, for instance from a data set or a tar file; only thumbnails are available."""

    kind = "elsewhere"

    def read(self, row: int, draft: int | None = None) -> Image.Image:
        raise PictureError(
            "the original is not part of the study, only its thumbnail; open the study with open_study(path, images=…)"
        )


class StudyFiles(FileSource):
    """The files that a study was built from, where they still are."""

    def read(self, row: int, draft: int | None = None) -> Image.Image:
        if not self.files[row].exists():
            raise PictureError(
                f"no such file: {readable_name(self.files[row])}; if the pictures have moved, open the study with "
                "open_study(path, images=…)"
            )
        return super().read(row, draft)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest, after checking the existence and size of its files.

    Raises:
        StudyError: no study, a newer schema, or files missing or of another size.
    """
    file = folder / MANIFEST
    if not file.exists():
        building = Path(f"{full_path(folder)}.building")
        advice = " An unfinished one lies beside it: run the same build again." if building.exists() else ""
        raise StudyError(f"{str(folder)!r} is not a study: there is no {MANIFEST} in it.{advice}")
    try:
        manifest = read_json(file)
        schema = manifest["schema"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StudyError(f"{str(file)!r} is damaged: {type(error).__name__}: {error}.") from error
    again = f"clipattr study MODEL IMAGES --out {shlex.quote(str(folder))} --overwrite"
    if told := schema_complaint(repr(str(folder)), schema, SCHEMA, again):
        raise StudyError(told)
    try:
        files = _checked(manifest)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StudyError(
            f"{str(file)!r} is damaged, or older than this version can read ({type(error).__name__}: {error}). Build "
            "the study again with clipattr study."
        ) from error
    for name, (size, _) in files.items():
        path = folder / name
        if not path.exists() or path.stat().st_size != size:
            found = f"has {path.stat().st_size} bytes" if path.exists() else "is missing"
            raise StudyError(
                f"{str(folder)!r} is damaged: {name} {found}, should have {size}. Build it again."
            )
    return manifest


def _checked(manifest: Any) -> dict[str, tuple[int, str]]:
    """The manifest's files; ValueError, KeyError or TypeError where a required field is missing or invalid."""
    counts = manifest["counts"]
    for name in ("pictures", "latents", "live"):
        if not isinstance(counts[name], int) or not 0 <= counts[name] <= MOST:
            raise ValueError(f"counts.{name} is {counts[name]!r:.60}")
    for role in ("model", "evaluator"):
        if not all(isinstance(manifest[role][name], str) for name in ("reference", "hash")):
            raise ValueError(f"{role} has no reference and hash")
    Site(manifest["site"])
    files = {str(name): (int(size), str(digest)) for name, (size, digest) in manifest["files"].items()}
    for name in files:
        parts = PurePosixPath(name).parts
        if not parts or name.startswith("/") or ".." in parts or "\0" in name or "\\" in name:
            raise ValueError(f"the file name {name!r:.80} points outside the folder")
    return files


def all_files(folder: Path) -> dict[str, tuple[int, str]]:
    """{relative name: (bytes, hash)} of every file in a folder, except those that may change."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return {
        name: ((folder / name).stat().st_size, file_digest(folder / name))
        for name in names
        if name not in CHANGING
    }


def write_pictures(images: Images, folder: Path, final: Path) -> None:
    """Write the list of pictures that `read_pictures` reads.

    Paths are relative to `final`, the folder that `folder` will be renamed to. Scenes are copied. Pictures that exist
    in memory only are saved as PNG.
    """
    paths: list[str] = [""] * len(images)
    if images.source.kind in ("files", "vectors"):
        paths = [_relative(str(record.path), final) if record.path else "" for record in images]
    elif images.source.kind == "memory":
        (folder / "pictures").mkdir(exist_ok=True)
        for index, record in enumerate(images):
            paths[index] = f"pictures/{index:06d}.png"
            record.load().save(folder / paths[index])
    elif isinstance(images.source, SceneSource):
        _write_scenes(images, images.source, folder / "scenes.jsonl")
    with (
        written(folder / "pictures.csv") as partial,
        partial.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        columns = [images.columns[name] for name in COLUMNS]
        write_rows(file, [["id", "path", *COLUMNS], *zip(images.ids, paths, *columns, strict=True)])


def read_pictures(folder: Path) -> Images:
    """The pictures of a study. Nothing is decoded; original files may be missing."""
    with (folder / "pictures.csv").open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        rows = list(csv.reader(file))[1:]
    ids = [row[0] for row in rows]
    columns = {name: [row[2 + place] or None for row in rows] for place, name in enumerate(COLUMNS)}
    source: Source
    if (folder / "scenes.jsonl").exists():
        source = SceneSource(folder / "scenes.jsonl")
    elif any(row[1] for row in rows):
        source = StudyFiles([Path(os.path.normpath(folder.absolute() / row[1])) for row in rows])
    else:
        source = AbsentSource()
    return Images(source, ids, columns)


class ArrayWriter:
    """Writes a .npy file row by row, under a temporary name until `close`.

    Not a memory map: a full disk raises OSError here, but kills the process there.
    """

    def __init__(self, path: Path, rows: int, dtype: Any) -> None:
        self.path, self.rows, self.dtype = path, rows, np.dtype(dtype)
        self._place = contextlib.ExitStack()
        self._file = self._place.enter_context(self._place.enter_context(written(path)).open("wb"))
        self._head = 0  # bytes of the header, written with the first rows
        self._next = 0

    def add(self, rows: np.ndarray) -> None:
        """Append rows; all have the same shape."""
        self.put(np.arange(self._next, self._next + len(rows)), rows)
        self._next += len(rows)

    def put(self, at: np.ndarray, rows: np.ndarray) -> None:
        """Write rows at indices `at`, (n,) in any order; every index must be written once before `close`."""
        if not self._head:
            head = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False}
            np.lib.format.write_array_header_1_0(self._file, {**head, "shape": (self.rows, *rows.shape[1:])})
            self._head = self._file.tell()
        order = np.argsort(at, kind="stable")
        size = self.dtype.itemsize * int(np.prod(rows.shape[1:]))
        for run in np.split(order, np.flatnonzero(np.diff(at[order]) != 1) + 1):
            if len(run):
                self._file.seek(self._head + int(at[run[0]]) * size)
                self._file.write(np.ascontiguousarray(rows[run], dtype=self.dtype).tobytes())

    def close(self) -> None:
        """Rename the file to its final name."""
        self._place.close()


class _Rows:
    """Some rows of a memory map, read on access."""

    ndim = 2

    def __init__(self, array: np.ndarray, rows: np.ndarray) -> None:
        self.array, self.rows, self.dtype = array, rows, array.dtype
        self.shape = (len(rows), array.shape[1])

    def __getitem__(self, which: np.ndarray) -> np.ndarray:
        return self.array[self.rows[which]]


def samples(folder: Path, pictures: np.ndarray) -> Any:
    """Activations of some pictures, (samples, width), read on access; every token is a sample.

    Args:
        pictures: (n,) bool mask.
    """
    acts = np.load(folder / "activations.npy", mmap_mode="c")
    if acts.ndim == 3:
        pictures = np.repeat(pictures, acts.shape[1])
        acts = acts.reshape(-1, acts.shape[2])
    return of_pictures(acts, pictures)


def of_pictures(table: np.ndarray, pictures: np.ndarray) -> Any:
    """The rows of a table that a mask (n,) chooses, read on access."""
    return table if pictures.all() else _Rows(table, np.flatnonzero(pictures))


class CodesWriter:
    """Writes codes batch by batch; codes of fixed k are written at once, others are joined at the end.

    For codes that were pooled over tokens, tokens.npy holds the token of each entry in the same order.
    """

    def __init__(self, folder: Path, n_pictures: int, n_latents: int) -> None:
        self.folder, self.n_pictures, self.n_latents = folder, n_pictures, n_latents
        self._arrays: tuple[ArrayWriter, ArrayWriter] | None = None
        self._parts: list[SparseCodes] = []
        self._tokens: list[np.ndarray] = []

    def add(self, codes: SparseCodes, tokens: Tensor | None = None) -> None:
        """Append the codes of the next pictures, and the token of each entry where there are several tokens."""
        if tokens is not None:
            self._tokens.append(tokens.numpy().astype(np.uint16))
        if codes.k is None or codes.row_stats is not None:
            self._parts.append(codes)
            return
        if self._arrays is None:
            index_type = np.uint16 if self.n_latents <= 2**16 else np.int32
            self._arrays = (
                ArrayWriter(self.folder / "codes-indices.npy", self.n_pictures, index_type),
                ArrayWriter(self.folder / "codes-values.npy", self.n_pictures, np.float16),
            )
        self._arrays[0].add(codes.indices.cpu().numpy())
        self._arrays[1].add(codes.values.detach().cpu().numpy())

    def close(self) -> list[Path]:
        """Rename the files to their final names, which are returned."""
        if self._arrays is None:
            path = self.folder / "codes.safetensors"
            SparseCodes.cat(self._parts).save(path, half=True)
            if not self._tokens:
                return [path]
            tokens = np.concatenate(self._tokens)
            writer = ArrayWriter(self.folder / "tokens.npy", len(tokens), np.uint16)
            writer.add(tokens)
            writer.close()
            return [path, writer.path]
        for array in self._arrays:
            array.close()
        return [array.path for array in self._arrays]


def read_codes(folder: Path, n_latents: int, rows: slice | np.ndarray | None = None) -> SparseCodes:
    """Codes of all or some pictures, as int32 indices and float32 values."""
    if not (folder / "codes-indices.npy").exists():
        codes = SparseCodes.load(folder / "codes.safetensors")
        return (
            codes
            if rows is None
            else codes.rows(torch.from_numpy(rows) if isinstance(rows, np.ndarray) else rows)
        )
    rows = slice(None) if rows is None else rows
    indices = np.load(folder / "codes-indices.npy", mmap_mode="r")[rows].astype(np.int32)
    values = np.load(folder / "codes-values.npy", mmap_mode="r")[rows].astype(np.float32)
    return SparseCodes(torch.from_numpy(indices), torch.from_numpy(values), n_latents)


def code_blocks(
    folder: Path, n_latents: int, pictures: range, block: int = 8192
) -> Iterator[tuple[int, SparseCodes]]:
    """(first row, codes) of some pictures in blocks, so that memory does not grow with their number."""
    whole = None if (folder / "codes-indices.npy").exists() else read_codes(folder, n_latents)
    for start in range(pictures.start, pictures.stop, block):
        rows = slice(start, min(start + block, pictures.stop))
        yield start, read_codes(folder, n_latents, rows) if whole is None else whole.rows(rows)


def read_tokens(folder: Path, first: int, behind: int) -> Tensor | None:
    """The token of each entry of the pictures `first` to `behind` - 1, int32; None for sites of one token."""
    if not (folder / "tokens.npy").exists():
        return None
    with safe_open(folder / "codes.safetensors", "pt") as tensors:
        ends = tensors.get_slice("offsets")[first : behind + 1]
    tokens = np.load(folder / "tokens.npy", mmap_mode="r")[int(ends[0]) : int(ends[-1])]
    return torch.from_numpy(tokens.astype(np.int32))


def read_thumbnail(folder: Path, start: int, stop: int) -> Image.Image:
    """The thumbnail at these bytes of thumbnails.bin; PictureError if it cannot be decoded."""
    return read_picture(thumbnail_bytes(folder, start, stop))


def thumbnail_bytes(folder: Path, start: int, stop: int) -> bytes:
    """These bytes of thumbnails.bin, not decoded; PictureError if they cannot be a thumbnail."""
    if not 0 <= start < stop <= start + LARGEST_THUMBNAIL:
        raise PictureError(f"its thumbnail has invalid bytes {start} to {stop}")
    with (folder / "thumbnails.bin").open("rb") as file:
        file.seek(start)
        return file.read(stop - start)


def _relative(path: str, final: Path) -> str:
    try:
        return os.path.relpath(os.path.abspath(path), final.absolute()).replace(os.sep, "/")
    except ValueError:  # another drive
        return os.path.abspath(path)


def _write_scenes(images: Images, source: SceneSource, path: Path) -> None:
    with written(path) as partial, partial.open("w", encoding="utf-8") as file:
        for record in images:
            entry = {"id": record.id, **{name: getattr(record, name) for name in COLUMNS}}
            entry["scene"] = json.loads(source.scenes[int(images.rows[record.index])])
            file.write(json_text(entry, sort_keys=True) + "\n")


def bundled_study(name: str) -> Path | None:
    """The folder of a bundled study by name; StudyError for an unknown name."""
    try:
        from clipattr_data import studies_dir
    except ImportError:
        return None
    root = studies_dir()
    if (root / name / "study.json").exists():
        return root / name
    if Path(f"{name}.building").exists():
        return None
    known = sorted(file.parent.name for file in root.glob("*/study.json"))
    raise StudyError(
        f"No study folder {name!r}, and no bundled study of that name; bundled: {', '.join(known) or 'none'}."
    )
