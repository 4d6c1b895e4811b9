"""Experiment: one claim as a value: what it needs, how it is measured, and when it counts as supported.

Owns the types that every experiment fills in and the rule that turns intervals into a verdict. Ignores what is measured
(`experiments/`) and when (`run.py`). Start at `Experiment` and `decide`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from clipattr.statistics import Interval

if TYPE_CHECKING:
    from clipattr.reproduction.pilot import Pilot
    from clipattr.reproduction.run import Run
    from clipattr.reproduction.times import Spent

NONE_JUDGED = "No prompt could be judged: there are too few pictures of each."
SUPPORTED, NOT_SUPPORTED, UNDECIDED = "supported", "not supported", "undecided"
Values = Mapping[str, Mapping[str, Any]]  # measured values of an experiment, by unit


@dataclass(frozen=True)
class Conclusion:
    """What an experiment says about its claim.

    Attributes:
        outcome: "supported", "not supported" or "undecided".
        sentence: the numbers with their 95 % intervals, in one sentence.
        figures: named estimates with their bounds, for JSON.
    """

    outcome: str
    sentence: str
    figures: Mapping[str, Interval] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        figures = {name: vars(estimate) for name, estimate in self.figures.items()}
        return {"outcome": self.outcome, "sentence": self.sentence, "figures": figures}


@dataclass(frozen=True)
class Experiment:
    """One experiment of a reproduction. A value: nothing is computed before `measure` is called.

    Attributes:
        name: of its files. title: heading on the page. claim: the sentence that is tested.
        of_paper: whether the paper makes the claim; otherwise it is an addition.
        units: the parts that are measured and cached one by one, e.g. one per model; empty if inputs are missing.
        measure: one unit to plain values (numbers, texts, lists and dictionaries).
        rows: all values to a tidy table, one observation a row.
        conclude: all values to a verdict.
        draw: all values to a figure; None for no figure.
        cost: estimate of one unit, without the studies and what other experiments are charged for. assumes: what it
            rests on.
        lacking: why there are no units, for the page.
        deviations: what is done differently from the paper in every run.
        needs: names of the experiments whose values it reads. studies: whether it reads the models' studies.
    """

    name: str
    title: str
    claim: str
    of_paper: bool
    units: Callable[[Run], Sequence[str]]
    measure: Callable[[Run, str], dict[str, Any]]
    rows: Callable[[Values], list[dict[str, Any]]]
    conclude: Callable[[Values], Conclusion]
    draw: Callable[[Values], Any]
    cost: Callable[[Run, str, Pilot], Spent]
    assumes: str
    lacking: str = "inputs are missing"
    deviations: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    studies: bool = True


def number_of(value: float | None) -> float:
    """A number from JSON, where null stands for NaN."""
    return math.nan if value is None else value


def interval_of(bounds: Mapping[str, float | None]) -> Interval:
    """An estimate from JSON, where null stands for NaN."""
    return Interval(*(number_of(bounds[name]) for name in ("value", "low", "high")))


def decide(estimate: Interval, above: float = 0.0) -> str:
    """Verdict on "the estimate is larger than `above`": the whole 95 % interval must lie on one side.

    >>> decide(Interval(0.2, 0.1, 0.3)), decide(Interval(0.2, -0.1, 0.5)), decide(Interval(-0.2, -0.3, -0.1))
    ('supported', 'undecided', 'not supported')
    """
    if not all(math.isfinite(number) for number in (estimate.value, estimate.low, estimate.high)):
        return UNDECIDED
    if estimate.low > above:
        return SUPPORTED
    return NOT_SUPPORTED if estimate.high < above else UNDECIDED


def joint(outcomes: Sequence[str]) -> str:
    """Verdict on a claim with several parts: supported if all are, not supported if any is not.

    >>> joint(["supported", "undecided"]), joint(["undecided", "not supported"]), joint([])
    ('undecided', 'not supported', 'undecided')
    """
    if NOT_SUPPORTED in outcomes:
        return NOT_SUPPORTED
    return SUPPORTED if outcomes and set(outcomes) == {SUPPORTED} else UNDECIDED


def shown(estimate: Interval, scale: float = 1.0, digits: int = 2) -> str:
    """An estimate with its interval for a sentence.

    >>> shown(Interval(0.123, 0.1, 0.15), 100, 1)
    '12.3 [10.0, 15.0]'
    """
    value, low, high = (
        f"{number * scale:.{digits}f}" if math.isfinite(number) else "–"
        for number in (estimate.value, estimate.low, estimate.high)
    )
    return f"{value} [{low}, {high}]"
