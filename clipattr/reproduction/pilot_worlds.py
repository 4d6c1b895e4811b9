"""Pilot of what is drawn: synthetic lesions and scenes of a bundled world, timed for the plan.

Owns the rates of experiments whose pictures are drawn. All other rates are in `pilot.py`. Start at `lesion_seconds`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from clipattr.reproduction.inputs import SYNTHETIC
from clipattr.reproduction.times import seconds_of

if TYPE_CHECKING:
    from clipattr.reproduction.run import Run

LESIONS, SCENES = 48, 200  # synthetic lesions, and scenes of a world, drawn in the pilot


def lesion_seconds(run: Run) -> tuple[float, float]:
    """Seconds of drawing and embedding one synthetic lesion, and of all probes of one shortcut and seed, on pictures
    that are repeated with noise."""
    from clipattr.reproduction.experiments.lesions import judged_probes
    from clipattr.studies.study import open_study
    from clipattr_data.lesion_world import LesionWorld
    from clipattr_data.lesions import SHORTCUTS
    from clipattr_data.robustness import material

    study, world, sizes = open_study(SYNTHETIC), LesionWorld.open("lesions-evaluator"), run.sizes
    material(study.model, world, SHORTCUTS[0], pool=2, judged=2)  # warms up
    made = []
    drawn = seconds_of(
        lambda: made.append(material(study.model, world, SHORTCUTS[0], pool=LESIONS, judged=LESIONS))
    )
    (some,), generator = made, torch.Generator().manual_seed(0)
    rows = torch.arange(sizes.lesion_pool) % LESIONS

    def spread(embeddings: torch.Tensor) -> torch.Tensor:
        noise = torch.randn(len(rows), embeddings.shape[1], generator=generator) * embeddings.std(0) / 3
        return torch.nn.functional.normalize(embeddings[rows] + noise, dim=1)

    many = replace(some, names=some.names[rows.numpy()], there=spread(some.there), gone=spread(some.gone))
    judged_probes(study, many, replace(sizes, lesion_seeds=1))  # reads the study
    return drawn / (4 * LESIONS), seconds_of(
        lambda: judged_probes(study, many, replace(sizes, lesion_seeds=1))
    )


def scene_seconds(run: Run) -> float:
    """Seconds of drawing and embedding one scene; 0 for a model whose pictures cannot be drawn."""
    from clipattr.reproduction.experiments.checks import world_of

    found: Any = None if run.inputs.truth or not run.sizes.truth else world_of(run, run.inputs.variants[0])
    if found is None:
        return 0.0
    from clipattr_data.world import TRAIN

    world, model = found[0], run.inputs.model(run.inputs.variants[0])
    from PIL import Image

    def work() -> None:
        scenes = [world.scene(index, TRAIN) for index in range(SCENES)]
        pixels = torch.stack([model.prepare(Image.fromarray(scene.render())) for scene in scenes])
        with torch.no_grad():
            model.encode_image(pixels)

    work()
    return seconds_of(work) / SCENES
