"""The live world: edit a scene of the picture world; similarity, attributions and truth are updated.

Owns layout and wiring of `WorldState`. Start at `WorldPanel`.
"""

from typing import Any

import ipywidgets as W

from clipattr_widgets.captions import score_html
from clipattr_widgets.controls import button, label_width, labelled, takeaway, text_field, toolbar
from clipattr_widgets.opening import opened
from clipattr_widgets.panel import Panel, prompt_fields
from clipattr_widgets.parts import BarList, DataTable, Stage
from clipattr_widgets.static import (
    Static,
    bar_table,
    picture_html,
    plain_bars_figure,
    score_title,
    table_html,
)
from clipattr_widgets.text import markup, shown
from clipattr_widgets.world_state import COLUMNS, N_COMPANIONS, WorldState, choices

SIDE = 288


class WorldPanel(Panel):
    """One scene to edit: swap, move, write, mark; score and attributions are updated at once.

    Args:
        study: a `Study` of rendered pictures, its path or name; or a ready `state`.
        chosen: what to begin with, e.g. `picture=7, prompt="kite"` or `scene=Scene(...)`.
    """

    def __init__(self, study: Any = None, *, state: WorldState | None = None, **chosen: Any) -> None:

        self.state = state = state or WorldState(opened(study)[0][0], **chosen)
        self.stage = Stage(title="scene")
        self.parts = {
            part: W.Dropdown(options=choices(kind), description=what, layout=W.Layout(width="262px"),
                             style=label_width(76))
            for part, what, kind in (
                ("main", "object", "concepts"),
                *((str(i), "beside it", "concepts") for i in range(N_COMPANIONS)),
                ("context", "around it", "contexts"), ("watermark", "watermark", "watermarks"),
            )
        }  # fmt: skip
        self.word = text_field("(nothing)", 262, description="written", style=label_width(76))
        self.shuffle = button("another layout", 120)
        self.undo = button("undo", 62, "take back the last edit")
        self.redo = button("redo", 62, "make it once more")
        self.restart = button("back to the picture", 144, "the original scene")
        self.start = text_field("go to picture no.", 150)
        self.prompt, self.against = prompt_fields(state, width=250)
        self.bars = BarList(title="latents by attribution", empty_text="nothing to show", switches=False)
        self.causes = DataTable(opens=False, title="how much of the score is due to each cause, in points",
                                empty_text="nothing is in the scene")  # fmt: skip
        self.score, self.notice, self.status, self.remark = (W.HTML() for _ in range(4))
        self.take, self.drawer = takeaway(self)
        head = toolbar(self.prompt, self.against, self.take, self.status)
        low = toolbar(self.undo, self.redo, self.restart, self.shuffle, self.start)
        side = labelled(W.VBox([self.stage, *self.parts.values(), self.word, low]), "clipattr-aside")
        main = labelled(W.VBox([self.score, self.causes, self.bars]), "clipattr-main")
        super().__init__(
            [head, self.notice, self.remark, labelled(W.HBox([side, main]), "clipattr-split"), self.drawer],
            state,
        )
        self._wire()
        self.draw_all()

    def _wire(self) -> None:
        state = self.state
        for name in ("prompt", "against"):
            self.link(name, getattr(self, name))
        for part, menu in {**self.parts, "word": self.word}.items():
            menu.observe(lambda change, part=part: state.put(part, change["new"] or ""), "value")
        self.shuffle.on_click(lambda _: state.shuffle())
        for name in ("undo", "redo", "restart"):
            getattr(self, name).on_click(lambda _, name=name: getattr(state, name)())
        self.start.observe(lambda change: state.start_from(change["new"]), "value")
        self.stage.on("move", lambda message: state.move(int(message["i"]), message["left"], message["top"]))
        self.bars.observe(lambda change: setattr(state, "latent", change["new"]), "selected")
        self.watch(self._draw_controls, "scene")
        self.watch(self._draw_scene, "gen")
        self.watch(self._draw_measured, "gen")
        self.watch(self._draw_status, "pending", "error")
        self.watch(self._draw_note, "note")

    def _draw_controls(self) -> None:
        state = self.state
        for part, menu in self.parts.items():
            menu.value = state.current(part) or ""
        self.word.value = state.current("word") or ""
        self.undo.disabled, self.redo.disabled = not state.can_undo, not state.can_redo
        self.restart.disabled = state.scene == state._begun

    def _draw_scene(self) -> None:
        self._draw_controls()
        state = self.state
        if state.image is not None:
            names = ", ".join(thing["name"] for thing in state.things) or "no object"
            self.stage.show(state.image, state.things, alt=f"rendered scene: {names}", shown=SIDE)

    def _draw_measured(self) -> None:
        state = self.state
        words = state.score_words()
        cells = [
            (score_title(state), f"{words['now']} <small>{words['unit']}</small>"),
            ("since the last edit", words["change"]),
        ]
        if words["since"]:
            cells.append(("since the picture", words["since"]))
        self.score.value = score_html(cells)
        self.causes.show(state.cause_rows(), columns=COLUMNS)
        self.bars.show(state.rows, columns=state.columns)

    def _draw_note(self) -> None:
        note = self.state.note
        self.remark.value = (
            f'<div class="clipattr-note" role="status">{markup(note, 300)}</div>' if note else ""
        )

    def static(self) -> Static:
        state = self.state
        state.settle()
        words = state.score_words()
        title = f"similarity to {markup(state.prompt, 60)}: {words['now']} {words['unit']}"
        body = f"<p>{markup(state.error, 600) if state.error else f'<b>{title}</b>'}</p>"
        body += f"<p>{markup(state.note, 300)}</p>" if state.note else ""
        image = picture_html(state.image, "rendered scene " + ", ".join(t["name"] for t in state.things), 192)
        causes = table_html(
            COLUMNS, state.cause_rows(), "how much of the score is due to each cause, in points"
        )
        body += f'<table><tr><td style="vertical-align:top">{image}</td><td>{causes}</td></tr></table>'
        body += bar_table(state.rows, state.columns, "what it rests on") if state.rows else ""
        heading = f"similarity to {shown(state.prompt, 40)}: {words['now']} {words['unit']}"
        return Static(body, lambda: plain_bars_figure(state.rows, heading), state.frame())
