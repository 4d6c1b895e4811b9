"""Hooks: forward hooks that act in one thread and are always removed.

Owns the context manager that sets them. Start at `hooked`.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import nn


class Reached(Exception):
    """Stops a forward pass at a requested block."""


@contextmanager
def hooked(hooks: list[tuple[nn.Module, Callable]]) -> Iterator[None]:
    """Context with forward hooks that act in this thread only and are removed on exit, also after errors.

    A panel may encode in the background while a cell reads activations of the same model; each must see only its own
    hooks, as `activations` stops the forward pass it is in.
    """
    owner = threading.get_ident()

    def own(hook: Callable) -> Callable:
        return lambda *given: hook(*given) if threading.get_ident() == owner else None

    handles = []
    try:
        for module, hook in hooks:
            handles.append(module.register_forward_hook(own(hook)))
        yield
    finally:
        for handle in handles:
            handle.remove()
