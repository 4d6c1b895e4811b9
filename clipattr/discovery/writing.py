"""Written words: which prompts does a model read off the picture, and with which latents?

Words stand in few pictures of a collection, and where they do, often beside the thing they name; so pictures are made
that hold the word and not the thing: every prompt is written on the same pictures of the collection, in several faces,
sizes, places and colours. Readers of a prompt are latents that rise when it is written and lift it.
Whether the model reads which word it is, or sees only that something is written, is told apart. Start at `read_off`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from tqdm.auto import tqdm

from clipattr.discovery.findings import Interval
from clipattr.discovery.reliance import Half, Reliance
from clipattr.discovery.statistics import interval
from clipattr.sites import activations

FACES = ("DejaVuSans-Bold.ttf", "DejaVuSans.ttf", "DejaVuSerif-Bold.ttf", "DejaVuSansMono-Bold.ttf")
SIZES = (5, 6, 8)  # picture height over letter height
PLACES = (0.1, 0.5, 0.9)
CHANCE = 3.0  # standard errors by which a latent must rise to be a reader
CLEAR = 0.1  # of the largest rise of all: less is nothing


@dataclass(frozen=True)
class Reading:
    """What writing a prompt does; all on pictures that did not choose the readers.

    Attributes:
        prompt: its number. latents: the readers, largest rise first.
        rise: of the prompt's contrast when it is written on pictures, raw cosine.
        specific: the same against other prompts written in its place: the part that follows from which word it is.
        causal_effect: fall of that contrast when the readers are ablated on pictures with the prompt written.
        reliance: the same, single ablations summed. share: of the positive evidence on these pictures.
        reads: rise of the readers against their strong end in the collection, 0 to 1.
        pictures: how many were measured.
    """

    prompt: int
    latents: tuple[int, ...]
    rise: Interval
    specific: Interval
    causal_effect: Interval
    reliance: Interval
    share: float
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


def read_off(
    reliance: Reliance, half: Half, n_pictures: int, least_effect: float, *, progress: bool = True
) -> list[Reading]:
    """The prompts that a model reads off pictures.

    Half of the pictures choose readers, the other half measure.

    Args:
        half: whose pictures are written on.
        n_pictures: on how many each prompt is written; 0 asks nothing.
        least_effect: raw cosine that both the rise and the causal effect must surely exceed.

    Returns:
        only prompts for which that holds.
    """
    n_pictures = min(n_pictures, len(half.rows)) // 2 * 2
    if n_pictures < 4:
        return []
    study = reliance.study
    rows = half.rows[np.linspace(0, len(half.rows) - 1, n_pictures).astype(int)]
    pictures = [study.images[int(row)].load() for row in rows]
    empty = _acts(reliance, pictures)
    acts = torch.stack(
        [
            _acts(reliance, [written(picture, prompt.text, n) for n, picture in enumerate(pictures)])
            for prompt in tqdm(reliance.prompts, desc="writing", unit="prompt", disable=not progress)
        ]
    )  # (prompts, pictures, width)
    finding, measuring = slice(0, None, 2), slice(1, None, 2)
    contrast = torch.stack(
        [reliance.tail.values(some) for some in acts[:, measuring]]
    )  # (written, pictures, n)
    before = reliance.tail.values(empty[measuring])
    readings = []
    for prompt in range(len(acts)):
        rise = interval(contrast[prompt, :, prompt] - before[:, prompt])
        if not rise.low >= least_effect:
            continue
        readers = _readers(reliance, prompt, acts[prompt, finding], empty[finding])
        if not len(readers):
            continue
        others = (contrast[:, :, prompt].sum(0) - contrast[prompt, :, prompt]) / max(1, len(acts) - 1)
        specific = interval(contrast[prompt, :, prompt] - others)
        reading = _measure(reliance, prompt, readers, rise, specific, acts[prompt, measuring])
        if reading.causal_effect.low >= least_effect:
            readings.append(reading)
    return readings


def _acts(reliance: Reliance, pictures: Sequence[Image.Image]) -> Tensor:
    study = reliance.study
    pixels = torch.stack([study.model.prepare(picture) for picture in pictures])
    return activations(study.model, pixels, study.site).float()


def _readers(reliance: Reliance, prompt: int, acts: Tensor, empty: Tensor) -> Tensor:
    """Latents that rise surely and clearly when the prompt is written, and whose ablation lowers it."""
    dictionary = reliance.study.dictionary
    codes, quiet = dictionary.encode(acts).to_fixed(), dictionary.encode(empty).to_fixed()
    latents = codes.indices[codes.values > 0].unique().long()
    up = torch.stack(
        [_column(codes, j) - _column(quiet, j) for j in latents.tolist()], 1
    )  # (pictures, latents)
    mean, error = up.mean(0), up.std(0) / len(up) ** 0.5
    effect = reliance.tail.aimed_at(reliance.columns[:, [prompt]]).exact(acts, codes)[..., 0]
    lifts = torch.stack([(effect * (codes.indices == j)).sum() > 0 for j in latents.tolist()])
    chosen = (mean > CHANCE * error) & (mean > CLEAR * mean.max()) & lifts
    return latents[chosen][mean[chosen].argsort(descending=True)]


def _column(codes: Any, latent: int) -> Tensor:
    return (codes.values * (codes.indices == latent)).sum(1)


def _measure(
    reliance: Reliance, prompt: int, readers: Tensor, rise: Interval, specific: Interval, acts: Tensor
) -> Reading:
    codes = reliance.study.dictionary.encode(acts).to_fixed()
    tail = reliance.tail.aimed_at(reliance.columns[:, [prompt]])
    single = tail.exact(acts, codes)[..., 0]
    inside = torch.isin(codes.indices.long(), readers) & (codes.values != 0)
    positive = single.clamp_min(0)
    return Reading(
        prompt,
        tuple(readers.tolist()),
        rise,
        specific,
        interval(tail.exact_group(acts, codes, [readers])[:, 0, 0]),
        interval((single * inside).sum(1)),
        float((positive * inside).sum() / positive.sum().clamp_min(1e-12)),
        len(acts),
    )
