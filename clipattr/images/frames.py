"""Frames: tables of pictures (files or in memory) as rows with a file or picture, a name, label, group and split.

Owns which column is which, paths that are spelled otherwise, repeated rows, and tables that describe a folder
(`metadata.csv`, as Hugging Face's imagefolder has). Ignores what is in a picture. Start at `read_rows_of`.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from clipattr.display.wording import be, counted, have
from clipattr.errors import DataError
from clipattr.images.cells import (
    cell_text,
    class_names,
    column_texts,
    columns_by_name,
    is_missing,
    marker_note,
    normal_name,
)
from clipattr.images.delimited import read_table, read_text
from clipattr.images.finding import FileFinder, clean_name
from clipattr.images.folders import readable_name
from clipattr.images.splits import held_out
from clipattr.storage.documents import parse_json

TABLES = (".csv", ".tsv", ".parquet", ".jsonl", ".tab")
PATHS = (
    "path", "file_name", "filename", "file_path", "filepath", "image_path", "img_path", "image_file", "file", "image",
    "img", "picture", "photo", "image_name", "isic_id", "image_id",
)  # fmt: skip
LABELS = (
    "label", "labels", "class", "class_name", "class_label", "category", "target",
    "benign_malignant", "diagnosis_1", "diagnosis", "dx",
)  # fmt: skip
GROUPS, SPLITS, IDS = ("group",), ("split", "partition", "subset", "fold"), ("id",)
SHOWN = 3  # examples in a note
LISTED = 12  # columns in a message


@dataclass
class Rows:
    """Rows of a table of pictures. files: one per row, or None where `items` are the pictures themselves."""

    ids: list[str]
    files: list[Path] | None
    items: list[Any] = field(default_factory=list)
    columns: dict[str, list[str | None]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def listed_columns(source: Any) -> dict[str, list[Any]] | None:
    """The columns of a frame (pandas, polars, pyarrow) or of a dictionary of lists; None for anything else.

    Raises:
        DataError: a dictionary of lists of different lengths, or two columns of one name.
    """
    framed = frame_columns(source)
    if framed is not None or not isinstance(source, Mapping) or not source:
        return framed
    held = {str(name): value for name, value in source.items()}
    if not all(_is_column(value) for value in held.values()) or not _has_pictures(held):
        return None
    lengths = {name: len(value) for name, value in held.items()}
    if len(set(lengths.values())) > 1:
        raise DataError(f"The lists of a table must have one length; got {lengths}.")
    return {name: list(value) for name, value in held.items()}


def frame_columns(source: Any) -> dict[str, list[Any]] | None:
    """The columns of a frame (pandas, polars, pyarrow) by name; None for anything else.

    Raises:
        DataError: two columns of one name.
    """
    if hasattr(source, "columns") and hasattr(source, "iloc"):
        names = [str(name) for name in source.columns]
        if len(set(names)) < len(names):
            raise DataError(f"The frame names a column twice: {names[:LISTED]}. Rename one of them.")
        return {name: list(source.iloc[:, place]) for place, name in enumerate(names)}
    if hasattr(source, "to_pydict"):
        return source.to_pydict()
    if hasattr(source, "get_columns") and hasattr(source, "to_dict"):
        return source.to_dict(as_series=False)
    return None


def read_rows_of(file: Path, root: Path | None) -> Rows:
    """The rows of a table's file; relative paths start from `root`, else from the table's folder."""
    columns, names, notes = _columns_of_file(file)
    rows = rows_of_columns(columns, root or file.parent, file.name, names=names, deep=True)
    rows.notes = [*notes, *rows.notes]
    return rows


def rows_of_columns(
    columns: Mapping[str, Sequence[Any]],
    root: Path | None,
    table: str,
    *,
    names: Mapping[str, Any] | None = None,
    deep: bool = False,
) -> Rows:
    """Rows from columns by name.

    Args:
        root: the folder that relative paths start from, None for the current one. table: its name in messages.
        names: of classes by number, for columns that hold numbers.
        deep: look for bare names of files at any depth below the root.

    Raises:
        DataError: no column of pictures, rows without one, or one picture with two labels.
    """
    by_name = columns_by_name(columns, table)
    picture = _first(PATHS, by_name)
    if picture is None:
        raise DataError(
            f"A table of pictures needs a column 'path' (or 'file_name', 'image', …); this one has "
            f"{sorted(columns)[:LISTED]}."
        )
    values = list(columns[picture])
    lacking = [place for place, value in enumerate(values) if is_missing(value)]
    if lacking:
        raise DataError(
            f"{counted(len(lacking), 'row')} {have(len(lacking))} no path, first row {lacking[0]}. Fill it in or "
            "drop it."
        )
    made = Rows([], None)
    used = {picture}
    for column, spellings in (("label", LABELS), ("group", GROUPS), ("split", SPLITS)):
        name = _first(spellings, by_name)
        if name is not None and name not in used:
            used.add(name)
            _read_column(made, column, name, columns[name], (names or {}).get(name))
    id_column = _first(IDS, by_name)
    given: list[str | None] = [None] * len(values)
    if id_column is not None and id_column not in used:
        used.add(id_column)
        given = column_texts(columns[id_column], "id")
    _read_pictures(made, values, given, root, deep)
    unread = [
        name for name in columns if name not in used and name.strip() and not name.startswith("Unnamed:")
    ]
    if unread:
        made.notes.append(f"Columns of {table} that were not read: {unread[:LISTED]}.")
    return _unrepeated(made, table)


def overlaid(
    table: Path, files: Sequence[Path], names: Sequence[str], columns: dict[str, list[str | None]]
) -> list[str]:
    """Replace values in `columns` by those of a folder's own table; returns notes."""
    held, classes, notes = _columns_of_file(table)
    by_name = columns_by_name(held, table.name)
    picture = _first(PATHS, by_name)
    if picture is None:
        return [f"{table.name} has no column of file names and was not read; it has {sorted(held)[:LISTED]}."]
    rows = rows_of_columns(held, table.parent, table.name, names=classes)
    place = {os.path.abspath(file): number for number, file in enumerate(files)}
    here = os.path.abspath(table.parent)
    lost, seen = [], set()
    for row, file in enumerate(rows.files or []):
        at = place.get(os.path.abspath(file))
        if at is None:
            lost.append(rows.ids[row])
            continue
        seen.add(at)
        for column, values in rows.columns.items():
            columns[column][at] = values[row]
    below = [number for path, number in place.items() if path.startswith(here + os.sep)]
    without = [names[number] for number in sorted(below) if number not in seen]
    notes += [note for note in rows.notes if "do not exist" not in note]
    if lost:
        notes.append(
            f"{counted(len(lost), 'row')} of {table.name} {'names' if len(lost) == 1 else 'name'} "
            f"no picture in the folder, first {lost[0]!r}."
        )
    if without:
        notes.append(
            f"{counted(len(without), 'picture')} {have(len(without))} no row in {table.name}, first {without[0]!r}."
        )
    return notes


def is_scenes(file: Path) -> bool:
    """Whether a .jsonl file holds scenes, and not rows of a table: its first line has no file name, or has a scene."""
    try:
        with file.open(encoding="utf-8-sig") as lines:
            line = next((line for line in iter(lambda: lines.readline(1_000_000), "") if line.strip()), "")
        entry = parse_json(line)
    except (OSError, ValueError):
        return True
    return not isinstance(entry, dict) or "scene" in entry or not {normal_name(k) for k in entry} & set(PATHS)


def _columns_of_file(file: Path) -> tuple[dict[str, list[Any]], dict[str, Any], list[str]]:
    """Columns, names of classes by column, and notes."""
    if file.suffix.lower() == ".parquet":
        return _of_parquet(file)
    if file.suffix.lower() == ".jsonl":
        entries = []
        for number, line in enumerate(read_text(file).splitlines(), 1):
            if line.strip():
                try:
                    entry = parse_json(line)
                except ValueError as error:
                    raise DataError(f"{str(file)!r} line {number} is not JSON: {error}.") from error
                if not isinstance(entry, dict):
                    raise DataError(
                        f"{str(file)!r} line {number} is not a JSON object with names of columns."
                    )
                entries.append(entry)
        keys = list(dict.fromkeys(key for entry in entries for key in entry))
        return {key: [entry.get(key) for entry in entries] for key in keys}, {}, []
    table = read_table(file)
    return (
        {name: list(cells) for name, cells in zip(table.header, zip(*table.rows, strict=True), strict=True)},
        {},
        table.notes,
    )


def _of_parquet(file: Path) -> tuple[dict[str, list[Any]], dict[str, Any], list[str]]:
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise DataError(f"{str(file)!r} needs pyarrow to be read: pip install pyarrow.") from error
    try:
        table = parquet.read_table(file)
        columns = {name: table.column(name).to_pylist() for name in table.column_names}
    except Exception as error:  # pyarrow has its own errors
        raise DataError(f"{str(file)!r} cannot be read as Parquet: {str(error)[:200]}.") from error
    names: dict[str, Any] = {}
    try:  # Hugging Face keeps the names of classes in the schema
        features = json.loads((table.schema.metadata or {})[b"huggingface"])["info"]["features"]
        names = {name: feature["names"] for name, feature in features.items() if "names" in feature}
    except (KeyError, ValueError, TypeError, AttributeError):
        pass
    return columns, names, []


def _first(spellings: Sequence[str], by_name: Mapping[str, str]) -> str | None:
    return next((by_name[name] for name in spellings if name in by_name), None)


def _is_column(value: Any) -> bool:
    return isinstance(value, (list, tuple, np.ndarray)) or (
        hasattr(value, "iloc") and not hasattr(value, "columns")
    )


def _has_pictures(held: Mapping[str, Any]) -> bool:
    return bool({normal_name(name) for name in held} & set(PATHS))


def _read_column(made: Rows, column: str, name: str, values: Any, names: Any) -> None:
    if names is not None:
        texts, notes = class_names(values, names)
        made.notes += notes
    else:
        try:
            texts = column_texts(values, column)
        except DataError as error:
            made.notes.append(f"Column {name!r} holds no {column}s and was left out: {error}")
            return
    if column == "split":
        texts, notes = held_out(texts)
        made.notes += notes
    else:
        made.notes += marker_note(texts, column)
    made.columns[column] = texts
    if normal_name(name) != column:
        made.notes.append(f"Column {name!r} was read as the {column}.")


def _read_pictures(
    made: Rows, values: list[Any], given: list[str | None], root: Path | None, deep: bool
) -> None:
    if not all(isinstance(value, (str, os.PathLike)) for value in values):
        if any(
            not isinstance(value, (Mapping, bytes, np.ndarray, Image.Image)) and not hasattr(value, "detach")
            for value in values
        ):
            odd = next(v for v in values if not isinstance(v, (str, os.PathLike)))
            raise DataError(f"A column of pictures holds paths or pictures; one row has {odd!r:.80}.")
        names = [_name_in(value) for value in values]
        unique = None not in names and len(set(names)) == len(names)
        made.items = [_item(value, root) for value in values]
        made.ids = [
            id or (str(name) if unique else f"picture-{place:06d}")
            for place, (id, name) in enumerate(zip(given, names, strict=True))
        ]
        return
    finder = FileFinder(root or Path(), deep=deep)
    files: list[Path] = []
    missing: list[str] = []
    for value in values:
        path = finder.find(value)
        if path is None:
            missing.append(os.fspath(value))
            path = finder.root / clean_name(os.fspath(value).strip())
        files.append(path)
    made.files = files
    made.ids = [
        id or readable_name(clean_name(os.fspath(value).strip()))
        for id, value in zip(given, values, strict=True)
    ]
    made.notes += finder.notes
    if missing:
        made.notes.append(
            f"{len(missing)} of {len(values)} rows name files that do not exist, first {readable_name(missing[0])!r}."
        )


def _name_in(value: Any) -> str | None:
    return cell_text(value.get("path")) if isinstance(value, Mapping) else None


def _item(value: Any, root: Path | None) -> Any:
    """A picture in memory; one that is only named, relative to the root, as its path."""
    if isinstance(value, Mapping) and value.get("bytes") is None and isinstance(value.get("path"), str):
        return (root or Path()) / value["path"]
    return value


def _unrepeated(made: Rows, table: str) -> Rows:
    """Leave out rows that repeat an earlier one; DataError where two rows of one picture differ."""
    if len(set(made.ids)) == len(made.ids):
        return made
    first: dict[str, int] = {}
    kept: list[int] = []
    for place, name in enumerate(made.ids):
        before = first.setdefault(name, place)
        if before == place:
            kept.append(place)
            continue
        for column, values in made.columns.items():
            if values[before] != values[place]:
                raise DataError(
                    f"{table} calls the picture {name!r} both {values[before]!r} and {values[place]!r} ({column}): the "
                    "id names more than one picture. Keep one row."
                )
        if made.files is None or made.files[before] != made.files[place]:
            raise DataError(f"The id {name!r} names more than one picture. Give every picture its own id.")
    again = len(made.ids) - len(kept)
    made.notes.append(
        f"{counted(again, 'row')} of {table} for a picture that an earlier row names {be(again, True)} left out."
    )
    made.ids = [made.ids[place] for place in kept]
    made.columns = {column: [values[place] for place in kept] for column, values in made.columns.items()}
    if made.files is not None:
        made.files = [made.files[place] for place in kept]
    return made
