"""Plan: what a reproduction will cost, from the parts of it that were measured on this machine.

Owns the sum over experiments, and the assumptions behind it. Each experiment states its own cost (`Experiment.cost`) by
the measurements of `pilot.py`. Start at `planned`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import TYPE_CHECKING, Any

import torch

from clipattr.display.wording import counted
from clipattr.reproduction.experiment import Experiment
from clipattr.reproduction.pilot import findings
from clipattr.reproduction.pilot_units import piloted
from clipattr.reproduction.times import LOADING, PAGE, STUDIES, Spent

if TYPE_CHECKING:
    import pandas as pd

    from clipattr.reproduction.pilot import Pilot
    from clipattr.reproduction.run import Run


@dataclass(frozen=True)
class Estimate:
    """What one part of a reproduction will take: its number of units, the whole of them, and what this rests on."""

    experiment: str
    units: int
    spent: Spent
    assumes: str


@dataclass(frozen=True)
class ReproductionPlan:
    """Estimates of all parts. pilot: what measuring them took. assumptions: behind them, one sentence each."""

    rows: tuple[Estimate, ...]
    pilot: Spent
    assumptions: tuple[str, ...]

    @property
    def seconds(self) -> float:
        """Of everything, on one machine like this."""
        return sum(row.spent.wall for row in self.rows)

    @property
    def frame(self) -> pd.DataFrame:
        """One row per part: experiment, units, seconds, processor_seconds, assumes."""
        import pandas as pd

        rows = [(r.experiment, r.units, r.spent.wall, r.spent.processor, r.assumes) for r in self.rows]
        return pd.DataFrame(rows, columns=["experiment", "units", "seconds", "processor_seconds", "assumes"])

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {
            "seconds": self.seconds,
            "processor_seconds": sum(row.spent.processor for row in self.rows),
            "pilot_seconds": self.pilot.wall,
            "pilot_processor_seconds": self.pilot.processor,
            "experiments": self.frame.to_dict("records"),
            "assumptions": list(self.assumptions),
        }


def planned(run: Run, experiments: Sequence[Experiment]) -> ReproductionPlan:
    """Measure a few units of each experiment, and add up what the experiments ask for, with those that they need."""
    wanted = with_needed(run, experiments)
    measured = [experiment for experiment in wanted if experiment.units(run)]
    pilot = piloted(run, [experiment.name for experiment in measured])
    rows = [Estimate(LOADING, len(run.inputs.variants) + 1, pilot.loading, "as in the pilot")]
    if any(experiment.studies for experiment in measured):
        rows.append(_studies(run, pilot))
    for experiment in wanted:
        units = experiment.units(run)
        spent = reduce(add, (experiment.cost(run, unit, pilot) for unit in units), Spent())
        rows.append(Estimate(experiment.name, len(units), spent, experiment.assumes))
    drawn = pilot.figures(len(measured)) + pilot.tables
    rows.append(
        Estimate(PAGE, len(measured), drawn, "a figure for each experiment, and the intervals of tables")
    )
    whole = reduce(add, (row.spent for row in rows))
    return ReproductionPlan(tuple(rows), pilot.spent, tuple(_assumptions(run, pilot, whole)))


def _studies(run: Run, pilot: Pilot) -> Estimate:
    inputs = run.inputs
    each = (
        pilot.models[variant].encode(len(inputs.images)) + pilot.models[variant].trained(run)
        for variant in inputs.variants
    )
    told = "one encoding of all pictures by model and evaluator, and one training"
    return Estimate(STUDIES, len(inputs.variants), reduce(add, each, pilot.words), told)


def _assumptions(run: Run, pilot: Pilot, whole: Spent) -> list[str]:
    inputs = run.inputs
    pictures, share = len(inputs.images), pilot.spent.wall / max(whole.wall, 1e-9)
    told = [
        f"one machine like this one, {counted(torch.get_num_threads(), 'thread')}, as busy as now; nothing measured "
        "before",
        f"the pilot took {pilot.spent.wall:.0f} s, {share:.0%} of the estimate; in processor time, which other jobs "
        f"lengthen less, the pilot took {pilot.spent.processor:.0f} s and the estimate is {whole.processor:.0f} s",
    ]
    if any(pilot.sizes):
        few, more = pilot.sizes
        encoding = reduce(add, (pilot.models[name].encode(pictures) for name in inputs.variants))
        training = reduce(
            add,
            (
                pilot.models[name].trained(run) - pilot.models[name].study(pictures)
                for name in inputs.variants
            ),
        )
        told += [
            f"parts that grow with pictures were measured on {few} and on {more} of {pictures:,}; of models with equal "
            f"shapes one was measured, {counted(pilot.shapes, 'model')} in all",
            f"encoding {pictures:,} pictures: {encoding.wall:.0f} s; training dictionaries in {run.sizes.epochs:g} "
            f"passes: {training.wall:.0f} s; both for {counted(len(inputs.variants), 'model')}",
            f"an audit makes as many forward passes for a prompt as in the pilot, and a model has {findings(run):g} "
            "findings on average, one for four prompts: experiments on findings take longer or shorter with their "
            "number",
        ]
    return told


def with_needed(run: Run, experiments: Sequence[Experiment]) -> list[Experiment]:
    """The experiments and all whose values they read, in the order of the page."""
    names: set[str] = set()
    waiting = [experiment.name for experiment in experiments if experiment.units(run)]
    while waiting:
        name = waiting.pop()
        if name not in names:
            names.add(name)
            waiting += run.experiments[name].needs
    asked = {experiment.name for experiment in experiments}
    return [each for each in run.experiments.values() if each.name in names | asked]
