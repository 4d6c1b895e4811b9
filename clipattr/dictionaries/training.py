"""Training: from cached activations to a dictionary, on a CPU or a GPU.

Owns the loop over batches: schedule, several seeds in one pass, checkpoints and resume, early stop, progress. The
arithmetic of a step is in `trainer.py`, the objective of a kind in its own module. Start at `train_saes`.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from clipattr.dictionaries.batches import Source, as_source, batches_in
from clipattr.dictionaries.parallel import join
from clipattr.dictionaries.recipes import Job, Recipe, Schedule, check_schedule, check_whole, split_options
from clipattr.dictionaries.sae import Dictionary
from clipattr.dictionaries.trainees import Trainee, Views
from clipattr.dictionaries.trainer import Run, folded
from clipattr.display.progress import Progress
from clipattr.errors import DictionaryError
from clipattr.execution.engine import is_out_of_memory
from clipattr.models.modules import device_named
from clipattr.models.surroundings import unaffected
from clipattr.storage.documents import parse_json, schema_complaint
from clipattr.storage.files import read_tensors, save_tensors, tensors_digest
from clipattr.storage.locks import locked

CHECKPOINT_SCHEMA = 1
CHECKPOINT_FILE = "training.safetensors"
LOSS_MEMORY = 0.95


def learning_rate(step: int, steps: int, peak: float, warmup: int, decay: float) -> float:
    """Rate of a step (0-based): linear rise over `warmup` steps, flat, linear fall over the last share `decay`."""
    rise = min(1.0, (step + 1) / max(warmup, 1))
    tail = max(1, round(steps * decay)) if decay > 0 else 0
    fall = 1.0 if not tail else min(1.0, (steps - step) / tail)
    return peak * min(rise, fall)


@unaffected
def train_saes(
    acts: Any, recipes: Recipe | Sequence[Recipe] = (), *, seeds: Sequence[int] = (0,), **options: Any
) -> list[Dictionary]:
    """Train dictionaries on the same activations in one pass: every recipe from every seed, each exactly as alone.

    The result depends on the activations, the recipe, the schedule and the seed; not on what trains beside it, on
    logging, checkpoints or interruptions. (Stopping early by `patience` looks at all of them together.)

    Args:
        acts: (rows, width) tensor, array or memory map, an `ActivationStore`, or any `batches.Source`.
        recipes: what to train; or give the fields of one `Recipe` as options.
        seeds: of the start directions.
        options: the fields of `Schedule` and `Job`, and without recipes those of `Recipe`.

    Returns:
        One dictionary per recipe and seed, recipe after recipe. `info` records FVU (fraction of variance unexplained),
        L0, the training settings, and gamma = |mean| / deviation of the data.

    Raises:
        DictionaryError: settings that do not fit, activations with NaN or of no variation, a diverging loss, or a
            checkpoint of another run.

    >>> acts = torch.randn(512, 8, generator=torch.Generator().manual_seed(0))
    >>> small, large = train_saes(acts, [Recipe(16, 2), Recipe(32, 4)], steps=5, progress=False)
    >>> small.n_latents, large.n_latents
    (16, 32)
    """
    own, schedule, job = split_options(options)
    if recipes:
        asked = [recipes] if isinstance(recipes, Recipe) else list(recipes)
        kind_options = own.pop("options")
        if unknown := sorted({**own, **kind_options}):
            raise DictionaryError(f"With recipes, set {', '.join(unknown)} in the recipes themselves.")
    else:
        if missing := {"n_latents", "k"} - own.keys():
            raise DictionaryError(f"Give recipes, or {' and '.join(sorted(missing))} of one dictionary.")
        asked = [Recipe(**own)]
    return _trained(as_source(acts), asked, list(seeds), schedule, job)


def _device(asked: torch.device | str | None) -> torch.device:
    """The device of a run; DictionaryError for one that this machine lacks."""
    where = device_named(asked) if asked is not None else torch.device("cpu")
    try:
        torch.empty(0, device=where)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        raise DictionaryError(f"Nothing can be trained on {where} here: {str(error)[:200]}") from error
    return where


def _trained(
    source: Source, recipes: list[Recipe], seeds: list[int], schedule: Schedule, job: Job
) -> list[Dictionary]:
    check_schedule(schedule, len(source), len(seeds))
    for seed in seeds:
        check_whole("seed", seed, 0)
    for recipe in recipes:
        check_whole("n_latents", recipe.n_latents)
        check_whole("k", recipe.k)
    batch = min(schedule.batch, len(source))
    per_epoch = batches_in(source, batch)
    steps = schedule.steps
    if steps is None:
        steps = 2000 if schedule.epochs is None else max(1, round(schedule.epochs * per_epoch))
    warmup = min(1000, steps // 20) if schedule.warmup is None else schedule.warmup
    where = _device(job.device)
    team = join()
    trainees = [
        Trainee.of(recipe, seed, source.width, steps * batch, batch, job, where, team)
        for recipe in recipes
        for seed in seeds
    ]
    shared = {
        "width": source.width, "rows": len(source), "steps": steps, "batch": batch, "warmup": warmup,
        "decay": schedule.decay, "data_seed": schedule.data_seed, "patience": schedule.patience,
        "source": getattr(source, "fingerprint", None),
    }  # fmt: skip
    settings = {**shared, "runs": [one.settings for one in trainees]}
    views = Views(source, batch, schedule.data_seed, where)
    for one in trainees:
        views.prepare(one.recipe)

    file = None if job.checkpoint is None else Path(job.checkpoint) / CHECKPOINT_FILE
    watch, runs = Watch(schedule.patience), [one.run for one in trainees]
    with contextlib.ExitStack() as held:
        if file is not None and team.rank == 0:
            file.parent.mkdir(parents=True, exist_ok=True)
            held.enter_context(locked(file.parent / ".lock", f"training into {file.parent}", DictionaryError))
        if file is not None and file.exists():
            _resume(file, settings, runs, watch)
        with Progress(
            total=steps,
            initial=runs[0].steps_done,
            disable=not job.progress or team.rank > 0,
            desc=f"{recipes[0].kind} SAE" if len(trainees) == 1 else f"{len(trainees)} SAEs",
            unit="step",
        ) as bar:
            while runs[0].steps_done < steps and not watch.stopped:
                epoch, position = divmod(runs[0].steps_done, per_epoch)
                for acts_batch in source.shuffled(batch, schedule.data_seed, epoch, position):
                    seen = views.of(acts_batch)
                    step = runs[0].steps_done
                    shape = learning_rate(step, steps, 1.0, warmup, schedule.decay)
                    if step == 0:
                        for one in trainees:
                            one.run.calibrate(seen(one.recipe))
                    figures = _stepped(trainees, seen, team.part, shape, file)
                    watch.note(figures)
                    if job.log is not None:
                        job.log({"step": step + 1, **figures[0]})
                    bar.update()
                    if step % 10 == 0:
                        shown = {name: f"{figures[0][name]:.4g}" for name in ("loss", "l0", "dead")}
                        bar.set_postfix(fvu=f"{watch.fvu[0]:.4f}", **shown, refresh=False)
                    done = step + 1 >= steps or watch.stopped
                    if (
                        file is not None
                        and team.rank == 0
                        and (done or (step + 1) % job.checkpoint_every == 0)
                    ):
                        _save(file, settings, runs, watch)
                    if done:
                        break

    site = job.site or getattr(source, "site", None)
    made = []
    for number, one in enumerate(trainees):
        mean, scale, whitening = views.prepared(one.recipe)
        info = {
            "seed": one.settings["seeds"][0],
            "training": {**shared, **one.settings},
            "steps_done": one.run.steps_done,
            "gamma": views.gamma,
            "scale": scale,
            "fvu": watch.fvu[number],
            "l0": watch.l0[number],
            "dead": one.run.dead_share(),
        }
        if facts := getattr(source, "manifest", {}).get("forward"):
            info["forward"] = facts  # of the model that filled the store
        core = {
            "site": None if site is None else str(site),
            "model_hash": job.model_hash or getattr(source, "model_hash", None),
            "info": info,
        }
        made.append(folded(one.run, mean, scale, core, whitening))
    return made


def _stepped(
    trainees: list[Trainee],
    seen: Callable[[Recipe], Tensor],
    part: Callable[[Tensor], Tensor],
    rate: float,
    file: Path | None,
) -> list[dict[str, float]]:
    """One step of every run; half of its batch would be another training, so too little memory is an error."""
    rows = 0
    try:
        figures = []
        for one in trainees:
            x = part(seen(one.recipe))
            rows = len(x)
            figures.append(one.run.step(x, one.peak * rate))
        return figures
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        kept = "" if file is None or not file.exists() else f" The last checkpoint in {file.parent} is whole."
        raise DictionaryError(
            f"A training step of {rows:,} activations did not fit into memory ({str(error)[:120]}). Give a "
            f"smaller batch or fewer latents.{kept}"
        ) from error


class Watch:
    """Smoothed loss and L0 of every run, and the decision to stop early. Reads figures, changes no weights."""

    def __init__(self, patience: int | None) -> None:
        self.patience = patience
        self.fvu: list[float] = []
        self.l0: list[float] = []
        self.best = math.inf
        self.since_best = 0

    @property
    def stopped(self) -> bool:
        return self.patience is not None and self.since_best >= self.patience

    def note(self, figures: Sequence[dict[str, float]]) -> None:
        """Record the figures of one step, one entry per run."""
        if not self.fvu:
            self.fvu = [entry["loss"] for entry in figures]
            self.l0 = [entry["l0"] for entry in figures]
        for number, entry in enumerate(figures):
            self.fvu[number] += (1 - LOSS_MEMORY) * (entry["loss"] - self.fvu[number])
            self.l0[number] += (1 - LOSS_MEMORY) * (entry["l0"] - self.l0[number])
        level = sum(self.fvu) / len(self.fvu)
        if level < self.best * 0.999:
            self.best, self.since_best = level, 0
        else:
            self.since_best += 1

    def state(self) -> dict[str, Any]:
        return {"fvu": self.fvu, "l0": self.l0, "best": self.best, "since_best": self.since_best}

    def restore(self, state: dict[str, Any]) -> None:
        self.fvu, self.l0 = list(state["fvu"]), list(state["l0"])
        self.best, self.since_best = float(state["best"]), int(state["since_best"])


def _save(file: Path, settings: dict[str, Any], runs: Sequence[Run], watch: Watch) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    parts: dict[str, Tensor] = {}
    for number, run in enumerate(runs):
        parts |= {f"{number}.{name}": tensor.cpu().contiguous() for name, tensor in run.state().items()}
    meta = {
        "schema": str(CHECKPOINT_SCHEMA),
        "settings": json.dumps(settings, sort_keys=True),
        "watch": json.dumps(watch.state()),
    }
    meta["digest"] = _digest(parts, meta)
    try:
        save_tensors(file, parts, meta)
    except (OSError, SafetensorError) as error:
        raise DictionaryError(
            f"The checkpoint {file} could not be written ({error}); the one before is intact. Free space and resume."
        ) from error


def _digest(parts: dict[str, Tensor], meta: dict[str, str]) -> str:
    return tensors_digest(
        parts, *(meta[name] for name in ("schema", "settings", "watch")), by="sha256", digits=64
    )


def _flat(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings of a pass by name; with several runs, those of a run by its number and name."""
    runs = settings.get("runs", [])
    own = {
        name if len(runs) == 1 else f"run {number}, {name}": value
        for number, run in enumerate(runs)
        for name, value in run.items()
    }
    return {**{name: value for name, value in settings.items() if name != "runs"}, **own}


def _resume(file: Path, settings: dict[str, Any], runs: Sequence[Run], watch: Watch) -> None:
    try:
        parts, meta = read_tensors(file)
        if "digest" in meta and meta["digest"] != _digest(parts, meta):
            raise KeyError("its numbers differ from the recorded digest")
        again = f"delete {file.parent} and train again"
        if told := schema_complaint(file, int(meta["schema"]), CHECKPOINT_SCHEMA, again):
            raise DictionaryError(told)
        found, wanted = _flat(parse_json(meta["settings"])), _flat(json.loads(json.dumps(settings)))
        different = {name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name)}
        if different:
            told = ", ".join(
                f"{name}: {found.get(name)} there, {wanted.get(name)} now" for name in sorted(different)
            )
            raise DictionaryError(
                f"{file.parent} holds a checkpoint of another run ({told}). Use its settings, or another folder."
            )
        for number, run in enumerate(runs):
            mark = f"{number}."
            run.restore(
                {name.removeprefix(mark): part for name, part in parts.items() if name.startswith(mark)}
            )
        watch.restore(parse_json(meta["watch"]))
    except DictionaryError:
        raise
    except (KeyError, OSError, ValueError, SafetensorError) as error:
        raise DictionaryError(
            f"The checkpoint {file} is damaged ({error}); delete it to start over."
        ) from error
