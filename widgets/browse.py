"""The browser: all pictures, or all latents, in a grid to sort, filter, search and mark.

Owns layout and wiring of `BrowseState`. Start at `BrowsePanel`.
"""

from typing import Any

import ipywidgets as W

from clipattr.studies.browsing import ANSWERS, NAMED
from clipattr_widgets.browse_state import BrowseState
from clipattr_widgets.controls import (
    button,
    label_width,
    on_enter_again,
    remarks_html,
    show_if,
    takeaway,
    text_field,
    toolbar,
)
from clipattr_widgets.grid import Grid
from clipattr_widgets.opening import opened
from clipattr_widgets.panel import Panel, word_field
from clipattr_widgets.shelf import Shelf
from clipattr_widgets.static import Static, error_line, gallery_figure, strip_html, table_html
from clipattr_widgets.tables import column, row
from clipattr_widgets.text import markup, shown

WORDS = {
    "number": "number", "score": "score", "latent": "a latent", "error": "error", "surprise": "surprise",
    "triage": "worth a look", "frequency": "frequency", "alignment": "fits label", "clarity": "clarity",
    "reliance": "reliance",
}  # fmt: skip
MAX_CHOICES = 2000  # values of a filter
N_STILL = 20


class BrowsePanel(Panel):
    """Pictures or latents of a study.

    Args:
        study: a `Study`, its path or name; or a ready `state`.
        chosen: what to show first, e.g. `order="score", prompt="kite", label="bat"` or `of="latents"`.
    """

    def __init__(self, study: Any = None, *, state: BrowseState | None = None, **chosen: Any) -> None:
        self.state = state = state or BrowseState(opened(study)[0][0], **chosen)
        self._filling = False
        self.of = W.ToggleButtons(
            options=["pictures", "latents"], value=state.of, style={"button_width": "84px"}
        )
        self.order = W.Dropdown(options=self._orders(), value=state.order, description="sort by",
                                layout=W.Layout(width="190px"), style=label_width(46))  # fmt: skip
        self.falling = W.ToggleButton(value=state.falling, description="largest first",
                                      layout=W.Layout(width="100px"))  # fmt: skip
        self.prompt = word_field(state.table, state.prompt, "prompt", "whose score?", width=220, label=52)
        self.latent = text_field("number, name or label", 210, description="latent", style=label_width(46))
        self.search = text_field(
            "id, name or label", 210, value=state.search, description="search", style=label_width(46)
        )
        self.filters = {
            name: W.Dropdown(options=self._choices(name), value=getattr(state, name), description=said,
                             layout=W.Layout(width="176px"), style=label_width(46))
            for name, said in (("label", "label"), ("group", "group"), ("split", "split"), ("answer", "answer"),
                               ("named", "name"), ("selection", "kept"))
        }  # fmt: skip
        self.filters["answer"].tooltip = "whether the picture's highest label word is its own"
        self.all = button("mark all", 76, "mark everything that is shown")
        self.none = button("mark none", 84)
        self.name = text_field("keep marked as …", 160)
        self.drop = button("forget selection", 124, "delete the chosen selection; its pictures stay")
        self.grid = Grid(
            empty_text="nothing matches these filters", preload=state.table.browser.has_thumbnails
        )
        self.count, self.notice, self.status = W.HTML(), W.HTML(), W.HTML()
        self.take, self.drawer = takeaway(self)
        head = toolbar(self.of, self.order, self.falling, self.prompt, self.latent, self.take, self.status)
        filters = toolbar(self.search, *self.filters.values())
        marks = toolbar(self.all, self.none, self.name, self.drop, self.count)
        self.remarks = W.HTML(remarks_html(state.table.study))
        super().__init__([head, filters, self.notice, self.grid, marks, self.remarks, self.drawer], state)
        self._wire()
        self.draw_all()

    def _orders(self) -> list[tuple[str, str]]:
        return [(WORDS[key], key) for key in self.state.orders]

    def _choices(self, name: str) -> list[tuple[str, str]]:
        state = self.state
        if name == "selection":
            return [("all pictures", ""), *((shown(one, 40), one) for one in state.selections)]
        if name in ("answer", "named"):
            return [("any", ""), *((one, one) for one in (ANSWERS if name == "answer" else NAMED))]
        values = state.browser.values_of(name)[:MAX_CHOICES]
        return [("any", ""), *((shown(value, 40), value) for value in values)]

    def _wire(self) -> None:
        state = self.state
        for name in ("of", "falling", "prompt", "search"):
            self.link(name, getattr(self, name))
        for name, control in self.filters.items():
            self.link(name, control)
        self.order.observe(lambda change: self._ordered(change["new"]), "value")
        self.latent.observe(lambda change: state.find_latent(change["new"]), "value")
        on_enter_again(self.latent, state.find_latent)
        self.all.on_click(lambda _: state.mark_all())
        self.none.on_click(lambda _: state.mark_all(False))
        self.name.observe(lambda change: self._keep(change["new"]), "value")
        self.drop.on_click(lambda _: state.forget())
        self.grid.on("need", lambda m: state.ask_pages(list(m["pages"]), int(m["gen"]), self.grid.send_page))
        self.grid.on(
            "previews",
            lambda m: state.ask_previews(list(m["chunks"]), int(m["gen"]), self.grid.send_previews),
        )
        self.grid.on("pick", lambda message: self._picked(int(message["i"]), int(message["gen"])))
        self.grid.on("mark", lambda message: self._marked(message))
        self.watch(self._draw_kind, "of", "order", "gen")
        self.watch(self._draw_rows, "gen")
        self.watch(self._draw_marks, "marked", "gen")
        self.watch(self._draw_selections, "selections")
        self.watch(self._draw_status, "pending", "error")

    def _ordered(self, order: str | None) -> None:
        if order and not self._filling:
            self.state.order = order

    def _picked(self, place: int, gen: int) -> None:
        state = self.state
        if gen != state.gen or not 0 <= place < len(state.rows):
            return
        chosen = int(state.rows[place])
        if state.of == "latents":
            state.opened_latent = chosen
            state.opened += 1
        elif self._look_at is not None:
            self._look_at(chosen, *self.shown_for())

    def shown_for(self) -> tuple[int, str]:
        """The latent and prompt by which the pictures are sorted; -1 and "" without."""
        state = self.state
        latent = state.latent if state.order == "latent" else -1
        return latent, state.prompt if state.order in ("score", "surprise") else ""

    def _marked(self, message: dict[str, Any]) -> None:
        if int(message["gen"]) == self.state.gen:
            to = message.get("to")
            self.state.mark(int(message["i"]), to=None if to is None else int(to))

    def _keep(self, name: str) -> None:
        if name:
            self.state.keep(name)
            self.name.value = ""

    def _draw_kind(self) -> None:
        """Show the controls for pictures or for latents."""
        state = self.state
        pictures = state.of == "pictures"
        self._filling = True  # new entries choose the first of them for a moment
        if list(self.order.options) != self._orders():
            self.order.options = self._orders()
        if state.order in state.orders:
            self.order.value = state.order
        self._filling = False
        shown_for = {
            self.prompt: state.order in ("score", "surprise", "reliance"), self.latent: pictures,
            self.falling: state.order != "number", self.filters["named"]: not pictures,
            self.name: pictures and not state.table.read_only,
            self.drop: pictures and not state.table.read_only and bool(state.selection),
        }  # fmt: skip
        for name in ("label", "group", "split", "answer", "selection"):
            control = self.filters[name]
            shown_for[control] = pictures and (len(control.options) > 1 or name == "answer")
        for control, there in shown_for.items():
            show_if(there, control)

    def _draw_rows(self) -> None:
        state = self.state
        self.grid.show(len(state.rows), title=state.about(), gen=state.gen)

    def _draw_marks(self) -> None:
        state = self.state
        self.grid.mark(state.marked_places().tolist())
        count = len(state.marked)
        told = f"{count:,} marked" if count else "click opens · Space or X marks · Shift marks a range"
        self.count.value = f'<span class="clipattr-note" role="status">{markup(told, 120)}</span>'

    def _draw_selections(self) -> None:
        control, chosen = self.filters["selection"], self.state.selection
        control.options = self._choices("selection")
        control.value = chosen if chosen in self.state.selections else ""
        self._draw_kind()

    def static(self) -> Static:
        state = self.state
        state.settle()
        few = range(min(N_STILL, len(state.rows)))
        items = state.items(few)
        if state.of == "pictures":
            pictures = tuple(state.table.thumbnail(int(state.rows[at])) for at in few)
        else:
            tops = [state.table.examples(int(state.rows[at]), 1)[0] for at in few]
            pictures = tuple(state.table.thumbnail(int(top[0])) for top in tops if len(top))
        title = state.about()
        columns = (column("what", state.of), column("value", WORDS[state.order], numeric=True))
        rows = [row(i, shown(item.alt, 120), item.number) for i, item in enumerate(items)]
        body = error_line(state)
        body += f"<p>{markup(title, 200)}<br>{strip_html(pictures, title, n=N_STILL)}</p>"
        body += table_html(columns, rows, title) + remarks_html(state.table.study)
        return Static(body, lambda: gallery_figure(Shelf(title, pictures)), state.frame())
