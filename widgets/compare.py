"""The comparison panel: models side by side on one picture, one prompt, or the findings of their audits.

Owns layout and wiring of `CompareState`. Start at `ComparePanel`.
"""

from collections.abc import Callable
from typing import Any

import ipywidgets as W

from clipattr_widgets.compare_state import SUBJECTS, CompareState
from clipattr_widgets.controls import labelled, on_enter_again, progress_html, takeaway
from clipattr_widgets.opening import opened
from clipattr_widgets.panel import Panel, prompt_fields
from clipattr_widgets.parts import DotList, Gallery, Overlay
from clipattr_widgets.static import Static, picture_html
from clipattr_widgets.text import markup, shown


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
        self.find = W.Text(
            placeholder="picture no., id or label", continuous_update=False, layout=W.Layout(width="180px")
        )
        self.audit = W.Button(description="audit all", layout=W.Layout(width="92px"),
                              tooltip="audit every model over its own prompts; takes a while")  # fmt: skip
        self.cancel = W.Button(description="end audit", layout=W.Layout(width="96px", display="none"),
                               tooltip="stop after the current prompts")  # fmt: skip
        self.end_pairing = W.Button(description="end pairing", layout=W.Layout(width="104px"),
                                    tooltip="end the pairing of latents; the scores stay")  # fmt: skip
        self.pair = W.Button(description="pair latents", layout=W.Layout(width="104px"),
                             tooltip="find which latents of the models rise and fall together")  # fmt: skip
        self.overlay = Overlay(empty_text="no picture")
        self.dots = DotList(title="latents by attribution, one mark a model", empty_text="nothing to compare")
        self.score, self.note, self.notice, self.status = (W.HTML() for _ in range(4))
        self.galleries = [
            Gallery(title="examples", empty_text="no partner of its own here") for _ in state.desks
        ]
        self.take, self.drawer = takeaway(self)
        head = labelled(
            W.HBox(
                [self.subject, self.audit, self.cancel, self.end_pairing, self.pair, self.take, self.status]
            ),
            "clipattr-toolbar",
        )
        prompts = labelled(W.HBox([self.prompt, self.against]), "clipattr-toolbar")
        self.side = labelled(W.VBox([self.overlay, self.find]), "clipattr-side")
        main = labelled(W.VBox([prompts, self.score, self.dots, self.note]), "clipattr-main")
        self.examples = W.HBox(self.galleries)
        labelled(self.examples, "clipattr-senses", "clipattr-section")
        body = labelled(W.HBox([self.side, main]), "clipattr-split")
        super().__init__([head, self.notice, body, self.examples, self.drawer], state)
        self._wire()
        for draw in (self._draw_rows, self._draw_picture, self._draw_shelves, self._draw_status):
            draw()

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
        self.end_pairing.layout.display = "" if pairing else "none"
        self.pair.layout.display = "" if needed and not pairing else "none"
        self.audit.disabled = bool(running)
        self.cancel.layout.display = "" if running else "none"

    def _draw_rows(self) -> None:
        state = self.state
        self.dots.selected = state.row
        self.dots.show(state.rows, names=state.names, axis=state.axis)
        cells = zip(state.names, state.scores or ["–"] * len(state.names), strict=True)
        spans = "".join(
            f"<span><span>{markup(name, 40)}</span><b>{markup(text, 40)}</b></span>" for name, text in cells
        )
        self.score.value = f'<div class="clipattr-score" role="status">{spans}</div>'
        self.note.value = f'<div class="clipattr-note">{markup(state.note, 200)}</div>'

    def _draw_picture(self) -> None:
        state = self.state
        self.side.layout.display = "" if state.subject == "picture" else "none"
        if state.table.n_pictures or state.outside:
            picture, caption = state.pixels(), state.caption()
            frame = state.table.frame(picture.size)
            self.overlay.show(picture, alt=f"picture {caption}", caption=caption, frame=frame)

    def _draw_shelves(self) -> None:
        shelves = self.state.shelves
        self.examples.layout.display = "" if shelves else "none"
        for gallery, name, shelf in zip(self.galleries, self.state.names, shelves, strict=False):
            title = f"{name}: {shelf.title}"
            gallery.empty_text = f"{name}: no partner of its own here"
            gallery.show(shelf.thumbnails, alt=shelf.alt, captions=shelf.captions, title=title, shown=64)

    def static(self) -> Static:
        state = self.state
        state.settle()
        heads = "".join(f'<th scope="col" class="n">{markup(name, 40)}</th>' for name in state.names)
        body = "".join(
            f'<tr><td>{markup(row["label"], 60)} <small>{markup(row["own"], 40) if row["own"] else ""}</small></td>'
            + "".join(f'<td class="n">{text}</td>' for text in row["texts"]) + "</tr>"
            for row in state.rows
        )  # fmt: skip
        table = (
            f"<table><caption>{markup(state.axis, 80)}</caption><thead><tr><th></th>{heads}</tr></thead>"
            f"<tbody>{body}</tbody></table>"
        )
        image = ""
        if state.subject == "picture" and state.table.n_pictures:
            image = picture_html(state.pixels(), f"picture {state.caption()}")
        error = f"<p>{markup(state.error, 600)}</p>" if state.error else ""
        note = f"<p>{markup(state.note, 200)}</p>"
        return Static(f"{error}{image}{table}{note}", lambda: dots_figure(state), state.frame())


def dots_figure(state: CompareState) -> Any:
    """The comparison as a matplotlib figure, a shape and colour for each model."""
    from matplotlib.figure import Figure

    rows = state.rows
    figure = Figure(figsize=(8, 1.2 + 0.27 * max(len(rows), 3)), layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    shapes, colours = "os^Dv", ("#2f7fd0", "#cf6a1f", "#24292f", "#7a4fbf", "#7a7f87")
    for i, name in enumerate(state.names):
        found = [(row["values"][i], place) for place, row in enumerate(rows) if row["values"][i] is not None]
        axes.plot([x for x, _ in found], [y for _, y in found], shapes[i], color=colours[i], linestyle="none",
                  label=name.replace("$", r"\$"), alpha=0.85)  # fmt: skip
    axes.set_yticks(
        range(len(rows)), [shown(row["label"], 34).replace("$", r"\$") for row in rows], fontsize=8
    )
    axes.invert_yaxis()
    axes.axvline(0, color="#999999", linewidth=0.8)
    axes.set_xlabel(state.axis, fontsize=8.5)
    axes.legend(fontsize=8, frameon=False)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    return figure
