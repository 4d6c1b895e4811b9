"""Pairing: whether findings of two audits concern one cause, and whether a model changed on the pictures of a cause.

Latent numbers mean nothing across dictionaries, and words change with them. So causes are compared by what the
families respond to: the evaluator's embedding of their strongest pictures, and the pictures they were measured on.
Models are compared on the pictures themselves, without any dictionary. Ignores what follows from it (`gate.py`). Start
at `Pairing`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from clipattr.discovery.opened import Opener
from clipattr.errors import DataError
from clipattr.execution.engine import in_pieces
from clipattr.sites import continue_from
from clipattr.storage.arrays import load_array
from clipattr.studies.belonging import MOST_BITS

if TYPE_CHECKING:
    from clipattr.discovery.findings import Finding
    from clipattr.studies.study import Study

# Cosine of the centred mean embeddings of two families' examples, from which they are one cause; see
# docs/decisions/gate.md.
SAME_EXAMPLES = 0.7
SAME_PICTURES = (
    0.5  # share of the smaller set of measured pictures that both findings have, from which they are one
)
CENTRE = 4096  # pictures whose mean is the evaluator's centre
FEW = 5  # pictures below which a level is not compared
SAME_COLLECTION = 0.9  # share of the pictures that two studies or audits must have in common
BLOCK = 2048  # pictures embedded at a time
WRITTEN = 32  # pictures that a prompt is written on


class Pairing:
    """Findings compared on the pictures of one study.

    Args:
        study: the audited study; None compares by word and kind only.
    """

    def __init__(self, study: Study | None) -> None:
        self.study = study
        self._centre: Tensor | None = None
        self._rows = {} if study is None else {name: row for row, name in enumerate(study.images.ids)}

    def reason(self, one: Finding, other: Finding, same_dictionary: bool = False) -> str:
        """Why two findings concern one prompt and cause: "latents", "word", "pictures", "examples"; "" if not."""
        if one.prompt != other.prompt or one.by_writing != other.by_writing:
            return ""
        if same_dictionary:
            return "latents" if set(one.latents) & set(other.latents) else ""
        if one.by_writing:
            return "written"
        if (
            one.label is not None
            and other.label is not None
            and one.label.casefold() == other.label.casefold()
        ):
            return "word"
        if _measured_elsewhere(one) and _measured_elsewhere(other):
            a, b = set(_pictures(one)), set(_pictures(other))
            if len(a & b) >= max(1, SAME_PICTURES * min(len(a), len(b))):
                return "pictures"
        if self.likeness(one, other) >= SAME_EXAMPLES:
            return "examples"
        if self.study is None and one.label is None and other.label is None and one.kind == other.kind:
            return "kind"
        return ""

    def likeness(self, one: Finding, other: Finding) -> float:
        """Cosine of the centred mean evaluator embeddings of two families' examples; 0 without the pictures."""
        means = [self._mean(finding.examples) for finding in (one, other)]
        if means[0] is None or means[1] is None:
            return 0.0
        return float(F.cosine_similarity(means[0], means[1], dim=0))

    def _mean(self, names: Sequence[str]) -> Tensor | None:
        rows = [self._rows[name] for name in names if name in self._rows]
        if self.study is None or not rows:
            return None
        if self._centre is None:
            n = len(self.study.images)
            evenly = np.linspace(0, n - 1, min(n, CENTRE)).astype(int)
            self._centre = self.study.seen(evenly).float().mean(0)
        return self.study.seen(np.array(rows)).float().mean(0) - self._centre


class Levels:
    """How high pictures score for prompts in a study: the audited model alone, whatever the dictionary.

    Scores are raw cosines with the prompt minus the mean over the study's vocabulary.
    """

    def __init__(self, study: Study) -> None:
        self.study = study
        self._rows = {name: row for row, name in enumerate(study.images.ids)}
        self._embedded: Tensor | None = None
        self._background: Tensor | None = None
        self._scores: dict[str, Tensor] = {}

    def of(self, finding: Finding) -> float:
        """Mean score of the pictures of a finding's cause minus the mean of all pictures; NaN with too few of them.

        The pictures are those the effect was measured on, if they do not show the prompt; else the family's examples.
        For a finding by text insertion it is what writing the prompt adds, see `written`.
        """
        if finding.by_writing:
            return self.written(finding.prompt)
        names = _pictures(finding) if _measured_elsewhere(finding) else finding.examples
        rows = [self._rows[name] for name in names if name in self._rows]
        if len(rows) < FEW:
            return float("nan")
        scores = self.scores(finding.prompt)
        return float(scores[rows].mean() - scores.mean())

    def written(self, prompt: str) -> float:
        """Mean rise of the score when the prompt is written on pictures, minus that with another word.

        Pictures are spread evenly over the collection, and the other word is the one of the vocabulary whose length is
        nearest. NaN if the study has no pictures to write on.
        """
        study = self.study
        rows = np.unique(np.linspace(0, len(study.images) - 1, WRITTEN).round().astype(int))
        words = [word for word in study.vocabulary.words if word.casefold() not in prompt.casefold()]
        opened = Opener(study.images).first(rows[study.had[rows]], len(rows))
        if len(opened) < FEW or not words:
            return float("nan")
        control = min(words, key=lambda word: (abs(len(word) - len(prompt)), word))
        column = self._column(prompt)
        pictures = [picture.convert("RGB") for _, picture in opened]
        means = []
        for text in (prompt, control):
            batch = torch.stack([study.model.prepare(_with_text(picture, text)) for picture in pictures])
            means.append(float((in_pieces(study.model.encode_image, batch).float().cpu() @ column).mean()))
        return means[0] - means[1]

    @torch.no_grad()
    def scores(self, prompt: str) -> Tensor:
        """(pictures,) raw cosine of every picture with a prompt, minus its mean cosine with the vocabulary."""
        if prompt not in self._scores:
            self._scores[prompt] = self._embeddings() @ self._column(prompt)
        return self._scores[prompt]

    def _column(self, prompt: str) -> Tensor:
        """(embed,) text embedding of a prompt minus the mean over the vocabulary."""
        model, plan = self.study.model, self.study.manifest.get("plan", {})
        templates = tuple(plan.get("meaning", {}).get("templates") or ("{}",))
        if self._background is None:
            words = model.encode_text(self.study.vocabulary.prompts, templates=templates).float().cpu()
            self._background = (
                words.double().mean(0).float() if len(words) > 1 else torch.zeros_like(words[0])
            )
        return model.encode_text([prompt], templates=templates).float().cpu()[0] - self._background

    def _embeddings(self) -> Tensor:
        if self._embedded is None:
            study, parts = self.study, []
            for start in range(0, len(study.images), BLOCK):
                acts = np.asarray(study.activations[start : start + BLOCK], dtype=np.float32)
                parts.append(continue_from(study.model, study.site, torch.from_numpy(acts)).float().cpu())
            self._embedded = torch.cat(parts)
        return self._embedded


def require_same_pictures(study: Study, previous: Study) -> None:
    """Check that two studies are of the same pictures, by ids and by what is kept of the pixels.

    Raises:
        DataError: fewer than `SAME_COLLECTION` of the study's pictures are in the other one, or pictures of one id look
            different.
    """
    places = {name: row for row, name in enumerate(previous.images.ids)}
    shared = [(row, places[name]) for row, name in enumerate(study.images.ids) if name in places]
    ours, theirs = (load_array(s.path / "fingerprints.npy", len(s.images)) for s in (study, previous))
    other = sum((int(ours[a]) ^ int(theirs[b])).bit_count() > MOST_BITS for a, b in shared)
    if len(shared) - other < SAME_COLLECTION * len(study.images):
        raise DataError(
            f"The previous study {str(previous.path)!r} is of other pictures: {len(study.images) - len(shared):,} of "
            f"{len(study.images):,} are not in it, and {other:,} look different. Build a study of the released model "
            "on these pictures."
        )


def _with_text(picture: Image.Image, text: str) -> Image.Image:
    """A copy with a text across its lower half, black on white, as wide as it fits."""
    made = picture.copy()
    text = " ".join(text.split())  # Pillow measures single lines only
    draw = ImageDraw.Draw(made)
    size = max(8, made.height // 5)
    while size > 6 and draw.textlength(text, ImageFont.load_default(size)) > 0.9 * made.width:
        size -= 1
    font = ImageFont.load_default(size)
    centre = (made.width / 2, 0.75 * made.height)
    left, top, right, bottom = draw.textbbox(centre, text, font, anchor="mm")
    margin = size // 4
    draw.rectangle((left - margin, top - margin, right + margin, bottom + margin), fill="white")
    draw.text(centre, text, "black", font, anchor="mm")
    return made


def _pictures(finding: Finding) -> tuple[str, ...]:
    named = finding.evidence.get("prompt_examples")
    return tuple(str(name) for name in named) if isinstance(named, (list, tuple)) else ()


def _measured_elsewhere(finding: Finding) -> bool:
    """Whether the effect was measured on pictures that do not show the prompt."""
    return bool(finding.evidence.get("instead")) and len(_pictures(finding)) >= FEW
