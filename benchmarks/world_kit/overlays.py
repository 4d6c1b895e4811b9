"""Overlays of the photo world: logos, frames, textured borders and colour casts; and looks.

Start at `MARKS`, `CONTEXTS` and `LOOKS`, each a stock of named functions on (96, 96, 3) float32 pictures in 0..255.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import numpy as np
from PIL import Image, ImageDraw

from .scene import SIDE, Scene, draws

BORDER = 14  # px of a textured border on each side
LOGO = 30  # px
_ROWS, _COLUMNS = np.mgrid[0 : SIDE + 32, 0 : SIDE + 32].astype(np.float32)


def _polar(points: int, radii: tuple[float, ...], turn: float = -90.0) -> list[tuple[float, float]]:
    steps = [math.radians(turn + 360 * i / points) for i in range(points)]
    return [
        (50 + radii[i % len(radii)] * math.cos(a), 50 + radii[i % len(radii)] * math.sin(a))
        for i, a in enumerate(steps)
    ]


Figure = Callable[[ImageDraw.ImageDraw], object]
FIGURES: dict[str, tuple[tuple[int, int, int], Figure]] = {
    "star mark": ((255, 225, 60), lambda d: d.polygon(_polar(10, (46, 19)), fill=255)),
    "ring mark": ((250, 250, 250), lambda d: d.ellipse((8, 8, 92, 92), outline=255, width=17)),
    "arrow mark": (
        (60, 200, 255),
        lambda d: d.polygon([(5, 38), (52, 38), (52, 12), (96, 50), (52, 88), (52, 62), (5, 62)], fill=255),
    ),
    "triangle mark": ((255, 90, 40), lambda d: d.polygon(_polar(3, (50,)), fill=255)),
    "plus mark": (
        (60, 230, 90),
        lambda d: [d.rectangle(box, fill=255) for box in ((38, 5, 62, 95), (5, 38, 95, 62))],
    ),
    "crescent mark": (
        (230, 230, 255),
        lambda d: [d.ellipse((8, 8, 92, 92), fill=255), d.ellipse((32, 2, 104, 74), fill=0)],
    ),
    "bolt mark": (
        (255, 255, 120),
        lambda d: d.polygon([(58, 2), (18, 56), (46, 56), (38, 98), (84, 40), (55, 40)], fill=255),
    ),
    "bars mark": (
        (255, 80, 200),
        lambda d: [
            d.rectangle((x, 100 - h, x + 14, 96), fill=255)
            for x, h in ((8, 35), (31, 60), (54, 80), (77, 98))
        ],
    ),
}


@cache
def _logo(name: str, size: int) -> np.ndarray:
    """Coverage of a logo and its dark rim, (size, size, 2) in 0..1."""
    image = Image.new("L", (100, 100))
    FIGURES[name][1](ImageDraw.Draw(image))
    small = np.asarray(image.resize((size, size), Image.Resampling.BOX), dtype=np.float32) / 255
    padded = np.pad(small, 1)
    rim = np.max(
        [padded[1 + y : size + 1 + y, 1 + x : size + 1 + x] for y in (-1, 0, 1) for x in (-1, 0, 1)], axis=0
    )
    return np.stack([small, rim], -1)


def logo(name: str) -> Callable[[np.ndarray, Scene], None]:
    """A small figure in one of the lower corners or at the top."""

    def draw(picture: np.ndarray, scene: Scene) -> None:
        rng = scene.draws("mark")
        size = LOGO + rng.randrange(-3, 4)
        left = rng.choice((3, SIDE - size - 3)) + rng.randrange(-2, 3)
        top = rng.choice((3, SIDE - size - 3)) + rng.randrange(-2, 3)
        cover = _logo(name, size)
        part = picture[top : top + size, left : left + size]
        part += cover[..., 1:] * 0.55 * (20 - part)
        part += cover[..., :1] * 0.9 * (np.array(FIGURES[name][0], dtype=np.float32) - part)

    return draw


def frame(
    colour: tuple[int, int, int], width: int, style: str = "plain"
) -> Callable[[np.ndarray, Scene], None]:
    """A frame at the picture's edge."""
    rows, columns = _ROWS[:SIDE, :SIDE], _COLUMNS[:SIDE, :SIDE]
    edge = np.minimum(np.minimum(rows, SIDE - 1 - rows), np.minimum(columns, SIDE - 1 - columns))
    cover = (edge < width).astype(np.float32)
    paint = np.zeros((SIDE, SIDE, 3), dtype=np.float32) + np.array(colour, dtype=np.float32)
    if style == "film":
        cover = ((rows < width) | (rows >= SIDE - width)).astype(np.float32)
        holes = (columns % 10 < 5) & (np.minimum(rows, SIDE - 1 - rows) % width >= 2) & (edge >= 2)
        paint[holes & (cover > 0)] = 245
    if style == "double":
        cover = ((edge < width / 3) | ((edge >= 2 * width / 3) & (edge < width))).astype(np.float32)
    if style == "dashed":
        paint[((rows + columns) // 8 % 2) > 0] = 250

    def draw(picture: np.ndarray, scene: Scene) -> None:
        picture += cover[..., None] * (paint - picture)

    return draw


FRAMES = ("black frame", "gold frame", "film frame", "dashed frame")
MARKS: dict[str, Callable[[np.ndarray, Scene], None]] = {name: logo(name) for name in FIGURES} | {
    "black frame": frame((8, 8, 8), 6),
    "gold frame": frame((205, 165, 50), 9, "double"),
    "film frame": frame((15, 15, 15), 10, "film"),
    "dashed frame": frame((190, 20, 40), 6, "dashed"),
}


def _noise(rng: np.random.Generator, cells: int) -> np.ndarray:
    """Smooth noise in 0..1 of the size of a texture."""
    coarse = Image.fromarray((rng.random((cells, cells)) * 255).astype(np.uint8))
    return np.asarray(coarse.resize((SIDE + 32, SIDE + 32), Image.Resampling.BICUBIC), dtype=np.float32) / 255


Pattern = Callable[[np.random.Generator], np.ndarray]
CANVASES: dict[str, tuple[tuple[int, int, int], tuple[int, int, int], Pattern]] = {
    "wood grain": (
        (120, 70, 30),
        (200, 140, 80),
        lambda g: 0.5 + 0.5 * np.sin(_ROWS * 0.9 + 9 * _noise(g, 5) + 0.05 * _COLUMNS),
    ),
    "checkerboard": ((20, 20, 20), (240, 240, 240), lambda g: (_ROWS // 7 + _COLUMNS // 7) % 2),
    "polka dots": (
        (250, 250, 250),
        (220, 40, 120),
        lambda g: ((_ROWS % 12 - 6) ** 2 + (_COLUMNS % 12 - 6) ** 2 < 15).astype(np.float32),
    ),
    "brick wall": (
        (170, 70, 50),
        (215, 205, 190),
        lambda g: ((_ROWS % 9 < 1.5) | ((_COLUMNS + 9 * (_ROWS // 9 % 2)) % 18 < 1.5)).astype(np.float32),
    ),
    "zigzag": (
        (30, 90, 160),
        (240, 230, 120),
        lambda g: ((_ROWS + np.abs(_COLUMNS % 14 - 7)) % 10 < 5).astype(np.float32),
    ),
    "leopard print": (
        (225, 170, 90),
        (50, 30, 15),
        lambda g: (np.abs(_noise(g, 26) - 0.5) > 0.17).astype(np.float32),
    ),
    "grass": (
        (40, 110, 30),
        (120, 200, 60),
        lambda g: np.clip(_noise(g, 60) * 0.7 + _noise(g, 12) * 0.5 - 0.1, 0, 1),
    ),
    "tartan": (
        (150, 20, 30),
        (20, 70, 40),
        lambda g: 0.5 * (_ROWS % 16 < 6) + 0.5 * (_COLUMNS % 16 < 6),
    ),
}
CASTS = {
    "red tint": (1.25, 0.55, 0.5),
    "green tint": (0.55, 1.2, 0.5),
    "blue tint": (0.5, 0.65, 1.3),
    "purple tint": (1.1, 0.5, 1.15),
}


@cache
def _canvas(name: str, variant: int) -> np.ndarray:
    rng = np.random.default_rng([sum(name.encode()), variant])
    low, high, pattern = CANVASES[name]
    mix = np.asarray(pattern(rng), dtype=np.float32)[..., None]
    ends = [np.array(c, dtype=np.float32) * (0.85 + 0.3 * rng.random(3)) for c in (low, high)]
    return np.clip(ends[0] * (1 - mix) + ends[1] * mix, 0, 255).astype(np.float32)


def surround(name: str) -> Callable[[np.ndarray, Scene], None]:
    """A textured border, as of a photograph that lies on something."""

    def draw(picture: np.ndarray, scene: Scene) -> None:
        rng = scene.draws("context")
        texture, down, across = _canvas(name, rng.randrange(8)), rng.randrange(32), rng.randrange(32)
        inner = picture[BORDER:-BORDER, BORDER:-BORDER].copy()
        picture[:] = texture[down : down + SIDE, across : across + SIDE]
        picture[BORDER:-BORDER, BORDER:-BORDER] = inner

    return draw


def cast(gains: tuple[float, float, float]) -> Callable[[np.ndarray, Scene], None]:
    """A colour cast over everything that is there already."""

    def draw(picture: np.ndarray, scene: Scene) -> None:
        strength = 0.75 + 0.25 * scene.draws("context").random()
        gray = picture.mean(-1, keepdims=True)
        tinted = (0.5 * picture + 0.5 * gray + 12) * np.array(gains, dtype=np.float32)
        picture += strength * (np.clip(tinted, 0, 255) - picture)

    return draw


CONTEXTS: dict[str, Callable[[np.ndarray, Scene], None]] = {name: surround(name) for name in CANVASES} | {
    name: cast(gains) for name, gains in CASTS.items()
}


def _gray(picture: np.ndarray) -> np.ndarray:
    return picture @ np.array([0.3, 0.59, 0.11], dtype=np.float32)


def _negative(picture: np.ndarray) -> np.ndarray:
    return 255 - picture


def _sketch(picture: np.ndarray) -> np.ndarray:
    gray = _gray(picture)
    edges = np.abs(np.diff(gray, axis=0, prepend=gray[:1])) + np.abs(
        np.diff(gray, axis=1, prepend=gray[:, :1])
    )
    return np.repeat(np.clip(255 - 3.0 * edges, 0, 255)[..., None], 3, -1) * np.array(
        [1, 0.97, 0.88], dtype=np.float32
    )


def _mosaic(picture: np.ndarray) -> np.ndarray:
    cells = picture.reshape(SIDE // 8, 8, SIDE // 8, 8, 3).mean((1, 3))
    return cells.repeat(8, 0).repeat(8, 1)


def _duotone(picture: np.ndarray) -> np.ndarray:
    gray = _gray(picture)[..., None]
    mix = np.clip((gray - np.median(gray)) / 40 + 0.5, 0, 1)
    return (1 - mix) * np.array([40, 10, 110], dtype=np.float32) + mix * np.array(
        [255, 190, 60], dtype=np.float32
    )


def _halftone(picture: np.ndarray) -> np.ndarray:
    screen = 127 + 100 * np.sin(_ROWS[:SIDE, :SIDE] * 1.25) * np.sin(_COLUMNS[:SIDE, :SIDE] * 1.25)
    ink = (_gray(picture) < screen)[..., None]
    return np.where(ink, np.float32(25), np.float32(240)) * np.ones(3, dtype=np.float32)


def _inverted(picture: np.ndarray) -> np.ndarray:
    return picture[::-1].copy()


LOOKS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "negative": _negative,
    "sketch": _sketch,
    "mosaic": _mosaic,
    "duotone": _duotone,
    "halftone": _halftone,
    "upside down": _inverted,
}


def card(scene: Scene) -> np.ndarray:
    """A plain card with a gradient, for a word alone."""
    rng = draws(scene.seed, "card")
    ends = [np.array([rng.randrange(40, 230) for _ in range(3)], dtype=np.float32) for _ in range(2)]
    mix = (_ROWS[:SIDE, :SIDE, None] if rng.random() < 0.5 else _COLUMNS[:SIDE, :SIDE, None]) / SIDE
    return ends[0] * (1 - mix) + ends[1] * mix
