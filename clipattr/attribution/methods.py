"""Attribution methods behind one interface, and their registry.

A method is a function of a `Splice` that returns (batch, parts, n) in the unit of the targets. Owns the registry, the
first-order and the exact method, and the baselines; path and sampling methods are in `paths.py`. To add a method:

    @register_method("halved")
    def halved(splice):
        return 0.5 * splice.changes[..., None] * splice.slopes()

Start at `METHODS`. Source of patching and of the baselines: Dreyer et al. 2025, arXiv:2505.20229.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from clipattr.attribution.splice import Splice
from clipattr.errors import TargetError


@dataclass(frozen=True)
class Method:
    """A registered method.

    Args:
        name: the key in `METHODS`.
        function: a `Splice` to (batch, parts, n).
        adds_up: its values sum to `y(x) - y(all parts at their baseline)`, as a waterfall needs.
        in_unit: its values are in the unit of the target; False for methods that only rank latents.
        control: a baseline for comparisons, not an explanation.
    """

    name: str
    function: Callable[[Splice], Tensor]
    adds_up: bool = False
    in_unit: bool = True
    control: bool = False

    @property
    def about(self) -> str:
        """First line of the function's docstring."""
        return (self.function.__doc__ or "").strip().split("\n")[0]

    def __call__(self, splice: Splice) -> Tensor:
        result = self.function(splice)
        expected = (splice.batch, splice.parts, splice.n_targets)
        if not isinstance(result, Tensor) or tuple(result.shape) != expected:
            got = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
            raise TargetError(
                f"the method {self.name!r} must return (batch, parts, targets) = {expected}; got {got}."
            )
        return result.detach()


METHODS: dict[str, Method] = {}


def register_method(
    name: str, *, adds_up: bool = False, in_unit: bool = True, control: bool = False
) -> Callable[[Callable[[Splice], Tensor]], Callable[[Splice], Tensor]]:
    """Decorator that adds an attribution method to `METHODS`.

    Args:
        name: the key that `attribute(..., method=name)` uses; an existing method of this name is replaced.
        adds_up, in_unit, control: see `Method`.

    Returns:
        A decorator of functions from a `Splice` to values (batch, parts, targets); it returns the function unchanged.

    Raises:
        TargetError: on use, a function that returns another shape.

    >>> import clipattr as ca
    >>> @ca.register_method("halved")
    ... def halved(splice):
    ...     return 0.5 * splice.changes[..., None] * splice.slopes()
    >>> study = ca.open_study("picture-world")
    >>> ca.attribute(study, study.images[0], "guitar", method="halved").method
    'halved'
    >>> del ca.METHODS["halved"]
    """

    def register(function: Callable[[Splice], Tensor]) -> Callable[[Splice], Tensor]:
        METHODS[name] = Method(name, function, adds_up, in_unit, control)
        return function

    return register


def find_method(method: "str | Method | Callable[[Splice], Tensor] | None", splice: Splice) -> Method:
    """A method by name, a function as a method, or for None the default of the splice.

    The default is exact ablation where the tail has a closed form, attribution patching elsewhere.

    Raises:
        TargetError: an unknown name; the message lists the known ones.
    """
    if method is None:
        method = "exact" if splice.is_closed_form else "patching"
    if isinstance(method, Method):
        return method
    if isinstance(method, str):
        if method not in METHODS:
            raise TargetError(f"there is no method {method!r}; there are {', '.join(METHODS)}.")
        return METHODS[method]
    return Method(getattr(method, "__name__", "custom"), method)


@register_method("patching")
def patching(splice: Splice) -> Tensor:
    """Attribution patching: (code - baseline) · <dy/dx, v>. First order; no completeness is claimed."""
    return splice.slopes() * splice.changes[..., None].to(splice.dtype)


@register_method("exact")
def exact(splice: Splice) -> Tensor:
    """Exact single-latent ablation: y(x) - y(x with this code at its baseline)."""
    return splice.ablated()


def lens(splice: Splice) -> Tensor:
    """Logit lens of each active latent: the target of its direction after the final LayerNorm and projection.

    Returns (batch, parts, n), which depends on the picture only through the set of active latents. Blocks after the
    site are skipped.
    """
    model = splice.model
    active, places = splice.indices.unique(return_inverse=True)
    rows = splice.decoder[active].to(model.dtype)
    with torch.no_grad():
        read = splice.read(torch.cat([_alone(splice, part) for part in rows.split(4096)]))
    if splice.target.is_linear:
        read = read - splice.read(read.new_zeros(1, model.embed_dim))  # constants belong to no latent
    return read[places].to(splice.dtype)


def _alone(splice: Splice, directions: Tensor) -> Tensor:
    """Unit-length embeddings of directions (rows, width), each placed at all pooled tokens."""
    model = splice.model
    if splice.site.is_embedding:
        return model.unit(directions)
    if splice.site.is_text:
        tail = model.text_tower.tail()
        if tail is None:
            raise TargetError(
                f"the logit lens at {splice.site} needs a closed form behind the last block, which the text tower of "
                f"{model.reference} does not have. Use method='patching' or 'exact'."
            )
        return model.unit(tail.features(directions))
    # A mean, or attention over equal tokens, returns the direction itself.
    tower = model.image_tower
    return model.unit(tower.finish(directions[:, None].expand(-1, tower.prefix + 1, -1)))


@register_method("logit_lens", in_unit=False)
def logit_lens(splice: Splice) -> Tensor:
    """Logit lens: the target of each active latent's direction, negated where the code is below its baseline."""
    return lens(splice) * splice.changes.sign()[..., None].to(splice.dtype)


@register_method("act_logit_lens", in_unit=False)
def act_logit_lens(splice: Splice) -> Tensor:
    """Activation times logit lens."""
    return lens(splice) * splice.changes[..., None].to(splice.dtype)


@register_method("energy", in_unit=False, control=True)
def energy(splice: Splice) -> Tensor:
    """|change| · |v|, the size of a latent's contribution to the activation; the same for every target."""
    lengths = splice.decoder.norm(dim=1)[splice.indices]
    return (splice.changes.abs() * lengths)[..., None].expand(-1, -1, splice.n_targets).clone()


@register_method("random", in_unit=False, control=True)
def random(splice: Splice) -> Tensor:
    """Standard normal numbers from a fixed seed: the chance level of a faithfulness measure."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(splice.batch, splice.parts, splice.n_targets, generator=generator)
    return noise.to(splice.amounts) * (splice.changes != 0)[..., None]
