"""Cells: the rules for missing values and for values as text, for every reader of tables, data sets and labels.

Ignores where values come from. Start at `is_missing` and `column_texts`.

Missing: None, NaN, pandas' NA and NaT, masked values, and text that is empty or blank. Not missing: 0, False, and text
such as "None", "nan" or "NA", which may be the name of a class. -1 is missing only among class numbers (`class_names`).
"""

import numbers
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from clipattr.display.wording import counted, few, have
from clipattr.errors import DataError

# Invisible characters at the ends of a cell: byte-order mark, zero-width space and joiners.
INVISIBLE = "\ufeff\u200b\u200c\u200d\u2060"
MARKERS = frozenset({"na", "n/a", "nan", "none", "null", "<na>", "nat"})  # text that may mean "missing"
SHOWN = 3  # examples in a note


def is_missing(value: Any) -> bool:
    """Whether a value is missing. 0 and False are not missing.

    >>> [is_missing(v) for v in (None, float("nan"), "", "  ")], [is_missing(v) for v in (0, False, "nan", "None", -1)]
    ([True, True, True, True], [False, False, False, False, False])
    """
    if value is None or value is np.ma.masked:
        return True
    if isinstance(value, str):
        return not value.strip().strip(INVISIBLE).strip()
    if type(value).__name__ in ("NAType", "NaTType"):
        return True
    if isinstance(value, (float, np.floating)):
        return bool(value != value)
    if isinstance(value, (np.datetime64, np.timedelta64)):
        return bool(np.isnat(value))
    return False


def plain(value: Any) -> Any:
    """A scalar as a Python value, from 0-dimensional arrays and tensors and from arrays of one element."""
    if isinstance(value, (str, bytes)) or value is None or value is np.ma.masked:
        return value
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray) and value.size == 1:
        return value.reshape(-1)[0].item()
    return value.item() if isinstance(value, np.generic) and not _is_time(value) else value


def cell_text(value: Any) -> str | None:
    """One value as text in Unicode normal form C, None where it is missing.

    Text keeps its inner spaces and loses those at its ends; bytes are read as UTF-8.

    >>> cell_text(0), cell_text(False), cell_text(" cat "), cell_text(float("nan"))
    ('0', 'False', 'cat', None)
    """
    value = plain(value)
    if is_missing(value):
        return None
    if isinstance(value, bytes):
        value = value.decode("utf-8", "backslashreplace")
    text = str(value).strip().strip(INVISIBLE).strip()
    text = text.encode("utf-8", "backslashreplace").decode()
    return unicodedata.normalize("NFC", text) or None


def column_texts(values: Iterable[Any], what: str = "label") -> list[str | None]:
    """A column as texts, None where a value is missing.

    Whole numbers stay whole: a column of numbers that became floating point, because one value is missing, gives "1"
    and not "1.0".

    Args:
        values: one scalar a row, of any type. what: name of the column, for errors.

    Raises:
        DataError: values that are no scalars, such as vectors, boxes or dictionaries.

    >>> column_texts([1.0, float("nan"), 2.0]), column_texts([0.5, 1.0]), column_texts([True, None])
    (['1', None, '2'], ['0.5', '1.0'], ['True', None])
    """
    found = [plain(value) for value in listed(values)]
    for place, value in enumerate(found):
        if isinstance(value, (Mapping, list, tuple, set, np.ndarray)):
            raise DataError(
                f"A {what} is one name or number per picture; row {place} holds a {type(value).__name__}: "
                f"{value!r:.80}."
            )
    given = [value for value in found if not is_missing(value)]
    floats = [value for value in given if isinstance(value, float)]
    if floats and all(isinstance(value, numbers.Real) and _is_whole(value) for value in given):
        found = [v if is_missing(v) or isinstance(v, bool) else int(v) for v in found]
    return [cell_text(value) for value in found]


def class_names(values: Iterable[Any], names: Any = None) -> tuple[list[str | None], list[str]]:
    """Class numbers (or texts) of a data set as the classes' names.

    -1 means "not labelled", as in torchvision's STL10 and in ClassLabel columns, unless no names are given and the
    numbers are -1 and 1 only, the two classes of a signed label.

    Args:
        values: one per picture: a whole number, a text, a truth value or a missing value.
        names: of the classes by number: a list, a list of tuples of synonyms, or a mapping from or to numbers.

    Returns:
        One name or None a picture, and notes on values left without a label.

    Raises:
        DataError: values that are no scalars.
    """
    found = [plain(value) for value in listed(values)]
    called = _by_number(names)
    whole = [_whole(value) for value in found]
    signed = called is None and {number for number in whole if number is not None} == {-1, 1}
    labels: list[str | None] = []
    unlabelled, beyond = 0, Counter[str]()
    texts = column_texts(found)
    for number, text in zip(whole, texts, strict=True):
        if number == -1 and not signed:
            unlabelled += 1
            labels.append(None)
        elif number is not None and called is not None:
            name = called.get(number)
            if name is None:
                beyond[str(text)] += 1
            labels.append(name if name is not None else text)
        else:
            labels.append(text)
    notes = []
    if unlabelled:
        notes.append(
            f"{counted(unlabelled, 'picture')} {have(unlabelled)} the class number -1 and "
            f"{'counts' if unlabelled == 1 else 'count'} as not labelled."
        )
    if beyond:
        notes.append(
            f"{counted(beyond.total(), 'picture')} {have(beyond.total())} a class number without a "
            f"name, which is their label: {first(beyond)}."
        )
    return labels, notes


def marker_note(labels: Sequence[str | None], what: str = "label") -> list[str]:
    """A note on labels that were read as names but are usual markers of missing values."""
    seen = Counter(label for label in labels if label is not None and label.casefold() in MARKERS)
    if not seen:
        return []
    return [
        f"{counted(seen.total(), 'picture')} {have(seen.total())} the {what} {first(seen)}, read as "
        "a name. Leave a cell empty to say that "
        "nothing is known."
    ]


def listed(values: Any) -> list[Any]:
    """A column of any kind as a list: a list, array, tensor, pandas Series, or frame or array of one column.

    Raises:
        DataError: several columns, or a single value.
    """
    if hasattr(values, "columns") and hasattr(values, "iloc"):
        if len(values.columns) != 1:
            raise DataError(f"One column is needed; the frame has {few(values.columns)}. Select one of them.")
        values = values.iloc[:, 0]
    if hasattr(values, "detach"):
        values = values.detach().cpu().numpy()
    if isinstance(values, np.ndarray) and values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Iterable):
        raise DataError(f"One value per picture is needed, in a list; got a {type(values).__name__}.")
    return list(values)


def normal_name(name: Any) -> str:
    """The normalised name of a column: lower case, stripped, hyphens as underscores, without compatibility forms.

    >>> normal_name("\\ufeff Image-Path ")
    'image_path'
    """
    text = unicodedata.normalize("NFKC", str(name)).strip().strip(INVISIBLE).strip().strip("\"'").casefold()
    return "_".join(text.replace("-", " ").replace("_", " ").split())


def columns_by_name(names: Iterable[str], table: str) -> dict[str, str]:
    """{normalised name: name} of columns.

    Args:
        names: of the columns.
        table: name of the table in errors.

    Raises:
        DataError: two names that differ in case or spaces only.

    >>> columns_by_name(["Path", "label"], "a table")
    {'path': 'Path', 'label': 'label'}
    """
    found: dict[str, str] = {}
    for name in names:
        key = normal_name(name)
        if key and key in found:
            raise DataError(f"{table} names a column twice: {found[key]!r} and {name!r}. Rename one of them.")
        found[key] = name
    return found


def first(counts: "Counter[str]") -> str:
    """The most frequent names with their counts, for a note."""
    some = ", ".join(f"{name!r} ({count})" for name, count in counts.most_common(SHOWN))
    return some + (", …" if len(counts) > SHOWN else "")


def _is_whole(value: Any) -> bool:
    return float(value).is_integer()


def _whole(value: Any) -> int | None:
    """A number without fraction as int, None for anything else."""
    number = isinstance(value, numbers.Real) and not is_missing(value) and _is_whole(value)
    return int(value) if number else None


def _is_time(value: np.generic) -> bool:
    return isinstance(value, (np.datetime64, np.timedelta64))


def _by_number(names: Any) -> dict[int, str] | None:
    """Names of classes by number, from the forms that data sets keep them in."""
    if names is None:
        return None
    if isinstance(names, Mapping):
        turned = names and all(isinstance(plain(value), numbers.Integral) for value in names.values())
        pairs = [(value, key) for key, value in names.items()] if turned else list(names.items())
        try:
            return {int(plain(number)): _name(name) for number, name in pairs}
        except (TypeError, ValueError):
            return None
    return {number: _name(name) for number, name in enumerate(names)}


def _name(name: Any) -> str:
    if isinstance(name, (tuple, list)) and name:  # synonyms, as torchvision's ImageNet has them
        name = name[0]
    return cell_text(name) or str(name)
