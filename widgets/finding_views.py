"""Views of one finding: evidence in words, two strips of pictures, scores with and without the cause.

Owns the choice of pictures and their captions. Ignores widgets. Start at `look_at`.
"""

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from clipattr.discovery.finding import columns
from clipattr.display.wording import least_points, points
from clipattr.errors import ClipattrError
from clipattr.reporting.names import (
    NameCheck,
    examples_words,
    latent_words,
    measured_words,
    name_check,
    word_source,
)
from clipattr.reporting.pictures import FindingPictures
from clipattr.reporting.values import evidence_rows
from clipattr.reporting.verification import SHORT, caption
from clipattr_widgets.desk import Desk
from clipattr_widgets.shelf import Shelf, filled
from clipattr_widgets.tables import column, row
from clipattr_widgets.text import plain, shown

N_PICTURES = 12
OUTCOMES = ("cannot be judged", "nothing found", "found")
PROMPT_COLUMNS = (
    column("prompt", "prompt"),
    column("outcome", "verdict"),
    column("least", "smallest detectable effect, points", numeric=True),
    column("words", "in words", wraps=True),
)


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
        title += f"; points of “{shown(finding.prompt, 40)}” unchanged → with {cause} ablated"
    except (ClipattrError, OSError):
        pass  # no weights, or a site whose stored activations do not give the embedding: pictures without scores
    examples = shown(". ".join(filter(None, examples_words(finding))), 240)
    return Looked(
        filled(desk, examples, found, [], lambda _, picture, said: picture),
        filled(
            desk, title, measured, captions,
            lambda _, picture, said: f"{picture}, {said}" if said else picture,
        ),
        name_check(desk.study, finding),
    )  # fmt: skip


def edited(desk: Desk, finding: Any) -> Shelf:
    """The four pictures of a verified finding: before, without, elsewhere, pasted. Empty where no edit was made."""
    from clipattr.discovery.pixels.pictures import edited_pictures

    shown_ = edited_pictures(desk.study, finding)
    told = finding.evidence["pixels"]
    return Shelf(
        title=f"in pixels: {told['verdict']}; {shown(told['reason'], 120)}" if shown_ else "",
        thumbnails=tuple(one.picture for one in shown_),
        alt=tuple(caption(one) for one in shown_),
        captions=tuple(f"{points(one.contrast)} {SHORT[one.what]}" for one in shown_),
    )


def evidence_of(finding: Any) -> list[tuple[str, str, str]]:
    """The named numbers behind a finding: name, value, and what it says, in the report's words."""
    said = {"latents": ", ".join(f"{j} {word}".strip() for j, word in latent_words(finding))}
    why = {"in_pixels": (finding.evidence.get("pixels") or {}).get("reason")}
    rows = [
        (one.heading, said.get(one.name) or one.text(finding), why.get(one.name) or one.tip)
        for one in columns(listed=False)
    ]
    rows = [(name, told, tip) for name, told, tip in rows if told]
    rows += [("the word", word_source(finding), "")] if word_source(finding) else []
    rows += [(name, _text(told), tip) for name, told, tip in evidence_rows(finding.evidence)]
    return [(shown(name, 60), shown(told, 600), tip) for name, told, tip in rows]


def _text(told: str) -> str:
    """The report's HTML of a value as text: it holds isolated runs only."""
    return html.unescape(re.sub(r"</?bdi[^>]*>", "", told))


def prompt_rows(verdicts: Sequence[Any], search: str = "") -> list[dict[str, Any]]:
    """Rows of the table of prompts: what an audit says of each that the search fits, those without an answer first."""
    wanted = search.strip().casefold()
    fit = [v for v in verdicts if wanted in v.prompt.casefold()]
    fit.sort(key=lambda v: (OUTCOMES.index(v.outcome) if v.outcome in OUTCOMES else 0, v.prompt.casefold()))
    effects = ["–" if v.smallest_effect is None else least_points(v.smallest_effect) for v in fit]
    return [
        row(i, shown(v.prompt, 40), v.outcome, effect, shown(v.sentence(), 240))
        for i, (v, effect) in enumerate(zip(fit, effects, strict=True))
    ]
