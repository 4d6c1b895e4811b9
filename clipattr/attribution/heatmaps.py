"""Heatmaps of latents: which image regions activate a latent.

Owns the maps that need the model. For latents of the class token or the embedding there are two: gradient × activation
of the code with respect to the patch tokens of an earlier block (fast), and occlusion, one forward pass per patch
(slow, causal). The map of a patch latent is its codes; see `maps.py`. Start at `firing_map`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clipattr.attribution.compute import parts_of
from clipattr.attribution.maps import code_map
from clipattr.dictionaries.codes import amounts_of, checked_latents
from clipattr.display.framing import Frame, frame_of
from clipattr.errors import SiteError
from clipattr.sites import Site, activations, capture, continue_from, features_from

PLAIN_GRID = (
    7,
    7,
)  # rows and columns of occluded areas in towers without patches; a ResNet's last stage at 224 px


def firing_map(
    source: Any,
    pixels: Tensor,
    latents: Sequence[int] | Tensor,
    *,
    dictionary: Any = None,
    site: Site | str | None = None,
    block: int = 0,
) -> Tensor:
    """Which patches activate latents of the class token or the embedding: gradient × (patch token - mean token).

    First-order effect of the patch tokens after an early block on the latent's pre-activation. A patch equal to the
    mean patch gets 0.

    Args:
        source: a study, or a model with `dictionary`.
        pixels: (batch, 3, H, W) prepared.
        latents: numbers of the latents; one backward pass each.
        block: block after which the patch tokens are read. Early blocks are more local.

    Returns:
        (batch, latents, rows, columns), signed, in the unit of codes. Positive: the patch raises the latent.

    Raises:
        SiteError: the dictionary's site has several tokens, does not come after `block`, or the tower has no patches.
    """
    model, dictionary, site = parts_of(source, dictionary, site)
    early = Site(f"image.{block}.patches")
    if not site.is_single:
        raise SiteError(
            f"a heat map by gradient needs a site of one vector; {site} holds patch tokens, whose codes are the map. "
            "Use code_map(...)."
        )
    if not site.is_embedding and early.index(model) >= site.index(model):
        raise SiteError(
            f"patches are read after a block before {site}; got block {block}. Give a lower `block`."
        )
    wanted = checked_latents(latents, dictionary.n_latents)
    # The pre-activation is read by the encoder row, or by the direction in dictionaries without an encoder.
    readers = torch.as_tensor(getattr(dictionary, "encoder", dictionary.decoder))[wanted].to(
        model.device, model.dtype
    )
    with torch.no_grad():
        context = activations(model, pixels.to(model.device, model.dtype), Site(f"image.{block}.all"))
    with torch.enable_grad():
        patches = early.read(context, model).detach().requires_grad_()
        if site.is_embedding:
            found = features_from(model, early, patches, context)
        else:
            with capture(model, site) as held:
                continue_from(model, early, patches, context)
            found = held[site]
        codes = found @ readers.T
        slopes = [
            torch.autograd.grad(codes[:, number].sum(), patches, retain_graph=True)[0]
            for number in range(len(wanted))
        ]
    held_patches = early.read(context, model)
    away = (held_patches - held_patches.mean(1, keepdim=True))[:, None]
    maps = (torch.stack(slopes, 1) * away).sum(-1)
    return maps.view(len(pixels), len(wanted), *model.grid)


def occlusion_map(
    source: Any,
    pixels: Tensor,
    latents: Sequence[int] | Tensor,
    *,
    dictionary: Any = None,
    site: Site | str | None = None,
    reach: int = 0,
    batch: int = 64,
) -> Tensor:
    """Occlusion map: fall of each latent's code when a patch is replaced by the picture's mean colour.

    Args:
        source, pixels, latents, dictionary, site: as for `firing_map`.
        reach: occluded neighbours on each side; 1 occludes 3 × 3 patches. Larger areas hide whole objects.
        batch: occluded pictures per forward pass; one per patch is needed.

    Returns:
        (batch, latents, rows, columns): code before minus code after. Positive: the patch raises the latent.
    """
    model, dictionary, site = parts_of(source, dictionary, site)
    wanted = torch.as_tensor(latents).long().flatten()
    rows, columns = _grid(model)
    tall, wide = pixels.shape[2] // rows, pixels.shape[3] // columns
    pixels = pixels.to(model.device, model.dtype)

    def codes_of(part: Tensor) -> Tensor:
        with torch.no_grad():
            acts = activations(model, part, site)
        amounts = amounts_of(dictionary.encode(acts.reshape(-1, acts.shape[-1])), wanted)
        return amounts.view(len(part), -1, len(wanted)).amax(1)

    result = pixels.new_empty(len(pixels), len(wanted), rows * columns)
    for number, picture in enumerate(pixels):
        before = codes_of(picture[None])[0]
        occluded = picture.repeat(rows * columns, 1, 1, 1)
        mean = picture.mean((1, 2), keepdim=True)
        for place in range(rows * columns):
            row, column = divmod(place, columns)
            top, left = max(row - reach, 0) * tall, max(column - reach, 0) * wide
            occluded[place, :, top : (row + reach + 1) * tall, left : (column + reach + 1) * wide] = mean
        after = torch.cat([codes_of(part) for part in occluded.split(batch)])
        result[number] = (before - after).T.to(result)
    return result.view(len(pixels), len(wanted), rows, columns)


def _grid(model: Any) -> tuple[int, int]:
    """(rows, columns) of occluded areas: the model's patches, or `PLAIN_GRID` for towers without patches."""
    try:
        return model.grid
    except SiteError:
        return PLAIN_GRID


@dataclass(frozen=True, eq=False)
class LatentMaps:
    """Heatmaps of one latent, and the part of each picture that the model sees.

    Attributes:
        maps: (pictures, rows, columns) in [0, 1]; the largest cell of a picture is its activation / `largest`.
        frames: the part of each picture that its map covers.
        largest: the activation that counts as 1; NaN where unknown.
        common: whether all pictures share the scale `largest`; False: each picture's largest cell is 1.
    """

    maps: np.ndarray
    frames: list[Frame]
    largest: float
    common: bool


def latent_maps(
    source: Any,
    pictures: Sequence[Image.Image],
    latent: int,
    *,
    largest: float | None = None,
    dictionary: Any = None,
    site: Site | str | None = None,
) -> LatentMaps | None:
    """Heatmaps of one latent in several pictures, on one scale.

    From `firing_map` for the class token and the embedding, from the codes for patches.

    Args:
        source: a study, or a model with `dictionary`.
        largest: the activation that counts as 1, for instance the latent's largest in a collection. None: every picture
            has its own scale.

    Returns:
        None at a site without such maps: the class token of the first block, or a tower without patches.
    """
    model, dictionary, site = parts_of(source, dictionary, site)
    pixels = torch.stack([model.prepare(picture) for picture in pictures]).to(model.device, model.dtype)
    try:
        with torch.no_grad():
            acts = activations(model, pixels, site)
        codes = dictionary.encode(acts.reshape(-1, acts.shape[-1]))
        if site.tokens == "patches":
            maps = code_map(codes, [latent], model.grid)[:, 0]
        else:
            maps = firing_map(model, pixels, [latent], dictionary=dictionary, site=site)[:, 0]
    except SiteError:
        return None
    positive = maps.detach().float().cpu().clamp_min(0)
    shares = positive / positive.amax((1, 2), keepdim=True).clamp_min(1e-12)
    unit = largest if largest is not None and largest > 0 else math.nan
    common = math.isfinite(unit)
    if common:
        amounts = amounts_of(codes, [latent]).reshape(len(pictures), -1).amax(1).float().cpu()
        shares = shares * (amounts / unit).clamp(0, 1)[:, None, None]
    frames = [frame_of(model, picture.size) for picture in pictures]
    return LatentMaps(shares.numpy(), frames, unit, common)
