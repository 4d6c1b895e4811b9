"""Occlusion test: how much of a latent's activation remains after the image region that depicts a concept is occluded.

A latent for candles beside books loses its activation when the book is occluded; a latent for candles does not. Their
codes on unaltered pictures do not differ where candles hardly ever stand alone. A window is slid over each picture and
kept where the evaluator loses most of the concept and none of the prompt. Concepts that fill the picture cannot be
tested in this way. Owns the alteration of pictures and ignores what is concluded from it. Start at `Occlusion`.
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
SIDE = 0.44  # side of a window as a fraction of the picture's, so that neighbours overlap by a third
FEW = 5  # fewest pictures for a result
EARLY_STOP_IMAGES = 3  # pictures tried before giving up on a concept
LOCAL = 0.35  # fraction of the concept's similarity that one window must remove for the concept to be local
LARGEST = 2  # longest side of a picture before occlusion, in units of a model's resolution
REMEMBERED = 256  # pictures whose altered copies are kept
MAX_PROMPT_LOSS = 0.25  # fraction of the concept's loss that the prompt's own similarity may lose


@dataclass(frozen=True)
class Occluded:
    """The effect of occluding a concept in some pictures that show it.

    Attributes:
        before, after: (latents,) each latent's codes summed over the pictures, unaltered and occluded.
        active: (latents,) number of unaltered pictures on which each fired.
        lost: fall of the evaluator's similarity to the concept, as a fraction of its excess on these pictures over the
            average picture.
        lost_prompt: the same for the prompt; negative where its similarity rises.
    """

    before: np.ndarray
    after: np.ndarray
    active: np.ndarray
    lost: float
    lost_prompt: float

    def left(self, latents: Sequence[int] | None = None) -> np.ndarray:
        """Fraction of the codes that remains, of each latent (latents,) or of some summed (); NaN where none fired."""
        before, after = self.before, self.after
        if latents is not None:
            before, after = before[list(latents)].sum(), after[list(latents)].sum()
        return np.divide(after, before, out=np.full(np.shape(before), np.nan), where=before > 0)


class Occlusion:
    """Occludes pictures of one half of a study, and keeps the evaluator's embeddings of the altered copies.

    Args:
        rows: (pictures,) rows of the half in the study's arrays.
        seen: (pictures, embed), the evaluator's embeddings.
        pictures: number of pictures that are occluded for one concept.
    """

    def __init__(self, study: Study, rows: np.ndarray, seen: Tensor, pictures: int) -> None:
        self.study, self.rows, self.seen, self.pictures = study, rows, seen, pictures
        self._windows: dict[int, tuple[list[Image.Image], Tensor]] = {}

    def occlude(self, shows: Tensor, clearly: Tensor, prompt: Tensor, meaning: Tensor) -> Occluded | None:
        """Occlude a concept where the evaluator sees it.

        Args:
            shows: (pictures,) bool, the pictures of the half to choose from.
            clearly: (pictures,), how clearly each shows the concept; the clearest are occluded.
            prompt, meaning: (embed,), the evaluator's text embeddings of prompt and concept, unit length.

        Returns:
            None if fewer than `FEW` pictures show the concept or are to be occluded, or if it is not local: no window
            removes it and leaves the prompt.
        """
        numbers = torch.nonzero(shows).flatten()
        if min(len(numbers), self.pictures) < FEW:
            return None
        numbers = numbers[clearly[numbers].argsort(descending=True, stable=True)][: self.pictures]
        aims = torch.stack([meaning, prompt]).float()
        everywhere = self.seen @ aims.T
        excess = (everywhere[numbers].mean(0) - everywhere.mean(0)).clamp_min(1e-9)
        chosen, falls = [], []
        for some in (numbers[:EARLY_STOP_IMAGES], numbers[EARLY_STOP_IMAGES:]):
            for number, (covered, seen) in zip(some.tolist(), self._covered(some.tolist()), strict=True):
                fall = (everywhere[number] - seen @ aims.T) / excess  # (windows, 2)
                best = int((fall[:, 0] - fall[:, 1].clamp_min(0)).argmax())
                chosen.append(covered[best])
                falls.append(fall[best])
            if float(torch.stack(falls)[:, 0].mean()) < LOCAL / 2:
                return None
        lost, lost_prompt = torch.stack(falls).mean(0).tolist()
        if lost < LOCAL or lost_prompt > MAX_PROMPT_LOSS * lost:
            return None
        whole = self.study.codes.rows(torch.from_numpy(self.rows[numbers.numpy()])).to_scipy()
        before, active = (np.asarray(counted.sum(0)).ravel() for counted in (whole, whole > 0))
        codes = self.study.dictionary.encode(activations_of(self.study, chosen)).to_scipy()
        return Occluded(before, np.asarray(codes.sum(0)).ravel(), active, lost, lost_prompt)

    def _covered(self, numbers: Sequence[int]) -> list[tuple[list[Image.Image], Tensor]]:
        """For each picture its occluded copies and the evaluator's embeddings of them, (windows, embed)."""
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
