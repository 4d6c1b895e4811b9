"""Rebuilds everything under `data/` that is not source: models, measured effects, dictionaries, studies.

Each step is skipped when its result is already there, and an interrupted training resumes from its checkpoint.
Start at `main`; `make data` runs it.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
from pathlib import Path

import torch

from . import models_dir, studies_dir
from .effects import measure, save
from .scene import render
from .train import Recipe, train
from .world import CONCEPTS, HOLDOUT, STUDY, TRAIN, World

MODELS = ("picture-world-a", "picture-world-evaluator")
EVALUATOR = "picture-world-evaluator"
STUDIES = {"picture-world": "picture-world-a"}  # study: audited model
PICTURES, HELD_BACK, DICTIONARY_PICTURES = 6000, 3000, 60_000
LATENTS, ACTIVE = 1024, 16


def build_models(threads: int) -> None:
    """Train what is missing and measure its plants."""
    torch.set_num_threads(threads)
    for name in MODELS:
        folder = models_dir() / name
        world = World.open(name)
        if not (folder / "open_clip_model.safetensors").exists():
            train(world, folder, Recipe(), checkpoint=models_dir() / f"{name}.checkpoint.pt")
        if world.plants and not (folder / "effects.json").exists():
            from clipattr import load_model

            save(measure(load_model(name), world), folder)


def write_scenes(world: World, path: Path) -> None:
    """The study's pictures as scenes with labels and splits, one JSON object a line."""
    rows = []
    for split, stream, n in (("train", STUDY, PICTURES), ("holdout", HOLDOUT, HELD_BACK)):
        for index in range(n):
            example = world.example(index, stream)
            row = {
                "id": f"{split}-{index:05d}",
                "label": example.label,
                "group": example.scene.context or "plain",
                "split": split,
                "scene": json.loads(example.scene.to_json()),
            }
            rows.append(json.dumps(row, separators=(",", ":"), ensure_ascii=False))
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")


def write_vocabulary(world: World, path: Path) -> None:
    """What the evaluator may call a latent: every thing by its own name, with its group and gloss."""
    stock = {c["name"]: c for c in json.loads(CONCEPTS.read_text(encoding="utf-8"))["concepts"]}
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "word", "gloss", "group"])
        for name in world.concepts:
            writer.writerow([stock[name]["emoji"], name, stock[name]["gloss"], stock[name]["group"]])
        for name in world.contexts:
            writer.writerow([f"place-{name}", name, "a background", "place"])
        writer.writerow(["mark", "a watermark", "a pale mark laid over the whole picture", "mark"])
        writer.writerow(["writing", "the word", "letters written in the picture", "writing"])


@torch.no_grad()
def dictionary_activations(model, world: World, n: int, batch: int = 250) -> torch.Tensor:  # type: ignore[no-untyped-def]
    """Class-token activations of `n` pictures that no model was trained on, (n, width) float32."""
    from clipattr import Site, activations

    from .train import to_pixels

    parts = []
    for at in range(0, n, batch):
        pictures = render(world.scene(1_000_000_000 + at + i, TRAIN) for i in range(min(batch, n - at)))
        parts.append(activations(model, to_pixels(pictures), Site("image.-1.cls")).float())
    return torch.cat(parts)


def build_studies(threads: int) -> None:
    """Train each study's dictionary and build the study beside it."""
    from clipattr import Images, Vocabulary, build_study, load_model, train_sae

    torch.set_num_threads(threads)
    for study, name in STUDIES.items():
        folder = studies_dir() / study
        if folder.exists():
            continue
        world, model = World.open(name), load_model(name)
        studies_dir().mkdir(exist_ok=True)
        work = studies_dir() / f"{study}.building"
        work.mkdir(exist_ok=True)
        write_scenes(world, work / "scenes.jsonl")
        write_vocabulary(world, work / "vocabulary.csv")
        acts = dictionary_activations(model, world, DICTIONARY_PICTURES)
        sae = train_sae(
            acts,
            n_latents=LATENTS,
            k=ACTIVE,
            epochs=60,
            batch=1024,
            lr=1e-3,
            site="image.-1.cls",
            model_hash=model.weights_hash,
        )
        build_study(
            model,
            Images.open(f"scenes:{work / 'scenes.jsonl'}"),
            path=work / "study",
            vocabulary=Vocabulary.open(work / "vocabulary.csv"),
            evaluator=load_model(EVALUATOR),
            dictionary=sae,
        )
        os.replace(work / "study", folder)
        shutil.rmtree(work)


def main() -> None:
    """Rebuild what is missing; remove a folder under data/models or data/studies to have it made anew."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument(
        "--threads", type=int, default=1, help="trained weights depend on it in the last digits"
    )
    arguments = parser.parse_args()
    build_models(arguments.threads)
    build_studies(arguments.threads)


if __name__ == "__main__":
    main()
