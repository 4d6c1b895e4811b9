"""Sites: where in a model activations are read and replaced.

Owns every hook. The written form of a place is in models/places.py, what a tower consists of in models/towers.py and
models/text_tower.py, what follows its last block in models/tails.py. Image sites take prepared pixels, text sites
texts. All other modules ask for activations here, or hand them back. Ignores dictionaries and targets.
Start at `activations` for reading, `replace` for intervening, `continue_from` for gradients.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from clipattr.errors import SiteError
from clipattr.models.hooks import Reached, hooked
from clipattr.models.loading import Model
from clipattr.models.places import Site
from clipattr.models.streams import Inside, continued, frame_streams, inside, tap
from clipattr.models.text import TEXT_BATCH
from clipattr.models.text_places import TextPlace, text_acts, text_ids
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
    """Record activations while this thread encodes pictures or texts; hooks go when the block is left, however
    that happens.

    `with capture(model, "image.-1.cls") as acts: model.encode_image(pixels)`, then `acts["image.-1.cls"]`:
    (batch, width) for `cls`, `eot` and the embeddings, (batch, tokens, width) for others. A `capture` inside a
    `replace` sees what was put in; around it, what was there before.

    Raises:
        SiteError: a site does not exist in this model.
    """
    acts = Captured(model)

    def keep(place: _Place | TextPlace) -> list[tuple[nn.Module, Callable]]:
        def hook(_module: nn.Module, inputs: Any, output: Any) -> None:
            # A copy, since a view of one token would keep all of them in memory.
            acts[place.site] = place.read(inputs, output).clone()

        return [*place.before, (place.module, hook)]

    with hooked([hook for site in map(Site, sites) for hook in keep(_place(model, site))]):
        yield acts


@contextmanager
def replace(model: Model, site: str | Site, value: Tensor | Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Put other activations in at a site while this thread encodes pictures or texts; the hook goes with the block.

    Args:
        value: what to put in, or a function of what is there. Shape (batch, width) for `cls` and the embedding,
            (batch, tokens, width) otherwise, cast to the model's dtype. The activation itself leaves the output bit
            for bit as it was; a tensor that requires a gradient gets one, and may change the output in its last
            digit, since torch then takes another attention kernel.

    Raises:
        SiteError: the site does not exist in this model, or (on encoding) the shape does not fit.
    """
    site = Site(site)
    place = _place(model, site)
    mid: list[Any] = []

    def changed(inputs: Any, output: Any) -> Any:
        old = place.read(inputs, output)
        new = value if isinstance(value, Tensor) else value(old)
        return place.write(inputs, output, _fitting(new, old, site))

    if site.stream != "resid_mid":
        change = (place.module, lambda _module, inputs, output: changed(inputs, output))
        with hooked([*place.before, change]):
            yield
        return
    assert isinstance(place, _Place)
    # The block uses resid_mid twice and hands it to no module as an output: take it where it enters the LayerNorm,
    # and compute the rest of the block again.
    parts = place.parts
    assert isinstance(parts, Inside)

    def keep(_module: nn.Module, inputs: Any, output: Tensor) -> None:
        mid[:] = [(inputs, output)]

    def again(_module: nn.Module, _inputs: Any, _output: Tensor) -> Tensor:
        return parts.finish(changed(*mid.pop()))

    with hooked([(place.module, keep), (parts.block, again)]):
        yield


def activations(model: Model, inputs: Tensor | Sequence[str], site: str | Site) -> Tensor:
    """Activations of pictures or texts at one site; later blocks are not computed, nor what follows the tower.

    Args:
        inputs: pictures, (batch, 3, H, W), prepared by `model.prepare`; at sites of the text tower texts, or their
            token ids from `model.tokens`.

    Returns:
        (batch, width) for `cls`, `eot` and the embeddings, (batch, tokens, width) for others, in the model's dtype.

    Raises:
        SiteError: the site does not exist in this model, or takes texts where pictures were given or the other way
            round. ModelError: the pixels do not fit.
    """
    site = Site(site)
    if site.is_text:
        with torch.no_grad():
            parts = [text_acts(model, part, site) for part in text_ids(model, inputs, site).split(TEXT_BATCH)]
        return torch.cat(parts)
    pixels = _pixels(inputs, site)
    place = _Place(model, site)
    found: list[Tensor] = []

    def hook(_module: nn.Module, inputs: Any, output: Any) -> None:
        found.append(place.read(inputs, output).clone())
        raise Reached

    with hooked([(place.module, hook)]), suppress(Reached):
        model.encode_image(pixels)
    return found[0]


def acts_and_context(
    model: Model, inputs: Tensor | Sequence[str], site: str | Site
) -> tuple[Tensor, Tensor | None]:
    """Activations at a site, and what `continue_from` needs beside them, from one pass that ends at the block.

    Args:
        inputs: pixels or texts, as for `activations`.

    Returns:
        The activations, and (batch, tokens, width) or None: all tokens of the block's output; inside a block, the
        stream that the activations are added to, with the other tokens as they are at that point; in the text tower,
        the texts' token ids.

    Raises:
        SiteError: the site does not exist in this model. ModelError: the pixels do not fit.
    """
    site = Site(site)
    if not site.needs_context(model):
        return activations(model, inputs, site), None
    if site.is_text:
        ids = text_ids(model, inputs, site)
        return activations(model, ids, site), ids
    pixels = _pixels(inputs, site)
    tower = model.image_tower
    if not site.is_inside:
        context = activations(model, pixels, f"{site.tower}.{site.block}.all")
        return site.read(context, model), context
    parts = _parts(model, site)
    own, others = frame_streams(site.stream)
    held: dict[str, Tensor] = {}

    def keep(stream: str) -> tuple[nn.Module, Callable]:
        module, pick = tap(parts, stream)

        def hook(_module: nn.Module, inputs: Any, output: Tensor) -> None:
            held[stream] = _batch_first(pick(inputs, output), tower).clone()

        return module, hook

    def stop(_module: nn.Module, _inputs: Any, _output: Tensor) -> None:
        raise Reached

    assert isinstance(parts, Inside)
    with (
        hooked([*(keep(name) for name in {site.stream, own, others}), (parts.block, stop)]),
        suppress(Reached),
    ):
        model.encode_image(pixels)
    frame = _write(held[others], site, site.read(held[own], model), tower)
    return site.read(held[site.stream], model).clone(), frame


def continue_from(model: Model, site: str | Site, acts: Tensor, context: Tensor | None = None) -> Tensor:
    """Run a tower from a site to the embedding, differentiably in `acts`. Earlier blocks are not computed, but in
    the text tower, where a forward pass of the same texts has the activations put in.

    Args:
        acts: (batch, width) for `cls`, `eot` and the embeddings, (batch, tokens, width) otherwise.
        context: (batch, tokens, width), the second value of `acts_and_context`: the tokens that `acts` does not give,
            and inside a block what `acts` are added to. Needed where `Site.needs_context` says so. At the output of a
            block it is the activations at `all` tokens.

    Returns:
        (batch, embed), unit length, at least float32.

    Raises:
        SiteError: a shape does not fit, `context` is missing, or what the site holds cannot reach the
            embedding (patch tokens after the last block of a tower that pools by its class token).
    """
    site = Site(site)
    site.require_reach(model)
    if not site.is_text or site.is_single:
        _check_shape(acts, (*acts.shape[:1], *site.shape(model)), site, "acts")
    return model.unit(features_from(model, site, acts, context))


def features_from(model: Model, site: str | Site, acts: Tensor, context: Tensor | None = None) -> Tensor:
    """As `continue_from`, to the features before they are normalised, (batch, embed) in the model's dtype."""
    site = Site(site)
    acts = acts.to(model.device, model.dtype)
    if site.is_embedding:
        return acts
    if site.is_text:
        return _text_features_from(model, site, acts, context)
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
    if site.is_inside:
        parts = _parts(model, site)
        assert isinstance(parts, Inside)
        rows = acts[:, None] if site.tokens == "cls" else acts
        return tower.run(continued(parts, site.stream, rows, context, _own(site, tower)), index)
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
    if site.is_inside or site.tokens != "cls":
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


def _text_features_from(model: Model, site: Site, acts: Tensor, ids: Tensor | None) -> Tensor:
    tail = site.tail(model)
    if tail is not None:
        return tail.features(acts)
    if ids is None:
        raise SiteError(
            f"{site}: what follows depends on the other tokens; pass context=, the token ids of these texts, "
            "model.tokens(texts)."
        )
    with replace(model, site, acts):
        return model.text_features(ids)


def _pixels(inputs: Any, site: Site) -> Tensor:
    if not isinstance(inputs, Tensor):
        raise SiteError(
            f"{site} takes prepared pixels (batch, 3, H, W); got {type(inputs).__name__}. Stack what "
            "model.prepare(picture) returns; texts are read at sites of the text tower, e.g. text.-1.eot."
        )
    return inputs


def _place(model: Model, site: Site) -> "_Place | TextPlace":
    return TextPlace(model, site) if site.is_text else _Place(model, site)


class _Place:
    """A site in one model: the module whose inputs or output hold it, and how to read and write it there."""

    def __init__(self, model: Model, site: Site) -> None:
        self.model, self.site = model, site
        self.tower: Tower | None = None
        self.before: list[tuple[nn.Module, Callable]] = []
        if site.is_embedding:
            self.module: nn.Module = model.visual
            return
        self.parts = _parts(model, site)
        self.module, self._pick = tap(self.parts, site.stream)
        self.tower = model.image_tower

    def read(self, inputs: Any, output: Any) -> Tensor:
        """The activations, (batch, width) or (batch, tokens, width)."""
        if self.tower is None:
            # Towers of generative models put out (features, tokens).
            return output[0] if isinstance(output, tuple) else output
        return self.site.read(_batch_first(self._pick(inputs, output), self.tower), self.model)

    def write(self, inputs: Any, output: Any, acts: Tensor) -> Any:
        """What was read from, with other activations in it."""
        if self.tower is None:
            return (acts, *output[1:]) if isinstance(output, tuple) else acts
        stream = _batch_first(self._pick(inputs, output), self.tower)
        return _batch_first(_write(stream, self.site, acts, self.tower), self.tower)


def _parts(model: Model, site: Site) -> nn.Module | Inside:
    """The block whose output the site is, or its parts for sites inside it."""
    block = model.image_blocks_modules[site.index(model)]
    return inside(block, model.reference, site) if site.is_inside else block


def _own(site: Site, tower: Tower) -> slice:
    """The site's tokens among all tokens."""
    return {"cls": slice(0, 1), "patches": slice(tower.prefix, None), "all": slice(0, None)}[site.tokens]


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


__all__ = [
    "Captured",
    "Site",
    "activations",
    "acts_and_context",
    "capture",
    "continue_from",
    "features_from",
    "replace",
    "versions_from",
]
