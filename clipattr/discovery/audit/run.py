"""The audit: which reliances of a model nobody would expect, proved on pictures that did not raise the suspicion.

Chooses suspects on one half of a study and keeps those that the other half confirms, by exact ablation or by writing.
A family of latents is suspected in one of four ways: it stands for a meaning that the evaluator sees on the prompt's
pictures more often than elsewhere (company); that meaning is writing, and writing the prompt on other pictures wakes it
(written); or the prompt does not describe it, and its word is part of the prompt (part), or pictures that show it
without the prompt score for the prompt as hardly any others do (stands out). Owns that order of things; reliance,
expectation, company, evidence and kinds live in their own modules. Start at `audit`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from tqdm.auto import tqdm

from clipattr.discovery.audit.evidence import Evidence, Witness
from clipattr.discovery.audit.expectations import (
    Prompt,
    expected_share,
    family_means,
    prompt_embeddings,
    read_prompts,
)
from clipattr.discovery.audit.kinds import constituents, is_constituent, kind_of
from clipattr.discovery.audit.naming import Family, family_meanings, followed_share, named_families
from clipattr.discovery.audit.reliance import Reliance
from clipattr.discovery.audit.selectivity import ALIKE, company_families, words_along
from clipattr.discovery.audit.text_insertion import is_writing, reading_families, writing_words
from clipattr.discovery.findings import Finding, Findings, Interval
from clipattr.discovery.statistics import above_zero, normal_above
from clipattr.errors import StudyError
from clipattr.execution.engine import Engine, Here

if TYPE_CHECKING:
    from clipattr.studies.study import Study


COMPANY = ("company", "covered", "written")  # reasons that speak of what comes with a prompt
WRITTEN_ON = "other pictures with the prompt written on them"


@dataclass(frozen=True)
class Settings:
    """What makes a reliance worth reporting.

    Attributes:
        expected: without company, a family is expected if the prompt describes its examples at least this well, against
            its best word.
        followed: or if the evaluator's similarity to the prompt follows it over the pictures at least this well,
            against the word that follows it best.
        followed_part: the same for a family whose word is part of the prompt, whose text shares that word.
        least_lift: how much more often a meaning must be seen on the prompt's pictures than elsewhere, as a difference
            of shares, to be suspected as company; half of it must be left on the measuring half.
        discovery_rate: false-discovery rate of that company over all pairs of meaning and prompt.
        least_reliance: raw cosine that a meaning's latents must carry on the prompt's own pictures that show it.
        least_surprise: robust standard deviations by which a prompt's contrast on pictures that show a family, but
            not the prompt, must stand out from that of other unexpected pairs, to be suspected without company. At
            3.5 chance alone raises about two pairs in ten thousand.
        least_effect: raw cosine; the lower bound of the causal effect on the measuring half must reach it.
        least_separation: of a family suspected without company: area under the ROC curve by which its pictures'
            contrast stands out from other pictures'.
        covered_pictures: in how many of a prompt's pictures a meaning that comes with it is covered, to see which
            latents that silences; below 5 it is not asked. Costs the evaluator nine forward passes each.
        written_pictures: a prompt whose pictures show writing is written on so many pictures of other things, to see
            whether that lifts it and whether another word would, and on twice as many to find the latents that read
            it; 0 asks not.
    """

    expected: float = 0.5
    followed: float = 0.65
    followed_part: float = 0.8
    least_lift: float = 0.3
    discovery_rate: float = 0.01
    least_surprise: float = 3.5
    least_reliance: float = 0.005
    least_effect: float = 0.02
    least_separation: float = 0.6
    covered_pictures: int = 8
    written_pictures: int = 192

    @property
    def least_rise(self) -> float:
        """Raw cosine by which writing must lift a prompt, half of `least_effect`, as no model has learnt our faces."""
        return self.least_effect / 2


def audit(
    study: Study,
    prompts: Iterable[str | Prompt] | None = None,
    *,
    settings: Settings | None = None,
    background: Sequence[str] | None = None,
    progress: bool = True,
    engine: Engine | None = None,
) -> Findings:
    """Find the reliances of a model that nobody would expect.

    Args:
        study: a study built at `image.-1.cls`, with a vocabulary and an evaluator.
        prompts: texts, or `Prompt(text, means=...)`; default the pictures' labels, or the vocabulary without labels.
        settings: thresholds.
        background: texts whose mean similarity is subtracted, so that a latent which lifts every prompt alike does not
            count; default the prompts, if there are at least 20, else the vocabulary.
        progress: show a bar.
        engine: where suspicions are measured, e.g. `clipattr.Ray(workers=8)`; all of its machines must see the
            study's folder. None: here.

    Returns:
        findings, largest causal effect first. Reliance and effects are raw cosine of the prompt's contrast.

    Raises:
        TargetError: no prompts, or an empty one. SiteError: a study at another site. StudyError: a study without
            live latents or vocabulary.
    """
    settings = settings or Settings()
    if not study.sees.any():  # built from embeddings: nothing can be occluded or written on
        settings = replace(settings, covered_pictures=0, written_pictures=0)
    asked = read_prompts(prompts, study)
    if not len(study.vocabulary):
        raise StudyError(
            "audit names what models rely on; this study has no vocabulary. Build it with vocabulary=..."
        )
    parts = constituents([prompt.text for prompt in asked], study.vocabulary.words)
    groups = named_families(study, wanted=parts)
    if not groups:
        raise StudyError(
            "No latent of this study has an example: its dictionary never fires on these pictures."
        )
    texts = list(background) if background is not None else default_background(asked, study)
    meant = prompt_embeddings(study, asked)
    means = family_means(study, [group.latents for group in groups])
    share, _ = expected_share(means, meant, study.vocabulary_embeddings, study.empty_embedding)
    reliance = Reliance(study, asked, study.model.encode_text(texts), [group.latents for group in groups])
    finding_half, _ = reliance.halves(meant)
    clues = Clues(
        share,
        followed_share(study, finding_half.rows, finding_half.strength, meant),
        reliance.levels(finding_half, reliance.contrasts(finding_half)),
        reliance.effects_elsewhere(finding_half),
        torch.tensor(
            [
                [bool(g.label) and is_constituent(g.label or "", prompt.text) for prompt in asked]
                for g in groups
            ]
        ),
    )
    along = words_along(reliance, finding_half, meant, settings.discovery_rate, settings.least_lift)
    found = company_families(
        reliance,
        finding_half,
        meant,
        along,
        settings.least_reliance,
        settings.least_effect,
        settings.covered_pictures,
        progress,
    )
    vocabulary = study.vocabulary
    if settings.written_pictures:
        writing = writing_words(study)
        shown = ((prompt, word) for prompt, words in enumerate(along) for word in words if word in writing)
        found += reading_families(reliance, finding_half, shown, settings.written_pictures, progress)
    suspects = [
        *((len(groups) + number, family.prompt, family.reason) for number, family in enumerate(found)),
        *suspicions(clues, settings),
    ]
    groups += [Family(f.latents, vocabulary.words[f.word], vocabulary.groups[f.word]) for f in found]
    reliance = reliance.with_more([family.latents for family in found])
    means = family_means(study, reliance.families)
    _, aligned = expected_share(means, meant, study.vocabulary_embeddings, study.empty_embedding)
    _, measuring_half = reliance.halves(meant)
    meanings = family_meanings(study, groups, means)
    witness = Witness(
        reliance, measuring_half, meant, meanings, settings.covered_pictures, settings.written_pictures
    )
    reads = frozenset(number for number, family in enumerate(groups) if is_writing(family.group))
    kept: dict[tuple[int, int], tuple[Evidence, str]] = {}
    measured = (engine or Here()).map(measured_suspect, (witness, reads, settings), suspects)
    with tqdm(total=len(suspects), desc="audit", unit="suspect", disable=not progress) as bar:
        for (family, prompt, reason), evidence in zip(suspects, measured, strict=True):
            bar.update()
            told = (told_already(groups[family], groups[other]) for other, same in kept if same == prompt)
            if evidence is not None and not any(told):
                kept[family, prompt] = evidence, reason
    findings = [
        _finding(
            witness,
            groups[family],
            prompt,
            evidence,
            float(aligned[family, prompt]),
            family,
            reason,
            settings,
        )
        for (family, prompt), (evidence, reason) in kept.items()
    ]
    findings.sort(key=lambda f: (-f.causal_effect.value, f.prompt, f.latents))
    about = {
        "model": study.manifest["model"],
        "evaluator": study.manifest["evaluator"],
        "site": str(study.site),
        "dictionary": study.dictionary.hash,
        "pictures": len(study.images),
        "pictures_finding": len(finding_half.rows),
        "pictures_measuring": len(measuring_half.rows),
        "prompts_audited": len(asked),
        "families": len(groups),
        "settings": asdict(settings),
    }
    return Findings(findings, study, about)


def measured_suspect(
    shared: tuple[Witness, frozenset[int], Settings], suspect: tuple[int, int, str]
) -> Evidence | None:
    """What the measuring half says of one suspicion: the evidence that confirms it, or None."""
    (witness, reads, settings), (family, prompt, reason) = shared, suspect
    rise = None
    if family in reads and settings.written_pictures:
        rise = witness.writing.rise(prompt, witness.reliance.families[family])
        if rise is None or not (rise.written.low >= settings.least_rise and rise.before <= ALIKE):
            return None
    evidence = _measured(witness, settings, family, prompt, reason)
    return None if evidence is None else replace(evidence, rise=rise)


def _measured(witness: Witness, settings: Settings, family: int, prompt: int, reason: str) -> Evidence | None:
    comes_along = reason in COMPANY
    evidence = witness.gather(family, prompt, on_own=comes_along)
    if reason == "written":
        return evidence if evidence is not None and along_still(evidence, settings) else None
    if reason == "covered" and evidence is not None and evidence.causal_effect.low >= settings.least_effect:
        evidence = replace(evidence, left=witness.left(family, prompt))
    if comes_along and evidence is not None and not evidence.causal_effect.low > 0:
        return None  # it comes along, and is not used
    if evidence is None or not holds(evidence, reason, settings):
        # Where prompt and company are never apart, one latent may stand for both: the company's own latents then
        # say little on the prompt's pictures, and what they do elsewhere decides.
        evidence = witness.gather(family, prompt, on_own=False) if comes_along else None
    return evidence if evidence is not None and holds(evidence, reason, settings) else None


def default_background(prompts: Sequence[Prompt], study: Study) -> list[str]:
    """The prompts themselves when they are many enough for a mean, else the vocabulary's words."""
    return [prompt.text for prompt in prompts] if len(prompts) >= 20 else list(study.vocabulary.words)


def told_already(family: Family, other: Family) -> bool:
    """Whether a prompt's finding about `other` says what one about `family` would: half of its latents, or its word."""
    shared = len(set(family.latents) & set(other.latents))
    return 2 * shared >= len(family.latents) or (family.label is not None and family.label == other.label)


@dataclass(frozen=True)
class Clues:
    """What the finding half says of every (family, prompt).

    Attributes:
        share: of `expected_share`. followed: of `followed_share`. levels: contrast on other pictures that show the
            family, elsewhere: its fall there when the family is ablated; NaN where unknown. parts: bool, the family's
            word is part of the prompt.
    """

    share: Tensor
    followed: Tensor
    levels: Tensor
    elsewhere: Tensor
    parts: Tensor


def suspicions(clues: Clues, settings: Settings) -> list[tuple[int, int, str]]:
    """(family, prompt, reason) worth measuring without company; the reasons are "part" and "stands out"."""
    followed = torch.where(clues.parts, settings.followed_part, settings.followed)
    unexpected = (clues.share < settings.expected) & (clues.followed < followed)
    # Half of what the measuring half must show: the finding half only raises suspicions.
    moves = clues.elsewhere.nan_to_num(nan=0.0) >= settings.least_effect / 2
    known = unexpected & clues.levels.isfinite()
    stands_out = torch.zeros_like(known)
    if known.any():
        middle = clues.levels[known].median()
        spread = 1.4826 * (clues.levels[known] - middle).abs().median().clamp_min(1e-6)
        stands_out = (clues.levels - middle) / spread >= settings.least_surprise
    reasons = {"part": unexpected & clues.parts & moves, "stands out": known & stands_out & moves}
    return [(f, p, reason) for reason, pairs in reasons.items() for f, p in torch.nonzero(pairs).tolist()]


def holds(evidence: Evidence, reason: str, settings: Settings) -> bool:
    """Whether the measuring half confirms a suspicion."""
    if not evidence.causal_effect.low >= settings.least_effect:
        return False
    if reason in COMPANY:
        # Half of what the finding half had to show is silenced when covered.
        return not evidence.left > 1 - ALIKE / 2 and along_still(evidence, settings)
    return evidence.separation >= settings.least_separation and evidence.standing > 0


def along_still(evidence: Evidence, settings: Settings) -> bool:
    """Whether a meaning comes with the prompt on the measuring half at least half as clearly as it had to before."""
    return evidence.shown - evidence.shown_elsewhere >= settings.least_lift / 2


def confidence(evidence: Evidence, reason: str, settings: Settings) -> float:
    """How far a finding is to be trusted, 0 to 1: two probabilities that can only lower each other.

    That the causal effect exceeds `least_effect`, by its sampling distribution; and that the reason holds: that the
    meaning is seen on the prompt's pictures more often than elsewhere by at least half of `least_lift`, or how well
    the pictures that show the family stand out by their contrast.
    """
    effect = effect_of(evidence, reason)
    least = settings.least_rise if reason == "written" else settings.least_effect
    exceeds = above_zero(Interval(*(value - least for value in (effect.value, effect.low, effect.high))))
    if reason not in COMPANY:
        return exceeds * evidence.separation
    n = max(1, evidence.own_pictures)
    lift = evidence.shown - evidence.shown_elsewhere
    return exceeds * normal_above(
        lift - settings.least_lift / 2, math.sqrt(max(evidence.shown * (1 - evidence.shown), 1 / n) / n)
    )


def effect_of(evidence: Evidence, reason: str) -> Interval:
    """What the cause does to the prompt's contrast: what ablating the family takes, or what writing the prompt adds."""
    return evidence.rise.written if reason == "written" and evidence.rise else evidence.causal_effect


def _finding(
    witness: Witness,
    group: Family,
    prompt: int,
    evidence: Evidence,
    aligned: float,
    family: int,
    reason: str,
    settings: Settings,
) -> Finding:
    evidence = replace(evidence, focus=witness.focus(family))  # costly, so only for what became a finding
    study = witness.reliance.study
    text, words = witness.reliance.prompts[prompt].text, study.vocabulary.words
    prompt_group = study.vocabulary.groups[words.index(text)] if text in words else None
    kind, probability = kind_of(evidence, text, group.label, group.group, prompt_group)
    rows = study.examples.of(group.latents[0])[:12]
    pictures = evidence.pictures[
        witness.strength(family)[evidence.pictures].argsort(descending=True, stable=True)
    ]
    told = {
        "reason": reason,
        "concerns": WRITTEN_ON
        if reason == "written"
        else "the prompt's own pictures"
        if evidence.on_own
        else "other pictures that show it",
        "pictures": len(witness.writing.numbers(prompt)) if reason == "written" else len(evidence.pictures),
        "presence": evidence.presence,
        "presence_elsewhere": evidence.presence_elsewhere,
        "seen": evidence.seen,
        "together": evidence.together,
        "shown": evidence.shown,
        "shown_elsewhere": evidence.shown_elsewhere,
        "beside": evidence.beside,
        "left_covered": evidence.left,
        **_told_of_writing(witness, evidence, prompt, reason),
        "elsewhere": asdict(evidence.elsewhere),
        "standing": evidence.standing,
        "separation": evidence.separation,
        "focus": evidence.focus,
        "group": group.group,
        "prompt_examples": [study.images.ids[int(row)] for row in witness.half.rows[pictures[:12].numpy()]],
    }
    return Finding(
        prompt=text,
        latents=tuple(group.latents),
        label=group.label,
        kind=kind,
        kind_probability=probability,
        reliance=evidence.reliance,
        causal_effect=effect_of(evidence, reason),
        share=evidence.share,
        alignment=aligned,
        clarity=_finite_or_zero(evidence.clarity),
        confidence=confidence(evidence, reason, settings),
        examples=tuple(study.images.ids[row] for row in rows),
        evidence={key: _finite(value) for key, value in told.items()},
    )


def _told_of_writing(witness: Witness, evidence: Evidence, prompt: int, reason: str) -> dict[str, object]:
    if evidence.rise is None:
        return {}
    told: dict[str, object] = {
        "writing": {
            "written": asdict(evidence.rise.written),
            "specific": asdict(witness.writing.specific(prompt)),
        },
        "before_written": evidence.rise.before,
    }
    return {**told, "ablated": asdict(evidence.causal_effect)} if reason == "written" else told


def _finite_or_zero(value: float) -> float:
    """The clarity of a single picture is not defined."""
    return value if math.isfinite(value) else 0.0


def _finite(value: object) -> object:
    """JSON has no NaN and no infinity: what was not measured is null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return value
