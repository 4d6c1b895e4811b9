"""Shelves: pictures in a row with captions.

Owns captions and descriptions of examples. Ignores how they are drawn. Start at `shelf_of`.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from PIL import Image

from clipattr.attribution import LatentMaps
from clipattr_widgets.cards import Card
from clipattr_widgets.desk import Desk
from clipattr_widgets.text import shown


@dataclass(frozen=True, eq=False)
class Shelf:
    """Pictures in a row, as a gallery draws them."""

    title: str = ""
    thumbnails: tuple[Image.Image, ...] = ()
    alt: tuple[str, ...] = ()
    captions: tuple[str, ...] = ()
    places: tuple[int, ...] = ()
    heat: LatentMaps | None = None


def filled(
    desk: Desk,
    title: str,
    places: Iterable[int],
    captions: Sequence[str],
    alt: Callable[[int, str, str], str],
    heat: LatentMaps | None = None,
) -> Shelf:
    """A shelf with these pictures of the study; `alt(rank, picture, caption)` is what a screen reader says of each."""
    rows = tuple(int(place) for place in places)
    said = tuple(
        alt(rank, f"picture {desk.picture_caption(row)}", caption)
        for rank, (row, caption) in enumerate(zip(rows, captions or [""] * len(rows), strict=True), start=1)
    )
    return Shelf(title, tuple(desk.thumbnail(row) for row in rows), said, tuple(captions), rows, heat)


def shelf_of(desk: Desk, latent: int, n: int = 20) -> tuple[Card, Shelf]:
    """A latent's card and its top examples."""
    card = desk.card(latent)
    places, values = desk.examples(latent, n)
    name, captions = shown(card.title, 60), [f"{value:.2f}" for value in values]
    return card, filled(
        desk, f"examples of {name}; activation below each", places, captions,
        lambda rank, picture, value: f"example {rank} of {name}: {picture}, activation {value}",
    )  # fmt: skip
