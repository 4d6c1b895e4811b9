"""Sites: where in a model activations are read and replaced.

Owns every hook. The written form of a place is in models/places.py, what a tower consists of in models/towers.py, what
follows its last block in models/tails.py. All other modules ask for activations here, or hand them back. Ignores
dictionaries and targets.
Start at `activations` for reading, `replace` for intervening, `continue_from` for gradients.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from clipattr.errors import SiteError
from clipattr.models.loading import Model
from clipattr.models.places import Site
from clipattr.models.tower import Tower


class Captured(dict[Site, Tensor]):
    """Activations by site, of the latest forward pass; a site may be given in any of its spellings."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self._model = model

    def _held(self, site: object) -> Site | None:
        """The spelling under which a place is held, None if it is not."""
        if not isinstance(site, str | Site):
            return None
        asked = Site(site)
        if super().__contains__(asked):
            return asked
        return next((held for held in self if held.is_same(asked, self._model)), None)

    def __contains__(self, site: object) -> bool:
        return self._held(site) is not None

    def __getitem__(self, site: str | Site) -> Tensor:
        held_as = self._held(site)
        if held_as is None:
            held = ", ".join(map(str, self)) or "none: no picture was encoded inside the with block"
            raise SiteError(f"There are no activations for {Site(site)}; held are {held}.")
        return super().__getitem__(held_as)


@contextmanager
def capture(model: Model, *sites: str | Site) -> Iterator[Captured]:
    """Record activations while this thread encodes pictures; hooks go when the block is left, however that
    happens.

    `with capture(model, "image.-1.cls") as acts: model.encode_image(pixels)`, then `acts["image.-1.cls"]`:
    (batch, width) for `cls` and the embedding, (batch, tokens, width) for `patches` and `all`. A `capture` inside a
    `replace` sees what was put in; around it, what was there before.

    Raises:
        SiteError: a site does not exist in this model.
    """
    wanted = [_Place(model, site) for site in map(Site, sites)]
    acts = Captured(model)

    def keep(place: _Place) -> Callable:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            # A copy, since a view of one token would keep all of them in memory.
            acts[place.site] = place.read(output).clone()

        return hook

    with _hooks([(place.module, keep(place)) for place in wanted]):
        yield acts


@contextmanager
def replace(model: Model, site: str | Site, value: Tensor | Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Put other activations in at a site while this thread encodes pictures; the hook goes with the block.

    Args:
        value: what to put in, or a function of what is there. Shape (batch, width) for `cls` and the embedding,
            (batch, tokens, width) otherwise, cast to the model's dtype. The activation itself leaves the output bit
            for bit as it was; a tensor that requires a gradient gets one, and may change the output in its last
            digit, since torch then takes another attention kernel.

    Raises:
        SiteError: the site does not exist in this model, or (on encoding) the shape does not fit.
    """
    place = _Place(model, Site(site))

    def hook(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        old = place.read(output)
        new = value if isinstance(value, Tensor) else value(old)
        return place.write(output, _fitting(new, old, place.site))

    with _hooks([(place.module, hook)]):
        yield


class _Reached(Exception):
    """Ends a forward pass at the block that was asked for."""


def activations(model: Model, pixels: Tensor, site: str | Site) -> Tensor:
    """Activations of pictures at one site; later blocks are not computed, nor anything that follows the tower.

    Args:
        pixels: (batch, 3, H, W), prepared by `model.prepare`.

    Returns:
        (batch, width) for `cls` and the embedding, (batch, tokens, width) for `patches` and `all`, in the model's
        dtype.

    Raises:
        SiteError: the site does not exist in this model. ModelError: the pixels do not fit.
    """
    place = _Place(model, Site(site))
    found: list[Tensor] = []

    def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
        found.append(place.read(output).clone())
        raise _Reached

    with _hooks([(place.module, hook)]), suppress(_Reached):
        model.encode_image(pixels)
    return found[0]


def continue_from(model: Model, site: str | Site, acts: Tensor, context: Tensor | None = None) -> Tensor:
    """Run the image tower from a site to the embedding, differentiably in `acts`; earlier blocks are not
    computed.

    Args:
        acts: (batch, width) for `cls` and the embedding, (batch, tokens, width) otherwise.
        context: (batch, tokens, width), the `all` activations at the same block, which give the tokens that
            `acts` does not. Needed wherever the other tokens still take part (`Site.needs_context`).

    Returns:
        (batch, embed), unit length, at least float32.

    Raises:
        SiteError: a shape does not fit, `context` is missing, or what the site holds cannot reach the
            embedding (patch tokens after the last block of a tower that pools by its class token).
    """
    site = Site(site)
    site.require_reach(model)
    _check_shape(acts, (*acts.shape[:1], *site.shape(model)), site, "acts")
    return model.unit(features_from(model, site, acts, context))


def features_from(model: Model, site: str | Site, acts: Tensor, context: Tensor | None = None) -> Tensor:
    """As `continue_from`, to the features before they are normalised, (batch, embed) in the model's dtype."""
    site = Site(site)
    acts = acts.to(model.device, model.dtype)
    if site.is_embedding:
        return acts
    tower, index = model.image_tower, site.index(model)
    if not site.needs_context(model):
        return tower.run(_alone(acts, site, tower), index)
    if context is None:
        raise SiteError(
            f"{site}: {len(tower.blocks) - 1 - index} block(s) follow, then pooling by {tower.pooling}, in which the "
            f"other tokens take part; pass context=, the activations at image.{site.block}.all."
        )
    _check_shape(context, (len(acts), model.image_tokens, model.image_width), site, "context")
    context = context.to(model.device, model.dtype)
    if site.tokens == "cls" and tower.reads_next(index):
        return tower.read_versions(acts[:, None], context)
    return tower.run(_write(context, site, acts, tower), index)


def versions_from(model: Model, site: str | Site, acts: Tensor, context: Tensor) -> Tensor | None:
    """As `continue_from` for several versions of each picture's class token; what they share is computed once.

    Args:
        acts: (batch, versions, width). context: (batch, tokens, width), as for `continue_from`.

    Returns:
        (batch, versions, embed), unit length; None where more than one block follows or it mixes the versions, so
        that nothing is shared.
    """
    site = Site(site)
    if site.tokens != "cls":
        return None
    tower = model.image_tower
    if not tower.reads_next(site.index(model)):
        return None
    features = tower.read_versions(acts.to(model.device, model.dtype), context.to(model.device, model.dtype))
    return model.unit(features).view(*acts.shape[:2], -1)


def _alone(acts: Tensor, site: Site, tower: Tower) -> Tensor:
    """The stream where no other token takes part: the class token by itself, or patches behind empty tokens."""
    if site.tokens == "cls":
        return acts[:, None]
    if site.tokens == "all" or not tower.prefix:
        return acts
    return torch.cat([acts.new_zeros(len(acts), tower.prefix, acts.shape[2]), acts], dim=1)


class _Place:
    """A site in one model: the module whose output holds it, and how to read and write it there."""

    def __init__(self, model: Model, site: Site) -> None:
        self.model, self.site = model, site
        self.tower: Tower | None = None
        if site.is_embedding:
            site.require_image()
            self.module: nn.Module = model.visual
        else:
            self.module = model.image_blocks_modules[site.index(model)]
            self.tower = model.image_tower

    def read(self, output: Any) -> Tensor:
        """The activations, (batch, width) or (batch, tokens, width)."""
        if self.tower is None:
            # Towers of generative models put out (features, tokens).
            return output[0] if isinstance(output, tuple) else output
        return self.site.read(_batch_first(output, self.tower), self.model)

    def write(self, output: Any, acts: Tensor) -> Any:
        """The module's output with other activations in it."""
        if self.tower is None:
            return (acts, *output[1:]) if isinstance(output, tuple) else acts
        return _batch_first(_write(_batch_first(output, self.tower), self.site, acts, self.tower), self.tower)


def _batch_first(stream: Tensor, tower: Tower) -> Tensor:
    """Between the tower's own order and (batch, tokens, width), either way."""
    return stream if tower.batch_first else stream.transpose(0, 1)


def _write(stream: Tensor, site: Site, acts: Tensor, tower: Tower) -> Tensor:
    """(batch, tokens, width) with the site's tokens exchanged; the stream itself stays as it is."""
    if site.tokens == "cls":
        return torch.cat([acts[:, None], stream[:, 1:]], dim=1)
    return torch.cat([stream[:, : tower.prefix], acts], dim=1) if site.tokens == "patches" else acts


def _fitting(new: Any, old: Tensor, site: Site) -> Tensor:
    if not isinstance(new, Tensor):
        raise SiteError(f"{site}: what is put in must be a tensor; got {type(new).__name__}.")
    _check_shape(new, tuple(old.shape), site, "the replacement")
    return new.to(old.device, old.dtype)


def _check_shape(tensor: Tensor, expected: tuple[int, ...], site: Site, what: str) -> None:
    if tuple(tensor.shape) != expected:
        raise SiteError(f"{site}: {what} must have shape {expected}; got {tuple(tensor.shape)}.")


@contextmanager
def _hooks(hooks: list[tuple[nn.Module, Callable]]) -> Iterator[None]:
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


__all__ = [
    "Captured",
    "Site",
    "activations",
    "capture",
    "continue_from",
    "features_from",
    "replace",
    "versions_from",
]
