"""The audit: unexpected reliances of a model, tested on pictures on which they were not found.

Each prompt is audited by itself, with values that come from the study alone: candidates and latents are chosen on one
half of the pictures, evidence is measured on the other, and every prompt gets a verdict. So a prompt's findings do not
depend on the other prompts. Owns the order of these steps. Start at `audit`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from clipattr.discovery.audit.base import Base
from clipattr.discovery.audit.candidates import Candidate, Route, Tables, candidates_of
from clipattr.discovery.audit.decision import (
    Judged,
    Reason,
    confidence,
    confidence_written,
    judge,
    reads,
    stands_beside,
    told_once,
)
from clipattr.discovery.audit.evidence import measured, seen_of
from clipattr.discovery.audit.expectations import Prompt, read_prompts
from clipattr.discovery.audit.kinds import Roles
from clipattr.discovery.audit.levels import levels_of
from clipattr.discovery.audit.mediators import BESIDE, Family, families_of, silenced_family
from clipattr.discovery.audit.occlusion import PRICE, Looked, look
from clipattr.discovery.audit.scores import Scored
from clipattr.discovery.audit.settings import Settings
from clipattr.discovery.audit.subject import Subject
from clipattr.discovery.audit.telling import finding_of, verdict_of, without_pictures, written_finding
from clipattr.discovery.audit.text_insertion import Insertion, Rise
from clipattr.discovery.findings import Finding, Findings, PromptVerdict
from clipattr.display.progress import Progress
from clipattr.errors import DataError
from clipattr.execution.checkpoint import resumed
from clipattr.execution.engine import Engine, Here
from clipattr.models.surroundings import unaffected
from clipattr.storage.files import json_digest

if TYPE_CHECKING:
    from clipattr.studies.study import Study

__all__ = ["Settings", "audit"]

NO_PASSES = "no forward passes are allowed"
NO_PICTURES = "the study has no pictures that can be opened"
NAMED = 12  # missing pictures named with the findings
SURELY_TEXT = 0.9  # role from which a word is text, which is inserted and not looked for


class Ready:
    """A study made ready for an audit: what all prompts share."""

    def __init__(self, study: Study, settings: Settings, background: Sequence[str] | None = None) -> None:
        self.base = Base.of(study, settings)
        if background is not None:
            self.base.background = self.base.text(list(background)).double().mean(0).float()
        self.tables, self.roles = Tables.of(self.base), Roles.read(self.base)
        self.insertion, self.scored = Insertion(self.base), Scored.of(self.base, background)


@dataclass(frozen=True)
class PromptAudit:
    """Findings and verdict of one prompt, and why which pictures that it asked for could not be opened, by id."""

    findings: tuple[Finding, ...]
    verdict: PromptVerdict
    missing: Mapping[str, str]

    @classmethod
    def from_dict(cls, values: Any) -> PromptAudit:
        """Read what `asdict` made and JSON kept; DataError if it is something else."""
        if not isinstance(values, dict) or set(values) != {"findings", "verdict", "missing"}:
            raise DataError(f"not what an audit says of one prompt: {values!r:.200}")
        found = tuple(Finding.from_dict(item) for item in values["findings"])
        missing = {str(name): str(reason) for name, reason in values["missing"].items()}
        return cls(found, PromptVerdict.from_dict(values["verdict"]), missing)


@dataclass(frozen=True)
class Gathered:
    """What was measured for one prompt, before anything is decided.

    Attributes:
        judged: every family with its evidence. looked: the occluded pictures, if any. rise: effect of inserting it;
            None where that is hopeless or was not tried. pictured: text is over-represented on its pictures. spent:
            forward passes. why_not: why it was not inserted. written: raw cosine that it adds on the first pictures.
            inserted: the same for each of them, beyond other words. untested: tests that were due and
            not made for want of pictures that can be opened.
    """

    subject: Subject
    judged: tuple[Judged, ...]
    looked: Looked | None
    rise: Rise | None
    pictured: bool
    spent: int
    why_not: str
    written: float | None
    inserted: tuple[float | None, ...] = ()
    untested: tuple[str, ...] = ()


def gathered(ready: Ready, prompt: Prompt) -> Gathered:
    """Measure everything about one prompt."""
    base, settings = ready.base, ready.base.settings
    base.opener.gone.clear()
    subject, untested = Subject.of(base, prompt), []
    rise, spent, why_not, written = None, 0, NO_PASSES if base.study.had.any() else NO_PICTURES, None
    inserted: tuple[float | None, ...] = ()
    candidates = [replace(c, text=_is_text(ready, c)) for c in candidates_of(base, subject, ready.tables)]
    pictured = any(c.text for c in candidates)
    if settings.budget >= settings.inserted:
        rise, spent, why_not, written, inserted = ready.insertion.ask(subject, pictured)
        if rise is None and why_not and base.opener.gone and ready.insertion.short:
            untested.append("text insertion")
    judged = [_judged(base, subject, family) for family in families_of(base, subject, candidates)]
    looked, beside = None, _beside(subject, candidates)
    possible = [candidate for candidate in beside if _possible(base, subject, candidate)]
    # Windows tell as well how large a region a finding's latents read.
    due = possible or any(one.reason is Reason.HOLDS and not one.family.instead for one in judged)
    if due and beside and beside[0].word is not None:
        clearly = base.along(base.finding, base.concepts.words[beside[0].word])
        n = min(settings.occluded, (settings.budget - spent) // PRICE)
        missing = len(base.opener.gone)
        looked = look(base, subject, beside[0].there[0], clearly, n)
        if looked is None and len(base.opener.gone) > missing:
            untested.append("occlusion")
    if looked:
        spent += looked.spent
        silenced = (silenced_family(base, subject, looked, candidate) for candidate in possible)
        judged += [_judged(base, subject, family) for family in silenced if family is not None]
    return Gathered(
        subject, tuple(judged), looked, rise, pictured, spent, why_not, written, inserted, tuple(untested)
    )


def _judged(base: Base, subject: Subject, family: Family) -> Judged:
    return judge(family, measured(base, subject, family), subject.unit, base.settings)


def held_of(found: Gathered, settings: Settings) -> tuple[list[Judged], Rise | None]:
    """The confirmed families without duplicates, and the effect of inserting the prompt if that is a finding.

    Families that are likelier wrong than right are left out, before duplicates are: what is left out is no reason to
    drop a family that says the same. Text on the prompt's own pictures is read by the latents that respond to it there;
    where none do, by those that inserted text activates.
    """
    unit, least = found.subject.unit, settings.least_confidence
    sure = [
        one
        for one in found.judged
        if one.reason is Reason.HOLDS
        and one.evidence is not None
        and confidence(one.family, one.evidence, unit, found.rise) >= least
    ]
    held = told_once(sure)
    rise = found.rise
    counts = (
        rise is not None
        and reads(rise, unit, settings, found.pictured)
        and confidence_written(rise, unit, settings) >= least
    )
    return held, rise if counts and not any(one.family.text for one in held) else None


def audit_prompt(ready: Ready, prompt: Prompt) -> PromptAudit:
    """Audit one prompt."""
    base, found = ready.base, gathered(ready, prompt)
    held, rise = held_of(found, base.settings)
    findings = [finding_of(base, found.subject, one, ready.roles, found.looked, found.rise) for one in held]
    if rise is not None:
        findings.append(written_finding(base, found.subject, rise, ready.insertion, ready.roles))
    verdict = verdict_of(base, found.subject, found.judged, findings, found.spent, found.why_not)
    missing = dict(sorted(base.opener.gone.items()))
    verdict = without_pictures(verdict, found.untested, missing)
    levels = levels_of(base, found.subject, [one.label for one in findings])
    verdict = replace(
        verdict, levels=levels.words, least_level=levels.least, written=found.written, inserted=found.inserted,
        scored=ready.scored.subject(found.subject),
    )  # fmt: skip
    return PromptAudit(tuple(findings), verdict, missing)


def _beside(subject: Subject, candidates: Sequence[Candidate]) -> list[Candidate]:
    """Words that are seen on pictures that show the prompt as well, the commonest first."""
    side, some = subject.finding, []
    for candidate in candidates:
        together = side.own & candidate.there[0]
        alike = float(side.shown[together].float().mean()) if together.any() else 0.0
        if candidate.route is Route.WORD and candidate.word is not None and alike >= BESIDE:
            some.append(candidate)
    return sorted(some, key=lambda c: -c.difference)


def _possible(base: Base, subject: Subject, candidate: Candidate) -> bool:
    """Whether latents that become inactive without a candidate could be a finding, by the scores of its pictures."""
    seen = seen_of(base, subject, Family(candidate, (), 0.0, False, "occlusion"))
    return stands_beside(seen, base.settings) is Reason.HOLDS


def _is_text(ready: Ready, candidate: Candidate) -> bool:
    """Whether a candidate is writing itself, which insertion asks about more surely than co-occurrence."""
    if candidate.route is Route.PART:
        return False
    return ready.roles.how("text", candidate.word) > SURELY_TEXT


@unaffected
def audit(
    study: Study,
    prompts: Iterable[str | Prompt] | None = None,
    *,
    settings: Settings | None = None,
    background: Sequence[str] | None = None,
    budget: int | None = None,
    device: str | torch.device | None = None,
    progress: bool = True,
    engine: Engine | None = None,
    checkpoint: str | Path | None = None,
) -> Findings:
    """Find unexpected reliances of a model.

    The findings of a prompt depend on the study and not on the other prompts.

    Args:
        study: at a site with one vector per picture and a closed-form tail (`image.embedding`, or `image.-1.cls` where
            the class token is pooled), with a vocabulary and an evaluator. Labels make the result more precise.
        prompts: texts, or `Prompt(text, means=...)`; default the pictures' labels, or the vocabulary without labels.
        settings: thresholds, with their units and reasons.
        background: texts whose mean similarity is subtracted, so that a latent that raises every prompt equally does
            not count; default the study's vocabulary.
        budget: forward passes per prompt, of either model, beyond what the study holds; default `settings.budget`.
        device: where the models run; default where they are. All else is computed on the CPU.
        progress: show a bar.
        engine: where prompts are audited, e.g. `clipattr.Ray(workers=8)`; all of its machines must see the study's
            folder. None: here. The findings are the same.
        checkpoint: folder that keeps what was found for each prompt, so that the same call after an interruption goes
            on with the next prompt; delete it once the findings are saved. None: nothing is kept.

    Returns:
        `Findings`, largest causal effect first, with a verdict for every prompt. Reliance and effects are in raw cosine
        of the prompt's contrast. Positive: the family raises the prompt's score.

    Raises:
        TargetError: no prompts, a blank one, or one text with two meanings. SiteError: a study at another site.
        StudyError: a study without live latents or vocabulary. DataError: the checkpoint cannot be written, or another
        process uses it.

    Source: Dreyer et al. 2025, arXiv:2505.20229 (reliance on latents); Bhalla et al. 2024, arXiv:2402.10376 (concepts).

    >>> import clipattr as ca
    >>> findings = ca.audit(ca.open_study("picture-world"), ["rabbit"], budget=0, progress=False)
    >>> findings.verdicts[0].prompt
    'rabbit'
    """
    settings = settings or Settings()
    if budget is not None:
        settings = replace(settings, budget=budget)
    if not study.had.any():  # built from embeddings: nothing can be occluded or inserted into
        settings = replace(settings, budget=0)
    asked = read_prompts(prompts, study)
    ready = Ready(study if device is None else placed(study, device), settings, background)
    audited: list[PromptAudit] = []
    once = 0.0
    # Over all prompts, not the latest ones: some are given up early.
    with Progress(total=len(asked), desc="audit", unit="prompt", disable=not progress, smoothing=0) as bar:
        bar.set_postfix_str(f"at most {settings.budget * len(asked):,} forward passes")
        shared = _depends_on(study, settings, background, device)
        for one in resumed(
            engine or Here(),
            audit_prompt,
            ready,
            asked,
            folder=checkpoint,
            keys=[[shared, prompt.text, prompt.means] for prompt in asked],
            pack=asdict,
            unpack=PromptAudit.from_dict,
            known=bar.known,
        ):
            audited.append(one)
            bar.set_aside(ready.insertion.seconds - once)
            once = ready.insertion.seconds
            bar.update()
    findings = sorted(
        (finding for one in audited for finding in one.findings),
        key=lambda f: (-f.causal_effect.value, f.prompt, f.latents),
    )
    about = _about(ready, len(asked))
    missing = {name: reason for one in audited for name, reason in one.missing.items()}
    if missing:
        first = dict(sorted(missing.items())[:NAMED])
        about["missing_pictures"] = {"asked_for": len(missing), "first": first}
    return Findings(findings, study, about, [one.verdict for one in audited])


def scores(
    study: Study,
    prompts: Iterable[str | Prompt],
    *,
    settings: Settings | None = None,
    background: Sequence[str] | None = None,
    insert: bool = False,
) -> Findings:
    """The scores of a study's pictures alone, as an audit holds them, without looking for findings.

    Args:
        prompts, settings, background: as for `audit`. insert: whether prompts are inserted as text as well.

    Returns:
        no findings, and a verdict for every prompt that holds its scores.

    >>> import clipattr as ca
    >>> made = scores(ca.open_study("picture-world"), ["rabbit"])
    >>> len(made), sorted(made.verdicts[0].scored)
    (0, ['clear', 'contrast', 'own', 'same', 'shown'])
    """
    ready, verdicts = Ready(study, settings or Settings(), background), []
    asked = read_prompts(prompts, study)
    for prompt in asked:
        subject = Subject.of(ready.base, prompt)
        inserted = ready.insertion.ask(subject)[4] if insert else ()
        few = int(subject.finding.own.sum()) + int(subject.measuring.own.sum()) < 2 * ready.base.settings.few
        verdicts.append(
            PromptVerdict(
                prompt.text, "cannot be judged" if few else "nothing found", "too few pictures" if few else "",
                inserted=inserted, scored=ready.scored.subject(subject),
            )
        )  # fmt: skip
    return Findings([], study, _about(ready, len(asked)), verdicts)


def _about(ready: Ready, asked: int) -> dict[str, Any]:
    """What was audited, and how."""
    study, unclear = ready.base.study, ready.base.concepts.not_distinguished
    words = study.vocabulary.words
    return {
        "model": study.manifest["model"],
        "evaluator": study.manifest["evaluator"],
        "site": str(study.site),
        "dictionary": study.dictionary.hash,
        "pictures": len(study.images),
        "pictures_finding": len(ready.base.finding),
        "pictures_measuring": len(ready.base.measuring),
        "prompts_audited": asked,
        "vocabulary": json_digest(list(words))[:16],
        "words": {
            "given": len(words),
            "not_distinguished": len(unclear),
            "first": [words[number] for number in unclear[:NAMED]],
        },
        "settings": asdict(ready.base.settings),
        "scored": dict(ready.scored.about),
    }


def _depends_on(study: Study, settings: Settings, background: Sequence[str] | None, device: Any) -> str:
    """Digest of all that a prompt's findings depend on besides the prompt."""
    columns = [list(study.images.columns[name]) for name in ("label", "split")]
    given = None if background is None else list(background)
    words = list(study.vocabulary.words)
    return json_digest([study.hash, asdict(settings), given, str(device), columns, words])


def placed(study: Study, device: str | torch.device) -> Study:
    """The same study with its models on a device."""
    from clipattr.models.loading import load_model

    moved = copy.copy(study)
    moved._models = {
        "model": load_model(study.model, device=device),
        "evaluator": load_model(study.evaluator, device=device),
    }
    return moved
