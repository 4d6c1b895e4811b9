"""Verification on a report's page: the verdict in pixels with its effects, and four pictures side by side.

Owns this part of a finding's section. Computes nothing: effects come from the evidence, pictures from
`clipattr.discovery.pixels.pictures`. Start at `verification_html`.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from clipattr.display.wording import percent, points
from clipattr.errors import ClipattrError
from clipattr.reporting.values import text_html, value_html

if TYPE_CHECKING:
    from PIL import Image

    from clipattr.discovery.findings import Finding
    from clipattr.discovery.pixels.pictures import EditedPicture
    from clipattr.studies.study import Study

ILLUSTRATED = 24  # findings of a page with four pictures, which cost about 150 forward passes each
SIDE = 152  # px of a picture on the page
CAPTIONS = {
    "before": "as it is",
    "without": "without the cause",
    "elsewhere": "control: as much changed elsewhere",
    "pasted": "the cause in another picture",
}
EDITS = {
    "region": "exchange the region that the family responds to",
    "surroundings": "exchange all but the region that the family responds to least",
    "border": "exchange the border",
    "overlay": "exchange what stands at the same place in the family's pictures",
    "text": "exchange regions of text",
    "colour": "undo the cast of colour",
}


def caption(one: EditedPicture) -> str:
    """What an edited picture shows, with the prompt's contrast in points; a pasted one beside its control."""
    beside = "" if one.control is None else f"; with a control patch instead {points(one.control)}"
    return f"{CAPTIONS[one.what]}: {points(one.contrast)}{beside}"


def verification_html(study: Study | None, finding: Finding, *, illustrated: bool = True) -> str:
    """The block about a verified finding; "" for others."""
    told = finding.evidence.get("pixels")
    if not isinstance(told, Mapping) or "verdict" not in told:
        return ""
    effects = "".join(
        f"<div><dt>{name}</dt><dd>{value_html(told.get(name))}</dd></div>"
        for name in ("removal", "transplant", "carried")
        if told.get(name) is not None
    )
    how = ""
    if told.get("edit"):
        edit = EDITS.get(told["edit"].split()[0], told["edit"])
        how = (
            f" Edit: {text_html(edit)}, {percent(told['area'])} of the picture; it takes away "
            f"{percent(told['silenced'])} of the family's activation, the control {percent(told['control'])}."
        )
    if told.get("unopened"):
        how += f" Pictures that could not be opened, so that others were taken: {int(told['unopened']):,}."
    return (
        '<div class="evidence pixels"><h3>In pixels</h3>'
        f"<p><strong>{text_html(told['verdict'])}</strong>: {text_html(told['reason'])}.{how}</p>"
        f"<dl>{effects}</dl>{_figures(study, finding) if illustrated else ''}</div>"
    )


def _figures(study: Study | None, finding: Finding) -> str:
    from clipattr.discovery.pixels.pictures import edited_pictures

    if study is None or not hasattr(study, "model"):
        return ""
    try:
        shown = edited_pictures(study, finding)
    except (ClipattrError, OSError) as error:  # a picture was moved, or the model is elsewhere
        return f'<p class="small">The edited pictures cannot be shown: {text_html(error)}</p>'
    figures = "".join(
        f'<figure><img src="{_uri(one.picture)}" alt="{html.escape(CAPTIONS[one.what])}" width="{SIDE}">'
        f"<figcaption>{html.escape(caption(one))}</figcaption></figure>"
        for one in shown
    )
    return f'<div class="strip four">{figures}</div>' if figures else ""


def _uri(picture: Image.Image) -> str:
    scale = max(1, SIDE // max(picture.size))  # small models see small pictures; whole pixels stay sharp
    buffer = io.BytesIO()
    large: Any = picture.resize((picture.width * scale, picture.height * scale), 0)
    large.thumbnail((2 * SIDE, 2 * SIDE))
    large.save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
