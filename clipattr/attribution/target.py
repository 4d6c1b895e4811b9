"""A target: numbers read off the unit-length embedding, each with a name and a unit.

Owns the interface that methods and tails use: values, and for linear targets `(w, c)` of `y = <e, w> + c`. The kinds
of targets are in `targets.py`. Start at `Target`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from clipattr.attribution.prompts import Prompts, embed_prompts


class Target(ABC):
    """Something to attribute: `n` numbers per picture, each with a name and a unit."""

    names: list[str]
    unit: str = "cosine"
    templates: tuple[str, ...] = ("{}",)
    _memo: tuple[Any, dict[str, Tensor]] | None = None

    def __len__(self) -> int:
        return len(self.names)

    @property
    def units(self) -> list[str]:
        """The unit of every target."""
        return [self.unit] * len(self)

    @property
    def subjects(self) -> list[str | None]:
        """The prompt of each target, for the alignment of latents with it; None for targets without a prompt."""
        return [None] * len(self)

    def __repr__(self) -> str:
        shown = ", ".join(self.names[:3]) + (f", … {len(self)} in all" if len(self) > 3 else "")
        return f"{type(self).__name__}({shown})"

    @property
    def is_linear(self) -> bool:
        """True where `y = <e, w> + c` holds exactly, so that closed forms apply."""
        return isinstance(self, LinearTarget)

    def _once(self, part: str, model: Any, make: Callable[[], Tensor]) -> Tensor:
        """Cached result of `make` for one model: batches and backward passes need the same embeddings repeatedly."""
        if self._memo is None or self._memo[0] is not model:
            self._memo = (model, {})
        held = self._memo[1]
        if part not in held:
            held[part] = make()
        return held[part]

    def _embedded(self, part: str, prompts: Prompts, model: Any) -> Tensor:
        return self._once(part, model, lambda: embed_prompts(prompts, model, self.templates))

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_memo"}

    @abstractmethod
    def values(self, embeddings: Tensor, model: Any) -> Tensor:
        """The targets of unit-length embeddings, differentiably: (batch, embed) to (batch, n), in `unit`.

        Raises:
            TargetError: the target cannot be computed with this model or these embeddings.
        """


class LinearTarget(Target):
    """A target of the form `y = <e, w> + c`."""

    @abstractmethod
    def linear(self, model: Any) -> tuple[Tensor, Tensor]:
        """Weights (embed, n) and constants (n,) of the target for one model.

        Raises:
            TargetError: the target does not fit the model, or is zero everywhere.
        """

    def values(self, embeddings: Tensor, model: Any) -> Tensor:
        weights, constants = self.linear(model)
        return embeddings @ weights.to(embeddings) + constants.to(embeddings)


class Together(Target):
    """Several targets as one, in the order given. Linear if all of them are (see `as_target`)."""

    def __init__(self, targets: Sequence[Target]) -> None:
        self.targets = list(targets)
        self.names = [name for target in self.targets for name in target.names]
        units = {target.unit for target in self.targets}
        self.unit = units.pop() if len(units) == 1 else "mixed"

    @property
    def units(self) -> list[str]:
        return [unit for target in self.targets for unit in target.units]

    @property
    def subjects(self) -> list[str | None]:
        return [subject for target in self.targets for subject in target.subjects]

    def values(self, embeddings: Tensor, model: Any) -> Tensor:
        return torch.cat([target.values(embeddings, model) for target in self.targets], dim=-1)


class LinearTogether(Together, LinearTarget):
    """Several linear targets as one linear target."""

    def linear(self, model: Any) -> tuple[Tensor, Tensor]:
        parts = [target.linear(model) for target in self.targets if isinstance(target, LinearTarget)]
        return torch.cat([w for w, _ in parts], dim=1), torch.cat([c for _, c in parts])
