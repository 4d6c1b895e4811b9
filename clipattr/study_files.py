"""A study's files: reading and writing each, with schema, sizes and hashes.

Owns the formats inside a study folder. Ignores what they mean. Start at `read_manifest`.
"""

import csv
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clipattr.dictionaries import SparseCodes
from clipattr.errors import StudyError
from clipattr.images import COLUMNS, Images
from clipattr.pictures import PictureError
from clipattr.sources import FileSource, SceneSource, Source

SCHEMA = 1
MANIFEST = "study.json"
CHANGING = ("names.json", MANIFEST)


class AbsentSource(Source):
    """Pictures whose originals no path leads to (they came from a data set or a tar); thumbnails are kept."""

    kind = "elsewhere"

    def read(self, row: int, draft: int | None = None) -> Image.Image:
        raise PictureError(
            "the original is not part of the study, only its thumbnail; open the study with open_study(path, images=…)"
        )


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest, checked against the files that are there.

    Raises:
        StudyError: no study, a newer schema, or files missing or of another size.
    """
    file = folder / MANIFEST
    if not file.exists():
        building = folder.with_name(folder.name + ".building")
        advice = " An unfinished one lies beside it: run the same build again." if building.exists() else ""
        raise StudyError(f"{str(folder)!r} is not a study: there is no {MANIFEST} in it.{advice}")
    try:
        manifest = json.loads(file.read_text("utf-8"))
        schema = int(manifest["schema"])
        files = dict(manifest["files"])
    except (ValueError, KeyError, TypeError) as error:
        raise StudyError(f"{str(file)!r} is damaged: {type(error).__name__}: {error}.") from error
    if schema > SCHEMA:
        raise StudyError(f"{str(folder)!r} has schema {schema}, newer than {SCHEMA}: update clipattr.")
    for name, (size, _) in files.items():
        path = folder / name
        if not path.exists() or path.stat().st_size != size:
            found = f"has {path.stat().st_size} bytes" if path.exists() else "is missing"
            raise StudyError(
                f"{str(folder)!r} is damaged: {name} {found}, should have {size}. Build it again."
            )
    return manifest


def write_json(path: Path, value: Any) -> None:
    """Write JSON under a temporary name and rename it."""
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", "utf-8")
    os.replace(part, path)


def file_hash(path: Path) -> str:
    """16 hex digits over a file's bytes."""
    digest = hashlib.blake2b(digest_size=8)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def all_files(folder: Path) -> dict[str, tuple[int, str]]:
    """Relative name -> (bytes, hash) of every file below a folder but those that may change."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return {
        name: ((folder / name).stat().st_size, file_hash(folder / name))
        for name in names
        if name not in CHANGING
    }


def write_pictures(images: Images, folder: Path, final: Path) -> None:
    """Write which pictures there are, so that `read_pictures` finds them again.

    Files are named relative to `final`, the folder that `folder` will be renamed to. Scenes are copied.
    Pictures that exist in memory only are saved as PNG.
    """
    paths: list[str] = [""] * len(images)
    if images.source.kind == "files":
        paths = [_relative(str(record.path), final) for record in images]
    elif images.source.kind == "memory":
        (folder / "pictures").mkdir(exist_ok=True)
        for index, record in enumerate(images):
            paths[index] = f"pictures/{index:06d}.png"
            record.load().save(folder / paths[index])
    elif isinstance(images.source, SceneSource):
        _write_scenes(images, images.source, folder / "scenes.jsonl")
    part = folder / "pictures.csv.part"
    with part.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["id", "path", *COLUMNS])
        columns = [images.columns[name] for name in COLUMNS]
        for row in zip(images.ids, paths, *columns, strict=True):
            writer.writerow(["" if value is None else value for value in row])
    os.replace(part, folder / "pictures.csv")


def read_pictures(folder: Path) -> Images:
    """The pictures of a study. Nothing is decoded; originals may be gone."""
    with (folder / "pictures.csv").open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        rows = list(csv.reader(file))[1:]
    ids = [row[0] for row in rows]
    columns = {name: [row[2 + place] or None for row in rows] for place, name in enumerate(COLUMNS)}
    source: Source
    if (folder / "scenes.jsonl").exists():
        source = SceneSource(folder / "scenes.jsonl")
    elif rows and rows[0][1]:
        source = FileSource([Path(os.path.normpath(folder.absolute() / row[1])) for row in rows])
    else:
        source = AbsentSource()
    return Images(source, ids, columns)


class CodesWriter:
    """Writes codes batch by batch; fixed-k codes go straight to disk, others are joined at the end."""

    def __init__(self, folder: Path, n_pictures: int, n_latents: int) -> None:
        self.folder, self.n_pictures, self.n_latents = folder, n_pictures, n_latents
        self._arrays: tuple[np.memmap, np.memmap] | None = None
        self._parts: list[SparseCodes] = []
        self._row = 0

    def add(self, codes: SparseCodes) -> None:
        """The codes of the next pictures."""
        if codes.k is None or codes.row_stats is not None:
            self._parts.append(codes)
            return
        if self._arrays is None:
            index_type = np.uint16 if self.n_latents <= 2**16 else np.int32
            self._arrays = (
                self._new("codes-indices", index_type, codes.k),
                self._new("codes-values", np.float16, codes.k),
            )
        here = slice(self._row, self._row + len(codes))
        self._arrays[0][here] = codes.indices.cpu().numpy()
        self._arrays[1][here] = codes.values.detach().cpu().numpy()
        self._row = here.stop

    def close(self) -> None:
        """Give the files their names."""
        if self._arrays is None:
            SparseCodes.cat(self._parts).save(self.folder / "codes.safetensors", half=True)
            return
        for array in self._arrays:
            array.flush()
        for name in ("codes-indices", "codes-values"):
            os.replace(self.folder / f"{name}.npy.part", self.folder / f"{name}.npy")

    def _new(self, name: str, dtype: Any, k: int) -> np.memmap:
        return np.lib.format.open_memmap(self.folder / f"{name}.npy.part", "w+", dtype, (self.n_pictures, k))


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
    folder: Path, n_latents: int, n_pictures: int, block: int = 8192
) -> Iterator[tuple[int, SparseCodes]]:
    """(first row, codes) block by block, so that memory does not grow with the number of pictures."""
    whole = None if (folder / "codes-indices.npy").exists() else read_codes(folder, n_latents)
    for start in range(0, n_pictures, block):
        rows = slice(start, min(start + block, n_pictures))
        yield start, read_codes(folder, n_latents, rows) if whole is None else whole.rows(rows)


def save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write a safetensors file under a temporary name and rename it."""
    from safetensors.torch import save_file

    part = path.with_name(path.name + ".part")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, part)
    os.replace(part, path)


def _relative(path: str, final: Path) -> str:
    try:
        return os.path.relpath(os.path.abspath(path), final.absolute()).replace(os.sep, "/")
    except ValueError:  # another drive
        return os.path.abspath(path)


def _write_scenes(images: Images, source: SceneSource, path: Path) -> None:
    part = path.with_name(path.name + ".part")
    with part.open("w", encoding="utf-8") as file:
        for record in images:
            entry = {"id": record.id, **{name: getattr(record, name) for name in COLUMNS}}
            entry["scene"] = json.loads(source.scenes[int(images.rows[record.index])])
            file.write(json.dumps(entry, sort_keys=True, ensure_ascii=False) + "\n")
    os.replace(part, path)
