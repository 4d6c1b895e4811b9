"""Releases: what the command line says of a gate's decision, and the verb that makes a baseline.

Owns `baseline` and the printed decision. Computes nothing: the decision is `discovery/gate.py`. Start at `told_gate`.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from clipattr.cli.arguments import ABOVE_LIMIT, NOT_JUDGED, OK
from clipattr.cli.terminal import check_target, emit, human, tell
from clipattr.display.wording import NO_LABEL, visible
from clipattr.storage.documents import json_text

if TYPE_CHECKING:
    from clipattr.discovery.gate import Gate


def told_gate(decided: Gate, out: Any) -> int:
    """Print the decision; returns the exit status."""
    known = len(decided.judgements) - len(decided.failing)
    print(
        f"\n{decided.outcome}: {len(decided.failing):,} above {decided.limit:g} points are new or larger than "
        f"accepted, {known:,} are accepted, {len(decided.gone):,} accepted ones are no longer found.",
        file=out,
    )
    for one in decided.failing:
        finding = one.finding
        print(f"  {visible(finding.prompt, 40)} rests on {visible(finding.label or NO_LABEL, 40)}: "
              f"{finding.causal_effect.points()} points; {one.outcome}: {visible(one.why, 200)}", file=out)  # fmt: skip
    if decided.unjudged:
        print(
            f"{len(decided.unjudged):,} of {len(decided.unjudged) + decided.judged:,} prompts cannot be judged, "
            "so they have not passed. Add pictures of them, or leave them out of the prompts.",
            file=out,
        )
    tell(decided.remarks)
    return {"failed": ABOVE_LIMIT, "cannot be judged": NOT_JUDGED}.get(decided.outcome, OK)


def baseline(arguments: argparse.Namespace) -> int:
    """Join audits that a person accepts into a baseline."""
    from clipattr.discovery.findings import Findings
    from clipattr.discovery.gate import accept

    check_target(arguments.out, "out")
    accepted = accept([Findings.from_json(file) for file in arguments.audits], arguments.note)
    accepted.to_json(arguments.out)
    silent = sum(verdict.outcome == "cannot be judged" for verdict in accepted.verdicts)
    record = {"baseline": arguments.out, "findings": len(accepted), "cannot_be_judged": silent}
    emit(json_text(record, indent=2) + "\n", arguments.json)
    print(f"accepted {len(accepted):,} findings in {arguments.out}; {silent:,} prompts cannot be judged, and stay so.",
          file=human(arguments))  # fmt: skip
    return OK
