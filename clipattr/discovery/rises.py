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
from clipattr.discovery.scored import Pictures, Values, difference
from clipattr.errors import DataError
from clipattr.statistics import Interval, Z, false_discovery

if TYPE_CHECKING:
    from clipattr.discovery.findings import Findings

FEW = 5  # pictures with and without a word below which a group says nothing
OVER = 0.15  # rate difference from which a word is a candidate: more frequent on the prompt's pictures than elsewhere
RATE = 0.01  # false-discovery rate over all candidates of a comparison
FAR = (
    8.0  # standard errors, scatter included, by which a word that is no candidate must rise on other pictures
)
SAME_COLLECTION = 0.9  # share of the pictures that both audits must have
MEDIAN = 0.6745  # median of the absolute value of a standard normal variable
OWN_NAME = "its own name as text"  # word of a rise by text insertion
CANNOT = "cannot be judged"  # outcome of a verdict without a measurement
ENOUGH = 20  # rises from which a word, a prompt or a group of pictures has a scatter of its own
AGREE = 10  # pictures that the variance without a word counts for, in the variance with it
PRIOR = 20  # prompts of its own that the scatter of all words counts for, in the scatter of one word


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
class Differences:
    """Change of the contrast with each word minus that without, on one group of pictures; (words,) each.

    Attributes:
        rise: raw cosine, NaN with fewer than `FEW` pictures on either side. error: its standard error. n:
            pictures with the word.
    """

    rise: np.ndarray
    error: np.ndarray
    n: np.ndarray


@dataclass(frozen=True)
class Compared:
    """One prompt of a comparison; arrays are (words,).

    Attributes:
        beside, elsewhere: differences on the prompt's pictures, of either model, and on others. candidate: bool.
        allowed: bool, the word is no other name of the prompt.
    """

    name: str
    beside: Differences
    elsewhere: Differences
    candidate: np.ndarray
    allowed: np.ndarray


def rises(now: Findings, then: Findings, above: float) -> list[Rise]:
    """Words that have come to raise a prompt by more than a limit, largest rise first.

    Args:
        now: an audit of the new model. then: an audit of the released one, of the same pictures, words and evaluator.
        above: points (cosine × 100).

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
    scatter = _pooled([one.elsewhere for one in prompts], [one.allowed for one in prompts])[0]
    both = told(prompts, pictures.words, above) + told_written(now, then, above, scatter)
    return sorted(both, key=lambda one: -one.rise.value)


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


def differences(change: np.ndarray, among: np.ndarray, seen: Any, sure: Any) -> Differences:
    """Mean change where a word is surely seen (or seen, if that is rare) minus that where it is not seen.

    Args:
        change: (n,). among: (n,) bool. seen, sure: (n, words) CSR of 0 and 1.
    """

    def sums(table: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        inside = among.astype(np.float64)
        return table.T @ inside, table.T @ (change * inside), table.T @ (change**2 * inside)

    every = sums(seen)
    n, total, squares = (np.where(sums(sure)[0] >= FEW, a, b) for a, b in zip(sums(sure), every, strict=True))
    picked = change[among]
    rest = (len(picked) - every[0], picked.sum() - every[1], (picked**2).sum() - every[2])
    with np.errstate(divide="ignore", invalid="ignore"):
        rise = total / n - rest[1] / rest[0]
        one, other = (np.maximum(q - t**2 / m, 0) / (m - 1) for m, t, q in ((n, total, squares), rest))
        # A few pictures may happen to agree: their variance is drawn towards that of the others.
        one = ((n - 1) * one + AGREE * other) / (n - 1 + AGREE)
        error = np.sqrt(one / n + other / rest[0])
    known = (n >= FEW) & (rest[0] >= FEW)
    return Differences(np.where(known, rise, np.nan), np.where(known, error, np.nan), n)


def scatter_of(rise: np.ndarray, error: np.ndarray) -> float:
    """Deviation of rises over words beyond their own errors: the median of |rise|/√(error² + scatter²) is normal's.

    0 if the errors alone explain the rises, or without any.
    """
    known = np.isfinite(rise) & np.isfinite(error)
    size, error = np.abs(rise[known]), error[known]
    if not len(size) or not size.any():
        return 0.0
    low, high = 0.0, float(size.max()) / MEDIAN + 1e-12
    for _ in range(60):
        middle = (low + high) / 2
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.nan_to_num(size / np.hypot(error, middle), nan=0.0, posinf=np.inf)
        low, high = (middle, high) if np.median(ratio) > MEDIAN else (low, middle)
    return low


@dataclass(frozen=True)
class _Scatter:
    """(words,) deviation that the rise by a word has between two trainings, on a prompt's pictures and on others.

    A word that fills the picture or names another prompt moves many prompts, a mark or a background moves few: the
    scatter of a word is that over the prompts, drawn towards that over all words. `shared`: correlation of the two.
    """

    beside: np.ndarray
    elsewhere: np.ndarray
    shared: float = 1.0

    @classmethod
    def of(cls, prompts: Sequence[Compared]) -> _Scatter:
        allowed = [one.allowed for one in prompts]
        every = _pooled([one.elsewhere for one in prompts], allowed)[0]
        near, few = _pooled([one.beside for one in prompts], allowed)
        near = near if few >= ENOUGH else max(near, every)
        if not prompts:
            return cls(np.zeros(0), np.zeros(0))
        rise, error = (
            np.stack([getattr(one.elsewhere, name) for one in prompts]) for name in ("rise", "error")
        )
        rise = np.where(np.stack(allowed), rise, np.nan)
        known = np.isfinite(rise).sum(0)
        words = np.array([scatter_of(rise[:, j], error[:, j]) for j in range(rise.shape[1])])
        # Few prompts say little of a word, so the scatter of all words counts like `PRIOR` prompts of its own.
        words = np.sqrt((PRIOR * every**2 + known * words**2) / (PRIOR + known))
        beside = near * (words / every if every > 0 else np.ones_like(words))
        both = np.where(np.stack(allowed), np.stack([one.beside.rise for one in prompts]), np.nan)
        with np.errstate(divide="ignore", invalid="ignore"):
            return cls(beside, words, _correlation(both / beside, rise / words))


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    """How far two standardised values move together, 0 to 1, robustly; 1 if few are known.

    Their errors are independent, so the covariance follows from the deviations of sum and difference (Gnanadesikan and
    Kettenring 1972, Biometrics 28).
    """
    known = np.isfinite(one) & np.isfinite(other)
    if known.sum() < ENOUGH:
        return 1.0
    plus, minus = (np.median(np.abs(one[known] + sign * other[known])) / MEDIAN for sign in (1, -1))
    return float(np.clip((plus**2 - minus**2) / 4, 0, 1))


def told(prompts: Sequence[Compared], words: Sequence[str], above: float) -> list[Rise]:
    """Which differences stand out, largest first.

    Args:
        above: points (cosine × 100).
    """
    scatter = _Scatter.of(prompts)
    rows: list[tuple[Compared, int, bool, float, float]] = []
    for one in prompts:
        groups, spreads = (one.beside, one.elsewhere), (scatter.beside, scatter.elsewhere)
        weights = [_weight(group, spread) for group, spread in zip(groups, spreads, strict=True)]
        own, known = _pooled([one.elsewhere], [one.allowed])
        alone = _weight(one.elsewhere, np.maximum(scatter.elsewhere, own if known >= ENOUGH else 0.0))
        total = weights[0] + weights[1]
        with np.errstate(divide="ignore", invalid="ignore"):
            rise = sum(w * np.nan_to_num(g.rise) for w, g in zip(weights, groups, strict=True)) / total
            drawn = sum((w * np.nan_to_num(g.error)) ** 2 for w, g in zip(weights, groups, strict=True))
            moved = [w * spread for w, spread in zip(weights, spreads, strict=True)]
            moved = moved[0] ** 2 + moved[1] ** 2 + 2 * scatter.shared * moved[0] * moved[1]
            error = np.maximum(np.sqrt(drawn + moved) / total, 1e-9)
            far = np.nan_to_num(one.elsewhere.rise) * np.sqrt(alone) > FAR
        for j in np.flatnonzero(one.allowed & (total > 0) & (one.candidate | far)).tolist():
            rows.append((one, j, bool(one.candidate[j]), float(rise[j]), float(error[j])))
    unlikely = iter(_unlikely([value / error for _, _, tested, value, error in rows if tested]))
    made = []
    for one, j, tested, value, error in rows:
        if (not tested or next(unlikely)) and value * 100 > above:
            n = int(one.beside.n[j] + one.elsewhere.n[j])
            made.append(Rise(one.name, words[j], _interval(value, error), value / error, tested, n))
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


def _pooled(groups: Sequence[Differences], allowed: Sequence[np.ndarray]) -> tuple[float, int]:
    """Scatter of the differences of several prompts, and how many there are."""
    rise = [np.where(some, group.rise, np.nan) for group, some in zip(groups, allowed, strict=True)]
    flat = np.concatenate([*rise, np.zeros(0)])
    return scatter_of(flat, np.concatenate([*(group.error for group in groups), np.zeros(0)])), int(
        np.isfinite(flat).sum()
    )


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
