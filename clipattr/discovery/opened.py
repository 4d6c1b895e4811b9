"""Opened pictures: those of a study that can still be opened, and which ones cannot.

Files vanish or break after a study was built. Who needs some pictures takes the next ones instead, and says how many
were missing. Ignores what is done with the pictures. Start at `Opener`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, TypeVar

from clipattr.display.wording import counted
from clipattr.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

    from clipattr.images.collection import Images

Picture = TypeVar("Picture")  # decoded, or prepared for a model

TRIED = 4  # pictures tried for each one that is needed; beyond that a whole folder is missing


class Opener:
    """Opens the pictures of a study.

    Attributes:
        gone: reason by id, of the pictures that were asked for since `gone` was last emptied and cannot be opened.

    >>> import numpy as np
    >>> from clipattr.images.collection import Images
    >>> opener = Opener(Images.open(np.zeros((3, 8, 8, 3), dtype=np.uint8)))
    >>> [place for place, _ in opener.first([2, 0, 1], 2)], opener.gone
    ([0, 1], {})
    """

    def __init__(self, images: Images) -> None:
        self.images = images
        self.gone: dict[str, str] = {}
        self._broken: dict[int, str] = {}

    def open(self, row: int) -> Image.Image | None:
        """The picture of a row; None, and noted in `gone`, where it cannot be opened."""
        if row not in self._broken:
            try:
                return self.images[row].load()
            except (DataError, OSError) as error:
                self._broken[row] = str(error)
        self.gone[self.images.ids[row]] = self._broken[row]
        return None

    def first(self, rows: Iterable[int], n: int) -> list[tuple[int, Image.Image]]:
        """The first `n` of some rows that can be opened: place among them, and picture; fewer if too many cannot."""
        return first_opened(self.open, rows, n)


def first_opened(
    open_row: Callable[[int], Picture | None], rows: Iterable[int], n: int
) -> list[tuple[int, Picture]]:
    """The first `n` of some rows for which `open_row` returns a picture, as `Opener.first` does with its own."""
    found: list[tuple[int, Picture]] = []
    for tried, row in enumerate(rows):
        if len(found) == n or tried == TRIED * n:
            break
        picture = open_row(int(row))
        if picture is not None:
            found.append((tried, picture))
    return found


def not_opened(gone: Mapping[str, str], n: int | None = None) -> str:
    """How many pictures could not be opened and why the first could not, as a clause.

    Args:
        n: how many, if more than are named.
    """
    name, reason = next(iter(gone.items()))
    return f"{counted(len(gone) if n is None else n, 'picture')} could not be opened, first {name}: {reason}"
