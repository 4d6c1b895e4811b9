"""Occlusion test: latents that raise a prompt's score and become inactive when a concept beside its object is occluded.

On a few of the prompt's own pictures that show a candidate windows are occluded one by one. Where the evaluator loses
the candidate and still sees the prompt, latents that raised the prompt's score and become inactive represent the
candidate, whatever they fire for elsewhere: a model may have learnt the two as one concept. Concepts that fill the
picture cannot be tested in this way. Start at `look` and `silent`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clipattr.discovery.audit.base import Base
from clipattr.discovery.audit.settings import Settings
from clipattr.discovery.audit.subject import Subject
from clipattr.discovery.encoded import activations_of
from clipattr.execution.engine import in_pieces

STEPS = 3  # windows across and down
SIDE = 0.44  # side of a window as a fraction of the picture's, so that neighbours overlap by a third
WINDOWS = STEPS * STEPS
ASKED = 3  # windows a picture, those in which the prompt falls most, that the evaluator is shown
PRICE = WINDOWS + ASKED  # forward passes per picture
LARGEST = 2  # longest side of a picture before occlusion, in units of a model's resolution
CARRIES = 0.05  # share of the family's reliance below which a latent is left out


@dataclass(frozen=True)
class Looked:
    """Own pictures of a prompt under occlusion.

    Attributes:
        numbers: (n,) pictures of the finding half. codes: (n · 10, latents) CSR, each picture unaltered, then its
            windows. fall: (n, 9) of the prompt's contrast, raw cosine. stays: (n, 9) share of the prompt that the
            evaluator still sees; NaN where it was not asked. lost: (n, 9, words) is kept as embeddings: seen (n, 9,
            embed), the evaluator's, zero where it was not asked.
    """

    numbers: Tensor
    codes: Any
    fall: Tensor
    stays: Tensor
    seen: Tensor
    spent: int

    def places(self, lost: Tensor, settings: Settings) -> list[int | None]:
        """For each picture the window that takes most of a word and leaves the prompt; None where none does.

        Args:
            lost: (n, 9) share of the word that the evaluator loses, NaN where it was not asked.
        """
        chosen: list[int | None] = []
        for share, stays in zip(lost, self.stays, strict=True):
            allowed = (stays >= settings.stays) & (share >= settings.loses)
            chosen.append(int(torch.where(allowed, share, -torch.inf).argmax()) if allowed.any() else None)
        return chosen

    def table(self, places: Sequence[int | None]) -> tuple[Any, Any]:
        """(n, latents) codes of the unaltered pictures, and in some windows; a picture without a window stays."""
        bare = [n * (WINDOWS + 1) for n in range(len(places))]
        after = [row if place is None else row + 1 + place for row, place in zip(bare, places, strict=True)]
        return self.codes[bare], self.codes[after]

    def left(self, places: Sequence[int | None], latents: Sequence[int]) -> tuple[float, int]:
        """Share of some latents' summed codes left in some windows, and on how many pictures they were active."""
        before, after = (np.asarray(some[:, list(latents)].sum(1)).ravel() for some in self.table(places))
        return float(after.sum() / before.sum()) if before.sum() > 0 else 1.0, int((before > 0).sum())

    def focus(self, latents: Sequence[int]) -> float:
        """Largest share of some latents' activation that goes with one window, over the pictures; NaN if none fires."""
        table = np.asarray(self.codes[:, list(latents)].sum(1)).reshape(len(self.numbers), WINDOWS + 1)
        table = table[table[:, 0] > 0]
        if not len(table):
            return float("nan")
        lost = ((table[:, :1] - table[:, 1:]) / table[:, :1]).clip(0, 1)
        return float(np.median(lost.max(1)))


def look(base: Base, subject: Subject, there: Tensor, clearly: Tensor, n: int) -> Looked | None:
    """Occlude windows of some of a prompt's own pictures.

    Args:
        there: (pictures,) bool, those that show what is looked for. clearly: (pictures,) how clearly; the clearest
            that can be opened are occluded. n: pictures, each `PRICE` forward passes; None where there are too few.
    """
    half, side = base.finding, subject.finding
    own = side.own & there & torch.from_numpy(np.asarray(base.study.had[half.rows]))
    if n < 2 or int(own.sum()) < base.settings.few:
        return None
    numbers = torch.nonzero(own).flatten()
    numbers = numbers[clearly[numbers].argsort(descending=True, stable=True)]
    opened = base.opener.first(half.rows[numbers.numpy()], n)
    if len(opened) < 2:
        return None
    numbers, pictures = numbers[[place for place, _ in opened]], [picture for _, picture in opened]
    n = len(numbers)
    most = LARGEST * max(*base.study.model.image_size, *base.study.evaluator.image_size)
    copies = []
    for picture in pictures:
        small = picture.convert("RGB")
        small.thumbnail((most, most))
        copies.append(windows(small))
    acts = activations_of(base.study, [copy for some in copies for copy in some]).cpu()
    level = subject.tail(base).values(acts)[:, 0].cpu().view(n, WINDOWS + 1)
    fall = level[:, :1] - level[:, 1:]
    codes = base.study.dictionary.encode(acts).to_scipy().tocsr()
    asked = fall.topk(ASKED, 1).indices
    pixels = [
        base.study.evaluator.prepare(copies[place][1 + int(window)])
        for place in range(n)
        for window in asked[place]
    ]
    seen = in_pieces(base.study.evaluator.encode_image, torch.stack(pixels)).float().cpu()
    centred = base.concepts.centred(seen)
    along = base.along(half, subject.meant)
    usual = float(along[side.elsewhere].mean()) if side.elsewhere.any() else 0.0
    excess = (along[numbers] - usual).clamp_min(1e-6)
    stays = torch.full((n, WINDOWS), torch.nan)
    stays.scatter_(1, asked, (centred @ subject.meant).view(n, ASKED).sub(usual) / excess[:, None])
    kept = torch.zeros(n, WINDOWS, centred.shape[1])
    kept[torch.arange(n)[:, None], asked] = centred.view(n, ASKED, -1)
    return Looked(numbers, codes, fall, stays, kept, n * PRICE)


def silent(
    looked: Looked, places: Sequence[int | None], carried: Tensor, most: float
) -> tuple[tuple[int, ...], float]:
    """Latents that raise the prompt's score and become inactive, largest effect first, and the share of their codes
    that is left.

    Args:
        places: the window of each picture. carried: (latents,) mean single-latent ablation on the prompt's own
            pictures, raw cosine. most: share of a latent's activation that may be left.
    """
    before, after = looked.table(places)
    total, then = (np.asarray(some.sum(0)).ravel() for some in (before, after))
    share = np.divide(then, total, out=np.ones(len(total)), where=total > 0)
    active, strong = np.asarray((before > 0).sum(0)).ravel(), carried.numpy()
    some = np.flatnonzero((share <= most) & (active >= 2) & (strong > 0))
    some = some[np.argsort(-strong[some], kind="stable")]
    kept = tuple(int(j) for j in some if strong[j] >= CARRIES * strong[some].sum())
    if not kept or sum(place is not None for place in places) * 2 < len(places):
        return (), 1.0
    return kept, looked.left(places, kept)[0]


def lost_of(base: Base, looked: Looked, word: int) -> Tensor:
    """(n, 9) share of a word, over the average picture, that the evaluator loses in each window; NaN if not asked."""
    text, along = base.concepts.words[word], base.along(base.finding, base.concepts.words[word])
    bare = along[looked.numbers]
    excess = (bare - float(along.mean())).clamp_min(1e-6)
    lost = (bare[:, None] - looked.seen @ text) / excess[:, None]
    return torch.where(looked.stays.isnan(), torch.nan, lost)


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
