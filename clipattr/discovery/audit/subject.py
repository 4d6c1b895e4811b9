"""Subject: one prompt in an audit: its own pictures, the pictures that show it, and how far they score above others.

A prompt's own pictures are those with its label; without labels those for which the audited model answers the prompt,
among all words of the study. Both depend on the study alone. Start at `Subject.of`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from clipattr.attribution import ClosedFormTail
from clipattr.discovery.audit.base import Base, Half, near_texts, plain
from clipattr.discovery.audit.expectations import Prompt

LABELS, ANSWERS = "labels", "the audited model's answers"
EQUAL = 1e-6  # by which the cosine of two float32 copies of one text may differ from 1


@dataclass(frozen=True)
class Side:
    """A prompt on one half; each (n,).

    Attributes:
        own: bool, the prompt's own pictures. clear: bool, the evaluator sees the prompt rather than other words.
        shown: bool, or at least among the best words.
        contrast: raw cosine over the mean text of the study.
    """

    own: Tensor
    clear: Tensor
    shown: Tensor
    contrast: Tensor

    @property
    def elsewhere(self) -> Tensor:
        """(n,) bool: neither the prompt's own nor seen as it."""
        return ~self.own & ~self.shown


@dataclass(frozen=True)
class Subject:
    """A prompt with its values on both halves.

    Attributes:
        prompt: what is asked. word: its number in the vocabulary, None if it is not there.
        same: numbers of the words that are another name of it. column: (embed,) direction of its contrast.
        text: (embed,) the audited model's. mode: where its own pictures come from.
        finding, measuring: the halves. unit: raw cosine by which its own pictures that show it lie above all others.
        spread: deviation of the contrast on other pictures, raw cosine.
    """

    prompt: Prompt
    word: int | None
    same: frozenset[int]
    column: Tensor
    text: Tensor
    meant: Tensor
    mode: str
    finding: Side
    measuring: Side
    unit: float
    spread: float

    @property
    def purity(self) -> float:
        """Share of its own pictures in which the evaluator sees the prompt; NaN without pictures."""
        own = self.finding.own
        return float(self.finding.shown[own].float().mean()) if own.any() else float("nan")

    @classmethod
    def of(cls, base: Base, prompt: Prompt) -> Subject:
        """Look at one prompt."""
        study, settings = base.study, base.settings
        text = base.text([prompt.text])[0]
        meant = (
            study.evaluator.encode_text([prompt.means or prompt.text], templates=base.templates).float().cpu()
        )
        meant = base.concepts.texts(meant)[0]
        word = base.word_of(prompt.means or prompt.text)
        ids = study.vocabulary.ids
        same = _same(base, text, meant)
        if prompt.means is not None and word is not None:
            same.add(word)
        spelled = base.word_of(prompt.text) if prompt.means is None else None
        if spelled is not None:
            same |= {n for n, known in enumerate(ids) if known and known == ids[spelled]} | {spelled}
        column = text - base.background
        labelled = _labels(base, prompt)
        sides, mode = [], LABELS
        for half, by_label in zip((base.finding, base.measuring), labelled, strict=True):
            sides.append((half, by_label))
        if min(int(by_label.sum()) for _, by_label in sides) < settings.few:
            mode = ANSWERS
        rivals = _not_near(base, text, frozenset(same))
        made = [
            _side(base, half, by_label if mode == LABELS else None, column, meant, frozenset(same), rivals)
            for half, by_label in sides
        ]
        finding, measuring = made
        real = finding.own & finding.shown
        level = finding.contrast[real if int(real.sum()) >= settings.few else finding.own]
        rest = finding.contrast[~finding.own]
        unit = float(level.mean() - rest.mean()) if len(level) and len(rest) else float("nan")
        spread = float(rest.std()) if len(rest) > 1 else float("nan")
        return cls(prompt, word, frozenset(same), column, text, meant, mode, finding, measuring, unit, spread)

    def same_text(self, base: Base) -> tuple[str, ...]:
        """Words of the vocabulary spelled otherwise that have the prompt's text embedding: words that the audited model
        does not know, or texts longer than it reads."""
        equal = torch.from_numpy(base.rival_words)[base.rival_text @ self.text >= 1 - EQUAL]
        words = [base.study.vocabulary.words[word] for word in equal.tolist()]
        return tuple(word for word in words if plain(word) != plain(self.prompt.text))

    def tail(self, base: Base) -> ClosedFormTail:
        """The closed form aimed at this prompt's contrast."""
        return base.aimed(self.column)


def _labels(base: Base, prompt: Prompt) -> list[Tensor]:
    """For each half (n,) bool: which pictures have the prompt's label, up to spelling or by its word's id."""
    names = {plain(prompt.text)}
    word = base.word_of(prompt.text)
    if word is not None and base.study.vocabulary.ids[word]:
        names.add(plain(str(base.study.vocabulary.ids[word])))
    labels, forms = base.labels
    wanted = [forms[name] for name in names if name in forms]
    return [torch.from_numpy(np.isin(labels[half.rows], wanted)) for half in (base.finding, base.measuring)]


def _same(base: Base, text: Tensor, meant: Tensor) -> set[int]:
    """Numbers of the words that both models take for another name of a prompt; a small text tower alone is
    unreliable."""
    near = near_texts(base.rival_text, text, base.background) >= base.settings.same_text
    words = torch.from_numpy(base.rival_words)[near]
    alike = base.concepts.words[words] @ meant >= base.settings.same_text
    return set(words[alike].tolist())


def _not_near(base: Base, text: Tensor, same: frozenset[int]) -> Tensor:
    """(words,) bool: which words compete with a prompt; its other names, to either model, do not."""
    competes = torch.zeros(len(base.study.vocabulary), dtype=torch.bool)
    near = near_texts(base.rival_text, text, base.background) >= base.settings.same_text
    competes[torch.from_numpy(base.rival_words)[~near]] = True
    if same:
        competes[list(same)] = False
    return competes


def _side(
    base: Base,
    half: Half,
    labelled: Tensor | None,
    column: Tensor,
    meant: Tensor,
    same: frozenset[int],
    competes: Tensor,
) -> Side:
    contrast = base.scores(half, column)
    own = answers(half, contrast + base.mean_score(half), competes) if labelled is None else labelled
    return Side(own, *shows(base, half, meant, same), contrast)


def answers(half: Half, similarity: Tensor, competes: Tensor) -> Tensor:
    """(n,) bool: for which pictures no competing word is more similar than the prompt, to the audited model.

    Args:
        similarity: (n,) of the prompt. competes: (words,) bool.
    """
    against = torch.where(competes[half.rival], half.rival_score, -torch.inf).amax(1)
    return (similarity >= against - 1e-6) & against.isfinite()


def shows(base: Base, half: Half, meant: Tensor, same: frozenset[int] = frozenset()) -> tuple[Tensor, Tensor]:
    """In which pictures the evaluator sees a text: rather than other words, and at least among its best words.

    Args:
        meant: (embed,) of `Concepts.texts`. same: numbers of the words that say the same.
    """
    cosine = base.along(half, meant)
    weight = base.concepts.weight_of(meant, cosine, half.seen)
    if same:
        weight = torch.maximum(
            weight, torch.from_numpy(half.seen_by_word[:, sorted(same)].max(1).toarray().ravel())
        )
    clear = weight > base.settings.seen
    return clear, clear | (cosine >= half.bar - 1e-6)


def seen_word(base: Base, half: Half, word: int) -> tuple[Tensor, Tensor]:
    """(n,) bool each: in which pictures a word of the vocabulary is seen, and surely seen."""
    column = torch.from_numpy(half.seen_by_word[:, [word]].toarray()[:, 0])
    seen, surely = column > base.settings.seen, column > base.settings.surely
    return seen, surely if int(surely.sum()) >= base.settings.few else seen
