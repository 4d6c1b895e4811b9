"""Remarks: what a reader should know of a study's pictures and words before trusting what is said of them.

Owns the list. Computes nothing: it is what the build noted. Start at `remarks`.
"""

from collections.abc import Mapping
from typing import Any

from clipattr.display.wording import be, counted

NAMED = 3  # skipped pictures that are named


def remarks(study: Any) -> list[str]:
    """What opening and building changed or left out, and how many pictures could not be read; [] where nothing was.

    >>> import clipattr as ca
    >>> remarks(ca.open_study("picture-world"))
    []
    """
    manifest = getattr(study, "manifest", None)
    manifest = manifest if isinstance(manifest, Mapping) else {}
    told = []
    for part in ("images", "vocabulary"):
        about = manifest.get(part)
        notes = about.get("notes") if isinstance(about, Mapping) else None
        told += [str(note) for note in notes] if isinstance(notes, list) else []
    skipped = manifest.get("skipped")
    if isinstance(skipped, list) and skipped:
        some = "; ".join(
            ": ".join(map(str, one)) if isinstance(one, list) else str(one) for one in skipped[:NAMED]
        )
        many = counted(len(skipped), "picture")
        told.append(f"{many} could not be read and {be(len(skipped), True)} left out, first {some}.")
    return told
