"""The table of findings at the top of the report's page.

Owns its cells, made from the list of a finding's columns. Computes nothing. Start at `summary`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from clipattr.discovery import finding as one_finding
from clipattr.display.wording import span
from clipattr.reporting.pictures import PagePictures
from clipattr.reporting.values import effect_bar
from clipattr.statistics import Interval

if TYPE_CHECKING:
    from clipattr.discovery.finding import Column, Finding

SECTIONS = (
    100  # findings that get a section; the table lists all. Keeps the page small enough to load quickly
)


def summary(found: Sequence[Finding], pictures: PagePictures) -> list[dict[str, Any]]:
    """One line per finding, strongest first: its cells, its first picture, and the verdict on it."""
    bounds = [b for f in found for b in (f.causal_effect.low, f.causal_effect.high, f.causal_effect.value)]
    bounds = [b for b in bounds if math.isfinite(b)]
    scale = min(0.0, *bounds, 0.0), max(0.0, *bounds, 0.0) or 1.0
    columns = one_finding.columns(listed=True)
    return [
        {
            "finding": f,
            "cells": [_cell(column, f, scale) for column in columns],
            "picture": _first_picture(f, pictures) if number <= SECTIONS else "",
            "choice": pictures.verdict_of(f).choice,
        }
        for number, f in enumerate(found, 1)
    ]


def _cell(column: Column, f: Finding, scale: tuple[float, float]) -> dict[str, Any]:
    """A cell: its text, and of a number its value, its interval as text and as a bar."""
    value: Any = column.value(f) if column.unit else None
    is_interval = isinstance(value, Interval)
    return {
        "name": column.name,
        "unit": column.unit,
        "text": column.text(f),
        "number": value.value if is_interval else value,
        "interval": span(value.low, value.high) if is_interval else "",
        "bar": Markup(effect_bar(value, *scale)) if column.bounds else "",
    }


def _first_picture(finding: Finding, pictures: PagePictures) -> str:
    """The family's strongest example as a small picture without alternative text, since the label follows it."""
    # A picture beside a word is read as a picture of it.
    shows = finding.shows_cause or "cause_examples" not in finding.evidence
    for _, place in pictures.examples_of(finding)[: 1 if shows else 0]:
        if place in pictures.uris:
            return pictures.uris[place]
    return ""
