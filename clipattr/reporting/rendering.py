"""Rendering: HTML templates with autoescape, and the filters by which they show numbers and foreign text.

Owns how templates are found. What they hold is in `templates/`. Start at `environment`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, Template
from markupsafe import Markup

from clipattr.display import wording
from clipattr.reporting.prompts import remarks
from clipattr.reporting.values import NAME_LENGTH, name_html, text_html, value_html


def environment(package: str = "clipattr.reporting", **filters: Callable[..., Any]) -> Environment:
    """The environment of a package's `templates`, with these filters in addition to the shared ones."""
    made = Environment(loader=PackageLoader(package), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    made.filters |= {
        "shown": wording.visible,
        "text": lambda foreign: Markup(text_html(foreign)),
        "name": lambda foreign: Markup(name_html(foreign)),
        "value": lambda value: Markup(value_html(value)),
        "points": wording.points,
        "least_points": wording.least_points,
        "percent": wording.percent,
        "span": wording.span,
        "counted": wording.counted,
        "capital": wording.capital,
        "kind": wording.kind_word,
        "remarks": lambda verdict: Markup(remarks(verdict)),
        "kind_sentence": lambda kind: wording.KIND_WORDS.get(kind, ("", ""))[1],
        **filters,
    }
    made.globals |= {"no_label": wording.NO_LABEL, "name_length": NAME_LENGTH}
    return made


@cache
def template(name: str) -> Template:
    """A template of this package."""
    return environment().get_template(name)
