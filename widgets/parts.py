"""The drawn parts: bar list, gallery, overlay and table, as anywidgets without a build step.

Owns how values become traits that a browser can draw. Ignores studies and models; holds no state but what is on the
screen. Every update is one message, marked with a generation number that the view repeats as `data-gen` once it is
painted. Start at `BarList`.
"""

from collections.abc import Callable, Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import anywidget
import numpy as np
import traitlets as T
from PIL import Image

from clipattr.display.framing import Frame
from clipattr_widgets.sprites import encode_jpeg, heat_bytes, in_cell, sprite

if TYPE_CHECKING:
    from clipattr_widgets.shelf import Shelf

_STATIC = files("clipattr_widgets") / "static"
_CSS = (_STATIC / "panel.css").read_text(encoding="utf-8")


def module(*names: str) -> str:
    """The JavaScript of a view: these files of `static/`, behind what all views share."""
    return "\n".join((_STATIC / name).read_text(encoding="utf-8") for name in ("common.js", *names))


class Part(anywidget.AnyWidget):
    """Base of all parts: messages from the view go to one handler per kind."""

    _css = _CSS
    empty_text = T.Unicode("nothing to show").tag(sync=True)
    title = T.Unicode("").tag(sync=True)

    def __init__(self, **traits: Any) -> None:
        super().__init__(**traits)
        self._handlers: dict[str, Callable[[dict[str, Any]], None]] = {}
        self.on_msg(self._heard)

    def on(self, kind: str, handler: Callable[[dict[str, Any]], None]) -> None:
        """Call `handler(message)` when the view sends a message of this kind."""
        self._handlers[kind] = handler

    def _heard(self, _: Any, content: Any, buffers: Any) -> None:
        if isinstance(content, dict):
            handler = self._handlers.get(str(content.get("kind")))
            if handler is not None:
                handler(content)


class Pulse(Part):
    """Answers a panel's check whether the kernel is alive; without an answer the panel says so.

    Args:
        patience: seconds that an answer may take.
        still: class of the panel's still view, an output of its own that is hidden while the panel is alive.
        address: query that leads to what is on the screen; the page's address follows it. "" leaves it alone.
    """

    _esm = module("pulse.js")
    patience = T.Float(8.0, min=0.1).tag(sync=True)
    still = T.Unicode("").tag(sync=True)
    address = T.Unicode("").tag(sync=True)

    def __init__(self, **traits: Any) -> None:
        super().__init__(**traits)
        self.on("ping", lambda message: self.send({"kind": "pong", "number": message.get("number")}))


class BarList(Part):
    """Ranked signed bars, one row per latent, with a switch each.

    A row is a dict: `id` int, `part` "latent" | "part" | "total", `label`, `value` (the bar's length and sign),
    `text` (the number shown), and optionally `start` (where the bar begins, for waterfalls), `scale` (1 untouched,
    0 off), `other` and `other_text` (a second picture's bar), `activation`, `fits`, `alignment`, `kind` (badge),
    `mark` (a sign before the number), `tip`, `spoken` (what a screen reader says). All bars share one axis with zero on
    it; a row far longer than every latent is broken off, and marked.

    Messages: `{"kind": "scale", "id", "factor"}`, `{"kind": "undo"}`. `selected` is the id of the chosen latent.
    """

    _esm = module("bar_list.js")
    rows = T.List(T.Dict()).tag(sync=True)
    columns = T.Dict().tag(sync=True)
    selected = T.Int(-1).tag(sync=True)
    switches = T.Bool(True).tag(sync=True)
    gen = T.Int(0).tag(sync=True)

    def show(self, rows: Sequence[dict[str, Any]], *, columns: dict[str, str] | None = None) -> None:
        """Draw these rows.

        Args:
            rows: see the class.
            columns: headings by key (`value`, `other`, `activation`, `fits`, `alignment`), and `KEY_tip` for their
                tooltips. `value` is the unit that the axis names.
        """
        with self.hold_sync():
            self.rows = list(rows)
            if columns is not None:
                self.columns = columns
            self.gen += 1


class Gallery(Part):
    """Thumbnails in one sprite, each with an optional heat map and a caption.

    `selected` is the place (0-based) of the chosen thumbnail; a click sends `{"kind": "pick", "i"}` as well, so that
    the same one can be picked twice.
    """

    _esm = module("heat_slider.js", "gallery.js")
    sprite = T.Bytes(b"").tag(sync=True)
    heat = T.Bytes(b"").tag(sync=True)
    meta: "T.Dict[str, Any]" = T.Dict(
        {
            "n": 0,
            "cols": 1,
            "px": 112,
            "shown": 92,
            "heat": 0,
            "gen": 0,
            "alt": [],
            "captions": [],
            "frames": [],
        }
    ).tag(sync=True)
    heat_alpha = T.Float(0.6, min=0.0, max=1.0).tag(sync=True)
    heat_scale = T.Unicode("strongest place").tag(sync=True)  # what the end of the colour scale stands for
    selected = T.Int(-1).tag(sync=True)

    def show(
        self,
        thumbnails: Sequence[Image.Image],
        *,
        alt: Sequence[str],
        captions: Sequence[str] = (),
        heat: np.ndarray | None = None,
        frames: Sequence[Frame] | None = None,
        px: int = 112,
        shown: int = 92,
        title: str | None = None,
    ) -> None:
        """Draw these thumbnails.

        Args:
            thumbnails: n pictures of any size; each is fitted into px × px.
            alt: n descriptions, what a screen reader says.
            captions: n short texts under the thumbnails, or none at all.
            heat: (n, h, h) in [0, 1], or None.
            frames: n, what the model sees of each picture: where its heat is drawn. None: all of it.
            shown: side in CSS pixels.

        Raises:
            ValueError: the numbers of thumbnails, descriptions, captions or heat maps differ.
        """
        count = len(thumbnails)
        checked = {"alt": alt, "captions": captions or None, "heat": heat, "frames": frames}
        for name, given in checked.items():
            if given is not None and len(given) != count:
                raise ValueError(f"{count} thumbnails need as many {name}; got {len(given)}.")
        data, columns = sprite(thumbnails, px)
        with self.hold_sync():
            self.sprite = data
            self.heat = b"" if heat is None else heat_bytes(heat)
            self.selected = -1
            if title is not None:
                self.title = title
            self.meta = {
                "n": count, "cols": columns, "px": px, "shown": shown,
                "heat": 0 if heat is None else int(heat.shape[-1]), "gen": self.meta["gen"] + 1,
                "alt": list(alt), "captions": list(captions) or [""] * count,
                "frames": [in_cell(frame, picture.size) for frame, picture in zip(
                    frames or [Frame()] * count, thumbnails, strict=True)],
            }  # fmt: skip

    def show_shelf(self, shelf: "Shelf", title: str = "", **sizes: int) -> None:
        """Draw a shelf's pictures; `sizes` as for `show`, `title` in place of the shelf's own."""
        maps = shelf.heat
        self.show(
            shelf.thumbnails, alt=shelf.alt, captions=shelf.captions, title=title or shelf.title,
            heat=maps.maps if maps else None, frames=maps.frames if maps else None, **sizes,
        )  # fmt: skip


class Overlay(Part):
    """One picture, large, under an optional heat map with an opacity slider."""

    _esm = module("heat_slider.js", "overlay.js")
    picture = T.Bytes(b"").tag(sync=True)
    heat = T.Bytes(b"").tag(sync=True)
    meta: "T.Dict[str, Any]" = T.Dict({
        "width": 1, "height": 1, "shown": 256, "heat": [0, 0], "gen": 0, "alt": "", "caption": "",
        "frame": [0, 0, 1, 1],
    }).tag(sync=True)  # fmt: skip
    heat_alpha = T.Float(0.6, min=0.0, max=1.0).tag(sync=True)
    heat_scale = T.Unicode("strongest place").tag(sync=True)  # what the end of the colour scale stands for

    def show(
        self,
        picture: Image.Image | None,
        *,
        alt: str,
        caption: str = "",
        heat: np.ndarray | None = None,
        frame: Frame | None = None,
        shown: int = 256,
    ) -> None:
        """Draw this picture; None shows `empty_text` instead.

        Args:
            heat: (h, w) in [0, 1], drawn over what the model sees.
            frame: what the model sees of the picture; None: all of it. Anything less is outlined.
        """
        frame = frame or Frame()
        width, height = picture.size if picture else (1, 1)
        with self.hold_sync():
            self.picture = encode_jpeg(picture, 2 * shown) if picture else b""
            self.heat = b"" if heat is None else heat_bytes(heat)
            self.meta = {
                "width": width, "height": height, "shown": shown,
                "heat": [0, 0] if heat is None else [int(side) for side in heat.shape],
                "gen": self.meta["gen"] + 1, "alt": alt, "caption": caption,
                "frame": [frame.left, frame.top, frame.right, frame.bottom],
            }  # fmt: skip


class DataTable(Part):
    """A table; a row is `{"id": int, "cells": [cell, …]}`, a column `{"key", "label", "numeric", "wraps", "tip"}`.

    A cell is a text, or `{"text", "value", "low", "high"}`, drawn as an interval on an axis that all such cells share.
    Headers can be clicked where somebody listens to "sort".

    Messages: `{"kind": "sort", "key"}`, `{"kind": "key", "key", "id"}` for the keys in `letters`, `{"kind": "more"}`
    near the end of the rows where `more` says that there are others. `selected` is the id of the chosen row.
    """

    _esm = module("data_table.js")
    columns = T.List(T.Dict()).tag(sync=True)
    rows = T.List(T.Dict()).tag(sync=True)
    sorted_by = T.Unicode("").tag(sync=True)
    falling = T.Bool(True).tag(sync=True)
    sortable = T.Bool(False).tag(sync=True)
    letters = T.Unicode("").tag(sync=True)
    more = T.Bool(False).tag(sync=True)
    opens = T.Bool(True).tag(sync=True)  # whether something happens when a row is chosen
    selected = T.Int(-1).tag(sync=True)
    gen = T.Int(0).tag(sync=True)

    def on(self, kind: str, handler: Callable[[dict[str, Any]], None]) -> None:
        """As for every part; listening to "sort" makes the headers buttons."""
        super().on(kind, handler)
        self.sortable = self.sortable or kind == "sort"

    def show(
        self,
        rows: Sequence[dict[str, Any]],
        *,
        columns: Sequence[dict[str, Any]] | None = None,
        sorted_by: str = "",
        falling: bool = True,
    ) -> None:
        """Draw these rows, already in the order that `sorted_by` and `falling` announce."""
        with self.hold_sync():
            if columns is not None:
                self.columns = list(columns)
            self.rows = list(rows)
            self.sorted_by, self.falling = sorted_by, falling
            self.gen += 1


class Scatter(Part):
    """Many points, drawn in one piece: click one, or choose many with a box or a loop.

    `selected` is the place of the point that was clicked, `answered` echoes it once Python has it. What a box or a loop
    holds arrives in `on_chosen`. `groups` says how a point is drawn: 0 plain, 1 lit, 2 marked. `tool` and `window`
    (what is in view: left, right, low, high, and `xy_gen`) stay when the map comes back to the screen. A point under
    the mouse sends `{"kind": "hover", "i"}`.
    """

    _esm = module("scatter.js")
    xy = T.Bytes(b"").tag(sync=True)
    xy_gen = T.Int(0).tag(sync=True)
    groups = T.Bytes(b"").tag(sync=True)
    texts: "T.List[str]" = T.List().tag(sync=True)
    text_of = T.Bytes(b"").tag(sync=True)
    meta: "T.Dict[str, Any]" = T.Dict().tag(sync=True)
    height = T.Int(430).tag(sync=True)
    selected = T.Int(-1).tag(sync=True)
    answered = T.Int(-1).tag(sync=True)
    chosen: Any = T.Any(b"").tag(sync=True)  # from the browser it comes as a memoryview
    chosen_gen = T.Int(0).tag(sync=True)
    tool = T.Unicode("box").tag(sync=True)
    window: "T.List[float]" = T.List().tag(sync=True)
    gen = T.Int(0).tag(sync=True)

    def send_pictures(self, place: int, sprite: bytes) -> None:
        """Answer a "hover": pictures in a row, for the tip of this point."""
        self.send({"kind": "pictures", "i": place}, [sprite])

    def on_chosen(self, handler: Callable[[list[int]], None]) -> None:
        """Call `handler(places)` whenever a box or loop was drawn."""

        def heard(_: Any) -> None:
            whole = bytes(self.chosen)
            handler(np.frombuffer(whole[: len(whole) // 4 * 4], "<i4").tolist())

        self.observe(heard, "chosen_gen")

    def show(
        self,
        xy: np.ndarray | None = None,
        *,
        groups: np.ndarray,
        names: Sequence[str] | None = None,
        meta: dict[str, Any],
    ) -> None:
        """Draw these points.

        Args:
            xy: (n, 2); a point that is not finite is left out. None keeps the points and draws them again.
            groups: (n,) sums of 1 lit, 2 marked, 4 marked faintly, 8 chosen; where any is chosen the rest is dimmed.
            names: n texts for the tip, many of them alike; None keeps them.
            meta: `x` and `y` (names of the axes), `alt` (what a screen reader says), `legend` (what the groups are),
                `plain` (True: axes without numbers), `labels` ([point, text], drawn as far as they do not overlap),
                `log_y` (True: y holds log₁₀ of what the ticks say),
                `bent_y` (True: y is drawn linearly near zero and logarithmically far off).
        """
        with self.hold_sync():
            if xy is not None:
                self.xy = np.ascontiguousarray(xy, "<f4").tobytes()
                self.xy_gen += 1
            if names is not None:
                self.texts, places = _once(names)
                self.text_of = np.asarray(places, "<i4").tobytes()
            self.groups = np.asarray(groups, np.uint8).tobytes()
            self.meta = meta
            self.gen += 1


def _once(names: Sequence[str]) -> tuple[list[str], list[int]]:
    """The different texts, and the place of each name's text among them."""
    places: dict[str, int] = {}
    of = [places.setdefault(name, len(places)) for name in names]
    return list(places), of


class Stage(Part):
    """One picture whose objects can be moved, with the mouse or by arrow keys.

    An object is `{"name", "box": [left, top, right, bottom]}` in pixels of the picture. A move sends
    `{"kind": "move", "i", "left", "top"}`; the next one waits until its answer is drawn.
    """

    _esm = module("stage.js")
    picture = T.Bytes(b"").tag(sync=True)
    meta: "T.Dict[str, Any]" = T.Dict(
        {"width": 64, "height": 64, "shown": 256, "gen": 0, "alt": "", "things": []}
    ).tag(sync=True)

    def show(
        self, picture: Image.Image, things: Sequence[dict[str, Any]], *, alt: str, shown: int = 256
    ) -> None:
        """Draw this picture with handles on its objects."""
        with self.hold_sync():
            self.picture = encode_jpeg(picture, shown)
            self.meta = {
                "width": picture.width, "height": picture.height, "shown": shown, "gen": self.meta["gen"] + 1,
                "alt": alt, "things": list(things),
            }  # fmt: skip


class DotList(Part):
    """One line per latent or cause, one mark per model on a shared axis.

    A row is `{"id": int, "label", "values": [number or None per model], "texts": [text per model], "own": text or "",
    "owner": the model that has it alone or -1, "spoken", "tip"}`. `selected` is the id of the chosen row.
    """

    _esm = module("dot_list.js")
    names: "T.List[str]" = T.List().tag(sync=True)
    axis = T.Unicode("").tag(sync=True)
    rows = T.List(T.Dict()).tag(sync=True)
    selected = T.Int(-1).tag(sync=True)
    gen = T.Int(0).tag(sync=True)

    def show(self, rows: Sequence[dict[str, Any]], *, names: Sequence[str], axis: str) -> None:
        """Draw these rows; `names` are the models', `axis` says what is measured."""
        with self.hold_sync():
            self.rows, self.names, self.axis = list(rows), list(names), axis
            self.gen += 1
