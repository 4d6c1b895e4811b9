"""Gate: the findings that should stop a release, given a limit and the findings accepted earlier.

Owns this comparison of two audits. Ignores the origin of the findings and the caller's reaction (the command line exits
with 1). Start at `over_limit`.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clipattr.discovery.findings import Finding, Findings


def over_limit(findings: "Findings", above: float, baseline: "Findings | None" = None) -> "list[Finding]":
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
    """The hash of the audited dictionary; None if the audit does not state it."""
    about = findings.about
    value = about.get("dictionary_hash") or about.get("dictionary")
    return value if isinstance(value, str) else None
