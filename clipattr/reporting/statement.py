"""Statement: an audit on two pages for a file: model, data, thresholds, verdicts, limits, and who accepted what.

Owns what the statement says and its limits, which follow from the audit itself. The template escapes foreign text and
prints on A4. Ignores evidence and pictures (`page.py`). Start at `write_statement`.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipattr import __version__
from clipattr.discovery.cautions import cautions
from clipattr.display.wording import (
    NEWLY,
    NO_LABEL,
    capital,
    counted,
    kind_word,
    least_points,
    points,
    span,
    visible,
)
from clipattr.errors import DataError
from clipattr.reporting.pictures import FindingPictures
from clipattr.reporting.rendering import environment
from clipattr.storage.files import write_text
from clipattr.storage.paths import user_path

if TYPE_CHECKING:
    from clipattr.discovery.findings import Findings
    from clipattr.discovery.gate import Gate

LISTED = 12  # findings on the two pages; the rest is counted
NAMED = 12  # prompts that cannot be judged, by name


def write_statement(
    findings: Findings,
    path: str | Path,
    *,
    decided: Gate | None = None,
    purpose: str = "",
    people: Sequence[str] = (),
) -> Path:
    """Write the statement of an audit as one HTML page; a browser prints it on two pages of A4.

    Args:
        findings: of `audit`, with their study if verdicts of persons are to be shown.
        path: the HTML file to write.
        decided: the gate's decision. purpose: what the model is meant for, in a sentence.
        people: who will sign, each with a role, e.g. "A. Person, clinical safety"; each gets a line to sign on.

    Returns:
        The path of the page.

    Raises:
        DataError: the findings hold no verdicts, or the page cannot be written.

    >>> import tempfile
    >>> import clipattr as ca
    >>> from clipattr.discovery.findings import PromptVerdict
    >>> findings = ca.Findings([], None, {}, [PromptVerdict("kite", "nothing found", "")])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     page = ca.write_statement(findings, Path(folder, "s.html"), people=["A. Person, safety"]).read_text("utf-8")
    >>> "A. Person, safety" in page
    True
    """
    if not findings.verdicts:
        raise DataError(
            "These findings hold no verdicts, so a statement could not say which prompts were judged. Audit again."
        )
    text = (
        environment(shown=lambda text, limit=200: visible(text, limit))
        .get_template("statement.html")
        .render(**content(findings, decided), purpose=purpose, people=list(people))
    )
    try:
        write_text(user_path(path), text)
    except OSError as error:
        raise DataError(
            f"The statement {path} could not be written ({error}). Choose another path, or free space."
        ) from error
    return user_path(path)


def content(findings: Findings, decided: Gate | None = None) -> dict[str, Any]:
    """What the statement says, as plain values."""
    about = findings.about
    said = None if findings.study is None else FindingPictures(findings.study, list(findings))
    rows = []
    over = {id(finding) for finding in ([] if decided is None else decided.over)}
    for finding in sorted(findings, key=lambda f: -f.causal_effect.value):
        verdict = None if said is None else said.verdict_of(finding)
        effect = finding.causal_effect
        rows.append(
            {
                "prompt": finding.prompt,
                "cause": finding.label or NO_LABEL,
                "kind": kind_word(finding.kind),
                "effect": points(effect.value),
                "interval": span(effect.low, effect.high),
                "over": id(finding) in over,
                "choice": "open" if verdict is None else verdict.choice,
                "note": "" if verdict is None else verdict.note,
                "by": "" if verdict is None else verdict.by,
            }
        )
    return {
        "version": __version__,
        "model": _facts(about, "model"),
        "evaluator": _facts(about, "evaluator"),
        "about": about,
        "settings": about.get("settings", {}),
        "outcomes": dict(Counter(verdict.outcome for verdict in findings.verdicts)),
        "prompts": len(findings.verdicts),
        "rows": rows[:LISTED],
        "more": max(0, len(rows) - LISTED),
        "choices": dict(Counter(row["choice"] for row in rows)),
        "decided": decided,
        "over": counted(len(over), "finding"),
        "newly": capital(NEWLY),
        "limits": limits(findings),
    }


def _facts(about: Any, name: str) -> dict[str, str]:
    value = about.get(name)
    return value if isinstance(value, dict) else {"reference": str(value or "unknown")}


def limits(findings: Findings) -> list[str]:
    """What this audit cannot say, as far as it knows itself."""
    verdicts = findings.verdicts
    found = []
    unjudged = [verdict.prompt for verdict in verdicts if verdict.outcome == "cannot be judged"]
    if unjudged:
        names = ", ".join(visible(prompt, 40) for prompt in unjudged[:NAMED])
        more = f" and {len(unjudged) - NAMED:,} more" if len(unjudged) > NAMED else ""
        found.append(
            f"{len(unjudged):,} of {counted(len(verdicts), 'prompt')} could not be judged, so the audit makes no "
            f"statement about them: {names}{more}."
        )
    seen = [verdict.smallest_effect for verdict in verdicts if verdict.smallest_effect is not None]
    if seen:
        found.append(
            "A reliance is not detected if no latent of the dictionary responds to its cause. Small reliances can be "
            "missed too: at least one of five such audits misses an effect below "
            f"{least_points(statistics.median(seen))} points for the median prompt, and below "
            f"{least_points(max(seen))} points for the worst."
        )
    if any(verdict.chosen_by != "labels" for verdict in verdicts if verdict.outcome != "cannot be judged"):
        found.append(
            "Pictures of some prompts were chosen by the audited model's own answers, not by labels."
        )
    if not any("pixels" in finding.evidence for finding in findings) and len(findings):
        found.append("No finding was confirmed by editing pictures; effects are ablations inside the model.")
    spent = [verdict.not_asked for verdict in verdicts if verdict.not_asked]
    if spent:
        found.append(f"Text insertion was not tried for {counted(len(spent), 'prompt')}, e.g. as {spent[0]}.")
    found += cautions(findings.about)
    found.append(
        "The audit applies to these pictures and this evaluator. It cannot find a reliance on a cause that is in "
        "neither the pictures nor the vocabulary."
    )
    return found
