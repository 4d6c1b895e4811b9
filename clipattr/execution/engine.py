"""Tasks: the same work, item by item, done here or wherever an engine sends it.

Owns the order of results, which is that of the items whoever computed them, so that sums and files come out the same
bytes; and smaller helpings where memory does not suffice for a whole one. Ignores what is computed. Start at `Engine`;
`ray.py` has the one that uses a cluster.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

Part = TypeVar("Part")


class Engine(Protocol):
    """Runs a function over items. Functions live in modules and take (shared, item); both must be picklable.

    at_once: whether one call may take all items of a stage at once, because it would run here anyway.
    """

    at_once: bool

    def map(self, function: Callable[[Any, Any], Any], shared: Any, items: Sequence[Any]) -> Iterator[Any]:
        """`function(shared, item)` for every item, in the order of the items."""
        ...


class Here:
    """One after the other in this process."""

    at_once = True

    def map(self, function: Callable[[Any, Any], Any], shared: Any, items: Sequence[Any]) -> Iterator[Any]:
        for item in items:
            yield function(shared, item)


def in_halves(work: Callable[[slice], Part], size: int) -> tuple[list[Part], int | None]:
    """`work` on a batch, in one piece if memory suffices for it, else in halves, quarters and so on.

    Args:
        work: takes a slice of the batch. size: of the batch.

    Returns:
        what `work` made of the pieces, in order, and the size of the smallest piece, None for the batch in one piece.

    Raises:
        What `work` raises; its own memory error where not even one item fits.
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
        # Outside the handler, whose traceback would hold on to the memory.
        middle = start - (start - stop) // 2
        smallest = min(middle - start, smallest or size)
        left += [(middle, stop), (start, middle)]
    return made, smallest


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on whatever device."""
    said = str(error).lower()
    return isinstance(error, MemoryError) or any(
        phrase in said for phrase in ("out of memory", "can't allocate memory", "not enough memory")
    )
