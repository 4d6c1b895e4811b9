"""Parallel: one dictionary trained by several processes, each on its share of every batch.

Owns the exchange between processes: gradients are averaged, and records of which latents were active are combined.
Each process holds the whole dictionary, and all end with the same one. Start at `join`.

A process takes every n-th row of the global batch, so that the rows that revive dead latents, the first of a batch, are
the same as in a single process. Sums are computed in another order, so results agree to float tolerance only.
"""

from __future__ import annotations

import atexit
import os
from typing import Any

import torch
from torch import Tensor

from clipattr.dictionaries.trainer import Run
from clipattr.errors import DictionaryError

KINDS = (
    "topk",
    "nested",
)  # kinds in which each row selects its latents by itself; others select over the whole batch


class Alone:
    """One process: nothing to exchange."""

    rank, size = 0, 1
    run: Any = Run

    def part(self, x: Tensor) -> Tensor:
        """This process's rows of a batch."""
        return x

    def check(self, kind: str, batch: int) -> None:
        """Raise DictionaryError for what several processes cannot train together."""


class Team(Alone):
    """The processes of a `torch.distributed` group."""

    def __init__(self) -> None:
        self.rank, self.size = torch.distributed.get_rank(), torch.distributed.get_world_size()
        self.run = _SharedRun

    def part(self, x: Tensor) -> Tensor:
        return x[self.rank :: self.size].contiguous()

    def check(self, kind: str, batch: int) -> None:
        if kind not in KINDS:
            raise DictionaryError(
                f"Several processes train {', '.join(KINDS)} together; {kind!r} needs one process."
            )
        if batch % self.size:
            raise DictionaryError(
                f"A batch of {batch} cannot be divided evenly among {self.size} processes; use a multiple."
            )


def join() -> Alone:
    """The group of processes that `torchrun` started this one in, or a group of one.

    Uses gloo on CPUs. With `torchrun --nproc-per-node 2 -m clipattr.cli train STORE --out DIR …`, each process reads
    the same store, and the first one writes checkpoints and the result.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return Alone()
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo")
        atexit.register(_leave)
    return Team()


def _leave() -> None:
    """Close the group before the interpreter ends.

    An open group leaves its threads running, which aborts a process that ends; `torchrun` then stops the others, even
    while the first one saves. There is no barrier: after an error in one process, it would wait for ever.
    """
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


class _SharedRun(Run):
    """A run whose step covers the global batch: its own rows, and the gradients of the other processes."""

    in_order = True  # all processes must exchange the same slice at the same time

    def step(self, x: Tensor, lr: float) -> dict[str, float]:
        before = self.tokens_since_active.clone()
        figures = super().step(x, lr)
        # 0 where a latent was just active, in this process or another.
        torch.distributed.all_reduce(self.tokens_since_active, torch.distributed.ReduceOp.MIN)
        size = torch.distributed.get_world_size()
        silent = before + len(x) * size
        self.tokens_since_active.copy_(torch.where(self.tokens_since_active == 0, 0, silent))
        shared = torch.tensor([figures[name] for name in ("loss", "l0", "aux")], dtype=torch.float64)
        torch.distributed.all_reduce(shared)
        loss, l0, aux = (shared / size).tolist()
        return {"loss": loss, "l0": l0, "dead": self.dead_share(), "aux": aux}

    def _adam(self, name: str, gradient: Tensor, lr: float, rows: slice = slice(None)) -> None:
        torch.distributed.all_reduce(gradient)
        super()._adam(name, gradient.div_(torch.distributed.get_world_size()), lr, rows)
