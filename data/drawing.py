"""Drawing of a scene from baked assets: sprites, textures, glyphs and watermarks composited in whole numbers.

Owns the assets, the seeded draws and the order of compositing. What a scene consists of is in `scene`.
Rendering is integer arithmetic: the same scene gives the same bytes on every machine. Start at `draw`.
"""

from __future__ import annotations

import json
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from .scene import Scene

ASSETS = Path(__file__).parent / "assets"
SIZE = 64  # px, the side of every picture
MAIN_SIZES = (28, 30, 32, 34, 36, 38, 40, 42)
COMPANION_SIZES = (18, 20, 22, 24)
WORD_COLOURS = ((255, 255, 255), (20, 20, 20), (220, 30, 40), (30, 60, 200), (250, 220, 40), (20, 130, 60))
WATERMARK_STRENGTH = 130  # of 255
_MASK64 = (1 << 64) - 1


class SceneError(ValueError):
    """A scene that cannot be drawn: an unknown name, a word that does not fit, contradictory parts."""


class _Assets:
    """The baked files, read once, ready for integer compositing."""

    def __init__(self) -> None:
        atlas = json.loads((ASSETS / "atlas.json").read_text(encoding="utf-8"))
        self.sprite_names = {name: number for number, name in enumerate(atlas["sprites"])}
        self.texture_names = {name: number for number, name in enumerate(atlas["textures"])}
        self.watermark_names = {name: number for number, name in enumerate(atlas["watermarks"])}
        self.heights, self.n_faces = atlas["heights"], len(atlas["faces"])
        sprites = _pixels("sprites.png")
        side, columns = 64, sprites.shape[1] // 64
        self.sprites = [
            sprites[n // columns * side :, n % columns * side :][:side, :side]
            for n in range(len(self.sprite_names))
        ]
        textures = _pixels("textures.png")
        self.texture_side = tall = textures.shape[0] // len(self.texture_names)
        self.texture_variants = textures.shape[1] // tall
        # Doubled in both directions: a crop may start anywhere and wraps round.
        self.textures = [
            [
                np.tile(textures[row * tall :, v * tall :][:tall, :tall], (2, 2, 1))
                for v in range(self.texture_variants)
            ]
            for row in range(len(self.texture_names))
        ]
        glyphs = _pixels("glyphs.png")
        self.glyphs = {key: glyphs[y : y + h, x : x + w] for key, (x, y, w, h) in atlas["glyphs"].items()}
        marks = _pixels("watermarks.png")
        self.watermarks = [
            marks[:, 64 * n : 64 * (n + 1)].astype(np.int32) for n in range(len(self.watermark_names))
        ]


def _pixels(name: str) -> np.ndarray:
    with Image.open(ASSETS / name) as picture:
        return np.asarray(picture)


@lru_cache(maxsize=1)
def _assets() -> _Assets:
    return _Assets()


def names(kind: str = "concepts") -> list[str]:
    """Everything that can be drawn: "concepts", "contexts" or "watermarks"."""
    assets = _assets()
    if kind == "concepts":
        return list(assets.sprite_names)
    if kind == "contexts":
        return [name for name in assets.texture_names if name != "plain"]
    if kind == "watermarks":
        return list(assets.watermark_names)
    raise SceneError(f"names() lists concepts, contexts or watermarks; got {kind!r}")


def fits(word: str) -> bool:
    """Whether `word` can be written across a picture."""
    assets = _assets()
    glyphs = [
        [assets.glyphs.get(f"{face}/{assets.heights[0]}/{c}") for c in word] for face in range(assets.n_faces)
    ]
    return bool(word.strip()) and any(
        all(g is not None for g in row) and sum(g.shape[1] for g in row if g is not None) <= SIZE - 2
        for row in glyphs
    )


def _look_up(table: dict[str, int], name: str, what: str) -> int:
    number = table.get(name)
    if number is None:
        close = get_close_matches(str(name), table, 3)
        advice = (
            f"; did you mean {' or '.join(map(repr, close))}?"
            if close
            else f"; there are {len(table)}, see drawing.names"
        )
        raise SceneError(f"no {what} is called {str(name)!r:.80}{advice}")
    return number


class Draws:
    """Whole numbers that follow from (seed, role) alone: splitmix64, so that no library's generator can change them."""

    def __init__(self, seed: int, role: int):
        self.state = (seed * 0x9E3779B97F4A7C15 + role * 0xD1B54A32D192ED03 + 0x2545F4914F6CDD1D) & _MASK64

    def below(self, bound: int) -> int:
        self.state = (self.state + 0x9E3779B97F4A7C15) & _MASK64
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK64
        return ((z ^ (z >> 31)) * bound) >> 64


@lru_cache(maxsize=8192)
def _sprite(number: int, size: int, flipped: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Premultiplied colour (size, size, 3), transparency 255 − alpha (size, size, 1), both int32, and the visible mask.

    Scaled by exact area averaging: the overlaps are whole numbers, so the result does not depend on the machine.
    They are multiplied as float64, which is many times faster than as integers and exact: no sum reaches 2^53.
    """
    source = _assets().sprites[number].astype(np.int64)
    if flipped:
        source = source[:, ::-1]
    side = source.shape[0]
    edges_in, edges_out = np.arange(side + 1) * size, np.arange(size + 1) * side
    low = np.maximum(edges_out[:-1, None], edges_in[None, :-1])
    high = np.minimum(edges_out[1:, None], edges_in[None, 1:])
    weights = np.maximum(high - low, 0)  # (size, side), rows sum to side
    alpha = source[..., 3]
    flat = np.concatenate([source[..., :3] * alpha[..., None], alpha[..., None]], axis=2).reshape(
        side, side * 4
    )
    overlaps = weights.astype(np.float64)
    rows = (overlaps @ flat.astype(np.float64)).reshape(size, side, 4)
    scaled = np.matmul(overlaps, rows).astype(np.int64)
    alpha_out = (scaled[..., 3] + side * side // 2) // (side * side)
    colour = (scaled[..., :3] + 255 * side * side // 2) // (255 * side * side)
    return (
        colour.astype(np.int32),
        (255 - alpha_out).astype(np.int32)[..., None],
        alpha_out > 127,
    )


def _overlap(box: tuple[int, int, int], others: list[tuple[int, int, int]]) -> int:
    x, y, size = box
    total = 0
    for left, top, side in others:
        wide = min(x + size, left + side) - max(x, left)
        high = min(y + size, top + side) - max(y, top)
        if wide > 0 and high > 0:
            total += wide * high
    return total


def draw(scene: Scene, placed: list[Any] | None = None) -> np.ndarray:
    """Pixels of a scene, (64, 64, 3) uint8 RGB.

    Args:
        scene: what to draw.
        placed: receives (name, role, box, mask) of each object and of the written word, in drawing order.
    """
    assets = _assets()
    canvas = _background(scene, assets)

    # Places are drawn for the main object first and then for each companion, whether or not one is there.
    draws = Draws(scene.seed, 1)
    size = MAIN_SIZES[draws.below(len(MAIN_SIZES))]
    taken = [(draws.below(SIZE - size + 1), draws.below(SIZE - size + 1), size)]
    if scene.main is not None:
        _stamp(canvas, scene.main, "main", _place(scene, 0, taken[0]), draws, assets, placed)
    for number, name in enumerate(scene.companions):
        draws = Draws(scene.seed, 100 + number)
        size = COMPANION_SIZES[draws.below(len(COMPANION_SIZES))]
        tries = [(draws.below(SIZE - size + 1), draws.below(SIZE - size + 1), size) for _ in range(10)]
        place = min(tries, key=lambda box: _overlap(box, taken))
        taken.append(place)
        if name is not None:
            _stamp(canvas, name, "companion", _place(scene, 1 + number, place), draws, assets, placed)
    if scene.word is not None:
        _write(canvas, scene, assets, placed)
    if scene.watermark is not None:
        number = _look_up(assets.watermark_names, scene.watermark, "watermark")
        draws = Draws(scene.seed, 4)
        mask = np.roll(assets.watermarks[number], (draws.below(7) - 3, draws.below(7) - 3), (0, 1))[..., None]
        strength = mask * WATERMARK_STRENGTH // 255
        canvas += (255 - canvas) * strength // 255
    return canvas.astype(np.uint8)


def _place(scene: Scene, number: int, drawn: tuple[int, int, int]) -> tuple[int, int, int]:
    """Position of an object: moved, or by the seed."""
    if number >= len(scene.places) or (moved := scene.places[number]) is None:
        return drawn
    room = SIZE - drawn[2]
    return min(max(moved[0], 0), room), min(max(moved[1], 0), room), drawn[2]


def _background(scene: Scene, assets: _Assets) -> np.ndarray:
    row = _look_up(assets.texture_names, scene.context or "plain", "context")
    draws = Draws(scene.seed, 2)
    texture = assets.textures[row][draws.below(assets.texture_variants)]
    y, x = draws.below(assets.texture_side), draws.below(assets.texture_side)
    crop = texture[y : y + SIZE, x : x + SIZE]
    if draws.below(2):
        crop = crop[:, ::-1]
    gain = 218 + draws.below(60)  # of 256: a little darker or lighter
    return np.minimum(crop.astype(np.int32) * gain >> 8, 255)


def _stamp(
    canvas: np.ndarray,
    name: str,
    role: str,
    place: tuple[int, int, int],
    draws: Draws,
    assets: _Assets,
    placed: list[Any] | None,
) -> None:
    number = _look_up(assets.sprite_names, name, "concept")
    x, y, size = place
    colour, through, visible = _sprite(number, size, bool(draws.below(2)))
    gains = np.array([226 + draws.below(54) for _ in range(3)], np.int32)  # a little tint, of 256
    region = canvas[y : y + size, x : x + size]
    region[...] = np.minimum((colour * gains >> 8) + (region * through + 127) // 255, 255)
    if placed is not None:
        mask = np.zeros((SIZE, SIZE), bool)
        mask[y : y + size, x : x + size] = visible
        placed.append((name, role, (x, y, x + size, y + size), mask))


def _write(canvas: np.ndarray, scene: Scene, assets: _Assets, placed: list[Any] | None) -> None:
    word = scene.word or ""
    draws = Draws(scene.seed, 3)
    face, first = draws.below(assets.n_faces), draws.below(len(assets.heights))
    unknown = sorted({c for c in word if f"0/{assets.heights[0]}/{c}" not in assets.glyphs})
    if unknown or not word.strip():
        raise SceneError(
            f"the faces have no {unknown} to write {word!r:.60}; use latin letters, digits, space and -'.!"
        )
    # The drawn height if the word fits, else the largest that does, in the narrowest face at the last.
    order = [(face, h) for h in assets.heights[first::-1]] + [
        (f, assets.heights[0]) for f in range(assets.n_faces)
    ]
    for face, height in order:
        glyphs = [assets.glyphs[f"{face}/{height}/{c}"] for c in word]
        wide, high = sum(g.shape[1] for g in glyphs), max(g.shape[0] for g in glyphs)
        if wide <= SIZE - 2:
            break
    else:
        raise SceneError(
            f"{word!r:.60} does not fit: it needs {wide} px at the smallest size and a picture has {SIZE - 2}"
        )
    cover = np.zeros((high, wide), np.int32)
    at = 0
    for glyph in glyphs:
        cover[: glyph.shape[0], at : at + glyph.shape[1]] = glyph
        at += glyph.shape[1]
    colour = np.array(WORD_COLOURS[draws.below(len(WORD_COLOURS))], np.int32)
    x, y = 1 + draws.below(SIZE - 1 - wide), draws.below(SIZE - high + 1)
    if scene.word_at is not None:
        x, y = (min(max(at, 0), SIZE - room) for at, room in zip(scene.word_at, (wide, high), strict=True))
    region = canvas[y : y + high, x : x + wide]
    # A thin opposite halo keeps the word readable on any background.
    padded = np.pad(cover, 1)
    halo = np.maximum.reduce(
        [padded[1 + dy :, 1 + dx :][:high, :wide] for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    )
    edge = 0 if int(colour.sum()) > 380 else 255
    region[...] = (region * (255 - halo[..., None]) + edge * halo[..., None]) // 255
    region[...] = (region * (255 - cover[..., None]) + colour * cover[..., None]) // 255
    if placed is not None:
        mask = np.zeros((SIZE, SIZE), bool)
        mask[y : y + high, x : x + wide] = cover > 127
        placed.append((word, "word", (x, y, x + wide, y + high), mask))
