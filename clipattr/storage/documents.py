"""Documents: JSON from files that anyone may have written, with limits on size and depth, and of which version; tables.

Owns the reading, its limits, the words for a version that cannot be read, and rows of any text as CSV. Ignores what
the values mean; whoever reads checks them. Start at `read_json`.
"""

import csv
import json
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TextIO

from clipattr.storage.files import write_text

LARGEST = 256 * 2**20  # bytes of a file; the largest that this package writes itself is a few megabytes


def read_json(path: Path, largest: int = LARGEST) -> Any:
    """What a JSON file holds.

    Raises:
        OSError: it cannot be read. ValueError: not a file of its own, larger than `largest` bytes, not UTF-8, not
            JSON, or nested too deeply. Callers name the file and say what it should have been.
    """
    about = path.stat()
    if not stat.S_ISREG(about.st_mode):
        raise ValueError("it is no plain file")
    if about.st_size > largest:
        raise ValueError(f"it has {about.st_size:,} bytes, at most {largest:,} are read")
    return parse_json(path.read_text(encoding="utf-8-sig"))  # some editors begin a file with a byte-order mark


def parse_json(text: str | bytes) -> Any:
    """What a JSON text holds; ValueError whatever is wrong with it."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("its values are nested too deeply") from error


def json_text(value: Any, **options: Any) -> str:
    """JSON as people read it, that any file can hold: halves of surrogate pairs, which UTF-8 has no bytes for and other
    JSON may bring along, are written as escapes."""
    text = json.dumps(value, ensure_ascii=False, **options)
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def schema_complaint(what: object, found: object, newest: int, again: str, *, oldest: int = 1) -> str | None:
    """Why an artefact's schema cannot be read, and what to do about it; None if it can.

    Args:
        what: the file or folder. found: its schema. oldest, newest: those that this version reads.
        again: the command, or call, that makes the artefact anew.
    """
    if isinstance(found, bool) or not isinstance(found, int):
        return f"{what} has schema {found!r:.40}, which is no version: it is damaged. Make it again: {again}"
    if found > newest:
        return f"{what} has schema {found}, newer than {newest}: update clipattr."
    if found < oldest:
        return f"{what} has schema {found}, older than {oldest}, which this version cannot read. Make it again: {again}"
    return None


def write_json(path: Path, value: Any, **options: Any) -> None:
    """Write a JSON file atomically, with `options` of `json.dumps`; OSError where it cannot be written."""
    write_text(path, json_text(value, **{"indent": 1, **options}) + "\n")


def write_rows(file: TextIO, rows: Iterable[Sequence[str | None]]) -> None:
    """Rows of texts as CSV that `csv.reader` reads back; None becomes "". Open the file with newline=""."""
    plain = csv.writer(file, lineterminator="\n")
    # A carriage return ends a row too, for readers; names of files can hold one.
    quoted = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL)
    for row in rows:
        writer = quoted if any("\r" in value for value in row if value) else plain
        writer.writerow(["" if value is None else value for value in row])
