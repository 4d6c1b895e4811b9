"""Documents: untrusted JSON with limits on size and depth, schema versions, and CSV rows.

Owns reading and writing of JSON, its limits, the message for an unreadable schema version, and CSV rows of arbitrary
text. Ignores what the values mean; the caller checks them. Start at `read_json`.
"""

import csv
import json
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TextIO

from clipattr.storage.files import write_text

LARGEST = 256 * 2**20  # bytes of a JSON file that is read; this package itself writes a few megabytes at most


def read_json(path: Path, largest: int = LARGEST) -> Any:
    """Read a JSON file.

    Raises:
        OSError: it cannot be read. ValueError: it is not a regular file, larger than `largest` bytes, not UTF-8, not
            JSON, or nested too deeply. The caller's error names the file and what was expected.
    """
    about = path.stat()
    if not stat.S_ISREG(about.st_mode):
        raise ValueError("it is not a regular file")
    if about.st_size > largest:
        raise ValueError(f"it has {about.st_size:,} bytes, at most {largest:,} are read")
    return parse_json(path.read_text(encoding="utf-8-sig"))  # accepts a byte-order mark


def parse_json(text: str | bytes) -> Any:
    """Parse a JSON text; ValueError for every fault."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("its values are nested too deeply") from error


def json_text(value: Any, **options: Any) -> str:
    """Readable JSON that UTF-8 can encode: lone surrogates, which UTF-8 cannot represent, are written as escapes."""
    text = json.dumps(value, ensure_ascii=False, **options)
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def schema_complaint(what: object, found: object, newest: int, again: str, *, oldest: int = 1) -> str | None:
    """The error message for an artefact whose schema cannot be read; None if it can.

    Args:
        what: the file or folder. found: its schema. oldest, newest: the schemas that this version reads.
        again: the command or call that creates the artefact again.
    """
    if isinstance(found, bool) or not isinstance(found, int):
        return f"{what} has schema {found!r:.40}, which is no version: it is damaged. Make it again: {again}"
    if found > newest:
        return f"{what} has schema {found}, newer than {newest}: update clipattr."
    if found < oldest:
        return f"{what} has schema {found}, older than {oldest}, which this version cannot read. Make it again: {again}"
    return None


def write_json(path: Path, value: Any, **options: Any) -> None:
    """Write a JSON file atomically, with `options` of `json.dumps`; OSError if that fails."""
    write_text(path, json_text(value, **{"indent": 1, **options}) + "\n")


def write_rows(file: TextIO, rows: Iterable[Sequence[str | None]]) -> None:
    """Write rows of texts as CSV that `csv.reader` reads back; None becomes "". Open the file with newline=""."""
    plain = csv.writer(file, lineterminator="\n")
    # File names can contain a carriage return, which also ends a row for CSV readers.
    quoted = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL)
    for row in rows:
        writer = quoted if any("\r" in value for value in row if value) else plain
        writer.writerow(["" if value is None else value for value in row])
