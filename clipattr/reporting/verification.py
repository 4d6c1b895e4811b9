"""Verification on a report's page: the verdict in pixels with its effects, and four pictures side by side.

Owns this part of a finding's section. Computes nothing: effects come from the evidence, pictures from
`clipattr.discovery.pixels.pictures`. Start at `verification_html`.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from clipattr.display.wording import points
from clipattr.errors import ClipattrError
from clipattr.reporting.rendering import template

if TYPE_CHECKING:
    from PIL import Image

    from clipattr.discovery.findings import Finding
    from clipattr.discovery.pixels.pictures import EditedPicture
    from clipattr.studies.study import Study

ILLUSTRATED = 24  # findings of a page with four pictures, which cost about 150 forward passes each
SIDE = 152  # px of a picture on the page
CAPTIONS = {
    "before": "original",
    "without": "without the cause",
    "elsewhere": "control: equal area changed elsewhere",
    "pasted": "the cause in another picture",
}
SHORT = {"before": "original", "without": "without it", "elsewhere": "control edit", "pasted": "pasted"}
EDITS = {
    "region": "exchange the region that the family responds to",
    "surroundings": "exchange all but the region that the family responds to least",
    "border": "exchange the border",
    "overlay": "exchange what is at the same place in the family's pictures",
    "text": "exchange regions of text",
    "colour": "remove the colour cast",
}


def caption(one: EditedPicture) -> str:
    """What an edited picture shows, with the prompt's contrast in points; a pasted one beside its control."""
    beside = "" if one.control is None else f"; with a control patch instead {points(one.control)}"
    return f"{CAPTIONS[one.what]}: {points(one.contrast)}{beside}"


def verification_html(study: Study | None, finding: Finding, *, illustrated: bool = True) -> str:
    """The block about a verified finding; "" for others."""
    from clipattr.discovery.pixels.pictures import edited_pictures

    told = finding.evidence.get("pixels")
    if not isinstance(told, Mapping) or "verdict" not in told:
        return ""
    edit = str(told.get("edit") or "")
    pictures: list[tuple[str, str, str]] = []
    error: Exception | None = None
    if illustrated and study is not None and hasattr(study, "model"):
        try:
            shown = edited_pictures(study, finding)
            pictures = [(_uri(one.picture), CAPTIONS[one.what], caption(one)) for one in shown]
        except (ClipattrError, OSError) as wrong:  # a picture was moved, or the model is elsewhere
            error = wrong
    return template("pixels.html").render(
        told=told, edit=EDITS.get(edit.split(" ")[0], edit), pictures=pictures, error=error, side=SIDE
    )


def _uri(picture: Image.Image) -> str:
    scale = max(1, SIDE // max(picture.size))  # small models see small pictures; whole pixels stay sharp
    buffer = io.BytesIO()
    large: Any = picture.resize((picture.width * scale, picture.height * scale), 0)
    large.thumbnail((2 * SIDE, 2 * SIDE))
    large.save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
