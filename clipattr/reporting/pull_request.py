"""Pull request: the decision of a gate as Markdown, for a comment or a job summary.

Owns this text. Computes nothing. Foreign text is escaped. Start at `markdown`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from clipattr.display.wording import NEWLY, NO_LABEL, be, capital, counted, kind_word, newly, visible

if TYPE_CHECKING:
    from clipattr.discovery.findings import Finding
    from clipattr.discovery.gate import Gate, Judgement

LISTED = 30  # rows of one table; the JSON has all
HEADS = {"passed": "✅ passed", "failed": "❌ failed", "cannot be judged": "⚠️ cannot be judged"}


def markdown(decided: Gate) -> str:
    """The decision in GitHub's Markdown.

    >>> from clipattr.discovery.gate import Gate
    >>> print(markdown(Gate(5.0, "passed", (), (), (), 3)).splitlines()[0])
    ### clipattr: ✅ passed
    """
    over = decided.failing
    known = len(decided.judgements) - len(over)
    parts = [
        f"### clipattr: {HEADS[decided.outcome]}",
        f"{counted(len(over), 'reliance')} above {decided.limit:g} points {be(len(over))} new or larger than accepted, "
        f"{known} {be(known)} accepted, {counted(len(decided.gone), 'accepted one')} {be(len(decided.gone))} no longer "
        f"found{newly(len(decided.rises))}; {counted(decided.judged, 'prompt')} judged, "
        f"{len(decided.unjudged)} cannot be judged. Points are cosine × 100.",
    ]
    if over:
        parts.append(
            _table([_over(j) for j in over[:LISTED]], ("prompt", "rests on", "kind", "causal effect", "why"))
        )
    if decided.rises:
        risen = [
            (_cell(r.prompt), _cell(r.word), r.rise.points(), f"{r.pictures:,}")
            for r in decided.rises[:LISTED]
        ]
        columns = ("prompt", "newly rests on", "more than before", "pictures")
        parts.append(f"**{capital(NEWLY)}**\n\n" + _table(risen, columns))
    if decided.unjudged:
        silent = [
            (
                _cell(v.prompt),
                _cell(v.why + (f"; did you mean {' or '.join(v.did_you_mean)}?" if v.did_you_mean else "")),
            )
            for v in decided.unjudged[:LISTED]
        ]
        parts.append("**Cannot be judged**\n\n" + _table(silent, ("prompt", "why")))
    if decided.gone:
        rows = [_found(finding) for finding in decided.gone[:LISTED]]
        parts.append(
            "**No longer found**\n\n" + _table(rows, ("prompt", "rested on", "kind", "accepted effect"))
        )
    parts += [f"*{_cell(remark)}*" for remark in decided.remarks]
    return "\n\n".join(parts) + "\n"


def _over(judgement: Judgement) -> tuple[str, ...]:
    return (*_found(judgement.finding), f"{judgement.outcome}: {_cell(judgement.why)}")


def _found(finding: Finding) -> tuple[str, ...]:
    label = finding.label or NO_LABEL
    return _cell(finding.prompt), _cell(label), kind_word(finding.kind), finding.causal_effect.points()


def _table(rows: Sequence[tuple[str, ...]], columns: tuple[str, ...]) -> str:
    lines = [columns, tuple("---" for _ in columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(text: str) -> str:
    """Foreign text for a cell: one line, without Markdown, HTML or mentions."""
    plain = visible(text, 200).replace("&", "&amp;").replace("<", "&lt;").replace("@", "@\u200b")
    return re.sub(r"([\\`*_{}\[\]#|~!])", r"\\\1", plain)
