"""The explorer: pickers, ranked bars, the picture, the chosen latent's examples.

Owns the layout and the wiring between `ExplorerState` and the parts. Holds no state of its own. Start at `explore`.
"""

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import ipywidgets as W

from clipattr_widgets.captions import (
    card_html,
    facts_html,
    found_html,
    heat_scale,
    method_options,
    score_html,
)
from clipattr_widgets.changes import in_words
from clipattr_widgets.controls import (
    button,
    label_width,
    labelled,
    on_enter_again,
    show_if,
    takeaway,
    text_field,
    toolbar,
    upload_button,
)
from clipattr_widgets.explorer_state import UPLOAD, ExplorerState
from clipattr_widgets.model_names import by_model
from clipattr_widgets.opening import opened, picture_from_elsewhere
from clipattr_widgets.pair_table import PairTable
from clipattr_widgets.panel import Panel, prompt_fields, suggestions
from clipattr_widgets.parts import BarList, Gallery, Overlay
from clipattr_widgets.static import Static, bars_figure, explorer_html, score_title
from clipattr_widgets.tabs import Tabs
from clipattr_widgets.text import markup, shown

PICTURE_SIDE = 256


def explore(study: Any, *, findings: Any = None, **chosen: Any) -> "ExplorerPanel":
    """Open the panels on a study, or on several: the explorer, with latent, prompt and findings one click away.

    Args:
        study: a `Study`, the path or bundled name of one, or a list or dict (name to study) of them.
        findings: an audit of the first study; its latents get a badge, and its findings are listed. With several
            studies also a mapping of their places (0 the first) to audits.
        chosen: what to show first, e.g. `picture=7, prompt="kite", against="bat"`. A picture is a number of the study,
            or comes from elsewhere: a path or a `PIL.Image`. `text_dictionary` (`train_text_sae`) adds a table of
            pairs: latents of the picture × latents of the prompt.

    Raises:
        PanelError: the picture from elsewhere cannot be read.
    """
    return ExplorerPanel(study, findings=findings, tabs=True, **chosen)


class ExplorerPanel(Panel):
    """Model × picture × prompt: the latents on which the similarity relies, and the similarity without them.

    Args: as for `explore`, or a ready `state`. `tabs` adds the other panels, linked: what is chosen in one is chosen in
    all. In a notebook the panel shows itself; elsewhere `snapshot()` and `save`.
    """

    def __init__(
        self,
        study: Any = None,
        *,
        state: ExplorerState | None = None,
        findings: Any = None,
        tabs: bool = False,
        text_dictionary: Any = None,
        **chosen: Any,
    ) -> None:
        if state is None:
            studies, names = opened(study)
            outside = None if isinstance(chosen.get("picture", 0), Integral) else chosen.pop("picture")
            state = ExplorerState(studies, names=names, findings=findings, **chosen)
            if outside is not None:
                state.look_at(*picture_from_elsewhere(outside))
        self.state = state
        self._build()
        self.pairs = None if text_dictionary is None else PairTable(state, text_dictionary)
        more = [] if self.pairs is None else [self.pairs]
        own = [self._toolbar, self.notice, self._body, self._details, *more, self.drawer]
        self.tabs = Tabs(state, own) if tabs else None
        super().__init__([self.tabs.box] if self.tabs else own, state)
        if self.tabs is not None:
            self.tabs.changed = self.changed
        self._wire()
        self.draw_all()

    # layout

    def _build(self) -> None:
        state = self.state
        wide = W.Layout(width="auto", min_width="170px")
        self._models, self._filling = by_model(state.desks), False
        self.model = W.Dropdown(
            options=[(shown(name, 70), name) for name in self._models], value=state.table.model_name,
            description="model", layout=wide, style=label_width(44),
        )  # fmt: skip
        sites = self._models[state.table.model_name]
        self.site = W.Dropdown(options=sites, value=state.desk, description="site", layout=wide,
                               style=label_width(32), disabled=len(sites) < 2)  # fmt: skip
        self.method = W.Dropdown(
            options=method_options(), value=state.method, description="method", layout=wide,
            style=label_width(52),
        )  # fmt: skip
        self.prompt, self.against = prompt_fields(state, width=232)
        self.n_rows = W.BoundedIntText(
            value=state.n_rows, min=1, max=200, description="rows",
            layout=W.Layout(width="94px"), style=label_width(34),
        )  # fmt: skip
        self.waterfall = W.ToggleButton(
            value=state.waterfall, description="waterfall", layout=W.Layout(width="84px"),
            tooltip="stack the rows from zero up to the score",
        )  # fmt: skip
        self.back = button("◀", 34, "previous picture")
        self.forth = button("▶", 34, "next picture")
        self.number = text_field(
            "outside", 136, value=self._number_shown(), description="picture", style=label_width(48)
        )
        self.find = text_field("find by id or label", 150)
        self.find_next = button("▸", 34, "the next picture that fits")
        self.found = W.HTML()
        self.upload = upload_button()
        self.compare = text_field("compare: no., label", 146)
        self.undo = button("undo", 62, "undo the last change (U)")
        self.redo = button("redo", 62, "redo the change (Y)")
        self.reset = button("reset", 62, "all latents as they are")
        self.factor = W.FloatSlider(
            value=1.0, min=0.0, max=3.0, step=0.25, description="× activation", continuous_update=False,
            readout_format=".2f", layout=W.Layout(width="300px"), style=label_width(80),
        )  # fmt: skip
        self.rename = text_field("name this latent", 200)
        self.goto = text_field("latent no. or word", 140)
        self.goto_next = button("▸", 34, "the next latent that fits")
        self.found_latent = W.HTML()
        self.take, self.drawer = takeaway(self)

        self.overlay = Overlay(empty_text="no picture", heat_alpha=0.45)
        self.second = Overlay(empty_text="", layout=W.Layout(display="none"))
        self.bars = BarList(title="latents by attribution", empty_text="no attribution to show")
        self.gallery = Gallery(title="examples", empty_text="this latent has no examples")
        self.score, self.facts, self.notice, self.card, self.status = (W.HTML() for _ in range(5))
        self.standing = W.HTML()

        self._toolbar = toolbar(self.model, self.site, self.method, self.status)
        prompts = toolbar(self.prompt, self.against)
        side = W.VBox([
            W.HBox([self.back, self.number, self.forth]), self.overlay,
            W.HBox([self.find, self.find_next, self.found]),
            W.HBox([self.upload, self.compare]), self.second,
        ])  # fmt: skip
        tools = toolbar(self.n_rows, self.waterfall, self.undo, self.redo, self.reset, self.take)
        main = W.VBox([prompts, self.score, self.standing, tools, self.bars, self.facts])
        labelled(side, "clipattr-side")
        self._body = labelled(W.HBox([side, labelled(main, "clipattr-main")]), "clipattr-split")
        head = toolbar(self.card, self.factor, self.rename, self.goto, self.goto_next, self.found_latent)
        self._details = labelled(W.VBox([head, self.gallery]), "clipattr-section")

    # wiring: one line each; everything that can fail is in the state, where it is tested

    def _wire(self) -> None:
        state = self.state
        for name in ("prompt", "against", "method", "n_rows", "waterfall"):
            self.link(name, getattr(self, name))
        self.model.observe(lambda change: self._other_model(change["new"]), "value")
        self.site.observe(lambda change: self._other_site(change["new"]), "value")
        self.number.observe(lambda change: self._picked(change["new"]), "value")
        self.back.on_click(lambda _: state.step(-1))
        self.forth.on_click(lambda _: state.step(1))
        self.find.observe(lambda change: self._find(change["new"]), "value")
        on_enter_again(self.find, self._find)
        on_enter_again(self.goto, self._go)
        self.find_next.on_click(lambda _: self._find(self.find.value))
        self.goto_next.on_click(lambda _: self._go(self.goto.value))
        self.upload.observe(lambda change: self._uploaded(change["new"]), "value")
        self.compare.observe(lambda change: state.compare_with(change["new"]), "value")
        self.undo.on_click(lambda _: state.undo())
        self.redo.on_click(lambda _: state.redo())
        self.reset.on_click(lambda _: state.reset())
        self.factor.observe(lambda change: self._factor(change["new"]), "value")
        self.rename.observe(lambda change: self._rename(change["new"]), "value")
        self.goto.observe(lambda change: self._go(change["new"]), "value")
        self.bars.on("scale", lambda message: state.scale(int(message["id"]), float(message["factor"])))
        self.bars.on("undo", lambda _: state.undo())
        self.bars.on("redo", lambda _: state.redo())
        self.bars.observe(lambda change: setattr(state, "latent", change["new"]), "selected")
        self.gallery.on("pick", lambda message: self._pick(int(message["i"])))
        self.watch(self._draw_rows, "gen")
        self.watch(self._draw_facts, "gen", "note")
        self.watch(self._draw_score, "now", "after", "scales", "gen")
        self.watch(self._draw_standing, "standing")
        self.watch(self._draw_picture, "picture", "desk", "heat", "upload_count")
        self.watch(self._draw_second, "compare", "desk")
        self.watch(self._draw_examples, "examples")
        self.watch(self._draw_chosen, "latent")
        self.watch(self._draw_factor, "scales", "latent", "measured")
        self.watch(self._draw_status, "pending", "error", "note")
        self.watch(self._new_desk, "desk")

    def _other_model(self, name: str) -> None:
        """The same site of another model where it has one, else its first."""
        sites, here = self._models[name], self.state.table.site
        if self.state.table.model_name != name:
            same = [place for _, place in sites if self.state.desks[place].site == here]
            self.state.desk = same[0] if same else sites[0][1]

    def _other_site(self, place: int | None) -> None:
        if place is not None and not self._filling:
            self.state.desk = place

    def _find(self, text: str) -> None:
        self.state.found_words = ""
        if text:
            self.state.find(text)
        self.found.value = found_html(self.state.found_words)

    def _go(self, text: str) -> None:
        self.state.found_words = ""
        self.state.go_to_latent(text)
        self.found_latent.value = found_html(self.state.found_words)

    def _picked(self, number: str) -> None:
        if number.strip() and number != self._number_shown():
            self.state.pick(number)
            self.number.value = self._number_shown()

    def _number_shown(self) -> str:
        """The picture's number in the study; "" for one from outside it."""
        return "" if self.state.picture == UPLOAD else str(self.state.picture)

    def _uploaded(self, files: Sequence[Any]) -> None:
        if files:
            self.state.upload(bytes(files[0]["content"]), str(files[0]["name"]))
            self.upload.value = ()

    def _factor(self, value: float) -> None:
        if self.state.latent >= 0:
            self.state.scale(self.state.latent, value)

    def _rename(self, name: str) -> None:
        card = self.state.card
        if card is not None and name != (card.given or ""):
            self.state.rename(card.latent, name)

    def _pick(self, place: int) -> None:
        if place < len(self.state.examples.places):
            self.state.picture = self.state.examples.places[place]

    # drawing

    def _draw_rows(self) -> None:
        state = self.state
        self.bars.selected = state.latent
        self.bars.show(state.rows, columns=state.columns)

    def _draw_facts(self) -> None:
        state = self.state
        active = None if state.measured is None else len(state.measured.latents)
        self.facts.value = facts_html(active, state.check, state.note)

    def _draw_score(self) -> None:
        state = self.state
        words = state.score_words()
        parts = [(score_title(state), f"{words['now']} <small>{words['unit']}</small>")]
        if state.scales:
            said = in_words(state.scales, lambda latent: shown(state.table.card(latent).title, 30))
            parts.append((f"after · {markup(said, 120)}", words["after"]))
            parts.append(("change", words["change"]))
        self.score.value = score_html(parts)
        self.undo.disabled, self.reset.disabled = not state.can_undo, not state.scales
        self.redo.disabled = not state.can_redo

    def _draw_standing(self) -> None:
        words = self.state.standing
        # A line is reserved during the computation, so that nothing below moves.
        self.standing.value = (
            f'<div class="clipattr-note clipattr-standing">{markup(words, 400) if words else "&nbsp;"}</div>'
        )

    def _draw_picture(self) -> None:
        state = self.state
        picture = state.pixels()
        caption = state.caption()
        heat = state.heat
        self.overlay.heat_scale = heat_scale(heat)
        self.overlay.show(
            picture, alt=f"picture {caption}", caption=caption, heat=None if heat is None else heat.maps[0],
            frame=state.table.frame(picture.size) if picture else None, shown=PICTURE_SIDE,
        )  # fmt: skip
        self.number.value = self._number_shown()

    def _draw_second(self) -> None:
        number = self.state.compare
        show_if(number >= 0, self.second)
        if number >= 0:
            caption = f"compared with {self.state.caption(number)}"
            picture = self.state.table.picture(number)
            frame = self.state.table.frame(picture.size)
            self.second.show(picture, alt=caption, caption=caption, frame=frame, shown=140)

    def _draw_chosen(self) -> None:
        self.bars.selected = self.state.latent

    def _draw_examples(self) -> None:
        state = self.state
        card = state.card
        self.gallery.show_shelf(state.examples, state.examples.title or "examples")
        if card is None:
            self.card.value = '<span class="clipattr-note">choose a latent to see its examples</span>'
            self.rename.disabled = True
            return
        self.rename.disabled = False
        self.rename.value = card.given or ""
        self.rename.placeholder = f"name latent {card.latent}"
        self.card.value = card_html(card, here=self.state.active)

    def _draw_factor(self) -> None:
        self.factor.disabled = not self.state.active
        if self.state.card is not None:
            self.card.value = card_html(self.state.card, here=self.state.active)
        self.factor.value = self.state.scales.get(self.state.latent, 1.0)

    def _new_desk(self) -> None:
        name = self.state.table.model_name
        sites = self._models[name]
        self._filling = True  # new entries choose the first of them for a moment
        if list(self.site.options) != sites:
            self.site.options = sites
        self.site.value, self.site.disabled = self.state.desk, len(sites) < 2
        self.model.value = name
        self._filling = False
        self.prompt.options = self.against.options = suggestions(self.state.table)

    def close(self) -> None:
        if not self.closed and self.pairs is not None:
            self.pairs.end()
        if not self.closed and self.tabs is not None:
            self.tabs.close()
        super().close()

    # static

    def static(self) -> Static:
        if self.tabs is not None and self.tabs.in_front is not None:
            return self.tabs.in_front.static()
        self.state.settle()
        return Static(explorer_html(self.state), lambda: bars_figure(self.state), self.state.frame())
