"""Sites: where in a model activations are read and replaced.

Owns every hook. The written form of a site is in models/places.py, the structure of towers in models/towers.py and
models/text_tower.py, the layers after the last block in models/tails.py. Image sites take prepared pixels, text sites
texts. Ignores dictionaries and targets. Start at `activations` for reading, `replace` for interventions,
`continue_from` for gradients.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from clipattr.errors import SiteError
from clipattr.models.hooks import Reached, hooked
from clipattr.models.image_places import ImagePlace, batch_first, block_parts, own_tokens, written
from clipattr.models.loading import Model
from clipattr.models.places import Site
from clipattr.models.streams import Inside, continued, frame_streams, tap
from clipattr.models.text import TEXT_BATCH
from clipattr.models.text_places import TextPlace, text_acts, text_ids
from clipattr.models.tower import Tower


class Captured(dict[Site, Tensor]):
    """{site: activations} of the latest forward pass; keys may be any spelling of a site."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self._model = model

    def _held(self, site: object) -> Site | None:
        """The stored spelling of a site, None if it is not captured."""
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
            raise SiteError(f"There are no activations for {Site(site)}; captured are {held}.")
        return super().__getitem__(held_as)


@contextmanager
def capture(model: Model, *sites: str | Site) -> Iterator[Captured]:
    """Context that records activations while this thread encodes pictures or texts; hooks are removed on exit.

    A `capture` inside a `replace` records the replaced activations; outside of it, the original ones.

    Args:
        model: a `Model`.
        sites: one or several sites.

    Returns:
        A context manager whose value maps a site to its activations of the latest forward pass: (batch, width) for
        `cls`, `eot` and the embeddings, (batch, tokens, width) for others.

    Raises:
        SiteError: a site that the model does not have.

    >>> import clipattr as ca
    >>> model = ca.load_model("picture-world-a")
    >>> with ca.capture(model, "image.-1.cls") as acts:
    ...     _ = model.encode_image(torch.zeros(2, *model.pixel_shape))
    >>> acts["image.-1.cls"].shape
    torch.Size([2, 192])
    """
    acts = Captured(model)

    def keep(place: ImagePlace | TextPlace) -> list[tuple[nn.Module, Callable]]:
        def hook(_module: nn.Module, inputs: Any, output: Any) -> None:
            # A copy, as a view of one token would keep all tokens in memory.
            acts[place.site] = place.read(inputs, output).clone()

        return [*place.before, (place.module, hook)]

    with hooked([hook for site in map(Site, sites) for hook in keep(_place(model, site))]):
        yield acts


@contextmanager
def replace(model: Model, site: str | Site, value: Tensor | Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Context that replaces activations at a site while this thread encodes; the hook is removed on exit.

    Args:
        model: a `Model`.
        site: where to replace.
        value: new activations, or a function from the current to the new ones: (batch, width) for `cls`, `eot` and the
            embeddings, (batch, tokens, width) for others, cast to the model's dtype. Replacing activations by
            themselves leaves the output bit for bit equal. A tensor that requires a gradient receives one; the output
            may then differ in its last digit, as torch uses another attention kernel.

    Returns:
        A context manager.

    Raises:
        SiteError: a site that the model does not have, or (on encoding) a shape that does not fit.

    >>> import clipattr as ca
    >>> model = ca.load_model("picture-world-a")
    >>> pixels = torch.zeros(1, *model.pixel_shape)
    >>> with ca.replace(model, "image.-1.cls", lambda acts: -acts):
    ...     other = model.encode_image(pixels)
    >>> torch.equal(other, model.encode_image(pixels))
    False
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
    assert isinstance(place, ImagePlace)
    # The block uses resid_mid twice, and it is no module's output: it is read at the input of the LayerNorm, and the
    # rest of the block is computed again.
    parts = place.parts
    assert isinstance(parts, Inside)

    def keep(_module: nn.Module, inputs: Any, output: Tensor) -> None:
        mid[:] = [(inputs, output)]

    def again(_module: nn.Module, _inputs: Any, _output: Tensor) -> Tensor:
        return parts.finish(changed(*mid.pop()))

    with hooked([(place.module, keep), (parts.block, again)]):
        yield


def activations(model: Model, inputs: Tensor | Sequence[str], site: str | Site) -> Tensor:
    """Activations of pictures or texts at one site; layers after the site are not computed.

    Args:
        model: a `Model`.
        inputs: pixels (batch, 3, H, W) prepared by `model.prepare`; at sites of the text tower texts, or their token
            ids from `model.tokens`.
        site: where to read.

    Returns:
        (batch, width) for `cls`, `eot` and the embeddings, (batch, tokens, width) for others, in the model's dtype.

    Raises:
        SiteError: a site that the model does not have, or pixels at a text site or texts at an image site.
        ModelError: pixels of another shape.

    >>> import clipattr as ca
    >>> model = ca.load_model("picture-world-a")
    >>> ca.activations(model, torch.zeros(2, *model.pixel_shape), "image.-2.patches").shape
    torch.Size([2, 64, 192])
    """
    site = Site(site)
    if site.is_text:
        with torch.no_grad():
            parts = [text_acts(model, part, site) for part in text_ids(model, inputs, site).split(TEXT_BATCH)]
        return torch.cat(parts)
    pixels = _pixels(inputs, site)
    place = ImagePlace(model, site)
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
    """Activations at a site and the context that `continue_from` needs, from one forward pass up to the block.

    Args:
        inputs: pixels or texts, as for `activations`.

    Returns:
        The activations, and the context or None where it is not needed: at a block's output all of its tokens
        (batch, tokens, width); inside a block, the stream that the activations are added to; in the text tower, the
        token ids.

    Raises:
        SiteError: a site that the model does not have.
        ModelError: pixels of another shape.
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
    parts = block_parts(model, site)
    own, others = frame_streams(site.stream)
    held: dict[str, Tensor] = {}

    def keep(stream: str) -> tuple[nn.Module, Callable]:
        module, pick = tap(parts, stream)

        def hook(_module: nn.Module, inputs: Any, output: Tensor) -> None:
            held[stream] = batch_first(pick(inputs, output), tower).clone()

        return module, hook

    def stop(_module: nn.Module, _inputs: Any, _output: Tensor) -> None:
        raise Reached

    assert isinstance(parts, Inside)
    with (
        hooked([*(keep(name) for name in {site.stream, own, others}), (parts.block, stop)]),
        suppress(Reached),
    ):
        model.encode_image(pixels)
    frame = written(held[others], site, site.read(held[own], model), tower)
    return site.read(held[site.stream], model).clone(), frame


def continue_from(model: Model, site: str | Site, acts: Tensor, context: Tensor | None = None) -> Tensor:
    """Run a tower from a site to the embedding, differentiably in `acts`.

    In the image tower, earlier blocks are not computed. In the text tower, a forward pass of the same texts has its
    activations replaced.

    Args:
        model: a `Model`.
        site: where `acts` are.
        acts: (batch, width) for `cls`, `eot` and the embeddings, (batch, tokens, width) for others.
        context: second value of `acts_and_context`, where `Site.needs_context`. At the output of an image block:
            the activations at `all` tokens, (batch, tokens, width).

    Returns:
        (batch, embed), unit length, at least float32.

    Raises:
        SiteError: a shape that does not fit, a missing `context`, or a site that does not reach the embedding (patch
            tokens after the last block of a tower that pools by its class token).

    >>> import clipattr as ca
    >>> model = ca.load_model("picture-world-a")
    >>> pixels = torch.zeros(1, *model.pixel_shape)
    >>> acts = ca.activations(model, pixels, "image.-1.cls")
    >>> torch.allclose(ca.continue_from(model, "image.-1.cls", acts), model.encode_image(pixels), atol=1e-6)
    True
    """
    site = Site(site)
    site.require_reach(model)
    if not site.is_text or site.is_single:
        _check_shape(acts, (*acts.shape[:1], *site.shape(model)), site, "acts")
    return model.unit(features_from(model, site, acts, context))


def features_from(model: Model, site: str | Site, acts: Tensor, context: Tensor | None = None) -> Tensor:
    """As `continue_from`, to the features before normalisation, (batch, embed) in the model's dtype."""
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
            f"{site}: {len(tower.blocks) - 1 - index} block(s) follow, then pooling by {tower.pooling}, which depend "
            f"on the other tokens; pass context=, the activations at image.{site.block}.all."
        )
    _check_shape(context, (len(acts), model.image_tokens, model.image_width), site, "context")
    context = context.to(model.device, model.dtype)
    if site.is_inside:
        parts = block_parts(model, site)
        assert isinstance(parts, Inside)
        rows = acts[:, None] if site.tokens == "cls" else acts
        return tower.run(continued(parts, site.stream, rows, context, own_tokens(site, tower)), index)
    if site.tokens == "cls" and tower.reads_next(index):
        return tower.read_versions(acts[:, None], context)
    return tower.run(written(context, site, acts, tower), index)


def versions_from(model: Model, site: str | Site, acts: Tensor, context: Tensor) -> Tensor | None:
    """As `continue_from` for several versions of each picture's class token, with shared computation.

    Args:
        acts: (batch, versions, width).
        context: (batch, tokens, width), as for `continue_from`.

    Returns:
        (batch, versions, embed), unit length; None where more than one block follows, or a block in which versions
        cannot share the other tokens.
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
    """The stream for sites that do not depend on other tokens: the class token, or patches after empty tokens."""
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
            f"{site}: later blocks depend on the other tokens; pass context=, the token ids of these texts, "
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


def _place(model: Model, site: Site) -> "ImagePlace | TextPlace":
    return TextPlace(model, site) if site.is_text else ImagePlace(model, site)


def _fitting(new: Any, old: Tensor, site: Site) -> Tensor:
    if not isinstance(new, Tensor):
        raise SiteError(f"{site}: replaced activations must be a tensor; got {type(new).__name__}.")
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
