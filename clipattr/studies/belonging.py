"""Belonging: whether pictures are those that a study was built from, and what was left out when it was.

Owns the comparison of given pictures with the fingerprints that a study keeps, and the words for what is missing from a
study. Ignores how either is made. Start at `check_pictures`.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clipattr.errors import StudyError
from clipattr.images.decoding import PictureError, difference_hash
from clipattr.storage.arrays import load_array
from clipattr.storage.paths import full_path, user_path

if TYPE_CHECKING:
    from clipattr.studies.study import Study

COMPARED = 16  # pictures that are decoded to be compared, spread evenly over the study
# Of the 64 bits of a fingerprint. Decoding at another size or compressing again changes up to about 6, another picture
# about 32.
MOST_BITS = 14


def check_pictures(study: "Study") -> "Study":
    """The study, if the pictures that it was opened with are its own and do not only bear their ids.

    Raises:
        StudyError: more than a quarter of the compared pictures do not look like the study's; the first is named.
    """
    images, ids, folder = study.images, study.images.ids, study.path
    fingerprints = load_array(folder / "fingerprints.npy", len(ids))
    compared, other = 0, []
    for row in np.unique(np.linspace(0, len(ids) - 1, min(COMPARED, len(ids))).round().astype(int)).tolist():
        try:
            own = difference_hash(images[ids[row]].load())
        except PictureError:
            continue
        compared += 1
        if (own ^ int(fingerprints[row])).bit_count() > MOST_BITS:
            other.append(ids[row])
    if other and len(other) > compared / 4:
        raise StudyError(
            f"{len(other)} of {compared} pictures compared are not those that the study in {str(folder)!r} was built "
            f"from, first {other[0]!r}. Open the study with its own pictures, or build another study of these."
        )
    return study


def left_out(manifest: dict[str, Any]) -> list[str]:
    """What was left out of a study or read otherwise than it stands: notes, and pictures that could not be read."""
    told = [*manifest["images"]["notes"], *manifest["vocabulary"]["notes"]]
    skipped = manifest["skipped"]
    if skipped:
        some = "; ".join(f"{name}: {reason}" for name, reason in skipped[:5])
        told.append(f"{len(skipped):,} pictures could not be read and were left out, first {some}.")
    return told


def folder_for(path: Any) -> Path:
    """The folder that a study is to be built in.

    Raises:
        StudyError: the current folder or one above it, which cannot be put in place by renaming.
    """
    folder = user_path(path)
    full, here = full_path(path), Path.cwd()
    if full == here or full in here.parents:
        raise StudyError(
            f"A study cannot be built in {str(full)!r}: it is put in place by renaming a finished folder, and this is "
            "the current folder or one above it. Name a new folder, for instance ./study."
        )
    return full if folder.name in ("", "..") else folder
