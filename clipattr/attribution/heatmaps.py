"""Heatmaps: where in the picture a latent fires, and where a target's evidence lies.

Owns the maps that need the model. For a latent of the class token or the embedding there are two: gradient × activation
of its code with respect to the patch tokens of an earlier block (fast), and occlusion, which paints patches over and
encodes the picture again (slow, causal). The map of a patch latent is its codes; see `maps.py`. Start at `firing_map`.
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
from clipattr.dictionaries.codes import SparseCodes, amounts_of
from clipattr.display.framing import Frame, frame_of
from clipattr.errors import SiteError
from clipattr.sites import Site, activations, capture, continue_from, features_from

# Areas painted over, down and across, in towers without patches: as fine as the last stage of a ResNet at 224 pixels.
PLAIN_GRID = (7, 7)


def firing_map(
    source: Any,
    pixels: Tensor,
    latents: Sequence[int] | Tensor,
    *,
    dictionary: Any = None,
    site: Site | str | None = None,
    block: int = 0,
) -> Tensor:
    """Which patches drive latents of the class token or the embedding: gradient × (patch token - their mean).

    First order, at the patch tokens after an early block, of the direction that the encoder reads the latent by.
    Positive: the patch raises the latent. A patch that looks like the average patch gets 0.

    Args:
        source: a study, or a model with `dictionary`.
        pixels: (batch, 3, H, W) prepared.
        latents: which ones; one backward pass each.
        block: where the patch tokens are read; early blocks still hold what stands at the patch itself.

    Returns:
        (batch, latents, rows, columns), in the unit of codes.

    Raises:
        SiteError: the dictionary's site has several tokens, does not come after `block`, or the tower has no patches.
    """
    model, dictionary, site = parts_of(source, dictionary, site)
    early = Site(f"image.{block}.patches")
    if not site.is_single:
        raise SiteError(
            f"{site} holds patch tokens: the map of a patch latent is its codes. Use code_map(...)."
        )
    if not site.is_embedding and early.index(model) >= site.index(model):
        raise SiteError(
            f"the patches are read after block {block}, which must come before {site}. Lower `block`."
        )
    wanted = torch.as_tensor(latents).long().flatten()
    amounts_of(SparseCodes.from_dense(torch.zeros(1, dictionary.n_latents)), wanted)
    # What reads a latent is its encoder row; a dictionary without one is read by its direction.
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
    """How much each latent's code falls when a patch is painted over with the picture's mean colour.

    Args:
        reach: patches around each patch that are painted over with it; 1 means 3 × 3. Larger areas hide whole objects.

    Returns:
        (batch, latents, rows, columns): code before minus code after; one forward pass per patch.
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
        covered = picture.repeat(rows * columns, 1, 1, 1)
        mean = picture.mean((1, 2), keepdim=True)
        for place in range(rows * columns):
            row, column = divmod(place, columns)
            top, left = max(row - reach, 0) * tall, max(column - reach, 0) * wide
            covered[place, :, top : (row + reach + 1) * tall, left : (column + reach + 1) * wide] = mean
        after = torch.cat([codes_of(part) for part in covered.split(batch)])
        result[number] = (before - after).T.to(result)
    return result.view(len(pixels), len(wanted), rows, columns)


def _grid(model: Any) -> tuple[int, int]:
    """(rows, columns) of areas to paint over: the model's patches, or a plain grid for towers without patches."""
    try:
        return model.grid
    except SiteError:
        return PLAIN_GRID


@dataclass(frozen=True, eq=False)
class LatentMaps:
    """Where pictures drive one latent, and what the model sees of each picture.

    `maps`: (pictures, rows, columns) in [0, 1], over the frame of the same number. The largest cell of a picture is its
    activation as a share of `largest`, the activation that counts as 1. `common` False: no such activation is known,
    and every picture is scaled by itself.
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
    """Where each of these pictures drives a latent, on one scale for all pictures.

    By `firing_map` for a class token, by the codes themselves for patches.

    Args:
        source: a study, or a model with `dictionary`.
        largest: the activation that counts as 1, for instance the latent's largest in a collection. None: every picture
            is scaled by itself.

    Returns:
        None at a site that has no such map: the class token of the first block, or a tower without patches.
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
