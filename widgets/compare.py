"""The comparison panel: models side by side on one picture, one prompt, or the findings of their audits.

Owns layout and wiring of `CompareState`. Start at `ComparePanel`.
"""

from collections.abc import Callable
from typing import Any

import ipywidgets as W

from clipattr_widgets.captions import note_html, score_html
from clipattr_widgets.compare_state import SUBJECTS, CompareState
from clipattr_widgets.controls import (
    button,
    labelled,
    on_enter_again,
    progress_html,
    show_if,
    takeaway,
    text_field,
    toolbar,
)
from clipattr_widgets.opening import opened
from clipattr_widgets.panel import Panel, prompt_fields
from clipattr_widgets.parts import DotList, Gallery, Overlay
from clipattr_widgets.static import Static, blank, error_line, no_math, picture_html, table_html
from clipattr_widgets.tables import column, row
from clipattr_widgets.text import markup


class ComparePanel(Panel):
    """Two to five models: matched latents in one row, a mark for each model, one legend.

    Args:
        studies: opened studies, paths or names, as a list or a mapping of names to them; or a ready `state`.
        chosen: what to show first, e.g. `subject="prompt", prompt="kite"`; `findings` of audits made already.
    """

    def __init__(self, studies: Any = None, *, state: CompareState | None = None, **chosen: Any) -> None:

        if state is None:
            found, names = opened(studies)
            state = CompareState(dict(zip(names, found, strict=True)) if names else found, **chosen)
        self.state = state
        self._choose_model: Callable[[int], None] | None = None
        self.subject = W.ToggleButtons(
            options=list(SUBJECTS), value=state.subject, style={"button_width": "104px"}
        )
        self.prompt, self.against = prompt_fields(state, width=240)
        self.find = text_field("picture no., id or label", 180)
        self.audit = button("audit all", 92, "audit every model over its own prompts; takes a while")
        self.cancel = button("end audit", 96, "stop after the current prompts")
        self.end_pairing = button("end pairing", 104, "end the pairing of latents; the scores stay")
        self.pair = button("pair latents", 104, "find which latents of the models rise and fall together")
        self.overlay = Overlay(empty_text="no picture")
        self.dots = DotList(
            title="latents by attribution, one mark per model", empty_text="nothing to compare"
        )
        self.score, self.note, self.notice, self.status = (W.HTML() for _ in range(4))
        self.galleries = [
            Gallery(title="examples", empty_text="no partner of its own here") for _ in state.desks
        ]
        self.take, self.drawer = takeaway(self)
        head = toolbar(
            self.subject, self.audit, self.cancel, self.end_pairing, self.pair, self.take, self.status
        )
        prompts = toolbar(self.prompt, self.against)
        self.side = labelled(W.VBox([self.overlay, self.find]), "clipattr-side")
        main = labelled(W.VBox([prompts, self.score, self.dots, self.note]), "clipattr-main")
        self.examples = W.HBox(self.galleries)
        labelled(self.examples, "clipattr-senses", "clipattr-section")
        body = labelled(W.HBox([self.side, main]), "clipattr-split")
        super().__init__([head, self.notice, body, self.examples, self.drawer], state)
        self._wire()
        self.draw_all()

    def _wire(self) -> None:
        state = self.state
        for name in ("subject", "prompt", "against"):
            self.link(name, getattr(self, name))
        self.find.observe(lambda change: state.find(change["new"]), "value")
        on_enter_again(self.find, state.find)
        self.audit.on_click(lambda _: state.audit())
        self.cancel.on_click(lambda _: state.cancel_audit())
        self.end_pairing.on_click(lambda _: state.cancel_pairing())
        self.pair.on_click(lambda _: state.pair())
        self.dots.observe(lambda change: setattr(state, "row", change["new"]), "selected")
        for i, gallery in enumerate(self.galleries):
            gallery.on("pick", lambda message, i=i: self._picked(i, int(message.get("i", -1))))
        self.watch(self._draw_rows, "gen")
        self.watch(self._draw_picture, "picture", "outside", "subject")
        self.watch(self._draw_shelves, "shelves")
        self.watch(self._draw_status, "pending", "error", "progress", "pairing", "paired", "subject")

    def on_model(self, choose: Callable[[int], None]) -> None:
        """Call `choose(place)` before a picture of another model is opened, whose study numbers its own."""
        self._choose_model = choose

    def _picked(self, model: int, at: int) -> None:
        state, look, choose = self.state, self._look_at, self._choose_model
        places = state.shelves[model].places if model < len(state.shelves) else ()
        if not 0 <= at < len(places) or look is None or (model and choose is None):
            return
        latent, prompt = state.latent_of(model), state.prompt
        if model and choose is not None:
            choose(model)
        look(places[at], latent, prompt)

    def _draw_status(self) -> None:
        super()._draw_status()
        running, pairing = self.state.progress, self.state.pairing
        if running:
            self.status.value = progress_html(running[1:], of=running[0])
        elif pairing:
            of = f"pairing with {pairing[0]}"
            self.status.value = progress_html(pairing[1:], of=of, unit="picture", last="pairing latents")
        needed = self.state.subject != "findings" and not self.state.paired
        show_if(pairing, self.end_pairing)
        show_if(needed and not pairing, self.pair)
        self.audit.disabled = bool(running)
        show_if(running, self.cancel)

    def _draw_rows(self) -> None:
        state = self.state
        self.dots.selected = state.row
        self.dots.show(state.rows, names=state.names, axis=state.axis)
        cells = zip(state.names, state.scores or ["–"] * len(state.names), strict=True)
        self.score.value = score_html((markup(name, 40), markup(text, 40)) for name, text in cells)
        self.note.value = note_html(state.note, 200)

    def _draw_picture(self) -> None:
        state = self.state
        show_if(state.subject == "picture", self.side)
        if state.table.n_pictures or state.outside:
            picture, caption = state.pixels(), state.caption()
            frame = state.table.frame(picture.size)
            self.overlay.show(picture, alt=f"picture {caption}", caption=caption, frame=frame)

    def _draw_shelves(self) -> None:
        shelves = self.state.shelves
        show_if(shelves, self.examples)
        for gallery, name, shelf in zip(self.galleries, self.state.names, shelves, strict=False):
            gallery.empty_text = f"{name}: no partner of its own here"
            gallery.show_shelf(shelf, f"{name}: {shelf.title}", shown=64)

    def static(self) -> Static:
        state = self.state
        state.settle()
        models = [column(name, name, numeric=True) for name in state.names]
        heads = [column("row", ""), *models, column("own", "")]
        rows = [row(one["id"], one["label"], *one["texts"], one["own"]) for one in state.rows]
        table = table_html(heads, rows, markup(state.axis, 80))
        image = ""
        if state.subject == "picture" and state.table.n_pictures:
            image = picture_html(state.pixels(), f"picture {state.caption()}")
        note = f"<p>{markup(state.note, 200)}</p>"
        return Static(f"{error_line(state)}{image}{table}{note}", lambda: dots_figure(state), state.frame())


def dots_figure(state: CompareState) -> Any:
    """The comparison as a matplotlib figure, a shape and colour for each model."""
    rows = state.rows
    figure = blank(8, 1.2 + 0.27 * max(len(rows), 3))
    axes = figure.add_subplot()
    shapes, colours = "os^Dv", ("#2f7fd0", "#cf6a1f", "#24292f", "#7a4fbf", "#7a7f87")
    for i, name in enumerate(state.names):
        found = [(row["values"][i], place) for place, row in enumerate(rows) if row["values"][i] is not None]
        axes.plot([x for x, _ in found], [y for _, y in found], shapes[i], color=colours[i], linestyle="none",
                  label=no_math(name, 60), alpha=0.85)  # fmt: skip
    axes.set_yticks(range(len(rows)), [no_math(row["label"], 34) for row in rows], fontsize=8)
    axes.invert_yaxis()
    axes.axvline(0, color="#999999", linewidth=0.8)
    axes.set_xlabel(state.axis, fontsize=8.5)
    axes.legend(fontsize=8, frameon=False)
    axes.spines[["top", "right", "left"]].set_visible(False)
    return figure
