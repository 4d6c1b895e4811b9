"""Makes the worlds an audit is measured on: descriptions, pictures, models.

    python benchmarks/worlds.py list
    python benchmarks/worlds.py draw --photos PHOTOS [--seed 2]       # rewrites the descriptions under world_kit/specs
    python benchmarks/worlds.py train WORLD --out MODEL --photos PHOTOS [--device cuda] [--steps N | --seconds S]
    python benchmarks/worlds.py train-all --out FOLDER --photos PHOTOS --device cuda --seconds 400
    python benchmarks/worlds.py train-all --out FOLDER --photos PHOTOS --jobs 2 --seconds 36000   # on two CPU cores
    python benchmarks/worlds.py pictures WORLD --out FOLDER --photos PHOTOS [--n 6000]
    python benchmarks/worlds.py study WORLD --models FOLDER --out FOLDER --photos PHOTOS [--n 6000] [--evaluator NAME]
    python benchmarks/worlds.py effects WORLD --model MODEL --photos PHOTOS
    python benchmarks/worlds.py truth WORLD --out FOLDER --photos PHOTOS [--pairs 200]
    python benchmarks/worlds.py audit --only WORLD --out FOLDER --photos PHOTOS [--laws]     # one world a process
    python benchmarks/worlds.py audit --out FOLDER --photos PHOTOS --round TITLE [--part choose]

PHOTOS is a folder with one folder of photographs a category, needed by worlds named photos-…; the published figures
come from 55 categories of Caltech 101 (doi 10.22002/D1.20086).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from world_kit.drawing import draw_all, write_specs  # noqa: E402
from world_kit.families import names, open_world  # noqa: E402
from world_kit.photos import categories  # noqa: E402
from world_kit.studying import (  # noqa: E402
    EMBEDDING,
    EVALUATORS,
    FORMS,
    IMAGENET,
    PICTURES,
    WEAKER,
    build_forms,
    write_pictures,
)
from world_kit.world import SPECS  # noqa: E402

WEAK, MIDDLE = 0.95, 0.98  # median word AUC at which an evaluator leaves a snapshot


def audit(arguments: argparse.Namespace) -> None:
    """Audit one world, or all of a part; and append a round of all results that are there."""
    sys.modules["transformers"] = None  # type: ignore[assignment]
    import torch
    from results import FOLDER, about
    from world_kit.auditing import audit_world
    from world_kit.tally import add_round

    torch.set_num_threads(1)
    out = arguments.out or Path("out")
    store = out / "audits"
    ready = [name for name in names() if (out / "studies" / name / "plain" / "study.json").exists()]
    chosen = [name for name in ready if arguments.part in name]
    for name in [arguments.only] if arguments.only else chosen:
        if arguments.only or not (store / f"{name}.json").exists():
            world = open_world(name, arguments.photos)
            audit_world(
                world, out, arguments.forms, simpler=not arguments.bare, laws=arguments.laws, tell=said
            )
    if arguments.round:
        files = [store / f"{name}.json" for name in chosen]
        results = [json.loads(file.read_text(encoding="utf-8")) for file in files if file.exists()]
        for name, value in add_round(
            FOLDER / f"{arguments.results}.json", arguments.round, results, about()
        ).items():
            print(f"{name:60} {value:.3f}")


def said(line: str) -> None:
    """Print at once."""
    print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "verb",
        choices=("list", "draw", "train", "train-all", "pictures", "study", "effects", "truth", "audit"),
    )
    parser.add_argument("world", nargs="?")
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--models", type=Path, help="a folder of trained models, one folder a world")
    parser.add_argument("--pairs", type=int, default=200, help="drawn to measure a plant's effect (truth)")
    parser.add_argument("--only", help="the world to audit; its result waits under --out for a round")
    parser.add_argument("--round", help="title of the round that the results are appended as (audit)")
    parser.add_argument(
        "--results", default="worlds", help="file of results that a round is appended to (audit)"
    )
    parser.add_argument(
        "--part", default="", help="worlds whose names hold this, e.g. choose (audit, train-all)"
    )
    parser.add_argument(
        "--forms",
        nargs="*",
        default=list(FORMS),
        choices=(*FORMS, IMAGENET, EMBEDDING, *WEAKER),
        help="of the studies",
    )
    parser.add_argument("--laws", action="store_true", help="also audit single prompts and another order")
    parser.add_argument("--bare", action="store_true", help="no simpler ways beside the audit")
    parser.add_argument(
        "--evaluator", choices=EVALUATORS, default=EVALUATORS[0], help="of the family (study)"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the descriptions (draw)")
    parser.add_argument("--n", type=int, default=PICTURES, help="pictures to write")
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
            part=arguments.part,
            batch=arguments.batch,
            scale=arguments.scale,
            extra=["--pictures", str(arguments.pictures)] if arguments.pictures else None,
        )
        return
    if arguments.verb == "audit":
        audit(arguments)
        return
    if arguments.world is None:
        parser.error(f"{arguments.verb} needs the name of a world; `list` shows them")
    world = open_world(arguments.world, arguments.photos)
    if arguments.verb == "pictures":
        write_pictures(world, arguments.out or Path("out") / world.name, arguments.n)
        return
    if arguments.verb == "study":
        if arguments.models is None:
            parser.error("study needs --models, the folder that train-all wrote")
        forms = arguments.forms if arguments.evaluator == EVALUATORS[0] else FORMS[:1]
        for path in build_forms(
            world, arguments.models, arguments.out or Path("out"), arguments.n, arguments.evaluator, forms
        ):
            print(path)
        return
    if arguments.verb == "truth":
        from world_kit.auditing import truth_of

        for row in truth_of(world, arguments.out or Path("out"), arguments.pairs):
            print(json.dumps(row))
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
