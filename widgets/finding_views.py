"""Views of one finding: evidence in words, two strips of pictures, scores with and without the cause.

Owns the choice of pictures and their captions. Ignores widgets. Start at `look_at`.
"""

import html
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from clipattr.display.wording import least_points, percent, points
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
from clipattr.reporting.verification import caption
from clipattr.studies.verdicts import CHOICES, Verdict
from clipattr_widgets.desk import Desk
from clipattr_widgets.shelf import Shelf
from clipattr_widgets.text import plain, shown

N_PICTURES = 12
OUTCOMES = ("cannot be judged", "nothing found", "found")
PROMPT_COLUMNS = (
    {"key": "prompt", "label": "prompt"},
    {"key": "outcome", "label": "verdict"},
    {"key": "least", "label": "would have been seen, points", "numeric": True},
    {"key": "words", "label": "in words", "wraps": True},
)
EFFECTS = (
    (
        "removal",
        "removal, points",
        "fall of the score without the cause in the picture, beyond a control edit",
    ),
    (
        "transplant",
        "transplant, points",
        "rise of the score in pictures that had neither, beyond a control patch",
    ),
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
        title += f"; points of “{shown(finding.prompt, 40)}” as it is → with {cause} switched off"
    except (ClipattrError, OSError):
        pass  # no weights, or a site whose stored activations do not give the embedding: pictures without scores
    return Looked(
        _shelf(desk, shown(". ".join(filter(None, examples_words(finding))), 240), found, []),
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


def edited(desk: Desk, finding: Any) -> Shelf:
    """The four pictures of a verified finding: before, without, elsewhere, pasted. Empty where no edit was made."""
    from clipattr.discovery.pixels.pictures import edited_pictures

    shown_ = edited_pictures(desk.study, finding)
    told = finding.evidence["pixels"]
    return Shelf(
        title=f"in pixels: {told['verdict']}; {shown(told['reason'], 120)}" if shown_ else "",
        thumbnails=tuple(one.picture for one in shown_),
        alt=tuple(caption(one) for one in shown_),
        captions=tuple(caption(one) for one in shown_),
    )


def evidence_of(finding: Any) -> list[tuple[str, str, str]]:
    """The named numbers behind a finding: name, value, and what it says, in the report's words."""
    rows = [
        (
            "latents",
            ", ".join(f"{j} {word}".strip() for j, word in latent_words(finding)),
            "the family, strongest first, each with the label of its own strongest pictures",
        ),
        *([("the word", word_source(finding), "")] if word_source(finding) else []),
        ("probability of the kind", percent(finding.kind_probability), ""),
        ("clarity", percent(finding.clarity), "how much the family's examples look alike"),
    ]
    pixels = finding.evidence.get("pixels")
    if pixels:
        rows.append(("in pixels", pixels["verdict"], pixels["reason"]))
        rows += [
            (name, points(pixels[key]["value"]), why)
            for key, name, why in EFFECTS
            if pixels.get(key) is not None
        ]
    rows += [(name, _text(told), why) for name, told, why in evidence_rows(finding.evidence)]
    return [(shown(name, 60), shown(told, 160), why) for name, told, why in rows]


def _text(told: str) -> str:
    """The report's HTML of a value as text: it holds isolated runs only."""
    return html.unescape(re.sub(r"</?bdi[^>]*>", "", told))


def prompt_rows(verdicts: Sequence[Any], search: str = "") -> list[dict[str, Any]]:
    """Rows of the table of prompts: what an audit says of each that the search fits, those without an answer first."""
    wanted = search.strip().casefold()
    fit = [v for v in verdicts if wanted in v.prompt.casefold()]
    fit.sort(key=lambda v: (OUTCOMES.index(v.outcome) if v.outcome in OUTCOMES else 0, v.prompt.casefold()))
    return [
        {
            "id": i,
            "cells": [shown(v.prompt, 40), v.outcome, _seen(v.smallest_effect), shown(v.sentence(), 240)],
        }
        for i, v in enumerate(fit)
    ]


def _seen(effect: float | None) -> str:
    return "–" if effect is None else least_points(effect)


SORTS: Mapping[str, Callable[[Any, Verdict], Any]] = {
    "prompt": lambda f, v: f.prompt.casefold(),
    "label": lambda f, v: (f.label or "").casefold(),
    "kind": lambda f, v: f.kind,
    "effect": lambda f, v: _sortable(f.causal_effect.value),
    "reliance": lambda f, v: _sortable(f.reliance.value),
    "share": lambda f, v: _sortable(f.share),
    "alignment": lambda f, v: _sortable(f.alignment),
    "confidence": lambda f, v: _sortable(f.confidence),
    "verdict": lambda f, v: CHOICES.index(v.choice) if v.choice in CHOICES else 0,
}


def _sortable(value: float) -> float:
    return value if value is not None and math.isfinite(value) else -math.inf
