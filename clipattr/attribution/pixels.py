"""Pixels: pictures in any form as batches of prepared pixels.

Owns the conversion of records, PIL pictures, arrays, paths and prepared tensors, and its checks. Ignores what is done
with the batches. Start at `pixel_batches`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clipattr.errors import DataError


def count(images: Any) -> int:
    """How many pictures were passed."""
    if isinstance(images, Tensor):
        return len(images) if images.ndim == 4 else 1
    if isinstance(images, np.ndarray | str | Path) or not hasattr(images, "__len__"):
        return 1
    return len(images)


def picture_in(item: Any) -> Any:
    """A record's picture; anything else as it is."""
    return item.load() if hasattr(item, "load") and hasattr(item, "id") else item


def pixel_batches(
    model: Any, images: Any, batch: int, start: int = 0
) -> Iterator[tuple[list[str], list[int], Tensor]]:
    """Names, indices in `images` and prepared pixels (b, 3, H, W), at most `batch` at a time.

    Args:
        images: prepared pixels (batch, 3, H, W) or (3, H, W); an `Images`; or one or a list of records, PIL pictures,
            (H, W, 3) uint8 arrays, paths, prepared (3, H, W) tensors. Broken pictures of an `Images` are left out and
            listed there, so indices may skip.
        start: index of the first picture; earlier ones are not read.

    Raises:
        DataError: no pictures, an unreadable one, pixels of the wrong shape, or NaN in them.
    """
    if isinstance(images, Tensor):
        yield from _ready(model, images if images.ndim == 4 else images[None], batch, start)
        return
    if hasattr(images, "batches"):
        left = {"places": range(start, len(images))} if start else {}
        for found, per_model in images.batches(model, batch, **left):
            places = [int(place) for place in found]
            yield [images[place].id for place in places], places, per_model[0].to(model.device, model.dtype)
        return
    if not isinstance(images, list | tuple):
        images = [images]
    if not images:
        raise DataError("got an empty list of pictures. Pass at least one.")
    for first in range(start, len(images), batch):
        chunk = images[first : first + batch]
        names = [_name(item, first + number) for number, item in enumerate(chunk)]
        prepared = [item if isinstance(item, Tensor) else model.prepare(picture_in(item)) for item in chunk]
        for _, places, pixels in _ready(model, torch.stack(prepared), batch):
            yield names, [first + place for place in places], pixels


def _ready(
    model: Any, pixels: Tensor, batch: int, start: int = 0
) -> Iterator[tuple[list[str], list[int], Tensor]]:
    if pixels.ndim != 4 or pixels.shape[1] != model.pixel_shape[0]:
        expected = "3, H, W" if model.pixel_shape[0] == 3 else ", ".join(map(str, model.pixel_shape))
        raise DataError(f"prepared pixels have shape (batch, {expected}); got {tuple(pixels.shape)}.")
    if not len(pixels):
        raise DataError("got an empty batch of pixels. Pass at least one picture.")
    finite = torch.isfinite(pixels.flatten(1)).all(1)
    if not finite.all():
        bad = (~finite).nonzero().flatten().tolist()
        raise DataError(
            f"pixels of picture {bad[0]} hold NaN or infinity ({len(bad)} such pictures). Leave them out."
        )
    for first in range(start, len(pixels), batch):
        part = pixels[first : first + batch]
        places = list(range(first, first + len(part)))
        yield [f"picture {place}" for place in places], places, part.to(model.device, model.dtype)


def _name(item: Any, number: int) -> str:
    if isinstance(item, str | Path):
        return Path(item).name
    return str(getattr(item, "id", None) or f"picture {number}")
