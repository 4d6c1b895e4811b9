"""Maps over the grid of patches from codes and attributions, and their agreement with true masks.

Needs no model; maps that need one are in `heatmaps.py`. Start at `attribution_map`.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from clipattr.dictionaries.codes import SparseCodes, amounts_of
from clipattr.errors import DataError, SiteError

if TYPE_CHECKING:
    from clipattr.attribution.result import Attribution


def code_map(codes: SparseCodes, latents: Sequence[int] | Tensor, grid: tuple[int, int]) -> Tensor:
    """Codes of patch latents on the grid of patches: (pictures, latents, rows, columns).

    Raises:
        DataError: the number of rows is no multiple of the grid.
    """
    rows, columns = grid
    if len(codes) % (rows * columns):
        raise DataError(
            f"{len(codes)} rows of codes do not fill grids of {rows} × {columns} patches. Give the codes of all "
            "patches of each picture."
        )
    amounts = amounts_of(codes, latents)
    return amounts.view(-1, rows, columns, amounts.shape[1]).permute(0, 3, 1, 2)


def attribution_map(attribution: "Attribution", *, latent: int | None = None, target: int = 0) -> Tensor:
    """Attributions at patch sites on the grid of patches, of one latent or summed over all: (pictures, rows, columns).

    Raises:
        SiteError: the attribution was not made at patch tokens.
    """
    if attribution.grid is None:
        raise SiteError(
            f"attributions at {attribution.site} have no position in the picture. Attribute at patches, e.g. "
            "site='image.-2.patches', or map which patches activate a latent with firing_map(...)."
        )
    values = attribution.values[..., target]
    if latent is not None:
        values = values * (attribution.codes.indices == latent)
    return values.sum(1).view(len(attribution), *attribution.grid)


def mass_inside(maps: Tensor, masks: Tensor | np.ndarray) -> Tensor:
    """Fraction of a map's positive mass inside true masks, (batch,); NaN for maps without positive mass.

    Args:
        maps: (batch, rows, columns).
        masks: (batch, H, W), true inside the object; averaged to the grid.
    """
    inside = _to_grid(masks, maps)
    positive = maps.clamp_min(0)
    total = positive.sum((1, 2))
    return torch.where(total > 0, (positive * inside).sum((1, 2)) / total, torch.nan)


def points_inside(maps: Tensor, masks: Tensor | np.ndarray) -> Tensor:
    """Pointing game: 1 where the patch with the largest value overlaps the true mask, else 0; (batch,)."""
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
