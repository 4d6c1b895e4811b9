"""Outlines made from parameters: seven groups of figures, each concept one fixed figure in two colours.

Start at `figure`.
"""

from __future__ import annotations

import colorsys
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from .scene import draws

Point = tuple[float, float]
Polygon = list[Point]  # in a square from -1 to 1
GROUPS = ("blossom", "burst", "wheel", "twig", "totem", "arms", "vase")


@dataclass(frozen=True)
class Figure:
    """Polygons with the number of the colour they are filled with, and the two hues with their lightness."""

    parts: tuple[tuple[tuple[Point, ...], int], ...]
    hues: tuple[float, float]
    values: tuple[float, float]


def ellipse(x: float, y: float, a: float, b: float, turn: float = 0.0, n: int = 24) -> Polygon:
    """An ellipse as a polygon."""
    c, s = math.cos(turn), math.sin(turn)
    steps = [2 * math.pi * i / n for i in range(n)]
    return [
        (x + a * math.cos(t) * c - b * math.sin(t) * s, y + a * math.cos(t) * s + b * math.sin(t) * c)
        for t in steps
    ]


def regular(n: int, radius: float, turn: float = 0.0, inner: float | None = None) -> Polygon:
    """A regular polygon, or a star with an inner radius."""
    count = n if inner is None else 2 * n
    radii = [radius if inner is None or i % 2 == 0 else inner for i in range(count)]
    steps = [turn - math.pi / 2 + 2 * math.pi * i / count for i in range(count)]
    return [(r * math.cos(t), r * math.sin(t)) for r, t in zip(radii, steps, strict=True)]


def bar(x0: float, y0: float, x1: float, y1: float, width: float) -> Polygon:
    """A thick line."""
    length = math.hypot(x1 - x0, y1 - y0) or 1.0
    dx, dy = -(y1 - y0) / length * width / 2, (x1 - x0) / length * width / 2
    return [(x0 + dx, y0 + dy), (x1 + dx, y1 + dy), (x1 - dx, y1 - dy), (x0 - dx, y0 - dy)]


def _blossom(rng: random.Random) -> list[tuple[Polygon, int]]:
    k, m = rng.randint(2, 7), rng.randint(2, 9)
    a, b, phase = rng.uniform(0.15, 0.5), rng.uniform(0.0, 0.2), rng.uniform(0, 6.3)
    steps = [2 * math.pi * i / 90 for i in range(90)]
    radii = [1 + a * math.cos(k * t) + b * math.cos(m * t + phase) for t in steps]
    top = max(radii)
    outer = [(r / top * math.cos(t), r / top * math.sin(t)) for r, t in zip(radii, steps, strict=True)]
    core = rng.uniform(0.15, 0.4)
    inside = ellipse(0, 0, core, core) if rng.random() < 0.5 else regular(rng.randint(3, 5), core * 1.2)
    return [(outer, 0), (inside, 1)]


def _burst(rng: random.Random) -> list[tuple[Polygon, int]]:
    n, inner = rng.randint(3, 9), rng.uniform(0.3, 0.75)
    parts = [(regular(n, 1.0, rng.choice((0.0, math.pi / n)), inner), 0)]
    if rng.random() < 0.6:
        parts.append((regular(n, inner * 0.9, 0.0, inner * 0.5), 1))
    else:
        parts += [(ellipse(0.62 * x, 0.62 * y, 0.12, 0.12), 1) for x, y in regular(n, 1.0)]
    return parts


def _wheel(rng: random.Random) -> list[tuple[Polygon, int]]:
    teeth, depth, share = rng.randint(5, 12), rng.uniform(0.72, 0.88), rng.uniform(0.3, 0.7)
    outline = []
    for i in range(teeth):
        for at, radius in ((0, 1.0), (share, 1.0), (share, depth), (1, depth)):
            t = 2 * math.pi * (i + at) / teeth
            outline.append((radius * math.cos(t), radius * math.sin(t)))
    parts: list[tuple[Polygon, int]] = [(outline, 0)]
    spokes, hub = rng.choice((0, 0, 3, 4, 5, 6)), rng.uniform(0.2, 0.5)
    if spokes:
        parts.append((ellipse(0, 0, depth * 0.78, depth * 0.78, n=32), 1))
        parts += [(bar(0, 0, x * 0.8, y * 0.8, 0.16), 0) for x, y in regular(spokes, 1.0)]
    else:
        parts.append((regular(rng.choice((3, 4, 6, 24)), hub), 1))
    return parts


def _twig(rng: random.Random) -> list[tuple[Polygon, int]]:
    lean, parts = rng.uniform(-0.25, 0.25), []
    width = rng.uniform(0.12, 0.22)
    parts.append((bar(0, 1.0, lean, -0.8, width), 0))
    tip, mirrored = rng.uniform(0.1, 0.24), rng.random() < 0.5
    for i in range(rng.randint(2, 4)):
        y = 0.6 - 0.45 * i
        sides = (-1, 1) if mirrored else (1 if i % 2 else -1,)
        reach, rise = rng.uniform(0.45, 0.9), rng.uniform(-0.1, 0.6)
        for side in sides:
            root = lean * (1 - y) / 1.8
            parts.append((bar(root, y, side * reach, y - rise, width * 0.8), 0))
            parts.append((ellipse(side * reach, y - rise, tip, tip * rng.choice((1.0, 1.0, 1.8))), 1))
    parts.append((ellipse(lean, -0.82, tip * 1.2, tip * 1.2), 1))
    return parts


def _totem(rng: random.Random) -> list[tuple[Polygon, int]]:
    count, parts = rng.randint(2, 4), []
    height = 2.0 / count
    for i in range(count):
        y, wide, half = -1 + height * (i + 0.5), rng.uniform(0.35, 0.95), height / 2
        form = rng.randrange(4)
        if form == 0:
            shape = ellipse(0, y, wide, half)
        elif form == 1:
            shape = [(-wide, y - half), (wide, y - half), (wide, y + half), (-wide, y + half)]
        elif form == 2:
            shape = [(0, y - half), (wide, y + half), (-wide, y + half)]
        else:
            shape = [(-wide, y - half), (wide, y - half), (wide * 0.4, y + half), (-wide * 0.4, y + half)]
        parts.append((shape, (i + rng.randrange(2)) % 2 if i else 0))
    return parts


def _arms(rng: random.Random) -> list[tuple[Polygon, int]]:
    n, width, cap = rng.randint(3, 6), rng.uniform(0.14, 0.36), rng.randrange(3)
    parts: list[tuple[Polygon, int]] = []
    size = rng.uniform(0.18, 0.32)
    for x, y in regular(n, 0.8, rng.choice((0.0, math.pi / n))):
        parts.append((bar(0, 0, x, y, width), 0))
        if cap == 0:
            parts.append((ellipse(x, y, size, size), 1))
        elif cap == 1:
            parts.append(
                (bar(x - y * size * 1.4, y + x * size * 1.4, x + y * size * 1.4, y - x * size * 1.4, 0.2), 1)
            )
        else:
            turn = math.atan2(y, x) + math.pi / 2
            c, s = math.cos(turn), math.sin(turn)
            parts.append(
                ([(x + (p * c - q * s) * size, y + (p * s + q * c) * size) for p, q in regular(3, 1.2)], 1)
            )
    if rng.random() < 0.5:
        parts.append((ellipse(0, 0, size * 1.2, size * 1.2), rng.randrange(2)))
    return parts


def _vase(rng: random.Random) -> list[tuple[Polygon, int]]:
    knots = [rng.uniform(0.15, 0.9) for _ in range(5)]
    rows = [i / 20 for i in range(21)]
    right = []
    for t in rows:
        at = min(int(t * 4), 3)
        mix = (1 - math.cos(math.pi * (t * 4 - at))) / 2
        right.append((knots[at] * (1 - mix) + knots[at + 1] * mix, -1 + 2 * t))
    parts: list[tuple[Polygon, int]] = []
    if rng.random() < 0.4:  # handles
        parts += [(ellipse(side * 0.62, -0.1, 0.36, 0.36), 1) for side in (-1, 1)]
    parts.append((right + [(-x, y) for x, y in reversed(right)], 0))
    band = rng.randint(3, 14)
    x0, y0 = right[band]
    x1, y1 = right[min(band + 4, 20)]
    parts.append(([(x0, y0), (x1, y1), (-x1, y1), (-x0, y0)], 1))
    return parts


MAKERS: dict[str, Callable[[random.Random], list[tuple[Polygon, int]]]] = {
    "blossom": _blossom,
    "burst": _burst,
    "wheel": _wheel,
    "twig": _twig,
    "totem": _totem,
    "arms": _arms,
    "vase": _vase,
}


@cache
def figure(name: str, group: str) -> Figure:
    """The figure of a concept: the same for the same name and group."""
    rng = draws("figure", name, group)
    parts = MAKERS[group](rng)
    first = rng.random()
    hues = (first, (first + rng.uniform(0.2, 0.8)) % 1.0)
    values = (rng.choice((0.45, 0.75, 0.95)), rng.choice((0.2, 0.6, 0.95)))
    return Figure(tuple((tuple(points), colour) for points, colour in parts), hues, values)


def colours(shape: Figure, rng: random.Random) -> list[tuple[int, int, int]]:
    """The figure's two colours, a little different in every picture."""
    found = []
    for hue, value in zip(shape.hues, shape.values, strict=True):
        shade = min(1.0, max(0.05, value + rng.uniform(-0.1, 0.1)))
        r, g, b = colorsys.hsv_to_rgb((hue + rng.uniform(-0.05, 0.05)) % 1.0, rng.uniform(0.55, 0.95), shade)
        found.append((int(255 * r), int(255 * g), int(255 * b)))
    return found
