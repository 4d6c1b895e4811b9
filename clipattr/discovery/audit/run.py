"""The audit: which reliances of a model nobody would expect, proved on pictures that did not raise the suspicion.

Each prompt is audited by itself, against values that come from the study alone: candidates and latents on one half,
evidence on the other, a decision, and a verdict even where nothing was found. So a prompt's findings do not depend
on the other prompts. Owns that order of things. Start at `audit`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from clipattr.discovery.audit.base import Base
from clipattr.discovery.audit.candidates import Candidate, Route, Tables, candidates_of
from clipattr.discovery.audit.decision import Judged, Reason, judge, reads, told_once
from clipattr.discovery.audit.evidence import measured
from clipattr.discovery.audit.expectations import Prompt, read_prompts
from clipattr.discovery.audit.kinds import Roles
from clipattr.discovery.audit.mediators import Family, families_of
from clipattr.discovery.audit.occlusion import Occluded, Occlusion, windows
from clipattr.discovery.audit.settings import Settings
from clipattr.discovery.audit.subject import Subject
from clipattr.discovery.audit.telling import finding_of, verdict_of, written_finding
from clipattr.discovery.audit.text_insertion import Insertion
from clipattr.discovery.encoded import activations_of, summed_codes
from clipattr.discovery.findings import Finding, Findings, PromptVerdict
from clipattr.display.progress import Progress
from clipattr.errors import DataError
from clipattr.execution.checkpoint import resumed
from clipattr.execution.engine import Engine, Here
from clipattr.storage.files import json_digest

if TYPE_CHECKING:
    from clipattr.studies.study import Study

__all__ = ["Settings", "audit"]

WINDOWS = 9  # forward passes that occluding one picture costs
FOCUS_PICTURES, FOCUS_SIDE = 1, 0.5  # occluded to see where a family sits; a window's side
SURELY_TEXT = 0.9  # role from which a word is text, which is inserted and not looked for


class Ready:
    """A study made ready for an audit: what all prompts share."""

    def __init__(self, study: Study, settings: Settings, background: Sequence[str] | None = None) -> None:
        self.base = Base.of(study, settings)
        if background is not None:
            self.base.background = self.base.text(list(background)).double().mean(0).float()
        self.tables, self.roles = Tables.of(self.base), Roles.read(self.base)
        self.insertion = Insertion(self.base)

    @cached_property
    def occlusion(self) -> Occlusion:
        """Occlusion on the finding half, with its cache."""
        half = self.base.finding
        return Occlusion(
            self.base.study, half.rows, self.base.study.seen(half.rows), self.base.settings.occluded
        )


@dataclass(frozen=True)
class PromptAudit:
    """Findings and verdict of one prompt."""

    findings: tuple[Finding, ...]
    verdict: PromptVerdict

    @classmethod
    def from_dict(cls, values: Any) -> PromptAudit:
        """Read what `asdict` made and JSON kept; DataError if it is something else."""
        if not isinstance(values, dict) or set(values) != {"findings", "verdict"}:
            raise DataError(f"not what an audit says of one prompt: {values!r:.200}")
        found = tuple(Finding.from_dict(item) for item in values["findings"])
        return cls(found, PromptVerdict.from_dict(values["verdict"]))


def audit_prompt(ready: Ready, prompt: Prompt) -> PromptAudit:
    """Audit one prompt."""
    base, settings = ready.base, ready.base.settings
    subject = Subject.of(base, prompt)
    left = settings.budget
    rise, spent, why_not = None, 0, "no forward passes are allowed"
    if left >= settings.inserted:
        rise, spent, why_not = ready.insertion.ask(subject)
    left -= spent
    every = candidates_of(base, subject, ready.tables)
    candidates = [c for c in every if not _is_text(ready, c)]
    families, weak = families_of(base, subject, candidates)
    judged = [_judged(ready, subject, family) for family in families]
    focus: dict[tuple[int, ...], float] = {}
    for one in told_once([one for one in judged if one.reason is Reason.HOLDS]):
        focus[one.family.latents], price = _focus(ready, one, left)
        left -= price
    covered, cost = _occluded(ready, subject, candidates, weak, left)
    left -= cost
    if covered:
        more, _ = families_of(base, subject, candidates, covered)
        judged += [_judged(ready, subject, family) for family in more if family.covered is not None]
    held = told_once([one for one in judged if one.reason is Reason.HOLDS])
    findings = [
        finding_of(base, subject, one, ready.roles, focus.get(one.family.latents, math.nan)) for one in held
    ]
    if rise is not None and reads(rise, subject.unit, settings, len(candidates) < len(every)):
        findings.append(written_finding(base, subject, rise, ready.insertion, ready.roles))
    verdict = verdict_of(base, subject, judged, findings, settings.budget - left, why_not)
    return PromptAudit(tuple(findings), verdict)


def _judged(ready: Ready, subject: Subject, family: Family) -> Judged:
    evidence = measured(ready.base, subject, family)
    return judge(family, evidence, subject.unit, ready.base.settings)


def _is_text(ready: Ready, candidate: Candidate) -> bool:
    """Whether a candidate is writing itself, which insertion asks about more surely than co-occurrence."""
    if ready.base.settings.budget < ready.base.settings.inserted or candidate.route is Route.PART:
        return False
    return ready.roles.how("text", candidate.word) > SURELY_TEXT


def _occluded(
    ready: Ready, subject: Subject, candidates: Sequence[Candidate], weak: Sequence[int], left: int
) -> tuple[dict[int, Occluded], int]:
    """Occlude candidates whose latents carry too little, the commonest first, as far as the budget goes."""
    base, settings, found = ready.base, ready.base.settings, dict[int, Occluded]()
    price, cost = settings.occluded * (WINDOWS + 1), 0
    said = subject.prompt.means or subject.prompt.text
    order = sorted(weak, key=lambda number: -candidates[number].difference)
    for number in order:
        word = candidates[number].word
        if word is None or cost + price > left:
            continue
        there = subject.finding.own & candidates[number].there[0]
        there &= torch.from_numpy(base.study.sees[base.finding.rows])
        if int(there.sum()) < settings.few:
            continue
        meaning = base.study.vocabulary_embeddings[word].float()
        text = base.study.evaluator.encode_text([said], templates=base.templates).float().cpu()[0]
        cost += price
        clearly = base.along(base.finding, base.concepts.words[word])
        if (covered := ready.occlusion.occlude(there, clearly, text, meaning)) is not None:
            found[number] = covered
    return found, cost


def _focus(ready: Ready, judged: Judged, left: int) -> tuple[float, int]:
    """Largest share of a family's strength that goes with one window of a picture; NaN beyond the budget."""
    family, evidence, base = judged.family, judged.evidence, ready.base
    cost = FOCUS_PICTURES * (WINDOWS + 1)
    if evidence is None or family.instead or family.covered is not None or left < cost:
        return math.nan, 0
    codes = base.measuring.codes[evidence.pictures.numpy()][:, list(family.latents)]
    strongest = (
        torch.from_numpy(codes.sum(1)).flatten().argsort(descending=True, stable=True)[:FOCUS_PICTURES]
    )
    rows = base.measuring.rows[evidence.pictures[strongest].numpy()]
    if not base.study.sees[rows].all():
        return math.nan, 0
    copies = []
    for row in rows.tolist():
        picture = base.study.images[int(row)].load().convert("RGB")
        picture.thumbnail((512, 512))
        copies += windows(picture, 3, FOCUS_SIDE)
    encoded = base.study.dictionary.encode(activations_of(base.study, copies).cpu())
    strength = summed_codes(encoded, list(family.latents)).view(len(rows), -1)
    lost = ((strength[:, :1] - strength[:, 1:]) / strength[:, :1].clamp_min(1e-9)).clamp(0, 1)
    return float(lost.amax(1).mean()), cost


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
    """Find the reliances of a model that nobody would expect.

    What is said of a prompt depends on the study and on nothing else that is asked.

    Args:
        study: a study built at `image.-1.cls`, with a vocabulary and an evaluator. Labels sharpen the answer.
        prompts: texts, or `Prompt(text, means=...)`; default the pictures' labels, or the vocabulary without labels.
        settings: thresholds, with their units and reasons.
        background: texts whose mean similarity is subtracted, so that a latent which lifts every prompt alike does not
            count; default the study's vocabulary.
        budget: forward passes a prompt, of either model, beyond what the study holds; default `settings.budget`.
        device: where the models run; default where they are. All else is computed on the CPU.
        progress: show a bar.
        engine: where prompts are audited, e.g. `clipattr.Ray(workers=8)`; all of its machines must see the study's
            folder. None: here. The findings are the same.
        checkpoint: folder that keeps what was found for each prompt, so that the same call after an interruption goes
            on with the next prompt; delete it once the findings are saved. None: nothing is kept.

    Returns:
        findings, largest causal effect first, and a verdict for every prompt. Reliance and effects are raw cosine of
        the prompt's contrast.

    Raises:
        TargetError: no prompts, or an empty one. SiteError: a study at another site. StudyError: a study without
            live latents or vocabulary. DataError: the checkpoint cannot be written, or another process uses it.

    >>> import clipattr as ca
    >>> findings = ca.audit(ca.open_study("picture-world"), ["rabbit"], budget=0, progress=False)
    >>> findings.verdicts[0].prompt
    'rabbit'
    """
    settings = settings or Settings()
    if budget is not None:
        settings = replace(settings, budget=budget)
    if not study.sees.any():  # built from embeddings: nothing can be occluded or inserted into
        settings = replace(settings, budget=0)
    asked = read_prompts(prompts, study)
    ready = Ready(study if device is None else placed(study, device), settings, background)
    audited: list[PromptAudit] = []
    with Progress(total=len(asked), desc="audit", unit="prompt", disable=not progress) as bar:
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
        ):
            audited.append(one)
            bar.update()
    findings = sorted(
        (finding for one in audited for finding in one.findings),
        key=lambda f: (-f.causal_effect.value, f.prompt, f.latents),
    )
    about: dict[str, Any] = {
        "model": study.manifest["model"],
        "evaluator": study.manifest["evaluator"],
        "site": str(study.site),
        "dictionary": study.dictionary.hash,
        "pictures": len(study.images),
        "pictures_finding": len(ready.base.finding),
        "pictures_measuring": len(ready.base.measuring),
        "prompts_audited": len(asked),
        "settings": asdict(settings),
    }
    return Findings(findings, study, about, [one.verdict for one in audited])


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
