"""Measurements on edited pictures: a family's codes, a prompt's contrast, and where in the picture each comes from.

Owns every forward pass of a verification and counts them. Start at `Measure`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clipattr.discovery.audit.presence import gap, relative
from clipattr.discovery.encoded import embedded, encoded, family_directions, summed_codes
from clipattr.discovery.opened import Opener, first_opened, not_opened
from clipattr.discovery.pixels.edits import filled
from clipattr.discovery.pixels.text_regions import TextDetector
from clipattr.errors import DataError
from clipattr.sites import continue_from
from clipattr.studies.collected import Collected

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from clipattr.models.loading import Model
    from clipattr.studies.study import Study

BATCH = 128  # pictures a forward pass
ROWS = 2**15  # pictures of the study whose embeddings are computed at a time
ASKED = 16  # pictures with known words that an OCR detector is tested on
REMEMBERED = 512  # prepared pictures kept, so that findings with common pictures do not decode them twice


@dataclass(frozen=True)
class Reading:
    """What the model says of some pictures, each (pictures,) float32 on the CPU.

    Attributes:
        codes: summed codes of the family. contrast: of the prompt, raw cosine.
        carried: fall of the contrast when the family is ablated, raw cosine; NaN where that has no
            closed form.
    """

    codes: Tensor
    contrast: Tensor
    carried: Tensor


class Measure:
    """Codes and contrasts of pictures that no file holds.

    Args:
        study: with one activation per picture.

    Attributes:
        forwards: pictures encoded so far. opener: of the study's pictures.
    """

    def __init__(self, study: Study) -> None:
        self.study, self.forwards, self.opener = study, 0, Opener(study.images)
        self._prepared: dict[int, Tensor] = {}
        with torch.no_grad():
            self._background = study.model.encode_text(list(study.vocabulary.words)).mean(0)

    def __getstate__(self) -> dict[str, Any]:
        """Sent to another process it leaves prepared pictures behind, which that process reads itself."""
        return self.__dict__ | {"_prepared": {}}

    @cached_property
    def embeddings(self) -> Tensor:
        """(pictures, embed) float32: the audited model's embeddings of the whole study, on the CPU; made once."""
        rows = np.arange(len(self.study.images))
        return torch.cat(
            [
                encoded(self.study, rows=some).embeddings
                for some in np.split(rows, range(ROWS, len(rows), ROWS))
            ]
        )

    def column(self, prompt: str) -> Tensor:
        """(embed,): what an image embedding is multiplied by to give the prompt's contrast against the vocabulary."""
        with torch.no_grad():
            return self.study.model.encode_text([prompt])[0] - self._background

    def shows(self, prompt: str) -> Tensor:
        """(pictures,) bool: where the evaluator sees what a prompt names.

        Nowhere if the evaluator is the audited model: leaving out by its own score would choose pictures by that score.
        """
        study = self.study
        if study.manifest["evaluator"]["hash"] == study.manifest["model"]["hash"]:
            return torch.zeros(len(study.images), dtype=torch.bool)
        similar = torch.from_numpy(Collected(study).evaluator_scores(prompt)).double()
        way = relative(similar[:, None])
        return way[:, 0] > gap(way)

    def openable(self, rows: Iterable[int], n: int) -> list[int]:
        """The first `n` of some rows whose pictures can be opened; fewer if too many cannot."""
        some = list(rows)
        return [some[place] for place, _ in first_opened(self._picture, some, n)]

    def pixels(self, rows: Sequence[int]) -> Tensor:
        """Pictures of the study as the model takes them, (rows, 3, H, W).

        Raises:
            DataError: one of them cannot be opened.
        """
        found = [self._picture(row) for row in rows]
        there = [picture for picture in found if picture is not None]
        if len(there) < len(found):
            raise DataError(f"{not_opened(self.opener.gone)}.")
        return torch.stack(there)

    def _picture(self, row: int) -> Tensor | None:
        if row not in self._prepared:
            picture = self.opener.open(row)
            if picture is None:
                return None
            self._prepared[row] = self.study.model.prepare(picture)
            while len(self._prepared) > REMEMBERED:
                del self._prepared[next(iter(self._prepared))]
        return self._prepared[row]

    @cached_property
    def text_recall(self) -> float:
        """Share of known words, written into pictures spread over the study, that the OCR detector finds."""
        spread = np.linspace(0, len(self.study.images) - 1, 2 * ASKED).astype(int)
        rows = self.openable(dict.fromkeys(spread.tolist()), ASKED)
        return TextDetector().recall([as_picture(self.study.model, one) for one in self.pixels(rows)])

    def text_masks(self, pixels: Tensor) -> Tensor:
        """Where prepared pictures (pictures, 3, H, W) show text, (pictures, H, W) bool."""
        return TextDetector().masks([as_picture(self.study.model, one) for one in pixels])

    def read(self, pixels: Tensor, latents: Sequence[int], column: Tensor) -> Reading:
        """Encode pictures (pictures, 3, H, W) and read a family's codes, the contrast, and the effect of the family."""
        model, site, dictionary = self.study.model, self.study.site, self.study.dictionary
        closed, onto = site.tail(model) is not None, column.float().cpu()
        codes, contrasts, carried = [], [], []
        for some in pixels.split(BATCH):
            embeddings, acts = embedded(self.study, some)
            contrasts.append(embeddings @ onto)
            active = dictionary.encode(acts)
            codes.append(summed_codes(active, latents))
            left = torch.full((len(some),), torch.nan)
            if closed:
                without = acts - family_directions(dictionary, active, list(latents))
                with torch.no_grad():
                    left = continue_from(model, site, without).float().cpu() @ onto
            carried.append(contrasts[-1] - left)
        self.forwards += len(pixels)
        return Reading(torch.cat(codes), torch.cat(contrasts), torch.cat(carried))

    def maps(
        self, pixels: Tensor, latents: Sequence[int], column: Tensor, *, windows: int, side: float
    ) -> tuple[Tensor, Tensor]:
        """Occlusion maps: how much the family's codes and the contrast fall when a window is filled.

        Args:
            windows: places a side. side: of a window, as a fraction of the picture's.

        Returns:
            (pictures, windows, windows) each, positive where the window's content raises the value.
        """
        masks = window_masks(pixels.shape[2:], windows, side)
        whole = self.read(pixels, latents, column)
        after = []
        for some in pixels.split(max(1, BATCH // len(masks))):
            altered = filled(some.repeat_interleave(len(masks), 0), masks.repeat(len(some), 1, 1))
            read = self.read(altered, latents, column)
            after.append(torch.stack([read.codes, read.contrast]).view(2, len(some), len(masks)))
        falls = torch.stack([whole.codes, whole.contrast])[..., None] - torch.cat(after, 1)
        both = falls.view(2, len(pixels), windows, windows)
        return both[0], both[1]


def window_masks(size: Sequence[int], windows: int, side: float) -> Tensor:
    """(windows², H, W) float: square windows centred on a regular grid, cut off at the picture's edge."""
    spans = []
    for length in size:
        places = torch.arange(length)
        centres = (torch.arange(windows) + 0.5) * length / windows
        spans.append(((places[None] + 0.5 - centres[:, None]).abs() <= side * length / 2).float())
    return (spans[0][:, None, :, None] * spans[1][None, :, None, :]).reshape(-1, *size)


def as_picture(model: Model, pixels: Tensor) -> Image.Image:
    """Prepared pixels (3, H, W) as a picture, whatever the model's normalisation: black and white say what it is."""
    size = (pixels.shape[2], pixels.shape[1])
    black, white = (model.prepare(Image.new("RGB", size, shade)).float() for shade in ("black", "white"))
    unit = (pixels.float().cpu() - black) / (white - black)
    return Image.fromarray((unit.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy())
