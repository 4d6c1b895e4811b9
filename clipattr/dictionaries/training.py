"""Training: from cached activations to a dictionary, on a CPU or a GPU.

Owns the loop over batches: schedule, several seeds in one pass, checkpoints and resume, early stop, progress. The
arithmetic of a step is in `trainer.py`, what a kind asks for in its own module. Start at `train_sae`, which takes
all options of `train_saes`.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from tqdm.auto import tqdm

from clipattr.dictionaries.batches import as_source, batches_in, mean_and_scale
from clipattr.dictionaries.objective import OBJECTIVES
from clipattr.dictionaries.parallel import join
from clipattr.dictionaries.sae import Dictionary
from clipattr.dictionaries.trainer import Revival, Run, folded
from clipattr.errors import DictionaryError
from clipattr.execution.engine import is_out_of_memory
from clipattr.storage.documents import parse_json, schema_complaint
from clipattr.storage.files import save_tensors, tensors_digest
from clipattr.storage.locks import locked

CHECKPOINT_SCHEMA = 1
CHECKPOINT_FILE = "training.safetensors"
LOSS_MEMORY = 0.95


def default_lr(n_latents: int) -> float:
    """Adam's rate falls with the square root of the dictionary's size (Gao et al. 2024, arXiv:2406.04093)."""
    return min(2e-4 * math.sqrt(2**14 / n_latents), 2e-3)


def learning_rate(step: int, steps: int, peak: float, warmup: int, decay: float) -> float:
    """Rate of a step (0-based): linear rise over `warmup` steps, flat, linear fall over the last share `decay`."""
    rise = min(1.0, (step + 1) / max(warmup, 1))
    tail = max(1, round(steps * decay)) if decay > 0 else 0
    fall = 1.0 if not tail else min(1.0, (steps - step) / tail)
    return peak * min(rise, fall)


def train_sae(
    acts: Any, *, n_latents: int, k: int, kind: str = "topk", seed: int = 0, **options: Any
) -> Dictionary:
    """Train one dictionary on activations; every option of `train_saes` may be given.

    `train_sae(store, n_latents=30_000, k=64, epochs=5, checkpoint="runs/a")` is all a real run needs.

    >>> acts = torch.randn(512, 8, generator=torch.Generator().manual_seed(0))
    >>> made = train_sae(acts, n_latents=32, k=4, steps=20, progress=False)
    >>> codes = made.encode(acts)
    >>> codes.shape, torch.allclose(made.decode(codes) + made.error(acts, codes), acts, atol=1e-5)
    ((512, 32), True)
    """
    return train_saes(acts, n_latents=n_latents, k=k, kind=kind, seeds=(seed,), **options)[0]


def train_saes(
    acts: Any,
    *,
    n_latents: int,
    k: int,
    kind: str = "topk",
    steps: int | None = None,
    epochs: float | None = None,
    batch: int = 4096,
    lr: float | None = None,
    warmup: int | None = None,
    decay: float = 0.2,
    seeds: Sequence[int] = (0,),
    data_seed: int = 0,
    center: bool = True,
    sparsity: float | None = None,
    dead_after: int | None = None,
    aux_weight: float = 1 / 32,
    aux_k: int | None = None,
    patience: int | None = None,
    precision: str = "auto",
    device: torch.device | str | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 500,
    log: Callable[[dict[str, float]], None] | None = None,
    progress: bool = True,
    site: str | None = None,
    model_hash: str | None = None,
    **kind_options: Any,
) -> list[Dictionary]:
    """Train dictionaries of one shape on the same activations, one per seed.

    The result depends on the activations, the settings and the seeds; not on logging, checkpoints or interruptions.

    Args:
        acts: (rows, width) tensor, array or memory map, an `ActivationStore`, or any `sources.Source`.
        n_latents, k: size, and active latents per row (for kinds without a fixed number: the L0 steered towards).
        kind: "topk", "batchtopk", "matryoshka", "relu", "gated" or "jumprelu".
        steps, epochs: how long; give at most one. Default: 2,000 steps.
        batch: activations per step; cut to the number there are.
        lr: peak learning rate; default `default_lr(n_latents)`.
        warmup: steps of linear rise (default: 5 % of all, at most 1,000); decay: final share with linear fall.
        seeds: of the start directions; several train in one pass over the same batches, each exactly as alone.
        data_seed: order of the activations.
        center: subtract the data's mean (folded into the weights of the result).
        sparsity: weight of the sparsity term, for kinds that have one; None steers it so that L0 approaches k.
        dead_after: activations without a firing after which a latent is revived; default a tenth of the run, at
            most 10 million. 0 turns revival off. aux_weight, aux_k: see `trainer.Revival`.
        patience: stop when the smoothed loss has not fallen by 0.1 % for this many steps.
        precision: "auto", "float32" or "bfloat16", the encoder product's.
        checkpoint: folder for checkpoints; an interrupted run with the same settings continues from there and ends
            with the weights it would have had, bit by bit on one machine with the same number of threads.
        log: called after each step with step, loss, l0, dead (of the first seed).
        site, model_hash: recorded; taken from a store when it knows them.

    Returns:
        One dictionary per seed. `info` tells FVU, L0 and how it was trained, with gamma = |mean| / deviation of
        the data.

    Raises:
        DictionaryError: settings that do not fit, activations with NaN or of no variation, a diverging loss, or a
            checkpoint of another run.
    """
    source = as_source(acts)
    seeds = list(seeds)
    if kind not in OBJECTIVES:
        raise DictionaryError(
            f"Kind {kind!r} cannot be trained; known kinds: {', '.join(sorted(OBJECTIVES))}."
        )
    if steps is not None and epochs is not None:
        raise DictionaryError(f"Give steps or epochs, not both; got steps={steps} and epochs={epochs}.")
    if len(source) == 0 or batch < 1 or not seeds:
        raise DictionaryError(
            f"Training needs activations, a batch and a seed; got {len(source)}, {batch}, {seeds}."
        )
    batch = min(batch, len(source))
    per_epoch = batches_in(source, batch)
    if steps is None:
        steps = 2000 if epochs is None else max(1, round(epochs * per_epoch))
    where = torch.device(device) if device is not None else torch.device("cpu")
    peak = default_lr(n_latents) if lr is None else lr
    warmup = min(1000, steps // 20) if warmup is None else warmup
    if dead_after is None:
        dead_after = min(10_000_000, max(steps * batch // 10, batch))
    revival = None
    if dead_after:
        revival = Revival(dead_after, aux_weight, aux_k or max(1, min(source.width // 2, 512)))
    team = join()
    team.check(kind, batch)
    runs = [
        team.run(
            OBJECTIVES[kind](n_latents, k, sparsity, **kind_options),
            source.width,
            seed=one,
            revival=revival,
            precision=precision,
            device=where,
        )
        for one in seeds
    ]
    settings = {
        **runs[0].objective.to_settings(),
        "n_latents": n_latents, "width": source.width, "rows": len(source), "steps": steps, "batch": batch,
        "lr": peak, "warmup": warmup, "decay": decay, "seeds": seeds, "data_seed": data_seed, "center": center,
        "sparsity": sparsity, "dead_after": dead_after, "aux_weight": aux_weight, "aux_k": aux_k,
        "patience": patience, "precision": str(runs[0].dtype), "source": getattr(source, "fingerprint", None),
    }  # fmt: skip
    mean, scale, gamma = mean_and_scale(source, batch, data_seed)
    if not center:
        scale *= math.sqrt(1 + gamma**2)
        mean = torch.zeros_like(mean)
    mean = mean.to(where)

    file = None if checkpoint is None else Path(checkpoint) / CHECKPOINT_FILE
    watch = Watch(patience)
    with contextlib.ExitStack() as held:
        if file is not None and team.rank == 0:
            file.parent.mkdir(parents=True, exist_ok=True)
            held.enter_context(locked(file.parent / ".lock", f"training into {file.parent}", DictionaryError))
        if file is not None and file.exists():
            _resume(file, settings, runs, watch)
        with tqdm(
            total=steps,
            initial=runs[0].steps_done,
            disable=not progress or team.rank > 0,
            desc=f"{kind} SAE",
            unit="step",
        ) as bar:
            while runs[0].steps_done < steps and not watch.stopped:
                epoch, position = divmod(runs[0].steps_done, per_epoch)
                for acts_batch in source.shuffled(batch, data_seed, epoch, position):
                    x = acts_batch.to(where).sub(mean).div_(scale)
                    step = runs[0].steps_done
                    rate = learning_rate(step, steps, peak, warmup, decay)
                    if step == 0:
                        for run in runs:
                            run.calibrate(x)
                    figures = _stepped(runs, team.part(x), rate, file)
                    watch.note(figures)
                    if log is not None:
                        log({"step": step + 1, **figures[0]})
                    bar.update()
                    if step % 10 == 0:
                        shown = {name: f"{figures[0][name]:.4g}" for name in ("loss", "l0", "dead")}
                        bar.set_postfix(fvu=f"{watch.fvu[0]:.4f}", **shown, refresh=False)
                    done = step + 1 >= steps or watch.stopped
                    if file is not None and team.rank == 0 and (done or (step + 1) % checkpoint_every == 0):
                        _save(file, settings, runs, watch)
                    if done:
                        break

    site = site or getattr(source, "site", None)
    model_hash = model_hash or getattr(source, "model_hash", None)
    made = []
    for number, (one, run) in enumerate(zip(seeds, runs, strict=True)):
        info = {
            "seed": one,
            "training": {**settings, "seeds": [one]},
            "steps_done": run.steps_done,
            "gamma": gamma,
            "scale": scale,
            "fvu": watch.fvu[number],
            "l0": watch.l0[number],
            "dead": run.dead_share(),
        }
        core = {"site": None if site is None else str(site), "model_hash": model_hash, "info": info}
        made.append(folded(run, mean, scale, core))
    return made


def _stepped(runs: list[Run], x: Tensor, rate: float, file: Path | None) -> list[dict[str, float]]:
    """One step of every run; half of its batch would be another training, so too little memory is an error."""
    try:
        return [run.step(x, rate) for run in runs]
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        kept = "" if file is None or not file.exists() else f" The last checkpoint in {file.parent} is whole."
        raise DictionaryError(
            f"Memory did not suffice for a training step of {len(x):,} activations ({str(error)[:120]}). Give a "
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
        """Take in the figures of one step, one entry per run."""
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


def _resume(file: Path, settings: dict[str, Any], runs: Sequence[Run], watch: Watch) -> None:
    try:
        with safe_open(str(file), framework="pt") as opened:
            meta = opened.metadata() or {}
            parts = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (not a dict)
        if "digest" in meta and meta["digest"] != _digest(parts, meta):
            raise KeyError("its numbers are not those that were written")
        again = f"delete {file.parent} and train anew"
        if told := schema_complaint(file, int(meta["schema"]), CHECKPOINT_SCHEMA, again):
            raise DictionaryError(told)
        found, wanted = parse_json(meta["settings"]), json.loads(json.dumps(settings))
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
