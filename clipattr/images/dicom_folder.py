"""Folders of DICOM files: one picture per file or frame, under ids that name no person.

Owns ids, frames, and the choice of header attributes that may become a group. Ignores pixels (`dicom.py`). Start at
`open_dicom`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from clipattr.display.wording import be, counted
from clipattr.errors import DataError
from clipattr.images.collection import Images
from clipattr.images.decoding import PictureError, read_bytes
from clipattr.images.dicom import DicomError, count_of, header_of, may_be_dicom, read_dicom
from clipattr.images.sources import Source, file_sample
from clipattr.storage.paths import user_path

# Header attributes that may be a group: they describe the machine, the place or the view, and no person.
TOLD = (
    "Modality", "Manufacturer", "ManufacturerModelName", "InstitutionName", "BodyPartExamined", "ViewPosition",
    "PatientSex", "PhotometricInterpretation",
)  # fmt: skip


class DicomSource(Source):
    """Frames of DICOM files. rows: (file, frame) of each picture."""

    kind = "DICOM files"

    def __init__(self, rows: Sequence[tuple[Path, int]], window: tuple[float, float] | None) -> None:
        self.rows, self.window = list(rows), window

    def read(self, row: int, draft: int | None = None) -> Image.Image:
        file, frame = self.rows[row]
        try:
            return read_dicom(read_bytes(file), frame, window=self.window)
        except DicomError as error:
            raise PictureError(str(error)) from None

    def path(self, row: int) -> str:
        return str(self.rows[row][0])

    def weight(self, row: int) -> int:
        try:
            return self.rows[row][0].stat().st_size
        except (OSError, ValueError):
            return -1

    def content(self, row: int) -> str:
        file, frame = self.rows[row]
        return f"{file_sample(file)}-{frame}-{self.window}"


def open_dicom(
    folder: Any,
    *,
    frames: str = "first",
    window: tuple[float, float] | None = None,
    group: str | None = None,
) -> Images:
    """Open a folder of DICOM files as a collection of pictures.

    Ids are "0000", "0001" … in the order of the files' relative names, with "/frame" behind where a file has several
    pictures; file names, which often hold names of persons, are not shown.

    Args:
        folder: searched at any depth for files that end with .dcm or .dicom, and for DICOM files without an ending.
        frames: "first", "middle" or "all".
        window: (center, width) for all pictures, in modality values; default each file's own.
        group: an attribute that describes machine or view, one of `TOLD`, as the pictures' group. Others are refused.

    Returns:
        The pictures as `Images`, one per file or frame, 8-bit RGB.

    Raises:
        DataError: no such folder, no DICOM file in it, a group that could tell who a person is, or pydicom is missing.

    >>> import tempfile, clipattr as ca
    >>> from pathlib import Path
    >>> from pydicom.data import get_testdata_file
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "scan.dcm").write_bytes(Path(get_testdata_file("CT_small.dcm")).read_bytes())
    ...     pictures = ca.open_dicom(folder, group="Modality")
    ...     pictures.ids, pictures.columns["group"], pictures[0].load().size
    (['0000'], ['CT'], (128, 128))
    """
    top = user_path(folder)
    if frames not in ("first", "middle", "all"):
        raise DataError(f"frames is 'first', 'middle' or 'all'; got {frames!r}.")
    if group is not None and group not in TOLD:
        raise DataError(
            f"{group!r} is not read from headers, since it may identify persons. Groups: {', '.join(TOLD)}."
        )
    if not top.is_dir():
        raise DataError(f"{str(top)!r} is not a folder. Give the folder that holds the DICOM files.")
    rows, ids, groups, broken = list[tuple[Path, int]](), list[str](), list[str | None](), 0
    files = sorted(file for file in top.rglob("*") if file.is_file() and may_be_dicom(file))
    for number, file in enumerate(files):
        try:
            header = header_of(read_bytes(file))
        except (DicomError, PictureError):
            broken += 1
            continue
        count = count_of(header)
        some = {"first": [0], "middle": [count // 2], "all": list(range(count))}[frames]
        rows += [(file, frame) for frame in some]
        ids += [f"{number:04d}" if len(some) == 1 else f"{number:04d}/{frame:04d}" for frame in some]
        told = None if group is None else str(header.get(group, "") or "").strip() or None
        groups += [told] * len(some)
    if not rows:
        raise DataError(f"None of the {len(files)} DICOM files in {str(top)!r} can be read.")
    notes = (
        [f"{counted(broken, 'file')} could not be read as DICOM and {be(broken, True)} left out."]
        if broken
        else []
    )
    return Images(DicomSource(rows, window), ids, {"group": groups}, notes=notes)
