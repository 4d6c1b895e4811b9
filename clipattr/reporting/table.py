"""The table of findings at the top of the report's page.

Owns its cells, made from the list of a finding's columns. Computes nothing. Start at `summary_html`.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from clipattr.discovery import finding as one_finding
from clipattr.display.wording import NO_LABEL, kind_word, span
from clipattr.reporting.guide import tools_html
from clipattr.reporting.pictures import PagePictures
from clipattr.reporting.values import effect_bar, name_html, text_html
from clipattr.statistics import Interval

if TYPE_CHECKING:
    from clipattr.discovery.finding import Column, Finding

DOUBTED = ' <span class="tag doubted">name doubted</span>'
SECTIONS = (
    100  # findings that get a section; the table lists all. Keeps the page small enough to load quickly
)


def summary_html(found: Sequence[Finding], pictures: PagePictures) -> str:
    """The table of all findings, strongest first; "" without any."""
    if not found:
        return ""
    bounds = [b for f in found for b in (f.causal_effect.low, f.causal_effect.high, f.causal_effect.value)]
    bounds = [b for b in bounds if math.isfinite(b)]
    low, high = min(0.0, *bounds, 0.0), max(0.0, *bounds, 0.0) or 1.0
    columns = one_finding.columns(listed=True)
    heads = "".join(_head(column) for column in columns)
    rows = []
    for number, f in enumerate(found, 1):
        own = {
            "prompt": name_html(f.prompt),
            "label": f'<span class="cause"><span>{label_html(f)}{DOUBTED if f.doubts else ""}</span></span>',
            "kind": f'<span class="tag">{html.escape(kind_word(f.kind))}</span>{_verdict_tag(f, pictures)}',
        }
        if number <= SECTIONS:
            own["prompt"] = f'<a href="#finding-{number}">{own["prompt"]}</a>'
            own["label"] = own["label"].replace("<span>", _first_picture(f, pictures) + "<span>", 1)
        rows.append(
            f'<tr data-section="finding-{number}" data-kind="{html.escape(f.kind)}" '
            f'data-name="{"doubted" if f.doubts else "sure"}"><td class="number">{number}</td>'
            + "".join(_cell(column, f, own.get(column.name), (low, high)) for column in columns)
            + "</tr>"
        )
    note = ""
    if len(found) > SECTIONS:
        note = (
            f'<p class="small">The {SECTIONS} strongest are described below, with pictures and evidence; the JSON '
            f"holds the evidence of all {len(found):,}.</p>"
        )
    return f"""<section class="summary" aria-labelledby="glance"><h2 id="glance">At a glance</h2>{tools_html(found)}
<div class="scroll"><table>
<thead><tr><th scope="col" data-sort="ascending"><span class="soft">#</span></th>
{heads}</tr></thead>
<tbody>{"".join(rows)}</tbody></table></div>{note}</section>"""


CLASSES = {"prompt": "name", "kind": "kind"}


def _head(column: Column) -> str:
    label, unit, more = column.label, ",<br>points" if column.unit == "points" else "", ""
    if column.bounds:
        more = '<th scope="col" class="wide">with its 95\u00a0% interval</th>'
    if not column.unit:
        return f'<th scope="col" data-sort="ascending">{html.escape(label)}</th>'
    return f'<th scope="col" class="number" data-sort="descending">{html.escape(label)}{unit}</th>{more}'


def _cell(column: Column, f: Finding, own: str | None, scale: tuple[float, float]) -> str:
    """A column's cell in the table; `own` is its HTML where it is more than the column's text."""
    if not column.unit:
        kind = CLASSES.get(column.name)
        told = text_html(column.text(f)) if own is None else own
        return f'<td class="{kind}">{told}</td>' if kind else f"<td>{told}</td>"
    value = column.value(f)
    number = value.value if isinstance(value, Interval) else value
    raw = "" if number is None else f' data-value="{number:.6f}"'
    cell = f'<td class="number"{raw}>{column.text(f)}'
    if isinstance(value, Interval):
        cell += f'<br><span class="interval">{span(value.low, value.high)}</span>'
    drawn = f'</td><td class="wide">{effect_bar(value, *scale)}' if column.bounds else ""
    return f"{cell}{drawn}</td>"


def _verdict_tag(f: Finding, pictures: PagePictures) -> str:
    choice = pictures.verdict_of(f).choice
    return "" if choice == "open" else f' <span class="tag {choice}">{choice}</span>'


def _first_picture(finding: Finding, pictures: PagePictures) -> str:
    """The family's strongest example as a small picture without alternative text, since the label follows it."""
    # A picture beside a word is read as a picture of it.
    shows = finding.shows_cause or "cause_examples" not in finding.evidence
    for _, place in pictures.examples_of(finding)[: 1 if shows else 0]:
        if place in pictures.uris:
            return f'<img src="{pictures.uris[place]}" alt="">'
    return ""


def label_html(finding: Finding) -> str:
    """What a finding rests on, or that no word fits."""
    return name_html(finding.label) if finding.label else f'<span class="soft">{html.escape(NO_LABEL)}</span>'
