"""Heatmaps: where in the picture a latent fires, and where a target's evidence lies.

Owns maps over the grid of patches and their comparison with true masks. For a class-token latent, two ways: gradient ×
activation of its code with respect to the patch tokens of an earlier block (fast), and occlusion, which takes patches
out of the picture and looks at the code again (slow, causal). For a patch latent its map is its codes. Ignores drawing
beyond `overlay`. Start at `firing_map`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clipattr.attribution.attribute import parts_of
from clipattr.attribution.interventions import amounts_of
from clipattr.attribution.result import Attribution
from clipattr.dictionaries.codes import SparseCodes
from clipattr.errors import DataError, SiteError
from clipattr.sites import Site, activations, capture, continue_from


def firing_map(
    source: Any,
    pixels: Tensor,
    latents: Sequence[int] | Tensor,
    *,
    dictionary: Any = None,
    site: Site | str | None = None,
    block: int = 0,
) -> Tensor:
    """Which patches drive class-token latents: gradient × (patch token - the picture's mean patch token).

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
        SiteError: the dictionary's site is no class token, or not after `block`.
    """
    model, dictionary, site = parts_of(source, dictionary, site)
    early = Site(f"image.{block}.patches")
    if site.tokens != "cls":
        raise SiteError(
            f"{site} holds patch tokens: the map of a patch latent is its codes. Use code_map(...)."
        )
    if early.index(model) >= site.index(model):
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
        with capture(model, site) as held:
            continue_from(model, early, patches, context)
        codes = held[site] @ readers.T
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
    rows, columns = model.grid
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


def code_map(codes: SparseCodes, latents: Sequence[int] | Tensor, grid: tuple[int, int]) -> Tensor:
    """Codes of patch latents laid out over the picture: (pictures, latents, rows, columns).

    Raises:
        DataError: the number of rows is no multiple of the grid.
    """
    rows, columns = grid
    if len(codes) % (rows * columns):
        raise DataError(f"{len(codes)} rows of codes do not fill grids of {rows} × {columns} patches.")
    amounts = amounts_of(codes, latents)
    return amounts.view(-1, rows, columns, amounts.shape[1]).permute(0, 3, 1, 2)


def attribution_map(attribution: Attribution, *, latent: int | None = None, target: int = 0) -> Tensor:
    """Attributions at patch sites over the picture, of one latent or summed over all: (pictures, rows, columns).

    Raises:
        SiteError: the attribution was not made at patch tokens.
    """
    if attribution.grid is None:
        raise SiteError(
            f"attributions at {attribution.site} have no place in the picture. Attribute at patches, e.g. "
            "site='image.-2.patches', or see which patches drive a latent with firing_map(...)."
        )
    values = attribution.values[..., target]
    if latent is not None:
        values = values * (attribution.codes.indices == latent)
    return values.sum(1).view(len(attribution), *attribution.grid)


def mass_inside(maps: Tensor, masks: Tensor | np.ndarray) -> Tensor:
    """Share of a map's positive mass inside true masks, NaN for maps without any.

    Args:
        maps: (batch, rows, columns). masks: (batch, H, W), true where the thing is; brought to the grid by area.
    """
    inside = _to_grid(masks, maps)
    positive = maps.clamp_min(0)
    total = positive.sum((1, 2))
    return torch.where(total > 0, (positive * inside).sum((1, 2)) / total, torch.nan)


def points_inside(maps: Tensor, masks: Tensor | np.ndarray) -> Tensor:
    """Pointing game: whether the patch with the largest value touches the true mask, (batch,) of 0 and 1."""
    inside = _to_grid(masks, maps).flatten(1)
    place = maps.flatten(1).argmax(1, keepdim=True)
    return (inside.gather(1, place)[:, 0] > 0).to(maps.dtype)


def _to_grid(masks: Tensor | np.ndarray, maps: Tensor) -> Tensor:
    masks = torch.as_tensor(masks)
    if masks.ndim != 3 or len(masks) != len(maps):
        raise DataError(f"{len(maps)} maps need as many masks, (batch, H, W); got {tuple(masks.shape)}.")
    return torch.nn.functional.adaptive_avg_pool2d(masks[:, None].to(maps), (maps.shape[1], maps.shape[2]))[
        :, 0
    ]


def overlay(picture: Image.Image, heat: Tensor | np.ndarray, *, strength: float = 0.65) -> Image.Image:
    """A picture under a map: positive values in warm, negative in cold, 0 clear. The map's largest |value| is full."""
    heat = np.asarray(heat, dtype=np.float32)
    if heat.ndim != 2:
        raise DataError(f"one map (rows, columns) goes over one picture; got {heat.shape}.")
    largest = float(np.abs(heat).max()) or 1.0
    scaled = Image.fromarray(heat / largest).resize(picture.size, Image.Resampling.BICUBIC)
    level = np.clip(np.asarray(scaled), -1, 1)[..., None]
    warm, cold = np.array([200, 60, 20], dtype=np.float32), np.array([20, 80, 200], dtype=np.float32)
    base = np.asarray(picture.convert("RGB"), dtype=np.float32)
    alpha = strength * np.abs(level)
    mixed = base * (1 - alpha) + np.where(level > 0, warm, cold) * alpha
    return Image.fromarray(mixed.round().astype(np.uint8))
