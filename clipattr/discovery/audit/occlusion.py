"""What is left of latents when the place where a meaning is seen is covered: a counterfactual without a renderer.

A latent for candles beside books falls silent when the book is covered, a latent for candles does not; their codes on
pictures as they are tell nothing of that where a candle hardly ever stands alone. A window is slid over each picture,
and stays where the evaluator loses most of the meaning and none of the prompt. Says nothing of meanings that are all
over the picture. Owns covering, and ignores what is concluded from it. Start at `Covering`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clipattr.discovery.encoded import activations_of

if TYPE_CHECKING:
    from clipattr.studies.study import Study

STEPS = 3  # windows across and down
SIDE = 0.44  # of the picture's sides, a window's: neighbours overlap by a third
FEW = 5  # pictures below which nothing is said
FIRST = 3  # of them tell whether to go on
LOCAL = 0.35  # of what the evaluator sees of a meaning goes with one window, if it has a place of its own
LARGEST = 2  # times a model's resolution to which a picture is made smaller first
REMEMBERED = 256  # pictures whose copies are kept
SPARED = 0.25  # of that may go of the prompt


@dataclass(frozen=True)
class Covered:
    """What covering a meaning did to some pictures that show it.

    Attributes:
        before, after: (latents,) each latent's codes summed over the pictures, whole and covered.
        active: (latents,) on how many of the whole pictures each fired.
        lost: how much less the evaluator sees of the meaning, as a share of what sets these pictures off from the
            average one.
        lost_prompt: the same of the prompt; negative where it is seen better.
    """

    before: np.ndarray
    after: np.ndarray
    active: np.ndarray
    lost: float
    lost_prompt: float

    def left(self, latents: Sequence[int] | None = None) -> np.ndarray:
        """Share of the codes that is left: of each latent, (latents,), or of some summed, (); NaN where none fired."""
        before, after = self.before, self.after
        if latents is not None:
            before, after = before[list(latents)].sum(), after[list(latents)].sum()
        return np.divide(after, before, out=np.full(np.shape(before), np.nan), where=before > 0)


class Covering:
    """Covers pictures of one half of a study; what the evaluator sees of a covered picture is computed once and kept.

    So make one for each prompt, whose meanings share pictures.

    Args:
        rows: (pictures,) rows of the half in the study's arrays. seen: (pictures, embed), the evaluator's.
        pictures: how many are covered for one meaning.
    """

    def __init__(self, study: Study, rows: np.ndarray, seen: Tensor, pictures: int) -> None:
        self.study, self.rows, self.seen, self.pictures = study, rows, seen, pictures
        self._windows: dict[int, tuple[list[Image.Image], Tensor]] = {}

    def cover(self, shows: Tensor, clearly: Tensor, prompt: Tensor, meaning: Tensor) -> Covered | None:
        """Cover a meaning where it is seen.

        Args:
            shows: (pictures,) bool, which pictures of the half to choose from. clearly: (pictures,), how clearly each
                shows the meaning; the clearest are covered.
            prompt, meaning: (embed,), the evaluator's, unit length.

        Returns:
            None where fewer than `FEW` pictures show the meaning or are to be covered, or where it has no place of its
            own: no window takes it and spares the prompt.
        """
        numbers = torch.nonzero(shows).flatten()
        if min(len(numbers), self.pictures) < FEW:
            return None
        numbers = numbers[clearly[numbers].argsort(descending=True, stable=True)][: self.pictures]
        aims = torch.stack([meaning, prompt]).float()
        everywhere = self.seen @ aims.T
        excess = (everywhere[numbers].mean(0) - everywhere.mean(0)).clamp_min(1e-9)
        chosen, falls = [], []
        for some in (numbers[:FIRST], numbers[FIRST:]):
            for number, (covered, seen) in zip(some.tolist(), self._covered(some.tolist()), strict=True):
                fall = (everywhere[number] - seen @ aims.T) / excess  # (windows, 2)
                best = int((fall[:, 0] - fall[:, 1].clamp_min(0)).argmax())
                chosen.append(covered[best])
                falls.append(fall[best])
            if float(torch.stack(falls)[:, 0].mean()) < LOCAL / 2:
                return None
        lost, lost_prompt = torch.stack(falls).mean(0).tolist()
        if lost < LOCAL or lost_prompt > SPARED * lost:
            return None
        whole = self.study.codes.rows(torch.from_numpy(self.rows[numbers.numpy()])).to_scipy()
        before, active = (np.asarray(counted.sum(0)).ravel() for counted in (whole, whole > 0))
        codes = self.study.dictionary.encode(activations_of(self.study, chosen)).to_scipy()
        return Covered(before, np.asarray(codes.sum(0)).ravel(), active, lost, lost_prompt)

    def _covered(self, numbers: Sequence[int]) -> list[tuple[list[Image.Image], Tensor]]:
        """For each picture its covered copies, and what the evaluator sees of them, (windows, embed)."""
        if len(self._windows) > REMEMBERED:
            self._windows.clear()
        missing = [number for number in numbers if number not in self._windows]
        copies = [windows(self._small(number))[1:] for number in missing]
        if missing:
            pixels = torch.stack([self.study.evaluator.prepare(copy) for some in copies for copy in some])
            seen = self.study.evaluator.encode_image(pixels).float().cpu().split(STEPS * STEPS)
            self._windows |= dict(zip(missing, zip(copies, seen, strict=True), strict=True))
        return [self._windows[number] for number in numbers]

    def _small(self, number: int) -> Image.Image:
        """A picture no larger than the models need, so that its copies stay small."""
        picture = self.study.images[int(self.rows[number])].load().convert("RGB")
        most = LARGEST * max(*self.study.model.image_size, *self.study.evaluator.image_size)
        picture.thumbnail((most, most))
        return picture


def windows(picture: Image.Image, steps: int = STEPS, side: float = SIDE) -> list[Image.Image]:
    """The picture, and copies in each of which one window is filled with the mean colour."""
    pixels = np.asarray(picture.convert("RGB"))
    mean = pixels.reshape(-1, 3).mean(0).round().astype(np.uint8)
    lengths = [max(1, round(side * length)) for length in pixels.shape[:2]]
    starts = [
        np.linspace(0, whole - length, steps).round().astype(int)
        for whole, length in zip(pixels.shape[:2], lengths, strict=True)
    ]
    versions = [pixels]
    for top in starts[0]:
        for left in starts[1]:
            covered = pixels.copy()
            covered[top : top + lengths[0], left : left + lengths[1]] = mean
            versions.append(covered)
    return [Image.fromarray(version) for version in versions]
