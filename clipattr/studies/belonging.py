"""Belonging: whether pictures are those that a study was built from, and what the build left out.

Owns the comparison of pictures with a study's stored fingerprints, and the sentences on skipped pictures. Ignores how
fingerprints are computed. Start at `check_pictures`.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clipattr.display.wording import be, counted
from clipattr.errors import StudyError
from clipattr.images.decoding import PictureError, difference_hash
from clipattr.storage.arrays import load_array
from clipattr.storage.paths import full_path, user_path

if TYPE_CHECKING:
    from clipattr.studies.study import Study

COMPARED = 16  # pictures that are decoded and compared, evenly spaced over the study
# Differing bits of 64. Decoding at another size or compressing again changes up to about 6, another picture about 32.
MOST_BITS = 14


def check_pictures(study: "Study") -> "Study":
    """Check that the pictures a study was opened with are its own, not others with the same ids; returns the study.

    Raises:
        StudyError: more than a quarter of the compared pictures differ from the study's; the first is named.
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
    """Sentences on what the build left out or changed: notes, and pictures that could not be read."""
    told = [*manifest["images"]["notes"], *manifest["vocabulary"]["notes"]]
    skipped = manifest["skipped"]
    if skipped:
        some = "; ".join(f"{name}: {reason}" for name, reason in skipped[:5])
        told.append(
            f"{counted(len(skipped), 'picture')} could not be read and {be(len(skipped), True)} left out, first {some}."
        )
    return told


def folder_for(path: Any) -> Path:
    """The folder for a new study.

    Raises:
        StudyError: the current folder or one of its parents, which cannot be the target of a rename.
    """
    path = path if str(path).strip() else "."
    folder = user_path(path)
    full, here = full_path(path), Path.cwd()
    if full == here or full in here.parents:
        raise StudyError(
            f"A study cannot be built in {str(full)!r}: a finished folder is renamed to this path, and it is the "
            "current folder or one of its parents. Name a new folder, for instance ./study."
        )
    return full if folder.name in ("", "..") else folder
