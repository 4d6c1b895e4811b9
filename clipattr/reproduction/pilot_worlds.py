"""Pilot of what is drawn: synthetic lesions and scenes of a bundled world, on both clocks.

Owns the measurements of experiments whose pictures are drawn. All others are in `pilot_units.py`. Start at `lesions`.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from clipattr.reproduction.inputs import SYNTHETIC
from clipattr.reproduction.pilot import Line
from clipattr.reproduction.times import Spent

if TYPE_CHECKING:
    from clipattr.reproduction.run import Run
    from clipattr.studies.study import Study

LESIONS = 32  # synthetic lesions drawn, of each kind
SCENES = (8, 72)  # scenes of a world of the two measurements


def lesions(run: Run) -> tuple[Spent, Spent, Spent]:
    """One synthetic lesion drawn and encoded; the probes of a shortcut at one strength and seed; a probe audited and
    repaired. Probes are fitted on the pilot's pictures, repeated with noise. 0 where no lesions are drawn."""
    if run.inputs.lesions != SYNTHETIC:
        return Spent(), Spent(), Spent()
    from clipattr.reproduction.experiments.lesions import repaired
    from clipattr.studies.study import open_study
    from clipattr_data.lesion_world import LesionWorld
    from clipattr_data.lesions import SHORTCUTS
    from clipattr_data.robustness import STRENGTHS, curves, material

    study, world, sizes = open_study(SYNTHETIC), LesionWorld.open("lesions-evaluator"), run.sizes
    material(study.model, world, SHORTCUTS[0], pool=2, judged=2)  # warms up
    made = []
    drawn = Spent.of(
        lambda: made.append(material(study.model, world, SHORTCUTS[0], pool=LESIONS, judged=LESIONS))
    )
    (some,), generator = made, torch.Generator().manual_seed(0)
    rows = torch.arange(sizes.lesion_pool) % LESIONS

    def spread(embeddings: torch.Tensor) -> torch.Tensor:
        noise = torch.randn(len(rows), embeddings.shape[1], generator=generator) * embeddings.std(0) / 3
        return torch.nn.functional.normalize(embeddings[rows] + noise, dim=1)

    many = replace(some, names=some.names[rows.numpy()], there=spread(some.there), gone=spread(some.gone))

    def fit() -> None:
        curves(study.model, many, strengths=STRENGTHS[2:3], seeds=1, n=sizes.lesion_training)

    fit()  # imports what it needs
    fitted, fixed = Spent.of(fit), Spent.of(lambda: repaired(open_study(SYNTHETIC), many, sizes, 0))
    return drawn * (1 / (4 * LESIONS)), fitted, fixed


def scenes(run: Run, variant: str, study: Study) -> Line:
    """So many scenes drawn and encoded for a check; 0 for a model whose pictures cannot be drawn."""
    from clipattr.reproduction.experiments.checks import world_of

    found: Any = None if run.inputs.truth or not run.sizes.truth else world_of(run, variant)
    if found is None:
        return Line()
    from clipattr_data.truth import Truth

    few, more = SCENES

    def draw(n: int) -> None:
        Truth(study.model, study.dictionary, found[0], n)

    draw(2)  # warms up
    return Line.through(few, Spent.of(partial(draw, few)), more, Spent.of(partial(draw, more)))
