"""Opening: from any kind of storage of pictures to their source, names, labels, groups and splits.

Owns the detection of the kind of storage. Ignores the collection (`collection.py`) and the reading of tables
(`frames.py`), shards (`webdataset.py`) and data sets (`datasets.py`). Start at `opened`; a new kind of storage is one
line there.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from clipattr.display.wording import be, counted, few, have
from clipattr.errors import DataError
from clipattr.images.cells import column_texts
from clipattr.images.datasets import DatasetSource, columns_of
from clipattr.images.decoding import NETWORK
from clipattr.images.finding import clean_name
from clipattr.images.folders import Found, places_of, readable_name, walk
from clipattr.images.frames import (
    TABLES,
    Rows,
    is_scenes,
    listed_columns,
    overlaid,
    read_rows_of,
    rows_of_columns,
)
from clipattr.images.sources import FileSource, JoinedSource, MemorySource, SceneSource, Source
from clipattr.images.splits import split_name
from clipattr.images.webdataset import NOT_READ, TarSource, shards_named
from clipattr.storage.paths import user_path

COLUMNS = ("label", "group", "split")
SHOWN = 3  # names in a message
LISTS = (
    ".json",
    ".txt",
    ".lst",
    ".xlsx",
    ".xls",
    ".ods",
    ".xml",
    ".yaml",
    ".yml",
    ".arrow",
    ".feather",
    ".pkl",
)
ARCHIVES = (".zip", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar")


@dataclass
class Opened:
    """Pictures and their metadata. columns: label, group, split, one text or None per picture; notes: sentences on what
    was left out or changed."""

    source: Source
    ids: list[str]
    columns: Mapping[str, Sequence[str | None]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def opened(source: Any, root: Path | None) -> Opened:
    """Open the pictures that `source` names; see `Images.open` for the kinds.

    Raises:
        DataError: `source` is of a type that holds no pictures, or nothing is there.
    """
    if isinstance(source, (str, os.PathLike)):
        return _of_name(os.fspath(source), root)
    columns = listed_columns(source)
    if columns is not None:
        return _of_rows(rows_of_columns(columns, root, "the table"))
    if isinstance(source, Mapping):
        return _of_mapping(source, root)
    if isinstance(source, (Image.Image, bytes)) or (isinstance(source, np.ndarray) and source.ndim == 3):
        return _of_items([source])
    if hasattr(source, "detach") and hasattr(source, "ndim"):
        if source.ndim != 4:
            raise DataError(f"A tensor of pictures must be (n, 3, h, w); got {tuple(source.shape)}.")
        return _of_items(list(source))
    if isinstance(source, np.ndarray) and source.ndim != 1:
        if source.ndim != 4:
            raise DataError(f"An array of pictures must be (n, h, w, 3); got {source.shape}.")
        return _of_items(list(source))
    if isinstance(source, (list, tuple, np.ndarray)) or (
        hasattr(source, "iloc") and hasattr(source, "tolist")
    ):
        return _of_list(list(source), root)
    if hasattr(source, "__getitem__") and hasattr(source, "__len__"):
        found = columns_of(source)
        ids = found.ids or [f"{index:07d}" for index in range(len(source))]
        return Opened(DatasetSource(source, found.picture_of), ids, found.columns, found.notes)
    if isinstance(source, Iterable):
        raise DataError(
            f"A {type(source).__name__} streams its pictures: it has no length, and no picture can be read twice. "
            "Take as many as you need into a list, or give the data set behind it."
        )
    raise DataError(
        f"Cannot read pictures from a {type(source).__name__}; see Images.open for what can be given."
    )


# by name


def _of_name(text: str, root: Path | None) -> Opened:
    if text.startswith("scenes:"):
        return _of_scenes(user_path(text.removeprefix("scenes:")))
    shards = shards_named(text)
    if shards is not None:
        return (
            _of_tars(shards)
            if all(file.suffix.lower() == ".tar" for file in shards)
            else _of_paths(shards, None)
        )
    path = user_path(text)
    if not path.exists():
        if NETWORK.search(text):
            raise DataError(f"{text!r} is a network address.{NOT_READ}")
        raise DataError(
            f"{str(path)!r} does not exist. Give a folder of pictures, a .csv, a .tar or 'scenes:FILE'."
        )
    if path.is_dir():
        return _of_folder(path)
    suffix = path.suffix.lower()
    if suffix == ".tar":
        return _of_tars([path])
    if suffix == ".jsonl" and is_scenes(path):
        return _of_scenes(path)
    if suffix in TABLES:
        return _of_rows(read_rows_of(path, root))
    if suffix in LISTS:
        raise DataError(
            f"{str(path)!r} is not a picture, and {suffix} files are not read as lists of pictures. Save a table with "
            f"a column 'path' as one of {', '.join(TABLES)}, or give a list of paths, a frame or a data set."
        )
    if suffix in ARCHIVES:
        raise DataError(
            f"{str(path)!r} is a packed archive. Unpack it and give the folder, the .tar or the table."
        )
    return _of_paths([path], root)


def _of_folder(top: Path) -> Opened:
    found = walk(top)
    if not found.pictures:
        if found.shards:
            made = _of_tars(found.shards)
            made.notes += found.notes
            return made
        raise DataError(_nothing_in(top, found))
    names = [name for name, _ in found.pictures]
    labels, splits, notes = places_of(names)
    columns: dict[str, list[str | None]] = {"label": labels, "split": splits, "group": [None] * len(names)}
    files = [file for _, file in found.pictures]
    tables = [table for table in found.tables if table.stem.casefold() == "metadata"]
    left = [table for table in found.tables if table not in tables]
    for table in tables:
        notes += overlaid(table, files, names, columns)
    if left:
        shown = ", ".join(readable_name(table.relative_to(top)) for table in left[:SHOWN])
        notes.append(
            f"{counted(len(left), 'table')} beside the pictures {be(len(left), True)} not read: {shown}. Give the path "
            "of one to read its labels and splits."
        )
    return Opened(FileSource(files), names, columns, [*notes, *found.notes])


def _nothing_in(top: Path, found: Found) -> str:
    others = found.others.total() + found.unread.total()
    told = f"No pictures in the folder {str(top)!r} ({others} other files in it)."
    return " ".join([told, *found.notes])


def _of_tars(files: list[Path]) -> Opened:
    source = TarSource(files)
    return Opened(source, source.names, {"label": source.labels, "split": source.splits}, source.notes)


def _of_scenes(path: Path) -> Opened:
    source = SceneSource(path)
    return Opened(source, source.names, source.columns)


# lists, frames and data sets


def _of_list(items: list[Any], root: Path | None) -> Opened:
    paths = [isinstance(item, (str, os.PathLike)) for item in items]
    if items and all(paths):
        if all(str(item).lower().endswith(".tar") for item in items):
            return _of_tars([file for item in items for file in shards_named(str(item)) or [user_path(item)]])
        return _of_paths(items, root)
    if any(paths):
        raise DataError(
            "A list of pictures holds either paths or pictures; got both. Open them as two collections."
        )
    if items and all(isinstance(item, Mapping) and not {"bytes"} & set(item) for item in items):
        names = list(dict.fromkeys(name for item in items for name in item))
        table = {str(name): [item.get(name) for item in items] for name in names}
        return _of_rows(rows_of_columns(table, root, "the list"))
    if items and all(isinstance(item, (list, tuple)) and len(item) == 2 for item in items):
        pictures, labels = ([item[place] for item in items] for place in (0, 1))
        made = _of_list(pictures, root)
        return Opened(made.source, made.ids, {"label": column_texts(labels)}, made.notes)
    return _of_items(items)


def _of_paths(paths: Sequence[str | os.PathLike[str]], root: Path | None) -> Opened:
    names = [readable_name(clean_name(os.fspath(path))) for path in paths]
    files = [user_path(path) if root is None else root / user_path(path) for path in paths]
    return Opened(FileSource(files), names)


def _of_items(items: list[Any]) -> Opened:
    return Opened(MemorySource(items), [f"picture-{index:06d}" for index in range(len(items))])


def _of_rows(rows: Rows) -> Opened:
    source: Source = MemorySource(rows.items) if rows.files is None else FileSource(rows.files)
    return Opened(source, rows.ids, rows.columns, rows.notes)


def _of_mapping(source: Mapping[Any, Any], root: Path | None) -> Opened:
    """Several collections joined. Their names are splits (a DatasetDict, a dictionary of data sets); other names of
    lists, folders or arrays are labels."""
    if not source:
        raise DataError("The dictionary given is empty: it holds no pictures.")
    parts: list[tuple[Source, Any]] = []
    ids: list[str] = []
    columns: dict[str, list[str | None]] = {name: [] for name in COLUMNS}
    notes: list[str] = []
    plain = (str, os.PathLike, list, tuple, np.ndarray)
    as_label = all(
        isinstance(value, plain) and split_name(str(name)) is None for name, value in source.items()
    )
    for name, value in source.items():
        try:
            part = value if hasattr(value, "rows") and hasattr(value, "source") else opened(value, root)
        except DataError as error:
            raise DataError(
                f"The dictionary's {name!r} holds no pictures ({error}). Give a table as a dictionary of lists, or "
                f"data sets by the name of their split; there are {few(sorted(map(str, source)))}."
            ) from error
        count = len(part.ids)
        parts.append((part.source, getattr(part, "rows", np.arange(count))))
        ids += [f"{name}/{id}" for id in part.ids]
        for column in COLUMNS:
            columns[column] += list(part.columns.get(column) or [None] * count)
        notes += [f"{name}: {note}" for note in part.notes]
        kind, said = ("label", str(name)) if as_label else ("split", split_name(str(name)) or str(name))
        if count:
            columns[kind][-count:] = [said] * count
        notes.append(f"{counted(count, 'picture')} of {str(name)!r} {have(count)} the {kind} {said!r}.")
    return Opened(JoinedSource(parts), ids, columns, notes)
