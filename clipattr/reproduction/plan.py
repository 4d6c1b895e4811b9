"""Plan: what a reproduction will cost, calculated from rates that were measured on this machine.

Owns the sum over experiments, and the assumptions behind it. Each experiment states its own cost
(`Experiment.seconds`) by the rates of `pilot.py`. Start at `planned`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from clipattr.reproduction.experiment import Experiment
from clipattr.reproduction.pilot import FEW, MORE, MOST, piloted

if TYPE_CHECKING:
    import pandas as pd

    from clipattr.reproduction.run import Run

STUDIES = "studies"  # row of the plan, and part of the times: what all experiments share


@dataclass(frozen=True)
class ReproductionPlan:
    """Estimated seconds per experiment. rows: experiment, units, seconds, assumes. assumptions: behind them."""

    rows: tuple[tuple[str, int, float, str], ...]
    assumptions: tuple[str, ...]

    @property
    def seconds(self) -> float:
        """Of everything, on one machine like this."""
        return sum(row[2] for row in self.rows)

    @property
    def frame(self) -> pd.DataFrame:
        """One row per experiment."""
        import pandas as pd

        return pd.DataFrame(list(self.rows), columns=["experiment", "units", "seconds", "assumes"])

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {
            "seconds": self.seconds,
            "experiments": self.frame.to_dict("records"),
            "assumptions": list(self.assumptions),
        }


def planned(run: Run, experiments: Sequence[Experiment]) -> ReproductionPlan:
    """Measure the rates, and add up what the experiments ask for, with the experiments whose values they read."""
    rates, inputs = piloted(run), run.inputs
    wanted = with_needed(run, experiments)
    rows: list[tuple[str, int, float, str]] = []
    if any(experiment.studies for experiment in wanted):
        each = rates.encode(len(inputs.images)) + rates.trained(run)
        count = len(inputs.variants)
        rows.append(
            (
                STUDIES,
                count,
                rates.words + count * each,
                "one encoding of all pictures by model and evaluator",
            )
        )
    for experiment in wanted:
        units = len(experiment.units(run))
        seconds = units * experiment.seconds(run, rates) if units else 0.0
        rows.append((experiment.name, units, seconds, experiment.assumes))
    pictures = len(inputs.images)
    return ReproductionPlan(
        tuple(rows),
        (
            f"one machine like this one, {torch.get_num_threads()} threads, and nothing measured before",
            f"every step was timed on {FEW} and on {MORE} to {MOST} pictures with {inputs.variants[0]}; other models "
            "cost the same",
            f"encoding {pictures:,} pictures: {rates.encode(pictures):.0f} s; training a dictionary in "
            f"{run.sizes.epochs:g} passes: {rates.trained(run) - rates.study(pictures):.0f} s",
            "an audit makes as many forward passes for a prompt as in the pilot, and each model has "
            f"{rates.findings(run):.0f} findings, one for four prompts: experiments on findings take longer or shorter "
            "with their number",
        ),
    )


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
