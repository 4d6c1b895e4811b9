"""Bakes the assets of the picture world: sprites, textures, glyphs and watermark masks.

Only baking needs the Noto Color Emoji and DejaVu fonts: the baked files are part of the package, and rendering a scene
is integer arithmetic on them, so that a scene has the same bytes on every machine.
Start at `bake`; run it with `python -m clipattr_data.assets --emoji FONT --faces FONT FONT FONT`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

ASSETS = Path(__file__).parent / "assets"
CONCEPTS = Path(__file__).parent / "concepts.json"
SPRITE = 64  # px, side of one sprite in the atlas
COLUMNS = 16
TEXTURE = 128  # px, side of one texture; a scene crops from it
TEXTURE_VARIANTS = 3
GLYPH_HEIGHTS = (8, 10, 13)
CHARACTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 -'.!"


def bake_sprites(font_path: str, concepts: list[dict[str, str]]) -> Image.Image:
    """One transparent sprite a concept, trimmed, centred and scaled to fill a 64-px square."""
    font = ImageFont.truetype(font_path, 109)  # the one size at which the font holds bitmaps
    rows = -(-len(concepts) // COLUMNS)
    atlas = Image.new("RGBA", (COLUMNS * SPRITE, rows * SPRITE))
    for number, concept in enumerate(concepts):
        text = "".join(chr(int(code, 16)) for code in concept["emoji"].split("-"))
        glyph = Image.new("RGBA", (180, 180))
        ImageDraw.Draw(glyph).text((20, 20), text, font=font, embedded_color=True)
        box = glyph.getbbox()
        if box is None:
            raise ValueError(f"the emoji font draws nothing for {concept['name']!r} ({concept['emoji']})")
        glyph = glyph.crop(box)
        side = max(glyph.size)
        square = Image.new("RGBA", (side, side))
        square.paste(glyph, ((side - glyph.width) // 2, (side - glyph.height) // 2))
        sprite = square.resize((SPRITE, SPRITE), Image.Resampling.LANCZOS)
        atlas.paste(sprite, (number % COLUMNS * SPRITE, number // COLUMNS * SPRITE))
    return atlas


def _noise(rng: np.random.Generator, cells: int) -> np.ndarray:
    """Smooth noise in [0, 1] that tiles, `cells` waves across."""
    grid = rng.random((cells, cells))
    grid = np.pad(grid, ((0, 1), (0, 1)), mode="wrap")
    at = np.arange(TEXTURE) * cells / TEXTURE
    low, part = at.astype(int), at % 1
    part = part * part * (3 - 2 * part)
    rows = grid[low] * (1 - part[:, None]) + grid[low + 1] * part[:, None]
    return rows[:, low] * (1 - part) + rows[:, low + 1] * part


def _cloud(rng: np.random.Generator, *cells: int) -> np.ndarray:
    layers = [_noise(rng, n) / 2**i for i, n in enumerate(cells)]
    total = sum(layers)
    return (total - total.min()) / (total.max() - total.min())


def _blend(low: tuple[int, int, int], high: tuple[int, int, int], amount: np.ndarray) -> np.ndarray:
    return np.asarray(low) * (1 - amount[..., None]) + np.asarray(high) * amount[..., None]


def _texture(name: str, rng: np.random.Generator) -> np.ndarray:
    y, x = np.mgrid[0:TEXTURE, 0:TEXTURE].astype(float)
    fine, coarse = _cloud(rng, 32, 64), _cloud(rng, 4, 8, 16)
    if name == "meadow":
        blades = 0.5 + 0.5 * np.sin(x * 1.7 + 6 * fine)
        out = _blend((52, 118, 40), (142, 196, 84), 0.6 * coarse + 0.4 * blades)
        flowers = rng.random((TEXTURE, TEXTURE)) > 0.992
        out[flowers] = (250, 236, 120)
    elif name == "desert":
        dunes = 0.5 + 0.5 * np.sin((y + 14 * coarse) * 2 * np.pi / 16)
        out = _blend((196, 140, 74), (242, 208, 142), 0.7 * dunes + 0.3 * fine)
    elif name == "snow":
        out = _blend((196, 212, 230), (252, 253, 255), 0.65 * coarse + 0.35 * fine)
        flakes = rng.random((TEXTURE, TEXTURE)) > 0.985
        out[flakes] = (150, 176, 208)
    elif name == "sea":
        waves = 0.5 + 0.5 * np.sin(
            (y * 1.0 + 5 * np.sin(x * 2 * np.pi / 32) + 8 * coarse) * 2 * np.pi / 10.67
        )
        out = _blend((16, 84, 148), (96, 180, 214), 0.75 * waves + 0.25 * fine)
        out[(waves > 0.985) & (fine > 0.5)] = (232, 246, 250)
    elif name == "night sky":
        out = _blend((8, 8, 32), (40, 32, 84), coarse)
        stars = rng.random((TEXTURE, TEXTURE))
        out[stars > 0.985] = (250, 246, 214)
        out[(stars > 0.975) & (stars <= 0.985)] = (150, 150, 190)
    elif name == "forest":
        trunks = 0.5 + 0.5 * np.sin((x + 3 * coarse) * 2 * np.pi / 12.8)
        out = _blend((20, 44, 24), (64, 98, 46), coarse)
        out = np.where((trunks > 0.72)[..., None], _blend((58, 38, 22), (104, 72, 42), fine), out)
    elif name == "brick wall":
        row = y // 8
        offset = (row % 2) * 8
        mortar = (y % 8 < 1.5) | ((x + offset) % 16 < 1.5)
        shade = rng.random((TEXTURE // 8, TEXTURE // 16 + 1))[
            row.astype(int), ((x + offset) // 16).astype(int)
        ]
        out = _blend((136, 52, 38), (196, 92, 66), 0.6 * shade + 0.4 * fine)
        out[mortar] = (206, 198, 186)
    elif name == "kitchen tiles":
        checker = ((x // 16 + y // 16) % 2).astype(float)
        out = _blend((120, 176, 190), (236, 244, 244), checker * 0.85 + 0.15 * fine)
        out[(x % 16 < 1) | (y % 16 < 1)] = (252, 252, 252)
    elif name == "wooden floor":
        grain = 0.5 + 0.5 * np.sin((y + 2.5 * _cloud(rng, 3, 6)) * 2 * np.pi / 5.33 + 4 * coarse)
        out = _blend((128, 78, 36), (196, 138, 80), 0.55 * grain + 0.45 * coarse)
        out[y % 21.33 < 1.2] = (74, 42, 18)
    elif name == "sunset":
        height = np.abs(y / TEXTURE * 2 - 1)
        out = _blend((252, 176, 84), (122, 52, 118), np.clip(height + 0.25 * (coarse - 0.5), 0, 1))
        out = np.where((coarse > 0.72)[..., None], out * 0.6 + np.array((255, 214, 170)) * 0.4, out)
    elif name == "plain":
        out = _blend((186, 186, 186), (214, 214, 214), coarse * 0.7 + fine * 0.3)
    else:
        raise ValueError(f"no recipe draws the context {name!r}; add one to _texture")
    return np.clip(out + rng.normal(0, 3, out.shape), 0, 255).astype(np.uint8)


def bake_textures(contexts: list[str]) -> Image.Image:
    """A row of variants for each context, after it a row for the plain backdrop."""
    rng = np.random.default_rng(20250529)
    rows = [
        np.concatenate([_texture(name, rng) for _ in range(TEXTURE_VARIANTS)], axis=1)
        for name in [*contexts, "plain"]
    ]
    return Image.fromarray(np.concatenate(rows, axis=0))


def bake_glyphs(faces: list[str]) -> tuple[Image.Image, dict[str, list[list[int]]]]:
    """Coverage masks of all characters for each face and height, and where each stands: x, y, width, height."""
    cells: list[tuple[str, np.ndarray]] = []
    for number, face in enumerate(faces):
        for height in GLYPH_HEIGHTS:
            font = ImageFont.truetype(face, height, layout_engine=ImageFont.Layout.BASIC)
            ascent, descent = font.getmetrics()
            for character in CHARACTERS:
                width = max(1, round(font.getlength(character)))
                mask = Image.new("L", (width, ascent + descent))
                ImageDraw.Draw(mask).text((0, 0), character, font=font, fill=255)
                cells.append((f"{number}/{height}/{character}", np.asarray(mask)))
    sheet, where = np.zeros((2048, 512), np.uint8), {}
    x = y = line = 0
    for key, cover in cells:
        h, w = cover.shape
        if x + w > sheet.shape[1]:
            x, y, line = 0, y + line, 0
        sheet[y : y + h, x : x + w] = cover
        where[key] = [x, y, w, h]
        x, line = x + w, max(line, h)
    return Image.fromarray(sheet[: y + line]), where


def bake_watermarks(names: list[str], face: str) -> Image.Image:
    """Coverage of each watermark over a whole 64-px picture, side by side."""
    sheet = Image.new("L", (64 * len(names), 64))
    for number, name in enumerate(names):
        mask = Image.new("L", (64, 64))
        draw = ImageDraw.Draw(mask)
        if name == "stamp":
            text = Image.new("L", (90, 18))
            ImageDraw.Draw(text).text((2, 0), "PixStock", font=ImageFont.truetype(face, 15), fill=255)
            text = text.rotate(30, expand=True, resample=Image.Resampling.BICUBIC)
            text = text.crop(text.getbbox())
            mask.paste(text, ((64 - text.width) // 2, (64 - text.height) // 2))
            mask = mask.filter(ImageFilter.MaxFilter(3))  # strokes as bold as the other marks'
        elif name == "grid":
            for at in range(8, 64, 16):
                draw.line((at, 0, at, 63), fill=255, width=2)
                draw.line((0, at, 63, at), fill=255, width=2)
                for other in range(8, 64, 16):
                    draw.ellipse((at - 4, other - 4, at + 4, other + 4), outline=255, width=2)
        elif name == "stripes":
            for at in range(-64, 64, 12):
                draw.line((at, 63, at + 64, -1), fill=255, width=2)
        else:
            raise ValueError(f"no recipe draws the watermark {name!r}; add one to bake_watermarks")
        sheet.paste(mask, (64 * number, 0))
    return sheet


def bake(emoji_font: str, faces: list[str], folder: Path = ASSETS) -> None:
    """Write sprites.png, textures.png, glyphs.png, watermarks.png and atlas.json into `folder`."""
    stock = json.loads(CONCEPTS.read_text(encoding="utf-8"))
    folder.mkdir(exist_ok=True)
    bake_sprites(emoji_font, stock["concepts"]).save(folder / "sprites.png", optimize=True)
    bake_textures(stock["contexts"]).save(folder / "textures.png", optimize=True)
    glyphs, where = bake_glyphs(faces)
    glyphs.save(folder / "glyphs.png", optimize=True)
    bake_watermarks(stock["watermarks"], faces[0]).save(folder / "watermarks.png", optimize=True)
    atlas = {
        "schema": 1,
        "sprites": [concept["name"] for concept in stock["concepts"]],
        "textures": [*stock["contexts"], "plain"],
        "watermarks": stock["watermarks"],
        "faces": [Path(face).stem for face in faces],
        "heights": list(GLYPH_HEIGHTS),
        "glyphs": where,
    }
    (folder / "atlas.json").write_text(json.dumps(atlas, separators=(",", ":")), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description="Bake the picture world's sprites, textures, glyphs and watermarks."
    )
    parser.add_argument("--emoji", required=True, help="NotoColorEmoji.ttf (the bitmap version)")
    parser.add_argument("--faces", required=True, nargs=3, help="three open fonts for written words")
    arguments = parser.parse_args()
    bake(arguments.emoji, arguments.faces)
