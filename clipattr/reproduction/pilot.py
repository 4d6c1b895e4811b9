"""Pilot: what the parts of a reproduction take on this machine, and how that grows with the inputs.

Owns the values that a plan is calculated from. They are measured in `pilot_units.py` and `pilot_worlds.py`. Start at
`Pilot`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from clipattr.reproduction.times import Spent

if TYPE_CHECKING:
    from clipattr.reproduction.run import Run

# Findings per audited prompt. Audits of 31 models of bundled worlds, foreign worlds and photographs have 0 to 0.6.
FINDINGS = 0.25
# Power of the number of pictures with which a prompt without forward passes grows: its sums are over pictures, but most
# of it is work on candidates, whose number grows more slowly. Chosen on two bundled models.
GROWTH = 0.5
NOTHING = Spent()


@dataclass(frozen=True)
class Line:
    """What a step takes as a line over a number of items, on both clocks.

    >>> Line.through(10, Spent(3.0, 3.0), 20, Spent(5.0, 5.0))(40)
    Spent(wall=9.0, processor=9.0)
    """

    fixed: Spent = NOTHING
    each: Spent = NOTHING

    @classmethod
    def through(cls, n: int, spent: Spent, more: int, then: Spent) -> Line:
        """The line through two measurements; never falling and never below zero, and always through the second one.

        >>> Line.through(10, Spent(3.0, 1.0), 20, Spent(2.0, 4.0))(40)
        Spent(wall=2.0, processor=8.0)
        """
        each = (then - spent | NOTHING) * (1 / max(more - n, 1)) & then * (1 / more)
        return cls(then - each * more, each)

    def __call__(self, n: float) -> Spent:
        return self.fixed + self.each * n


@dataclass(frozen=True)
class Rates:
    """What the parts take with one model; 0 for parts that no experiment asked for.

    Attributes:
        encode: so many pictures, by this model and the evaluator, into a store. study: a study of so many stored
            pictures without training. step: one training step. card: the quality card of a study of so many pictures.
        ready: what the prompts of an audit share, over so many pictures. prompt: one prompt without forward passes over
            `audited_on` pictures. null: the same on shuffled pictures. shared: forward passes that all prompts share.
            passes: those of one prompt.
        matched: the latents of two studies of so many pictures matched.
        faithfulness: so many pictures with all classes, methods and measures.
        marked: one picture read, and encoded without and with each mark. curves: all classifiers of one mark and seed.
        opened: what all verifications of a study of so many pictures share. verified: one finding tested by edits.
        scenes: so many scenes of this model's world, drawn and encoded.
    """

    encode: Line = Line()
    study: Line = Line()
    step: Spent = NOTHING
    card: Line = Line()
    ready: Line = Line()
    prompt: Spent = NOTHING
    null: Spent = NOTHING
    audited_on: int = 1
    shared: Spent = NOTHING
    passes: Spent = NOTHING
    matched: Line = Line()
    faithfulness: Line = Line()
    marked: Spent = NOTHING
    curves: Spent = NOTHING
    opened: Line = Line()
    verified: Spent = NOTHING
    scenes: Line = Line()

    def trained(self, run: Run, pictures: int | None = None) -> Spent:
        """A study from stored activations, with the training of its dictionary; default of the collection."""
        sizes, splits = run.sizes, run.inputs.images.columns["split"]
        n = len(splits) if pictures is None else pictures
        kept = sum(side != "holdout" for side in splits) / len(splits)
        rows = max(round(n * (kept if kept < 1 else 1 - sizes.holdout)), 1)
        batch = min(int(run.inputs.protocol.training["batch"]), rows)
        return self.study(n) + sizes.epochs * rows / batch * self.step

    def audited(self, run: Run, *, passes: bool) -> Spent:
        """An audit of all prompts."""
        prompts = len(run.inputs.prompts)
        whole = self._of(run, self.prompt)
        return whole + self.shared + prompts * self.passes if passes and run.sizes.budget else whole

    def shuffled(self, run: Run) -> Spent:
        """An audit of all prompts where nothing can be found."""
        return self._of(run, self.null)

    def _of(self, run: Run, prompt: Spent) -> Spent:
        pictures = len(run.inputs.images)
        growth = (pictures / self.audited_on) ** GROWTH
        return self.ready(pictures) + len(run.inputs.prompts) * growth * prompt


@dataclass(frozen=True)
class Pilot:
    """All measurements.

    Attributes:
        models: by variant; those of one shape share theirs. shapes: number of different ones.
        loading: all models read. words: the evaluator's embeddings of the vocabulary, once.
        lesion: one synthetic lesion drawn and encoded. curves: all probes of one shortcut and draw, for one strength of
            its correlation. repair: a probe audited and repaired once.
        figures: so many figures. tables: the intervals of all tables.
        spent: the pilot itself, with the loading of models. sizes: pictures that costs were measured on.
    """

    models: dict[str, Rates]
    shapes: int = 1
    loading: Spent = NOTHING
    words: Spent = NOTHING
    lesion: Spent = NOTHING
    curves: Spent = NOTHING
    repair: Spent = NOTHING
    figures: Line = Line()
    tables: Spent = NOTHING
    spent: Spent = NOTHING
    sizes: tuple[int, ...] = ()

    def of(self, unit: str) -> Rates:
        """The rates of a unit's model; of the first one for units about all."""
        return self.models.get(unit.partition(" ")[0], next(iter(self.models.values())))


def findings(run: Run) -> float:
    """Findings of one model that a plan counts with."""
    return FINDINGS * len(run.inputs.prompts)


def at_most(n: float, most: int) -> float:
    """Expected number of findings of one model that are looked at, of `n` on average and `most` at most.

    Numbers of findings differ between models as in a geometric distribution: many models have none, some have many.

    >>> round(at_most(1.0, 1), 2), round(at_most(1.0, 2), 2), round(at_most(3.0, 1000), 2)
    (0.5, 0.75, 3.0)
    """
    rest = n / (1 + n)
    return n * (1 - rest**most)
