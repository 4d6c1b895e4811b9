"""The browser's view-model: pictures or latents in an order, filtered, marked, and kept as named selections.

Owns what is shown in which order, and the pages that a grid asks for. Orders and filters are those of
`clipattr.studies.browsing`. Ignores widgets. Start at `BrowseState`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import traitlets as T

from clipattr.studies.browsing import LATENT_ORDERS, PICTURE_ORDERS, Browser
from clipattr.studies.selections import Selections
from clipattr_widgets.desk import desk_of
from clipattr_widgets.previews import CHUNK, Previews
from clipattr_widgets.text import plain, shown, signed, words_of
from clipattr_widgets.worker import Worker, WorkingState

PAGE = 48  # items that are fetched at once
MAX_PAGES = 24  # asked for in one message
PER_LATENT = 4  # pictures of a latent's cell


@dataclass(frozen=True, eq=False)
class Item:
    """One cell of the grid: thumbnails as JPEG or PNG, a caption, and what a screen reader says."""

    pictures: tuple[bytes, ...]
    caption: str
    number: str
    alt: str


class BrowseState(WorkingState):
    """Everything the browser shows.

    Args:
        study: a `Study`, or a `Desk` that is shared with another panel.

    Traits that are chosen: `of` ("pictures" or "latents"), `order` (a key of `PICTURE_ORDERS` or `LATENT_ORDERS`),
    `falling`, `prompt`, `latent` (what "latent" orders by, -1 none), `search`, `label`, `group`, `split`, `answer`,
    `named`, `selection` (a kept one, "" all pictures). Traits that follow: `rows` (m,) pictures or latents in order,
    `values` (m,) raw; `marked` (places in the study), `selections` (names); `pending`, `error`, `gen`.
    """

    of = T.Enum(("pictures", "latents"), "pictures")
    order = T.Unicode("number")
    falling = T.Bool(True)
    prompt = T.Unicode("")
    latent = T.Int(-1)
    search = T.Unicode("")
    label = T.Unicode("")
    group = T.Unicode("")
    split = T.Unicode("")
    answer = T.Unicode("")
    named = T.Unicode("")
    selection = T.Unicode("")

    rows: Any = T.Any(np.zeros(0, np.int64))
    values: Any = T.Any(np.zeros(0))
    marked: Any = T.Any(frozenset())
    selections: "T.List[str]" = T.List()
    opened_latent = T.Int(-1)  # the latent that was clicked; linked to the latent panel
    opened = T.Int(0)

    def __init__(self, study: Any, *, threaded: bool | None = None, **chosen: Any) -> None:
        self.table = desk_of(study)
        self.start_worker(threaded)
        self.pager = Worker(threaded)  # apart, so that no page waits for an order or makes the status flicker
        self._wanted: set[int] = set()
        self._coming: set[tuple[int, int]] = set()
        self._near: set[tuple[int, int]] = set()  # chunks of previews that are wanted
        super().__init__(**chosen)
        self._read_selections()
        self.observe(self._other_kind, "of")
        self.observe(
            self._ask,
            ["order", "falling", "search", "label", "group", "split", "answer", "named", "selection"],
        )
        self.observe(self._ask_if_used, ["prompt", "latent"])
        self._ask()

    @cached_property
    def browser(self) -> Browser:
        """What answers."""
        return self.table.browser

    @property
    def orders(self) -> dict[str, str]:
        """Orders of the shown items, with an explanation of each."""
        return PICTURE_ORDERS if self.of == "pictures" else LATENT_ORDERS

    def _other_kind(self, _: Any) -> None:
        with self.hold_trait_notifications():
            self.order = next(iter(self.orders))
            self.search, self.marked = "", frozenset()
        self._ask()

    def _ask_if_used(self, change: Any) -> None:
        if self.order in (("score", "surprise", "reliance") if change["name"] == "prompt" else ("latent",)):
            self._ask()

    def _ask(self, _: Any = None) -> None:
        of, order, falling, prompt, latent = self.of, self.order, self.falling, self.prompt, self.latent
        search, named, kept = self.search, self.named, self.selection
        if order not in self.orders:
            return  # the kind changes, and its own order follows
        filters = {"label": self.label, "group": self.group, "split": self.split, "answer": self.answer}
        desk = self.table

        def work() -> Any:
            if order in ("score", "surprise", "reliance"):
                desk.target(prompt)  # refuses an empty or far too long prompt in words
            if of == "latents":
                return self.browser.latents(order, prompt=prompt, falling=falling, search=search, named=named)
            if order == "latent":
                desk.card(latent)
            ids = Selections(desk.study).of(kept) if kept else None
            return self.browser.pictures(
                order, prompt=prompt, latent=latent, falling=falling, search=search, ids=ids, **filters
            )

        self.ask("rows", work, self._set_rows)

    def _set_rows(self, answer: tuple[np.ndarray, np.ndarray]) -> None:
        with self.hold_trait_notifications():
            self.error = ""
            self.rows, self.values = answer
            self.gen += 1

    def _failed(self, error: Exception) -> None:
        with self.hold_trait_notifications():
            self.error = words_of(error)
            self.rows, self.values = np.zeros(0, np.int64), np.zeros(0)
            self.gen += 1

    def settle(self, timeout: float | None = None) -> None:
        """Wait until all requests are answered."""
        super().settle(timeout)
        self.pager.settle(timeout)

    def close(self) -> None:
        super().close()
        self.pager.close()

    # pages

    def ask_pages(self, pages: Sequence[int], gen: int, done: Any) -> None:
        """Call `done(page, gen, items)` for each of these pages as it is made; pages that were asked for before and are
        not among them are given up."""
        if gen != self.gen:
            return
        last = (len(self.rows) - 1) // PAGE
        self._wanted = {page for page in pages[:MAX_PAGES] if 0 <= page <= last}
        for page in pages[:MAX_PAGES]:
            # A page that is being computed is not requested again, since a scrolling view asks in every frame.
            if page in self._wanted and (gen, page) not in self._coming:
                self._coming.add((gen, page))
                self._fetch(page, gen, done)

    def _fetch(self, page: int, gen: int, done: Any) -> None:
        def came(items: list[Item] | None) -> None:
            self._coming.discard((gen, page))
            if items is not None:
                done(page, gen, items)

        def failed(error: Exception) -> None:
            self._coming.discard((gen, page))
            self.error = words_of(error)

        self.pager.submit(f"page {gen} {page}", lambda: self._page(page, gen), came, failed)

    def _page(self, page: int, gen: int) -> list[Item] | None:
        if page not in self._wanted or gen != self.gen:
            return None
        return self.items(range(page * PAGE, min((page + 1) * PAGE, len(self.rows))))

    @cached_property
    def previews(self) -> Previews:
        """Tiles of the study's pictures."""
        return Previews(self.browser.thumbnail)

    def ask_previews(self, chunks: Sequence[int], gen: int, done: Any) -> None:
        """Call `done(chunk, gen, sheet)` for each of these chunks of `CHUNK` cells as its sheet of tiles is made.

        Chunks that were asked for before and are not among them are given up.
        """
        last = (len(self.rows) - 1) // CHUNK
        before, self._near = self._near, {(gen, chunk) for chunk in chunks[:MAX_PAGES] if 0 <= chunk <= last}
        for chunk in chunks[:MAX_PAGES]:
            if gen == self.gen and (gen, chunk) in self._near - before:
                self.pager.submit(
                    f"previews {gen} {chunk}", partial(self._sheet, chunk, gen), partial(self._sent, done, chunk, gen),
                    lambda error: None, long=True,
                )  # fmt: skip

    def _sheet(self, chunk: int, gen: int) -> bytes:
        rows, of, tiles = self.rows[chunk * CHUNK : (chunk + 1) * CHUNK].tolist(), self.of, []
        for row in rows:
            if gen != self.gen or (gen, chunk) not in self._near:
                return b""  # given up; the tiles made so far are kept
            tiles.append(
                self.previews.tile(row) if of == "pictures"
                else self.previews.of_several(self.table.examples(row, PER_LATENT)[0].tolist())
            )  # fmt: skip
        return self.previews.sheet(tiles)

    def _sent(self, done: Any, chunk: int, gen: int, sheet: bytes) -> None:
        self._near.discard((gen, chunk))
        if sheet:  # else it was given up
            done(chunk, gen, sheet)

    def items(self, places: Sequence[int]) -> list[Item]:
        """The cells at these places of the order."""
        make = self._picture if self.of == "pictures" else self._latent
        return [make(int(self.rows[at]), float(self.values[at])) for at in places]

    def _picture(self, row: int, value: float) -> Item:
        images = self.table.study.images
        said, told = self.number(value), self.table.picture_caption(row)
        label = images.columns["label"][row]
        number = said if self.order != "number" else str(row)
        alt = f"picture {told}" + (f", {self.order} {said}" if self.order != "number" else "")
        return Item((self.browser.thumbnail(row),), shown(label or images.ids[row], 40), number, alt)

    def _latent(self, latent: int, value: float) -> Item:
        card = self.table.card(latent)
        places, _ = self.table.examples(latent, PER_LATENT)
        said = self.number(value)
        alt = f"{shown(card.title, 60)}" + (f", {self.order} {said}" if self.order != "number" else "")
        number = f"{latent} · {said}" if said else str(latent)
        return Item(
            tuple(self.browser.thumbnail(int(row)) for row in places), shown(card.name, 40), number, alt
        )

    def number(self, value: float) -> str:
        """The displayed value by which a cell is sorted."""
        if self.order == "number":
            return ""
        if self._in_points:
            return signed(value * 100)
        if self.order in ("error", "frequency"):
            return f"{plain(value * 100, 1)} %"
        if self.order == "surprise":
            return f"{signed(value * 100, 0)} %"
        return plain(value)

    @property
    def _in_points(self) -> bool:
        """Whether the order is by a similarity."""
        return self.order in ("score", "reliance", "alignment") or (self.order, self.of) == (
            "surprise",
            "latents",
        )

    def about(self) -> str:
        """Explanation of the numbers below the cells, and the number of cells."""
        total = self.table.n_pictures if self.of == "pictures" else self.table.n_latents
        told = f"{len(self.rows):,} of {total:,} {self.of}"
        if self.order == "number":
            return told
        said = self.orders[self.order]
        if self.order in ("score", "surprise", "reliance"):
            said += f" “{shown(self.prompt, 40)}”"
        elif self.order == "latent" and 0 <= self.latent < self.table.n_latents:
            said += f": {self.table.name_of(self.latent)}"
        return f"{told}; the number: {said}{', points' if self._in_points else ''}"

    # choosing

    def find_latent(self, text: str) -> None:
        """Order pictures by the latent with this number, name or label."""
        if not text.strip():
            return
        with self.telling():
            latent, _ = self.table.find_latent(text, after=self.latent)
            with self.hold_trait_notifications():
                self.latent, self.error = latent, ""
                self.of, self.order = "pictures", "latent"

    def mark(self, place: int, *, to: int | None = None) -> None:
        """Mark the item at a place, or take its mark away; with `to`, mark all from `place` to it."""
        if not 0 <= place < len(self.rows):
            return
        if to is None:
            self.marked = self.marked ^ {int(self.rows[place])}
        else:
            low, high = sorted((place, max(0, min(int(to), len(self.rows) - 1))))
            self.marked = self.marked | {int(row) for row in self.rows[low : high + 1]}

    def mark_all(self, on: bool = True) -> None:
        """Mark all shown items, or none."""
        self.marked = frozenset(int(row) for row in self.rows) if on else frozenset()

    def marked_places(self) -> np.ndarray:
        """Places of the marked items in the shown order."""
        return np.flatnonzero(self._is_marked())

    def _is_marked(self) -> np.ndarray:
        return np.isin(self.rows, np.fromiter(self.marked, np.int64, len(self.marked)))

    def keep(self, name: str) -> None:
        """Keep the marked pictures, or all that are shown where none is marked, under a name, with the study."""
        if self.of != "pictures" or not name.strip():
            return
        rows = sorted(self.marked) or [int(row) for row in self.rows]
        with self.telling():
            self.table.writable()
            ids = self.table.study.images.ids
            Selections(self.table.study).set(name, [ids[row] for row in rows])
            self.error = ""
            self._read_selections()

    def forget(self) -> None:
        """Delete the chosen selection."""
        if not self.selection:
            return
        with self.telling():
            self.table.writable()
            Selections(self.table.study).set(self.selection, ())
            self.selection = ""
            self._read_selections()

    def _read_selections(self) -> None:
        with self.telling():
            self.selections = Selections(self.table.study).names

    # what to take away

    def code(self) -> str:
        """Python code that computes the view."""
        given = {"prompt": self.prompt, "latent": self.latent, "search": self.search}
        if self.of == "pictures":
            given |= {name: getattr(self, name) for name in ("label", "group", "split", "answer")}
        else:
            given |= {"named": self.named}
        used = {"score": "prompt", "surprise": "prompt", "reliance": "prompt", "latent": "latent"}.get(
            self.order
        )
        given = {k: v for k, v in given.items() if v and (k == used or k not in ("prompt", "latent"))}
        if self.order == "latent":
            given["latent"] = self.latent
        options = "".join(f", {key}={value!r}" for key, value in given.items())
        if not self.falling:
            options += ", falling=False"
        imports = [
            "from clipattr.studies.browsing import Browser",
            "from clipattr.studies.collected import Collected",
        ]
        if self.selection:
            imports.append("from clipattr.studies.selections import Selections")
            options += f", ids=Selections(study).of({self.selection!r})"
        asked = f"rows, values = Browser(Collected(study)).{self.of}({self.order!r}{options})"
        return "\n".join([*self.table.code_head(*imports), asked])

    def frame(self) -> Any:
        """Everything that passes the filters, in order: number, id or name, label, value (raw), marked."""
        import pandas as pd

        rows = self.rows
        data: dict[str, Any] = {"picture" if self.of == "pictures" else "latent": rows}
        if self.of == "pictures":
            images = self.table.study.images
            data["id"] = [images.ids[row] for row in rows]
            for column in ("label", "group", "split"):
                data[column] = [images.columns[column][row] for row in rows]
        else:
            frame = self.table.latents
            data["name"] = [self.table.study.names.get(int(j)) for j in rows]
            data["label"] = [frame["label"].iloc[int(j)] for j in rows]
        if self.order != "number":
            data[self.order] = self.values
        return pd.DataFrame(data | {"marked": self._is_marked()})
