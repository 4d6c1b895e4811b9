"""What is shown of one finding: evidence in words, its two strips of pictures, its scores with and without the cause.

Owns the choice of pictures and their captions. Ignores widgets. Start at `look_at`.
"""

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from clipattr.display.wording import percent
from clipattr.errors import ClipattrError
from clipattr.reporting.names import NameCheck, name_check
from clipattr.reporting.page import measured_words
from clipattr.reporting.pictures import FindingPictures
from clipattr.reporting.values import evidence_rows
from clipattr_widgets.desk import Desk
from clipattr_widgets.shelf import Shelf
from clipattr_widgets.text import plain, shown

N_PICTURES = 12


@dataclass(frozen=True, eq=False)
class Looked:
    """One finding's pictures: what its latents respond to, and where it was measured; and how sure its name is."""

    found: Shelf = Shelf()
    measured: Shelf = Shelf()
    check: NameCheck | None = None


def look_at(desk: Desk, finding: Any) -> Looked:
    """The pictures of a finding, as the report chooses them; the measured ones with scores with and without it."""
    chosen = FindingPictures(desk.study, [finding])
    found = [place for _, place in chosen.examples_of(finding) if place is not None][:N_PICTURES]
    measured = [place for _, place in chosen.pictures_of(finding) if place is not None][:N_PICTURES]
    cause = shown(finding.label or "the family", 60)
    title = shown(measured_words(finding), 100)
    captions: list[str] = []
    try:
        with_it, without = desk.collected.with_and_without(
            finding.latents, np.asarray(measured, np.int64), desk.target(finding.prompt)
        )
        captions = [
            f"{plain(a * 100, 1)} → {plain(b * 100, 1)}" for a, b in zip(with_it, without, strict=True)
        ]
        title += f"; points of “{shown(finding.prompt, 40)}” as it is → with {cause} switched off"
    except (ClipattrError, OSError):
        pass  # no weights, or a site whose stored activations do not give the embedding: pictures without scores
    return Looked(
        _shelf(desk, f"what {cause} responds to: its strongest pictures", found, []),
        _shelf(desk, title, measured, captions),
        name_check(desk.study, finding),
    )


def _shelf(desk: Desk, title: str, rows: Sequence[int], captions: Sequence[str]) -> Shelf:
    said = [f", {caption}" for caption in captions] or [""] * len(rows)
    return Shelf(
        title=title,
        thumbnails=tuple(desk.thumbnail(row) for row in rows),
        alt=tuple(f"picture {desk.picture_caption(row)}{more}" for row, more in zip(rows, said, strict=True)),
        captions=tuple(captions),
        places=tuple(rows),
    )


def evidence_of(finding: Any) -> list[tuple[str, str, str]]:
    """The named numbers behind a finding: name, value, and what it says, in the report's words."""
    rows = [
        ("latents", ", ".join(str(j) for j in finding.latents), "the family, strongest first"),
        ("probability of the kind", percent(finding.kind_probability), ""),
        ("clarity", percent(finding.clarity), "how much the family's examples look alike"),
    ]
    rows += [(name, _text(told), why) for name, told, why in evidence_rows(finding.evidence)]
    return [(shown(name, 60), shown(told, 160), why) for name, told, why in rows]


def _text(told: str) -> str:
    """The report's HTML of a value as text: it holds isolated runs only."""
    return html.unescape(re.sub(r"</?bdi[^>]*>", "", told))
