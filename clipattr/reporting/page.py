"""Report: the findings of an audit as one self-contained HTML page.

Owns the page (`report.html` and `report.css` in this folder) and the text about a finding. Computes nothing: numbers
come from the findings, pictures from their study. Foreign text is escaped.
Start at `write_report`.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

from clipattr.discovery import finding as one_finding
from clipattr.discovery.opened import missing_pictures
from clipattr.display.wording import KIND_WORDS, NO_LABEL, counted, kind_word, percent, points, span, visible
from clipattr.errors import DataError
from clipattr.reporting.guide import guide_html
from clipattr.reporting.names import examples_words, latent_words, measured_words, name_check, word_source
from clipattr.reporting.pictures import SHOWN_PICTURES, PagePictures
from clipattr.reporting.prompts import judged_words, verdicts_html
from clipattr.reporting.table import SECTIONS, label_html, summary_html
from clipattr.reporting.values import NAME_LENGTH, about_html, evidence_html, name_html, text_html
from clipattr.reporting.verification import ILLUSTRATED, verification_html
from clipattr.statistics import Interval
from clipattr.storage.files import write_text
from clipattr.studies.remarks import remarks

WHEN_WRITTEN = "the prompt is written on other pictures"
# Columns that a finding's section shows in its heading, sentences, list of latents or part about pixels.
IN_SENTENCES = {
    *("prompt", "label", "kind", "kind_probability", "latents", "doubts"),
    *("in_pixels", "removal", "transplant"),
}
ROWS = 20  # of a table of pairs, in order of size

if TYPE_CHECKING:
    from clipattr.discovery.finding import Column, Finding
    from clipattr.discovery.findings import Findings


def write_report(findings: Findings, path: str | Path, panels: Mapping[str, Any] | None = None) -> Path:
    """Write one self-contained page with the findings, strongest causal effect first.

    Args:
        panels: panels (or their `snapshot()`) or results of `ca.pairs` by heading, whose static views or tables are
            added at the end.

    Pictures come from `findings.study`; findings read from JSON without a study are shown with picture ids only.

    Returns:
        The path of the page, which is written atomically.

    Raises:
        DataError: the folder does not exist or is not writable.
    """
    path = Path(path)
    if path.is_dir():
        raise DataError(f"{path} is a folder; name a file in it, for instance {path / 'audit.html'}.")
    if not path.parent.is_dir():
        raise DataError(f"The folder {path.parent} for the report does not exist; create it first.")
    text = page(findings, panels)
    try:
        write_text(path, text)
    except OSError as error:
        raise DataError(f"The report {path} could not be written: {error}") from error
    return path


def page(findings: Findings, panels: Mapping[str, Any] | None = None) -> str:
    """The page as text; `panels` as for `write_report`."""
    from clipattr import __version__

    found = sorted(findings, key=lambda f: -f.causal_effect.value)
    model = _model_name(findings.about)
    heading = f"What {name_html(model)} relies on"
    sheet = PagePictures(findings.study, found[:SECTIONS])
    script = _resource("report.js")
    parts = {
        "version": html.escape(__version__),
        "style": _resource("report.css"),
        "title": html.escape(f"What {visible(model, 60)} relies on · clipattr audit"),
        "heading": heading,
        "lede": _lede(found, findings),
        "tiles": _tiles(_figures_of_page(found, findings)),
        "contents": _contents(found, findings),
        "script": script,
        "script_hash": "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "summary": summary_html(found, sheet) + verdicts_html(findings.verdicts),
        "guide": guide_html(found),
        "sections": _sections(found[:SECTIONS], sheet) + _views(panels or {}),
        "about": about_html(_about(findings)),
    }
    return Template(_resource("report.html")).substitute(parts)


def _about(findings: Findings) -> dict[str, Any]:
    """What was audited, with what build and audit noted of the study's pictures and words."""
    noted = [*remarks(findings.study), *missing_pictures(findings.about)]
    about = {key: value for key, value in findings.about.items() if key not in ("missing_pictures", "scored")}
    return {**about, **({"remarks": " ".join(noted)} if noted else {})}


def _model_name(about: Mapping[str, Any]) -> str:
    model = about.get("model")
    if isinstance(model, Mapping):
        model = model.get("reference")
    if not model or model == "custom":
        return "this model"
    # Of a path only its last part: a page that is handed on should not tell where files lie.
    return re.split(r"[/\\]", str(model).rstrip("/\\"))[-1] if "hf" not in str(model)[:2] else str(model)


def _resource(name: str) -> str:
    return resources.files("clipattr.reporting").joinpath(name).read_text(encoding="utf-8")


def _contents(found: Sequence[Finding], findings: Findings) -> str:
    """Links to the parts of the page."""
    parts = [("glance", "At a glance")] if found else []
    parts += [("verdicts", "Every prompt")] if findings.verdicts else []
    parts += [("guide", "How to read this page")]
    parts += [("finding-1", "Findings with pictures")] if found else []
    parts += [("about", "What was audited")] if findings.about else []
    links = "".join(f'<li><a href="#{anchor}">{what}</a></li>' for anchor, what in parts)
    return f'<nav class="contents" aria-label="Contents"><ul>{links}</ul></nav>'


def _lede(found: Sequence[Finding], findings: Findings) -> str:
    audited = findings.about.get("prompts_audited")
    among = f" of the {audited:,} audited" if isinstance(audited, int) else ""
    judged = judged_words(findings.verdicts)
    if not found:
        if findings.verdicts and all(v.outcome == "cannot be judged" for v in findings.verdicts):
            return f"None{among} prompts could be judged, so this page says nothing about the model."
        return f"No unexpected reliance was found for any{among} prompt.{judged}"
    prompts = len({f.prompt for f in found})
    first = found[0]
    label = name_html(first.label or NO_LABEL)
    when = WHEN_WRITTEN if first.by_writing else f"<strong>{label}</strong> is switched off inside the model"
    return (
        f"{counted(len(found), 'unexpected reliance')}, for {counted(prompts, 'prompt')}{among}.{judged} "
        f"The strongest: the score for <strong>{name_html(first.prompt)}</strong> {_moves(first)} when {when}."
    )


def _moves(finding: Finding) -> str:
    effect = finding.causal_effect
    verb = "falls" if (effect.value >= 0) is not finding.by_writing else "rises"
    return f"{verb} by {points(abs(effect.value)).lstrip('+')} points"


def _tiles(figures: Sequence[tuple[str, str, str]]) -> str:
    """A row of (what, number, note) tiles; number and note are HTML."""
    cells = [
        f"<div><dt>{html.escape(what)}</dt><dd>{number}{f'<small>{note}</small>' if note else ''}</dd></div>"
        for what, number, note in figures
    ]
    return f'<dl class="tiles">{"".join(cells)}</dl>' if cells else ""


def _figures_of_page(found: Sequence[Finding], findings: Findings) -> list[tuple[str, str, str]]:
    about, verdicts = findings.about, findings.verdicts
    judged = sum(v.outcome != "cannot be judged" for v in verdicts)
    figures = [("findings", f"{len(found):,}", "")]
    for key, what in (("prompts_audited", "prompts audited"), ("pictures", "pictures in the study")):
        if isinstance(about.get(key), int):
            note = f"{judged:,} of them judged" if verdicts and key == "prompts_audited" else ""
            figures.append((what, f"{about[key]:,}", note))
    if found:
        effect = found[0].causal_effect
        sure = sum(f.confidence >= 0.9 for f in found)
        figures.append(("strongest effect", points(effect.value), f"points, {span(effect.low, effect.high)}"))
        figures.append(("confidence ≥ 90\u00a0%", f"{sure:,}", f"of {counted(len(found), 'finding')}"))
    return figures


def _sections(found: Sequence[Finding], pictures: PagePictures) -> str:
    return "\n".join(_section(number, finding, pictures) for number, finding in enumerate(found, 1))


def _views(panels: Mapping[str, Any]) -> str:
    """The static views of panels, which escape foreign text themselves."""
    views = {
        heading: panel.snapshot() if hasattr(panel, "snapshot") else panel
        for heading, panel in panels.items()
    }
    return "".join(
        f'<section class="view"><h2>{name_html(heading)}</h2><div class="scroll">{_view_html(view)}</div></section>'
        for heading, view in views.items()
    )


def _view_html(view: Any) -> str:
    """A panel's static view, or the largest entries of a table such as `ca.pairs` gives."""
    return view.html if hasattr(view, "html") else view.table(ROWS).to_html(index=False, border=0)


def _section(number: int, f: Finding, pictures: PagePictures) -> str:
    tiles, told = [], ""
    for column in (c for c in one_finding.COLUMNS if c.name not in IN_SENTENCES and c.text(f)):
        if column.unit:
            tiles.append((column.label, column.text(f), _unit_and_bounds(column, f)))
        else:
            told += f'<p class="meta">{html.escape(column.label)}: {text_html(column.text(f))}</p>\n'
    heading, count = examples_words(f)
    strips = _strip(heading, pictures.examples_of(f), pictures, count)
    strips += _strip(measured_words(f), pictures.pictures_of(f), pictures)
    if pictures.study is None:
        strips = '<p class="small">No study was given, so pictures are named only: ' + (
            ", ".join(name_html(name) for name in f.pictured[:SHOWN_PICTURES]) or "none"
        )
        strips += ".</p>"
    named = [f"<code>{j}</code>" + (f" {name_html(word)}" if word else "") for j, word in latent_words(f)]
    latents = ", ".join(named[:40]) + ("…" if len(named) > 40 else "")
    return f"""<section class="finding" id="finding-{number}" aria-labelledby="finding-{number}-name">
<header><p class="eyebrow">Finding {number} · {html.escape(kind_word(f.kind))}, {percent(f.kind_probability)} sure</p>
<h2 id="finding-{number}-name">{name_html(f.prompt)} <span class="joint">rests on</span> {label_html(f)}</h2>
<p class="say">{_sentence(f)}</p>{_name_note(f, pictures)}{_verdict_note(f, pictures)}
{_whole("Prompt", f.prompt)}{_whole("Label", f.label)}</header>
{_tiles(tiles)}
<div class="strips">{strips}</div>
{verification_html(pictures.study, f, illustrated=number <= ILLUSTRATED)}
<p class="meta">{counted(len(f.latents), "latent")} in the family, strongest first, each with the label of its own
pictures: {latents}</p>
{told}{_folded(evidence_html(f.evidence))}
<p class="meta"><a class="back" href="#glance">↑ all findings</a></p>
</section>"""


def _unit_and_bounds(column: Column, f: Finding) -> str:
    value = column.value(f)
    bounds = f", {span(value.low, value.high)}" if isinstance(value, Interval) else ""
    return f"points{bounds}" if column.unit == "points" else ""


def _folded(evidence: str) -> str:
    """A part of a finding that unfolds; "" without content."""
    return f'<details class="more"><summary>Evidence</summary>{evidence}</details>' if evidence else ""


def _name_note(f: Finding, pictures: PagePictures) -> str:
    """The name check of the cause; a doubtful name is highlighted."""
    check = name_check(pictures.study, f)
    told = check.words()
    kind = "doubt" if check.is_doubtful else "small"
    return f'<p class="{kind}">{text_html(told[:1].upper() + told[1:])}.</p>' if told else ""


def _verdict_note(f: Finding, pictures: PagePictures) -> str:
    """The verdict of a person about the finding, stored with the study."""
    verdict = pictures.verdict_of(f)
    if verdict.choice == "open" and not verdict.note:
        return ""
    note = f": {text_html(verdict.note)}" if verdict.note else ""
    return f'<p class="verdict {verdict.choice}"><strong>{verdict.choice}</strong>{note}</p>'


def _sentence(f: Finding) -> str:
    effect = f.causal_effect
    when = WHEN_WRITTEN if f.by_writing else "this family is switched off"
    told = (
        f"On held-back pictures the score of <strong>{name_html(f.prompt)}</strong> <strong>{_moves(f)}</strong> "
        f"({span(effect.low, effect.high)}) when {when}. "
    )
    if f.by_writing:
        told += "Its latents become active when the prompt is written on a picture"
    else:
        told += html.escape(word_source(f) or "The evaluator finds no word for its examples")
    told += f"; the family's alignment with the prompt is {points(f.alignment)} points. "
    _, sentence = KIND_WORDS.get(f.kind, ("", ""))
    if sentence and f.kind != "unknown":
        told += f"Most likely, {html.escape(sentence)}."
    return told


def _whole(what: str, text: str | None) -> str:
    """A text that is too long for a heading, in an element that unfolds."""
    if text is None or len(text) <= NAME_LENGTH:
        return ""
    return f'<details><summary>{what} in full</summary><div class="whole">{text_html(text)}</div></details>'


def _strip(
    title: str, named: Sequence[tuple[str, int | None]], pictures: PagePictures, count: str = ""
) -> str:
    said = f'<p class="small">{html.escape(count)}</p>' if count else ""
    if not named:
        return (
            f"<figure><figcaption><h3>{html.escape(title)}</h3></figcaption>{said}</figure>" if count else ""
        )
    items, missing = [], []
    for name, place in named:
        uri = pictures.uris.get(place) if place is not None else None
        if uri is None or place is None:
            missing.append(name)
            continue
        label = pictures.study.images.columns["label"][place]
        told = visible(name, 80) + (f", labelled {visible(label, 60)}" if label is not None else "")
        told = html.escape(told, quote=True)
        items.append(f'<li><img src="{uri}" alt="{told}" title="{told}"></li>')
    note = (
        f'<p class="small">No longer readable: {", ".join(name_html(m) for m in missing)}</p>'
        if missing
        else ""
    )
    return (
        f'<figure><figcaption><h3>{html.escape(title)}</h3></figcaption><ul class="pictures">{"".join(items)}</ul>'
        f"{said}{note}</figure>"
    )
