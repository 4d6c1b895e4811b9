"""Word lists: files, tables, mappings and lists of words as columns of words, ids, glosses and groups.

Owns the detection of the kind of list, and refuses lists that would be misread, such as a table read as lines. Ignores
senses and embeddings (`vocabulary.py`). Start at `words_of`.
"""

import ast
import csv
import io
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from clipattr.display.wording import be, counted, few
from clipattr.errors import DataError
from clipattr.images.cells import is_missing, normal_name, plain
from clipattr.images.delimited import parse_table, read_text, sniff
from clipattr.images.frames import frame_columns
from clipattr.storage.documents import parse_json
from clipattr.storage.paths import user_path

# Accepted column names, compared by `normal_name`; the first one present is used.
WORD = (
    "word", "words", "label", "labels", "name", "text", "term", "concept", "class", "class_name", "display_name",
    "displayname",
)  # fmt: skip
# The header that `Vocabulary.save` writes; of a table that has it no word is changed.
SAVED = ["word", "id", "gloss", "group", "qualifier"]
OTHERS = {
    "ids": ("id", "synset", "wnid"),
    "glosses": ("gloss", "definition", "description"),
    "groups": ("group", "category"),
    "qualifiers": ("qualifier",),
    "roles": ("role",),
}
HEADERS = ("word", "words")  # first lines of a text file that are headers, not words
TABLES = (".csv", ".tsv", ".tab")
SPREADSHEETS = (".xlsx", ".xls", ".ods", ".numbers", ".docx", ".pdf", ".zip", ".gz")
MAX_FILE = 512 * 2**20  # bytes
LOOKED_AT = 200  # lines from which a table is distinguished from a list
# Lines of lists that are no plain words, by what they are called in the note.
SYNSET = re.compile(r"(n\d{8})[\s,:;]+(\S.*)")
NUMBERED = re.compile(r"(\d+)(?:\s*[:.)]\s*|\s+|,\s*)(\S.*)")
BULLET = re.compile(r"([-*•])\s+(\S.*)")
QUOTED = re.compile(r"""(["'])(.+)\1,?""")


@dataclass
class Words:
    """Columns of a word list; None for missing columns."""

    words: list[Any]
    ids: list[Any] | None = None
    glosses: list[Any] | None = None
    groups: list[Any] | None = None
    qualifiers: list[Any] | None = None
    roles: list[Any] | None = None
    notes: list[str] = field(default_factory=list)
    exact: bool = False  # written by `Vocabulary.save`


def words_of(source: Any, encoding: str = "utf-8") -> Words:
    """Words of any source that `Vocabulary.open` accepts, except its bundled lists.

    Raises:
        DataError: no such file, or a source that is not a list of words.
    """
    found = _words_of(source, encoding)
    if not found.exact:
        _spaced(found)
    return found


def _words_of(source: Any, encoding: str) -> Words:
    if isinstance(source, (str, os.PathLike)):
        return _of_file(user_path(source), encoding)
    columns = frame_columns(source)
    if columns is not None:
        return _of_columns(columns, "The table")
    if isinstance(source, Mapping):
        return _of_mapping(source)
    if isinstance(source, (set, frozenset)):
        source = sorted(source, key=str)  # the order of a set differs from process to process
    if isinstance(source, Iterable) and not isinstance(source, (bytes, bytearray)):
        return _of_list(list(source))
    raise DataError(
        f"Cannot read a vocabulary from a {type(source).__name__}; give a file or a list of words."
    )


def _spaced(found: Words) -> None:
    """Underscores in place of spaces as spaces, and templates left out, which are no words; with notes."""
    texts = [word.strip() if isinstance(word, str) else "" for word in found.words]
    joined = [text for text in texts if "_" in text and " " not in text]
    if joined:
        said = set(joined)
        found.words = [
            text.replace("_", " ") if text in said else word
            for text, word in zip(texts, found.words, strict=True)
        ]
        found.notes.append(
            f"{counted(len(joined), 'word')} with underscores {be(len(joined), True)} read with spaces, first "
            f"{joined[0]!r}."
        )
    templates = [text for text in texts if "{}" in text]
    if templates:
        kept = [place for place, text in enumerate(texts) if "{}" not in text]
        for name in ("words", *OTHERS):
            column = getattr(found, name)
            setattr(found, name, None if column is None else [column[place] for place in kept])
        found.notes.append(
            f"{counted(len(templates), 'entry', 'entries')} with {{}} {be(len(templates), True)} left out: "
            f"{templates[0]!r} is a template, not a word."
        )


def _of_list(items: list[Any]) -> Words:
    items = [plain(item) for item in items]
    if items and all(isinstance(item, Mapping) for item in items):
        names = list(dict.fromkeys(name for item in items for name in item))
        return _of_columns({str(name): [item.get(name) for item in items] for name in names}, "The list")
    words = ["" if is_missing(item) else item for item in items]
    wrong = next((word for word in words if not isinstance(word, str)), None)
    if wrong is not None:
        raise DataError(f"A list of words must hold text; got {type(wrong).__name__} {wrong!r:.80}.")
    return Words(words)


def _of_mapping(source: Mapping[Any, Any]) -> Words:
    values = list(source.values())
    if values and all(
        _is_synset(value) for value in values
    ):  # {"0": ["n01440764", "tench"]}, as ImageNet's index
        return Words([str(word) for _, word in values], [str(synset) for synset, _ in values])
    lists = [
        isinstance(value, (list, tuple, set, frozenset, np.ndarray)) or hasattr(value, "tolist")
        for value in values
    ]
    if values and all(lists):
        known = {normal_name(name) for name in source}
        if known & set(WORD) and known <= {*WORD, *(name for names in OTHERS.values() for name in names)}:
            return _of_columns({str(name): list(value) for name, value in source.items()}, "The dictionary")
        pairs = [
            (word, group)
            for group, words in source.items()
            for word in (sorted(words) if isinstance(words, (set, frozenset)) else words)
        ]
        made = _of_list([word for word, _ in pairs])
        made.groups = [str(group) for _, group in pairs]
        return made
    if any(isinstance(value, (list, tuple, set, Mapping)) for value in values):
        raise DataError(
            "A mapping of words gives each word its group, or each group its list of words; not both."
        )
    keys = [plain(key) for key in source]
    if keys and all(isinstance(key, int) for key in keys):  # class numbers and their names
        return _of_list([source[key] for key in sorted(source)])
    if keys and all(isinstance(plain(value), int) for value in values):  # names and their class numbers
        return _of_list(sorted(source, key=lambda word: plain(source[word])))
    made = _of_list(list(source))
    made.groups = [None if is_missing(value) else str(value) for value in values]
    return made


def _of_columns(columns: Mapping[str, list[Any]], what: str) -> Words:
    by_name = {normal_name(name): name for name in columns}
    word = next((by_name[name] for name in WORD if name in by_name), None)
    if word is None and len(columns) == 1:
        word = next(iter(columns))
    if word is None:
        raise DataError(
            f"{what} needs a column 'word' (and optionally 'id', 'gloss', 'group'); its columns are "
            f"{', '.join(map(str, columns))[:300]}."
        )
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        raise DataError(f"{what} has columns of different lengths: {lengths}.")
    made = _of_list(list(columns[word]))
    used = {word}
    for column, spellings in OTHERS.items():
        name = next((by_name[n] for n in spellings if n in by_name and by_name[n] not in used), None)
        if name is not None:
            used.add(name)
            setattr(
                made, column, [None if is_missing(value) else str(plain(value)) for value in columns[name]]
            )
    unread = [str(name) for name in columns if name not in used and str(name).strip()]
    if unread:
        made.notes.append(f"Columns that were not read: {', '.join(unread[:12])}.")
    if normal_name(word) != "word":
        made.notes.append(f"The words were read from the column {word!r}.")
    return made


# files


def _of_file(path: Path, encoding: str) -> Words:
    text = _text(path, encoding)
    suffix = path.suffix.lower()
    if suffix in (".json", ".jsonl") or _is_json(text):
        return _of_json(text, path)
    if suffix in TABLES:
        return _of_table(text, path)
    if suffix in (".yaml", ".yml", ".xml", ".html", ".htm"):
        raise DataError(
            f"{str(path)!r} is not read as a word list. Save it as JSON, as CSV, or one word per line."
        )
    if text.lstrip()[:1] in ("[", "{"):
        return _of_literal(text, path)
    return _of_lines(text, path)


def _is_json(text: str) -> bool:
    """Whether a text file holds JSON, a list or an object."""
    if text.lstrip()[:1] not in ("[", "{"):
        return False
    try:
        return isinstance(parse_json(text), (list, dict))
    except ValueError:
        return False


def _is_synset(value: Any) -> bool:
    return (
        isinstance(value, (list, tuple))
        and len(value) == 2
        and all(isinstance(part, str) for part in value)
        and re.fullmatch(r"n\d{8}", value[0]) is not None
    )


def _of_literal(text: str, path: Path) -> Words:
    """A Python list or dictionary in a text file, such as the usual lists of ImageNet's classes."""
    try:
        content = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise DataError(
            f"{str(path)!r} begins like a list or object ({text.strip()[:40]!r}) but is neither JSON nor Python's: "
            f"{error}. Write one word per line, or mend it."
        ) from error
    return _words_of(content, "utf-8")


def _of_json(text: str, path: Path) -> Words:
    try:
        content = (
            [parse_json(line) for line in text.splitlines() if line.strip()]
            if path.suffix.lower() == ".jsonl"
            else parse_json(text)
        )
    except ValueError as error:
        raise DataError(f"{str(path)!r} is not valid JSON: {error}.") from error
    if isinstance(content, dict) and content and all(key.lstrip("-").isdigit() for key in content):
        content = {int(key): value for key, value in content.items()}  # keys of JSON objects are strings
    if isinstance(content, list):
        return _of_list(content)
    if isinstance(content, dict):
        return _of_mapping(content)
    raise DataError(f"{str(path)!r} holds {json.dumps(content)[:60]}, not a list or object of words.")


def _of_table(text: str, path: Path) -> Words:
    first = next((line for line in text.splitlines() if line.strip()), "")
    if first.strip().lower().startswith("sep="):
        separator, body = first.strip()[4:5], text.split("\n", 1)[1]
    else:
        separator, body = sniff(text), text
    try:
        rows = [row for row in csv.reader(io.StringIO(body, newline=""), delimiter=separator or ",")]
    except csv.Error as error:
        raise DataError(f"{str(path)!r} is not a table: {error}.") from error
    header = [normal_name(cell) for cell in next((row for row in rows if any(row)), [])]
    if not set(header) & set(WORD):
        if max((len(row) for row in rows), default=0) > 1:
            raise DataError(
                f"{str(path)!r} needs a header with a column 'word' (and optionally 'id', 'gloss', 'group'); "
                f"its first line is {few(header)}."
            )
        return Words([row[0] if row else "" for row in rows])
    if len([row for row in rows if any(row)]) < 2:
        return Words([])
    table = parse_table(text, path)
    own = table.header[: len(SAVED)] == SAVED
    made = _of_columns(
        {name: [row[place] for row in table.rows] for place, name in enumerate(table.header)}, repr(str(path))
    )
    made.notes, made.exact = [*table.notes, *made.notes], own
    return made


def _of_lines(text: str, path: Path) -> Words:
    """One word per line; a table with the suffix of a text file is read as a table, or refused."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    full = [line for line in lines[:LOOKED_AT] if line.strip()]
    if (marked := _marked(lines)) is not None:
        return marked
    for separator in ("\t", ";", "|", ","):
        cells = [normal_name(cell) for cell in (full[0] if full else "").split(separator)]
        known = {*WORD, *(name for names in OTHERS.values() for name in names)}
        if len(cells) > 1 and set(cells) & set(WORD) and set(cells) <= known:
            return _of_table("\n".join(lines), path)
        counts = {line.count(separator) for line in full}
        if separator != "," and len(full) > 1 and len(counts) == 1 and min(counts) > 0:
            raise DataError(
                f"{str(path)!r} has {min(counts) + 1} columns, not one word per line (first line: {full[0][:80]!r}). "
                "Add a first line with column names, one of them 'word', or keep only the column of words."
            )
    if len(full) == 1 and (full[0].count(",") > 1 or full[0].strip(" ;").count(";")):
        raise DataError(
            f"{str(path)!r} has all words in one line ({full[0][:60]!r}). Write one word per line."
        )
    if full and normal_name(full[0]) in HEADERS and len(full) > 1:
        at = lines.index(full[0])
        return Words(
            lines[at + 1 :],
            notes=[f"The first line, {full[0].strip()!r}, was taken for a header, not a word."],
        )
    commas = [line.strip() for line in full if "," in line]
    told = f"A line is one word, also {commas[0]!r} with its comma." if commas else ""
    return Words(lines, notes=[told] if told else [])


def _marked(lines: list[str]) -> Words | None:
    """Words behind ImageNet's synsets, numbers in order, bullets or in quotes, if every line is written so."""
    full = [line.strip() for line in lines if line.strip()]
    if len(full) < 2:
        return None
    for pattern, called in (
        (SYNSET, "synsets"),
        (NUMBERED, "numbers"),
        (BULLET, "bullets"),
        (QUOTED, "quotes"),
    ):
        found = [pattern.fullmatch(line) for line in full]
        if None in found:
            continue
        pairs = [(match[1], match[2].strip()) for match in found if match]
        if pattern is NUMBERED:
            first = int(pairs[0][0])
            if first > 1 or [int(number) for number, _ in pairs] != list(range(first, first + len(pairs))):
                continue
            quoted = [QUOTED.fullmatch(word) for _, word in pairs]
            pairs = [
                (mark, match[2] if match else word) for (mark, word), match in zip(pairs, quoted, strict=True)
            ]
        words = [word for _, word in pairs]
        note = f"The words were read without the {called} in the file: {words[0]!r} from {full[0]!r}."
        if pattern is not SYNSET:
            return Words(words, notes=[note])
        names = [[part.strip() for part in word.split(",")] for word in words]
        return Words(
            [parts[0] for parts in names],
            [synset for synset, _ in pairs],
            qualifiers=[parts[1] if len(parts) > 1 else None for parts in names],
            notes=[note],
        )
    return None


def _text(path: Path, encoding: str) -> str:
    try:
        if not path.is_file():
            raise DataError(
                f"No vocabulary file {str(path)[:300]!r}. Give a file, a list of words, 'general' or 'imagenet21k'."
            )
        if path.suffix.lower() in SPREADSHEETS:
            raise DataError(f"{str(path)!r} is not a text file. Save it as CSV (UTF-8) with a column 'word'.")
        if path.stat().st_size > MAX_FILE:
            raise DataError(
                f"{str(path)!r} has {path.stat().st_size:,} bytes, at most {MAX_FILE:,} are read."
            )
    except (OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        told = getattr(error, "strerror", None) or error
        raise DataError(f"No vocabulary can be read from {str(path)[:300]!r}: {told}.") from error
    return read_text(path, encoding)
