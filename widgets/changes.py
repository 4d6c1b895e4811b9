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


class Changes(T.HasTraits):
    """Factors by latent; a latent that is not listed is as it is."""

    scales: "T.Dict[int, float]" = T.Dict()
    can_undo = T.Bool(False)
    can_redo = T.Bool(False)

    def __init__(self, **traits: object) -> None:
        self._past: list[dict[int, float]] = []
        self._future: list[dict[int, float]] = []  # undone changes
        super().__init__(**traits)

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
        self._remember()
        self.scales = changed

    def toggle(self, latent: int) -> None:
        """Switch a latent off, or back on."""
        self.scale(latent, 1.0 if self.scales.get(latent, 1.0) == 0 else 0.0)

    def undo(self) -> None:
        """Undo the last change to latents; no effect without one."""
        if self._past:
            self._future.append(dict(self.scales))
            self._go_to(self._past.pop())

    def redo(self) -> None:
        """Redo the change that was undone last; no effect without one."""
        if self._future:
            self._past.append(dict(self.scales))
            self._go_to(self._future.pop())

    def _go_to(self, scales: dict[int, float]) -> None:
        self.can_undo, self.can_redo = bool(self._past), bool(self._future)
        self.scales = scales

    def reset(self) -> None:
        """Leave all latents as they are; can be undone."""
        if self.scales:
            self._remember()
            self.scales = {}

    def _remember(self) -> None:
        self._past, self._future = [*self._past[-MAX_UNDO + 1 :], dict(self.scales)], []
        self.can_undo, self.can_redo = True, False

    def forget_changes(self) -> None:
        """All latents unchanged, and nothing to undo."""
        self._past, self._future, self.can_undo, self.can_redo, self.scales = [], [], False, False, {}


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
