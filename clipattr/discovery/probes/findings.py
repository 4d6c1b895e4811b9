"""Probe findings: what a classifier rests on, and its class does not explain, with the latents that carry it.

Two witnesses must agree on a thing. *Comparison*: among pictures of one class that are alike in all else there is a
word for, those that show it have a higher margin. *Ablation*: taking the latents that carry it out of the activation
lets the margin fall on pictures that show it. The first says how far the thing moves the decision, and rests on the
evaluator's eyes alone; the second that the classifier reads it from what the model saw, and not from something that
happens to come along. Amounts are told in gaps: 1 is what tells the class's own pictures from others.

Every word that the evaluator can look for is a candidate, whether or not a latent is devoted to it; and every family of
latents that follows no word. Owns this measurement. Ignores accuracy and single latents (`audit.py`). Start at
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
from clipattr.discovery.probes.mediators import Carriers
from clipattr.discovery.probes.presence import looked_for, shown_family, shown_words
from clipattr.discovery.probes.probe import Probe
from clipattr.discovery.statistics import clarity_of
from clipattr.errors import StudyError
from clipattr.statistics import Interval, above_zero, mean_interval, simultaneous

if TYPE_CHECKING:
    from clipattr.studies.study import Study

UNEXPECTED = 0.5  # a thing is expected if the class describes it at least this well, against its best word
EXAMPLES = 12
CLEAREST = 20  # examples whose likeness is told


@dataclass(frozen=True)
class Bounds:
    """What makes a reliance of a probe worth reporting, in gaps.

    Attributes:
        compared: between pictures of one class with the thing and without; the interval, held for all candidates of a
            sort at once, may not reach below half of it. Told a little low where the evaluator is unsure who shows it.
        ablated: fall when the carriers are ablated on pictures that show the thing; the interval may not reach below
            half of it.
    """

    compared: float = 0.08
    ablated: float = 0.0


@dataclass(frozen=True)
class _Candidate:
    """A thing that a class may rest on: `word` is its place among those looked for, None for a family without one."""

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
    """What a probe rests on and no class of that name should, largest comparison first.

    Args:
        pictures: to measure on, of this study's model. truth: (pictures,) the number of each one's class.

    Returns:
        findings; their latents are the carriers. Reliance and effects are raw cosines with the direction of the class's
        margin, whose length in logits is `evidence["logits_per_cosine"]`; `evidence` holds both witnesses in gaps, with
        intervals, and as `indistinct` other words for which these pictures say the same.

    Raises:
        StudyError: no latent has an example.
    """
    bounds = bounds or Bounds()
    if not bool((study.examples.counts > 0).any()):
        raise StudyError("No latent of this study has an example: there is nothing to find.")
    weights, constants = probe.margins()
    length = weights.norm(dim=0)
    weights = weights / length.clamp_min(1e-12)
    margins = pictures.embeddings @ weights + constants / length.clamp_min(1e-12)  # raw cosine
    tail = ClosedFormTail(study.model, study.dictionary, weights, site=study.site)
    words = looked_for(study, probe.names)
    carriers = Carriers(study, words, tail)
    seen = pictures.seen(study)
    others = shown_words(study, seen, words)
    text = study.evaluator.encode_text(list(probe.names)).float()
    found: list[Finding] = []
    sorts = (_with_word(study, words, others, carriers), _without_word(study, pictures))
    for number in range(len(probe.names)):
        own = truth == number
        gap = (
            float(margins[own, number].mean() - margins[~own, number].mean())
            if 0 < own.sum() < len(own)
            else 0.0
        )
        if gap <= 0:  # a class that is not told from the others rests on nothing
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
                latents = some.family if some.word is None else tuple(carriers.of(some.word, number))
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
                _finding(study, probe, pictures, reliance, tail, carriers, share, gap, float(length[number]))
            )
    return sorted(found, key=lambda f: -f.evidence["compared"]["value"])


def _with_word(study: Study, words: Sequence[int], shown: Tensor, carriers: Carriers) -> list[_Candidate]:
    vocabulary = study.vocabulary
    return [
        _Candidate(
            place, (), vocabulary.words[n], vocabulary.groups[n], shown[:, place], carriers.meaning(place)
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
    """Those that a class, (1, embed) by the evaluator's text, does not explain, and their alignment with it."""
    if not candidates:
        return []
    means = torch.stack([some.mean for some in candidates])
    share, aligned = expected_share(means, text, study.vocabulary_embeddings, study.empty_embedding)
    judged = zip(candidates, share[:, 0].tolist(), aligned[:, 0].tolist(), strict=True)
    return [(some, fits) for some, part, fits in judged if part < UNEXPECTED]


def _distinct(kept: Sequence[_Reliance], truth: Tensor) -> list[_Reliance]:
    """Of things that these pictures do not tell apart only the one that moves the margin most, with all words.

    What has a word comes first: a family of latents that goes with it adds nothing.
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
    carriers: Carriers,
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
        top = carriers.examples(some.word, latents, CLEAREST)
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
    """(latents,): of the positive evidence for a class on its own pictures."""
    rows = torch.nonzero(own).flatten()
    positive = exact_sums(tail, pictures.acts[rows], pictures.codes.rows(rows))[0][:, number].clamp_min(0)
    return positive / positive.sum().clamp_min(1e-12)


def _holds(amount: Interval, bound: float) -> bool:
    return amount.value >= bound and amount.low >= bound / 2


def _in_gaps(amount: Interval, gap: float) -> Interval:
    return Interval(amount.value / gap, amount.low / gap, amount.high / gap)
