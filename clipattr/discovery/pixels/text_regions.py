"""Text regions: where pictures show text, by an OCR detector that is tested before it is relied on.

The detector is RapidOCR's (`pip install 'clipattr[ocr]'`), whose weights come with the package. Owns the detector and
the test of it: known words are written into the study's own pictures, and it must find them. Ignores what is done with
the regions. Start at `TextDetector`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clipattr.discovery.audit.text_insertion import written
from clipattr.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable

EXTRA = "pip install 'clipattr[ocr]'"
PAD = 0.02  # of the shorter side: letters' outlines reach over the detector's boxes
FOUND = 0.5  # part of a written word's box that must be covered for the word to count as found
WORDS = ("lantern", "OPEN", "bridge", "Tuesday")  # written into pictures to test the detector; any would do


class TextDetector:
    """Boxes around text in pictures.

    Raises:
        DataError: the package is not installed.
    """

    def __init__(self) -> None:
        self._engine = _engine()

    def masks(self, pictures: Sequence[Image.Image]) -> Tensor:
        """Where each picture shows text, (pictures, H, W) bool; all pictures have one size."""
        return torch.stack([self._mask(picture.convert("RGB")) for picture in pictures])

    def _mask(self, picture: Image.Image) -> Tensor:
        mask = torch.zeros(picture.height, picture.width, dtype=torch.bool)
        boxes, _ = self._engine(np.asarray(picture)[..., ::-1], use_det=True, use_cls=False, use_rec=False)
        pad = max(1, round(PAD * min(picture.size)))
        for box in boxes if boxes is not None else ():
            corners = np.asarray(box, dtype=float)
            left, top = (max(0, int(at) - pad) for at in corners.min(0))
            right, bottom = (int(np.ceil(at)) + pad for at in corners.max(0))
            mask[top : bottom + 1, left : right + 1] = True
        return mask

    def recall(self, pictures: Sequence[Image.Image]) -> float:
        """Share of words written into these pictures that the detector finds."""
        return recall(self.masks, pictures)


def recall(masks: Callable[[Sequence[Image.Image]], Tensor], pictures: Sequence[Image.Image]) -> float:
    """Share of words, written into pictures of one size, half of whose box `masks` covers.

    >>> plain = [Image.new("RGB", (64, 64), "gray")] * 2
    >>> recall(lambda some: torch.ones(len(some), 64, 64, dtype=torch.bool), plain)
    1.0
    >>> recall(lambda some: torch.zeros(len(some), 64, 64, dtype=torch.bool), plain)
    0.0
    """
    found = 0
    for number, picture in enumerate(pictures):
        plain = picture.convert("RGB")
        text = written(plain, WORDS[number % len(WORDS)], number)
        changed = (np.asarray(text).astype(int) != np.asarray(plain)).any(-1)
        rows, columns = (np.flatnonzero(changed.any(axis)) for axis in (1, 0))
        box = masks([text])[0][rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        found += float(box.float().mean()) >= FOUND
    return found / len(pictures)


@lru_cache(maxsize=1)
def _engine() -> Any:
    try:
        from rapidocr_onnxruntime import RapidOCR
    except ImportError as error:
        raise DataError(
            f"Text regions were asked for and need an OCR detector, which is not installed: {EXTRA}"
        ) from error
    return RapidOCR()
