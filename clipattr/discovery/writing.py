"""Written words: does writing a prompt on pictures of other things lift it, and does it matter which word it is?

What a collection shows of written words, it shows beside the things they name. So every word in question is written on
the same pictures of other things, in several faces, sizes, places and colours. Start at `rises`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from clipattr.discovery.encoded import activations_of
from clipattr.discovery.findings import Interval
from clipattr.discovery.reliance import Half, Reliance
from clipattr.discovery.statistics import interval

FACES = ("DejaVuSans-Bold.ttf", "DejaVuSans.ttf", "DejaVuSerif-Bold.ttf", "DejaVuSansMono-Bold.ttf")
SIZES = (5, 6, 8)  # picture height over letter height
PLACES = (0.1, 0.5, 0.9)
COMPARED = 6  # other prompts that are written in a prompt's place


@dataclass(frozen=True)
class Rise:
    """What writing a prompt does to its contrast, raw cosine, each with its interval over pictures.

    Attributes:
        written: against the same pictures without a word.
        specific: against other prompts written in its place: the part that follows from which word it is.
        pictures: how many were written on.
    """

    written: Interval
    specific: Interval
    pictures: int


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


def rises(reliance: Reliance, half: Half, prompts: Sequence[int], n_pictures: int) -> dict[int, Rise]:
    """Write prompts on pictures that are not their own.

    Args:
        half: whose pictures are written on.
        prompts: their numbers.
        n_pictures: on how many each is written; 0 asks nothing.
    """
    study, found = reliance.study, {}
    for prompt in prompts if n_pictures else ():
        numbers = np.setdiff1d(np.arange(len(half.rows)), half.own[prompt].numpy())
        if not len(numbers):
            continue
        chosen = numbers[np.linspace(0, len(numbers) - 1, min(n_pictures, len(numbers))).astype(int)]
        pictures = [study.images[int(row)].load() for row in half.rows[chosen]]
        text = reliance.prompts[prompt].text
        others = [other.text for other in reliance.prompts if other.text != text]
        others = others[:: max(1, len(others) // COMPARED)][:COMPARED]
        before, after, instead = (
            _contrasts(reliance, prompt, versions)
            for versions in (
                pictures,
                [written(picture, text, n) for n, picture in enumerate(pictures)],
                [written(p, others[n % len(others)], n) for n, p in enumerate(pictures)]
                if others
                else pictures,
            )
        )
        found[prompt] = Rise(interval(after - before), interval(after - instead), len(pictures))
    return found


def _contrasts(reliance: Reliance, prompt: int, pictures: Sequence[Image.Image]) -> Tensor:
    """(pictures,) contrast of one prompt."""
    return reliance.tail.values(activations_of(reliance.study, pictures))[:, prompt]
