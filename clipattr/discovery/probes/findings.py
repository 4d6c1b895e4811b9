"""Probe findings: concepts that a classifier relies on although they do not define its class, with their mediators.

Two measurements must agree. *Comparison*: within a class, and with all other concepts of the vocabulary held equal,
pictures that show the concept have a higher margin. *Ablation*: the margin of pictures that show the concept falls when
the mediators are ablated. The comparison measures how far the concept moves the decision, and uses the evaluator alone;
the ablation shows that the effect passes through the model's latents and is no mere co-occurrence. Both are in units of
the class gap: 1 is the difference in margin between the class's own pictures and all others.

Candidates are all words that the evaluator can recognise, with or without a latent of their own, and all families of
latents without a word. Owns this measurement. Ignores accuracy and single latents (`audit.py`). Start at
`probe_findings`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from clipattr.attribution import ClosedFormTail
from clipattr.discovery.audit.expectations import expected_share, family_means
from clipattr.discovery.audit.naming import named_families
from clipattr.discovery.encoded import Encoded, exact_sums
from clipattr.discovery.findings import Finding
from clipattr.discovery.probes.matching import comparison, same
from clipattr.discovery.probes.mediators import Mediators
from clipattr.discovery.probes.presence import candidate_words, shown_family, shown_words
from clipattr.discovery.probes.probe import Probe
from clipattr.errors import StudyError
from clipattr.meaning.scores import clarity_of
from clipattr.statistics import Interval, above_zero, mean_interval, simultaneous

if TYPE_CHECKING:
    from clipattr.studies.study import Study

UNEXPECTED = 0.5  # share of the best word's alignment from which the class's name explains a concept
EXAMPLES = 12  # example pictures of a finding
CLEAREST = 20  # example pictures that clarity is measured on


@dataclass(frozen=True)
class Bounds:
    """Least effects of a reported reliance of a probe, in units of the class gap.

    Attributes:
        compared: least difference in margin between pictures of one class with and without the concept. The lower
            bound, simultaneous over all candidates with (or without) a word, must reach half of it. The estimate is
            biased towards zero where the evaluator's presence is uncertain.
        ablated: least fall of the margin when the mediators are ablated on pictures that show the concept; the lower
            bound must reach half of it.
    """

    compared: float = 0.08
    ablated: float = 0.0


@dataclass(frozen=True)
class _Candidate:
    """A concept that a class may rely on; `word`: position among the candidate words, None for a family without one."""

    word: int | None
    family: tuple[int, ...]
    label: str | None
    group: str | None
    shown: Tensor  # (pictures,)
    mean: Tensor  # (embed,) of the evaluator


@dataclass(frozen=True)
class _Reliance:
    candidate: _Candidate
    number: int  # of the class
    latents: tuple[int, ...]
    alignment: float
    compared: Interval
    ablated: Interval
    indistinct: tuple[str, ...] = ()


def probe_findings(
    study: Study, probe: Probe, pictures: Encoded, truth: Tensor, bounds: Bounds | None = None
) -> list[Finding]:
    """Unexpected reliances of a probe, largest comparison first.

    Args:
        pictures: to measure on, encoded by this study's model. truth: (pictures,) class number of each picture.

    Returns:
        findings whose latents are the mediators. Reliance and effects are raw cosines with the direction of the class's
        margin, whose length in logits is `evidence["logits_per_cosine"]`. `evidence` holds both measurements in class
        gaps, with intervals, and as `indistinct` other words that these pictures cannot distinguish from the label.

    Raises:
        StudyError: no latent has an example.
    """
    bounds = bounds or Bounds()
    if not bool((study.examples.counts > 0).any()):
        raise StudyError(
            "No latent of this study has an example: its dictionary never fires on these pictures. Build the study "
            "with another dictionary."
        )
    weights, constants = probe.margins()
    length = weights.norm(dim=0)
    weights = weights / length.clamp_min(1e-12)
    margins = pictures.embeddings @ weights + constants / length.clamp_min(1e-12)  # raw cosine
    tail = ClosedFormTail(study.model, study.dictionary, weights, site=study.site)
    words = candidate_words(study, probe.names)
    mediators = Mediators(study, words, tail)
    seen = pictures.seen(study)
    others = shown_words(study, seen, words)
    text = study.evaluator.encode_text(list(probe.names)).float()
    found: list[Finding] = []
    sorts = (_with_word(study, words, others, mediators), _without_word(study, pictures))
    for number in range(len(probe.names)):
        own = truth == number
        gap = (
            float(margins[own, number].mean() - margins[~own, number].mean())
            if 0 < own.sum() < len(own)
            else 0.0
        )
        if gap <= 0:  # the probe does not separate this class
            continue
        kept: list[_Reliance] = []
        for candidates in sorts:
            unexpected = _unexpected(study, candidates, text[[number]])
            measured = [
                (some, aligned, comparison(margins[:, number], truth, some.shown, others))
                for some, aligned in unexpected
            ]
            for some, aligned, compared in measured:
                if not _holds(simultaneous(compared, len(measured)), bounds.compared * gap):
                    continue
                latents = some.family if some.word is None else tuple(mediators.of(some.word, number))
                if not latents:
                    continue
                rows = torch.nonzero(some.shown > 0.5).flatten()
                fall = tail.exact_group(pictures.acts[rows], pictures.codes.rows(rows), [latents])
                ablated = mean_interval(fall[:, 0, number].float())
                if _holds(ablated, bounds.ablated * gap):
                    kept.append(_Reliance(some, number, latents, aligned, compared, ablated))
        share = _shares(tail, pictures, own, number)
        for reliance in _distinct(kept, truth):
            found.append(
                _finding(study, probe, pictures, reliance, tail, mediators, share, gap, float(length[number]))
            )
    return sorted(found, key=lambda f: -f.evidence["compared"]["value"])


def _with_word(study: Study, words: Sequence[int], shown: Tensor, mediators: Mediators) -> list[_Candidate]:
    vocabulary = study.vocabulary
    return [
        _Candidate(
            place, (), vocabulary.words[n], vocabulary.groups[n], shown[:, place], mediators.meaning(place)
        )
        for place, n in enumerate(words)
    ]


def _without_word(study: Study, pictures: Encoded) -> list[_Candidate]:
    """Families of latents that follow no word."""
    groups = [group for group in named_families(study) if group.label not in study.vocabulary.words]
    means = family_means(study, [group.latents for group in groups])
    return [
        _Candidate(None, tuple(group.latents), group.label, None, shown_family(pictures, group.latents), mean)
        for group, mean in zip(groups, means, strict=True)
    ]


def _unexpected(
    study: Study, candidates: Sequence[_Candidate], text: Tensor
) -> list[tuple[_Candidate, float]]:
    """Candidates that the class name, (1, embed) by the evaluator, does not explain, and their alignment with it."""
    if not candidates:
        return []
    means = torch.stack([some.mean for some in candidates])
    share, aligned = expected_share(means, text, study.vocabulary_embeddings, study.empty_embedding)
    judged = zip(candidates, share[:, 0].tolist(), aligned[:, 0].tolist(), strict=True)
    return [(some, fits) for some, part, fits in judged if part < UNEXPECTED]


def _distinct(kept: Sequence[_Reliance], truth: Tensor) -> list[_Reliance]:
    """Of concepts that these pictures do not distinguish keep the one with the largest comparison, with all words.

    Concepts with a word come first: a family of latents that co-occurs with one adds no information.
    """
    told: list[_Reliance] = []
    for one in sorted(kept, key=lambda r: (r.candidate.word is None, -r.compared.value)):
        for place, other in enumerate(told):
            if same(one.candidate.shown, other.candidate.shown, truth):
                if one.candidate.word is not None:
                    told[place] = replace(other, indistinct=(*other.indistinct, one.candidate.label or ""))
                break
        else:
            told.append(one)
    return told


def _finding(
    study: Study,
    probe: Probe,
    pictures: Encoded,
    reliance: _Reliance,
    tail: ClosedFormTail,
    mediators: Mediators,
    share: Tensor,
    gap: float,
    length: float,
) -> Finding:
    some, number, latents = reliance.candidate, reliance.number, reliance.latents
    rows = torch.nonzero(some.shown > 0.5).flatten()
    fixed = pictures.codes.rows(rows).to_fixed()
    inside = torch.isin(fixed.indices.long(), torch.as_tensor(latents)) & (fixed.values != 0)
    single = (tail.exact(pictures.acts[rows], fixed)[..., number] * inside).sum(1)
    if some.word is None:
        top = [int(row) for row in study.examples.of(latents[0])[:CLEAREST]]
    else:
        top = mediators.examples(some.word, latents, CLEAREST)
    return Finding(
        prompt=probe.names[number],
        latents=latents,
        label=some.label,
        kind="unknown",
        kind_probability=0.0,
        reliance=mean_interval(single),
        causal_effect=reliance.ablated,
        share=float(share[list(latents)].sum()),
        alignment=reliance.alignment,
        # The clarity of a single picture is not defined.
        clarity=clarity_of(study.seen(np.asarray(top))) if len(top) > 1 else 0.0,
        confidence=above_zero(reliance.compared) * above_zero(reliance.ablated),
        examples=tuple(study.images.ids[row] for row in top[:EXAMPLES]),
        evidence={
            "concerns": "a probe",
            "group": some.group,
            "indistinct": list(reliance.indistinct),
            "pictures": len(rows),
            "pictures_without": len(pictures) - len(rows),
            "compared": asdict(_in_gaps(reliance.compared, gap)),
            "ablated": asdict(_in_gaps(reliance.ablated, gap)),
            "gap": gap,
            "logits_per_cosine": length,
        },
    )


def _shares(tail: ClosedFormTail, pictures: Encoded, own: Tensor, number: int) -> Tensor:
    """(latents,): share of the positive evidence for a class on its own pictures."""
    rows = torch.nonzero(own).flatten()
    positive = exact_sums(tail, pictures.acts[rows], pictures.codes.rows(rows))[0][:, number].clamp_min(0)
    return positive / positive.sum().clamp_min(1e-12)


def _holds(amount: Interval, bound: float) -> bool:
    return amount.value >= bound and amount.low >= bound / 2


def _in_gaps(amount: Interval, gap: float) -> Interval:
    return Interval(amount.value / gap, amount.low / gap, amount.high / gap)
