"""The audit: which reliances of a model nobody would expect, proved on pictures that did not raise the suspicion.

Chooses suspects on one half of a study (a prompt relies on a family of latents, the evaluator sees no kinship between
them) and keeps those whose exact ablation lowers the prompt's contrast on the other half. Owns that order of things;
reliance, expectation, evidence and kinds live in their own modules. Start at `audit`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from tqdm.auto import tqdm

from clipattr.discovery.evidence import Evidence, Witness
from clipattr.discovery.expectations import (
    Prompt,
    expected_share,
    family_means,
    prompt_embeddings,
    read_prompts,
)
from clipattr.discovery.findings import Finding, Findings
from clipattr.discovery.kinds import is_constituent, kind_of
from clipattr.discovery.reliance import Reliance
from clipattr.errors import StudyError
from clipattr.meaning import alignment, families

if TYPE_CHECKING:
    from clipattr.study import Study


@dataclass(frozen=True)
class Settings:
    """What makes a reliance worth reporting.

    Attributes:
        least_reliance: raw cosine that the family must carry on a prompt's own pictures, on average, to be suspected.
        least_surprise: robust standard deviations by which a prompt's contrast on pictures that show a family, but
            not the prompt, must stand out from that of other unexpected pairs, to be suspected. Parts of a compound
            are suspected without it. At 3.5 chance alone raises about two pairs in ten thousand.
        least_effect: raw cosine; the lower bound of the causal effect on the measuring half must reach it.
        expected: a family is expected if the prompt describes it at least this well, against its best word.
        least_presence: share of a prompt's own pictures that must show the family.
        least_seen: on a prompt's own pictures, how much of the family's meaning the evaluator must see.
        least_separation: of a family suspected elsewhere: area under the ROC curve by which its pictures' contrast
            stands out from other pictures'.
    """

    least_reliance: float = 0.005
    least_surprise: float = 3.5
    least_effect: float = 0.02
    expected: float = 0.5
    least_presence: float = 0.05
    least_seen: float = 0.8
    least_separation: float = 0.6


@dataclass(frozen=True)
class Family:
    """Latents that share one meaning, the best word for them (None if none fits) and its vocabulary group."""

    latents: list[int]
    label: str | None
    group: str | None


def audit(
    study: Study,
    prompts: Iterable[str | Prompt] | None = None,
    *,
    settings: Settings | None = None,
    background: Sequence[str] | None = None,
    progress: bool = True,
) -> Findings:
    """Find the reliances of a model that nobody would expect.

    Args:
        study: a study built at `image.-1.cls`, with a vocabulary and an evaluator.
        prompts: texts, or `Prompt(text, means=...)`; default the pictures' labels, or the vocabulary without labels.
        settings: thresholds.
        background: texts whose mean similarity is subtracted, so that a latent which lifts every prompt alike does not
            count; default the prompts, if there are at least 20, else the vocabulary.
        progress: show a bar.

    Returns:
        findings, largest causal effect first. Reliance and effects are raw cosine of the prompt's contrast.

    Raises:
        TargetError: no prompts, or an empty one. SiteError: a study at another site. StudyError: a study without
            live latents or vocabulary.
    """
    settings = settings or Settings()
    asked = read_prompts(prompts, study)
    if not len(study.vocabulary):
        raise StudyError(
            "audit names what models rely on; this study has no vocabulary. Build it with vocabulary=..."
        )
    groups = named_families(study)
    if not groups:
        raise StudyError(
            "No latent of this study has an example: its dictionary never fires on these pictures."
        )
    texts = list(background) if background is not None else default_background(asked, study)
    meant = prompt_embeddings(study, asked)
    means = family_means(study, [group.latents for group in groups])
    share, aligned = expected_share(means, meant, study.vocabulary_embeddings, study.empty_embedding)
    reliance = Reliance(study, asked, study.model.encode_text(texts), [group.latents for group in groups])
    finding_half, measuring_half = reliance.halves(meant)
    own = reliance.on_own_pictures(finding_half)
    levels = reliance.levels(finding_half, reliance.contrasts(finding_half))
    parts = torch.tensor(
        [[bool(g.label) and is_constituent(g.label or "", prompt.text) for prompt in asked] for g in groups]
    )
    suspects = suspicions(share, own, levels, parts, settings)
    witness = Witness(reliance, measuring_half, meant, family_meanings(study, groups, means))
    kept: dict[tuple[int, int], Evidence] = {}
    for family, prompt, on_own in tqdm(suspects, desc="audit", unit="suspect", disable=not progress):
        if (family, prompt) in kept:
            continue
        pictures = witness.concerned(family, prompt, on_own)
        if on_own and not witness.seen(pictures, family) >= settings.least_seen:
            continue  # most suspects end here, before anything costly is measured
        evidence = witness.gather(family, prompt, on_own)
        if evidence is not None and holds(evidence, settings):
            kept[family, prompt] = evidence
    findings = [
        _finding(
            witness,
            groups[family],
            asked[prompt].text,
            evidence,
            float(aligned[family, prompt]),
            family,
            settings,
        )
        for (family, prompt), evidence in kept.items()
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


def default_background(prompts: Sequence[Prompt], study: Study) -> list[str]:
    """The prompts themselves when they are many enough for a mean, else the vocabulary's words."""
    return [prompt.text for prompt in prompts] if len(prompts) >= 20 else list(study.vocabulary.words)


def named_families(study: Study) -> list[Family]:
    """The study's families, those with the same best word joined; a family no word fits keeps None.

    A name given by the analyst to a family's strongest latent wins over the vocabulary.
    """
    parts = families(study)
    if not parts:
        return []
    aligned = alignment(family_means(study, parts), study.vocabulary_embeddings, study.empty_embedding)
    best, word = aligned.max(1)
    fits = study.labels.aligned.tolist()
    joined: dict[object, Family] = {}
    for number, part in enumerate(parts):
        label: str | None = study.vocabulary.words[int(word[number])]
        group = study.vocabulary.groups[int(word[number])]
        given = study.names.get(part[0])
        if given is not None:
            label = given
        elif best[number] <= 0 or not any(fits[latent] for latent in part):
            label = group = None
        key: object = ("word", label) if label is not None else ("nameless", number)
        if key in joined:
            joined[key].latents.extend(part)
        else:
            joined[key] = Family(list(part), label, group)
    strength = study.examples.values.float().sum(1)
    for family in joined.values():
        family.latents.sort(key=lambda latent: (-float(strength[latent]), latent))
    return list(joined.values())


def family_meanings(study: Study, groups: Sequence[Family], means: Tensor) -> Tensor:
    """What the evaluator is asked to see for each family: its word, or its mean example where no word fits."""
    rows = [
        study.vocabulary_embeddings[study.vocabulary.words.index(group.label)]
        if group.label in study.vocabulary.words
        else mean
        for group, mean in zip(groups, means, strict=True)
    ]
    return torch.nn.functional.normalize(torch.stack(rows).float(), dim=-1)


def suspicions(
    share: Tensor, own: Tensor, levels: Tensor, parts: Tensor, settings: Settings
) -> list[tuple[int, int, bool]]:
    """(family, prompt, on the prompt's own pictures) worth measuring, own pictures first.

    Args:
        share: (families, prompts) of `expected_share`. own: raw cosine on the prompt's own pictures. levels: contrast
            on others that show the family, NaN where unknown. parts: bool, the family's word is part of the prompt.
    """
    unexpected = share < settings.expected
    on_own = torch.nonzero(unexpected & (own >= settings.least_reliance)).tolist()
    known = unexpected & levels.isfinite()
    stand_out = parts.clone()
    if known.any():
        middle = levels[known].median()
        spread = 1.4826 * (levels[known] - middle).abs().median().clamp_min(1e-6)
        stand_out |= (levels - middle) / spread >= settings.least_surprise
    elsewhere = torch.nonzero(known & stand_out).tolist()
    return [(f, p, True) for f, p in on_own] + [(f, p, False) for f, p in elsewhere]


def holds(evidence: Evidence, settings: Settings) -> bool:
    """Whether the measuring half confirms a suspicion."""
    if not evidence.causal_effect.low >= settings.least_effect:
        return False
    if evidence.on_own:
        return evidence.presence >= settings.least_presence and evidence.seen >= settings.least_seen
    return evidence.separation >= settings.least_separation and evidence.standing > 0


def confidence(evidence: Evidence, settings: Settings) -> float:
    """How far a finding is to be trusted, 0 to 1: three numbers that each can only lower it.

    The probability that the causal effect exceeds `least_effect`, by its sampling distribution; how much of the
    family's meaning the evaluator sees in the measured pictures; and, for a suspicion about other pictures than the
    prompt's, how well those stand out by their contrast.
    """
    effect = evidence.causal_effect
    error = (effect.high - effect.low) / (2 * 1.96)
    if not math.isfinite(error):
        return 0.0
    exceeds = 0.5 * (1 + math.erf((effect.value - settings.least_effect) / max(error, 1e-9) / math.sqrt(2)))
    seen = min(1.0, max(0.0, evidence.seen)) if math.isfinite(evidence.seen) else 0.5
    return exceeds * seen * (1.0 if evidence.on_own else evidence.separation)


def _finding(
    witness: Witness,
    group: Family,
    prompt: str,
    evidence: Evidence,
    aligned: float,
    family: int,
    settings: Settings,
) -> Finding:
    evidence = replace(evidence, focus=witness.focus(family))  # costly, so only for what became a finding
    kind, probability = kind_of(evidence, prompt, group.label, group.group)
    study = witness.reliance.study
    rows = study.examples.of(group.latents[0])[:12]
    pictures = evidence.pictures[
        witness.strength(family)[evidence.pictures].argsort(descending=True, stable=True)
    ]
    told = {
        "concerns": "the prompt's own pictures" if evidence.on_own else "other pictures that show it",
        "pictures": len(evidence.pictures),
        "presence": evidence.presence,
        "presence_elsewhere": evidence.presence_elsewhere,
        "seen": evidence.seen,
        "together": evidence.together,
        "elsewhere": asdict(evidence.elsewhere),
        "standing": evidence.standing,
        "separation": evidence.separation,
        "focus": evidence.focus,
        "group": group.group,
        "prompt_examples": [study.images.ids[int(row)] for row in witness.half.rows[pictures[:12].numpy()]],
    }
    return Finding(
        prompt=prompt,
        latents=tuple(group.latents),
        label=group.label,
        kind=kind,
        kind_probability=probability,
        reliance=evidence.reliance,
        causal_effect=evidence.causal_effect,
        share=evidence.share,
        alignment=aligned,
        clarity=evidence.clarity if math.isfinite(evidence.clarity) else 0.0,  # a single picture
        confidence=confidence(evidence, settings),
        examples=tuple(study.images.ids[row] for row in rows),
        evidence={key: _finite(value) for key, value in told.items()},
    )


def _finite(value: object) -> object:
    """JSON has no NaN and no infinity: what was not measured is null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return value
