"""Shelves: pictures in a row with captions.

Owns captions and descriptions of examples. Ignores how they are drawn. Start at `shelf_of`.
"""

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


def shelf_of(desk: Desk, latent: int, n: int = 20) -> tuple[Card, Shelf]:
    """A latent's card and its top examples."""
    card = desk.card(latent)
    places, values = desk.examples(latent, n)
    name = shown(card.title, 60)
    return card, Shelf(
        title=f"examples of {name}; activation below each",
        thumbnails=tuple(desk.thumbnail(int(i)) for i in places),
        alt=tuple(
            f"example {rank + 1} of {name}: picture {desk.picture_caption(int(i))}, activation {value:.2f}"
            for rank, (i, value) in enumerate(zip(places, values, strict=True))
        ),
        captions=tuple(f"{value:.2f}" for value in values),
        places=tuple(int(i) for i in places),
    )
