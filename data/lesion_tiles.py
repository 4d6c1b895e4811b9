"""Textures of drawn lesions: noise, pigment nets, hairs and bubbles, computed once from seeds in whole numbers.

No pixel depends on files, a library's random generator or a transcendental function, so that every machine draws the
same bytes. All tiles are uint8 or int32 arrays; those that wrap round have side `TILE`.
Start at `tiles`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from .drawing import SIZE, Draws

TILE = 128  # px
TURN = 256  # steps of a full turn
ONE = 1 << 12  # what 1.0 is in `SINE`
VARIANTS = 3  # of each texture
HAIRS, BUBBLE_SIZES = 10, (5, 6, 7, 8, 9)

# Rounded to 1/4096: the last digits in which two machines' sines may differ are gone.
SINE = np.array([round(ONE * math.sin(2 * math.pi * step / TURN)) for step in range(TURN)], np.int32)


def _stream(seed: int, n: int) -> np.ndarray:
    """`n` bytes that follow from the seed, (n,) int64."""
    draws = Draws(seed, 900)
    return np.array([draws.below(256) for _ in range(n)], np.int64)


def _grid() -> tuple[np.ndarray, np.ndarray]:
    """Twice the distance of each pixel's centre from the middle of a tile, down and right; odd whole numbers."""
    step = 2 * np.arange(TILE, dtype=np.int64) + 1 - TILE
    return step[:, None] + np.zeros((1, TILE), np.int64), step[None, :] + np.zeros((TILE, 1), np.int64)


def radius() -> np.ndarray:
    """Distance from the middle of a tile in 1/16 px, (TILE, TILE) int32; a square root is exact to the last digit."""
    down, right = _grid()
    return np.floor(np.sqrt((64 * (down * down + right * right)).astype(np.float64))).astype(np.int32)


def angle() -> np.ndarray:
    """Direction from the middle of a tile in 1/256 turns, (TILE, TILE) intp: found by comparing whole numbers."""
    down, right = _grid()
    flat, steep = np.maximum(abs(down), abs(right)), np.minimum(abs(down), abs(right))
    octant = np.zeros((TILE, TILE), np.int64)  # 0 to 32: the angle to the nearer axis
    for step in range(32):
        octant += steep * (1 << 16) >= flat * round((1 << 16) * math.tan(2 * math.pi * (step + 0.5) / TURN))
    quarter = np.where(abs(down) > abs(right), TURN // 4 - octant, octant)
    half = np.where(right < 0, TURN // 2 - quarter, quarter)
    return (np.where(down < 0, -half, half) % TURN).astype(np.intp)


def _spread(field: np.ndarray) -> np.ndarray:
    """Ranks of a field's values spread evenly over 0 to 255, as uint8: thresholds then mean shares of the area."""
    order = np.argsort(field.ravel(), kind="stable")
    ranks = np.empty(field.size, np.int64)
    ranks[order] = np.arange(field.size)
    return (ranks * 256 // field.size).astype(np.uint8).reshape(field.shape)


def noise(seed: int, coarse: int) -> np.ndarray:
    """Smooth noise that wraps round, (TILE, TILE) uint8 with every value equally frequent.

    Args:
        coarse: px between independent values; a divisor of `TILE`.
    """
    side = TILE // coarse
    corners = _stream(seed, side * side).reshape(side, side)
    at = np.arange(TILE) / coarse  # exact: coarse is a power of two
    low, part = at.astype(np.int64) % side, ((at % 1) * 64).astype(np.int64)
    part = part * part * (192 - 2 * part) // (64 * 64)  # smooth step of 0 to 64
    rows = corners[low] * (64 - part)[:, None] + corners[(low + 1) % side] * part[:, None]
    field = rows[:, low] * (64 - part) + rows[:, (low + 1) % side] * part
    return _spread(field)


def net(seed: int, period: int, cell: int, jitter: int, width: int, gaps: int) -> np.ndarray:
    """A pigment net: 255 on its lines, 0 in its holes, (TILE, TILE) uint8, wrapping round.

    Args:
        period: px after which it repeats, a divisor of `TILE`. cell: px between holes, a divisor of the period.
        jitter: 1/16 px that a hole may lie off its place. width: of the lines, in 1/16 px.
        gaps: of 256, the share of holes that swallow the lines about them.
    """
    side, draws = period // cell, Draws(seed, 901)
    middles = []
    for row in range(side):
        for column in range(side):
            shift = 8 * cell * (row % 2)  # every other row stands between the holes of the last
            y = 16 * cell * row + 8 * cell + draws.below(2 * jitter + 1) - jitter
            x = 16 * cell * column + shift + draws.below(2 * jitter + 1) - jitter
            middles.append((y, x, draws.below(256) < gaps))
    full = 16 * period
    places = np.arange(period, dtype=np.int64) * 16 + 8
    first = np.full((period, period), 1 << 40, np.int64)
    second = first.copy()
    swallowed = np.zeros((period, period), bool)
    for y, x, gap in middles:
        down = np.abs(places - y) % full
        right = np.abs(places - x) % full
        down, right = np.minimum(down, full - down), np.minimum(right, full - right)
        far = down[:, None] ** 2 + right[None, :] ** 2
        nearer = far < first
        second = np.where(nearer, first, np.minimum(second, far))
        first = np.where(nearer, far, first)
        swallowed = np.where(nearer, gap, swallowed)
    between = np.sqrt(second.astype(np.float64)) - np.sqrt(first.astype(np.float64))
    line = np.clip(255 * (width - np.floor(between)) // max(1, width // 2), 0, 255)
    return np.tile(np.where(swallowed, 0, line).astype(np.uint8), (TILE // period, TILE // period))


def hair(seed: int) -> np.ndarray:
    """A few bent hairs: 255 on them, (TILE, TILE) uint8."""
    draws, mask = Draws(seed, 902), np.zeros((TILE, TILE), np.int64)
    steps = np.arange(0, 1025, dtype=np.int64)
    for _ in range(6):
        ends = [(draws.below(TILE * 16), draws.below(TILE * 16)) for _ in range(3)]
        (y0, x0), (y1, x1), (y2, x2) = ends
        keep, rest = steps, 1024 - steps
        y = (rest * rest * y0 + 2 * rest * keep * y1 + keep * keep * y2) >> 20
        x = (rest * rest * x0 + 2 * rest * keep * x1 + keep * keep * x2) >> 20
        for shift in (-8, 0, 8):  # a little wider than one pixel
            near = 110 if shift else 255
            np.maximum.at(mask, (((y + shift) >> 4) % TILE, (x >> 4) % TILE), near)
    return mask.astype(np.uint8)


def bubble(size: int) -> np.ndarray:
    """A gel bubble: what is added to the picture, (size, size, 1) int32 from −60 (rim) to 110 (glint)."""
    step = 2 * np.arange(size) + 1 - size
    far = step[:, None] ** 2 + step[None, :] ** 2
    inside, rim = far <= size * size, far > (size - 2) * (size - 2)
    glint = (step[:, None] + size // 3) ** 2 + (step[None, :] + size // 3) ** 2 <= (size // 2) ** 2
    added = np.where(inside, 28, 0)
    added = np.where(inside & rim, -60, added)
    added = np.where(inside & ~rim & glint, 110, added)
    return added.astype(np.int32)[..., None]


@dataclass(frozen=True)
class Tiles:
    """All tiles."""

    radius: np.ndarray  # (TILE, TILE) int32, 1/16 px from the middle
    angle: np.ndarray  # (TILE, TILE) intp, 1/256 turns
    fine: tuple[np.ndarray, ...]  # skin's texture
    coarse: tuple[np.ndarray, ...]  # pigment
    regular: tuple[np.ndarray, ...]  # nets
    atypical: tuple[np.ndarray, ...]
    hairs: tuple[np.ndarray, ...]
    bubbles: tuple[np.ndarray, ...]
    corners: tuple[np.ndarray, ...]  # (SIZE, SIZE, 1) int32, brightness of 256 under a vignette


def _corners(reach: int) -> np.ndarray:
    """Brightness of 256 that falls off from `reach` px about the middle, (SIZE, SIZE, 1) int32."""
    cut = (TILE - SIZE) // 2
    far = radius()[cut : cut + SIZE, cut : cut + SIZE]
    return np.clip(256 - (far - 16 * reach) * 3, 18, 256).astype(np.int32)[..., None]


@lru_cache(maxsize=1)
def tiles() -> Tiles:
    """All tiles, made at the first call and kept."""
    fine = tuple((noise(10 + n, 2) // 2 + noise(20 + n, 8) // 2).astype(np.uint8) for n in range(VARIANTS))
    coarse = tuple(
        _spread(noise(30 + n, 16).astype(np.int64) * 3 + noise(40 + n, 8)) for n in range(VARIANTS)
    )
    return Tiles(
        radius=radius(),
        angle=angle(),
        fine=fine,
        coarse=coarse,
        regular=tuple(net(50 + n, 32, 4, 4, 22, 0) for n in range(VARIANTS)),
        atypical=tuple(net(60 + n, 64, 8, 62, 44, 60) for n in range(VARIANTS)),
        hairs=tuple(hair(70 + n) for n in range(HAIRS)),
        bubbles=tuple(bubble(size) for size in BUBBLE_SIZES),
        corners=tuple(_corners(reach) for reach in (25, 28, 31)),
    )
