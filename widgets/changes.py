"""Changes to latents: their factors, with undo and redo.

Owns the factors and their history. Ignores what follows from them. Start at `Changes`.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import traitlets as T

MAX_SCALE = 3.0
MAX_UNDO = 200
MAX_ALONE = 12  # changed latents up to which each is also measured by itself


class History(T.HasTraits):
    """Undo and redo: a subclass says what is kept (`_held`) and how to go to it (`_go_to`)."""

    can_undo = T.Bool(False)
    can_redo = T.Bool(False)

    def __init__(self, **traits: object) -> None:
        self._past: list[Any] = []
        self._future: list[Any] = []  # undone changes
        super().__init__(**traits)

    def _held(self) -> Any:
        raise NotImplementedError

    def _go_to(self, held: Any) -> None:
        raise NotImplementedError

    def undo(self) -> None:
        """Undo the last change; no effect without one."""
        if self._past:
            self._future.append(self._held())
            self._restore(self._past.pop())

    def redo(self) -> None:
        """Redo the change that was undone last; no effect without one."""
        if self._future:
            self._past.append(self._held())
            self._restore(self._future.pop())

    def _restore(self, held: Any) -> None:
        self.can_undo, self.can_redo = bool(self._past), bool(self._future)
        self._go_to(held)

    def _change_to(self, new: Any) -> None:
        """A change that can be undone."""
        self._past, self._future = [*self._past[-MAX_UNDO + 1 :], self._held()], []
        self._restore(new)

    def _start_at(self, new: Any) -> None:
        """Go there with nothing to undo."""
        self._past, self._future = [], []
        self._restore(new)


class Changes(History):
    """Factors by latent; a latent that is not listed is as it is."""

    scales: "T.Dict[int, float]" = T.Dict()

    def _held(self) -> dict[int, float]:
        return dict(self.scales)

    def _go_to(self, held: dict[int, float]) -> None:
        self.scales = held

    def scale(self, latent: int, factor: float) -> None:
        """Multiply a latent's activation by a factor in [0, 3]; 1 leaves it, 0 takes it out."""
        factor = float(factor)
        if not math.isfinite(factor):
            return
        factor = max(0.0, min(MAX_SCALE, factor))
        if self.scales.get(latent, 1.0) == factor:
            return
        changed = {j: f for j, f in self.scales.items() if j != latent}
        if factor != 1.0:
            changed[latent] = factor
        self._change_to(changed)

    def toggle(self, latent: int) -> None:
        """Switch a latent off, or back on."""
        self.scale(latent, 1.0 if self.scales.get(latent, 1.0) == 0 else 0.0)

    def reset(self) -> None:
        """Leave all latents as they are; can be undone."""
        if self.scales:
            self._change_to({})


def in_words(scales: Mapping[int, float], name: Callable[[int], str]) -> str:
    """Changes for captions: “off: fire · 12, sea · 40; sky · 7 ×0.5”.

    >>> in_words({12: 0.0, 7: 0.5}, lambda latent: f"latent {latent}")
    'off: latent 12; latent 7 ×0.5'
    """
    off = [name(j) for j, f in sorted(scales.items()) if f == 0]
    others = [f"{name(j)} ×{f:g}" for j, f in sorted(scales.items()) if f != 0]
    return "; ".join(([f"off: {', '.join(off)}"] if off else []) + others)


def what_if(desk: Any, measured: Any, scales: Mapping[int, float]) -> tuple[float, dict[int, float]]:
    """The target after these changes, and by latent how much each by itself would change it.

    The second is empty where there is one change alone, or where each would take a forward pass.
    """
    if not scales:
        return measured.y, {}
    after = desk.after(measured, scales)
    here = [j for j in scales if j in measured.alone]
    if not 2 <= len(here) <= MAX_ALONE:
        return after, {}
    return after, {j: desk.after(measured, {j: scales[j]}) - measured.y for j in here}
