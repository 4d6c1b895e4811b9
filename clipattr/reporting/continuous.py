"""Continuous integration: an audit as JUnit XML and as SARIF, which CI systems show beside other checks.

Owns the two formats. Ignores what is found and what stops a release (`discovery/gate.py`). In both, text from outside
is escaped and made visible. Start at `junit` and `sarif`.

Sources: the JUnit XML that Jenkins and GitLab read; SARIF 2.1.0, OASIS standard of 27 March 2020.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from clipattr import __version__
from clipattr.display.wording import KIND_WORDS, NEWLY, NO_LABEL, capital, counted, kind_word, span, visible
from clipattr.storage.files import json_digest

if TYPE_CHECKING:
    from clipattr.discovery.findings import Finding, Findings, PromptVerdict
    from clipattr.discovery.gate import Gate
    from clipattr.discovery.rises import Rise

SARIF_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
RISE = "newly-rests-on"  # rule of the words that raise a prompt more than before
LENGTH = 300  # characters of a foreign text


def junit(findings: Findings, decided: Gate | None = None) -> str:
    """An audit as JUnit XML: one test case per prompt.

    Args:
        decided: the gate's decision. Prompts with a finding over its limit, or that newly rest on a word, fail;
            prompts that cannot be judged are errors. Without it nothing fails, and prompts that cannot be judged are
            skipped.

    >>> from clipattr.discovery.findings import Findings, PromptVerdict
    >>> "cannot be judged" in junit(Findings([], verdicts=[PromptVerdict("kite", "cannot be judged", "no pictures")]))
    True
    """
    over = {id(finding) for finding in ([] if decided is None else decided.over)}
    cases, failed, errors, skipped = [], 0, 0, 0
    for prompt, verdict, own in _by_prompt(findings):
        case = ElementTree.Element(
            "testcase", {"classname": _text(_model(findings)), "name": _text(prompt), "time": "0"}
        )
        strong = [finding for finding in own if id(finding) in over]
        risen = [] if decided is None else [one for one in decided.rises if one.prompt == prompt]
        if decided is not None and (strong or risen):
            failed += 1
            first = (
                f"{counted(len(strong) + len(risen), 'unexpected reliance')} above {decided.limit:g} points"
            )
            lines = [sentence(finding) for finding in strong] + [_risen(one) for one in risen]
            kind = strong[0].kind if strong else RISE
            ElementTree.SubElement(case, "failure", {"message": first, "type": kind}).text = "\n".join(lines)
        elif verdict is not None and verdict.outcome == "cannot be judged":
            errors, skipped = errors + (decided is not None), skipped + (decided is None)
            kind = "skipped" if decided is None else "error"
            ElementTree.SubElement(case, kind, {"message": _text(verdict.sentence())})
        told = [sentence(finding) for finding in own if id(finding) not in over]
        if told:
            ElementTree.SubElement(case, "system-out").text = "\n".join(told)
        cases.append(case)
    counts = {"tests": len(cases), "failures": failed, "errors": errors, "skipped": skipped}
    attributes = {name: str(count) for name, count in counts.items()}
    suite = ElementTree.Element("testsuite", {"name": "clipattr audit", "time": "0", **attributes})
    suite.extend(cases)
    root = ElementTree.Element("testsuites", {"name": "clipattr", "time": "0", **attributes})
    root.append(suite)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def sarif(
    findings: Findings,
    decided: Gate | None = None,
    *,
    file: str | None = None,
    lines: Sequence[str] = (),
) -> str:
    """An audit as SARIF: one result per finding, and one per prompt that cannot be judged if a gate asks for it.

    Args:
        decided: the gate's decision. Findings over its limit are errors, the others notes; without it all are warnings.
        file: what results point to, e.g. the file of prompts, relative to the repository. lines: its lines, in which
            prompts are looked up.
    """
    over = {id(finding) for finding in ([] if decided is None else decided.over)}
    place = {
        line.strip().split(",")[0].strip('"'): number for number, line in reversed(list(enumerate(lines, 1)))
    }
    uri = file or _text(_model(findings))

    def result(
        rule: str, level: str, message: str, prompt: str, key: Any, more: dict[str, Any]
    ) -> dict[str, Any]:
        where = {
            "physicalLocation": {
                "artifactLocation": {"uri": uri.replace("\\", "/").replace(" ", "%20")},
                "region": {"startLine": place.get(prompt, 1)},
            },
            "logicalLocations": [{"name": _text(prompt), "kind": "resource"}],
        }
        return {
            "ruleId": rule,
            "level": level,
            "message": {"text": message},
            "locations": [where],
            "partialFingerprints": {"reliance/v1": json_digest(key)},
            "properties": more,
        }

    results = [
        result(
            finding.kind,
            "warning" if decided is None else "error" if id(finding) in over else "note",
            sentence(finding),
            finding.prompt,
            [finding.prompt, finding.label, None if finding.label else sorted(finding.latents)],
            {
                "causalEffect": _finite(asdict(finding.causal_effect)),
                "confidence": _number(finding.confidence),
                "latents": list(finding.latents),
            },
        )
        for finding in findings
    ]
    for one in () if decided is None else decided.rises:
        results.append(
            result(RISE, "error", _risen(one), one.prompt, [one.prompt, one.word, RISE],
                   {"rise": _finite(asdict(one.rise)), "pictures": one.pictures})
        )  # fmt: skip
    for verdict in () if decided is None else decided.unjudged:
        results.append(
            result("not-judged", "error", _text(f"{verdict.prompt} {verdict.sentence()}"), verdict.prompt,
                   [verdict.prompt, "not judged"], {})
        )  # fmt: skip
    rules = [
        {"id": kind, "name": kind_word(kind), "shortDescription": {"text": f"Unexpected reliance: {about}"}}
        for kind, (_, about) in KIND_WORDS.items()
    ]
    rules.append({"id": RISE, "name": "newly rests on", "shortDescription": {"text": capital(NEWLY)}})
    rules.append(
        {"id": "not-judged", "name": "not judged", "shortDescription": {"text": "A prompt cannot be judged"}}
    )
    driver = {"name": "clipattr", "version": __version__, "semanticVersion": __version__, "rules": rules}
    content = {
        "$schema": SARIF_SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {"driver": driver},
                "columnKind": "unicodeCodePoints",
                "results": results,
                "properties": {"model": _text(_model(findings)), "promptsAudited": len(findings.verdicts)},
            }
        ],
    }
    return json.dumps(content, indent=2, ensure_ascii=True) + "\n"


def sentence(finding: Finding) -> str:
    """A finding in one line, in points."""
    effect = finding.causal_effect
    return _text(
        f"“{_text(finding.prompt)}” rests on “{_text(finding.label or NO_LABEL)}” ({kind_word(finding.kind)}): "
        f"{effect.value * 100:+.1f} points, 95 % interval {span(effect.low, effect.high)}"
    )


def _risen(one: Rise) -> str:
    """A rise in one line."""
    return _text(f"“{_text(one.prompt)}” {one.why}")


def _by_prompt(findings: Findings) -> list[tuple[str, PromptVerdict | None, list[Finding]]]:
    """Prompts in the order audited, with verdict and findings; those of findings without verdicts come last."""
    own: dict[str, list[Finding]] = {}
    for finding in findings:
        own.setdefault(finding.prompt, []).append(finding)
    rows: list[tuple[str, PromptVerdict | None, list[Finding]]] = [
        (verdict.prompt, verdict, own.pop(verdict.prompt, [])) for verdict in findings.verdicts
    ]
    return rows + [(prompt, None, listed) for prompt, listed in own.items()]


def _model(findings: Findings) -> str:
    model = findings.about.get("model")
    return str(model.get("reference", "model")) if isinstance(model, dict) else str(model or "model")


def _text(text: str) -> str:
    """Visible text; XML cannot hold control characters."""
    return visible(text, LENGTH).replace("\ufffe", "").replace("\uffff", "")


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _finite(values: dict[str, float]) -> dict[str, float | None]:
    return {name: _number(value) for name, value in values.items()}
