"""Previews: every thumbnail as a tile of a few pixels, many tiles in one JPEG.

They stand in the grid until the thumbnails come, so that a fast scroll passes over pictures and not over blank cells.
Owns the tiles and their sheets. Start at `Previews.sheet`.
"""

import io
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
from PIL import Image

from clipattr_widgets.sprites import PAGE_COLOUR, QUALITY

TILE = 8  # side in px: a JPEG codes blocks of 8 px, so that no tile stains its neighbours
CHUNK = 128  # tiles of a sheet, some 10 KB
ACROSS = 16  # tiles in a row of a sheet
KEPT = 65_536  # tiles that are kept, 192 bytes each


class Previews:
    """Tiles of pictures.

    Args:
        thumbnail: a picture's thumbnail as JPEG or PNG, b"" where there is none.
    """

    def __init__(self, thumbnail: Callable[[int], bytes]) -> None:
        self._thumbnail = thumbnail
        self.tile = lru_cache(KEPT)(self._tile)

    def _tile(self, row: int) -> np.ndarray:
        """(8, 8, 3) uint8: the picture in the middle of its tile, with its proportions."""
        page = Image.new("RGB", (TILE, TILE), PAGE_COLOUR)
        try:
            with Image.open(io.BytesIO(self._thumbnail(row)), formats=("JPEG", "PNG")) as picture:
                picture.draft("RGB", (TILE, TILE))  # a JPEG is decoded at an eighth of its size
                scale = TILE / max(picture.size)
                width, height = (max(1, round(side * scale)) for side in picture.size)
                small = picture.convert("RGB").resize((width, height), Image.Resampling.BOX)
            page.paste(small, ((TILE - small.width) // 2, (TILE - small.height) // 2))
        except (OSError, ValueError):
            pass  # no thumbnail: the tile stays empty, as its cell does
        return np.asarray(page)

    def of_several(self, rows: Sequence[int]) -> np.ndarray:
        """(8, 8, 3) uint8: up to four pictures in the quarters of one tile."""
        tile = np.full((TILE, TILE, 3), PAGE_COLOUR, np.uint8)
        half = TILE // 2
        for i, row in enumerate(rows[:4]):
            small = self.tile(row).reshape(half, 2, half, 2, 3).mean((1, 3))
            top, left = (i // 2) * half, (i % 2) * half
            tile[top : top + half, left : left + half] = small.round()
        return tile

    def sheet(self, tiles: Sequence[np.ndarray]) -> bytes:
        """Tiles row by row, `ACROSS` in a row, as one JPEG; b"" for none."""
        if not len(tiles):
            return b""
        lines = -(-len(tiles) // ACROSS)
        cells = np.full((lines * ACROSS, TILE, TILE, 3), PAGE_COLOUR, np.uint8)
        cells[: len(tiles)] = tiles
        page = (
            cells.reshape(lines, ACROSS, TILE, TILE, 3).swapaxes(1, 2).reshape(lines * TILE, ACROSS * TILE, 3)
        )
        buffer = io.BytesIO()
        Image.fromarray(page).save(buffer, "JPEG", quality=QUALITY, subsampling=0)
        return buffer.getvalue()
