"""Sites: where in a model activations are read and replaced.

Owns `Site`, the written form of a place, and every hook; what a tower consists of is read in towers.py. All others
ask it for activations or hand them back. Knows nothing of dictionaries or targets.
Start at `activations` for reading, `replace` for intervening, `continue_from` for gradients.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from clipattr.errors import SiteError
from clipattr.models.hooks import Reached, hooked
from clipattr.models.loading import Model
from clipattr.models.streams import RESIDUAL, STREAMS, Inside, continued, frame_streams, inside, tap
from clipattr.models.towers import Tower

TOKENS = {"image": ("cls", "patches", "all"), "text": ("eot", "all")}


@dataclass(frozen=True, init=False)
class Site:
    """A place in the residual stream, written `tower.block.tokens`: the output of one block at some tokens.

    A place inside the block is written `tower.block.stream.tokens`, with the stream `attn_out` or `mlp_out` (what
    attention or MLP adds), `resid_mid` (the stream between the two) or `mlp_in` (its LayerNorm, the MLP's input), e.g.
    `image.3.mlp_out.all`.

    `image.-1.cls` is the class token after the last image block; `.patches` are the other tokens row by row,
    `.all` the class token followed by them. Negative blocks count from the end and stay as written, so
    `image.-1.cls` and `image.11.cls` are different sites even where they name the same place.
    `text.-1.eot` is part of the grammar; reading and replacing in the text tower is refused for now.

    Raises:
        SiteError: the text is not a site.
    """

    tower: str
    block: int
    tokens: str
    stream: str

    def __init__(self, written: "str | Site"):
        parts = re.fullmatch(r"(\w+)\.(-?\d+)(?:\.([a-z_]+))?\.(\w+)", str(written))
        if parts is None:
            advice = "a site is written tower.block.tokens, e.g. image.-1.cls"
            if str(written).endswith((".pooled", ".embedding")):
                advice = "for what comes out of a tower use model.encode_image or model.encode_text"
            raise SiteError(f"{written!r} is not a site: {advice}.")
        tower, block, stream, tokens = parts[1], int(parts[2]), parts[3] or RESIDUAL, parts[4]
        if tower not in TOKENS:
            raise SiteError(f"{written!r} names the tower {tower!r}; there are {' and '.join(TOKENS)}.")
        if tokens not in TOKENS[tower]:
            raise SiteError(
                f"{written!r} names the tokens {tokens!r}; the {tower} tower has {', '.join(TOKENS[tower])}."
            )
        if stream not in STREAMS or (stream != RESIDUAL and tower != "image"):
            before = " What comes before a block is the output of the block before it." * (
                stream == "resid_pre"
            )
            raise SiteError(
                f"{written!r} names the stream {stream!r}; blocks of the image tower have {', '.join(STREAMS)}.{before}"
            )
        object.__setattr__(self, "tower", tower)
        object.__setattr__(self, "block", block)
        object.__setattr__(self, "tokens", tokens)
        object.__setattr__(self, "stream", stream)

    def __str__(self) -> str:
        stream = "" if self.stream == RESIDUAL else f"{self.stream}."
        return f"{self.tower}.{self.block}.{stream}{self.tokens}"

    @property
    def is_inside(self) -> bool:
        """Whether the place is inside a block, not at its output."""
        return self.stream != RESIDUAL

    def __repr__(self) -> str:
        return f"Site({str(self)!r})"

    def index(self, model: Model) -> int:
        """The block's number in this model, counted from 0.

        Raises:
            SiteError: the model has no such block or no class token, or no sites in that tower.
        """
        if self.tower != "image":
            raise SiteError(
                f"{self}: the text tower cannot be read or replaced yet; sites of the image tower can, "
                "e.g. image.-1.cls."
            )
        n = model.image_blocks
        if self.tokens == "cls" and not model.image_tower.has_class_token:
            raise SiteError(
                f"{self}: the image tower of {model.reference} has no class token. Its sites are "
                f"image.{self.block}.patches and image.{self.block}.all."
            )
        if not -n <= self.block < n:
            raise SiteError(f"{self}: {model.reference} has {n} image blocks, 0 to {n - 1} or -{n} to -1.")
        return self.block % n

    def shape(self, model: Model) -> tuple[int, ...]:
        """Shape of one picture's activation here: (width,) for `cls`, else (tokens, width)."""
        if self.tokens == "cls":
            return (model.image_width,)
        before = model.image_tower.prefix if self.tokens == "patches" else 0
        return (model.image_tokens - before, model.image_width)

    def reaches_embedding(self, model: Model) -> bool:
        """Whether the embedding depends on the activation here: after the last block only pooled tokens
        count."""
        if self.index(model) < model.image_blocks - 1 or self.tokens == "all":
            return True
        return self.tokens in model.image_tower.pooled

    def needs_context(self, model: Model) -> bool:
        """Whether what follows depends on more than the activation here: on other tokens, or, inside a block, on the
        stream that the activation is added to."""
        if self.is_inside:
            return self.reaches_embedding(model)
        if self.tokens == "all" or not self.reaches_embedding(model):
            return False
        return self.index(model) < model.image_blocks - 1 or model.image_tower.pooled != {self.tokens}

    def read(self, stream: Tensor, model: Model) -> Tensor:
        """The site's tokens out of all tokens of its block, (batch, tokens, width)."""
        return _read(stream, self, model.image_tower)


class Captured(dict[Site, Tensor]):
    """Activations by site, of the latest forward pass; a site may be given in its written form."""

    def __contains__(self, site: object) -> bool:
        return super().__contains__(Site(site) if isinstance(site, str) else site)

    def __getitem__(self, site: str | Site) -> Tensor:
        site = Site(site)
        if site not in self:
            held = ", ".join(map(str, self)) or "none: no picture was encoded inside the with block"
            raise SiteError(f"There are no activations for {site}; held are {held}.")
        return super().__getitem__(site)


@contextmanager
def capture(model: Model, *sites: str | Site) -> Iterator[Captured]:
    """Record activations while this thread encodes pictures; hooks go when the block is left, however that
    happens.

    `with capture(model, "image.-1.cls") as acts: model.encode_image(pixels)`, then `acts["image.-1.cls"]`:
    (batch, width) for `cls`, (batch, tokens, width) for `patches` and `all`. A `capture` inside a `replace`
    sees what was put in; round it, what was there before.

    Raises:
        SiteError: a site does not exist in this model.
    """
    acts = Captured()

    def keep(site: Site, tower: Tower) -> tuple[nn.Module, Callable]:
        module, pick = tap(_parts(model, site), site.stream)

        def hook(_module: nn.Module, inputs: Any, output: Tensor) -> None:
            # A copy, since a view of one token would keep all of them in memory.
            acts[site] = _read(_batch_first(pick(inputs, output), tower), site, tower).clone()

        return module, hook

    with hooked([keep(site, model.image_tower) for site in map(Site, sites)]):
        yield acts


@contextmanager
def replace(model: Model, site: str | Site, value: Tensor | Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Put other activations in at a site while this thread encodes pictures; the hook goes with the block.

    Args:
        value: what to put in, or a function of what is there. Shape (batch, width) for `cls`, (batch, tokens,
            width) otherwise, cast to the model's dtype. The activation itself leaves the output bit for bit
            as it was; a tensor that requires a gradient gets one, and may change the output in its last
            digit, since torch then takes another attention kernel.

    Raises:
        SiteError: the site does not exist in this model, or (on encoding) the shape does not fit.
    """
    site = Site(site)
    parts, tower = _parts(model, site), model.image_tower
    module, pick = tap(parts, site.stream)
    mid: list[Tensor] = []

    def changed(stream: Tensor) -> Tensor:
        stream = _batch_first(stream, tower)
        old = _read(stream, site, tower)
        new = value if isinstance(value, Tensor) else value(old)
        return _batch_first(_write(stream, site, _fitting(new, old, site), tower), tower)

    if site.stream != "resid_mid":
        with hooked([(module, lambda _module, _inputs, output: changed(output))]):
            yield
        return
    # The block uses resid_mid twice and hands it to no module as an output: take it where it enters the LayerNorm,
    # and compute the rest of the block again.
    assert isinstance(parts, Inside)

    def keep(_module: nn.Module, inputs: Any, output: Tensor) -> None:
        mid[:] = [pick(inputs, output)]

    def again(_module: nn.Module, _inputs: Any, _output: Tensor) -> Tensor:
        return parts.finish(changed(mid.pop()))

    with hooked([(module, keep), (parts.block, again)]):
        yield


def activations(model: Model, pixels: Tensor, site: str | Site) -> Tensor:
    """Activations of pictures at one site; later blocks are not computed.

    Args:
        pixels: (batch, 3, H, W), prepared by `model.prepare`.

    Returns:
        (batch, width) for `cls`, (batch, tokens, width) for `patches` and `all`, in the model's dtype.

    Raises:
        SiteError: the site does not exist in this model. ModelError: the pixels do not fit.
    """
    site = Site(site)
    (module, pick), tower = tap(_parts(model, site), site.stream), model.image_tower
    found: list[Tensor] = []

    def hook(_module: nn.Module, inputs: Any, output: Tensor) -> None:
        found.append(_read(_batch_first(pick(inputs, output), tower), site, tower).clone())
        raise Reached

    with hooked([(module, hook)]), suppress(Reached):
        model.encode_image(pixels)
    return found[0]


def acts_and_context(model: Model, pixels: Tensor, site: str | Site) -> tuple[Tensor, Tensor | None]:
    """Activations at a site, and what `continue_from` needs beside them, from one pass that ends at the block.

    Args:
        pixels: (batch, 3, H, W), prepared by `model.prepare`.

    Returns:
        The activations, and (batch, tokens, width) or None: all tokens of the block's output; inside a block, the
        stream that the activations are added to, with the other tokens as they are at that point.

    Raises:
        SiteError: the site does not exist in this model. ModelError: the pixels do not fit.
    """
    site, tower = Site(site), model.image_tower
    if not site.needs_context(model):
        return activations(model, pixels, site), None
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
    frame = _write(held[others], site, _read(held[own], site, tower), tower)
    return _read(held[site.stream], site, tower).clone(), frame


def continue_from(model: Model, site: str | Site, acts: Tensor, context: Tensor | None = None) -> Tensor:
    """Run the image tower from a site to the embedding, differentiably in `acts`; earlier blocks are not
    computed.

    Args:
        acts: (batch, width) for `cls`, (batch, tokens, width) otherwise.
        context: (batch, tokens, width), the second value of `acts_and_context`: the tokens that `acts` does not give,
            and inside a block what `acts` are added to. Needed where `Site.needs_context` says so. At the output of a
            block it is the activations at `all` tokens.

    Returns:
        (batch, embed), unit length, at least float32.

    Raises:
        SiteError: a shape does not fit, `context` is missing, or what the site holds cannot reach the
            embedding (patch tokens after the last block of a tower that pools by its class token).
    """
    site, tower = Site(site), model.image_tower
    index = site.index(model)
    if not site.reaches_embedding(model):
        other = "cls" if "cls" in tower.pooled else "patches"
        raise SiteError(
            f"{site}: after the last block only the {other} tokens reach the embedding of {model.reference}, "
            f"so nothing here has any effect. Use image.{site.block}.{other} or an earlier block, "
            f"e.g. image.-2.{site.tokens}."
        )
    _check_shape(acts, (*acts.shape[:1], *site.shape(model)), site, "acts")
    acts = acts.to(model.device, model.dtype)
    if not site.needs_context(model):
        return model.unit(tower.run(_alone(acts, site, tower), index))
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
        return model.unit(tower.run(continued(parts, site.stream, rows, context, _own(site, tower)), index))
    if site.tokens == "cls" and tower.reads_next(index):
        return model.unit(tower.read_versions(acts[:, None], context))
    return model.unit(tower.run(_write(context, site, acts, tower), index))


def versions_from(model: Model, site: str | Site, acts: Tensor, context: Tensor) -> Tensor | None:
    """As `continue_from` for several versions of each picture's class token; what they share is computed once.

    Args:
        acts: (batch, versions, width). context: (batch, tokens, width), as for `continue_from`.

    Returns:
        (batch, versions, embed), unit length; None where more than one block follows or it mixes the versions, so
        that nothing is shared.
    """
    site, tower = Site(site), model.image_tower
    if site.is_inside or site.tokens != "cls" or not tower.reads_next(site.index(model)):
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


def _read(stream: Tensor, site: Site, tower: Tower) -> Tensor:
    """The site's tokens out of (batch, tokens, width)."""
    if site.tokens == "cls":
        return stream[:, 0]
    return stream[:, tower.prefix :] if site.tokens == "patches" else stream


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
