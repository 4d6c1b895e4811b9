"""Composites a folder of photographs: category folders in, pictures with overlays out.

Start at `PhotoRenderer`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from .lettering import PHOTO_FONTS, write
from .overlays import CONTEXTS, LOOKS, MARKS, card
from .scene import SIDE, Scene, WorldError

KEPT = 112  # px of the shorter side that photographs are reduced to when loaded
HELD_OUT = 5  # every fifth photograph is never trained on
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


def categories(folder: str | Path) -> list[str]:
    """The category folders that hold photographs.

    Raises:
        WorldError: there are none.
    """
    found = sorted(p.name for p in Path(folder).iterdir() if p.is_dir()) if Path(folder).is_dir() else []
    if not found:
        raise WorldError(
            f"{folder} holds no category folders; give a folder with one folder of photographs a category"
        )
    return found


def shrink(image: Image.Image) -> Image.Image:
    """At most `KEPT` px on the shorter side."""
    image = image.convert("RGB")
    scale = KEPT / min(image.size)
    if scale >= 1:
        return image
    size = (round(image.width * scale), round(image.height * scale))
    return image.resize(size, Image.Resampling.BICUBIC)


class PhotoRenderer:
    """Renders scenes whose concepts are categories of photographs."""

    def __init__(self, folder: str | Path, concepts: list[str]):
        """Load the photographs of these categories.

        Raises:
            WorldError: a category is missing or has fewer than five photographs.
        """
        self.pictures: dict[str, list[Image.Image]] = {}
        for concept in concepts:
            place = Path(folder) / concept
            paths = sorted(p for p in place.glob("*") if p.suffix.lower() in SUFFIXES)
            if len(paths) < HELD_OUT:
                raise WorldError(
                    f"{place} holds {len(paths)} photographs; a category needs at least {HELD_OUT}"
                )
            self.pictures[concept] = []
            for path in paths:
                with Image.open(path) as image:
                    self.pictures[concept].append(shrink(image))

    def _photo(self, concept: str, scene: Scene, role: str, side: int, unseen: bool | None) -> np.ndarray:
        rng = scene.draws(role)
        at, crop, across, down, flip = (rng.random() for _ in range(5))
        stock = self.pictures[concept]
        if unseen is not None:
            stock = [image for i, image in enumerate(stock) if (i % HELD_OUT == HELD_OUT - 1) == unseen]
        image = stock[int(at * len(stock))]
        edge = min(image.size) * (0.84 + 0.16 * crop)
        left, top = across * (image.width - edge), down * (image.height - edge)
        image = image.resize(
            (side, side), Image.Resampling.BILINEAR, box=(left, top, left + edge, top + edge)
        )
        pixels = np.asarray(image, dtype=np.float32)
        return pixels[:, ::-1].copy() if flip < 0.5 else pixels.copy()

    def render(self, scene: Scene, unseen: bool | None = None) -> np.ndarray:
        """Pixels, (96, 96, 3) uint8.

        Args:
            scene: what is in the picture.
            unseen: False uses the photographs that are trained on, True only the others, None all.
        """
        picture = self._photo(scene.main, scene, "main", SIDE, unseen) if scene.main else card(scene)
        if scene.look and scene.main:
            picture = LOOKS[scene.look](picture)
        if scene.context:
            CONTEXTS[scene.context](picture, scene)
        if scene.companion:
            rng = scene.draws("inset")
            side = rng.randrange(36, 43)
            corner = rng.randrange(4)
            top = 3 + rng.randrange(4) if corner < 2 else SIDE - side - 3 - rng.randrange(4)
            left = 3 + rng.randrange(4) if corner % 2 else SIDE - side - 3 - rng.randrange(4)
            picture[top - 1 : top + side + 1, left - 1 : left + side + 1] = 250
            picture[top : top + side, left : left + side] = self._photo(
                scene.companion, scene, "companion", side, unseen
            )
        if scene.word:
            write(picture, scene, PHOTO_FONTS)
        if scene.mark:
            MARKS[scene.mark](picture, scene)
        return np.clip(picture + 0.5, 0, 255).astype(np.uint8)
