"""Prompts on a report's page: the verdict on every audited prompt, also as rows of a CSV.

Owns the section of verdicts and the CSV of an audit. Computes nothing: verdicts come from the audit. Start at
`verdicts_html` and `csv_text`.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING

from clipattr.display.wording import counted, least_points, points
from clipattr.reporting.values import name_html, text_html

if TYPE_CHECKING:
    from clipattr.discovery.findings import Findings, PromptVerdict

LISTED = 2_000  # prompts of one outcome in the section; the JSON and the CSV have all
# Outcome of a verdict, heading of its part of the section, whether the part is open at first.
PARTS = (
    ("cannot be judged", "cannot be judged", True),
    ("nothing found", "nothing found", False),
    ("found", "with a finding", False),
)


def verdicts_html(verdicts: Sequence[PromptVerdict]) -> str:
    """The section with one verdict per audited prompt; "" without verdicts."""
    if not verdicts:
        return ""
    parts = "".join(_part([v for v in verdicts if v.outcome == o], what, open) for o, what, open in PARTS)
    return f"""<section class="verdicts" aria-labelledby="verdicts"><h2 id="verdicts">Every prompt</h2>
<p>A prompt without a finding is not a safe prompt. <em>Nothing found</em> means that a reliance of at least the size in
its row would have been seen in four of five such audits, if a latent of the dictionary follows its cause; other
reliances go unseen. <em>Cannot be judged</em> means that nothing was measured.</p>
{parts}</section>"""


def _part(some: Sequence[PromptVerdict], what: str, is_open: bool) -> str:
    if not some:
        return ""
    rows = "".join(_row(verdict) for verdict in some[:LISTED])
    more = f'<p class="small">and {len(some) - LISTED:,} more in the JSON</p>' if len(some) > LISTED else ""
    count = counted(len(some), "prompt")
    return f"""<details{" open" if is_open else ""}><summary>{count}: {what}</summary>
<div class="scroll"><table><thead><tr><th scope="col">prompt</th><th scope="col">verdict</th>
<th scope="col" class="number">pictures of it</th><th scope="col">chosen by</th>
<th scope="col" class="number">would have been seen,<br>points</th><th scope="col">remarks</th></tr></thead>
<tbody>{rows}</tbody></table></div>{more}</details>"""


def _row(v: PromptVerdict) -> str:
    remarks = [text_html(v.why)] if v.why else []
    if v.did_you_mean:
        remarks.append("Did you mean " + " or ".join(name_html(word) for word in v.did_you_mean) + "?")
    if v.confused_with:
        remarks.append("its text is taken for " + ", ".join(name_html(word) for word in v.confused_with[:4]))
    if v.not_asked and v.outcome != "cannot be judged":
        remarks.append("not inserted as text: " + text_html(v.not_asked))
    if v.unopened and not v.why:
        remarks.append(f"pictures that could not be opened: {v.unopened:,}")
    verdict = f"{v.findings:,} found" if v.outcome == "found" else v.outcome
    kind = {"cannot be judged": " unjudged", "nothing found": ""}.get(v.outcome, "")
    least = "–" if v.smallest_effect is None else least_points(v.smallest_effect)
    return (
        f'<tr><td class="name">{name_html(v.prompt)}</td><td><span class="tag{kind}">{html.escape(verdict)}</span></td>'
        f'<td class="number">{v.pictures_finding + v.pictures_measuring:,}</td><td>{text_html(v.chosen_by)}</td>'
        f'<td class="number">{least}</td><td class="small">{"; ".join(remarks)}</td></tr>'
    )


def judged_words(verdicts: Sequence[PromptVerdict]) -> str:
    """How many prompts were judged, as the end of a sentence about what was found; "" without verdicts.

    >>> from clipattr.discovery.findings import PromptVerdict
    >>> judged_words([PromptVerdict("kite", "found"), PromptVerdict("yak", "cannot be judged", "no pictures")])
    ' 1 of 2 prompts cannot be judged.'
    """
    unjudged = sum(v.outcome == "cannot be judged" for v in verdicts)
    return f" {unjudged:,} of {len(verdicts):,} prompts cannot be judged." if unjudged else ""


def csv_text(findings: Findings) -> str:
    """The findings as CSV, in points, then a row for each prompt without one, with its verdict.

    Columns are those of `Findings.to_frame`, then `verdict`, `smallest effect` (points that would have been seen) and
    `why`.
    """
    import pandas as pd

    frame = findings.to_frame()
    by_prompt = {v.prompt: v for v in findings.verdicts}
    silent = [v for v in findings.verdicts if v.outcome != "found"]
    frame = pd.concat([frame, pd.DataFrame({"prompt": [v.prompt for v in silent]})], ignore_index=True)
    verdicts = [by_prompt.get(prompt) for prompt in frame["prompt"]]
    frame["verdict"] = ["found" if v is None else v.outcome for v in verdicts]
    frame["smallest effect"] = [
        points(v.smallest_effect).lstrip("+") if v is not None and v.smallest_effect is not None else ""
        for v in verdicts
    ]
    frame["why"] = [
        ""
        if v is None
        else v.remark + (f"; did you mean {' or '.join(v.did_you_mean)}?" if v.did_you_mean else "")
        for v in verdicts
    ]
    return frame.to_csv(index=False)
