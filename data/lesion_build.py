"""Rebuilds the bundled lesion world: two models, and a study of one of them with the other as evaluator.

The study's pictures are a reference collection in which signs, artefacts and skin are independent, so that an
association of a probe or prompt there does not come from the collection. Start at `build_lesions`;
`clipattr_data.build` calls it.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from clipattr.storage.files import save_tensors

from . import models_dir, studies_dir
from .labelled import Row, write
from .lesion_world import CLASSES, OPPOSITES, LesionWorld
from .lesions import ARTEFACTS, SIGNS, SKINS
from .study_build import DictionaryPlan, build_in, rounded
from .train import train
from .world import HOLDOUT, STUDY

AUDITED, EVALUATOR = "lesions", "lesions-evaluator"
PICTURES, HELD_BACK = 2000, 1000
DICTIONARY = DictionaryPlan(pictures=20_000, latents=512, active=12, epochs=40)
DIGITS = 7  # of a weight, of fp16's eleven
GLOSSES = {"diagnosis": "what the lesion is", "sign": "speaks for melanoma", "look": "speaks for a nevus"}


def scenes(world: LesionWorld) -> Iterator[Row]:
    """The study's pictures, one row each; the group is diagnosis and skin."""
    for split, stream, n in (("train", STUDY, PICTURES), ("holdout", HOLDOUT, HELD_BACK)):
        for index in range(n):
            scene = world.scene(index, stream)
            yield Row(f"{split}-{index:05d}", scene, scene.main, f"{scene.main}, {scene.skin}", split)


def write_vocabulary(path: Path) -> None:
    """What the evaluator may call a latent: word, gloss and group."""
    groups = {"diagnosis": CLASSES, "sign": SIGNS, "look": tuple(OPPOSITES.values())}
    groups |= {"artefact": ARTEFACTS, "skin": SKINS}
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "word", "gloss", "group"])
        for group, words in groups.items():
            for word in words:
                writer.writerow([word.replace(" ", "-"), word, GLOSSES.get(group, "decides nothing"), group])


def build_study_of_lesions(folder: Path, audited: Any, evaluator: Any) -> None:
    """Train a dictionary for the audited model and build the study in `folder`."""
    world = LesionWorld.open(EVALUATOR)  # the one in which nothing goes with anything
    build_in(
        folder,
        audited,
        evaluator,
        world,
        DICTIONARY,
        write_scenes=lambda path: write(scenes(world), path),
        write_vocabulary=write_vocabulary,
    )


def compact(file: Path) -> None:
    """Round a model's fp16 weights to `DIGITS` binary digits, in place: as accurate, and smaller when compressed."""
    weights = {name: rounded(value, DIGITS) for name, value in load_file(file).items()}
    save_tensors(file, weights)


def build_lesions(threads: int = 1) -> None:
    """Train what is missing of the two models, and build the study if it is not there."""
    from clipattr import load_model

    torch.set_num_threads(threads)
    for name in (AUDITED, EVALUATOR):
        folder, world = models_dir() / name, LesionWorld.open(name)
        if not (folder / "open_clip_model.safetensors").exists():
            train(world, folder, seed=world.seed, checkpoint=models_dir() / f"{name}.checkpoint.pt")
            compact(folder / "open_clip_model.safetensors")
    if not (studies_dir() / AUDITED).exists():
        build_study_of_lesions(studies_dir() / AUDITED, load_model(AUDITED), load_model(EVALUATOR))
