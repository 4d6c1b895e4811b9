"""Edits of prepared pictures: fill a region, cut it out, paste it elsewhere, or change the colours.

Owns arithmetic on batches of pixels as a model takes them, (pictures, 3, H, W). Knows nothing of models or findings.
Start at `Region`; `overlay_mask` and `Cast.between` find what pictures have in common.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

FEATHER = 0.02  # of the shorter side: blur of a mask's edge, so that pasting leaves no hard line
SHIFTS = 8  # places a side that a control region is tried at
CONSISTENT = (
    0.35  # spread among strong pictures over spread among others, below which a pixel belongs to an overlay
)


class Edit(Protocol):
    """One way to take a cause out of pictures and to put it into others; each beside a control of equal extent.

    name: as it is reported. area: fraction of the picture that is changed.
    """

    @property
    def name(self) -> str: ...

    @property
    def area(self) -> float: ...

    def remove(self, strong: Tensor, weak: Tensor) -> tuple[Tensor, Tensor]:
        """`strong` pictures without the cause, and with the control change; both of the shape of `strong`."""
        ...

    def transplant(self, strong: Tensor, weak: Tensor) -> tuple[Tensor, Tensor]:
        """`weak` pictures with the cause of `strong` ones, and with the control; both of the shape of `weak`."""
        ...


def filled(pixels: Tensor, mask: Tensor) -> Tensor:
    """Pictures whose masked part is interpolated smoothly from what surrounds it (pull-push).

    Known pixels are averaged down level by level until nothing is missing, then missing ones are filled from the next
    coarser level on the way up (Gortler et al. 1996, the lumigraph's scattered-data interpolation).

    Args:
        pixels: (pictures, 3, H, W). mask: (pictures or 1, H, W) in 0 to 1; 1 is filled.

    >>> picture = torch.ones(1, 3, 8, 8)
    >>> picture[:, :, 2:5, 2:5] = 9.0
    >>> mask = torch.zeros(1, 8, 8); mask[:, 2:5, 2:5] = 1.0
    >>> bool((filled(picture, mask) == 1).all())
    True
    """
    known = (1 - mask)[:, None].expand(len(pixels), 1, -1, -1).to(pixels)
    levels = [(pixels * known, known)]
    while max(levels[-1][1].shape[2:]) > 1:
        values, weight = (
            F.avg_pool2d(part, 2, ceil_mode=True, count_include_pad=False) for part in levels[-1]
        )
        # A coarse pixel is known where at least a quarter of it is; its colour is the mean of its known part.
        full = (4 * weight).clamp_max(1)
        levels.append((values / weight.clamp_min(1e-6) * full, full))
    values, weight = levels.pop()
    below = values / weight.clamp_min(1e-6)
    for values, weight in reversed(levels):
        below = F.interpolate(below, size=values.shape[2:], mode="bilinear", align_corners=False)
        below = values + (1 - weight) * below
    return below


def feathered(mask: Tensor) -> Tensor:
    """A mask (…, H, W) with its edge blurred over `FEATHER` of the shorter side."""
    reach = max(1, round(FEATHER * min(mask.shape[-2:])))
    flat = mask.reshape(-1, 1, *mask.shape[-2:]).float()
    padded = F.pad(flat, (reach,) * 4, mode="replicate")
    return F.avg_pool2d(padded, 2 * reach + 1, stride=1).reshape(mask.shape)


def elsewhere(mask: Tensor) -> Tensor:
    """Each mask (pictures, H, W) moved, round the edges, to where it overlaps its first place least."""
    height, width = mask.shape[1:]
    best = mask
    overlap = torch.full((len(mask),), torch.inf)
    for row in range(SHIFTS):
        for column in range(SHIFTS):
            if row == column == 0:
                continue
            moved = mask.roll((row * height // SHIFTS, column * width // SHIFTS), (1, 2))
            common = (moved * mask).sum((1, 2)).cpu()
            better = common < overlap - 1e-6
            best = torch.where(better[:, None, None].to(mask.device), moved, best)
            overlap = torch.where(better, common, overlap)
    return best


def blended(pixels: Tensor, source: Tensor, mask: Tensor) -> Tensor:
    """Pictures that show `source` where the mask (pictures, H, W) is, with a soft edge."""
    soft = feathered(mask)[:, None]
    return pixels * (1 - soft) + source * soft


def matched(source: Tensor, n: int) -> Tensor:
    """Rows of `source`, taken in turn until there are `n`."""
    return source[torch.arange(n) % len(source)]


@dataclass(frozen=True)
class Region:
    """A region of each strong picture: exchanged to remove it, pasted at its place to transplant it.

    A fill would take an object away and leave nothing, which moves many prompts; in its place comes what another
    picture, without the cause, has there.

    Attributes:
        masks: (strong or 1, H, W) bool; one for all pictures where the cause always stands at one place.
        name: "region", "overlay", "border" or "text".
        other: like masks, the region of the control; None: where each mask overlaps itself least.
    """

    masks: Tensor
    name: str = "region"
    other: Tensor | None = None

    def _pair(self, n: int) -> tuple[Tensor, Tensor]:
        """The region and the control's, each (n, H, W) float."""
        masks = matched(self.masks, n).float()
        return masks, elsewhere(masks) if self.other is None else matched(self.other, n).float()

    @property
    def area(self) -> float:
        return float(self.masks.float().mean())

    def remove(self, strong: Tensor, weak: Tensor) -> tuple[Tensor, Tensor]:
        """The region shows what another picture has there; for the control, the other region does."""
        source = matched(weak, len(strong))
        without, control = (blended(strong, source, mask) for mask in self._pair(len(strong)))
        return without, control

    def transplant(self, strong: Tensor, weak: Tensor) -> tuple[Tensor, Tensor]:
        """The control is the same region of another picture without the cause, so that only the cause differs."""
        mask = matched(self._pair(len(strong))[0], len(weak))
        return blended(weak, matched(strong, len(weak)), mask), blended(weak, weak.roll(1, 0), mask)


@dataclass(frozen=True)
class Surroundings:
    """All but a region: exchanged for the surroundings of pictures without the cause. The control exchanges them for
    those of other strong pictures, which keep the cause.

    Attributes:
        kept: (strong, H, W) bool, what stays of each strong picture.
    """

    kept: Tensor
    name: str = "surroundings"

    @property
    def area(self) -> float:
        return 1 - float(self.kept.float().mean())

    def remove(self, strong: Tensor, weak: Tensor) -> tuple[Tensor, Tensor]:
        soft = feathered(self.kept.float())[:, None]
        others = (matched(weak, len(strong)), strong.roll(1, 0))
        without, control = (strong * soft + other * (1 - soft) for other in others)
        return without, control

    def transplant(self, strong: Tensor, weak: Tensor) -> tuple[Tensor, Tensor]:
        source = matched(strong, len(weak))
        soft = feathered(matched(self.kept, len(weak)).float())[:, None]
        return weak * soft + source * (1 - soft), weak * soft + weak.roll(1, 0) * (1 - soft)


@dataclass(frozen=True)
class Cast:
    """A cast of colour: mean and spread of each channel brought to those of other pictures.

    The control makes a change of equal size in another direction: the channels' changes are exchanged in a circle.

    Attributes:
        shift, scale: (3,) with `without = (pixels - shift) / scale` per channel, around zero of prepared pixels.
    """

    shift: Tensor
    scale: Tensor
    name: str = "colour"
    area: float = 1.0

    @classmethod
    def between(cls, strong: Tensor, weak: Tensor) -> Cast:
        """The change of colour that makes `strong` pictures like `weak` ones, both (pictures, 3, H, W)."""
        scale = (strong.std((2, 3)).mean(0) / weak.std((2, 3)).mean(0).clamp_min(1e-6)).clamp(0.25, 4)
        return cls(strong.mean((0, 2, 3)) - scale * weak.mean((0, 2, 3)), scale)

    def _changes(self) -> list[tuple[Tensor, Tensor]]:
        return [(part[:, None, None], by[:, None, None]) for part, by in
                ((self.shift, self.scale), (self.shift.roll(1), self.scale.roll(1)))]  # fmt: skip

    def remove(self, strong: Tensor, weak: Tensor) -> tuple[Tensor, Tensor]:
        without, control = ((strong - shift) / scale for shift, scale in self._changes())
        return without, control

    def transplant(self, strong: Tensor, weak: Tensor) -> tuple[Tensor, Tensor]:
        cast, control = (weak * scale + shift for shift, scale in self._changes())
        return cast, control


def largest(maps: Tensor, fraction: float, size: tuple[int, int]) -> Tensor:
    """The `fraction` of each picture where its map is largest, as bool masks.

    Args:
        maps: (pictures, rows, columns). size: (H, W) of the masks.

    >>> largest(torch.tensor([[[0.0, 1.0], [0.0, 0.0]]]), 0.25, (2, 2))[0].tolist()
    [[False, True], [False, False]]
    """
    fine = F.interpolate(maps[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]
    count = max(1, round(fraction * size[0] * size[1]))
    order = fine.flatten(1).argsort(dim=1, descending=True, stable=True)[:, :count]
    mask = torch.zeros(len(maps), size[0] * size[1], dtype=torch.bool, device=maps.device)
    return mask.scatter_(1, order, True).view(-1, *size)


def overlay_mask(strong: Tensor, weak: Tensor) -> Tensor | None:
    """Where strong pictures agree with each other far more than other pictures do: a mark, frame or banner.

    Compares each pixel's spread among strong pictures with that among others, smoothed over 3 × 3 pixels.

    Args:
        strong, weak: (pictures, 3, H, W), at least four of each.

    Returns:
        (1, H, W) bool; None where less than half a percent or more than 60 % of the picture is so.
    """
    ratio = (strong.std(0) / weak.std(0).clamp_min(1e-3)).mean(0)[None, None]
    ratio = F.avg_pool2d(F.pad(ratio, (1, 1, 1, 1), mode="replicate"), 3, stride=1)[0]
    mask = ratio < CONSISTENT
    return mask if 0.005 <= float(mask.float().mean()) <= 0.6 else None


def border(size: tuple[int, int], width: float) -> tuple[Tensor, Tensor]:
    """The frame of a picture, `width` of the shorter side, and the ring of equal width inside it; (1, H, W) bool each.

    The ring is the control: moved elsewhere, a frame would be a cross over the middle, where most pictures have their
    object.
    """
    step = max(1, round(width * min(size)))

    def outside(inner: int) -> Tensor:
        mask = torch.ones(1, *size, dtype=torch.bool)
        mask[:, inner : size[0] - inner, inner : size[1] - inner] = False
        return mask

    return outside(step), outside(2 * step) & ~outside(step)
