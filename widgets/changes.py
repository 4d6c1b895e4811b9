"""Changes to latents: which are scaled by how much, and how to take that back.

Owns the factors and their history. Ignores what follows from them. Start at `Changes`.
"""

import math

import traitlets as T

MAX_SCALE = 3.0
MAX_UNDO = 200


class Changes(T.HasTraits):
    """Factors by latent; a latent that is not listed is as it is."""

    scales: "T.Dict[int, float]" = T.Dict()
    can_undo = T.Bool(False)

    def __init__(self, **traits: object) -> None:
        self._past: list[dict[int, float]] = []
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
        """Take back the last change to latents; nothing to take back changes nothing."""
        if self._past:
            scales = self._past.pop()
            self.can_undo = bool(self._past)
            self.scales = scales

    def reset(self) -> None:
        """Leave all latents as they are; can be undone."""
        if self.scales:
            self._remember()
            self.scales = {}

    def _remember(self) -> None:
        self._past = [*self._past[-MAX_UNDO + 1 :], dict(self.scales)]
        self.can_undo = True

    def forget_changes(self) -> None:
        """All latents as they are, and nothing to take back."""
        self._past, self.can_undo, self.scales = [], False, {}


def in_words(scales: dict[int, float]) -> str:
    """Changes for captions: “off: latent 12, 40; latent 7 ×0.5”."""
    off = [str(j) for j, f in sorted(scales.items()) if f == 0]
    others = [f"latent {j} ×{f:g}" for j, f in sorted(scales.items()) if f != 0]
    return "; ".join(([f"off: latent {', '.join(off)}"] if off else []) + others)
