"""Pictures on a report's page: the choice for each finding, and their pixels as data URIs within a size budget.

Owns choice and encoding. Ignores the page. Start at `PagePictures`.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from clipattr.studies.verdicts import Verdict, Verdicts

if TYPE_CHECKING:
    from clipattr.discovery.findings import Finding

SHOWN_PICTURES = 12  # pictures of one strip
PICTURE_BYTES = 6_000_000  # budget of JPEG bytes on the page; base64 adds a third
PICTURE_STEPS = ((152, 82), (112, 78), (80, 70), (56, 60))  # side in px and JPEG quality, tried in this order


class FindingPictures:
    """The pictures of a study that a finding shows."""

    def __init__(self, study: Any, findings: Sequence[Finding]) -> None:
        self.study = study
        self.places: dict[str, int] = {}
        self.labelled: dict[str, list[int]] = {}
        self.limit = SHOWN_PICTURES
        # A study in memory has no folder and so no verdicts.
        self._verdicts = Verdicts(study) if getattr(study, "path", None) is not None else None
        if study is None:
            return
        images = study.images
        for place, name in enumerate(images.ids):
            self.places[name] = place
            label = images.columns["label"][place]
            if label is not None:
                self.labelled.setdefault(str(label).casefold(), []).append(place)
        wanted = {example for finding in findings for example in finding.pictured} - set(self.places)
        if wanted:  # examples may be named by their path as well as by their id
            for place, shown in enumerate(images.frame["path"]):
                if isinstance(shown, str) and shown in wanted:
                    self.places[shown] = place

    def verdict_of(self, finding: Finding) -> Verdict:
        """The verdict of a person about a finding; "open" if there is none."""
        return self._verdicts.of(finding) if self._verdicts is not None else Verdict()

    def examples_of(self, finding: Finding) -> list[tuple[str, int | None]]:
        """(id, place) of the pictures that show the cause, in order; (name, None) for one that the study lacks."""
        found = [(name, self.places.get(name)) for name in finding.pictured[: self.limit]]
        return [(name if place is None else self.study.images.ids[place], place) for name, place in found]

    def pictures_of(self, finding: Finding) -> list[tuple[str, int | None]]:
        """Pictures that the finding was measured on, if the audit names them; else those labelled with the prompt."""
        named = finding.measured_on
        if named is not None:
            return [(name, self.places.get(name)) for name in named[: self.limit]]
        places = self.labelled.get(finding.prompt.casefold(), [])
        step = max(1, len(places) // self.limit) if self.limit else 1
        return [(self.study.images.ids[place], place) for place in places[::step][: self.limit]]


class PagePictures(FindingPictures):
    """The pictures on the page as data URIs of one size, within the budget `PICTURE_BYTES`."""

    def __init__(self, study: Any, findings: Sequence[Finding]) -> None:
        super().__init__(study, findings)
        self.uris: dict[int, str] = {}
        if study is not None:
            self._encode(findings)

    def _encode(self, findings: Sequence[Finding]) -> None:
        uses: dict[int, int] = {}
        for finding in findings:
            examples = self.examples_of(finding)
            for _, place in (
                *examples[:1],
                *examples,
                *self.pictures_of(finding),
            ):  # the first example is also in the table
                if place is not None:
                    uses[place] = uses.get(place, 0) + 1
        thumbnails = {place: self._thumbnail(place) for place in uses}
        for side, quality in PICTURE_STEPS:
            encoded = {
                p: _jpeg(picture, side, quality) for p, picture in thumbnails.items() if picture is not None
            }
            if sum(len(data) * uses[place] for place, data in encoded.items()) <= PICTURE_BYTES:
                break
        else:  # too many findings for the smallest size: show fewer pictures for each
            self.limit //= 2
            if self.limit:
                return self._encode(findings)
            encoded = {}
        self.uris = {
            place: "data:image/jpeg;base64," + base64.b64encode(data).decode()
            for place, data in encoded.items()
        }

    def _thumbnail(self, place: int) -> Any:
        try:
            return self.study.thumbnail(place).convert("RGB")
        except (OSError, ValueError):
            return None  # the picture was moved or damaged later; the page shows its id


def _jpeg(picture: Any, side: int, quality: int) -> bytes:
    small = picture.copy()
    small.thumbnail((side, side))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=quality, optimize=True)
    return buffer.getvalue()
