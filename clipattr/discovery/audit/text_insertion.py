"""Text insertion: whether a prompt, inserted as text into pictures of other things, raises its own score.

Every prompt is tested directly, so the evaluator needs no word for writing. All prompts and a few control words of the
study are inserted into the same pictures, in several fonts, sizes, places and colours; the control words show the
effect of any text. Latents that the text activates are readers. The fonts differ from those of bundled worlds.
Start at `Insertion`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from clipattr.attribution import ClosedFormTail
from clipattr.discovery.audit.base import Base, digest
from clipattr.discovery.audit.subject import Subject
from clipattr.discovery.encoded import Encoded, activations_of, exact_sums, summed_codes
from clipattr.discovery.findings import Interval
from clipattr.statistics import t_interval

if TYPE_CHECKING:
    from clipattr.studies.study import Study

WRITING = {"writing", "text"}  # groups by which repairs find a vocabulary's words for writing

DEFAULT = ""  # Pillow's own scalable face
# STIX comes with matplotlib, so that every machine has the same faces.
FACES = (DEFAULT, "STIXGeneralBol.ttf", "STIXGeneral.ttf", "STIXGeneralBolIta.ttf")
SIZES = (4, 5, 6)  # picture height over letter height
PLACES = (0.1, 0.5, 0.9)
LARGEST = 4  # times the model's resolution beyond which a picture is made smaller before text goes in
LEARNT_FROM = 128  # pictures written on to learn how writing moves an embedding
WAKES = 0.5  # share of a reader's codes that may be there without the text
OFTEN = 0.1  # share of the pictures with text on which a latent must fire to be a reader
CARRIES = 0.05  # share of the readers' reliance below which a latent is left out


@dataclass(frozen=True)
class Rise:
    """Effect of inserting a prompt on its own score.

    Attributes:
        inserted: rise of the contrast over the same pictures without text, raw cosine. specific: over other words.
        latents: readers, largest effect first. carried: their effect, raw cosine.
        kept: share of the readers' codes that is there without the text. n: pictures.
    """

    inserted: Interval
    specific: Interval
    latents: tuple[int, ...]
    carried: Interval
    kept: float
    share: float
    n: int


@lru_cache(maxsize=64)
def _font(face: str, size: int) -> Any:
    if face == DEFAULT:
        return ImageFont.load_default(size)
    import matplotlib

    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / face), size)


@lru_cache(maxsize=4096)
def missing_glyphs(text: str) -> str:
    """Letters that some face cannot draw: they would come out as the same empty box."""
    missing = set()
    for face in FACES:
        font = _font(face, 24)
        box = bytes(font.getmask("\U0010fffe"))
        missing |= {
            letter for letter in set(text) if not letter.isspace() and bytes(font.getmask(letter)) == box
        }
    return "".join(sorted(missing))


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


class Insertion:
    """The pictures that every prompt is inserted into, and the effect of control words in them; made once per study.

    Pictures and words are chosen by their digest, so that neither order nor number of prompts matters.

    Attributes:
        seconds: wall time that went into what all prompts share.
    """

    def __init__(self, base: Base) -> None:
        self.base, settings, self.seconds = base, base.settings, 0.0
        ids = base.study.images.ids
        loadable = np.flatnonzero(base.study.sees[base.measuring.rows]).tolist()
        order = sorted(loadable, key=lambda n: digest(ids[int(base.measuring.rows[n])]))
        self.numbers = np.array(order[: settings.inserted], dtype=np.int64)
        words = base.study.vocabulary.words
        chosen = sorted(base.rival_words.tolist(), key=lambda n: digest(words[n]))
        fitting = (n for n in chosen if 3 <= len(words[n]) <= 12 and not missing_glyphs(words[n]))
        self.controls = list(islice(fitting, settings.controls + 2))

    @cached_property
    def pictures(self) -> list[Image.Image]:
        """The pictures without text, no larger than the model needs."""
        begun, most = time.monotonic(), LARGEST * max(self.base.study.model.image_size)
        made = []
        for row in self.base.measuring.rows[self.numbers].tolist():
            picture = self.base.study.images[int(row)].load().convert("RGB")
            picture.thumbnail((most, most))
            made.append(picture)
        self.seconds += time.monotonic() - begun
        return made

    @cached_property
    def bare(self) -> Tensor:
        """(pictures, width) activations without text."""
        pictures, begun = self.pictures, time.monotonic()
        made = activations_of(self.base.study, pictures).cpu()
        self.seconds += time.monotonic() - begun
        return made

    def with_text(self, text: str, start: int = 0, stop: int | None = None) -> Tensor:
        """(some, width) activations of the pictures start to stop with a text on them."""
        some = list(enumerate(self.pictures))[start:stop]
        return activations_of(self.base.study, (written(picture, text, n) for n, picture in some)).cpu()

    @cached_property
    def others(self) -> dict[int, Tensor]:
        """By control word (pictures, width) activations with that word on them."""
        words, begun = self.base.study.vocabulary.words, time.monotonic()
        made = {word: self.with_text(words[word]) for word in self.controls}
        self.seconds += time.monotonic() - begun
        return made

    def ask(self, subject: Subject) -> tuple[Rise | None, int, str, float | None]:
        """Insert a prompt.

        Returns:
            the effect, None where the test is hopeless or impossible; the forward passes; the reason for None; and the
            mean rise of the contrast on the first pictures, raw cosine, whatever the dictionary.
        """
        base, settings, text = self.base, self.base.settings, subject.prompt.text
        if letters := missing_glyphs(text):
            return None, 0, f"the fonts have no glyph for {letters[:12]!r}", None
        other = torch.from_numpy(
            ~np.isin(self.numbers, np.flatnonzero((subject.measuring.own | subject.measuring.clear).numpy()))
        )
        if int(other.sum()) < settings.few or not subject.unit > 0:
            return None, 0, "too few pictures of other things to insert it into", None
        tail, least = subject.tail(base), settings.least_rise * subject.unit
        before = tail.values(self.bare)[:, 0].cpu()
        first = min(settings.first, len(self.numbers))
        acts = self.with_text(text, 0, first)
        some = other[:first]
        gain = (tail.values(acts)[:, 0].cpu() - before[:first])[some]
        if len(gain) < 3:
            return None, first, "too few pictures of other things to insert it into", None
        mean = float(gain.mean())
        if t_interval(gain).high < least or first == len(self.numbers):
            return None, first, "", mean
        acts = torch.cat([acts, self.with_text(text, first)])
        after = tail.values(acts)[:, 0].cpu()
        controls = [n for n in self.controls if n not in subject.same and n != subject.word][
            : settings.controls
        ]
        against = (
            torch.stack([tail.values(self.others[n])[:, 0].cpu() for n in controls]).mean(0)
            if controls
            else before
        )
        rise = self._rise(subject, tail, acts, other, after - before, after - against)
        return rise, len(self.numbers), "", mean

    def _rise(
        self, subject: Subject, tail: ClosedFormTail, acts: Tensor, other: Tensor, gain: Tensor, over: Tensor
    ) -> Rise:
        base = self.base
        acts, numbers = acts[other], self.numbers[other.numpy()]
        codes = base.study.dictionary.encode(acts)
        carried = (exact_sums(tail, acts, codes)[0][:, 0].cpu() / len(acts)).numpy()
        after, before = codes.to_scipy(), base.measuring.codes[numbers]
        strength, without = (np.asarray(some.sum(0)).ravel() for some in (after, before))
        fires = np.asarray((after > 0).sum(0)).ravel() >= max(3, OFTEN * len(acts))
        wakes = np.flatnonzero(fires & (without <= WAKES * strength) & (carried > 0))
        ordered = wakes[np.argsort(-carried[wakes], kind="stable")]
        kept = [int(j) for j in ordered if carried[j] >= CARRIES * carried[wakes].sum()]
        fixed = codes.to_fixed()
        single = tail.exact(acts, fixed)[..., 0].cpu()
        inside = torch.isin(fixed.indices.long(), torch.tensor(kept)) & (fixed.values != 0)
        positive = single.clamp_min(0)
        there = float(summed_codes(codes, kept).sum()) if kept else 0.0
        return Rise(
            t_interval(gain[other]), t_interval(over[other]), tuple(kept),
            t_interval((single * inside).sum(1)),
            float(without[kept].sum() / there) if there > 0 else float("nan"),
            float((positive * inside).sum() / positive.sum().clamp_min(1e-12)), len(acts),
        )  # fmt: skip


def moved_by_writing(study: Study, pictures: Encoded, text: str, bare: Tensor) -> Tensor:
    """How far writing a text on pictures moves their embeddings on average, (embed,).

    Args:
        pictures: of the study. bare: (pictures,) bool, those that may be written on; `LEARNT_FROM` of them are.
    """
    places = _evenly(np.flatnonzero(bare.numpy()), LEARNT_FROM)
    changed = (written(pictures.images[int(place)].load(), text, n) for n, place in enumerate(places))
    after = study.model.encode_image(torch.stack([study.model.prepare(picture) for picture in changed]))
    return (after.float().cpu() - pictures.embeddings[torch.from_numpy(places)]).mean(0)
