"""Entries: JSON files of a study's folder in which people's decisions are saved by key.

Owns their layout (`schema`, and one object of entries under the file's own name), and the errors for files that are
damaged or cannot be written. Ignores what an entry means. Start at `EntriesFile`.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from clipattr.errors import StudyError
from clipattr.storage.files import write_text

Entry = TypeVar("Entry")


class EntriesFile:
    """Entries by key, in one file of a study's folder.

    Args:
        folder: the study's. name: of the file without its suffix, and of the object in it. schema: that is written and
            read. what: an entry, as the start of an error, e.g. "The verdict".
    """

    def __init__(self, folder: str | Path, name: str, schema: int, what: str) -> None:
        self.path = Path(folder) / f"{name}.json"
        self.name, self.schema, self.what = name, schema, what

    def read(self, entry: Callable[[Any], Entry]) -> dict[str, Entry]:
        """All entries, read by `entry`; none where there is no file. StudyError if it is damaged."""
        if not self.path.exists():
            return {}
        try:
            content = json.loads(self.path.read_text("utf-8"))
            if content["schema"] != self.schema:
                raise ValueError(f"schema {content['schema']}, this version reads {self.schema}")
            return {str(key): entry(value) for key, value in content[self.name].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise StudyError(f"{str(self.path)!r} is damaged ({error}); repair or delete it.") from error

    def write(self, entries: Mapping[str, Any]) -> None:
        """Replace all entries, sorted by key; StudyError if the folder cannot be written."""
        content = {"schema": self.schema, self.name: {key: entries[key] for key in sorted(entries)}}
        try:
            write_text(self.path, json.dumps(content, ensure_ascii=True, indent=1))
        except OSError as error:
            raise StudyError(
                f"{self.what} cannot be saved: {str(self.path.parent)!r} is not writable ({error.strerror}). Copy the "
                "study's folder and open the copy."
            ) from error
