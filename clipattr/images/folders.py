"""Folders: which files below a folder are pictures, and which split and label their folders give them.

Owns the walk (links followed once, circles cut), hidden companions, picture formats that are not read, and folders
named after splits. Ignores what is in a picture. Start at `walk`.
"""

import os
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from clipattr.display.wording import be, counted
from clipattr.images.cells import first
from clipattr.images.decoding import SUFFIXES
from clipattr.images.dicom import may_be_dicom
from clipattr.images.splits import split_name

# Pictures that other programs read: a note names them, since their owner takes them for pictures.
UNREAD_SUFFIXES = """
.heic .heif .hif .heics .jxl .psd .psb .xcf .svg .eps .ai .pdf .raw .dng .cr2 .cr3 .crw .nef .nrw .arw .sr2
.orf .rw2 .raf .pef .srw .x3f .3fr .iiq .erf .mrw .exr .hdr .tga .nii .nrrd .mha .svs .ndpi .mrxs
.scn .czi .lif .nd2 .ico .icns .wmf .emf .pcx .sgi .qoi .dds .fits .npy .mp4 .mov .avi .mkv .webm
"""
UNREAD = frozenset(UNREAD_SUFFIXES.split())
TABLE_SUFFIXES = (".csv", ".tsv", ".parquet", ".jsonl")
COMPANIONS = ("._",)  # AppleDouble: macOS keeps a file's attributes in a file of this name
SYSTEM = frozenset({"thumbs.db", "desktop.ini", ".ds_store", "icon\r"})
SYSTEM_FOLDERS = frozenset({"__macosx", "@eadir", "$recycle.bin", "system volume information"})


@dataclass
class Found:
    """What a walk found.

    Attributes:
        pictures: (relative name with slashes, file), sorted by name. tables: files beside them that may describe them.
        others: files that are no pictures, by ending; unread: pictures in formats that are not read, by ending.
        hidden: pictures whose name, or whose folder's, begins with a dot. loops: links that were not followed, since
        they lead to a folder that was read already. closed: folders that could not be listed. bare_dicom: whether the
        first file without an ending is DICOM.
    """

    pictures: list[tuple[str, Path]] = field(default_factory=list)
    tables: list[Path] = field(default_factory=list)
    shards: list[Path] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    unread: Counter[str] = field(default_factory=Counter)
    hidden: int = 0
    loops: list[str] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)
    bare_dicom: bool = False

    @property
    def notes(self) -> list[str]:
        """What was left out, with counts and first examples."""
        told = []
        if self.unread:
            told.append(
                f"{counted(self.unread.total(), 'picture file')} in formats that are not read "
                f"{be(self.unread.total(), True)} left out: "
                f"{first(self.unread)}. Convert them to JPEG or PNG."
            )
        if self.others:
            hint = " DICOM files without an ending are read by open_dicom." if self.bare_dicom else ""
            told.append(
                f"{counted(self.others.total(), 'file that is not a picture', 'files that are not pictures')} "
                f"{be(self.others.total(), True)} left out: {first(self.others)}.{hint}"
            )
        if self.hidden:
            told.append(
                f"{counted(self.hidden, 'hidden picture')} (names or folders with a dot first) "
                f"{be(self.hidden, True)} left out."
            )
        if self.loops:
            told.append(
                f"{counted(len(self.loops), 'link')} to folders that were read already "
                f"{be(len(self.loops), True)} not followed, first "
                f"{self.loops[0]!r}."
            )
        if self.closed:
            told.append(
                f"{counted(len(self.closed), 'folder')} could not be listed, first {self.closed[0]!r}."
            )
        return told


def walk(top: Path) -> Found:
    """Every picture below a folder, by the endings of names.

    Links to folders are followed, each real folder once through links, so that circles end. Hidden files and the
    companions that macOS, Windows and NAS systems leave are passed over.
    """
    found = Found()
    linked: set[str] = set()

    def visit(folder: str, inside: str, above: tuple[str, ...]) -> None:
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            found.closed.append(f"{readable_name(inside) or '.'} ({error.strerror or error})")
            return
        below: list[tuple[str, str, tuple[str, ...]]] = []
        for entry in entries:
            name = f"{inside}/{entry.name}" if inside else entry.name
            if entry.is_dir(follow_symlinks=False):
                if entry.name.startswith("."):
                    found.hidden += _pictures_in(entry.path)
                elif entry.name.casefold() not in SYSTEM_FOLDERS:
                    below.append((entry.path, name, above))
            elif entry.is_symlink() and os.path.isdir(entry.path):
                real = os.path.realpath(entry.path)
                if entry.name.startswith("."):
                    continue
                if real in above or real in linked:
                    found.loops.append(readable_name(name))
                    continue
                linked.add(real)
                below.append((entry.path, name, (*above, real)))
            else:
                _sort_file(found, entry.name, name, Path(entry.path))
        for path, name, chain in below:
            visit(path, name, (*chain, os.path.realpath(path)))

    visit(os.fspath(top), "", (os.path.realpath(top),))
    found.pictures.sort(key=lambda pair: pair[0])
    return found


def find_pictures(folder: Path) -> tuple[list[tuple[str, Path]], int]:
    """(readable relative name, file) of every picture below a folder, sorted by name, and how many other files."""
    found = walk(folder)
    return found.pictures, found.others.total() + found.unread.total() + len(found.tables)


def is_companion(name: str) -> bool:
    """Whether a file is a companion that is no picture of the user: hidden, AppleDouble, or the system's own."""
    return name.startswith(".") or name.casefold() in SYSTEM


def places_of(names: Sequence[str]) -> tuple[list[str | None], list[str | None], list[str]]:
    """Labels and splits of pictures from the folders they are in.

    The name of a picture's own folder is its label. Where the folders at one level are named after splits (train, val,
    test, ..., also train2017 or Test_set), they are the splits, and the label is a folder below, or else one above
    that differs between pictures.

    Args:
        names: relative, with slashes.

    Returns:
        labels, splits ("train" or "holdout") and notes.
    """
    folders = [PurePosixPath(name).parts[:-1] for name in names]
    level = _split_level(folders)
    if level is None:
        return [_label(parts[-1]) if parts else None for parts in folders], [None] * len(names), []
    said = [parts[level] if len(parts) > level else None for parts in folders]
    splits = [None if name is None else split_name(name) or name for name in said]
    varied = level and len({parts[level - 1] for parts in folders if len(parts) > level}) > 1
    labels: list[str | None] = []
    for parts in folders:
        if len(parts) > level + 1:
            labels.append(_label(parts[-1]))
        elif len(parts) == level + 1:
            labels.append(_label(parts[level - 1]) if varied else None)
        else:
            labels.append(_label(parts[-1]) if parts else None)
    counts = Counter(
        f"{name} as {split}" for name, split in zip(said, splits, strict=True) if name is not None
    )
    shown = ", ".join(f"{name} ({count})" for name, count in sorted(counts.items()))
    if set(splits) == {"holdout"}:
        told = f"All pictures lie in folders named after a split, which is neither label nor split: {shown}."
        return labels, [None] * len(names), [told]
    return labels, splits, [f"Folders named after splits give the split, not the label: {shown}."]


def readable_name(path: str | Path) -> str:
    """A path as text that can be written as UTF-8 (undecodable bytes of a file name become \\xNN)."""
    return (
        os.fspath(path)
        .replace(os.sep, "/")
        .encode("utf-8", "surrogateescape")
        .decode("utf-8", "backslashreplace")
    )


def _split_level(folders: Sequence[tuple[str, ...]]) -> int | None:
    """The level of folders that are named after splits; None where there is none."""
    deepest = max((len(parts) for parts in folders), default=0)
    for level in range(deepest):
        there = {parts[level] for parts in folders if len(parts) > level}
        known = {name: split_name(name) for name in there}
        sides = set(known.values())
        if None not in sides and (level == 0 or len(there) > 1):
            return level
        if {"train", "holdout"} <= sides and level == 0:  # others, such as "unlabeled", keep their names
            return level
    return None


def _label(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _sort_file(found: Found, base: str, name: str, path: Path) -> None:
    suffix = path.suffix.lower()
    if is_companion(base):
        found.hidden += suffix in SUFFIXES and not base.startswith(COMPANIONS)
    elif suffix in SUFFIXES:
        found.pictures.append((readable_name(name), path))
    elif suffix == ".tar":
        found.shards.append(path)
        found.others[suffix] += 1
    elif suffix in UNREAD:
        found.unread[suffix] += 1
    else:
        if suffix in TABLE_SUFFIXES:
            found.tables.append(path)
        if not suffix and "no ending" not in found.others:
            found.bare_dicom = may_be_dicom(path)
        found.others[suffix if suffix else "no ending"] += 1


def _pictures_in(folder: str) -> int:
    """How many files below a hidden folder have the ending of a picture."""
    return sum(
        Path(name).suffix.lower() in SUFFIXES and not name.startswith(COMPANIONS)
        for _, _, files in os.walk(folder)
        for name in files
    )
