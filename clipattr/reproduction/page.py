"""Page: one self-contained HTML page that joins the experiments of a reproduction.

Owns what the page holds. The template escapes foreign text; figures are embedded, so that it needs no network. Start
at `page`.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from importlib import resources
from typing import TYPE_CHECKING, Any

from clipattr.display.wording import visible
from clipattr.reporting.rendering import environment
from clipattr.reproduction.pieces import cell

if TYPE_CHECKING:
    from clipattr.reproduction.run import Reproduction

ROWS = 40  # rows of a table on the page; the CSV has all
MARKS = {"supported": "✓", "not supported": "✗", "undecided": "?", "not measured": "–"}
NOT_MEASURED = "not measured"


def page(made: Reproduction, about: Mapping[str, Any]) -> str:
    """The page as text, the same for the same results."""
    template = environment(
        "clipattr.reproduction",
        shown=lambda value, limit=300: visible("–" if value is None else cell(value), limit),
        uri=lambda text: "data:image/svg+xml;base64," + base64.b64encode(text.encode()).decode(),
    ).get_template("page.html")
    results = [
        {
            "name": result.experiment.name,
            "title": result.experiment.title,
            "claim": result.experiment.claim,
            "of_paper": result.experiment.of_paper,
            "outcome": result.conclusion.outcome if result.units else NOT_MEASURED,
            "mark": MARKS[result.conclusion.outcome if result.units else NOT_MEASURED],
            "sentence": result.conclusion.sentence,
            "figure": result.figure,
            "units": result.units,
            "columns": list(dict.fromkeys(column for row in result.rows for column in row)),
            "rows": result.rows[:ROWS],
            "count": len(result.rows),
        }
        for result in made.results
    ]
    style = resources.files("clipattr.reproduction").joinpath("templates", "page.css").read_text("utf-8")
    return template.render(results=results, about=about, deviations=made.deviations, style=style)
