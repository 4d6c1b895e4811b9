"""Candidates of a verification: the pictures it is made on, and the edits among which it chooses.

Owns which pictures show a family and which show neither it nor the prompt, and the list of edits. Ignores what comes of
them. Start at `choose_pictures` and `candidate_edits`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from clipattr.discovery.encoded import summed_codes
from clipattr.discovery.findings import Finding
from clipattr.discovery.pixels.edits import Cast, Edit, Region, Surroundings, border, largest, overlay_mask
from clipattr.discovery.pixels.measure import Measure
from clipattr.discovery.pixels.settings import PixelSettings

TOP = 20  # strongest pictures whose mean code says what "strong" is
ABSENT = 0.05  # of that level; below it a family counts as absent
MIDDLE = (0.2, 0.8)  # quantiles of the contrast between which pictures show neither prompt nor its opposite


@dataclass(frozen=True)
class Chosen:
    """Pictures of one verification, as rows of the study.

    Attributes:
        finding: choose the edit. measuring: measure it; no near-duplicates of each other or of the first.
        weak: show neither family nor prompt. spread: standard deviation of the prompt's contrast over the study.
        alone: whether `finding` and `measuring` leave out pictures in which the evaluator sees the prompt itself.
    """

    finding: list[int]
    measuring: list[int]
    weak: list[int]
    spread: float
    alone: bool

    @property
    def strong(self) -> int:
        return len(self.finding) + len(self.measuring)


def choose_pictures(measure: Measure, finding: Finding, column: Tensor, settings: PixelSettings) -> Chosen:
    """Choose pictures by the family's codes alone: pictures chosen by their score would lose it by any large edit.

    Pictures of the prompt's own object are left out where enough others show the family: beside that object a cause has
    little left to raise, and an edit of the surroundings takes or brings the object along. Nearly equal pictures count
    once. Others take the place of those that cannot be opened.
    """
    study = measure.study
    codes = summed_codes(study.codes, list(finding.latents))
    usable = torch.from_numpy(~study.repeats & study.had)
    level = float(torch.where(usable, codes, torch.zeros(())).sort(descending=True).values[:TOP].mean())
    contrast = measure.embeddings @ column.float().cpu()
    strong = torch.nonzero(usable & (codes >= settings.strong * level) & (codes > 0)).flatten()
    strong = strong[codes[strong].argsort(descending=True, stable=True)]
    own = measure.shows(finding.prompt)[strong]
    alone = int((~own).sum()) >= settings.fewest and bool(own.any())
    if alone:
        strong = strong[~own]
    low, high = (contrast[usable].quantile(q) for q in MIDDLE)
    weak = torch.nonzero(
        usable & (codes <= ABSENT * level) & (contrast >= low) & (contrast <= high)
    ).flatten()
    spread = weak[:: max(1, len(weak) // settings.weak_pictures)].tolist()
    others = measure.openable([*spread, *sorted(set(weak.tolist()) - set(spread))], settings.weak_pictures)
    rows = measure.openable(strong.tolist(), settings.strong_pictures)
    return Chosen(
        rows[::3], [row for n, row in enumerate(rows) if n % 3], others, float(contrast[usable].std()), alone
    )


Maps = tuple[Tensor, Tensor]
Builder = Callable[[Tensor, "Callable[[Tensor], Maps]"], Edit]


def candidate_edits(
    strong: Tensor, weak: Tensor, settings: PixelSettings, text: Callable[[Tensor], Tensor] | None = None
) -> dict[str, Builder]:
    """Functions that make an edit for some pictures, by a name that says which: of pixels and of what maps them.

    Args:
        strong, weak: (pictures, 3, H, W) that overlays and colour casts are estimated from.
        text: where pictures show text, (pictures, H, W) bool; None: regions of text are no candidate.
    """
    size = (strong.shape[2], strong.shape[3])

    def region(fraction: float) -> Builder:
        return lambda pixels, maps: Region(largest(maps(pixels)[0], fraction, size))

    def surroundings(fraction: float) -> Builder:
        # The map of the prompt minus that of the family: its own object, if it is in the picture.
        def build(pixels: Tensor, maps: Callable[[Tensor], Maps]) -> Edit:
            family, prompt = (scaled(some) for some in maps(pixels))
            return Surroundings(largest(prompt - family, fraction, size))

        return build

    def fixed(edit: Edit) -> Builder:
        return lambda pixels, maps: edit

    made = {f"region {fraction:g}": region(fraction) for fraction in settings.fractions}
    made |= {f"surroundings {1 - kept:g}": surroundings(kept) for kept in settings.kept}
    for width in settings.borders:
        frame, ring = border(size, width)
        made[f"border {width:g}"] = fixed(Region(frame, "border", ring))
    mask = overlay_mask(strong, weak)
    if mask is not None:
        made["overlay"] = fixed(Region(mask, "overlay"))
    if text is not None:
        made["text"] = lambda pixels, maps: Region(text(pixels), "text")
    made["colour"] = fixed(Cast.between(strong, weak))
    return made


def scaled(maps: Tensor) -> Tensor:
    """Maps (pictures, rows, columns) in units of each one's largest absolute value."""
    return maps / maps.abs().amax((1, 2), keepdim=True).clamp_min(1e-9)
