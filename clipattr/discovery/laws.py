"""Laws: whether an audit of a user's own study keeps what needs no truth to be checked.

Owns the changes that must leave an audit as it is, and their comparison. Ignores whether findings are right. Start at
`check_laws`.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from clipattr.discovery.audit.run import audit
from clipattr.discovery.check import BAD, GOOD, LOOK, Check, Line
from clipattr.display.wording import counted
from clipattr.images.collection import Images
from clipattr.meaning.vocabulary import Vocabulary

if TYPE_CHECKING:
    from clipattr.discovery.findings import Findings
    from clipattr.studies.study import Study

PICTURES = 4000  # of the study, evenly spread
TRIED = 12  # prompts audited to find some with findings
ASKED = 4  # prompts of every law
CLOSE = 1e-4  # relative difference of effects that another order of sums makes


def check_laws(study: Study, prompts: Sequence[str] | None = None) -> Check:
    """Audit a study again after changes that must not matter, without forward passes.

    The laws: the order of prompts, one prompt alone, every picture twice under another id, the order of pictures, the
    names of groups. And with pictures permuted against their codes nothing must be found.

    Args:
        study: with dictionary, vocabulary and evaluator, as for `audit`; at most 4,000 of its pictures are read.
        prompts: the prompts to audit; by default four of twelve that are tried, those with findings first.

    Returns:
        A `Check`: a line on the audit itself, and one per law, "bad" where it is broken. Effects may differ by a
        ten-thousandth, which another order of sums makes.

    Raises:
        StudyError, DataError: as `audit`.

    >>> import clipattr as ca
    >>> study = ca.open_study("lesions")
    >>> laws = ca.check_laws(study, study.vocabulary.words[:1])
    >>> laws.is_usable, laws["order of prompts"].text
    (True, 'holds')
    """
    study = _part(study, _evenly(len(study.images), PICTURES))
    if prompts is None:
        tried = _asked(study, _common(study)[:TRIED])
        found = [v.prompt for v in tried.verdicts if v.outcome == "found"]
        prompts = (found + [v.prompt for v in tried.verdicts if v.prompt not in found])[:ASKED]
    asked = list(prompts)
    usual = _asked(study, asked)
    lines = [_about(usual)]
    rows = np.arange(len(study.images))
    generator = np.random.default_rng(0)

    def alone() -> list[dict[str, Any]]:
        return _what([finding for prompt in asked for finding in _asked(study, [prompt])])

    def twice() -> list[dict[str, Any]]:
        names = [*study.images.ids, *(f"~{name}" for name in study.images.ids)]
        return _what(_asked(_part(study, np.concatenate([rows, rows]), names), asked))

    def renamed() -> list[dict[str, Any]]:
        known = study.vocabulary
        groups = [None if group is None else f"sort {sum(map(ord, group))}" for group in known.groups]
        return _what(_asked(_with_groups(study, groups), asked))

    laws: dict[str, Callable[[], list[dict[str, Any]]]] = {
        "order of prompts": lambda: _what(_asked(study, asked[::-1])),
        "one prompt alone": alone,
        "every picture twice": twice,
        "order of pictures": lambda: _what(_asked(_part(study, generator.permutation(rows)), asked)),
        "names of groups": renamed,
    }
    expected = _what(usual)
    for name, changed in laws.items():
        lines.append(_compared(name, expected, changed()))
    mixed = _part(study, rows)
    mixed.__dict__["codes"] = study.codes.rows(torch.from_numpy(generator.permutation(rows)))
    by_chance = len(_asked(mixed, asked))
    lines.append(
        Line(
            "permuted codes",
            BAD if by_chance else GOOD,
            f"{counted(by_chance, 'finding')}; none is expected",
            {"findings": by_chance},
        )
    )
    return Check(tuple(lines))


def _about(findings: Findings) -> Line:
    judged = sum(v.outcome != "cannot be judged" for v in findings.verdicts)
    text = (
        f"{counted(len(findings.verdicts), 'prompt')}, {judged} judged, {counted(len(findings), 'finding')}"
    )
    return Line("audit", GOOD if len(findings) else LOOK, text, {"findings": len(findings), "judged": judged})


def _compared(name: str, expected: list[dict[str, Any]], got: list[dict[str, Any]]) -> Line:
    """A law holds if prompts, families, words and, within rounding, effects are the same."""
    keys = [[(row["prompt"], row["latents"], row["label"]) for row in rows] for rows in (expected, got)]
    if keys[0] != keys[1]:
        lost, new = set(keys[0]) - set(keys[1]), set(keys[1]) - set(keys[0])
        return Line(
            name,
            BAD,
            f"broken: {counted(len(lost), 'finding')} lost, {len(new)} added",
            {"went": len(lost), "came": len(new)},
        )
    for left, right in zip(expected, got, strict=True):
        one, other = left["causal_effect"]["value"], right["causal_effect"]["value"]
        if abs(one - other) > CLOSE * abs(one) + 1e-6:
            return Line(
                name, BAD, f"broken: an effect of {left['prompt']!r} changed from {one:.4f} to {other:.4f}"
            )
    return Line(name, GOOD, "holds")


def _asked(study: Study, prompts: Sequence[str]) -> Findings:
    return audit(study, prompts, budget=0, progress=False)


def _what(findings: Any) -> list[dict[str, Any]]:
    return sorted((asdict(finding) for finding in findings), key=lambda row: (row["prompt"], row["latents"]))


def _common(study: Study) -> list[str]:
    """Labels, those of most pictures first; else words of the vocabulary, evenly spread."""
    counts = Counter(str(label) for label in study.images.columns["label"] if label)
    if counts:
        return [label for label, _ in counts.most_common()]
    words = study.vocabulary.words
    return [words[place] for place in _evenly(len(words), 4 * TRIED)]


def _evenly(n: int, some: int) -> np.ndarray:
    return np.unique(np.linspace(0, n - 1, min(n, some)).round().astype(int))


def _part(study: Study, rows: np.ndarray, names: Sequence[str] | None = None) -> Study:
    """The same study with some of its pictures, in this order and under these names."""
    assert study.labels is not None and study.vocabulary_embeddings is not None  # read before they are shared
    some, images = copy.copy(study), study.images
    columns = {name: [values[row] for row in rows] for name, values in images.columns.items()}
    ids = [images.ids[row] for row in rows] if names is None else list(names)
    some.__dict__ = dict(study.__dict__) | {
        "images": Images(images.source, ids, columns, rows=images.rows[rows]),
        "activations": np.asarray(study.activations)[rows],
        "evaluator_embeddings": np.asarray(study.evaluator_embeddings)[rows],
        "codes": study.codes.rows(torch.from_numpy(rows)),
        "repeats": np.zeros(len(rows), dtype=bool),
        "sees": np.zeros(len(rows), dtype=bool),
        "had": np.zeros(len(rows), dtype=bool),
        # Examples are rows of the whole study; the laws compare findings without them.
        "examples": SimpleNamespace(
            counts=study.examples.counts, values=study.examples.values, of=lambda latent: []
        ),
    }
    return some


def _with_groups(study: Study, groups: list[str | None]) -> Study:
    some, known = copy.copy(study), study.vocabulary
    words = Vocabulary(known.words, ids=known.ids, groups=groups)
    some.__dict__ = dict(study.__dict__) | {"vocabulary": words}
    return some
