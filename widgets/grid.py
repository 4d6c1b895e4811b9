"""The grid: very many thumbnails, of which only those in sight exist in the page.

Owns the traits and messages of the drawn part; holds no pictures. Start at `Grid`.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import traitlets as T

from clipattr_widgets.browse_state import PAGE, Item
from clipattr_widgets.parts import Part, module
from clipattr_widgets.previews import ACROSS, CHUNK, TILE
from clipattr_widgets.sprites import sprite_of

ONE_PX, MANY_PX = (
    112,
    56,
)  # side of a picture in a page's sprite, where a cell shows one, and where it shows several
COLUMNS = 8


class Grid(Part):
    """Cells in rows, scrolled; a page of cells is fetched when it comes near.

    Messages from the view: `{"kind": "need", "pages", "gen"}`, `{"kind": "previews", "chunks", "gen"}` (cells that a
    fast scroll nears), `{"kind": "pick", "i"}` (click, Enter) and `{"kind": "mark", "i", "to"}` (Space or X; Shift
    marks all between). `marked` holds places as int32. `data-waiting` counts cells in sight whose pictures are not
    there yet, `data-blank` those of them without a preview.
    """

    _esm = module("grid.js")
    count = T.Int(0).tag(sync=True)
    page = T.Int(PAGE).tag(sync=True)
    cell = T.Int(92).tag(sync=True)  # side of a cell's pictures in CSS pixels
    chunk = T.Int(CHUNK).tag(
        sync=True
    )  # previews that are fetched at once, in sheets of `across` tiles of `tile` px
    across = T.Int(ACROSS).tag(sync=True)
    tile = T.Int(TILE).tag(sync=True)
    preload = T.Bool(False).tag(sync=True)  # whether previews of all cells are fetched while nobody scrolls
    height = T.Int(520).tag(sync=True)
    selected = T.Int(-1).tag(sync=True)
    marked = T.Bytes(b"").tag(sync=True)
    gen = T.Int(0).tag(sync=True)

    def show(self, count: int, *, title: str, gen: int) -> None:
        """Show this many cells; the view asks for their pages with the generation number."""
        with self.hold_sync():
            self.count, self.title, self.selected = count, title, -1
            self.gen = gen

    def mark(self, places: Iterable[int]) -> None:
        """Mark the cells at these places."""
        self.marked = np.asarray(list(places), "<i4").tobytes()

    def send_previews(self, chunk: int, gen: int, sheet: bytes) -> None:
        """Answer "previews"."""
        self.send({"kind": "previews", "chunk": chunk, "gen": gen}, [sheet])

    def send_page(self, page: int, gen: int, items: Sequence[Item]) -> None:
        """Answer a "need"."""
        stored = [picture for item in items for picture in item.pictures]
        px = ONE_PX if all(len(item.pictures) < 2 for item in items) else MANY_PX
        whole, sizes = sprite_of(stored, px, COLUMNS)
        told: list[dict[str, Any]] = []
        at = 0
        for item in items:
            behind = at + len(item.pictures)
            said = {"caption": item.caption, "number": item.number, "alt": item.alt}
            told.append({**said, "first": at, "sizes": sizes[at:behind]})
            at = behind
        message = {"kind": "page", "page": page, "gen": gen, "items": told, "px": px, "columns": COLUMNS}
        self.send(message, [whole])
