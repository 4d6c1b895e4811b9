"""Releases: what the command line says of a gate's decision, and the verbs `check` and `baseline`.

Computes nothing: the decision is `discovery/gate.py`, the checks are `discovery/check.py` and `discovery/laws.py`.
Start at `told_gate`.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from clipattr.cli.arguments import ABOVE_LIMIT, BAD_INPUT, NOT_JUDGED, OK
from clipattr.cli.terminal import check_target, emit, human, tell
from clipattr.display.wording import NO_LABEL, visible
from clipattr.errors import DataError
from clipattr.storage.documents import json_text

if TYPE_CHECKING:
    from clipattr.discovery.gate import Gate

MARKS = {"good": "ok  ", "look": "look", "bad": "BAD "}


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


def check(arguments: argparse.Namespace) -> int:
    """Check a model and pictures before a study is built, or the audit's laws on a study."""
    from clipattr.discovery.check import check as checked
    from clipattr.discovery.laws import check_laws
    from clipattr.meaning import Vocabulary
    from clipattr.studies.study import open_study

    prompts = list(arguments.prompt or ())
    if arguments.prompts:
        prompts += Vocabulary.open(arguments.prompts).words
    if arguments.laws:
        if arguments.images:
            raise DataError("--laws checks a finished study: clipattr check STUDY --laws.")
        made = check_laws(open_study(arguments.model), prompts or None)
    elif arguments.images is None:
        raise DataError("Give a model and pictures (clipattr check MODEL IMAGES), or a study and --laws.")
    else:
        made = checked(
            arguments.model, arguments.images, vocabulary=arguments.vocabulary, evaluator=arguments.evaluator,
            prompts=prompts or None,
        )  # fmt: skip
    emit(json_text(made.to_dict(), indent=2) + "\n", arguments.json)
    for line in made.lines:
        print(f"{MARKS[line.outcome]} {line.about}: {visible(line.text, 400)}", file=human(arguments))
    return OK if made.is_usable else BAD_INPUT
