"""Hooks: forward hooks that act in one thread and never stay behind.

Owns the context manager that sets them. Start at `hooked`.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import nn


class Reached(Exception):
    """Ends a forward pass at the block that was asked for."""


@contextmanager
def hooked(hooks: list[tuple[nn.Module, Callable]]) -> Iterator[None]:
    """Forward hooks that act in this thread only and are gone afterwards, whatever happens in between.

    A panel may encode in the background while a cell reads activations of the same model; each must see only
    its own hooks, all the more since `activations` ends the pass that it is in.
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
