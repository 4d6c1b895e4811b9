"""The latent panel: the meaning of one latent, the evidence for it, and the prompts that use it.

Owns layout and wiring of `LatentState`. Start at `LatentPanel`.
"""

from typing import Any

import ipywidgets as W

from clipattr_widgets.captions import card_html, facts_div, heat_scale
from clipattr_widgets.controls import (
    button,
    label_width,
    labelled,
    on_enter_again,
    takeaway,
    text_field,
    toolbar,
)
from clipattr_widgets.drawings import histogram_svg
from clipattr_widgets.latent_state import ORDERS, LatentState
from clipattr_widgets.opening import opened
from clipattr_widgets.panel import Panel, word_field
from clipattr_widgets.parts import DataTable, Gallery
from clipattr_widgets.static import Static, gallery_figure, strip_html, table_html
from clipattr_widgets.tables import column, row
from clipattr_widgets.text import markup, plain, shown, signed

WORDS = (
    column("word", "word"),
    column("alignment", "fits", "cosine with the latent's examples minus that of the empty prompt, × 100; words below "
           "the empty prompt are left out", numeric=True),
)  # fmt: skip
NEAREST = (column("latent", "nearest latents"), column("cosine", "cosine", numeric=True))
BESIDE = (
    column("latent", "co-active latents"),
    column(
        "share",
        "in its pictures",
        "share of this latent's pictures in which the other is active",
        numeric=True,
    ),
    column("more", "more than elsewhere", "that share minus the share in other pictures", numeric=True),
)
USERS = (column("prompt", "prompts that rest on it"), column("points", "points", numeric=True))


class LatentPanel(Panel):
    """One latent: examples by activation, by use or in bands; histogram, words, neighbours, users; rename.

    Args:
        study: a `Study`, its path or name; or a ready `state`.
        chosen: what to show first, e.g. `latent=17, order="use", prompt="kite"`.
    """

    def __init__(self, study: Any = None, *, state: LatentState | None = None, **chosen: Any) -> None:

        self.state = state = state or LatentState(opened(study)[0][0], **chosen)
        self.find = text_field("number, name or label", 230, description="latent", style=label_width(46))
        self.back = button("◀", 34, "previous latent")
        self.forth = button("▶", 34, "next latent")
        self.rename = text_field("give it a name", 180)
        self.order = W.ToggleButtons(options=list(ORDERS), value=state.order, style={"button_width": "118px"})
        self.prompt = word_field(state.table, state.prompt, "prompt", "whose use?", width=220, label=52)
        self.heat = W.ToggleButton(value=state.heat, description="heat maps", layout=W.Layout(width="96px"),
                                   tooltip="where in the picture the latent is active")  # fmt: skip
        self.gallery = Gallery(title="examples", empty_text="this latent is active in no picture")
        self.words = DataTable(title="best words by the evaluator", empty_text="no label")
        self.nearest = DataTable(title="most parallel directions", empty_text="none")
        self.beside = DataTable(title="more often than elsewhere", empty_text="none")
        self.users = DataTable(title="mean over its strongest pictures", empty_text="nothing measured")
        self.card, self.histogram, self.notice, self.status = (W.HTML() for _ in range(4))
        self.take, self.drawer = takeaway(self)
        head = toolbar(self.back, self.find, self.forth, self.rename, self.take, self.status)
        tools = toolbar(self.order, self.prompt, self.heat)
        facts = labelled(
            W.HBox([self.histogram, self.words, self.nearest, self.users, self.beside]), "clipattr-columns"
        )
        super().__init__([head, self.notice, self.card, tools, self.gallery, facts, self.drawer], state)
        self._wire()
        self.draw_all()

    def _wire(self) -> None:
        state = self.state
        for name in ("order", "prompt", "heat"):
            self.link(name, getattr(self, name))
        self.find.observe(lambda change: state.find(change["new"]), "value")
        on_enter_again(self.find, state.find)
        self.rename.observe(lambda change: self._rename(change["new"]), "value")
        self.back.on_click(lambda _: state.step(-1))
        self.forth.on_click(lambda _: state.step(1))
        for table in (self.nearest, self.beside):
            table.observe(lambda change: self._go(change["new"]), "selected")
        for table, name in ((self.words, "words"), (self.users, "users")):
            table.observe(
                lambda change, name=name: self._open(change["owner"], name, change["new"]), "selected"
            )
        self.doors(self.gallery, lambda: state.shelf)
        self.watch(self._draw_known, "gen")
        self.watch(self._draw_users, "users")
        self.watch(self._draw_shelf, "shelf")
        self.watch(self._draw_status, "pending", "error")

    def _rename(self, name: str) -> None:
        if self.state.card is not None and name != (self.state.card.given or ""):
            self.state.rename(name)

    def _open(self, table: DataTable, name: str, place: int) -> None:
        """Look at the word in a row as a prompt; the row can be chosen again."""
        if place >= 0:
            self.state.open_prompt(place, getattr(self.state, name))
            table.selected = -1

    def _go(self, latent: int) -> None:
        if latent >= 0:
            self.state.latent = latent

    def _draw_known(self) -> None:

        state = self.state
        if state.card is None:
            return
        self.card.value = card_html(state.card) + facts_div([
            ("margin", plain(state.card.margin * 100, 1), "the label fits by so much more than the next word"),
            ("label predicts activity, AUC", plain(state.card.auc), "0.5 not at all, 1 always"),
        ])  # fmt: skip
        self.rename.value = state.card.given or ""
        self.histogram.value = histogram_svg(*state.histogram)
        nearest = [row(j, state.table.name_of(j), signed(cosine)) for j, cosine in state.nearest]
        for table, rows, columns in (
            (self.words, self.word_rows(), WORDS),
            (self.nearest, nearest, NEAREST),
            (self.beside, self.beside_rows(), BESIDE),
        ):
            table.selected = -1
            table.show(rows, columns=columns)

    def word_rows(self) -> list[dict[str, Any]]:
        """The words that fit better than nothing, and the first in any case."""
        return [
            row(i, shown(word, 60), signed(value * 100, 1))
            for i, (word, value) in enumerate(self.state.words)
            if value > 0 or i == 0
        ]

    def beside_rows(self) -> list[dict[str, Any]]:
        name = self.state.table.name_of
        return [
            row(j, name(j), f"{share * 100:.0f} %", f"{signed(more * 100, 0)} %")
            for j, share, more in self.state.beside
        ]

    def user_rows(self) -> list[dict[str, Any]]:
        return [
            row(i, shown(text, 60), signed(value * 100)) for i, (text, value) in enumerate(self.state.users)
        ]

    def _draw_users(self) -> None:
        self.users.selected = -1
        self.users.show(self.user_rows(), columns=USERS)

    def _draw_shelf(self) -> None:
        self.gallery.heat_scale = heat_scale(self.state.shelf.heat)
        self.gallery.show_shelf(self.state.shelf)

    def static(self) -> Static:

        state = self.state
        state.settle()
        parts = [card_html(state.card)] if state.card else [markup(state.error, 600)]
        parts.append(
            f"<p>{markup(state.shelf.title, 120)}<br>{strip_html(state.shelf.thumbnails, state.shelf.title)}</p>"
        )
        parts.append(histogram_svg(*state.histogram))
        parts.append(table_html(WORDS, self.word_rows(), "best words by the evaluator"))
        parts.append(table_html(BESIDE, self.beside_rows(), "co-active latents"))
        parts.append(table_html(USERS, self.user_rows(), "mean over its strongest pictures"))
        return Static("".join(parts), lambda: gallery_figure(state.shelf), state.frame())
