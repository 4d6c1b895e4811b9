"""Framing: the part of a picture that a model sees.

Owns the rectangle of a picture that the model's preprocessing keeps: the whole picture (squash), a centre crop
(shortest side), or the whole picture with a margin (longest side). A map over the model's patches is drawn in that
rectangle. Ignores everything else about the model. Start at `frame_of`.
"""

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image

from clipattr.errors import DataError

PROBE_LEVELS = 200  # grey level at the end of the ramps that measure an unknown preprocessing


@dataclass(frozen=True)
class Frame:
    """The part of a picture that a model sees, in fractions of the picture's width and height.

    `left` < `right` and `top` < `bottom`; (0, 0, 1, 1) is the whole picture. Edges beyond 0 or 1 are margins that the
    preprocessing adds.
    """

    left: float = 0.0
    top: float = 0.0
    right: float = 1.0
    bottom: float = 1.0

    def box(self, size: tuple[int, int]) -> tuple[float, float, float, float]:
        """(left, top, right, bottom) in pixels of a picture of this (width, height)."""
        width, height = size
        return self.left * width, self.top * height, self.right * width, self.bottom * height


def frame_of(model: Any, size: tuple[int, int]) -> Frame:
    """The part that a model sees of a picture of this size.

    Args:
        model: a `Model`, or its `preprocess_id` alone.
        size: (width, height) in pixels.

    Returns:
        The frame; exact for preprocessing that open_clip describes. Custom preprocessing is measured with two ramps,
        which it must map to ramps; the error is about a hundredth of the picture.

    Raises:
        DataError: the size is empty, custom preprocessing is given by its id alone, or it does not map pictures to
            upright rectangles.

    >>> frame_of('{"resize_mode": "shortest", "size": [224, 224]}', (400, 200))
    Frame(left=0.25, top=0.0, right=0.75, bottom=1.0)
    """
    width, height = int(size[0]), int(size[1])
    if width < 1 or height < 1:
        raise DataError(f"a picture is at least 1 × 1 pixels; got {size}.")
    described = model if isinstance(model, str) else model.preprocess_id
    if described.startswith("{"):
        return _described(described, width, height)
    if isinstance(model, str):
        raise DataError(
            f"{model!r:.60} names a preprocessing of its own, which is measured on the model. Pass the model."
        )
    return _measured(model, width, height)


@lru_cache(1024)
def _described(preprocess: str, width: int, height: int) -> Frame:
    """The frame from open_clip's description; the crop after resizing keeps the centre."""
    config = json.loads(preprocess)
    size = config["size"]
    tall, wide = size if isinstance(size, list) else (size, size)
    mode = config.get("resize_mode", "shortest")
    if mode == "squash":
        return Frame()
    ratios = (width / wide, height / tall)
    # Pixels of the picture for one pixel of the model's input.
    ratio = max(ratios) if mode == "longest" else min(ratios)
    across, down = wide * ratio / width, tall * ratio / height
    return Frame((1 - across) / 2, (1 - down) / 2, (1 + across) / 2, (1 + down) / 2)


def _measured(model: Any, width: int, height: int) -> Frame:
    """The frame from two preprocessed ramps, normalised by preprocessed black and white pictures."""
    shade = np.linspace(0, PROBE_LEVELS, width)[None].repeat(height, 0)
    rise = np.linspace(0, PROBE_LEVELS, height)[:, None].repeat(width, 1)
    black, bright, across, down = (
        np.asarray(model.prepare(Image.fromarray(np.stack([page] * 3, -1).astype(np.uint8))))[0]
        for page in (np.zeros((height, width)), np.full((height, width), PROBE_LEVELS), shade, rise)
    )
    span = bright - black
    inside = np.abs(span) > 0.5 * np.abs(span).max()
    edges = []
    for page, axis in ((across, 1), (down, 0)):
        share = np.where(inside, (page - black) / np.where(inside, span, 1), 0)
        counts = inside.sum(1 - axis)
        line = share.sum(1 - axis) / np.maximum(counts, 1)
        known = np.flatnonzero(counts)
        places = known + 0.5
        slope, start = np.polyfit(places, line[known], 1)
        if slope <= 0 or np.abs(np.polyval((slope, start), places) - line[known]).max() > 0.05:
            raise DataError(
                "this model's own preprocessing turns, mirrors or bends pictures, so that a map cannot be laid over "
                "them. Lay it over the prepared pixels instead."
            )
        edges.append((float(start), float(start + slope * len(line))))
    (left, right), (top, bottom) = edges
    return Frame(left, top, right, bottom)
