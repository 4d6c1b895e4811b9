"""Evidence for one suspected reliance, each a number with an interval, measured on pictures that did not raise it.

Owns the measurements: causal effect of the family, its presence on the prompt's pictures, whether what the prompt
should rest on is there as well, what happens on other pictures, where in the picture the family sits. Ignores how
suspects are chosen and what they are called. Start at `gather`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor

from clipattr.discovery.audit.occlusion import Covering, windows
from clipattr.discovery.audit.presence import BEST, gap, shown, ways
from clipattr.discovery.audit.reliance import FEW, Half, Reliance
from clipattr.discovery.audit.selectivity import meet
from clipattr.discovery.audit.text_insertion import Rise, Writing
from clipattr.discovery.encoded import activations_of, summed_codes
from clipattr.discovery.findings import Interval
from clipattr.discovery.statistics import auc, clarity_of, interval

if TYPE_CHECKING:
    from clipattr.studies.study import Study

STEPS, HALF = 3, 0.5  # windows across and down, and their side, when asking where a family sits
OCCLUDED = 4  # pictures occluded for one family


@dataclass(frozen=True)
class Evidence:
    """What was measured for one prompt and family.

    Attributes:
        on_own: the suspicion is about the prompt's own pictures; else about pictures that show the family alone.
        own_pictures: how many pictures of the measuring half are the prompt's own.
        pictures: numbers of the measured pictures in the measuring half.
        reliance: mean single-latent exact ablation summed over the family, raw cosine of the prompt's contrast.
        causal_effect: fall of the contrast when the whole family is ablated at once, raw cosine.
        presence: share of the prompt's own pictures on which the family is active, 0 to 1.
        seen: how much of the family's meaning the evaluator sees in the measured pictures, against the pictures that
            fit this meaning best (1) and all pictures (0). Low: the latents fire there for another reason than their
            best examples suggest, for instance a colour that two things share.
        together: share of the measured pictures in which the evaluator also sees the prompt, 0 to 1.
        elsewhere: the same causal effect on pictures that show the family but are not the prompt's.
        standing: mean contrast on those pictures over the mean contrast on the prompt's own pictures. Near 1: the
            family alone passes for the prompt.
        separation: how well the family's strength tells such pictures' contrast apart, as an area under the ROC curve.
        share: of the positive evidence on the measured pictures, 0 to 1.
        clarity: mean pairwise cosine of the family's strongest pictures by the evaluator.
        focus: largest share of the family's strength that goes when one quarter of the picture is covered, 0 to 1;
            NaN if not measured.
        presence_elsewhere: share of other pictures on which the family is active.
        shown: share of the prompt's own pictures in which the evaluator sees the family's meaning; shown_elsewhere:
            the same for all other pictures.
        beside: share of those own pictures in which the evaluator sees the prompt itself as well, 0 to 1; near 0 where
            the meaning stands in the prompt's place.
        left: share of the family's summed codes that is left on own pictures when the place where the evaluator sees
            the meaning is covered; NaN where it has no place of its own, or that was not asked.
        rise: what writing the prompt on other pictures does; None where that was not asked.
    """

    on_own: bool
    own_pictures: int
    pictures: Tensor
    reliance: Interval
    causal_effect: Interval
    presence: float
    presence_elsewhere: float
    seen: float
    together: float
    elsewhere: Interval
    standing: float
    separation: float
    share: float
    clarity: float
    shown: float
    shown_elsewhere: float
    beside: float
    left: float = math.nan
    rise: Rise | None = None
    focus: float = math.nan


class Witness:
    """Measures families against prompts on one half of a study; what several findings need is computed once."""

    def __init__(
        self,
        reliance: Reliance,
        half: Half,
        prompt_text: Tensor,
        family_meaning: Tensor,
        covered_pictures: int = 0,
        written_pictures: int = 0,
    ) -> None:
        """Prepare one half.

        Args:
            prompt_text: (prompts, embed), family_meaning: (families, embed): what the evaluator takes the prompts and
                the families to mean, unit length.
            covered_pictures: how many are covered to see whether a family depends on its meaning's place.
            written_pictures: how many other pictures a prompt is written on.
        """
        self.reliance, self.half = reliance, half
        self.contrast = reliance.contrasts(half)  # (pictures, prompts)
        self.pictures = reliance.study.seen(half.rows)  # the evaluator's, (pictures, embed)
        self.prompt_text, self.family_meaning = prompt_text, family_meaning
        self._focus: dict[int, float] = {}
        self.covered_pictures = covered_pictures
        self.writing = Writing(reliance, half, written_pictures)

    def strength(self, family: int) -> Tensor:
        """(pictures,) summed codes of a family."""
        return torch.from_numpy(self.half.strength[:, [family]].toarray()[:, 0])

    def causal(self, numbers: Tensor, family: int, prompt: int) -> Tensor:
        """(pictures,) exact fall of the prompt's contrast when the whole family is ablated."""
        reliance = self.reliance
        codes = reliance.study.codes.rows(torch.from_numpy(self.half.rows[numbers.numpy()])).to_fixed()
        tail = reliance.tail.aimed_at(reliance.columns[:, [prompt]])
        return tail.exact_group(reliance.acts(self.half, numbers), codes, [reliance.families[family]])[
            :, 0, 0
        ]

    def single(self, numbers: Tensor, family: int, prompt: int) -> tuple[Tensor, Tensor, Tensor]:
        """(pictures,) each: summed single-latent effects of the family, its positive part, all positive evidence."""
        latent, effect = self.reliance.effects(self.half, numbers, [prompt])
        effect = effect[..., 0]
        inside = torch.isin(latent, torch.as_tensor(self.reliance.families[family]))
        positive = effect.clamp_min(0)
        return (effect * inside).sum(1), (positive * inside).sum(1), positive.sum(1)

    def seen(self, numbers: Tensor, family: int) -> float:
        """How much of the family's meaning the evaluator sees in some pictures: 0 as in all, 1 as in its very best.

        Pictures count by how strongly they show the family, since that is where the reliance lies.
        """
        similar = self.pictures @ self.family_meaning[family]
        weight = self.strength(family)[numbers]
        total = weight.sum()
        best = similar.topk(min(BEST, len(similar))).values.mean()
        if total <= 0 or best - similar.mean() < 1e-6:
            return math.nan
        here = (similar[numbers] * weight).sum() / total
        return float((here - similar.mean()) / (best - similar.mean()))

    def together(self, numbers: Tensor, prompt: int) -> float:
        """Share of some pictures in which the evaluator sees the prompt, at least half as well as in its best."""
        own = self.half.own[prompt]
        if len(own) < FEW:
            return math.nan
        similar = self.pictures @ self.prompt_text[prompt]
        bound = (similar.mean() + similar[own].quantile(0.9)) / 2
        return float((similar[numbers] > bound).float().mean())

    def shows(self, family: int) -> Tensor:
        """(pictures,) bool: in which pictures the evaluator sees the family's meaning."""
        return shown(self.pictures, self.family_meaning[family : family + 1])[:, 0]

    def beside(self, family: int, prompt: int) -> float:
        """Share of the prompt's own pictures that show the family's meaning and the prompt itself as well."""
        meanings = torch.stack([self.prompt_text[prompt], self.family_meaning[family]])
        way = ways(self.pictures, meanings)
        seen, is_own = way > gap(way), self.half.is_own(prompt)
        meeting = meet(is_own, seen[:, 1], seen[:, 0], way[:, 1], way[:, 0])
        if meeting is None:
            return math.nan
        there = meeting.meaning & is_own
        return float(meeting.prompt[there].float().mean()) if there.sum() >= FEW else math.nan

    def left(self, family: int, prompt: int) -> float:
        """Share of a family's codes that covering its meaning leaves on the prompt's own pictures."""
        meaning = self.family_meaning[family]
        shows = self.half.is_own(prompt) & self.shows(family)
        covering = Covering(self.reliance.study, self.half.rows, self.pictures, self.covered_pictures)
        covered = covering.cover(shows, self.pictures @ meaning, self.prompt_text[prompt], meaning)
        return math.nan if covered is None else float(covered.left(self.reliance.families[family]))

    def concerned(self, family: int, prompt: int, on_own: bool) -> Tensor:
        """Numbers of the pictures that a suspicion is about: the prompt's that show the family, or others that do.

        Of the prompt's own, those in which the evaluator sees the family's meaning as well, if they are enough; and
        where the family hardly ever fires, those in which the meaning is seen.
        """
        if on_own:
            own = self.half.own[prompt]
            active, showing = self.strength(family)[own] > 0, self.shows(family)[own]
            choices = (own[some] for some in (active & showing, active, showing))
            return next((some for some in choices if len(some) >= FEW), own[active])
        shown = self.reliance.where_strong(self.half, family)
        return shown[~torch.isin(shown, self.half.own[prompt])]

    def focus(self, family: int) -> float:
        """Largest share of the family's strength that goes when a window of a quarter of the picture is covered.

        Near 1 for a thing at one place, near a quarter for a texture that is everywhere.
        """
        if family not in self._focus:
            self._focus[family] = self._measure_focus(family)
        return self._focus[family]

    def _measure_focus(self, family: int) -> float:
        study: Study = self.reliance.study
        numbers = self.reliance.where_strong(self.half, family, OCCLUDED)
        numbers = numbers[torch.from_numpy(study.sees[self.half.rows[numbers.numpy()]])]
        if not len(numbers):
            return math.nan
        pictures = [study.images[int(row)].load() for row in self.half.rows[numbers.numpy()]]
        covered = [version for picture in pictures for version in windows(picture, STEPS, HALF)]
        left = self._strength_of(covered, family).view(len(pictures), -1)  # first column: nothing covered
        lost = ((left[:, :1] - left[:, 1:]) / left[:, :1].clamp_min(1e-9)).clamp(0, 1)
        return float(lost.amax(1).mean())

    def _strength_of(self, pictures: list[Image.Image], family: int) -> Tensor:
        """(pictures,) summed codes of a family on pictures that are not in the study."""
        study = self.reliance.study
        codes = study.dictionary.encode(activations_of(study, pictures))
        return summed_codes(codes, self.reliance.families[family])

    def gather(self, family: int, prompt: int, on_own: bool) -> Evidence | None:
        """All evidence for one suspicion but its focus, which costs forward passes; None for too few pictures."""
        pictures = self.concerned(family, prompt, on_own)
        if len(pictures) < FEW:
            return None
        own, others = self.half.own[prompt], self.concerned(family, prompt, on_own=False)
        active = self.strength(family) > 0
        is_own = self.half.is_own(prompt)
        single, family_positive, all_positive = self.single(pictures, family, prompt)
        contrast = self.contrast[:, prompt]
        own_level = contrast[own].mean().item() if len(own) else math.nan
        shows = self.shows(family)
        not_own = ~is_own
        strongly = torch.zeros_like(is_own)
        strongly[others] = True
        return Evidence(
            on_own=on_own,
            own_pictures=len(own),
            pictures=pictures,
            reliance=interval(single),
            causal_effect=interval(self.causal(pictures, family, prompt)),
            presence=float(active[own].float().mean()) if len(own) else 0.0,
            presence_elsewhere=float(active[not_own].float().mean()) if not_own.any() else 0.0,
            seen=self.seen(pictures, family),
            together=self.together(pictures, prompt),
            elsewhere=interval(self.causal(others, family, prompt))
            if len(others)
            else interval(torch.zeros(0)),
            standing=float(contrast[others].mean() / own_level)
            if len(others) and own_level > 0
            else math.nan,
            separation=auc(contrast[not_own].numpy(), strongly[not_own].numpy()),
            share=float(family_positive.sum() / all_positive.sum().clamp_min(1e-12)),
            clarity=clarity_of(self.pictures[self.reliance.where_strong(self.half, family, 20)]),
            shown=float(shows[own].float().mean()) if len(own) else math.nan,
            shown_elsewhere=float(shows[not_own].float().mean()) if not_own.any() else math.nan,
            beside=self.beside(family, prompt),
        )
