"""Engines: run a function over items, in this process or on other machines.

Owns the interface of an engine, which returns results in the order of the items so that sums and files have the same
bytes everywhere, and the halving of a batch that does not fit into memory. Ignores what is computed. Start at `Engine`;
the engine for a cluster is in `ray.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from clipattr.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

Part = TypeVar("Part")


class Engine(Protocol):
    """Runs a function over items. The function is a module-level function of (shared, item); both must be picklable.

    Attributes:
        at_once: whether one call may take all items of a stage, because it runs in this process anyway.
    """

    at_once: bool

    def map(self, function: Callable[[Any, Any], Any], shared: Any, items: Sequence[Any]) -> Iterator[Any]:
        """`function(shared, item)` for every item, in the order of the items."""
        ...


class Here:
    """Runs the items one after the other in this process."""

    at_once = True

    def map(self, function: Callable[[Any, Any], Any], shared: Any, items: Sequence[Any]) -> Iterator[Any]:
        for item in items:
            yield function(shared, item)


def in_halves(work: Callable[[slice], Part], size: int) -> tuple[list[Part], int | None]:
    """Apply `work` to a batch, in halves, quarters and so on if memory does not suffice for the whole.

    Args:
        work: function of a slice of the batch. size: of the batch.

    Returns:
        the results for the pieces, in order, and the size of the smallest piece (None: the batch was not divided).

    Raises:
        Any error of `work`; its memory error if even one item does not fit.
    """
    made: list[Part] = []
    left, smallest = [(0, size)], None
    while left:
        start, stop = left.pop()
        try:
            made.append(work(slice(start, stop)))
            continue
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error) or stop - start == 1:
                raise
        # Outside the handler, whose traceback would keep the memory allocated.
        middle = start - (start - stop) // 2
        smallest = min(middle - start, smallest or size)
        left += [(middle, stop), (start, middle)]
    return made, smallest


def in_pieces(encode: Callable[[Tensor], Tensor], pixels: Tensor) -> Tensor:
    """`encode` of prepared pictures (batch, 3, H, W), in halves where memory does not suffice for all.

    Raises:
        DataError: memory does not suffice for one picture. Any other error of `encode`.
    """
    import torch

    try:
        made, _ = in_halves(lambda some: encode(pixels[some]), len(pixels))
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise DataError(
            f"Memory does not suffice for a forward pass of a single picture ({str(error)[:200]}). End other programs, "
            'take device="cpu", or a machine with more memory.'
        ) from error
    return torch.cat(made)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error reports lack of memory, on any device."""
    said = str(error).lower()
    return isinstance(error, MemoryError) or any(
        phrase in said for phrase in ("out of memory", "can't allocate memory", "not enough memory")
    )
