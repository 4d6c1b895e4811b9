"""Tables: a folder of pictures with a metadata file, as archives of skin lesions and hospitals' exports come.

Owns which row belongs to which file, what a class is, which pictures show the same lesion or patient and so must stay
on one side of a split, and which group a picture counts to. Knows the layouts of the ISIC archive and of HAM10000 by
their column names; any other is read by naming its columns. Ignores pixels. Start at `open_table`.
"""

import math
import os
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from clipattr.display.wording import be, counted, few, have
from clipattr.errors import DataError
from clipattr.images.cells import column_texts, normal_name
from clipattr.images.collection import Images
from clipattr.images.delimited import read_table
from clipattr.images.finding import FileFinder
from clipattr.images.folders import find_pictures, is_companion
from clipattr.images.sources import FileSource
from clipattr.images.splits import given_split, split_by_unit, units_of
from clipattr.storage.paths import user_path

if TYPE_CHECKING:
    import pandas as pd

# Names of columns by content; the first that a file has is used: ISIC archive, ISIC challenges, HAM10000, then common
# names.
PICTURE = ("isic_id", "image_name", "image_id", "image", "path", "file", "filename", "id")
LABEL = ("benign_malignant", "diagnosis_1", "diagnosis", "dx", "target", "label", "class")
UNITS = ("lesion_id", "patient_id")
AGE = ("age_approx", "age")
MALIGNANT = ("mel", "bcc", "akiec", "scc")
# HAM10000's seven diagnoses as two classes. akiec (actinic keratosis, Bowen's disease) counts as malignant, as in most
# benchmarks; give `labels` another mapping where it should not.
HAM10000_CLASSES = {
    name: "malignant" if name in MALIGNANT else "benign"
    for name in ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
}
NOTHING = frozenset({"", "na", "n/a", "nan", "none", "null", "unknown", "unk", "?"})
AGE_BANDS = ((30, "under 30"), (50, "30 to 49"), (70, "50 to 69"), (math.inf, "70 and over"))
IMBALANCE = 20  # pictures of the most frequent class per picture of another from which a note says so
SHOWN = 3  # names in a message


@dataclass(frozen=True)
class Table:
    """Pictures with the columns of a metadata file, as `open_table` returns them.

    Attributes:
        images: label, group and split filled in; ids are the metadata's own picture names.
        columns: every column of the file, one text or None a picture, in the order of `images`.
        ages: in years, one per picture, NaN where the file has no number.
        units: the number of the lesion or patient each picture shows; equal numbers stay on one side of a split.
        missing: picture names of rows that have no file.
        notes: sentences on rows that were left out, and warnings.

    >>> import clipattr as ca
    >>> images = ca.open_study("picture-world").images
    >>> table = ca.Table(images, {}, [float("nan")] * len(images), list(range(len(images))))
    >>> table.frame["unit"].is_unique
    True
    """

    images: Images
    columns: dict[str, list[str | None]]
    ages: list[float]
    units: list[int]
    missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())

    def __repr__(self) -> str:
        counts = Counter(str(label) for label in self.images.columns["label"])
        return f"<Table: {len(self.images)} pictures of {len(set(self.units))} lesions or patients, {dict(counts)}>"

    @property
    def frame(self) -> "pd.DataFrame":
        """One row per picture: id, path, label, group, split, unit, age in years, and the file's own columns."""
        import pandas as pd

        frame = self.images.frame.assign(unit=self.units, years=self.ages)
        own = {name: values for name, values in self.columns.items() if name not in frame}
        return pd.concat([frame, pd.DataFrame(own)], axis=1)

    def grouped_by(self, group: str | Sequence[str | None]) -> "Table":
        """The same pictures in groups by a column of the file ("age": by bands), or by one name per picture.

        Raises:
            DataError: no such column, not one name per picture, or nobody has a group.
        """
        groups = _groups(group, self.columns, self.ages)
        columns = {**self.images.columns, "group": groups}
        images = Images(
            self.images.source, self.images.ids, columns, rows=self.images.rows, notes=self.images.notes
        )
        notes = (*self.notes, *_empty_groups(columns["label"], groups))
        return Table(images, self.columns, self.ages, self.units, self.missing, notes)


def open_table(
    folder: str | os.PathLike[str],
    metadata: str | os.PathLike[str] | None = None,
    *,
    picture: str | None = None,
    label: str | None = None,
    labels: Mapping[str, str] | None = None,
    units: Sequence[str] | None = None,
    group: str | None = None,
    split: str | None = None,
    holdout: float = 0.3,
    seed: int = 0,
) -> Table:
    """Open a folder of pictures with a metadata file (CSV; comma, semicolon or tab; any usual encoding).

    Pictures are found below the folder at any depth by their file name with or without its ending, whatever its case,
    slashes and Unicode form. Column names are compared without case and spaces. Rows without a file, and rows whose
    label is blank, "unknown" (or one of the other words in `NOTHING`) or not in `labels`, are left out, counted in
    `notes` and, where a file is missing, listed in `missing`.

    Args:
        folder: the pictures.
        metadata: the file; default the only .csv in the folder, or `metadata.csv` or `HAM10000_metadata.csv` there.
        picture, label: names of columns; default the archives' own.
        labels: raw label to class, compared without regard to case; rows with other labels are left out. Default: every
            label is a class; `HAM10000_CLASSES` makes two of HAM10000's seven.
        units: columns whose values must stay on one side of a split; default `lesion_id` and `patient_id`.
            Pictures that share any of them are one unit; a row with none is a unit of its own.
        group: a column with groups ("age": bands of age), default none.
        split: a column with splits ("holdout", "test" and "val" are held out, all else is not); default a new split.
        holdout: fraction of every class's units that a new split holds out.
        seed: of a new split.

    Returns:
        A `Table`: the pictures with labels, groups and splits, and all columns of the file.

    Raises:
        DataError: no metadata, column or picture; one class only; a class with a single unit, which no split can put
            on both sides; a unit on both sides of the file's own split; two rows or files of one name that differ.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from PIL import Image
    >>> import clipattr as ca
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for number in range(8):
    ...         Image.new("RGB", (8, 8), (30 * number, 0, 0)).save(f"{folder}/p{number}.png")
    ...     rows = [f"p{number},{'melanoma' if number % 2 else 'mole'}" for number in range(8)]
    ...     _ = Path(folder, "metadata.csv").write_text("\\n".join(["image,label", *rows]))
    ...     table = ca.open_table(folder, picture="image", label="label")
    >>> table.images.columns["label"][:2]
    ['mole', 'melanoma']
    """
    top = user_path(folder)
    if not top.is_dir():
        raise DataError(f"{str(top)!r} is not a folder. Give the folder that holds the pictures.")
    file = _metadata_in(top) if metadata is None else user_path(metadata)
    table = read_table(file)
    header, rows = table.header, table.rows
    name_column = _column(picture, PICTURE, header, "the pictures' names", "picture", file)
    label_column = _column(label, LABEL, header, "the labels", "label", file)
    notes = list(table.notes)
    rows = _unrepeated(rows, header, name_column, label_column, file, notes)
    rows = _labelled(rows, header, label_column, labels, file, notes)
    places, paths, missing = _with_files(rows, header.index(name_column), top, file, notes)
    rows = [rows[place] for place in places]
    found = {name: [_cell(row[number]) for row in rows] for number, name in enumerate(header)}
    names = [row[header.index(name_column)] for row in rows]
    classes = [row[-1] for row in rows]
    _check_classes(classes, file, notes)
    ages = _ages(found, notes)
    there = {normal_name(name): name for name in header}
    wanted = [there[name] for name in UNITS if name in there] if units is None else list(units)
    wanted = [_column(name, (), header, "what must stay together", "units", file) for name in wanted]
    together = units_of(len(rows), [found[name] for name in wanted])
    if not wanted:
        notes.append(
            "No column names lesions or patients: every picture is split on its own. Give units=[...]."
        )
    if split is not None:
        sides = given_split(
            found[_column(split, (), header, "the split", "split", file)], together, names, file
        )
    else:
        sides = split_by_unit(classes, together, holdout, seed)
    groups = [None] * len(rows) if group is None else _groups(group, found, ages)
    notes += _empty_groups(classes, groups)
    images = Images(
        FileSource(paths), names, {"label": classes, "group": groups, "split": sides}, notes=notes
    )
    return Table(images, found, ages, together, tuple(missing), tuple(notes))


def _metadata_in(folder: Path) -> Path:
    files = sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in (".csv", ".tsv") and not is_companion(path.name)
    )
    known = [path for path in files if path.name.lower() in ("metadata.csv", "ham10000_metadata.csv")]
    if len(known) == 1:
        return known[0]
    if len(files) == 1:
        return files[0]
    there = f"{len(files)}: {', '.join(path.name for path in files[:SHOWN])}" if files else "none"
    raise DataError(
        f"The metadata file of {str(folder)!r} is ambiguous: there are .csv files, {there}. Name one."
        if files
        else f"There is no .csv in {str(folder)!r}. Give the path of the metadata file."
    )


def _column(
    given: str | None, known: Sequence[str], header: Sequence[str], what: str, argument: str, file: Path
) -> str:
    by_name = {normal_name(name): name for name in header}
    if given is not None:
        if normal_name(given) not in by_name:
            raise DataError(f"{str(file)!r} has no column {given!r} for {what}; it has {few(header, 8)}.")
        return by_name[normal_name(given)]
    for name in known:
        if name in by_name:
            return by_name[name]
    raise DataError(
        f"No column of {str(file)!r} is known to hold {what}; it has {few(header, 8)}. Name it with {argument}=..."
    )


def _cell(text: str) -> str | None:
    """A cell of an archive's file, where many words say that nothing is known."""
    return None if text.lower() in NOTHING else unicodedata.normalize("NFC", text)


def _unrepeated(
    rows: list[list[str]], header: list[str], name: str, label: str, file: Path, notes: list[str]
) -> list[list[str]]:
    at, decides = header.index(name), header.index(label)
    first: dict[str, list[str]] = {}
    for row in rows:
        if not row[at]:
            continue
        before = first.setdefault(row[at], row)
        if before[decides] != row[decides]:
            raise DataError(
                f"{str(file)!r} calls the picture {row[at]!r} both {before[decides]!r} and {row[decides]!r}. Keep one "
                "row."
            )
    if len(first) < len(rows):
        notes.append(
            f"{counted(len(rows) - len(first), 'row')} with no picture, or with one named before, "
            f"{be(len(rows) - len(first), True)} left out."
        )
    return list(first.values())


def _labelled(
    rows: list[list[str]],
    header: list[str],
    label: str,
    labels: Mapping[str, str] | None,
    file: Path,
    notes: list[str],
) -> list[list[str]]:
    """Rows with a class, which is put at their end."""
    at, kept, unknown = header.index(label), [], Counter[str]()
    known = None if labels is None else {str(raw).strip().lower(): str(name) for raw, name in labels.items()}
    for row in rows:
        raw = _cell(row[at])
        # `labels` may name what otherwise counts as nothing, such as a class called "None".
        name = raw if known is None else known.get(row[at].lower()) if row[at] else None
        if name is None:
            unknown[row[at] or "(blank)"] += 1
        else:
            kept.append([*row, name])
    if unknown:
        shown = ", ".join(f"{raw!r} ({count})" for raw, count in unknown.most_common(SHOWN))
        notes.append(
            f"{counted(unknown.total(), 'row')} without a known label {be(unknown.total(), True)} left out: {shown}."
        )
    if not kept:
        raise DataError(
            f"No row of {str(file)!r} has a label that is known. Column {label!r} holds {list(unknown)[:SHOWN]}; "
            f"labels were given for {sorted(known)[:SHOWN] if known else 'all'}. A cell that is blank or one of "
            f"{', '.join(sorted(NOTHING - {''}))} has no label unless `labels` names it."
        )
    return kept


def _with_files(
    rows: list[list[str]], at: int, top: Path, file: Path, notes: list[str]
) -> tuple[list[int], list[Path], list[str]]:
    """Places of the rows that have a file, their files, and the names of the other rows."""
    found, _ = find_pictures(top)
    finder = FileFinder(top, inside=True)
    places, paths, missing = [], [], []
    for place, row in enumerate(rows):
        path = finder.find(row[at])
        if path is None:
            missing.append(row[at])
            continue
        places.append(place)
        paths.append(path)
    if not places:
        raise DataError(
            f"None of the {len(rows)} pictures that {str(file)!r} names is below {str(top)!r}; first: "
            f"{missing[:SHOWN]}. Found there: {counted(len(found), 'picture')}."
        )
    notes += finder.notes
    if missing:
        notes.append(
            f"{len(missing)} of {counted(len(rows), 'row')} {have(len(missing))} no file and {be(len(missing), True)} "
            f"left out: {missing[:SHOWN]}…"
        )
    used = {os.path.abspath(path) for path in paths}
    over = sum(os.path.abspath(path) not in used for _, path in found)
    if over:
        notes.append(
            f"{counted(over, 'picture')} in the folder {have(over)} no row, or one that was left out, or "
            f"{'is a copy' if over == 1 else 'are copies'}."
        )
    return places, paths, missing


def _check_classes(classes: Sequence[str], file: Path, notes: list[str]) -> None:
    counts = Counter(classes).most_common()
    if len(counts) < 2:
        raise DataError(
            f"All {len(classes)} pictures with a file and a label are {counts[0][0]!r} in {str(file)!r}: one class "
            f"cannot be classified without another. Add the other class, or see `labels`. {' '.join(notes)}".rstrip()
        )
    rare = [(name, count) for name, count in counts if counts[0][1] >= IMBALANCE * count]
    for name, count in rare:
        notes.append(
            f"Only {count} pictures are {name!r} against {counts[0][1]} {counts[0][0]!r}: weigh classes when fitting, "
            "and judge by balanced accuracy or the worst group."
        )


def _ages(found: Mapping[str, list[str | None]], notes: list[str]) -> list[float]:
    by_name = {normal_name(name): name for name in found}
    column = next((by_name[name] for name in AGE if name in by_name), None)
    cells: list[str | None] = found[column] if column else [None] * len(next(iter(found.values())))
    ages, odd = [], []
    for cell in cells:
        try:
            age = float(cell) if cell is not None else math.nan
        except ValueError:
            age = math.nan
            odd.append(cell)
        if not 0 <= age <= 130:
            if age == age:
                odd.append(cell)
            age = math.nan
        ages.append(age)
    if odd:
        notes.append(f"{len(odd)} ages are no numbers of years and count as unknown: {odd[:SHOWN]}.")
    return ages


def _groups(
    group: str | Sequence[str | None], columns: Mapping[str, list[str | None]], ages: Sequence[float]
) -> list[str | None]:
    groups: list[str | None]
    if not isinstance(group, str):
        groups = column_texts(group, "group")
        if len(groups) != len(ages):
            raise DataError(f"groups need one name per picture ({len(ages)}); got {len(groups)}.")
    elif group == "age" or group in AGE:
        groups = [next((name for under, name in AGE_BANDS if age < under), None) for age in ages]
    elif (name := {normal_name(n): n for n in columns}.get(normal_name(group))) is not None:
        groups = list(columns[name])
    else:
        raise DataError(
            f"There is no column {group!r} to group by; there are {few(sorted(columns), 8)}, and 'age'."
        )
    if not any(groups):
        raise DataError(f"No picture has a group: {group!r:.80} is empty everywhere.")
    return groups


def _empty_groups(classes: Sequence[str | None], groups: Sequence[str | None]) -> list[str]:
    """Notes on groups that lack a class, on which no accuracy can be measured, and on pictures without a group."""
    there = set(zip(groups, classes, strict=True))
    names = sorted({name for name in groups if name is not None})
    notes = [
        f"No picture of the group {name!r} is {label!r}: its accuracy there is unknown, not zero."
        for name in names
        for label in sorted({str(label) for label in classes})
        if (name, label) not in there
    ]
    without = sum(name is None for name in groups)
    if names and without:
        verb = "counts" if without == 1 else "count"
        notes.append(f"{counted(without, 'picture')} {have(without)} no group and {verb} to none.")
    return notes
