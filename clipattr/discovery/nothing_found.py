"""Nothing found: what an audit without findings says, as HTML for a notebook.

Owns the sentence and the list of verdicts. Start at `nothing_html`.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from clipattr.display.wording import counted, visible

if TYPE_CHECKING:
    from clipattr.discovery.findings import PromptVerdict

SHOWN = 20  # verdicts listed: about one screen of a notebook


def nothing_sentence(verdicts: Sequence[PromptVerdict]) -> str:
    """What no findings mean: for how many prompts nothing was found, and how many could not be judged.

    >>> nothing_sentence([])
    'No findings here, and no verdict says which prompts were judged.'
    """
    if not verdicts:
        return "No findings here, and no verdict says which prompts were judged."
    if any(v.findings for v in verdicts):
        return "No finding is in this selection; the audit itself found some."
    unjudged = sum(v.outcome == "cannot be judged" for v in verdicts)
    judged = len(verdicts) - unjudged
    found = [f"No unexpected reliance was found for {counted(judged, 'prompt')}."] if judged else []
    missing = [f"{counted(unjudged, 'prompt')} could not be judged."] if unjudged else []
    return " ".join(found + missing)


def nothing_html(verdicts: Sequence[PromptVerdict]) -> str:
    """The sentence, and below it the verdict of each prompt."""
    told = [f"“{visible(v.prompt, 80)}”: {v.sentence()}" for v in verdicts[:SHOWN]]
    if len(verdicts) > SHOWN:
        told.append(f"{counted(len(verdicts) - SHOWN, 'further prompt')}: see verdict_frame().")
    listed = "".join(f"<li>{escape(visible(one))}</li>" for one in told)
    return f"<p>{escape(nothing_sentence(verdicts))}</p>" + (f"<ul>{listed}</ul>" if listed else "")
