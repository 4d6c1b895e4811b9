"""Gate: whether an audit should stop a release, given a limit and the findings accepted earlier.

Owns this decision. Ignores the origin of the findings and the caller's reaction (the command line exits with 1 or 3).
Start at `gate`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from clipattr.errors import DataError

if TYPE_CHECKING:
    from clipattr.discovery.findings import Finding, Findings, PromptVerdict

PASSED, FAILED, NOT_JUDGED = "passed", "failed", "cannot be judged"


@dataclass(frozen=True)
class Gate:
    """A decision about a release.

    Attributes:
        limit: points (cosine × 100). outcome: "failed" if a finding is over the limit; else "cannot be judged" if some
            prompt was not judged; else "passed".
        over: findings above the limit that are not accepted, strongest first. unjudged: verdicts of prompts that the
            audit could not judge. judged: number of prompts that it could.
    """

    limit: float
    outcome: str
    over: tuple[Finding, ...]
    unjudged: tuple[PromptVerdict, ...]
    judged: int

    def to_dict(self) -> dict[str, Any]:
        """The decision for JSON; effects in raw cosine."""
        return {
            "outcome": self.outcome,
            "fail_above_points": self.limit,
            "prompts_judged": self.judged,
            "over": [
                {
                    "prompt": f.prompt,
                    "label": f.label,
                    "kind": f.kind,
                    "causal_effect": asdict(f.causal_effect),
                }
                for f in self.over
            ],
            "cannot_be_judged": [
                {"prompt": v.prompt, "why": v.why, "did_you_mean": list(v.did_you_mean)}
                for v in self.unjudged
            ],
        }


def gate(findings: Findings, above: float, baseline: Findings | None = None) -> Gate:
    """Decide whether an audit should stop a release.

    Args:
        findings: of the audit, with its verdicts.
        above: the limit in points (cosine × 100); a finding exactly at the limit passes.
        baseline: findings of an earlier audit that a person has accepted.

    Raises:
        DataError: the findings hold no verdicts, so nobody knows which prompts were judged.
    """
    if not findings.verdicts:
        raise DataError(
            "These findings hold no verdicts, so nothing says which prompts were judged. Audit again: clipattr audit "
            "STUDY --json FILE."
        )
    over = tuple(over_limit(findings, above, baseline))
    unjudged = tuple(v for v in findings.verdicts if v.outcome == "cannot be judged")
    outcome = FAILED if over else NOT_JUDGED if unjudged else PASSED
    return Gate(above, outcome, over, unjudged, len(findings.verdicts) - len(unjudged))


def over_limit(findings: Findings, above: float, baseline: Findings | None = None) -> list[Finding]:
    """Findings with a causal effect above a limit that are not accepted by the baseline.

    The baseline accepts a finding if it has one with the same prompt and the same cause, unless the new effect's
    interval lies above the old one. Two causes are the same if the families share a latent, when both audits used the
    same dictionary; otherwise if their labels are equal, or, without labels, their kinds.

    Args:
        findings: of the new audit.
        above: the limit in points (cosine × 100); a finding exactly at the limit passes.
        baseline: accepted findings of an earlier audit.

    Returns:
        Those findings, strongest first.
    """
    strong = [f for f in findings if f.causal_effect.value * 100 > above]
    if baseline is not None:
        same_latents = _dictionary(findings) is not None and _dictionary(findings) == _dictionary(baseline)
        strong = [f for f in strong if not _is_known(f, baseline, same_latents)]
    return sorted(strong, key=lambda f: -f.causal_effect.value)


def _is_known(finding: Finding, baseline: Iterable[Finding], same_latents: bool) -> bool:
    for known in baseline:
        if known.prompt != finding.prompt or finding.causal_effect.low > known.causal_effect.high:
            continue
        if same_latents:
            if set(known.latents) & set(finding.latents):
                return True
        elif (known.label, finding.label) != (None, None):
            if known.label == finding.label:
                return True
        elif known.kind == finding.kind:
            return True
    return False


def _dictionary(findings: Findings) -> str | None:
    """The hash of the audited dictionary; None if the audit does not state it."""
    about = findings.about
    value = about.get("dictionary_hash") or about.get("dictionary")
    return value if isinstance(value, str) else None
