"""Selections: sets of pictures that a person named, kept beside the study.

Owns `selections.json` in the study's folder: a name and the ids of its pictures. Ignores how pictures are chosen.
Start at `Selections`.
"""

from collections.abc import Iterable
from typing import Any

from clipattr.errors import StudyError
from clipattr.studies.entries import EntriesFile

SCHEMA = 1
MAX_NAME = 80  # characters


class Selections:
    """All named selections of a study.

    Raises:
        StudyError: the file is damaged; it says where it is.
    """

    def __init__(self, study: Any) -> None:
        self._file = EntriesFile(study.path, "selections", SCHEMA, "The selection")
        self.path = self._file.path
        self._held = self._file.read(_ids)

    @property
    def names(self) -> list[str]:
        """Names of all selections, sorted."""
        return sorted(self._held)

    def of(self, name: str) -> list[str]:
        """Ids of a selection's pictures; none for an unknown name."""
        return list(self._held.get(name, ()))

    def set(self, name: str, ids: Iterable[str]) -> None:
        """Keep these pictures under a name; no pictures end the selection.

        Raises:
            StudyError: an empty or too long name, or a folder that cannot be written.
        """
        name = " ".join(name.split())
        if not 0 < len(name) <= MAX_NAME:
            raise StudyError(f"A selection's name has 1 to {MAX_NAME} characters; got {len(name)}.")
        # Another panel may have written meanwhile.
        held = self._file.read(_ids)
        held[name] = [str(one) for one in ids]
        if not held[name]:
            del held[name]
        self._file.write(held)
        self._held = held


def _ids(value: Any) -> list[str]:
    return [str(one) for one in value]
