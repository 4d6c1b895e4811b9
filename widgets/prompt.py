"""The prompt panel: what a prompt rests on across the collection.

Owns layout and wiring of `PromptState`. Start at `PromptPanel`.
"""

from typing import Any

import ipywidgets as W

from clipattr.display.wording import counted, kind_word, points
from clipattr_widgets.captions import note_html
from clipattr_widgets.controls import labelled, show_if, takeaway, toolbar
from clipattr_widgets.opening import opened
from clipattr_widgets.panel import Panel, prompt_fields
from clipattr_widgets.parts import BarList, DataTable, Gallery
from clipattr_widgets.prompt_state import N_SENSES, PromptState
from clipattr_widgets.static import Static, bar_table, error_line, plain_bars_figure, strip_html
from clipattr_widgets.tables import column, row
from clipattr_widgets.text import markup, shown, signed

FOUND = (
    column("label", "findings: rests on"),
    column("kind", "kind"),
    column("effect", "causal effect", numeric=True),
)


class PromptPanel(Panel):
    """One prompt: mean reliance over the pictures that show it, its senses side by side, top pictures, findings.

    Args:
        study: a `Study`, its path or name; or a ready `state`.
        chosen: `prompt`, `against`, `findings`.
    """

    def __init__(self, study: Any = None, *, state: PromptState | None = None, **chosen: Any) -> None:

        self.state = state = state or PromptState(opened(study)[0][0], **chosen)
        self.prompt, self.against = prompt_fields(state, width=270)
        self.bars = BarList(title="what the prompt rests on", empty_text="nothing to show", switches=False)
        self.top = Gallery(title="top pictures", empty_text="no pictures")
        self.found = DataTable(title="", empty_text="")
        self.sense_heads = [W.HTML() for _ in range(N_SENSES)]
        self.sense_shelves = [Gallery(title="sense", empty_text="") for _ in range(N_SENSES)]
        self.about, self.notice, self.status = W.HTML(), W.HTML(), W.HTML()
        self.take, self.drawer = takeaway(self)
        head = toolbar(self.prompt, self.against, self.take, self.status)
        pairs = zip(self.sense_heads, self.sense_shelves, strict=True)
        self.columns = [W.VBox([head_, shelf]) for head_, shelf in pairs]
        senses = labelled(W.HBox(self.columns), "clipattr-senses", "clipattr-section")
        top = labelled(
            W.VBox([W.HTML('<h3 class="clipattr-title">highest scores</h3>'), self.top]), "clipattr-section"
        )
        super().__init__(
            [head, self.notice, self.about, self.bars, senses, top, self.found, self.drawer], state
        )
        self._wire()
        self.draw_all()

    def _wire(self) -> None:
        self.link("prompt", self.prompt)
        self.link("against", self.against)
        self.bars.observe(lambda change: setattr(self.state, "latent", change["new"]), "selected")
        self.found.observe(lambda change: self._chosen(change["new"]), "selected")
        self.doors(self.top, lambda: self.state.top)
        for i, shelf in enumerate(self.sense_shelves):
            self.doors(shelf, lambda i=i: self.state.senses[i].shelf)
        self.watch(self._draw, "gen")
        self.watch(self._draw_status, "pending", "error")

    def _chosen(self, place: int) -> None:
        if 0 <= place < len(self.state.found):
            self.state.finding, self.found.selected = self.state.found[place], -1

    def _draw(self) -> None:
        state = self.state
        found = state.reliances
        if found is not None:
            many = counted(len(found.rows), "picture")
            words = f"mean over {many}, {found.chosen_by}; exact ablation of each latent alone"
            self.about.value = note_html(words, 200)
        self.bars.show(state.rows, columns=state.columns())
        for i, (head, shelf, column_) in enumerate(
            zip(self.sense_heads, self.sense_shelves, self.columns, strict=True)
        ):
            there = i < len(state.senses)
            show_if(there, column_)
            if there:
                sense = state.senses[i]
                count = f"{len(sense.latents)} latent{'s' * (len(sense.latents) > 1)}"
                head.value = (
                    f'<h3 class="clipattr-title">{markup(sense.name, 40)} <small class="clipattr-note">'
                    f"{signed(sense.mean * 100)} points · {count}</small></h3>"
                )
                shelf.show_shelf(sense.shelf, shown=64)
        self.top.show_shelf(state.top, state.top.title or "top pictures", shown=76)
        rows = [
            row(i, shown(f.label or "(no word for it)", 60), kind_word(f.kind), points(f.causal_effect.value))
            for i, f in enumerate(state.found)
        ]
        self.found.selected = -1
        self.found.show(rows, columns=FOUND if rows else ())

    def static(self) -> Static:
        state = self.state
        state.settle()
        title = f"what “{shown(state.prompt, 60)}” rests on"
        parts = [error_line(state), bar_table(state.rows, state.columns(), markup(title, 120))]
        for sense in state.senses:
            parts.append(
                f"<p>{markup(sense.name, 40)} {signed(sense.mean * 100)} points<br>"
                f"{strip_html(sense.shelf.thumbnails, sense.shelf.title)}</p>"
            )
        return Static("".join(parts), lambda: plain_bars_figure(state.rows, title), state.frame())
