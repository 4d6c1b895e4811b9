"""Rises: which words have come to raise a prompt's score since the released model, by the scores of both models.

Both audits hold the contrast of every picture and what the evaluator sees in it (`audit/scores.py`). On the same
pictures the change of the contrast, new minus old, is compared between pictures with a word and without it: on the
prompt's pictures and on others. Any two trainings differ, so a rise must stand out against the scatter of such
differences over all words and prompts. No dictionary is needed. Start at `rises`; the choices are in
docs/decisions/gate.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from clipattr.discovery.audit.names import constituents
from clipattr.discovery.scatter import (
    ENOUGH,
    FEW,
    Compared,
    Differences,
    Scatter,
    differences,
    pooled,
    scatter_of,
)
from clipattr.discovery.scored import Pictures, Values, difference, released_scores
from clipattr.errors import DataError
from clipattr.statistics import Interval, Z, false_discovery

if TYPE_CHECKING:
    from clipattr.discovery.findings import Findings
    from clipattr.studies.study import Study

OVER = 0.15  # rate difference from which a word is a candidate: more frequent on the prompt's pictures than elsewhere
RATE = 0.01  # false-discovery rate over all candidates of a comparison
FAR = (
    8.0  # standard errors, scatter included, by which a word that is no candidate must rise on other pictures
)
SAME_COLLECTION = 0.9  # share of the pictures that both audits must have
OWN_NAME = "its own name as text"  # word of a rise by text insertion
CANNOT = "cannot be judged"  # outcome of a verdict without a measurement


@dataclass(frozen=True)
class Rise:
    """A word that has come to raise a prompt.

    Attributes:
        prompt, word: texts. rise: raw cosine by which the word adds more to the prompt's contrast than before; the
            interval includes the scatter of the comparison. distance: the rise in standard errors.
        candidate: the word is over-represented on the prompt's pictures, or part of its name.
        pictures: with the word. written: the cause is the prompt itself, inserted as text.
    """

    prompt: str
    word: str
    rise: Interval
    distance: float
    candidate: bool
    pictures: int
    written: bool = False

    @property
    def why(self) -> str:
        """What is new, in points."""
        value, low, high = (100 * part for part in (self.rise.value, self.rise.low, self.rise.high))
        return f"newly rests on {self.word}, {value:+.1f} points [{low:.1f}, {high:.1f}] more than before"


@dataclass(frozen=True)
class Comparison:
    """All differences between two models on the same pictures; see `compare_scores`.

    Attributes:
        now, then: the audits. prompts: those that both audits judged. words: names of the columns.
        rise, error: (prompts, words) raw cosine over both groups of pictures, NaN where nothing is known; the error
            includes the scatter. far: whether a word stands out on other pictures alone.
    """

    now: Findings
    then: Findings
    prompts: Sequence[Compared]
    words: Sequence[str]
    rise: np.ndarray
    error: np.ndarray
    far: np.ndarray

    def of(self, prompt: str, word: str | None) -> Interval | None:
        """By how much a word adds more to a prompt than before; None where that is not known."""
        rows = [row for row, one in enumerate(self.prompts) if one.name == prompt]
        columns = [column for column, name in enumerate(self.words) if name == word]
        if not rows or not columns or not np.isfinite(self.rise[rows[0], columns[0]]):
            return None
        return _interval(self.rise[rows[0], columns[0]], self.error[rows[0], columns[0]])

    def rises(self, above: float) -> list[Rise]:
        """Words that have come to raise a prompt by more than a limit in points, largest rise first."""
        scatter = pooled([one.elsewhere for one in self.prompts], [one.allowed for one in self.prompts])[0]
        both = told(self, above) + told_written(self.now, self.then, above, scatter)
        return sorted(both, key=lambda one: -one.rise.value)


def rises(now: Findings, then: Findings, above: float) -> list[Rise]:
    """Words that have come to raise a prompt by more than a limit, largest rise first.

    Args:
        now: an audit of the new model. then: an audit of the released one, of the same pictures, words and evaluator.
        above: points (cosine × 100).

    Raises:
        DataError: the scores are damaged, or cannot be compared (`difference`), or are of other pictures.
    """
    return compare_scores(now, then).rises(above)


def compare_released(now: Findings, baseline: Findings | None, previous: Study | None) -> Comparison | None:
    """The same with the released model, whose scores its study or the baseline holds; None where none compare."""
    released = released_scores(now, baseline, previous)
    return None if released is None or difference(now, released) else compare_scores(now, released)


def compare_scores(now: Findings, then: Findings) -> Comparison:
    """Compare the scores of two audits, as for `rises`.

    Raises:
        DataError: the scores are damaged, or cannot be compared (`difference`), or are of other pictures.
    """
    if reason := difference(now, then):
        raise DataError(f"The scores of the two audits cannot be compared: {reason}.")
    pictures, before = Pictures.read(now.about["scored"]), Pictures.read(then.about["scored"])
    _, here, there = np.intersect1d(pictures.ids, before.ids, return_indices=True)
    if len(here) < SAME_COLLECTION * max(len(pictures.ids), len(before.ids)):
        raise DataError(
            f"The baseline was audited on other pictures: {len(here):,} of {len(pictures.ids):,} are in both. Audit "
            "the released model on these pictures and accept that: clipattr baseline accept AUDIT --out FILE."
        )
    seen, sure = pictures.seen[here], pictures.sure[here]
    known, prompts = {v.prompt: v for v in then.verdicts}, []
    for verdict in now.verdicts:
        old = known.get(verdict.prompt)
        if old is None or not verdict.scored or not old.scored or CANNOT in (verdict.outcome, old.outcome):
            continue
        new = Values.read(verdict.scored, len(pictures.ids), here)
        released = Values.read(old.scored, len(before.ids), there)
        prompts.append(
            compared(
                verdict.prompt, new.contrast - released.contrast, (new.own, released.own), new.clear, new.shown,
                seen, sure, pictures.words, new.same,
            )
        )  # fmt: skip
    return Comparison(now, then, prompts, pictures.words, *_combined(prompts, len(pictures.words)))


def compared(
    name: str,
    change: np.ndarray,
    own: Sequence[np.ndarray],
    clear: np.ndarray,
    shown: np.ndarray,
    seen: Any,
    sure: Any,
    words: Sequence[str],
    same: Sequence[str],
) -> Compared:
    """Compare two models on the pictures of one prompt.

    Args:
        change: (n,) contrast of the new model minus that of the old one, raw cosine.
        own: (n,) bool each, the prompt's own pictures by the new and the old model: both, or the selection would favour
            either. clear, shown: (n,) bool, see `Side`.
        seen, sure: (n, words) CSR of 0 and 1.
        words: names. same: other names of the prompt.
    """
    mine, others = own[0] | own[1] | clear, ~(own[0] | own[1] | shown)
    rates = [_rate(seen, some) - _rate(seen, ~some) for some in (mine, *own)]
    parts = np.zeros(len(words), dtype=bool)
    parts[constituents([name], words)] = True
    allowed = ~np.isin(np.array(words, dtype=object), list(same))
    return Compared(
        name,
        differences(change, mine, seen, sure),
        differences(change, others, seen, sure),
        (np.max(rates, axis=0) >= OVER) | parts,
        allowed,
    )


def _combined(prompts: Sequence[Compared], words: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rise and error of every prompt and word over both groups of pictures, and whether it stands out elsewhere."""
    scatter, rows = Scatter.of(prompts), []
    for one in prompts:
        groups, spreads = (one.beside, one.elsewhere), (scatter.beside, scatter.elsewhere)
        weights = [_weight(group, spread) for group, spread in zip(groups, spreads, strict=True)]
        own, known = pooled([one.elsewhere], [one.allowed])
        alone = _weight(one.elsewhere, np.maximum(scatter.elsewhere, own if known >= ENOUGH else 0.0))
        total = weights[0] + weights[1]
        with np.errstate(divide="ignore", invalid="ignore"):
            rise = sum(w * np.nan_to_num(g.rise) for w, g in zip(weights, groups, strict=True)) / total
            drawn = sum((w * np.nan_to_num(g.error)) ** 2 for w, g in zip(weights, groups, strict=True))
            moved = [w * spread for w, spread in zip(weights, spreads, strict=True)]
            moved = moved[0] ** 2 + moved[1] ** 2 + 2 * scatter.shared * moved[0] * moved[1]
            error = np.maximum(np.sqrt(drawn + moved) / total, 1e-9)
            far = np.nan_to_num(one.elsewhere.rise) * np.sqrt(alone) > FAR
        rows.append((np.where(total > 0, rise, np.nan), error, far))
    if not rows:
        return np.zeros((0, words)), np.zeros((0, words)), np.zeros((0, words), dtype=bool)
    rise, error, far = (np.stack(part) for part in zip(*rows, strict=True))
    return rise, error, far


def told(compared: Comparison, above: float) -> list[Rise]:
    """Which differences stand out, largest first.

    Args:
        above: points (cosine × 100).
    """
    rows: list[tuple[Compared, int, bool, float, float]] = []
    for one, rise, error, far in zip(
        compared.prompts, compared.rise, compared.error, compared.far, strict=True
    ):
        for j in np.flatnonzero(one.allowed & np.isfinite(rise) & (one.candidate | far)).tolist():
            rows.append((one, j, bool(one.candidate[j]), float(rise[j]), float(error[j])))
    unlikely = iter(_unlikely([value / error for _, _, tested, value, error in rows if tested]))
    made = []
    for one, j, tested, value, error in rows:
        if (not tested or next(unlikely)) and value * 100 > above:
            n, word = int(one.beside.n[j] + one.elsewhere.n[j]), compared.words[j]
            made.append(Rise(one.name, word, _interval(value, error), value / error, tested, n))
    return sorted(made, key=lambda one: -one.rise.value)


def told_written(now: Findings, then: Findings, above: float, scatter: float) -> list[Rise]:
    """Prompts that, inserted as text, add more to their own score than before, beyond what other words add.

    Args:
        above: points. scatter: deviation of rises between the two models, raw cosine, for fewer than `ENOUGH` prompts.
    """
    from scipy.stats import t

    before = {verdict.prompt: verdict.inserted for verdict in then.verdicts}
    rows = []
    for verdict in now.verdicts:
        pairs = zip(verdict.inserted, before.get(verdict.prompt, ()), strict=False)
        change = np.array([a - b for a, b in pairs if a is not None and b is not None])
        if len(change) >= FEW:
            rows.append(
                (
                    verdict.prompt,
                    float(change.mean()),
                    float(change.std(ddof=1)) / len(change) ** 0.5,
                    len(change),
                )
            )
    if not rows:
        return []
    value, error = (np.array([row[place] for row in rows]) for place in (1, 2))
    if len(rows) >= ENOUGH:
        value = value - np.median(value)
        scatter = scatter_of(value, error)
    error = np.maximum(np.hypot(error, scatter), 1e-9)
    counts, made = np.array([row[3] for row in rows]), []
    # So few pictures estimate their own spread badly: Student's distribution.
    rare = false_discovery(t.sf(value / error, counts - 1)) <= RATE
    for (prompt, *_), rise, wide, n, new in zip(rows, value, error, counts, rare, strict=True):
        if new and rise * 100 > above:
            made.append(
                Rise(prompt, OWN_NAME, _interval(rise, wide), float(rise / wide), True, int(n), written=True)
            )
    return made


def _weight(group: Differences, scatter: np.ndarray) -> np.ndarray:
    """(words,) inverse variances, scatter included; 0 where nothing is known."""
    return np.where(np.isfinite(group.rise), 1 / np.maximum(group.error**2 + scatter**2, 1e-18), 0.0)


def _interval(value: float, error: float) -> Interval:
    return Interval(float(value), float(value - Z * error), float(value + Z * error))


def _unlikely(distances: Sequence[float] | np.ndarray) -> np.ndarray:
    """Which distances, in standard errors, are discoveries at the false-discovery rate `RATE`; one-sided, normal."""
    from scipy.special import ndtr

    if not len(distances):
        return np.zeros(0, dtype=bool)
    return false_discovery(ndtr(-np.asarray(distances, dtype=np.float64))) <= RATE


def _rate(seen: Any, among: np.ndarray) -> np.ndarray:
    """(words,) share of some pictures in which each word is seen."""
    return np.asarray(seen.T @ among.astype(np.float64)) / max(1, int(among.sum()))
