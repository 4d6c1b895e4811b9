"""Rebuilds everything under `data/` that is not source: models, measured effects, dictionaries, studies, cards.

Each step is skipped when its result is already there, and an interrupted training resumes from its checkpoint.
Start at `main`; `make data` runs it.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

import torch

from . import models_dir, studies_dir
from .effects import measure, save
from .labelled import rows, write
from .lesion_build import build_lesions
from .study_build import DictionaryPlan, build_in
from .train import train
from .world import CONCEPTS, WRITING, World

EVALUATOR = "picture-world-evaluator"
AUDITED = ("picture-world-a", "picture-world-b", "picture-world-c")
NULL = "picture-world-null"  # trained without plants; its study is built when a benchmark asks for it
MODELS = (EVALUATOR, *AUDITED, NULL)
STUDIES = {"picture-world": AUDITED[0]} | {name: name for name in AUDITED[1:]}  # study: model
DICTIONARY = DictionaryPlan(pictures=40_000, latents=1024, active=8, epochs=60)
PICTURES = {"picture-world": (6000, 3000)}  # for finding and for measuring
FEWER = (3600, 1800)  # in every other study, so that all of them stay small


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
    """Write the vocabulary of a world: every concept by its own name, with group and gloss."""
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


def build_one(world: World, model: str, folder: Path) -> None:
    """Train a dictionary for a model of this world, and build the study in `folder`."""
    from clipattr import load_model

    finding, measuring = PICTURES.get(folder.name, FEWER)
    build_in(
        folder,
        load_model(model),
        load_model(EVALUATOR),
        world,
        DICTIONARY,
        write_scenes=lambda path: write(
            [*rows(world, "train", finding), *rows(world, "holdout", measuring)], path
        ),
        write_vocabulary=lambda path: write_vocabulary(world, path),
    )


def build_studies(threads: int) -> None:
    """Build what is missing of the bundled studies."""
    torch.set_num_threads(threads)
    for study, name in STUDIES.items():
        if not (studies_dir() / study).exists():
            build_one(World.open(name), name, studies_dir() / study)


def build_cards(again: bool = False) -> None:
    """Write the quality card of every bundled study's dictionary, where it is missing or `again`."""
    from clipattr import open_study, study_card

    for manifest in sorted(studies_dir().glob("*/study.json")):
        file = manifest.parent / "dictionary" / "card.json"
        if again or not file.exists():
            card = study_card(open_study(manifest.parent), keep=False)
            card.save(file)
            print(f"{manifest.parent.name}\n{card}\n")


def main() -> None:
    """Rebuild what is missing; remove a folder under data/models or data/studies to rebuild it."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument(
        "--threads", type=int, default=1, help="trained weights depend on it in the last digits"
    )
    parser.add_argument("--cards", action="store_true", help="judge the dictionaries again, and nothing else")
    arguments = parser.parse_args()
    if not arguments.cards:
        build_models(arguments.threads)
        build_studies(arguments.threads)
        build_lesions(arguments.threads)
    build_cards(again=arguments.cards)


if __name__ == "__main__":
    main()
