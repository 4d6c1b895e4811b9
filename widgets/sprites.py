"""Pictures and heat maps as bytes for the browser.

Owns packing: many thumbnails into one JPEG, one picture within a side length, heat in [0, 1] as one byte per cell.
Ignores which pictures. Start at `sprite`.
"""

import base64
import io
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image

from clipattr.display.framing import Frame

MAX_COLUMNS = 8
QUALITY = 82
PAGE_COLOUR = (238, 239, 241)


def sprite(
    pictures: Sequence[Image.Image], px: int, columns: int | None = None, *, gap: int = 0
) -> tuple[bytes, int]:
    """All pictures in one JPEG of px × px cells, row by row.

    Pictures keep their proportions and are centred; `gap` pixels between neighbours stay white.

    Returns:
        The JPEG's bytes (empty for no pictures) and the number of columns.
    """
    columns = columns or max(1, min(MAX_COLUMNS, len(pictures)))
    if not pictures:
        return b"", columns
    rows = math.ceil(len(pictures) / columns)
    page = Image.new("RGB", (columns * px, rows * px), (255, 255, 255) if gap else PAGE_COLOUR)
    for place, picture in enumerate(pictures):
        small = fit(picture, px - gap)
        left = (place % columns) * px + (px - small.width) // 2
        top = (place // columns) * px + (px - small.height) // 2
        page.paste(small, (left, top))
    buffer = io.BytesIO()
    page.save(buffer, "JPEG", quality=QUALITY, subsampling=0)
    return buffer.getvalue(), columns


def sprite_of(stored: Sequence[bytes], px: int, columns: int) -> tuple[bytes, list[tuple[int, int]]]:
    """Stored thumbnails (JPEG, PNG) in one JPEG of px × px cells, row by row, each in the middle of its cell.

    Returns:
        The JPEG's bytes (empty for no thumbnails), and each picture's (width, height) in px; (0, 0) for no picture.
    """
    page = Image.new("RGB", (columns * px, px * math.ceil(len(stored) / columns)), PAGE_COLOUR)
    sizes = []
    for place, data in enumerate(stored):
        try:
            with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as picture:
                picture.draft("RGB", (px, px))  # a JPEG is decoded at half the size where that is enough
                small = fit(picture, px)
                left = (place % columns) * px + (px - small.width) // 2
                page.paste(small, (left, (place // columns) * px + (px - small.height) // 2))
            sizes.append(small.size)
        except (OSError, ValueError):
            sizes.append((0, 0))
    if not stored:
        return b"", []
    buffer = io.BytesIO()
    page.save(buffer, "JPEG", quality=QUALITY, subsampling=0)
    return buffer.getvalue(), sizes


def fit(picture: Image.Image, px: int) -> Image.Image:
    """The picture, RGB, scaled (up or down) so that its longer side is px pixels."""
    rgb = picture if picture.mode == "RGB" else picture.convert("RGB")
    scale = px / max(rgb.size)
    if scale == 1:
        return rgb
    size = (max(1, round(rgb.width * scale)), max(1, round(rgb.height * scale)))
    return rgb.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)


def in_cell(frame: Frame, size: tuple[int, int]) -> list[float]:
    """A picture's frame in fractions of the square cell that the picture is centred in: left, top, right, bottom."""
    side = max(size)
    box = frame.box(size)
    margins = [(side - length) / 2 for length in size]
    return [(edge + margins[i % 2]) / side for i, edge in enumerate(box)]


def encode_jpeg(picture: Image.Image, side: int) -> bytes:
    """The picture as JPEG bytes, its longer side at most `side` pixels; small pictures are enlarged to it."""
    buffer = io.BytesIO()
    fit(picture, side).save(buffer, "JPEG", quality=88, subsampling=0)
    return buffer.getvalue()


def data_uri(jpeg: bytes) -> str:
    """JPEG bytes as a data URI for static HTML."""
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii")


def heat_bytes(heat: np.ndarray) -> bytes:
    """Heat in [0, 1] as one byte per cell, rows first; values outside are clipped, NaN counts as 0."""
    values = np.nan_to_num(np.asarray(heat, dtype=np.float32), nan=0.0, posinf=1.0, neginf=0.0)
    return np.round(values.clip(0, 1) * 255).astype(np.uint8).tobytes()
