"""Releases: what the command line says of a gate's decision, and the verbs `check` and `baseline`.

Computes nothing: the decision is `discovery/gate.py`, the checks are `discovery/check.py` and `discovery/laws.py`.
Start at `told_gate`.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from clipattr.cli.arguments import ABOVE_LIMIT, BAD_INPUT, NOT_JUDGED, OK
from clipattr.cli.terminal import answer, check_target, emit, human, tell
from clipattr.discovery.audit.settings import Settings
from clipattr.display.wording import NO_LABEL, SAME_TEXT, be, counted, newly, visible
from clipattr.errors import DataError
from clipattr.storage.documents import json_text

if TYPE_CHECKING:
    from clipattr.discovery.findings import PromptVerdict
    from clipattr.discovery.gate import Gate

LISTED = 12  # prompts that cannot be judged, by name
MARKS = {"good": "ok  ", "look": "look", "bad": "BAD "}


def told_gate(decided: Gate, out: Any) -> int:
    """Print the decision; returns the exit status."""
    known = len(decided.judgements) - len(decided.failing)
    new, gone = len(decided.failing), len(decided.gone)
    print(
        f"\n{decided.outcome}: {counted(new, 'finding')} above {decided.limit:g} points {be(new)} new or larger than "
        f"accepted, {known:,} {be(known)} accepted, {counted(gone, 'accepted one')} {be(gone)} no longer found"
        f"{newly(len(decided.rises))}.",
        file=out,
    )
    for one in decided.failing:
        finding = one.finding
        print(f"  {visible(finding.prompt, 40)} rests on {visible(finding.label or NO_LABEL, 40)}: "
              f"{finding.causal_effect.points()} points; {one.outcome}: {visible(one.why, 200)}", file=out)  # fmt: skip
    for rise in decided.rises:
        print(f"  {visible(rise.prompt, 40)} {visible(rise.why, 200)}", file=out)
    if decided.unjudged:
        _told_unjudged(decided, out)
    tell(decided.remarks)
    return {"failed": ABOVE_LIMIT, "cannot be judged": NOT_JUDGED}.get(decided.outcome, OK)


def _told_unjudged(decided: Gate, out: Any) -> None:
    """Print which prompts have not passed for want of a judgement, why, and what each of them needs."""
    n = len(decided.unjudged)
    print(
        f"{n:,} of {counted(n + decided.judged, 'prompt')} cannot be judged, so {'it has' if n == 1 else 'they have'} "
        "not passed:",
        file=out,
    )
    for verdict in decided.unjudged[:LISTED]:
        meant = f" Did you mean {' or '.join(visible(word, 40) for word in verdict.did_you_mean)}?"
        print(
            f"  {visible(verdict.prompt, 40)}: {visible(verdict.why, 200)}.{meant * bool(verdict.did_you_mean)}",
            file=out,
        )
    if n > LISTED:
        print(f"  and {n - LISTED:,} more, in --json", file=out)
    for advice in dict.fromkeys(_advice(verdict) for verdict in decided.unjudged):
        print(advice, file=out)


def _advice(verdict: PromptVerdict) -> str:
    """What makes a prompt judgeable."""
    if verdict.unopened:
        return "Bring back the pictures that cannot be opened, and audit again."
    if verdict.did_you_mean:
        return "Correct the spelling, or leave the prompt out."
    if verdict.why.startswith(SAME_TEXT):
        return "Reword or leave out the prompts that the model reads like other words: more pictures do not help."
    if min(verdict.pictures_finding, verdict.pictures_measuring) < Settings().few:
        return "Add pictures of the prompts that lack them, or leave these prompts out."
    return "Reword or leave out the prompts whose own pictures do not score above others: more pictures do not help."


def baseline(arguments: argparse.Namespace) -> int:
    """Join audits that a person accepts into a baseline."""
    from clipattr.discovery.findings import Findings
    from clipattr.discovery.gate import accept

    arguments.out = check_target(arguments.out, "out")
    accepted = accept([Findings.from_json(file) for file in arguments.audits], arguments.note)
    accepted.to_json(arguments.out)
    silent = sum(verdict.outcome == "cannot be judged" for verdict in accepted.verdicts)
    record = {"baseline": arguments.out, "findings": len(accepted), "cannot_be_judged": silent}
    told = f"accepted {counted(len(accepted), 'finding')} in {arguments.out}; {counted(silent, 'prompt')} cannot be "
    return answer(arguments, record, f"{told}judged, and {'stays' if silent == 1 else 'stay'} so.")


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
