"""Rebuilds what is bundled of the lesion world: two models, and a study of one of them judged by the other.

The study's pictures are a reference collection: signs, artefacts and skin meet at random in it, so that whatever a
probe or prompt ties together there, it has brought along. Start at `build_lesions`; `clipattr_data.build` calls it.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from . import models_dir, studies_dir
from .lesion_world import CLASSES, OPPOSITES, LesionWorld
from .lesions import ARTEFACTS, SIGNS, SKINS
from .train import to_pixels, train
from .world import HOLDOUT, STUDY, TRAIN

AUDITED, EVALUATOR = "lesions", "lesions-evaluator"
PICTURES, HELD_BACK, DICTIONARY_PICTURES = 3000, 1500, 20_000
LATENTS, ACTIVE = 512, 12
GLOSSES = {"diagnosis": "what the lesion is", "sign": "speaks for melanoma", "look": "speaks for a nevus"}


def scenes(world: LesionWorld) -> Iterator[dict[str, Any]]:
    """The study's pictures, one JSON-like row each; the group is diagnosis and skin."""
    for split, stream, n in (("train", STUDY, PICTURES), ("holdout", HOLDOUT, HELD_BACK)):
        for index in range(n):
            scene = world.scene(index, stream)
            yield {
                "id": f"{split}-{index:05d}",
                "label": scene.main,
                "group": f"{scene.main}, {scene.skin}",
                "split": split,
                "scene": json.loads(scene.to_json()),
            }


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


@torch.no_grad()
def dictionary_activations(model: Any, world: LesionWorld, n: int, batch: int = 250) -> torch.Tensor:
    """Class-token activations of `n` lesions that no model was trained on, (n, width) float32."""
    from clipattr import Site, activations

    parts = []
    for at in range(0, n, batch):
        lesions = [world.scene(1_000_000_000 + at + i, TRAIN) for i in range(min(batch, n - at))]
        pictures = np.stack([lesion.render() for lesion in lesions])
        parts.append(activations(model, to_pixels(pictures), Site("image.-1.cls")).float())
    return torch.cat(parts)


def build_study_of_lesions(folder: Path, audited: Any, evaluator: Any) -> None:
    """Train a dictionary for the audited model and build the study in `folder`."""
    from clipattr import Images, Vocabulary, build_study, train_sae

    world = LesionWorld.open(EVALUATOR)  # the one in which nothing goes with anything
    work = folder.with_name(f"{folder.name}.building")
    work.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(row, separators=(",", ":")) for row in scenes(world)]
    (work / "scenes.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    write_vocabulary(work / "vocabulary.csv")
    sae = train_sae(
        dictionary_activations(audited, world, DICTIONARY_PICTURES),
        n_latents=LATENTS,
        k=ACTIVE,
        epochs=40,
        batch=1024,
        lr=1e-3,
        site="image.-1.cls",
        model_hash=audited.weights_hash,
    )
    build_study(
        audited,
        Images.open(f"scenes:{work / 'scenes.jsonl'}"),
        path=work / "study",
        vocabulary=Vocabulary.open(work / "vocabulary.csv"),
        evaluator=evaluator,
        dictionary=sae,
    )
    os.replace(work / "study", folder)
    shutil.rmtree(work)


def build_lesions(threads: int = 1) -> None:
    """Train what is missing of the two models, and build the study if it is not there."""
    from clipattr import load_model

    torch.set_num_threads(threads)
    for name in (AUDITED, EVALUATOR):
        folder, world = models_dir() / name, LesionWorld.open(name)
        if not (folder / "open_clip_model.safetensors").exists():
            train(world, folder, seed=world.seed, checkpoint=models_dir() / f"{name}.checkpoint.pt")
    if not (studies_dir() / AUDITED).exists():
        build_study_of_lesions(studies_dir() / AUDITED, load_model(AUDITED), load_model(EVALUATOR))
