"""Makes the worlds an audit is measured on: descriptions, pictures, models.

    python benchmarks/worlds.py list
    python benchmarks/worlds.py draw --photos PHOTOS                  # the descriptions under world_kit/specs, anew
    python benchmarks/worlds.py train WORLD --out MODEL --photos PHOTOS [--device cuda] [--steps N | --seconds S]
    python benchmarks/worlds.py train-all --out FOLDER --photos PHOTOS --device cuda --seconds 400
    python benchmarks/worlds.py train-all --out FOLDER --photos PHOTOS --jobs 2 --seconds 36000   # on two CPU cores
    python benchmarks/worlds.py pictures WORLD --out FOLDER --photos PHOTOS [--n 8000]
    python benchmarks/worlds.py effects WORLD --model MODEL --photos PHOTOS

PHOTOS is a folder with one folder of photographs a category, needed by worlds named photos-…; the published figures
come from 55 categories of Caltech 101 (doi 10.22002/D1.20086).
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from world_kit.drawing import draw_all, write_specs  # noqa: E402
from world_kit.families import names, open_world  # noqa: E402
from world_kit.photos import categories  # noqa: E402
from world_kit.scene import STUDY  # noqa: E402
from world_kit.world import SPECS, World  # noqa: E402

WEAK, MIDDLE = 0.95, 0.98  # median word AUC at which an evaluator leaves a snapshot


def write_pictures(world: World, folder: Path, n: int) -> None:
    """PNG files, `labels.csv`, `contents.json`, `vocabulary.txt` and `prompts.txt`."""
    from PIL import Image

    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows, contents = [], {}
    for i in range(n):
        scene, name = world.scene(i, STUDY), f"{i:05d}.png"
        Image.fromarray(world.pixels(i, STUDY)).save(folder / "images" / name, compress_level=1)
        rows.append((name, world.label(scene)))
        contents[name] = world.contents(scene)
    with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("image", "label"), *rows])
    (folder / "contents.json").write_text(json.dumps(contents), encoding="utf-8")
    (folder / "vocabulary.txt").write_text("\n".join(world.vocabulary) + "\n", encoding="utf-8")
    (folder / "prompts.txt").write_text("\n".join(world.prompts) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("verb", choices=("list", "draw", "train", "train-all", "pictures", "effects"))
    parser.add_argument("world", nargs="?")
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--seed", type=int, default=1, help="of the descriptions (draw)")
    parser.add_argument("--n", type=int, default=8000, help="pictures to write")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seconds", type=float, default=1e9)
    parser.add_argument(
        "--until", type=float, help="time of day in seconds since 1970 at which training ends"
    )
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--pictures", type=int, help="drawn for training (default: 20000, evaluators 40000)")
    parser.add_argument("--workers", type=int, default=1, help="processes that draw pictures")
    parser.add_argument("--jobs", type=int, help="trainings at a time (train-all; default: all)")
    parser.add_argument("--scale", type=float, default=1.0, help="of all numbers of steps (train-all)")
    parser.add_argument("--rate", type=float, default=1e-3)
    arguments = parser.parse_args()
    if arguments.verb == "list":
        print("\n".join(names()))
        return
    if arguments.verb == "draw":
        if arguments.photos is None:
            parser.error("draw needs --photos, the folder whose categories the worlds are made of")
        write_specs(draw_all(categories(arguments.photos), arguments.seed), SPECS)
        return
    if arguments.verb == "train-all":
        from world_kit.training_all import train_all

        train_all(
            Path(__file__),
            arguments.photos,
            arguments.out or Path("out") / "worlds",
            device=arguments.device,
            seconds=arguments.seconds,
            jobs=arguments.jobs or len(names()),
            batch=arguments.batch,
            scale=arguments.scale,
            extra=["--pictures", str(arguments.pictures)] if arguments.pictures else None,
        )
        return
    if arguments.world is None:
        parser.error(f"{arguments.verb} needs the name of a world; `list` shows them")
    world = open_world(arguments.world, arguments.photos)
    if arguments.verb == "pictures":
        write_pictures(world, arguments.out or Path("out") / world.name, arguments.n)
        return
    if arguments.verb == "effects":
        from world_kit.effects import measure

        for row in measure(world, arguments.model):
            print(json.dumps(row))
        return
    # Small CLIPs need nothing of transformers, whose import takes longer than open_clip's.
    sys.modules["transformers"] = None  # type: ignore[assignment]
    import torch
    from world_kit.training import Recipe, train

    torch.set_num_threads(1)
    full = world.names_everything
    recipe = Recipe(
        steps=arguments.steps,
        seconds=arguments.seconds,
        batch=arguments.batch,
        rate=arguments.rate,
        pictures=arguments.pictures or (40_000 if full else 20_000),
    )
    train(
        world,
        arguments.out or Path("out") / "models" / world.name,
        recipe,
        device=arguments.device,
        workers=arguments.workers,
        until=arguments.until,
        snapshots={"weak": WEAK, "middle": MIDDLE} if full else None,
    )


if __name__ == "__main__":
    main()
