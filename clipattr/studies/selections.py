"""Selections: sets of pictures that a person named, kept beside the study.

Owns `selections.json` in the study's folder: a name and the ids of its pictures. Ignores how pictures are chosen.
Start at `Selections`.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from clipattr.errors import StudyError
from clipattr.storage.files import write_text

SCHEMA = 1
MAX_NAME = 80  # characters


class Selections:
    """All named selections of a study.

    Raises:
        StudyError: the file is damaged; it says where it is.
    """

    def __init__(self, study: Any) -> None:
        self.path = Path(study.path) / "selections.json"
        self._held: dict[str, list[str]] = self._read() if self.path.exists() else {}

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
        held = self._read() if self.path.exists() else {}
        held[name] = [str(one) for one in ids]
        if not held[name]:
            del held[name]
        content = {"schema": SCHEMA, "selections": {key: held[key] for key in sorted(held)}}
        try:
            write_text(self.path, json.dumps(content, ensure_ascii=True, indent=1))
        except OSError as error:
            raise StudyError(
                f"The selection cannot be kept: {str(self.path.parent)!r} is not writable ({error.strerror}). Copy the "
                "study's folder and open the copy."
            ) from error
        self._held = held

    def _read(self) -> dict[str, list[str]]:
        try:
            content = json.loads(self.path.read_text("utf-8"))
            if content["schema"] != SCHEMA:
                raise ValueError(f"schema {content['schema']}, this version reads {SCHEMA}")
            held = {str(key): [str(one) for one in ids] for key, ids in content["selections"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise StudyError(f"{str(self.path)!r} is damaged ({error}); mend or delete it.") from error
        return held
