"""Pictures of a verification: one picture as it is, without the cause, with the control change, and a pasted one.

Owns making a verified finding's edit again from its evidence, and turning prepared pixels into pictures. Start at
`edited_pictures`, which reports and panels show.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from PIL import Image
from torch import Tensor

from clipattr.discovery.findings import Finding
from clipattr.discovery.opened import not_opened
from clipattr.discovery.pixels.candidates import candidate_edits
from clipattr.discovery.pixels.measure import Measure, as_picture
from clipattr.discovery.pixels.settings import PixelSettings
from clipattr.errors import DataError

if TYPE_CHECKING:
    from clipattr.studies.study import Study

SHOWN = 4  # measured pictures edited again; the one whose score falls most for the edit is shown


@dataclass(frozen=True)
class EditedPicture:
    """One picture of a verification, at the size that the model sees.

    Attributes:
        what: "before", "without", "elsewhere" (the control edit) or "pasted" (the cause in another picture).
        picture: RGB. contrast: the prompt's, raw cosine. source: id of the picture that was edited.
        control: the contrast with the control patch in place of the cause, raw cosine; only for "pasted".
    """

    what: str
    picture: Image.Image
    contrast: float
    source: str
    control: float | None = None


def edited_pictures(
    study: Study, finding: Finding, *, settings: PixelSettings | None = None
) -> tuple[EditedPicture, ...]:
    """The four pictures of a verified finding: before, without, elsewhere, pasted.

    The edit is made again from the finding's evidence, on the first `SHOWN` of its measured pictures.

    Args:
        finding: one that `verify` returned. settings: those of the verification, if they were not the default.

    Returns:
        four pictures; none where no edit was made, because too few pictures show the family.

    Raises:
        DataError: the finding was not verified, its pictures are not in the study, or none can be opened any more.
    """
    told: Any = finding.evidence.get("pixels")
    if told is None:
        raise DataError(f"The finding about {finding.prompt!r} was not verified: call clipattr.verify first.")
    if told["edit"] is None:
        return ()
    settings = settings or PixelSettings()
    measure = Measure(study)
    most = {"chosen_on": len(told["chosen_on"]), "pictures": SHOWN, "others": len(told["others"])}
    rows = {
        name: measure.openable([study.images.index_of(one) for one in told[name]], n)
        for name, n in most.items()
    }
    if not all(rows.values()):
        raise DataError(f"Too few pictures of the verification are left: {not_opened(measure.opener.gone)}.")
    column, latents = measure.column(finding.prompt), list(finding.latents)
    strong, weak = measure.pixels(rows["pictures"]), measure.pixels(rows["others"])
    edits = candidate_edits(measure.pixels(rows["chosen_on"]), weak, settings, measure.text_masks)
    if told["edit"] not in edits:
        raise DataError(
            f"The edit {told['edit']!r} was not made with these settings. Give the settings of the verification."
        )

    def maps(pixels: Tensor) -> tuple[Tensor, Tensor]:
        return measure.maps(pixels, latents, column, windows=settings.windows, side=settings.window)

    edit = edits[told["edit"]](strong, maps)
    gone, control = edit.remove(strong, weak)
    pasted, beside = edit.transplant(strong, weak[: len(strong)])
    sets = {"before": strong, "without": gone, "elsewhere": control, "pasted": pasted}
    contrasts = {what: measure.read(pixels, latents, column).contrast for what, pixels in sets.items()}
    patched = measure.read(beside, latents, column).contrast
    shown = int((contrasts["elsewhere"] - contrasts["without"])[: len(pasted)].argmax())
    return tuple(
        EditedPicture(
            what,
            as_picture(study.model, pixels[shown]),
            float(contrasts[what][shown]),
            study.images.ids[rows["others" if what == "pasted" else "pictures"][shown]],
            float(patched[shown]) if what == "pasted" else None,
        )
        for what, pixels in sets.items()
    )
