"""Spelling: words of a study that a prompt may have been meant for.

Owns the comparison of prompts with the labels and the vocabulary of a study. Ignores what an audit says of a prompt. A
prompt that is neither a label nor a word can still be audited: its pictures are then chosen by the model's answers.
Start at `unknown_prompts`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from clipattr.discovery.audit.base import plain

if TYPE_CHECKING:
    from clipattr.discovery.findings import Findings
    from clipattr.studies.study import Study

CLOSE = 0.75  # least share of matching characters (difflib's ratio); "kitte" and "kite" have 0.89
SUGGESTED = 3  # words offered for one prompt


def unknown_prompts(study: Study, prompts: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Prompts that are neither a label nor a word of the study's vocabulary, with the words spelled most like them.

    Case, articles, hyphens and plural endings do not count.

    >>> import clipattr as ca
    >>> from clipattr.discovery.spelling import unknown_prompts
    >>> unknown_prompts(ca.open_study("picture-world"), ["kite", "kitte", "zebra crossing"])
    {'kitte': ('kite',), 'zebra crossing': ()}
    """
    words = (*(str(label) for label in study.images.columns["label"] if label), *study.vocabulary.words)
    known: dict[str, str] = {}
    for word in words:
        known.setdefault(plain(word), word)
    unknown = {}
    for prompt in prompts:
        spelled = plain(prompt)
        if spelled not in known:
            close = difflib.get_close_matches(spelled, known, n=SUGGESTED, cutoff=CLOSE)
            unknown[prompt] = tuple(known[name] for name in close)
    return unknown


def with_suggestions(findings: Findings) -> Findings:
    """The findings with `did_you_mean` filled in for every prompt that was not judged and is spelled like a word.

    Needs `findings.study`; without one the findings are returned as they are.
    """
    from clipattr.discovery.findings import Findings

    if findings.study is None:
        return findings
    silent = [verdict.prompt for verdict in findings.verdicts if verdict.outcome == "cannot be judged"]
    meant = unknown_prompts(findings.study, silent) if silent else {}
    verdicts = [replace(verdict, did_you_mean=meant.get(verdict.prompt, ())) for verdict in findings.verdicts]
    return Findings(findings, findings.study, findings.about, verdicts)
