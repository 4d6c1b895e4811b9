"""Methods: what each latent is credited with, all behind one interface, and the list of them.

A method is a function of a `Splice` that returns (batch, parts, n) in the unit of the targets. Owns the list, the
first-order and the exact method and the baselines they are compared with; path and sampling methods live in
`paths.py`. To add one of your own:

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
        name: how callers ask for it.
        function: a `Splice` to (batch, parts, n).
        adds_up: its values sum to `y(x) - y(all parts at their baseline)`, so that a waterfall may be drawn.
        in_unit: its values are in the unit of the target; else they only rank (energy, logit lens, random).
        control: a baseline that others are compared with, and no answer to anything.
    """

    name: str
    function: Callable[[Splice], Tensor]
    adds_up: bool = False
    in_unit: bool = True
    control: bool = False

    @property
    def about(self) -> str:
        """What it does, in one line."""
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
    """Decorator: put a method on the list, where `attribute` and every benchmark find it."""

    def register(function: Callable[[Splice], Tensor]) -> Callable[[Splice], Tensor]:
        METHODS[name] = Method(name, function, adds_up, in_unit, control)
        return function

    return register


def find_method(method: "str | Method | Callable[[Splice], Tensor] | None", splice: Splice) -> Method:
    """What a caller means by a method: a name on the list, a function, or None for the default of the splice.

    The default is exact ablation where the tail is closed form, attribution patching elsewhere.

    Raises:
        TargetError: an unknown name; the list is in the message.
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
    """Each direction alone through what follows the last block, read by the target: (batch, parts, n).

    Depends on the picture only through which latents are active. At earlier sites the blocks between are skipped, as
    the logit lens does.
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
    """Unit-length embeddings of directions (rows, width), each at every token that is pooled."""
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
    """Logit lens over the active latents: how the target reads each direction alone, turned round where the code is
    below its baseline (a neuron at -1 points the other way)."""
    return lens(splice) * splice.changes.sign()[..., None].to(splice.dtype)


@register_method("act_logit_lens", in_unit=False)
def act_logit_lens(splice: Splice) -> Tensor:
    """Activation times logit lens."""
    return lens(splice) * splice.changes[..., None].to(splice.dtype)


@register_method("energy", in_unit=False, control=True)
def energy(splice: Splice) -> Tensor:
    """|change| · |v|: how strongly a latent is there, the same for every target."""
    lengths = splice.decoder.norm(dim=1)[splice.indices]
    return (splice.changes.abs() * lengths)[..., None].expand(-1, -1, splice.n_targets).clone()


@register_method("random", in_unit=False, control=True)
def random(splice: Splice) -> Tensor:
    """Standard normal numbers, the same in every run: what a measure gives to ignorance."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(splice.batch, splice.parts, splice.n_targets, generator=generator)
    return noise.to(splice.amounts) * (splice.changes != 0)[..., None]
