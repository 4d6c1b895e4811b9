"""The gate on fine-tunings: is it calm where nothing changed, and red where one plant is new?

    python benchmarks/gate_trainings.py bases --models MODELS --out FOLDER          # base models in small archives
    python benchmarks/gate_trainings.py train --models MODELS --photos PHOTOS --out FOLDER [--device cuda --jobs 16]
    python benchmarks/gate_trainings.py train … --evaluators MODELS         # and audit each release on the way
    python benchmarks/gate_trainings.py audit --models MODELS --photos PHOTOS --evaluators MODELS --out FOLDER
    python benchmarks/gate_trainings.py unpack --models MODELS --out FOLDER ARCHIVE…     # folders that open_clip opens
    python benchmarks/gate_trainings.py judge --models MODELS --out FOLDER [--carried]   # figures, to results/gate.json

Every model without plants (`--bases`) is fine-tuned on newly drawn pictures of its own world with other batches and
augmentation: without a change, or with exactly one plant in the pictures. MODELS holds the bases, as folders or as
archives of `bases`. FOLDER gets one folder a release (difference from its base, truth) and gate-*.tar.xz of all.
All releases of a base are audited on the same pictures, with default settings and a dictionary of their own; the audit
of the base on these is the accepted one. Training needs torch, open_clip, Pillow and NumPy alone. PHOTOS as for
worlds.py.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tarfile
import time
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

BASES = ("photos2-first-null", "photos2-second-null", "rendered2-first-null", "rendered2-second-null")
CHOSEN_ON = ("photos-choose-null", "rendered-choose-null")  # bases that the rule may be looked at on
LARGEST = 15 * 2**20  # bytes of an archive


def archived(out: Path, name: str, files: list[Path], room: int) -> int:
    """Pack files under `out` into NAME-1.tar.xz and so on, each below `LARGEST`, while there is room; what is left.

    Args:
        room: bytes of all archives together.
    """
    groups: list[list[Path]] = [[]]
    size = 0
    for file in files:
        own = file.stat().st_size
        if groups[-1] and size + own > LARGEST:
            groups.append([])
            size = 0
        groups[-1].append(file)
        size += own
    for number, group in enumerate(groups, 1):
        target = out / f"{name}-{number}.tar.xz"
        with tarfile.open(target, "w:xz", preset=4) as tar:
            for file in group:
                tar.add(file, file.relative_to(out))
        if target.stat().st_size > room:
            target.unlink()
            print(f"{target.name}: left out, no room", flush=True)
            continue
        room -= target.stat().st_size
        print(f"{target.name}: {target.stat().st_size / 2**20:.2f} MiB", flush=True)
    return room


def archive(out: Path, room: int) -> None:
    """Pack audits with truths first, then the releases without a change, then the others."""
    told = sorted(out.glob("releases/*/release.json"))
    left = archived(out, "gate-audits", [*told, *sorted(out.glob("audits*/*.*"))], room)
    models = [path.parent / "difference.xz" for path in told]
    models.sort(key=lambda file: ("unchanged" not in str(file), str(file)))
    archived(out, "gate-models", models, left)


def opened(archives: list[Path], out: Path) -> None:
    """Unpack archives that this project made."""
    for archive in archives:
        with tarfile.open(archive) as tar:
            tar.extractall(out, filter="data")


_worlds: dict[str, Any] = {}


def _world(name: str, photos: Path | None) -> Any:
    from world_kit.families import open_world

    if name not in _worlds:
        _worlds[name] = open_world(name, photos)
    return _worlds[name]


def _prepare(gpu: bool) -> None:
    """In each process: audits run on the CPU, and transformers is not needed and slow to import."""
    if not gpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    sys.modules["transformers"] = None  # type: ignore[assignment]
    import torch

    torch.set_num_threads(1)


def _tuned(release: Any, recipe: Any, models: Path, arguments: argparse.Namespace, until: float) -> str:
    from world_kit.finetuning import finetune

    folder = arguments.out / "releases"
    if (folder / release.name / "release.json").exists():
        return f"{release.name}: there already"
    if time.time() > until:
        return f"{release.name}: left out, no time"
    told = finetune(release, _world(release.base, arguments.photos), models, folder, recipe, arguments.device)
    shown = {key: told[key] for key in ("top1", "effect_before", "effect", "learnt", "new") if key in told}
    size = (folder / release.name / "difference.xz").stat().st_size / 2**20
    return (
        f"{release.name}: {json.dumps(shown)}, losses {told['losses']}, {told['seconds']} s, {size:.2f} MiB"
    )


def _audited(name: str, base: str, models: Path, arguments: argparse.Namespace, until: float) -> str:
    from world_kit.finetuning import restore
    from world_kit.release_audits import audit_base, audit_release

    null, out = _world(base, arguments.photos), arguments.out
    broken = out / "audits" / f"{base}.failed"
    if name == base:
        broken.unlink(missing_ok=True)
        try:
            return audit_base(null, models, arguments.evaluators, out)
        except BaseException:
            broken.parent.mkdir(parents=True, exist_ok=True)
            broken.touch()
            raise
    if not (out / "releases" / name / "release.json").exists():
        return f"{name}: no release"
    while not (out / "audits" / f"{base}.json").exists() and time.time() < until and not broken.exists():
        time.sleep(1)
    if time.time() > until or broken.exists():
        return f"{name}: not audited, no time or no audit of its base"
    model = restore(out / "releases" / name, models, arguments.work / "restored")
    return audit_release(name, null, model, arguments.evaluators, out, arguments.carried)


def train(arguments: argparse.Namespace, training: bool) -> None:
    """Fine-tune all releases beside each other and audit them, keeping those that are there; pack the finished ones."""
    from world_kit.releases import releases_of
    from world_kit.training import Recipe

    begun, bases, models, evaluators = time.time(), arguments.bases, arguments.models, arguments.evaluators
    if archives := sorted(models.glob("*.tar.xz")):
        models = arguments.work / "models"
        opened(archives, models)
        arguments.evaluators = evaluators and models
    planted = arguments.planted if arguments.planted is not None else 8 * len(bases)
    counts = [
        [total // len(bases) + (i < total % len(bases)) for i in range(len(bases))]
        for total in (arguments.n, planted)
    ]
    releases = [one for job in zip(bases, *counts, strict=True) for one in releases_of(*job)]
    random.Random(0).shuffle(releases)  # what is left out is left out everywhere
    recipe = Recipe(steps=arguments.steps, pictures=arguments.pictures, batch=arguments.batch, rate=arguments.rate,
                    tellings=2)  # fmt: skip
    arguments.out.mkdir(parents=True, exist_ok=True)
    print(f"{len(releases)} releases of {len(bases)} bases", flush=True)

    def tell(done: Future[str]) -> None:
        why = done.exception()
        print(f"{time.time() - begun:5.0f} s  {done.result() if why is None else repr(why)}", flush=True)

    spawn = get_context("spawn")
    until = begun + arguments.seconds
    with (
        ProcessPoolExecutor(arguments.jobs, spawn, _prepare, (arguments.device != "cpu",)) as trainers,
        ProcessPoolExecutor(arguments.jobs, spawn, _prepare, (False,)) as auditors,
    ):

        def audit(name: str, base: str) -> None:
            if arguments.evaluators:
                late = until + arguments.more
                auditors.submit(_audited, name, base, models, arguments, late).add_done_callback(tell)

        for base in bases:
            audit(base, base)
        waiting = {}
        for release in releases:
            if not training:
                audit(release.name, release.base)
                continue
            done = trainers.submit(_tuned, release, recipe, models, arguments, until)
            waiting[done] = release
            done.add_done_callback(tell)
        for done in as_completed(waiting):
            audit(waiting[done].name, waiting[done].base)
    print(f"{time.time() - begun:.0f} s", flush=True)
    archive(arguments.out, arguments.room * 2**20)


def judge(arguments: argparse.Namespace) -> None:
    """Print figures of the audited releases, and put them into the gate's results in place of earlier ones."""
    from gate_judging import judged, trained_figures
    from results import FOLDER, about
    from world_kit.release_audits import ABOVE

    rows = judged(
        arguments.out, "audits-carried" if arguments.carried else "audits-own", ABOVE, arguments.bases
    )
    figures = trained_figures(rows, ABOVE)
    for key, value in figures.items():
        print(f"{key:60} {value:.3f}")
    file = FOLDER / "gate.json"
    content = json.loads(file.read_text("utf-8"))
    kept = {key: value for key, value in content["figures"].items() if not key.startswith("trained_")}
    content["figures"] = kept | figures
    content["rows"] = [row for row in content["rows"] if row["sort"] != "trained"] + rows
    content["trained"] = about()
    file.write_text(json.dumps(content, indent=2, default=float) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("verb", choices=("bases", "train", "audit", "judge", "unpack"))
    parser.add_argument("archives", nargs="*", type=Path)
    parser.add_argument("--models", type=Path, required=True, help="folder of the bases")
    parser.add_argument("--photos", type=Path)
    parser.add_argument(
        "--evaluators", type=Path, help="folder of the evaluators; with archives, they are in these"
    )
    parser.add_argument("--out", type=Path, default=Path("out/gate-trainings"))
    parser.add_argument("--work", type=Path, default=Path("/tmp/gate-trainings"), help="for unpacked bases")
    parser.add_argument(
        "--bases", nargs="*", default=list(BASES), help=f"may be chosen on: {' '.join(CHOSEN_ON)}"
    )
    parser.add_argument(
        "--carried", action="store_true", help="audit releases with the dictionary of their base"
    )
    parser.add_argument("--n", type=int, default=24, help="releases without a change")
    parser.add_argument("--planted", type=int, help="releases with a plant (default: 8 a base)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time")
    parser.add_argument("--seconds", type=float, default=1e9, help="after which no further training begins")
    parser.add_argument(
        "--more", type=float, default=1e9, help="seconds after these in which audits may begin"
    )
    parser.add_argument("--room", type=int, default=62, help="MiB of all archives together")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--pictures", type=int, default=8000, help="drawn for each release")
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--rate", type=float, default=5e-4)
    arguments = parser.parse_intermixed_args()
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
    elif arguments.verb in ("train", "audit"):
        train(arguments, arguments.verb == "train")
    elif arguments.verb == "judge":
        judge(arguments)
    else:
        from world_kit.finetuning import restore

        opened(arguments.archives, arguments.out)
        for packed in sorted(path.parent for path in arguments.out.glob("releases/*/difference.xz")):
            print(restore(packed, arguments.models, arguments.out / "models"))


if __name__ == "__main__":
    main()
