"""Telling: findings and verdicts as the values that tables, JSON, report and panels show.

Every prompt has a verdict, also where nothing was found: how many pictures were looked at, and the smallest effect that
could have been seen in them. Start at `finding_of` and `verdict_of`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace

import numpy as np
import torch

from clipattr.discovery.audit.base import Base
from clipattr.discovery.audit.decision import Judged, Reason, confidence, confidence_written
from clipattr.discovery.audit.evidence import Evidence, strength_of
from clipattr.discovery.audit.expectations import family_means
from clipattr.discovery.audit.geometry import extent_of
from clipattr.discovery.audit.kinds import Roles, Witness, kind_of, kinship
from clipattr.discovery.audit.mediators import Family
from clipattr.discovery.audit.occlusion import Looked
from clipattr.discovery.audit.pictured import clear_from, clearest, pictured, weights_of
from clipattr.discovery.audit.subject import Subject
from clipattr.discovery.audit.text_insertion import Insertion, Rise
from clipattr.discovery.findings import Finding, PromptVerdict
from clipattr.discovery.opened import not_opened
from clipattr.display.wording import SAME_TEXT
from clipattr.meaning import alignment

OWN, OTHER = "the prompt's own pictures", "other pictures that show it"
WRITTEN_ON = "other pictures with the prompt written on them"
EXAMPLES = 12
SEPARATE = {
    "pictures",
    "reliance",
    "causal_effect",
    "share",
    "clarity",
}  # fields of evidence that a finding has itself


def finding_of(
    base: Base,
    subject: Subject,
    judged: Judged,
    roles: Roles,
    looked: Looked | None = None,
    rise: Rise | None = None,
) -> Finding:
    """The finding of one decision.

    Args:
        looked: own pictures under occlusion, if any. rise: what inserting the prompt as text does, if that was tried.
    """
    family, evidence, study = judged.family, judged.evidence, base.study
    assert evidence is not None
    word, half = family.candidate.word, base.measuring
    text = math.nan if word is None else float(base.concepts.words[word] @ subject.meant)
    groups = study.vocabulary.groups
    pair = (
        None if subject.word is None else groups[subject.word],
        None if word is None else groups[word],
    )
    seen = _witness(base, subject, family, looked)
    seen = replace(seen, kin=kinship(evidence.alike, seen.remains, text, pair))
    kind, probability = kind_of(family, roles, seen)
    label = family.candidate.label
    weight = None if label is None else weights_of(base, label)
    measured, clear = _measured_pictures(base, family, evidence, weight)
    told = {
        "reason": family.candidate.route.value,
        "concerns": OWN if evidence.on_own else OTHER,
        "pictures": len(evidence.pictures),
        "instead": family.instead,
        "unit": subject.unit,
        "effect_in_units": evidence.causal_effect.value / subject.unit,
        **{f.name: _plain(getattr(evidence, f.name)) for f in fields(Evidence) if f.name not in SEPARATE},
        **{key: value for key, value in asdict(seen).items() if key != "kin"},  # groups may decide that
        "prompt_examples": [study.images.ids[int(row)] for row in half.rows[measured[:EXAMPLES].numpy()]],
        "clear": clear,
        **pictured(base, subject.prompt.text, family.latents, label, weight),
    }
    if family.text and rise is not None:
        told["writing"] = _writing(rise)
    return Finding(
        prompt=subject.prompt.text,
        latents=family.latents,
        label=label,
        kind=kind,
        kind_probability=probability,
        reliance=evidence.reliance,
        causal_effect=evidence.causal_effect,
        share=evidence.share,
        alignment=_alignment(base, subject, family.latents),
        clarity=evidence.clarity if math.isfinite(evidence.clarity) else 0.0,
        confidence=confidence(family, evidence, subject.unit, rise),
        examples=_examples(base, family.latents),
        evidence={key: _finite(value) for key, value in told.items()},
    )


def _measured_pictures(
    base: Base, family: Family, evidence: Evidence, weight: torch.Tensor | None
) -> tuple[torch.Tensor, int]:
    """The measured pictures, those that clearly show the cause first, then by the family's codes; and how many do.

    Args:
        weight: of the cause's label in all pictures, see `weights_of`; None without a label.
    """
    half = base.measuring
    strength = strength_of(half, family.latents)[evidence.pictures]
    order = evidence.pictures[strength.argsort(descending=True, stable=True)]
    if weight is None:
        return order, len(order)
    among = torch.zeros(len(half), dtype=torch.bool)
    among[order] = True
    clear = clearest(weight[len(base.finding) :], among, clear_from(base, weight))
    return torch.cat([clear, order[~torch.isin(order, clear)]]), len(clear)


def _witness(base: Base, subject: Subject, family: Family, looked: Looked | None) -> Witness:
    """Measurements of a candidate on the measuring half."""
    half, side, candidate = base.measuring, subject.measuring, family.candidate
    there, surely, few = candidate.there[1], candidate.surely[1], base.settings.few
    own, without = side.own & surely, side.own & ~there
    if int(without.sum()) < few:
        without = side.elsewhere & ~there
    edge, inside = extent_of(base, half.rows[own.numpy()], half.rows[without.numpy()])
    alone = surely & ~side.own & ~side.shown
    itself = math.nan
    if candidate.word is not None and int(alone.sum()) >= few:
        itself = float((half.rival[alone, 0] == candidate.word).float().mean())
    return Witness(
        itself=itself,
        remains=_remains(base, subject, there, own),
        edge=edge,
        inside=inside,
        focus=math.nan if looked is None or family.instead else looked.focus(family.latents),
    )


def _remains(base: Base, subject: Subject, there: torch.Tensor, own: torch.Tensor) -> float:
    """Share of the evaluator's evidence of a prompt that is left on its own pictures with a candidate; NaN if few.

    0 is the mean cosine with the prompt over pictures of neither, 1 that over its own pictures without the candidate,
    or, where nearly all own pictures show it, over all pictures in which the evaluator sees the prompt and not it.

    Args:
        there: (n,) bool, pictures of the measuring half that show the candidate. own: the prompt's that surely do.
    """
    side, few = subject.measuring, base.settings.few
    without = side.own & ~there
    if int(without.sum()) < few:
        without = side.shown & ~there
    neither = side.elsewhere & ~there
    if min(int(some.sum()) for some in (own, without, neither)) < few:
        return math.nan
    cosine = base.along(base.measuring, subject.meant)
    nothing = float(cosine[neither].mean())
    whole = float(cosine[without].mean()) - nothing
    return (float(cosine[own].mean()) - nothing) / whole if whole > 0 else math.nan


def written_finding(base: Base, subject: Subject, rise: Rise, insertion: Insertion, roles: Roles) -> Finding:
    """The finding of a prompt whose insertion as text raises its score."""
    label = _word_for_text(base, roles) or f'the word "{subject.prompt.text}"'
    told = {
        "reason": "written",
        "concerns": WRITTEN_ON,
        "pictures": rise.n,
        "unit": subject.unit,
        "effect_in_units": rise.inserted.value / subject.unit,
        "writing": _writing(rise),
        "before_written": rise.kept,
        "kept": rise.kept,
        "prompt_examples": [],
        **pictured(base, subject.prompt.text, rise.latents, label, weights_of(base, label)),
    }
    return Finding(
        prompt=subject.prompt.text,
        latents=rise.latents,
        label=label,
        kind="typography",
        kind_probability=1 / 1.25,
        reliance=rise.carried,
        causal_effect=rise.inserted,
        share=rise.share,
        alignment=_alignment(base, subject, rise.latents),
        clarity=0.0,
        confidence=confidence_written(rise, subject.unit, base.settings),
        examples=_examples(base, rise.latents),
        evidence={key: _finite(value) for key, value in told.items()},
    )


def _writing(rise: Rise) -> dict[str, object]:
    """What inserting a prompt as text does, as evidence holds it."""
    return {"written": asdict(rise.inserted), "specific": asdict(rise.specific)}


def verdict_of(
    base: Base,
    subject: Subject,
    judged: Sequence[Judged],
    findings: Sequence[Finding],
    forwards: int,
    why_not: str,
) -> PromptVerdict:
    """The verdict on a prompt."""
    side, other, few = subject.finding, subject.measuring, base.settings.few
    counts = (int(side.own.sum()), int(other.own.sum()))
    enough = min(counts) >= few and math.isfinite(subject.unit) and subject.unit > 0
    same_text = () if findings else subject.same_text(base)
    if findings:
        outcome, why = "found", ""
    elif enough and not same_text:
        outcome, why = "nothing found", ""
    elif same_text:
        outcome = "cannot be judged"
        why = (
            f"{SAME_TEXT} {' and '.join(same_text[:2])}: it knows "
            "none of these words, or reads less of the text than is written"
        )
    else:
        outcome = "cannot be judged"
        why = (
            f"the collection has {counts[0]} and {counts[1]} pictures of it in its two halves (by {subject.mode}); "
            f"{few} each are needed"
            if min(counts) < few
            else "its own pictures do not score above the others, so there is no contrast to explain"
        )
    confusions = sorted({j.family.candidate.label or "" for j in judged if j.reason is Reason.TEXT} - {""})
    return PromptVerdict(
        prompt=subject.prompt.text,
        outcome=outcome,
        why=why,
        findings=len(findings),
        pictures_finding=counts[0],
        pictures_measuring=counts[1],
        chosen_by=subject.mode,
        purity=subject.purity if math.isfinite(subject.purity) else None,
        contrast=subject.unit if math.isfinite(subject.unit) else None,
        smallest_effect=_smallest(base, subject, counts[1])
        if outcome != "cannot be judged" and enough
        else None,
        confused_with=tuple(confusions),
        not_asked=why_not,
        forwards=forwards,
        rejected=tuple(
            (j.family.candidate.label or "(no word for it)", j.reason.value)
            for j in judged
            if j.reason is not Reason.HOLDS
        ),
    )


def without_pictures(
    verdict: PromptVerdict, untested: Sequence[str], missing: Mapping[str, str]
) -> PromptVerdict:
    """The same verdict, with what it lacks because pictures cannot be opened any more.

    Where a test that was due could not be made, nothing found says nothing: such a prompt cannot be judged.

    Args:
        untested: tests that were not made. missing: reason by id, of the pictures that were asked for.
    """
    if not missing:
        return verdict
    verdict = replace(verdict, unopened=len(missing))
    if not untested or verdict.outcome != "nothing found":
        return verdict
    why = f"{not_opened(missing)}, which left too few for {' and '.join(untested)}"
    return replace(verdict, outcome="cannot be judged", why=why, smallest_effect=None)


def _smallest(base: Base, subject: Subject, n: int) -> float:
    """Smallest effect, raw cosine, that four of five audits would detect, by the spread of the contrast on own
    pictures.

    It is the required least effect, or the effect that this number of pictures can distinguish from zero, if that is
    larger.
    """
    own = subject.measuring.contrast[subject.measuring.own]
    # An ablation changes the contrast by a fraction of it; the change has about that fraction of the contrast's spread.
    spread = float(own.std()) if len(own) > 1 else subject.spread
    scatter = base.settings.least_effect * spread if math.isfinite(spread) else 0.0
    return max(base.settings.least_effect * subject.unit, 2.8 * scatter / max(1, n) ** 0.5)


def _word_for_text(base: Base, roles: Roles) -> str | None:
    """The vocabulary's word for writing, the one that stands for its other names; None without one."""
    surely, best = roles.of["text"].max(0)
    word = int(base.concepts.stands[int(best)])
    return (
        base.study.vocabulary.words[word]
        if float(surely) > 0.9 and bool(base.concepts.words[word].any())
        else None
    )


def _alignment(base: Base, subject: Subject, latents: tuple[int, ...]) -> float:
    means = family_means(base.study, [latents])
    asked = subject.prompt.means or subject.prompt.text
    text = base.study.evaluator.encode_text([asked], templates=base.templates).float().cpu()
    return float(alignment(means, text, base.study.empty_embedding)[0, 0])


def _examples(base: Base, latents: tuple[int, ...]) -> tuple[str, ...]:
    rows = base.study.examples.of(latents[0])[:EXAMPLES] if latents else []
    return tuple(base.study.images.ids[row] for row in rows)


def _plain(value: object) -> object:
    if isinstance(value, torch.Tensor | np.ndarray):
        return value.tolist()
    return asdict(value) if hasattr(value, "__dataclass_fields__") else value  # type: ignore[call-overload]


def _finite(value: object) -> object:
    """JSON has no NaN and no infinity: what was not measured is null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return value
