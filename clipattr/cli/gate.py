"""Gate: which findings should stop a release, given a limit and what was known before.

Owns the comparison of two audits for that one question. Ignores where findings come from and what a caller does with
the answer (the command line exits with 1). Start at `over_limit`.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clipattr.discovery.findings import Finding, Findings


def over_limit(findings: "Findings", above: float, baseline: "Findings | None" = None) -> "list[Finding]":
    """Findings with a causal effect above a limit that the baseline does not excuse.

    A finding is excused by one of the baseline with the same prompt and the same cause, unless its effect has grown
    beyond the baseline's: its interval lies above the other's. Latents say what is the same cause where both audits
    used the same dictionary (their numbers mean the same there); else the label does, and where there is no label, the
    kind.

    Args:
        findings: of the audit in question.
        above: the limit in points (cosine × 100); a finding exactly at it passes.
        baseline: findings that are known and accepted.

    Returns:
        Those findings, strongest first.
    """
    strong = [f for f in findings if f.causal_effect.value * 100 > above]
    if baseline is not None:
        same_latents = _dictionary(findings) is not None and _dictionary(findings) == _dictionary(baseline)
        strong = [f for f in strong if not _is_known(f, baseline, same_latents)]
    return sorted(strong, key=lambda f: -f.causal_effect.value)


def _is_known(finding: "Finding", baseline: "Iterable[Finding]", same_latents: bool) -> bool:
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


def _dictionary(findings: "Findings") -> str | None:
    """The hash of the dictionary that was audited, where the audit wrote it down."""
    about = findings.about
    value = about.get("dictionary_hash") or about.get("dictionary")
    return value if isinstance(value, str) else None
