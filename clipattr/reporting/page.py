"""Report: the findings of an audit as one self-contained HTML page.

Owns what the page holds (`templates/report.html`, `report.css`). Computes nothing: numbers
come from the findings, pictures from their study. Foreign text is escaped.
Start at `write_report`.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from clipattr.discovery import finding as one_finding
from clipattr.discovery.cautions import cautions
from clipattr.display.wording import counted, points, span, visible
from clipattr.errors import DataError
from clipattr.reporting.names import (
    examples_words,
    latent_words,
    measured_words,
    name_check,
    proof_words,
    word_source,
)
from clipattr.reporting.pictures import SHOWN_PICTURES, PagePictures
from clipattr.reporting.prompts import LISTED, PARTS
from clipattr.reporting.rendering import template
from clipattr.reporting.table import SECTIONS, summary
from clipattr.reporting.values import about_rows, evidence_rows
from clipattr.reporting.verification import ILLUSTRATED, verification_html
from clipattr.statistics import Interval
from clipattr.storage.files import write_text
from clipattr.storage.paths import user_path
from clipattr.studies.remarks import remarks

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
    path = user_path(path)
    if path.is_dir():
        raise DataError(f"{path} is a folder; name a file in it, for instance {path / 'audit.html'}.")
    if not path.parent.is_dir():
        raise DataError(f"The folder {path.parent} for the report does not exist; create it first.")
    text = page(findings, panels)
    try:
        write_text(path, text)
    except OSError as error:
        raise DataError(
            f"The report {path} could not be written ({error}). Choose another path, or free space."
        ) from error
    return path


def page(findings: Findings, panels: Mapping[str, Any] | None = None) -> str:
    """The page as text; `panels` as for `write_report`."""
    from clipattr import __version__

    found, verdicts = sorted(findings, key=lambda f: -f.causal_effect.value), findings.verdicts
    sheet = PagePictures(findings.study, found[:SECTIONS])
    script = _resource("report.js")
    return template("report.html").render(
        version=__version__,
        style=Markup(_resource("report.css")),
        script=Markup(script),
        script_hash=Markup("sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()),
        model=_model_name(findings.about),
        about=findings.about,
        facts=about_rows(_about(findings)),
        found=found,
        kinds=list(dict.fromkeys(f.kind for f in found)),
        sections=SECTIONS,
        columns=one_finding.columns(listed=True),
        all_columns=one_finding.COLUMNS,
        summary=summary(found, sheet),
        described=[_described(number, f, sheet) for number, f in enumerate(found[:SECTIONS], 1)],
        figures=_figures_of_page(found, findings),
        verdicts=verdicts,
        unjudged=sum(v.outcome == "cannot be judged" for v in verdicts),
        outcomes=[
            (what, is_open, [v for v in verdicts if v.outcome == name]) for name, what, is_open in PARTS
        ],
        listed=LISTED,
        views=_views(panels or {}),
    )


def _about(findings: Findings) -> dict[str, Any]:
    """What was audited, with what build and audit noted of the study's pictures and words."""
    noted = [*remarks(findings.study), *cautions(findings.about)]
    about = {
        key: value
        for key, value in findings.about.items()
        if key not in ("missing_pictures", "words", "scored")
    }
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


def _views(panels: Mapping[str, Any]) -> list[tuple[str, Markup]]:
    """The still views and tables of panels and pairs, with their headings."""
    views = []
    for heading, panel in panels.items():
        view = panel.snapshot() if hasattr(panel, "snapshot") else panel
        is_page = hasattr(view, "html")
        views.append(
            (heading, Markup(view.html if is_page else view.table(ROWS).to_html(index=False, border=0)))
        )
    return views


def section_html(number: int, finding: Finding, pictures: PagePictures) -> str:
    """One finding's section as HTML."""
    return str(template("finding.html").module.section(_described(number, finding, pictures)))  # type: ignore[attr-defined]


def _described(number: int, f: Finding, pictures: PagePictures) -> dict[str, Any]:
    """What a finding's section shows besides the finding itself."""
    columns = [c for c in one_finding.COLUMNS if c.name not in IN_SENTENCES and c.text(f)]
    heading, count = examples_words(f)
    strips = [
        _strip(heading, pictures.examples_of(f), pictures, count),
        _strip(measured_words(f), pictures.pictures_of(f), pictures),
    ]
    return {
        "number": number,
        "finding": f,
        "tiles": [(c.label, c.text(f), _unit_and_bounds(c, f)) for c in columns if c.unit],
        "told": [(c.label, c.text(f)) for c in columns if not c.unit],
        "strips": None if pictures.study is None else strips,
        "pictured": f.pictured[:SHOWN_PICTURES],
        "latents": latent_words(f),
        "source": word_source(f),
        "check": name_check(pictures.study, f),
        "proof": proof_words(f),
        "verdict": pictures.verdict_of(f),
        "verification": Markup(verification_html(pictures.study, f, illustrated=number <= ILLUSTRATED)),
        "evidence": [(name, Markup(told), why) for name, told, why in evidence_rows(f.evidence)],
    }


def _unit_and_bounds(column: Column, f: Finding) -> str:
    value = column.value(f)
    bounds = f", {span(value.low, value.high)}" if isinstance(value, Interval) else ""
    return f"points{bounds}" if column.unit == "points" else ""


def _strip(
    title: str, named: Sequence[tuple[str, int | None]], pictures: PagePictures, count: str = ""
) -> dict[str, Any]:
    """A row of pictures, each as (data URI, description), and the names of those that are gone."""
    shown, missing = [], []
    for name, place in named:
        uri = pictures.uris.get(place) if place is not None else None
        if uri is None or place is None:
            missing.append(name)
            continue
        label = pictures.study.images.columns["label"][place]
        shown.append(
            (uri, visible(name, 80) + (f", labelled {visible(label, 60)}" if label is not None else ""))
        )
    return {"title": title, "pictures": shown, "missing": missing, "count": count}
