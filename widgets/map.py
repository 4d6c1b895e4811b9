"""The map panel: all latents on one canvas, to search, box, lasso and click.

Owns layout and wiring of `MapState`, and the map as a figure. Start at `MapPanel`.
"""

import html
import io
from collections.abc import Sequence
from typing import Any

import ipywidgets as W
import numpy as np
from PIL import Image

from clipattr.display.wording import counted
from clipattr_widgets.captions import card_html, note_html
from clipattr_widgets.controls import (
    button,
    labelled,
    on_enter_again,
    progress_html,
    show_if,
    takeaway,
    text_field,
    toolbar,
    upload_button,
)
from clipattr_widgets.latent import LatentPanel
from clipattr_widgets.latent_state import LatentState
from clipattr_widgets.map_state import CHOSEN, LIT, MARKED, OTHERS, VIEWS, MapState
from clipattr_widgets.opening import opened
from clipattr_widgets.panel import Panel, word_field
from clipattr_widgets.parts import DataTable, Gallery, Scatter
from clipattr_widgets.sprites import data_uri, sprite
from clipattr_widgets.static import Static, blank, error_line, no_math, table_html
from clipattr_widgets.text import attribute_text, markup

N_TIP, TIP_SIDE = 4, 56  # pictures in a point's tip, and their side in px
COLOURS = {0: "#7a7f87", LIT: "#2f7fd0", MARKED: "#cf6a1f", OTHERS: "#cf9b78"}


class MapPanel(Panel):
    """All latents of a study: surprise, quality or meaning.

    Args:
        study: a `Study`, its path or name; or a ready `state`.
        chosen: what to show first, e.g. `view="meaning", search="hand"`; `findings` marks those of an audit.
        own_latent_panel: whether the button under the examples opens a latent panel below the map; the tabs have one.
    """

    def __init__(
        self,
        study: Any = None,
        *,
        state: MapState | None = None,
        own_latent_panel: bool = True,
        **chosen: Any,
    ) -> None:

        self.state = state = state or MapState(opened(study)[0][0], **chosen)
        self._own = own_latent_panel
        self.latent_panel: Any = None
        self.view = W.ToggleButtons(options=list(VIEWS), value=state.view, style={"button_width": "156px"})
        self.prompt = word_field(state.table, state.prompt, "prompt", "whose reliance?", width=230, label=52)
        self.search = text_field("highlight: a word", 150, value=state.search)
        self.picture = text_field("or picture no., label", 156)
        self.upload = upload_button()
        self.scatter = Scatter(title="map of all latents")
        self.gallery = Gallery(
            title="examples", empty_text="click a latent on the map, or a row of the table"
        )
        self.list = DataTable(title="", empty_text="no latents to list")
        self.goto = text_field("go to latent: no. or name", 180)
        self.opener = button("latent panel", 110, "everything about this latent", disabled=True)
        self.cancel = button(
            "end layout", 98, "stop after the current round; the map goes back to its first view"
        )
        self.card, self.about, self.notice, self.status, self.count = (W.HTML() for _ in range(5))
        self.below = W.VBox()
        self.take, self.drawer = takeaway(self)
        head = toolbar(self.view, self.prompt, self.cancel, self.take, self.status)
        find = toolbar(self.search, self.picture, self.upload)
        more = toolbar(self.goto, self.opener)
        aside = labelled(W.VBox([more, self.card, self.gallery]), "clipattr-aside")
        main = labelled(W.VBox([find, self.scatter, self.about]), "clipattr-main")
        body = labelled(W.HBox([main, aside]), "clipattr-split")
        table = labelled(W.VBox([self.count, self.list]), "clipattr-section")
        super().__init__([head, self.notice, body, table, self.drawer, self.below], state)
        self._wire()
        self._names = True
        self.draw_all()

    def _wire(self) -> None:
        state = self.state
        for name in ("view", "prompt", "search"):
            self.link(name, getattr(self, name))
        self.picture.observe(lambda change: state.light_picture(change["new"]), "value")
        self.upload.observe(lambda change: self._uploaded(change["new"]), "value")
        on_enter_again(self.goto, state.go_to_latent)
        self.goto.observe(lambda change: state.go_to_latent(change["new"]), "value")
        self.scatter.observe(lambda change: self._clicked(change["new"]), "selected")
        self.scatter.on("hover", lambda message: self._hovered(int(message["i"])))
        self.scatter.on_chosen(lambda places: setattr(state, "chosen", tuple(places)))
        self.list.observe(lambda change: self._clicked(change["new"]), "selected")
        self.list.on("more", lambda _: state.more())
        self.list.on("sort", lambda message: state.sort(str(message.get("key"))))
        self.cancel.on_click(lambda _: state.cancel())
        self.opener.on_click(lambda _: self._open())
        self.doors(self.gallery, lambda: state.examples)
        self.watch(self._draw_map, "gen")
        self.watch(self._draw_card, "card", "examples")
        self.watch(self._draw_chosen, "latent")
        self.watch(self._draw_status, "pending", "error", "note", "progress")

    def _uploaded(self, files: Sequence[Any]) -> None:
        if files:
            self.state.light_upload(bytes(files[0]["content"]), str(files[0]["name"]))
            self.upload.value = ()

    def _clicked(self, latent: int) -> None:
        if latent >= 0:
            self.scatter.answered = latent
            self.state.latent = latent

    def _hovered(self, latent: int) -> None:
        """Send the latent's strongest pictures for its tip."""
        table = self.state.table
        if 0 <= latent < table.n_latents:
            places, _ = table.examples(latent, N_TIP)
            self.scatter.send_pictures(
                latent, sprite([table.thumbnail(int(place)) for place in places], TIP_SIDE, N_TIP, gap=2)[0]
            )

    def _open(self) -> None:
        self.state.opened += 1
        if not self._own or self.state.latent < 0:
            return
        if self.latent_panel is None:
            made = LatentState(self.state.table, latent=self.state.latent, prompt=self.state.prompt)
            self.latent_panel = LatentPanel(state=made)
            self.below.children = [self.latent_panel]
        self.latent_panel.state.latent = self.state.latent

    # drawing

    def _draw_map(self) -> None:
        state = self.state
        places = state.places
        show_if(state.view == "surprise", self.prompt)
        xy = np.full((state.table.n_latents, 2), np.nan) if places is None else places.xy
        fresh = getattr(self, "_drawn", None) is not places or places is None
        self._drawn = places
        self.scatter.show(
            xy if fresh else None, groups=state.groups, names=state.names() if self._names else None,
            meta=self._meta(),
        )  # fmt: skip
        self._names = False
        self.scatter.selected = state.latent
        self.list.selected = state.latent
        self.list.more = state.hidden > 0
        self.list.show(state.rows, columns=state.columns, sorted_by=state.sorted_by, falling=state.falling)
        self.about.value = note_html(places.about if places else "", 400)
        self.count.value = note_html(self._counted(), 200)

    def _meta(self) -> dict[str, Any]:
        state, places = self.state, self.state.places
        groups = state.groups
        found = "in a finding" + (" of this prompt" if state.view == "surprise" else "")
        names = {"lit up": LIT, found: MARKED, "in a finding of another prompt": OTHERS, "chosen": CHOSEN}
        legend = ["latent", *(name if (groups & bit).any() else "" for name, bit in names.items())]
        if places is None:
            return {"x": "", "y": "", "plain": True, "alt": "an empty map", "legend": legend}
        there = int(np.isfinite(places.xy).all(1).sum())
        axes = f"{places.x} across, {places.y} up" if not places.bare else "neighbours look alike"
        alt = f"map of {counted(there, 'latent')}: {axes}; the table below lists those that stand out"
        labels = [[j, text] for j, text in state.labels()]
        return {"x": places.x, "y": places.y, "plain": places.bare, "alt": alt, "legend": legend, "labels": labels,
                "log_y": places.log_y, "bent_y": places.bent_y}  # fmt: skip

    def _counted(self) -> str:
        state = self.state
        count = len(state.rows) + state.hidden
        what = "chosen on the map" if state.chosen else ("lit up" if state.lit else "standing out")
        return f"{counted(count, 'latent')} {what}" + (
            f", {len(state.rows):,} listed; more come with scrolling" if state.hidden else ""
        )

    def _draw_card(self) -> None:

        card, shelf = self.state.card, self.state.examples
        self.opener.disabled = card is None
        self.card.value = card_html(card) if card is not None else ""
        self.gallery.show_shelf(shelf, shelf.title or "examples", shown=72)

    def _draw_chosen(self) -> None:
        self.scatter.selected = self.list.selected = self.state.latent

    def _draw_status(self) -> None:
        super()._draw_status()
        state = self.state
        if state.progress:
            self.status.value = progress_html(state.progress, of="layout", unit="round", last="drawing")
        elif state.note and not state.pending:
            self.status.value = f'<span class="clipattr-note">{markup(state.note, 120)}</span>'
        show_if(state.progress, self.cancel)

    def close(self) -> None:
        if not self.closed and self.latent_panel is not None:
            self.latent_panel.close()
            self.below.children = []
        super().close()

    # still views

    def figure(self) -> Any:
        """The map as a plain plotly figure, to zoom in, export or print."""
        import plotly.graph_objects as go

        state = self.state
        state.settle()
        places = state.places
        figure = go.Figure()
        if places is not None:
            names, groups = np.asarray(state.names(), object), state.groups
            there = np.isfinite(places.xy).all(1)
            drawn = shape_of(groups)
            for group, title in ((0, "latent"), (OTHERS, "in a finding of another prompt"), (LIT, "lit up"),
                                 (MARKED, "in a finding")):  # fmt: skip
                rows = np.flatnonzero(there & (drawn == group))
                if len(rows):
                    # A label may hold markup, which plotly would obey.
                    texts = [f"{_no_markup(names[j])} (latent {j})" for j in rows]
                    figure.add_scattergl(
                        x=places.xy[rows, 0], y=places.xy[rows, 1], mode="markers", name=title, text=texts,
                        hoverinfo="text",
                        marker={"color": COLOURS[group], "size": 5 if group == 0 else 9,
                                "symbol": "circle" if group != MARKED else "diamond",
                                "opacity": 0.55 if group == 0 else 1.0},
                    )  # fmt: skip
            figure.update_xaxes(title=_no_markup(places.x), showticklabels=not places.bare)
            figure.update_yaxes(title=_no_markup(places.y), showticklabels=not places.bare)
        return figure.update_layout(template="simple_white", width=860, height=560)

    def static(self) -> Static:
        state = self.state
        state.settle()
        alt = str(self._meta()["alt"])
        jpeg = _jpeg(map_figure(state))
        body = error_line(state)
        body += f'<img width="700" alt="{attribute_text(alt)}" src="{data_uri(jpeg)}">'
        if state.places is not None:
            body += f"<p><small>{markup(state.places.about, 400)}</small></p>"
        body += table_html(state.columns, state.rows[:20], markup(self._counted(), 200))
        return Static(body, lambda: map_figure(state), state.frame())


def map_figure(state: MapState) -> Any:
    """The map as a matplotlib figure; names stand beside the latents that lead the table."""
    figure = blank(8, 5)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    places, groups = state.places, state.groups
    if places is None:
        axes.set_axis_off()
        return figure
    drawn = shape_of(groups)
    for group, size, marker in ((0, 5, "o"), (OTHERS, 20, "D"), (LIT, 22, "o"), (MARKED, 26, "D")):
        rows = drawn == group
        x, y = places.xy[rows].T
        axes.scatter(x, y, s=size, c=COLOURS[group], marker=marker, alpha=0.5 if not group else 0.95,
                     linewidths=0, rasterized=True)  # fmt: skip
    for row in state.rows[:8]:
        x, y = places.xy[row["id"]]
        if np.isfinite(x) and np.isfinite(y):
            name = no_math(row["cells"][0], 24)
            axes.annotate(name, (x, y), xytext=(4, 3), textcoords="offset points", fontsize=7.5)
    axes.set_xlabel(no_math(places.x, 120), fontsize=9)
    axes.set_ylabel(no_math(places.y, 120), fontsize=9)
    if places.bare:
        axes.set_xticks([])
        axes.set_yticks([])
    return figure


def shape_of(groups: np.ndarray) -> np.ndarray:
    """The one shape that a latent is drawn with in a still map: its finding goes before what lights it up."""
    return np.where(
        groups & MARKED, MARKED, np.where(groups & LIT, LIT, np.where(groups & OTHERS, OTHERS, 0))
    )


def _jpeg(figure: Any) -> bytes:
    """A figure as JPEG bytes."""
    drawn, packed = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=100, metadata={"Software": None})
    Image.open(drawn).convert("RGB").save(packed, "JPEG", quality=85)
    return packed.getvalue()


def _no_markup(text: str) -> str:
    """Text for plotly, which reads some tags."""
    return html.escape(str(text), quote=False)
