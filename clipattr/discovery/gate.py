"""Gate: whether an audit should stop a release, given a limit and the findings accepted earlier.

Owns this decision, and the refusal of baselines that cannot be compared. Findings are matched by their cause, since
another dictionary numbers its latents otherwise (`pairing.py`); whether an unmatched one is new is asked of the scores
of pictures alone, which the baseline holds for every prompt and word (`audit/levels.py`). Scores also show new
reliances that the audit of the new model does not report (`rises.py`). Ignores the caller's reaction (the command line
exits with 1 or 3). Start at `gate`; the choices are in docs/decisions/gate.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from clipattr.discovery.pairing import SAME_COLLECTION, Levels, Pairing, require_same_pictures
from clipattr.discovery.rises import Comparison, Rise, compare_released
from clipattr.discovery.scored import difference
from clipattr.display.wording import be, counted
from clipattr.errors import DataError

if TYPE_CHECKING:
    from clipattr.discovery.findings import Finding, Findings, PromptVerdict
    from clipattr.studies.study import Study

PASSED, FAILED, NOT_JUDGED = "passed", "failed", "cannot be judged"
NEW, LARGER, KNOWN = "new", "larger", "known"
# Share of the accepted effect that another dictionary of the same model may add; of 61 pairs of findings under reseeded
# dictionaries of one bundled study, 57 differed by less than a factor of 2.15.
DICTIONARY_SPREAD = 1.0
# Share of an effect by which its pictures must score higher than in the previous model for it to be new.
LEAST_RISE = 0.5
# Share of an effect by which what its word adds to the score must have risen since the baseline for it to be new.
LEAST_LEVEL_RISE = 0.25


@dataclass(frozen=True)
class Judgement:
    """What a gate says of one finding above the limit.

    Attributes:
        outcome: "new", "larger" or "known"; the first two fail the gate. why: a sentence.
        accepted: the baseline's finding of the same cause with the largest effect, or None.
    """

    finding: Finding
    outcome: str
    why: str
    accepted: Finding | None = None


@dataclass(frozen=True)
class Gate:
    """A decision about a release.

    Attributes:
        limit: points (cosine × 100).
        outcome: "failed" if a finding above the limit is new or larger than accepted, or a word newly raises a
            prompt; else "cannot be judged" if some prompt was not judged; else "passed".
        judgements: one for each finding above the limit, strongest first.
        rises: words that raise a prompt by more than the limit above their effect in the released model, and that no
            failing finding of the prompt names.
        gone: accepted findings above the limit that the audit no longer has, for prompts that it judged.
        unjudged: verdicts of prompts that the audit could not judge. judged: number of prompts that it could.
        remarks: what a reader should know about the comparison.
    """

    limit: float
    outcome: str
    judgements: tuple[Judgement, ...]
    gone: tuple[Finding, ...]
    unjudged: tuple[PromptVerdict, ...]
    judged: int
    remarks: tuple[str, ...] = ()
    rises: tuple[Rise, ...] = ()

    @property
    def failing(self) -> tuple[Judgement, ...]:
        """The judgements that fail the gate."""
        return tuple(j for j in self.judgements if j.outcome != KNOWN)

    @property
    def over(self) -> tuple[Finding, ...]:
        """The findings that fail the gate."""
        return tuple(j.finding for j in self.failing)

    def to_dict(self) -> dict[str, Any]:
        """The decision for JSON; effects in raw cosine."""
        return {
            "outcome": self.outcome,
            "fail_above_points": self.limit,
            "prompts_judged": self.judged,
            "findings_above": [
                _told(j.finding) | {"outcome": j.outcome, "why": j.why} for j in self.judgements
            ],
            "newly_rests_on": [
                {
                    "prompt": one.prompt,
                    "label": one.word,
                    "rise": asdict(one.rise),
                    "pictures": one.pictures,
                    "why": one.why,
                }
                for one in self.rises
            ],
            "no_longer_found": [_told(finding) for finding in self.gone],
            "cannot_be_judged": [
                {"prompt": v.prompt, "why": v.why, "did_you_mean": list(v.did_you_mean)}
                for v in self.unjudged
            ],
            "remarks": list(self.remarks),
        }


def gate(
    findings: Findings, above: float, baseline: Findings | None = None, *, previous: Study | None = None
) -> Gate:
    """Decide whether an audit should stop a release.

    Args:
        findings: of the audit, with its verdicts.
        above: the limit in points (cosine × 100); a finding exactly at the limit passes.
        baseline: findings of earlier audits that a person has accepted; several audits of one model with different
            dictionaries can be joined (`accept`).
        previous: the study of the released model, of the same pictures. With it a finding that no accepted one matches
            is new only if its pictures also score higher than they did: this needs no dictionary. Without it, or where
            the cause's word is known, the levels and scores stored in baseline and audit are compared in the same way,
            if both are of the same pictures and vocabulary.

    Returns:
        The decision as a `Gate`; `outcome` is 'passed', 'failed' or 'cannot be judged'.

    Raises:
        DataError: the findings hold no verdicts, or the baseline is of other pictures, another evaluator, site or
            preprocessing.

    >>> import clipattr as ca
    >>> findings = ca.audit(ca.open_study("picture-world"), ["rabbit"], budget=0, progress=False)
    >>> ca.gate(findings, above=50).outcome
    'passed'
    """
    if not findings.verdicts:
        raise DataError(
            "These findings hold no verdicts, so nothing says which prompts were judged. Audit again: clipattr audit "
            "STUDY --json FILE."
        )
    remarks = [] if baseline is None else require_comparable(findings, baseline)
    pairing = Pairing(findings.study)
    risen = _Risen(findings, baseline)
    levels = None
    if previous is not None and findings.study is not None:
        require_same_pictures(findings.study, previous)
        levels = (Levels(findings.study), Levels(previous))
    strong = sorted((f for f in findings if f.causal_effect.value * 100 > above), key=_strength)
    compared = compare_released(findings, baseline, previous)
    judgements = tuple(
        _judge(f, baseline, pairing, _same_dictionary(findings, baseline), levels, risen, compared)
        for f in strong
    )
    unjudged = tuple(v for v in findings.verdicts if v.outcome == "cannot be judged")
    said = {(j.finding.prompt, j.finding.label) for j in judgements if j.outcome != KNOWN}
    every = () if compared is None else compared.rises(above)
    new = tuple(one for one in every if (one.prompt, one.word) not in said)  # the others are findings
    failed = bool(new) or any(j.outcome != KNOWN for j in judgements)
    return Gate(
        limit=above,
        outcome=FAILED if failed else NOT_JUDGED if unjudged else PASSED,
        rises=new,
        judgements=judgements,
        gone=_gone(findings, above, baseline, pairing),
        unjudged=unjudged,
        judged=len(findings.verdicts) - len(unjudged),
        remarks=tuple(remarks),
    )


def _judge(
    finding: Finding,
    baseline: Findings | None,
    pairing: Pairing,
    same_dictionary: bool,
    levels: tuple[Levels, Levels] | None,
    risen: _Risen,
    compared: Comparison | None,
) -> Judgement:
    matches = [(known, pairing.reason(finding, known, same_dictionary)) for known in baseline or ()]
    matches = sorted(((k, why) for k, why in matches if why), key=lambda match: _strength(match[0]))
    accepted, reason = matches[0] if matches else (None, "")
    before = 0.0 if accepted is None else accepted.causal_effect.value
    if accepted is not None:
        most = max(known.causal_effect.high for known, _ in matches)
        most += 0.0 if same_dictionary else DICTIONARY_SPREAD * before
        if not finding.causal_effect.low > most:
            return Judgement(finding, KNOWN, f"accepted: the same {reason}", accepted)
    rise = None if compared is None or finding.by_writing else compared.of(finding.prompt, finding.label)
    if rise is not None and not rise.low > 0:
        why = f"its cause adds {rise.points()} points more than in the released model: within two trainings' spread"
        return Judgement(finding, KNOWN, why, accepted)
    level_rise = risen.of(finding)
    if levels is not None and (finding.by_writing or rise is None or level_rise is None):
        now, then = (level.of(finding) for level in levels)
        # What writing adds is measured with another font than the audit's, so its own size is the measure. Where this
        # font adds nothing, only equal models are equal.
        most = max(now, 0.0) if finding.by_writing else finding.causal_effect.value - before
        readable = not finding.by_writing or now > 0 or now == then
        if math.isfinite(now - then) and readable and now - then <= LEAST_RISE * most:
            why = f"its pictures score {(now - then) * 100:+.1f} points more than in the previous model"
            return Judgement(finding, KNOWN, why, accepted)
    elif level_rise is not None:
        measure = (
            max(risen.written(finding), 0.0) if finding.by_writing else finding.causal_effect.value - before
        )
        if level_rise <= LEAST_LEVEL_RISE * measure:
            why = f"its cause adds {level_rise * 100:+.1f} points more than in the baseline, on the same pictures"
            return Judgement(finding, KNOWN, why, accepted)
    if accepted is None:
        return Judgement(finding, NEW, "no accepted finding has this prompt and cause")
    return Judgement(finding, LARGER, f"accepted with {accepted.causal_effect.points()} points", accepted)


class _Risen:
    """How far the causes of findings have risen since a baseline, measured on pictures without any dictionary."""

    def __init__(self, findings: Findings, baseline: Findings | None) -> None:
        self._now = {v.prompt: v for v in findings.verdicts}
        self._then: dict[str, PromptVerdict] = {}
        if baseline is not None and not self.difference(findings, baseline):
            self._then = {v.prompt: v for v in baseline.verdicts}

    @staticmethod
    def difference(findings: Findings, baseline: Findings) -> str:
        """What keeps the levels of two audits from being compared; "" if nothing does."""
        if not any(v.least_level is not None for v in baseline.verdicts):
            return "the baseline holds no levels"
        for what in ("pictures", "vocabulary"):
            if findings.about.get(what) is None or findings.about.get(what) != baseline.about.get(what):
                return f"the two audits differ in their {what}"
        return ""

    def of(self, finding: Finding) -> float | None:
        """Raw cosine by which the cause adds more than in the baseline; None where that cannot be said.

        Of a word that the baseline does not list, the largest level that it can have had is taken.
        """
        now, then = self._now.get(finding.prompt), self._then.get(finding.prompt)
        if now is None or then is None:
            return None
        if finding.by_writing:
            return None if now.written is None or then.written is None else now.written - then.written
        levels, least = now.levels.get(finding.label or ""), then.least_level
        if levels is None or least is None:
            return None
        before = then.levels.get(finding.label or "", (least, least))
        rises = [a - b for a, b in zip(levels, before, strict=True) if a is not None and b is not None]
        return max(rises) if rises else None

    def written(self, finding: Finding) -> float:
        """Raw cosine that the prompt adds as text."""
        return self._now[finding.prompt].written or 0.0


def _gone(
    findings: Findings, above: float, baseline: Findings | None, pairing: Pairing
) -> tuple[Finding, ...]:
    judged = {v.prompt for v in findings.verdicts if v.outcome != "cannot be judged"}
    same = _same_dictionary(findings, baseline)
    return tuple(
        known
        for known in sorted(baseline or (), key=_strength)
        if known.prompt in judged
        and known.causal_effect.value * 100 > above
        and not any(pairing.reason(found, known, same) for found in findings)
    )


def require_comparable(findings: Findings, baseline: Findings) -> list[str]:
    """Remarks on a comparison.

    Raises:
        DataError: the baseline is of other pictures, another evaluator, site or preprocessing.
    """
    new, old = findings.about, baseline.about
    remarks = []
    for what, ours, theirs in (
        ("site", new.get("site"), old.get("site")),
        ("evaluator", _part(new, "evaluator", "hash"), _part(old, "evaluator", "hash")),
        ("model's preprocessing", _part(new, "model", "preprocess"), _part(old, "model", "preprocess")),
    ):
        if ours is None or theirs is None:
            remarks.append(f"The {what} cannot be compared: one of the audits does not state it.")
        elif ours != theirs:
            raise DataError(
                f"The baseline was audited with another {what} ({theirs}) than this study ({ours}), so its findings "
                "cannot be compared. Audit the released model in the same way and accept that: clipattr baseline "
                "accept AUDIT --out FILE."
            )
    if findings.study is not None:
        ids = set(findings.study.images.ids)
        named = {name for known in baseline for name in (*known.examples, *_measured(known))}
        if named and len(named & ids) < SAME_COLLECTION * len(named):
            raise DataError(
                f"The baseline was audited on other pictures: {len(named - ids):,} of the {len(named):,} that it names "
                f"are not in this study, for instance {min(named - ids)!r}. Audit the released model on these pictures "
                "and accept that: clipattr baseline accept AUDIT --out FILE."
            )
    if new.get("pictures") != old.get("pictures"):
        remarks.append(
            f"The baseline has {old.get('pictures', '?')} pictures, this audit {new.get('pictures', '?')}."
        )
    if told := _Risen.difference(findings, baseline):
        remarks.append(
            f"Scores alone do not show whether unmatched findings are new: {told}. Another dictionary may then "
            "fail the gate; accept an audit of the same pictures and words, or give --previous."
        )
    if told := difference(findings, baseline):
        unseen = "New reliances that the audit does not report cannot be seen"
        remarks.append(f"{unseen}: {told}. Audit the released model again with this version and accept that.")
    if (weights := _part(new, "model", "hash")) is not None and weights == _part(old, "model", "hash"):
        remarks.append("The audited weights are those of the baseline.")
    if new.get("settings") != old.get("settings"):
        remarks.append("The settings of the two audits differ.")
    if baseline.verdicts:
        added = {v.prompt for v in findings.verdicts} - {v.prompt for v in baseline.verdicts}
        if added:
            n = counted(len(added), "prompt")
            remarks.append(f"{n} {be(len(added))} not in the baseline, for instance {min(added)!r}.")
    return remarks


def accept(audits: list[Findings], note: str = "") -> Findings:
    """A baseline: the findings of one or more audits of one model, with a note by the person who accepts them.

    The union of several audits of the same weights with different dictionaries is accepted, with the largest of their
    effects, which makes the gate less sensitive to the dictionary.

    Args:
        audits: of one model.
        note: reason of the person who accepts the findings.

    Returns:
        The accepted findings with their note, as a baseline for `gate`.

    Raises:
        DataError: no audit, audits without verdicts, or of different weights.

    >>> import clipattr as ca
    >>> from clipattr.discovery.findings import PromptVerdict
    >>> found = ca.Findings([], None, {}, [PromptVerdict("kite", "nothing found", "")])
    >>> ca.accept([found], note="nothing to accept").about["accepted"]
    {'audits': 1, 'note': 'nothing to accept'}
    """
    from clipattr.discovery.findings import Findings

    if not audits or not all(audit.verdicts for audit in audits):
        raise DataError("A baseline needs an audit with verdicts: clipattr audit STUDY --json FILE.")
    first = audits[0]
    for other in audits[1:]:
        if _part(other.about, "model", "hash") != _part(first.about, "model", "hash"):
            raise DataError("The audits are of models with different weights. Make one baseline per model.")
        require_comparable(other, first)
    about = dict(first.about)
    if len({_dictionary(audit) for audit in audits}) > 1:
        about["dictionary"] = None  # latent numbers of several dictionaries cannot be compared
    about["accepted"] = {"audits": len(audits), "note": note}
    verdicts = {v.prompt: v for audit in reversed(audits) for v in audit.verdicts}
    return Findings([f for audit in audits for f in audit], first.study, about, verdicts.values())


def _told(finding: Finding) -> dict[str, Any]:
    return {
        "prompt": finding.prompt,
        "label": finding.label,
        "kind": finding.kind,
        "causal_effect": asdict(finding.causal_effect),
    }


def _strength(finding: Finding) -> float:
    return -finding.causal_effect.value


def _measured(finding: Finding) -> tuple[str, ...]:
    named = finding.evidence.get("prompt_examples")
    return tuple(str(name) for name in named) if isinstance(named, (list, tuple)) else ()


def _same_dictionary(one: Findings, other: Findings | None) -> bool:
    return other is not None and _dictionary(one) is not None and _dictionary(one) == _dictionary(other)


def _dictionary(findings: Findings) -> str | None:
    """The hash of the audited dictionary; None if the audit does not state it."""
    value = findings.about.get("dictionary_hash") or findings.about.get("dictionary")
    return value if isinstance(value, str) else None


def _part(about: Mapping[str, Any], role: str, key: str) -> Any:
    told = about.get(role)
    return told.get(key) if isinstance(told, Mapping) else None
