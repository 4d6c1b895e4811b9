"""Written words: does writing a prompt on pictures of other things lift it, through which latents, and does it matter
which word it is?

What a collection shows of written words, it shows beside the things they name. So every word in question is written on
the same pictures of other things, in several faces, sizes, places and colours: a latent that wakes there reads, one
that fires for the thing does not. Owns what is written and what it does. Start at `Writing`, and `reading_families`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from tqdm.auto import tqdm

from clipattr.discovery.audit.presence import shown
from clipattr.discovery.audit.reliance import Half, Reliance
from clipattr.discovery.audit.selectivity import ALIKE, CARRIES, FEW, Apart
from clipattr.discovery.encoded import Encoded, activations_of, exact_sums, summed_codes
from clipattr.discovery.findings import Interval
from clipattr.discovery.statistics import interval

if TYPE_CHECKING:
    from clipattr.studies.study import Study

WRITING = {"writing", "text"}  # groups of the vocabulary's words for it

FACES = ("DejaVuSans-Bold.ttf", "DejaVuSans.ttf", "DejaVuSerif-Bold.ttf", "DejaVuSansMono-Bold.ttf")
SIZES = (4, 5, 6)  # picture height over letter height
PLACES = (0.1, 0.5, 0.9)
COMPARED = 5  # other prompts that are written in a prompt's place
EVERY = 3  # on every so many of its pictures
MORE = 2  # times as many pictures to find reading latents on as to measure what they do
REMEMBERED = 32  # written prompts
LEARNT_FROM = 128  # pictures written on to learn how writing moves an embedding
OFTEN = 0.02  # share of the written pictures on which a latent must fire to be a reader


@dataclass(frozen=True)
class Rise:
    """What writing a prompt on pictures does to it and to a family.

    Attributes:
        written: rise of the prompt's contrast, raw cosine, over the same pictures without a word.
        before: share of the family's summed codes that is there without the word; NaN where it never fires with it.
    """

    written: Interval
    before: float


@lru_cache(maxsize=64)
def _font(face: str, size: int) -> ImageFont.FreeTypeFont:
    import matplotlib  # brings open fonts that are the same on every machine

    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / face), size)


def written(picture: Image.Image, text: str, number: int) -> Image.Image:
    """A copy with `text` across it; face, size, place and colours follow from `number` alone."""
    copy = picture.convert("RGB")
    draw = ImageDraw.Draw(copy)
    face = FACES[number % len(FACES)]
    size = max(7, copy.height // SIZES[number % len(SIZES)])
    while size > 6 and draw.textlength(text, _font(face, size)) > 0.95 * copy.width:
        size -= 1
    font = _font(face, size)
    left = (copy.width - draw.textlength(text, font)) * PLACES[number // 2 % len(PLACES)]
    top = (copy.height - 1.3 * size) * PLACES[number // 3 % len(PLACES)]
    ink, edge = ("white", "black") if number // 2 % 2 else ("black", "white")
    draw.text((left, top), text, ink, font, stroke_width=max(1, size // 12), stroke_fill=edge)
    return copy


def is_writing(group: str | None) -> bool:
    """Whether a group of the vocabulary is that of writing itself."""
    return (group or "").casefold() in WRITING


def writing_words(study: Study) -> list[int]:
    """Numbers of the vocabulary's words for writing itself."""
    return [number for number, group in enumerate(study.vocabulary.groups) if is_writing(group)]


def _evenly(numbers: np.ndarray, n: int) -> np.ndarray:
    """At most `n` of some numbers, evenly spread."""
    return numbers[np.linspace(0, len(numbers) - 1, min(n, len(numbers))).astype(int)]


class Writing:
    """Prompts written on pictures of one half of a study: not on their own, nor where the evaluator sees writing.

    What was written last is remembered.

    Args:
        half: whose pictures are written on. n_pictures: on how many each prompt is written.
    """

    def __init__(self, reliance: Reliance, half: Half, n_pictures: int) -> None:
        self.reliance, self.half, self.n_pictures = reliance, half, n_pictures
        self._after: dict[int, Tensor] = {}

    @cached_property
    def bare(self) -> np.ndarray:
        """Numbers of the pictures without writing; all where the vocabulary has no word for it."""
        study = self.reliance.study
        words = study.vocabulary_embeddings[writing_words(study)]
        return np.flatnonzero(~shown(study.seen(self.half.rows), words).any(1).numpy())

    def numbers(self, prompt: int) -> np.ndarray:
        """Which pictures of the half a prompt is written on."""
        return _evenly(np.setdiff1d(self.bare, self.half.own[prompt].numpy()), self.n_pictures)

    def after(self, prompt: int) -> Tensor:
        """Activations of the pictures with the prompt written on them, (pictures, width)."""
        if prompt not in self._after:
            while len(self._after) >= REMEMBERED:
                del self._after[next(iter(self._after))]
            self._after[prompt] = self._written(prompt, [self.reliance.prompts[prompt].text], 1)
        return self._after[prompt]

    def _written(self, prompt: int, texts: Sequence[str], every: int) -> Tensor:
        study = self.reliance.study
        rows = list(enumerate(self.half.rows[self.numbers(prompt)].tolist()))[::every]
        return activations_of(
            study, (written(study.images[row].load(), texts[n % len(texts)], n) for n, row in rows)
        )

    def readers(self, prompt: int) -> tuple[list[int], float]:
        """Latents that writing a prompt wakes and that lift it then, the one that carries most first.

        Returns:
            latents; and what they carry, raw cosine: their summed single-latent ablation on the written pictures.
        """
        reliance, numbers = self.reliance, self.numbers(prompt)
        if len(numbers) < FEW:
            return [], 0.0
        acts = self.after(prompt)
        codes = reliance.study.dictionary.encode(acts)
        tail = reliance.tail.aimed_at(reliance.columns[:, [prompt]])
        carried = (exact_sums(tail, acts, codes)[0][:, 0] / len(acts)).numpy()
        after, before = codes.to_scipy(), reliance.codes(self.half.rows[numbers])
        strength, without = (np.asarray(some.sum(0)).ravel() for some in (after, before))
        fires = np.asarray((after > 0).sum(0)).ravel() >= max(3, OFTEN * len(acts))
        wakes = np.flatnonzero(fires & (without <= ALIKE * strength) & (carried > 0))
        ordered = wakes[np.argsort(-carried[wakes], kind="stable")]
        kept = [int(j) for j in ordered if carried[j] >= CARRIES * carried[wakes].sum()]
        return kept, float(carried[kept].sum())

    def rise(self, prompt: int, family: Sequence[int]) -> Rise | None:
        """What writing a prompt does to its contrast and to a family; None where there is too little to write on."""
        reliance, numbers = self.reliance, self.numbers(prompt)
        if len(numbers) < FEW:
            return None
        acts, study = self.after(prompt), reliance.study
        without = reliance.acts(self.half, torch.from_numpy(numbers))
        fired = summed_codes(study.dictionary.encode(acts), family).sum().item()
        there = summed_codes(study.codes.rows(torch.from_numpy(self.half.rows[numbers])), family).sum().item()
        return Rise(self._above(prompt, acts, without), there / fired if fired > 0 else math.nan)

    def specific(self, prompt: int) -> Interval:
        """Rise of a prompt's contrast over other prompts written in its place: what follows from which word it is."""
        text, after = self.reliance.prompts[prompt].text, self.after(prompt)[::EVERY]
        others = [other.text for other in self.reliance.prompts if other.text != text]
        others = others[:: max(1, len(others) // COMPARED)][:COMPARED]
        return self._above(prompt, after, self._written(prompt, others, EVERY) if others else after)

    def _above(self, prompt: int, acts: Tensor, without: Tensor) -> Interval:
        level, other = (self.reliance.tail.values(some)[:, prompt] for some in (acts, without))
        return interval(level - other)


def moved_by_writing(study: Study, pictures: Encoded, text: str, bare: Tensor) -> Tensor:
    """How far writing a text on pictures moves their embeddings on average, (embed,).

    Args:
        pictures: of the study. bare: (pictures,) bool, those that may be written on; `LEARNT_FROM` of them are.
    """
    places = _evenly(np.flatnonzero(bare.numpy()), LEARNT_FROM)
    changed = (written(pictures.images[int(place)].load(), text, n) for n, place in enumerate(places))
    after = study.model.encode_image(torch.stack([study.model.prepare(picture) for picture in changed]))
    return (after.float().cpu() - pictures.embeddings[torch.from_numpy(places)]).mean(0)


def reading_families(
    reliance: Reliance, half: Half, asked: Iterable[tuple[int, int]], n_pictures: int, progress: bool = False
) -> list[Apart]:
    """The latents through which a prompt is read where it is written, one family for each prompt.

    Args:
        half: whose pictures are written on.
        asked: prompts whose pictures show writing, and the vocabulary's word for that.
        n_pictures: as in the audit's settings; the more are needed, the rarer a reader fires.
    """
    writing, found = Writing(reliance, half, MORE * n_pictures), []
    for prompt, word in tqdm(list(asked), desc="writing", unit="prompt", disable=not progress):
        latents, carried = writing.readers(prompt)
        if latents:
            found.append(Apart(prompt, word, latents, carried, "written"))
    return found
