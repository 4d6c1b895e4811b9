"""Tasks: the same work, item by item, done here or wherever an engine sends it.

Owns the order of results, which is that of the items whoever computed them, so that sums and files come out the same
bytes. Ignores what is computed. Start at `Engine`; `scale.py` has the one that uses a cluster.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol


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
