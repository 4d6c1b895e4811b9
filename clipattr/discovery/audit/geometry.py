"""Geometry: which region of a picture a concept changes, from pixels alone.

Pictures with the concept are compared with pictures without it, cell by cell: a surrounding or a tint changes colour
and contrast everywhere, a mark or an inset in a corner. No model is run. Start at `extent_of`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from clipattr.discovery.audit.base import Base

CELLS = 8  # across and down
SIDE = 96  # px that a picture is scaled to
MOST = 24  # pictures of either sort
DIFFERS = 0.8  # pooled deviations by which a cell's colour or contrast must differ


def cells_of(picture: Image.Image) -> np.ndarray:
    """(cells, cells, 6) mean and deviation of each colour in each cell."""
    pixels = np.asarray(
        picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR), dtype=np.float32
    )
    step = SIDE // CELLS
    blocks = pixels.reshape(CELLS, step, CELLS, step, 3)
    return np.concatenate([blocks.mean((1, 3)), blocks.std((1, 3))], -1)


def differing(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(cells, cells) by how many pooled deviations two sets of pictures differ, at the feature that differs most."""
    pooled = np.sqrt((one.var(0, ddof=1) + other.var(0, ddof=1)) / 2) + 1.0
    return np.asarray(np.abs(one.mean(0) - other.mean(0)) / pooled).max(-1)


def extent_of(base: Base, rows: np.ndarray, others: np.ndarray) -> tuple[float, float]:
    """Share of the cells at the edge, and of those inside, that differ; NaN each where fewer than five can be opened.

    Args:
        rows: of pictures that show something. others: of pictures that do not.
    """
    tables = []
    for some in (rows, others):
        some = some[np.asarray(base.study.had)[some]]
        some = some[np.linspace(0, len(some) - 1, min(MOST, len(some))).astype(int)] if len(some) else some
        cells = [cells_of(picture) for _, picture in base.opener.first(some, len(some))]
        if len(cells) < 5:
            return float("nan"), float("nan")
        tables.append(np.stack(cells))
    there = differing(*tables) > DIFFERS
    inside = there[CELLS // 4 : -CELLS // 4, CELLS // 4 : -CELLS // 4]
    edge = there.copy()
    edge[CELLS // 4 : -CELLS // 4, CELLS // 4 : -CELLS // 4] = False
    n_inside = inside.size
    return float(edge.sum() / (there.size - n_inside)), float(inside.mean())
