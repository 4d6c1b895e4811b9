"""Text insertion: whether a prompt, inserted as text into pictures of other objects, raises its own score.

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
from clipattr.discovery.audit.stopping import hopeless, looks_of
from clipattr.discovery.audit.subject import Subject
from clipattr.discovery.encoded import Encoded, activations_of, exact_sums, summed_codes
from clipattr.discovery.findings import Interval
from clipattr.discovery.opened import Opener
from clipattr.errors import DataError
from clipattr.execution.engine import in_pieces
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
    text = " ".join(text.split())  # Pillow measures single lines only
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
        seconds: wall time that went into what all prompts share. opener: of these pictures; its `gone` are missing.
    """

    def __init__(self, base: Base) -> None:
        self.base, settings, self.seconds = base, base.settings, 0.0
        self.opener = Opener(base.study.images)
        self._shared: dict[tuple[int | None, int], Tensor] = {}
        words = base.study.vocabulary.words
        chosen = sorted(base.rival_words.tolist(), key=lambda n: digest(words[n]))
        fitting = (n for n in chosen if 3 <= len(words[n]) <= 12 and not missing_glyphs(words[n]))
        self.controls = list(islice(fitting, settings.controls + 2))

    @cached_property
    def _opened(self) -> tuple[np.ndarray, list[Image.Image]]:
        base, most = self.base, LARGEST * max(self.base.study.model.image_size)
        begun, ids, rows = time.monotonic(), base.study.images.ids, base.measuring.rows
        some = np.flatnonzero(base.study.had[rows]).tolist()
        order = np.array(sorted(some, key=lambda n: digest(ids[int(rows[n])])), dtype=np.int64)
        opened = self.opener.first(rows[order], base.settings.inserted)
        made = [picture.convert("RGB") for _, picture in opened]
        for picture in made:
            picture.thumbnail((most, most))
        self.seconds += time.monotonic() - begun
        return order[[place for place, _ in opened]], made

    @property
    def numbers(self) -> np.ndarray:
        """(pictures,) their numbers in the measuring half."""
        return self._opened[0]

    @property
    def pictures(self) -> list[Image.Image]:
        """The pictures without text, no larger than the model needs."""
        return self._opened[1]

    @property
    def short(self) -> bool:
        """Whether pictures are missing that could not be replaced."""
        return bool(self.opener.gone) and len(self.numbers) < self.base.settings.inserted

    @property
    def bare(self) -> Tensor:
        """(pictures, width) activations without text."""
        return self.shared(None, len(self.numbers))

    @property
    def looks(self) -> list[int]:
        """Numbers of pictures after which a prompt may be given up."""
        return looks_of(self.base.settings.first, len(self.numbers))

    def shared(self, word: int | None, stop: int) -> Tensor:
        """(stop, width) activations of the first pictures, with a word of the vocabulary on them or, None, without.

        Made from look to look and kept: in the same pieces whichever prompt asks, so that their last digits agree.
        """
        parts = []
        ends = [*self.looks, len(self.numbers)]
        for start, end in zip([0, *ends], ends, strict=False):
            if start >= stop:
                break
            if (word, start) not in self._shared:
                begun = time.monotonic()
                some = self.pictures[start:end]
                self._shared[word, start] = (
                    activations_of(self.base.study, some).cpu()
                    if word is None
                    else self.with_text(self.base.study.vocabulary.words[word], start, end)
                )
                self.seconds += time.monotonic() - begun
            parts.append(self._shared[word, start])
        return torch.cat(parts)[:stop]

    def with_text(self, text: str, start: int = 0, stop: int | None = None) -> Tensor:
        """(some, width) activations of the pictures start to stop with a text on them."""
        some = list(enumerate(self.pictures))[start:stop]
        return activations_of(self.base.study, (written(picture, text, n) for n, picture in some)).cpu()

    def ask(
        self, subject: Subject, pictured: bool = False
    ) -> tuple[Rise | None, int, str, float | None, tuple[float | None, ...]]:
        """Insert a prompt, into more and more pictures while that is not hopeless.

        Args:
            pictured: text is over-represented on the prompt's own pictures, so that any rise counts (`decision.reads`).

        Returns:
            the effect, None where the test is hopeless or impossible; the forward passes; the reason for None; and,
            whatever the dictionary, the mean rise of the contrast on the first pictures, and what the prompt adds to
            each of them beyond other words, None where it shows the prompt; raw cosine.
        """
        base, settings, text = self.base, self.base.settings, subject.prompt.text
        if letters := missing_glyphs(text):
            return None, 0, f"the fonts have no glyph for {letters[:12]!r}", None, ()
        numbers = self.numbers
        base.opener.gone.update(self.opener.gone)
        other = torch.from_numpy(
            ~np.isin(numbers, np.flatnonzero((subject.measuring.own | subject.measuring.clear).numpy()))
        )
        if int(other.sum()) < settings.few or not subject.unit > 0:
            return None, 0, "too few other pictures to insert it into", None, ()
        tail, first = subject.tail(base), min(settings.first, len(numbers))
        chosen = [n for n in self.controls if n not in subject.same and n != subject.word][
            : settings.controls
        ]

        def level(acts: Tensor) -> Tensor:
            return tail.values(acts)[:, 0].cpu()

        def compared(acts: Tensor) -> tuple[Tensor, Tensor]:
            """Rises over the pictures without text, and over those with other words."""
            after, before = level(acts), level(self.shared(None, len(acts)))
            controls = [level(self.shared(n, len(acts))) for n in chosen]
            return after - before, after - (torch.stack(controls).mean(0) if controls else before)

        acts = self.with_text(text, 0, first)
        gain = (level(acts) - level(self.shared(None, first)))[other[:first]]
        if len(gain) < 3:
            return None, first, "too few other pictures to insert it into", None, ()
        mean, beyond = float(gain.mean()), compared(acts)[1]
        firsts = tuple(float(v) if shows else None for v, shows in zip(beyond, other[:first], strict=True))
        if first == len(numbers):
            return None, first, "", mean, firsts
        least = 0.0 if pictured else settings.least_rise * subject.unit
        tests = 1 if pictured else 2
        for stop in self.looks:
            acts = torch.cat([acts, self.with_text(text, len(acts), stop)]) if stop > first else acts
            error, final = settings.given_up / len(self.looks) / tests, int(other.sum())
            rises = [rise[other[:stop]] for rise in compared(acts)[:tests]]
            if any(hopeless(some, least, final, error) for some in rises):
                return None, stop, "", mean, firsts
        acts = torch.cat([acts, self.with_text(text, len(acts))])
        gain, over = compared(acts)
        rise = self._rise(subject, tail, acts, other, gain, over)
        return rise, len(numbers), "", mean, firsts

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
    """How far writing a text on pictures moves their embeddings on average, (embed,); arguments as for `shifts`."""
    return shifts(study, pictures, text, bare).mean(0)


def shifts(study: Study, pictures: Encoded, text: str, bare: Tensor) -> Tensor:
    """How far writing a text on each of some pictures moves its embedding, (pictures, embed).

    Args:
        pictures: of the study. bare: (pictures,) bool, those that may be written on; `LEARNT_FROM` of them are.
    """
    places = _evenly(np.flatnonzero(bare.numpy()), LEARNT_FROM)
    opened = Opener(pictures.images).first(places, len(places))
    if not opened:
        raise DataError(f"None of the {len(places)} pictures to insert {text!r} into can be opened any more.")
    prepared = torch.stack([study.model.prepare(written(picture, text, n)) for n, picture in opened])
    after = in_pieces(study.model.encode_image, prepared).float().cpu()
    return after - pictures.embeddings[torch.from_numpy(places[[n for n, _ in opened]])]
