"""Surroundings: the caller's settings of torch and NumPy, which must not change or break a result.

Owns default dtype, default device, autocast and NumPy's handling of errors while one of our functions runs. Ignores
what the functions compute. Start at `unaffected`.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import ParamSpec, TypeVar

import numpy as np
import torch

P = ParamSpec("P")
R = TypeVar("R")


def unaffected(function: Callable[P, R]) -> Callable[P, R]:
    """The same function, run in `usual_surroundings`."""

    @functools.wraps(function)
    def inside(*args: P.args, **options: P.kwargs) -> R:
        with usual_surroundings():
            return function(*args, **options)

    return inside


@contextlib.contextmanager
def usual_surroundings() -> Iterator[None]:
    """Torch's and NumPy's own defaults: float32 on the CPU, no autocast, no inference mode, underflow ignored."""
    with contextlib.ExitStack() as held:
        held.enter_context(np.errstate(divide="warn", over="warn", under="ignore", invalid="warn"))
        if torch.is_inference_mode_enabled():  # its tensors take no part in gradients, here or later
            held.enter_context(torch.inference_mode(False))
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                held.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":  # a mode: it costs time on every call of torch
            held.enter_context(torch.device("cpu"))
        if (dtype := torch.get_default_dtype()) != torch.float32:
            held.callback(torch.set_default_dtype, dtype)
            torch.set_default_dtype(torch.float32)
        yield
