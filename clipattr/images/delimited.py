"""Delimited files: text tables (CSV, TSV and their relatives) in any usual encoding, as a header and rows of text.

Owns encodings, separators, headers and rows of the wrong length, for every file of text that this package is given.
Ignores what the columns mean. Start at `read_table`.

Memory: all rows; time: linear, about a second per 400,000 rows of three columns.
"""

import codecs
import csv
import io
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from clipattr.display.wording import be, counted, have
from clipattr.errors import DataError
from clipattr.images.cells import INVISIBLE, columns_by_name, normal_name
from clipattr.storage.files import stand_in

LARGEST = 4 * 2**30  # bytes of a table that is read
SEPARATORS = ",;\t|"
WESTERN = ("cp1252", "latin-1")  # tried where a file is not UTF-8
SNIFFED = 50  # lines that decide on the separator
MOST_NOTED = 3  # rows named in a note
END = "\x1eend of the table\x1e"  # a last line of our own: if it is part of a cell, a quote was left open


@dataclass(frozen=True)
class TextTable:
    """A text table. header: names as written, stripped; rows: as many cells each, stripped; notes: oddities.

    `names` are the header's names in the form in which they are compared (`cells.normal_name`).
    """

    header: list[str]
    rows: list[list[str]]
    notes: list[str]

    @property
    def names(self) -> list[str]:
        return [normal_name(name) for name in self.header]

    def column(self, name: str) -> list[str]:
        """The cells of a column by its name, in any spelling that `normal_name` makes equal."""
        at = self.names.index(normal_name(name))
        return [row[at] for row in self.rows]


def read_table(file: Path, encoding: str | None = None) -> TextTable:
    """Read a table from a file of text.

    The encoding is that of a byte-order mark, else UTF-16 where every other byte is zero, else UTF-8, else Windows'
    western code page. The separator is the comma, semicolon, tab or bar that divides the first lines most evenly; a
    first line "sep=;" decides. A row with fewer cells than the header is filled up and noted; one with more is refused,
    unless the cells beyond are empty.

    Raises:
        DataError: not there, not text, no row below the header, two columns of one name, or rows too long.
    """
    text, used = decode(_bytes_of(file), str(file), encoding)
    table = parse_table(text, file)
    if encoding is None and used in WESTERN:
        table.notes.append(
            f"{file.name!r} is not UTF-8 and was read as western text ({used}). If letters look wrong, save it as "
            "UTF-8."
        )
    return table


def read_text(file: Path, encoding: str | None = None) -> str:
    """The text of a file in any usual encoding; DataError with the reason if it is none.

    Args:
        encoding: None finds it out; a name is tried alone, and UTF-16 only where no byte-order mark says otherwise.
    """
    return decode(_bytes_of(file), str(file), encoding)[0]


def _bytes_of(file: Path) -> bytes:
    try:
        if not file.is_file():
            raise DataError(f"There is no file {str(file)[:300]!r}.")
        if (size := file.stat().st_size) > LARGEST:
            raise DataError(f"{str(file)!r} has {size:,} bytes, at most {LARGEST:,} are read.")
        data = file.read_bytes()
    except (OSError, ValueError) as error:
        raise DataError(
            f"{str(file)[:300]!r} cannot be read: {getattr(error, 'strerror', None) or error}."
        ) from error
    if (instead := stand_in(data)) is not None:
        raise DataError(f"{str(file)!r} is {instead}.")
    return data


def decode(data: bytes, name: str, encoding: str | None = None) -> tuple[str, str]:
    """Bytes as text, and the encoding that was used; see `read_text`."""
    found = _marked(data)
    if found is None and (encoding or "utf-8").lower().replace("_", "-") in ("utf-8", "utf8"):
        found = _unmarked_wide(data)
    tried = [found] if found else [encoding] if encoding else ["utf-8", *WESTERN]
    for one in tried:
        try:
            text = data.decode(one)
        except UnicodeDecodeError as error:
            at = error.start
        except LookupError as error:
            raise DataError(f"{one!r} is not an encoding; give for instance 'cp1252'.") from error
        else:
            if "\0" not in text:
                return text.lstrip(INVISIBLE), one
            at = -1
    if encoding and not found and at >= 0:
        line = data[:at].count(b"\n") + 1
        raise DataError(
            f"{name!r} is not {encoding} text (line {line}: {data[at : at + 4]!r}). Save it as UTF-8, or name its "
            "encoding, for instance encoding='cp1252'."
        )
    raise DataError(
        f"{name!r} is not text in UTF-8, UTF-16 or a western encoding: it holds zero bytes. Save it as UTF-8."
    )


def parse_table(text: str, file: Path | str) -> TextTable:
    """The table that a text holds; see `read_table`. `file` is its name in messages."""
    said, text = _said_separator(text)
    text, comments = _without_comments(text)
    separator = said or sniff(text)
    try:
        # A field may be longer than csv's own limit; the file's size has been checked.
        csv.field_size_limit(LARGEST)
        whole = io.StringIO(f"{text.rstrip(chr(10) + chr(13))}\n{END}\n", newline="")
        lines = [row for row in csv.reader(whole, delimiter=separator) if any(row)]
    except csv.Error as error:
        raise DataError(f"{str(file)!r} is not a table: {error}.") from error
    if (last := lines.pop()) != [END]:
        opened = next((cell for cell in last if "\n" in cell), "")
        raise DataError(
            f"{str(file)!r} has a quotation mark that opens a cell and is never closed, in row {len(lines) + 1}: "
            f"{opened.splitlines()[0][:40] if opened else ''!r}. Everything below it would be one cell: close it, or "
            "double it."
        )
    if len(lines) < 2:
        raise DataError(f"{str(file)!r} has no rows below its header.")
    header = [unicodedata.normalize("NFC", name.strip().strip(INVISIBLE).strip()) for name in lines[0]]
    lines = lines[1:]
    while header and not header[-1] and all(len(row) < len(header) or not row[-1].strip() for row in lines):
        header.pop()  # a separator at the end of every line
    columns_by_name(header, repr(str(file)))
    width, rows, short = len(header), [], []
    for number, row in enumerate(lines, 2):
        if len(row) != width:
            if len(row) > width:
                if any(cell.strip() for cell in row[width:]):
                    raise DataError(
                        f"Row {number} of {str(file)!r} has {len(row)} cells, its header {width}. Quote cells that "
                        f"hold {separator!r}."
                    )
                row = row[:width]
            else:
                short.append(number)
                row = row + [""] * (width - len(row))
        rows.append([cell.strip() for cell in row])
    notes = list(comments)
    broken = [number for number, row in enumerate(rows, 2) if any("\n" in cell for cell in row)]
    if broken:
        notes.append(
            f"{counted(len(broken), 'row')} of {Path(file).name!r} {have(len(broken))} a cell of several lines, first "
            f"row {broken[0]}: is a quotation mark not closed?"
        )
    if short:
        notes.append(
            f"{len(short)} rows of {Path(file).name!r} have fewer cells than its header and count as empty there: rows "
            f"{', '.join(map(str, short[:MOST_NOTED]))}{'…' if len(short) > MOST_NOTED else ''}."
        )
    return TextTable(header, rows, notes)


def sniff(text: str) -> str:
    """The separator of a table: the one that divides most of the first lines like the header, and into most cells."""
    head: list[str] = []
    for line in io.StringIO(text):
        if line.strip():
            head.append(line)
        if len(head) == SNIFFED:
            break
    best, chosen = (0.0, 0), ","
    for separator in SEPARATORS:
        try:
            rows = list(csv.reader(head, delimiter=separator))
        except csv.Error:
            continue
        cells = len(rows[0]) if rows else 0
        if cells < 2:
            continue
        alike = sum(len(row) == cells for row in rows) / len(rows)
        if (alike, cells) > best:
            best, chosen = (alike, cells), separator
    return chosen


def _said_separator(text: str) -> tuple[str | None, str]:
    """Excel's own first line "sep=;": the separator and the rest."""
    line, _, rest = text.partition("\n")
    said = line.strip().strip('"')
    if said.lower().startswith("sep=") and len(said) == 5:
        return said[4], rest
    return None, text


def _without_comments(text: str) -> tuple[str, list[str]]:
    """The text from its header on, and a note on lines of comment above: "#" first, and not divided as what follows."""
    rest, lines = text, 0
    while rest.startswith("#"):
        line, _, below = rest.partition("\n")
        following = next((one for one in io.StringIO(below) if one.strip() and not one.startswith("#")), "")
        if any(mark in line and mark in following for mark in SEPARATORS) or not following:
            break  # a header such as "#path,label"
        rest, lines = below, lines + 1
    if not lines:
        return text, []
    begin = "begins" if lines == 1 else "begin"
    return rest, [
        f"{counted(lines, 'line')} above the header that {begin} with '#' {be(lines, True)} left out as a comment."
    ]


def _marked(data: bytes) -> str | None:
    """The encoding that a byte-order mark tells."""
    if data.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "utf-32"
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    return "utf-8-sig" if data.startswith(codecs.BOM_UTF8) else None


def _unmarked_wide(data: bytes) -> str | None:
    """UTF-16 without a byte-order mark: western text has a zero in every other byte."""
    head = data[:2000]
    head = head[: len(head) // 2 * 2]
    if len(head) < 8:
        return None
    even, odd = head[::2].count(0), head[1::2].count(0)
    half = len(head) // 2
    if odd > 0.6 * half and even == 0:
        return "utf-16-le"
    return "utf-16-be" if even > 0.6 * half and odd == 0 else None
