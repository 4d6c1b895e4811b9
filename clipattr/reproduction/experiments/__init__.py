"""Experiments: the list of what a reproduction tests. To add one, write an `Experiment` and add it here."""

from clipattr.reproduction.experiment import Experiment
from clipattr.reproduction.experiments.checks import PIXELS, TRUTH
from clipattr.reproduction.experiments.faithful import FAITHFULNESS
from clipattr.reproduction.experiments.lesions import LESIONS
from clipattr.reproduction.experiments.spurious import SPURIOUS
from clipattr.reproduction.experiments.surprises import COUNTS, NULL
from clipattr.reproduction.experiments.variants import DICTIONARIES, SEEDS, VARIANTS

EXPERIMENTS: tuple[Experiment, ...] = (
    COUNTS,
    FAITHFULNESS,
    SPURIOUS,
    LESIONS,
    VARIANTS,
    NULL,
    DICTIONARIES,
    SEEDS,
    TRUTH,
    PIXELS,
)
