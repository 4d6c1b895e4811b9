"""Writes words into pictures, in fonts that the package's own text insertion does not use.

Fonts are looked up by file name in the folder `CLIPATTR_WORLD_FONTS`, else in the system's (Debian: fonts-liberation,
fonts-lato, fonts-freefont-ttf, fonts-crosextra-caladea, fonts-comic-neue).
"""

from __future__ import annotations

import os
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .scene import SIDE, Scene, WorldError

PHOTO_FONTS = ("LiberationSans-Bold.ttf", "LiberationSerif-Bold.ttf", "Lato-Black.ttf")
RENDERED_FONTS = ("FreeMonoBold.ttf", "Caladea-Bold.ttf", "ComicNeue-Bold.otf")
COLOURS = ((255, 255, 255), (15, 15, 25), (200, 20, 30), (20, 50, 190), (255, 215, 0), (0, 120, 50))
LONGEST = 11  # letters that can still be read in 96 px


@cache
def font_path(name: str) -> Path:
    """Where a font's file is.

    Raises:
        WorldError: it is nowhere.
    """
    folders = [os.environ.get("CLIPATTR_WORLD_FONTS"), "/usr/share/fonts", Path.home() / ".fonts"]
    for folder in folders:
        for path in sorted(Path(folder).rglob(name)) if folder else ():
            return path
    raise WorldError(
        f"the font {name} is not installed; install fonts-liberation, fonts-lato, fonts-freefont-ttf, "
        "fonts-crosextra-caladea and fonts-comic-neue, or point CLIPATTR_WORLD_FONTS to a folder that holds it"
    )


def fits(word: str) -> bool:
    """Whether a word can be written so that it can be read."""
    return len(word) <= LONGEST and " " not in word


@lru_cache(maxsize=4096)
def _masks(word: str, font: str, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Coverage of the letters and of their outline, (height, width) float32 in 0..1."""
    face = ImageFont.truetype(str(font_path(font)), size)
    left, top, right, bottom = face.getbbox(word, stroke_width=1)
    layers = []
    for stroke in (0, 1):
        image = Image.new("L", (int(right - left) + 2, int(bottom - top) + 2))
        ImageDraw.Draw(image).text((1 - left, 1 - top), word, fill=255, font=face, stroke_width=stroke)
        layers.append(np.asarray(image, dtype=np.float32) / 255)
    return layers[0], layers[1]


@lru_cache(maxsize=4096)
def _largest(word: str, font: str, width: int) -> int:
    """The largest size, at most 24 px, at which a word is no wider than `width`."""
    for size in range(24, 7, -1):
        if ImageFont.truetype(str(font_path(font)), size).getlength(word) <= width:
            return size
    return 8


def write(picture: np.ndarray, scene: Scene, fonts: tuple[str, ...]) -> None:
    """Write the scene's word into a picture, (96, 96, 3) float32, in place."""
    assert scene.word is not None
    rng = scene.draws("word")
    font, width = fonts[rng.randrange(len(fonts))], rng.choice((74, 80, 86, 90))
    colour, across, down = rng.choice(COLOURS), rng.random(), rng.random()
    letters, outline = _masks(scene.word, font, _largest(scene.word, font, width))
    letters, outline = letters[:SIDE, :SIDE], outline[:SIDE, :SIDE]
    height, width = letters.shape
    top, left = int(down * (SIDE - height)), int(across * (SIDE - width))
    part = picture[top : top + height, left : left + width]
    edge = 20.0 if sum(colour) > 380 else 240.0
    part += outline[..., None] * 0.9 * (edge - part)
    part += letters[..., None] * (np.array(colour, dtype=np.float32) - part)
