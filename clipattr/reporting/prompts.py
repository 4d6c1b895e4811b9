"""Prompts on a report's page: the verdict on every audited prompt, also as rows of a CSV.

Owns the section of verdicts and the CSV of an audit. Computes nothing: verdicts come from the audit. Start at
`verdicts_html` and `csv_text`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from clipattr.display.wording import points
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


def remarks(v: PromptVerdict) -> str:
    """What the table of prompts adds to a verdict, as HTML."""
    told = [text_html(v.why)] if v.why else []
    if v.did_you_mean:
        told.append("Did you mean " + " or ".join(name_html(word) for word in v.did_you_mean) + "?")
    if v.confused_with:
        told.append(
            "the model confuses its text with " + ", ".join(name_html(word) for word in v.confused_with[:4])
        )
    if v.not_asked and v.outcome != "cannot be judged":
        told.append("not inserted as text: " + text_html(v.not_asked))
    if v.unopened and not v.why:
        told.append(f"pictures that could not be opened: {v.unopened:,}")
    return "; ".join(told)


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
