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
from .labelled import rows, write
from .lesion_build import build_lesions
from .scene import render
from .train import train
from .world import CONCEPTS, TRAIN, WRITING, World

EVALUATOR = "picture-world-evaluator"
AUDITED = ("picture-world-a", "picture-world-b", "picture-world-c")
NULL = "picture-world-null"  # trained without plants; its study is built when a benchmark asks for it
MODELS = (EVALUATOR, *AUDITED, NULL)
STUDIES = {"picture-world": AUDITED[0]} | {name: name for name in AUDITED[1:]}  # study: model
DICTIONARY_PICTURES = 40_000
PICTURES = {"picture-world": (6000, 3000)}  # for finding and for measuring
FEWER = (3600, 1800)  # in every other study, so that all of them stay small
LATENTS, ACTIVE = 2048, 8


def build_models(threads: int) -> None:
    """Train what is missing and measure its plants."""
    torch.set_num_threads(threads)
    for name in MODELS:
        folder = models_dir() / name
        world = World.open(name)
        if not (folder / "open_clip_model.safetensors").exists():
            train(world, folder, seed=world.seed, checkpoint=models_dir() / f"{name}.checkpoint.pt")
        if world.plants and not (folder / "effects.json").exists():
            from clipattr import load_model

            save(measure(load_model(name), world), folder)


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
        writer.writerow(["writing", WRITING, "letters written in the picture", "writing"])


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


def build_one(world: World, model: str, folder: Path) -> None:
    """Train a dictionary for a model of this world, and build the study in `folder`."""
    from clipattr import Images, Vocabulary, build_study, load_model, train_sae

    audited, work = load_model(model), folder.with_name(f"{folder.name}.building")
    work.mkdir(parents=True, exist_ok=True)
    finding, measuring = PICTURES.get(folder.name, FEWER)
    write([*rows(world, "train", finding), *rows(world, "holdout", measuring)], work / "scenes.jsonl")
    write_vocabulary(world, work / "vocabulary.csv")
    sae = train_sae(
        dictionary_activations(audited, world, DICTIONARY_PICTURES),
        n_latents=LATENTS,
        k=ACTIVE,
        epochs=60,
        batch=1024,
        lr=1e-3,
        site="image.-1.cls",
        model_hash=audited.weights_hash,
    )
    for weights in (sae.encoder, sae.decoder):  # as precise as the models' own weights, and smaller when compressed
        weights.copy_(weights.half().float())
    build_study(
        audited,
        Images.open(f"scenes:{work / 'scenes.jsonl'}"),
        path=work / "study",
        vocabulary=Vocabulary.open(work / "vocabulary.csv"),
        evaluator=load_model(EVALUATOR),
        dictionary=sae,
    )
    os.replace(work / "study", folder)
    shutil.rmtree(work)


def build_studies(threads: int) -> None:
    """Build what is missing of the bundled studies."""
    torch.set_num_threads(threads)
    for study, name in STUDIES.items():
        if not (studies_dir() / study).exists():
            build_one(World.open(name), name, studies_dir() / study)


def main() -> None:
    """Rebuild what is missing; remove a folder under data/models or data/studies to have it made anew."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument(
        "--threads", type=int, default=1, help="trained weights depend on it in the last digits"
    )
    arguments = parser.parse_args()
    build_models(arguments.threads)
    build_studies(arguments.threads)
    build_lesions(arguments.threads)


if __name__ == "__main__":
    main()
