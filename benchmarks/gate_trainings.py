"""The gate on fine-tunings: is it calm where nothing changed, and red where one plant is new?

    python benchmarks/gate_trainings.py bases --models MODELS --out FOLDER          # base models in small archives
    python benchmarks/gate_trainings.py train --models MODELS --photos PHOTOS --out FOLDER [--device cuda --jobs 16]
    python benchmarks/gate_trainings.py unpack --models MODELS --out FOLDER ARCHIVE...   # folders that open_clip opens

Every model without plants (`--bases`) is fine-tuned on newly drawn pictures of its own world with other batches and
augmentation: without a change, or with exactly one plant in the pictures. MODELS holds the bases, as folders or as
archives of `bases`. FOLDER gets one folder a release (difference from its base, truth) and gate-*.tar.xz of all.
Training needs torch, open_clip, Pillow and NumPy alone. PHOTOS as for worlds.py.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tarfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

BASES = ("photos2-first-null", "photos2-second-null", "rendered2-first-null", "rendered2-second-null")
CHOSEN_ON = ("photos-choose-null", "rendered-choose-null")  # bases that the rule may be looked at on
LARGEST = 15 * 2**20  # bytes of an archive


def pack_releases(folder: Path) -> list[Path]:
    """Pack a folder's releases into archives of at most about `LARGEST`; the archives."""
    groups: list[list[Path]] = [[]]
    size = 0
    for one in sorted(path.parent for path in folder.glob("*/release.json")):
        own = sum(file.stat().st_size for file in one.iterdir())
        if groups[-1] and size + own > LARGEST:
            groups.append([])
            size = 0
        groups[-1].append(one)
        size += own
    made = []
    for number, group in enumerate(groups, 1):
        made.append(folder / f"gate-{number}.tar.xz")
        with tarfile.open(made[-1], "w:xz", preset=1) as tar:  # differences are compressed already
            for one in group:
                for file in sorted(one.iterdir()):
                    tar.add(file, f"{one.name}/{file.name}")
    return made


def opened(archives: list[Path], out: Path) -> None:
    """Unpack archives that this project made."""
    for archive in archives:
        with tarfile.open(archive) as tar:
            tar.extractall(out, filter="data")


_worlds: dict[str, Any] = {}


def _one(job: tuple[Any, ...]) -> str:
    release, models, photos, out, recipe, device, until = job
    if time.time() > until:
        return f"{release.name}: left out, no time"
    sys.modules["transformers"] = None  # type: ignore[assignment]  # not needed, and slow to import
    import torch
    from world_kit.families import open_world
    from world_kit.finetuning import finetune

    torch.set_num_threads(1)
    if (out / release.name / "release.json").exists():
        return f"{release.name}: there already"
    if release.base not in _worlds:
        _worlds[release.base] = open_world(release.base, photos)
    told = finetune(release, _worlds[release.base], models, out, recipe, device)
    shown = {key: told[key] for key in ("top1", "effect_before", "effect", "learnt", "new") if key in told}
    size = (out / release.name / "difference.xz").stat().st_size / 2**20
    return (
        f"{release.name}: {json.dumps(shown)}, losses {told['losses']}, {told['seconds']} s, {size:.2f} MiB"
    )


def train(arguments: argparse.Namespace) -> None:
    """Fine-tune all releases beside each other; those that are there are kept. Packs what is finished."""
    from world_kit.releases import releases_of
    from world_kit.training import Recipe

    begun, bases = time.time(), arguments.bases
    models = arguments.models
    if archives := sorted(models.glob("*.tar.xz")):
        models = arguments.work / "models"
        opened(archives, models)
    share = [arguments.n // len(bases) + (i < arguments.n % len(bases)) for i in range(len(bases))]
    planted = arguments.planted if arguments.planted is not None else 8 * len(bases)
    plants = [planted // len(bases) + (i < planted % len(bases)) for i in range(len(bases))]
    lists = [releases_of(*job) for job in zip(bases, share, plants, strict=True)]
    recipe = Recipe(steps=arguments.steps, pictures=arguments.pictures, batch=arguments.batch, rate=arguments.rate,
                    tellings=2)  # fmt: skip
    until = begun + arguments.seconds
    jobs = [
        (release, models, arguments.photos, arguments.out, recipe, arguments.device, until)
        for releases in lists
        for release in releases
    ]
    random.Random(0).shuffle(jobs)  # what is left out is left out everywhere
    arguments.out.mkdir(parents=True, exist_ok=True)
    print(f"{len(jobs)} releases of {len(bases)} bases", flush=True)
    with ProcessPoolExecutor(arguments.jobs, mp_context=get_context("spawn")) as pool:
        for line in pool.map(_one, jobs):
            print(f"{time.time() - begun:5.0f} s  {line}", flush=True)
    for archive in pack_releases(arguments.out):
        print(
            f"{archive.name}: {archive.stat().st_size / 2**20:.2f} MiB, {time.time() - begun:.0f} s",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("verb", choices=("bases", "train", "unpack"))
    parser.add_argument("archives", nargs="*", type=Path)
    parser.add_argument("--models", type=Path, required=True, help="folder of the bases")
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--out", type=Path, default=Path("out/gate-trainings"))
    parser.add_argument("--work", type=Path, default=Path("/tmp/gate-trainings"), help="for unpacked bases")
    parser.add_argument(
        "--bases", nargs="*", default=list(BASES), help=f"may be chosen on: {' '.join(CHOSEN_ON)}"
    )
    parser.add_argument("--n", type=int, default=24, help="releases without a change")
    parser.add_argument("--planted", type=int, help="releases with a plant (default: 8 a base)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time")
    parser.add_argument("--seconds", type=float, default=1e9, help="after which no further training begins")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--pictures", type=int, default=8000, help="drawn for each release")
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--rate", type=float, default=5e-4)
    arguments = parser.parse_args()
    sys.modules["transformers"] = None  # type: ignore[assignment]
    if arguments.verb == "bases":
        from world_kit.packing import pack

        kept = arguments.work / "bases"
        for name in arguments.bases:
            (kept / name).parent.mkdir(parents=True, exist_ok=True)
            if not (kept / name).exists():
                (kept / name).symlink_to((arguments.models / name).resolve())
        for name, size in pack(kept, arguments.out, archives=1):
            print(f"{name}: {size / 2**20:.2f} MiB")
    elif arguments.verb == "train":
        train(arguments)
    else:
        from world_kit.finetuning import restore

        opened(arguments.archives, arguments.work / "packed")
        for packed in sorted((arguments.work / "packed").iterdir()):
            print(restore(packed, arguments.models, arguments.out))


if __name__ == "__main__":
    main()
