"""Verdicts: an analyst's judgements of findings, saved in the study's folder.

Owns `verdicts.json`: one verdict and note per finding. Ignores how findings are computed. Start at `Verdicts`.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from clipattr.errors import StudyError
from clipattr.storage.files import write_text

SCHEMA = 1
CHOICES = ("open", "accepted", "rejected")
MAX_NOTE = 20_000


@dataclass(frozen=True)
class Verdict:
    """`choice` is one of `CHOICES`; `by`: who decided, empty if nobody said."""

    choice: str = "open"
    note: str = ""
    by: str = ""


class Verdicts:
    """All verdicts of a study.

    A finding is identified by its prompt and its latents.

    Raises:
        StudyError: a damaged file.
    """

    def __init__(self, study: Any) -> None:
        self.path = Path(study.path) / "verdicts.json"
        self._held: dict[str, Verdict] = {}
        if self.path.exists():
            self._held = self._read()

    def of(self, finding: Any) -> Verdict:
        """The verdict on a finding; an empty one where there is none."""
        return self._held.get(_key(finding), Verdict())

    def set(self, finding: Any, choice: str, note: str, by: str = "") -> None:
        """Save a verdict.

        Raises:
            StudyError: an unknown choice, too long a note, or a folder that cannot be written.
        """
        if choice not in CHOICES:
            raise StudyError(f"A verdict is one of {', '.join(CHOICES)}; got {choice!r:.40}.")
        if len(note) > MAX_NOTE:
            raise StudyError(
                f"A note of {len(note):,} characters is too long; at most {MAX_NOTE:,} are saved."
            )
        # Another panel may have written since.
        held = self._read() if self.path.exists() else {}
        held[_key(finding)] = Verdict(choice, note, by)
        content = {"schema": SCHEMA, "verdicts": {key: asdict(held[key]) for key in sorted(held)}}
        try:
            write_text(self.path, json.dumps(content, ensure_ascii=True, indent=1))
        except OSError as error:
            raise StudyError(
                f"The verdict cannot be saved: {str(self.path.parent)!r} is not writable ({error.strerror}). Copy the "
                "study's folder and open the copy."
            ) from error
        self._held = held

    def _read(self) -> dict[str, Verdict]:
        try:
            content = json.loads(self.path.read_text("utf-8"))
            if content["schema"] != SCHEMA:
                raise ValueError(f"schema {content['schema']}, this version reads {SCHEMA}")
            return {
                str(key): Verdict(str(value["choice"]), str(value["note"]), str(value.get("by", "")))
                for key, value in content["verdicts"].items()
            }
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise StudyError(f"{str(self.path)!r} is damaged ({error}); repair or delete it.") from error


def _key(finding: Any) -> str:
    return json.dumps([finding.prompt, sorted(int(j) for j in finding.latents)])
