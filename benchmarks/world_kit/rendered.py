"""Draws figures before procedural grounds, with overlays and words, without photographs and sprites.

Start at `RenderedRenderer`.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from functools import cache

import numpy as np
from PIL import Image, ImageDraw

from .lettering import RENDERED_FONTS, write
from .scene import SIDE, Scene
from .shapes import colours, figure

ZOOM = 2  # figures are drawn at twice the size and averaged
TILE = SIDE + 32
_ROWS, _COLUMNS = np.mgrid[0:TILE, 0:TILE].astype(np.float32)
Array = np.ndarray


def _smooth(rng: np.random.Generator, cells: int) -> Array:
    coarse = Image.fromarray((rng.random((cells, cells)) * 255).astype(np.uint8))
    return np.asarray(coarse.resize((TILE, TILE), Image.Resampling.BICUBIC), dtype=np.float32) / 255


def _away(rng: np.random.Generator) -> Array:
    return np.hypot(_ROWS - TILE * rng.uniform(0.3, 0.7), _COLUMNS - TILE * rng.uniform(0.3, 0.7))


def _hexes(g: np.random.Generator) -> Array:
    a = np.cos(_COLUMNS * 0.42)
    b = np.cos(0.42 * (_COLUMNS * 0.5 + _ROWS * 0.866))
    c = np.cos(0.42 * (_COLUMNS * 0.5 - _ROWS * 0.866))
    return ((a + b + c) > -0.3).astype(np.float32)


def _confetti(g: np.random.Generator) -> Array:
    image = Image.new("F", (TILE, TILE), 0.0)
    pen = ImageDraw.Draw(image)
    for _ in range(150):
        x, y, s = g.uniform(0, TILE), g.uniform(0, TILE), g.uniform(2, 5)
        pen.rectangle((x, y, x + s, y + s * 0.6), fill=float(g.uniform(0.5, 1.0)))
    return np.asarray(image, dtype=np.float32)


def _rays(g: np.random.Generator) -> Array:
    angle = np.arctan2(_ROWS - TILE * g.uniform(0.4, 0.6), _COLUMNS - TILE * g.uniform(0.4, 0.6))
    return (np.sin(angle * 12) > 0).astype(np.float32)


def _scales(g: np.random.Generator) -> Array:
    row = _ROWS // 8
    return np.hypot(_ROWS % 8 - 8, (_COLUMNS + 8 * (row % 2)) % 16 - 8) / 11


GROUNDS: dict[str, tuple[str, str, Callable[[np.random.Generator], Array]]] = {
    "marble": ("#dcdcd8", "#5a5a66", lambda g: np.abs(np.sin(0.05 * _COLUMNS + 7 * _smooth(g, 6)))),
    "ripples": ("#0b4f6c", "#9fe0f5", lambda g: 0.5 + 0.5 * np.sin(_away(g) * 0.55)),
    "honeycomb": ("#7a4a00", "#ffc83d", _hexes),
    "clouds": (
        "#4a90d9",
        "#ffffff",
        lambda g: np.clip(1.6 * _smooth(g, 7) - 0.4 + 0.2 * _smooth(g, 20), 0, 1),
    ),
    "static": ("#101010", "#f0f0f0", lambda g: np.kron(g.random((TILE // 2, TILE // 2)), np.ones((2, 2)))),
    "fish scales": ("#0f5e4c", "#7fe0b0", _scales),
    "sun rays": ("#ffe9a8", "#f08a24", _rays),
    "crosshatch": (
        "#f4efe1",
        "#40342a",
        lambda g: (((_ROWS + _COLUMNS) % 9 < 1.6) | ((_ROWS - _COLUMNS) % 9 < 1.6)).astype(np.float32),
    ),
    "confetti": ("#202048", "#ff9ad5", _confetti),
    "terraces": ("#3d2b56", "#d9a5ff", lambda g: np.floor(_smooth(g, 6) * 7) / 6),
    "pinstripes": ("#f7f7ff", "#203a8f", lambda g: (_COLUMNS % 6 < 2).astype(np.float32)),
    "moss": ("#1f3314", "#8fbf3f", lambda g: np.clip(_smooth(g, 40) + 0.5 * _smooth(g, 9) - 0.35, 0, 1)),
}


def _rgb(code: str) -> Array:
    return np.array([int(code[i : i + 2], 16) for i in (1, 3, 5)], dtype=np.float32)


@cache
def _ground(name: str, variant: int) -> Array:
    rng = np.random.default_rng([7, sum(name.encode()), variant])
    low, high, pattern = GROUNDS[name]
    mix = np.clip(np.asarray(pattern(rng), dtype=np.float32), 0, 1)[..., None]
    ends = [_rgb(code) * (0.85 + 0.3 * rng.random(3)).astype(np.float32) for code in (low, high)]
    return np.clip(ends[0] * (1 - mix) + ends[1] * mix, 0, 255).astype(np.float32)


def ground(scene: Scene) -> Array:
    """The ground that a scene's figures stand on; a plain gradient where it has none."""
    rng = scene.draws("ground")
    if scene.context:
        down, across = rng.randrange(32), rng.randrange(32)
        return _ground(scene.context, rng.randrange(8))[down : down + SIDE, across : across + SIDE].copy()
    base = np.array([rng.randrange(150, 245) for _ in range(3)], dtype=np.float32)
    return base * (1 - 0.25 * _ROWS[:SIDE, :SIDE, None] / SIDE)


Pen = ImageDraw.ImageDraw
Box = tuple[float, float, float, float]


def _ribbon(pen: Pen, rng: random.Random) -> None:
    edge = rng.uniform(30, 38)
    pen.polygon([(0, edge), (edge, 0), (edge + 12, 0), (0, edge + 12)], fill=(230, 20, 60, 230))


def _barcode(pen: Pen, rng: random.Random) -> None:
    left, top = rng.uniform(2, 58), rng.choice((2, 74))
    pen.rectangle((left, top, left + 36, top + 20), fill=(255, 255, 255, 240))
    for i, wide in enumerate((1, 2, 1, 1, 3, 1, 2, 2, 1, 3)):
        at = int(left + 2 + 3.3 * i)
        pen.rectangle((at, top + 2, at + wide - 1, top + 18), fill=(0, 0, 0, 255))


def _target(pen: Pen, rng: random.Random) -> None:
    x, y = rng.choice((16, 80)) + rng.uniform(-3, 3), rng.choice((16, 80)) + rng.uniform(-3, 3)
    for radius, fill in ((14, (220, 0, 0, 235)), (9, (255, 255, 255, 235)), (4.5, (220, 0, 0, 235))):
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)


def _mesh(pen: Pen, rng: random.Random) -> None:
    start = rng.uniform(0, 16)
    for i in range(7):
        at = start + 16 * i
        pen.line((at, 0, at, 96), fill=(0, 240, 255, 190), width=2)
        pen.line((0, at, 96, at), fill=(0, 240, 255, 190), width=2)


def _brackets(pen: Pen, rng: random.Random) -> None:
    for x, y in ((4, 4), (92, 4), (4, 92), (92, 92)):
        dx, dy = (16 if x < 48 else -16), (16 if y < 48 else -16)
        pen.line((x, y, x + dx, y), fill=(255, 255, 255, 255), width=4)
        pen.line((x, y, x, y + dy), fill=(255, 255, 255, 255), width=4)


def _seal(pen: Pen, rng: random.Random) -> None:
    x, y = rng.choice((18, 78)), rng.choice((18, 78))
    points = []
    for i in range(24):
        radius = 15 if i % 2 else 11.5
        points.append((x + radius * math.cos(i * math.pi / 12), y + radius * math.sin(i * math.pi / 12)))
    pen.polygon(points, fill=(140, 20, 150, 235))
    pen.ellipse((x - 6, y - 6, x + 6, y + 6), fill=(255, 225, 120, 235))


def _scanlines(pen: Pen, rng: random.Random) -> None:
    for y in range(rng.randrange(4), 96, 5):
        pen.line((0, y, 96, y), fill=(0, 0, 0, 170), width=2)


def _squiggle(pen: Pen, rng: random.Random) -> None:
    y = rng.choice((10, 86))
    points = [(x, y + 6 * math.sin(x * 0.35)) for x in range(0, 97, 3)]
    pen.line(points, fill=(255, 120, 0, 255), width=5)


def _redaction(pen: Pen, rng: random.Random) -> None:
    y = rng.choice((6, 78)) + rng.uniform(-3, 3)
    pen.rectangle((8, y, 88, y + 11), fill=(0, 0, 0, 255))


def _sparkles(pen: Pen, rng: random.Random) -> None:
    for _ in range(9):
        x, y, s = rng.uniform(4, 92), rng.uniform(4, 92), rng.uniform(4, 7)
        pen.polygon(
            [(x, y - s), (x + 1.5, y - 1.5), (x + s, y), (x + 1.5, y + 1.5)]
            + [(x, y + s), (x - 1.5, y + 1.5), (x - s, y), (x - 1.5, y - 1.5)],
            fill=(255, 255, 200, 255),
        )


STAMPS: dict[str, Callable[[Pen, random.Random], None]] = {
    "corner ribbon": _ribbon,
    "barcode": _barcode,
    "target sign": _target,
    "mesh overlay": _mesh,
    "viewfinder brackets": _brackets,
    "purple seal": _seal,
    "scan lines": _scanlines,
    "squiggle": _squiggle,
    "redaction bar": _redaction,
    "sparkles": _sparkles,
}
FILLS = ("hollow", "striped", "shadow", "pixelated", "glowing", "patchwork")


class RenderedRenderer:
    """Renders scenes whose concepts are figures of `shapes`."""

    def __init__(self, groups: dict[str, str]):
        self.groups = dict(groups)

    def _place(self, scene: Scene, role: str, sizes: tuple[int, int]) -> tuple[int, float, float, float]:
        rng = scene.draws(role)
        size = rng.randrange(*sizes)
        if role == "main":
            x, y = 48 + rng.uniform(-12, 12), 48 + rng.uniform(-12, 12)
        else:
            x, y = rng.choice((18, 78)) + rng.uniform(-3, 3), rng.choice((18, 78)) + rng.uniform(-3, 3)
        return size, x, y, rng.uniform(-0.3, 0.3)

    def _draw(self, picture: Array, concept: str, scene: Scene, role: str, look: str | None) -> None:
        shape = figure(concept, self.groups[concept])
        size, x, y, turn = self._place(scene, role, (50, 66) if role == "main" else (28, 35))
        rng = scene.draws(role + " colours")
        paints: list[tuple[int, ...]] = [tuple(c) for c in colours(shape, rng)]
        if look == "shadow":
            paints = [(12, 12, 16), (30, 30, 36)]
        c, s = math.cos(turn) * size / 2 * ZOOM, math.sin(turn) * size / 2 * ZOOM
        layer = Image.new("RGBA", (SIDE * ZOOM, SIDE * ZOOM))
        pen = ImageDraw.Draw(layer)
        placed = [
            ([(x * ZOOM + p * c - q * s, y * ZOOM + p * s + q * c) for p, q in points], colour)
            for points, colour in shape.parts
        ]
        if look == "glowing":
            for points, _ in placed:
                pen.line([*points, points[0]], fill=(120, 255, 120, 255), width=9 * ZOOM, joint="curve")
        for points, _ in placed:
            pen.line([*points, points[0]], fill=(25, 25, 30, 255), width=2 * ZOOM)
        for points, colour in placed:
            if look == "hollow":
                pen.line([*points, points[0]], fill=(*paints[colour], 255), width=3 * ZOOM)
            else:
                pen.polygon(points, fill=(*paints[colour], 255))
        drawn = np.asarray(layer.reduce(ZOOM), dtype=np.float32)
        alpha = drawn[..., 3:] / 255
        paint = drawn[..., :3]
        rows, columns = _ROWS[:SIDE, :SIDE], _COLUMNS[:SIDE, :SIDE]
        if look == "striped":
            paint = np.where((((rows + columns) % 9) < 4)[..., None], np.float32(245), paint)
        elif look == "patchwork":
            tile = ((rows // 6 + columns // 6) % 2)[..., None]
            paint = np.where(tile > 0, paint[..., ::-1], paint)
        elif look == "pixelated":
            both = (
                np.concatenate([paint * alpha, alpha], -1).reshape(SIDE // 8, 8, SIDE // 8, 8, 4).mean((1, 3))
            )
            both = both.repeat(8, 0).repeat(8, 1)
            alpha = (both[..., 3:] > 0.35).astype(np.float32)
            paint = both[..., :3] / np.maximum(both[..., 3:], 1e-3)
        picture += alpha * (paint - picture)

    def render(self, scene: Scene, unseen: bool | None = None) -> Array:
        """Pixels, (96, 96, 3) uint8; `unseen` plays no part, since every drawing is new."""
        picture = ground(scene)
        if scene.main:
            self._draw(picture, scene.main, scene, "main", scene.look)
        if scene.companion:
            self._draw(picture, scene.companion, scene, "companion", None)
        if scene.word:
            write(picture, scene, RENDERED_FONTS)
        if scene.mark:
            layer = Image.new("RGBA", (SIDE, SIDE))
            STAMPS[scene.mark](ImageDraw.Draw(layer), scene.draws("mark"))
            drawn = np.asarray(layer, dtype=np.float32)
            picture += drawn[..., 3:] / 255 * (drawn[..., :3] - picture)
        return np.clip(picture + 0.5, 0, 255).astype(np.uint8)
