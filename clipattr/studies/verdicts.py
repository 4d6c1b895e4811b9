"""Verdicts: an analyst's judgements of findings, saved in the study's folder.

Owns `verdicts.json`: one verdict and note per finding. Ignores how findings are computed. Start at `Verdicts`.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from clipattr.errors import StudyError
from clipattr.studies.entries import EntriesFile

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
        self._file = EntriesFile(study.path, "verdicts", SCHEMA, "The verdict")
        self.path = self._file.path
        self._held = self._file.read(_verdict)

    def of(self, finding: Any) -> Verdict:
        """The verdict on a finding; an empty one where there is none."""
        return self._held.get(_key(finding), Verdict())

    def set(self, finding: Any, choice: str, note: str, by: str = "") -> None:
        """Save a verdict.

        Raises:
            StudyError: an unknown choice, too long a note, or a folder that cannot be written.
        """
        self.set_all([(finding, choice, note)], by)

    def set_all(self, said: Iterable[tuple[Any, str, str]], by: str = "") -> None:
        """Save verdicts on several findings at once: (finding, choice, note) each; none is saved if one is refused.

        Raises:
            StudyError: as for `set`.
        """
        said = list(said)
        for _, choice, note in said:
            if choice not in CHOICES:
                raise StudyError(f"A verdict is one of {', '.join(CHOICES)}; got {choice!r:.40}.")
            if len(note) > MAX_NOTE:
                raise StudyError(
                    f"A note of {len(note):,} characters is too long; at most {MAX_NOTE:,} are saved."
                )
        # Another panel may have written since.
        held = self._file.read(_verdict)
        held |= {_key(finding): Verdict(choice, note, by) for finding, choice, note in said}
        self._file.write({key: asdict(verdict) for key, verdict in held.items()})
        self._held = held


def _verdict(value: Any) -> Verdict:
    return Verdict(str(value["choice"]), str(value["note"]), str(value.get("by", "")))


def _key(finding: Any) -> str:
    return json.dumps([finding.prompt, sorted(int(j) for j in finding.latents)])
