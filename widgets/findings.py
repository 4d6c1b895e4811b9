"""The findings panel: an audit to sort, filter, look into and judge.

Owns layout and wiring of `FindingsState`. Start at `FindingsPanel`.
"""

from typing import Any

import ipywidgets as W

from clipattr.display.wording import KIND_WORDS, kind_word
from clipattr_widgets.controls import error_html, labelled, status_html, takeaway
from clipattr_widgets.findings_state import COLUMNS, HOWS, REPAIR_COLUMNS, FindingsState, Repaired
from clipattr_widgets.panel import Panel
from clipattr_widgets.parts import DataTable, Gallery
from clipattr_widgets.static import Static, findings_figure, strip_html, table_html
from clipattr_widgets.text import markup
from clipattr_widgets.verdicts import CHOICES

EVIDENCE = ({"key": "what", "label": "evidence"}, {"key": "value", "label": ""})


class FindingsPanel(Panel):
    """The findings of an audit.

    Args:
        study: a `Study`, its path or name; findings: what `clipattr.audit` returned. Or a ready `state`.
        chosen: what to show first, e.g. `kind="context", least=5`.
    """

    def __init__(
        self, study: Any = None, findings: Any = (), *, state: FindingsState | None = None, **chosen: Any
    ) -> None:
        from clipattr_widgets.opening import opened

        self.state = state = state or FindingsState(opened(study)[0][0], findings, **chosen)
        narrow = {"description_width": "60px"}
        kinds = [("any kind", ""), *((kind_word(kind), kind) for kind in state.kinds())]
        self.kind = W.Dropdown(options=kinds, value=state.kind, description="kind",
                               layout=W.Layout(width="200px"), style=narrow)  # fmt: skip
        self.verdict = W.Dropdown(options=[("any", ""), *((c, c) for c in CHOICES)], value=state.verdict,
                                  description="verdict", layout=W.Layout(width="150px"), style=narrow)  # fmt: skip
        self.search = W.Text(value=state.search, placeholder="search prompt, label, note", continuous_update=False,
                             layout=W.Layout(width="206px"))  # fmt: skip
        self.least = W.FloatSlider(value=state.least, min=0, max=30, step=0.5, description="at least, points",
                                   continuous_update=False, readout_format=".1f", layout=W.Layout(width="250px"),
                                   style={"description_width": "104px"})  # fmt: skip
        self.list = DataTable(title="", empty_text="no finding fits these filters")
        self.gallery = Gallery(title="top pictures", empty_text="no pictures of this finding in the study")
        self.evidence = DataTable(title="", empty_text="")
        self.accept = W.Button(description="accept", icon="check", layout=W.Layout(width="90px"))
        self.reject = W.Button(description="reject", icon="times", layout=W.Layout(width="90px"))
        self.reopen = W.Button(description="reopen", layout=W.Layout(width="80px"))
        self.note = W.Textarea(placeholder="a note, kept with the study", continuous_update=False, rows=2,
                               layout=W.Layout(width="auto"))  # fmt: skip
        self.audit = W.Button(description="audit now", layout=W.Layout(width="96px"),
                              tooltip="audit this study over its own prompts; takes a while")  # fmt: skip
        self.how = W.Dropdown(options=list(HOWS), value=state.how, layout=W.Layout(width="200px"))
        self.how.tooltip = "how a repair takes them out"
        self.repair = W.Button(description="repair", layout=W.Layout(width="150px"),
                               tooltip="take the accepted findings (or the chosen one) out, and measure")  # fmt: skip
        self.outcome = DataTable(title="", empty_text="")
        self.repaired = W.HTML()
        self.about, self.notice, self.status, self.count = (W.HTML() for _ in range(4))
        self.take, self.drawer = takeaway(self)
        head = W.HBox([self.kind, self.verdict, self.least, self.search, self.take, self.audit, self.status])
        verdicts = labelled(W.HBox([self.accept, self.reject, self.reopen]), "clipattr-toolbar")
        detail = W.HBox([
            labelled(W.VBox([self.about, verdicts, self.note, self.gallery]), "clipattr-main"),
            labelled(W.VBox([self.evidence]), "clipattr-evidence"),
        ])  # fmt: skip
        labelled(detail, "clipattr-split", "clipattr-section")
        buttons = labelled(W.HBox([self.repair, self.how, self.repaired]), "clipattr-toolbar")
        repair = labelled(W.VBox([buttons, self.outcome]), "clipattr-section")
        super().__init__(
            [
                labelled(head, "clipattr-toolbar"),
                self.notice,
                self.list,
                self.count,
                detail,
                repair,
                self.drawer,
            ],
            state,
        )
        self._wire()
        for draw in (
            self._draw_rows,
            self._draw_detail,
            self._draw_shelf,
            self._draw_repaired,
            self._draw_status,
        ):
            draw()

    def _wire(self) -> None:
        state = self.state
        for name in ("kind", "verdict", "search", "least", "how"):
            self.link(name, getattr(self, name))
        self.list.on("sort", lambda message: state.sort(str(message.get("key"))))
        self.list.observe(lambda change: setattr(state, "chosen", change["new"]), "selected")
        self.accept.on_click(lambda _: state.judge("accepted", self.note.value))
        self.reject.on_click(lambda _: state.judge("rejected", self.note.value))
        self.reopen.on_click(lambda _: state.judge("open", self.note.value))
        self.audit.on_click(lambda _: state.audit())
        self.repair.on_click(lambda _: state.repair())
        self.note.observe(lambda change: self._noted(change["new"]), "value")
        self.watch(self._draw_rows, "gen")
        self.watch(self._draw_detail, "chosen", "gen")
        self.watch(self._draw_shelf, "shelf")
        self.watch(self._draw_repaired, "repaired", "chosen", "gen")
        self.watch(self._draw_status, "pending", "error")

    def _noted(self, note: str) -> None:
        finding = self.state.finding
        if finding is not None and note != self.state.verdict_of(finding).note:
            self.state.judge(self.state.verdict_of(finding).choice, note)

    def _draw_rows(self) -> None:
        state = self.state
        kinds = [("any kind", ""), *((kind_word(kind), kind) for kind in state.kinds())]
        if list(self.kind.options) != kinds:
            self.kind.options = kinds
            self.kind.value = state.kind if state.kind in dict(kinds).values() else ""
        self.list.empty_text = (
            "no finding fits these filters" if state.findings else "nothing was audited yet"
        )
        self.list.selected = state.chosen
        self.list.show(state.rows, columns=COLUMNS, sorted_by=state.sorted_by, falling=state.falling)
        total = f"{len(state.rows)} of {len(state.findings)} findings"
        if state.hidden:
            total += f"; {state.hidden} more fit, narrow the filters to see them"
        self.count.value = f'<div class="clipattr-note">{total}</div>'

    def _draw_detail(self) -> None:
        state = self.state
        finding = state.finding
        for button in (self.accept, self.reject, self.reopen, self.note):
            button.disabled = finding is None or state.verdicts is None
        if finding is None:
            self.about.value = '<span class="clipattr-note">choose a finding to see its evidence</span>'
            self.evidence.show([], columns=())
            return
        self.about.value = about_html(finding, state.verdict_of(finding).choice)
        self.note.value = state.verdict_of(finding).note
        rows = [{"id": i, "cells": list(pair)} for i, pair in enumerate(state.evidence)]
        self.evidence.show(rows, columns=EVIDENCE)

    def _draw_shelf(self) -> None:
        shelf = self.state.shelf
        self.gallery.show(shelf.thumbnails, alt=shelf.alt, title=shelf.title or "top pictures", shown=76)

    def _draw_repaired(self) -> None:
        state, done = self.state, self.state.repaired
        count = len(state.accepted())
        self.repair.description = f"repair {count} accepted" if count else "repair this finding"
        self.repair.disabled = not state.to_repair()
        if done is not None:
            self.repaired.value = repaired_html(done)
            self.outcome.show(done.rows(), columns=REPAIR_COLUMNS)

    def _draw_status(self) -> None:
        self.status.value = status_html(self.state.pending)
        self.notice.value = error_html(self.state.error)

    def static(self) -> Static:
        state = self.state
        state.settle()
        body = table_html(COLUMNS, state.rows[:40], f"{len(state.rows)} of {len(state.findings)} findings")
        if state.finding is not None:
            body += about_html(state.finding, state.verdict_of(state.finding).choice)
            body += f"<p>{strip_html(state.shelf.thumbnails, state.shelf.title)}</p>"
        if state.repaired is not None:
            body += repaired_html(state.repaired)
            body += table_html(REPAIR_COLUMNS, state.repaired.rows(), "before and after the repair")
        return Static(body, lambda: findings_figure(state.findings, state.rows), state.frame())


def repaired_html(done: Repaired) -> str:
    """What a repair did, and what a reader must know of its numbers."""
    notes = " ".join(str(note) for note in done.outcome.notes)
    findings = f"{done.findings} finding{'s' * (done.findings != 1)}"
    return f'<span class="clipattr-note">{findings}: {markup(done.about, 160)}. {markup(notes, 400)}</span>'


def about_html(finding: Any, verdict: str) -> str:
    """A finding in words."""
    kind, says = KIND_WORDS.get(finding.kind, (finding.kind, ""))
    does = "Writing it brings the prompt" if finding.by_writing else "Ablating it costs the prompt"
    said = "" if verdict == "open" else f' <span class="clipattr-badge">{markup(verdict)}</span>'
    return (
        f'<h3 class="clipattr-title">{markup(finding.prompt, 60)} rests on '
        f"{markup(finding.label or 'something no word fits', 60)}{said}</h3>"
        f'<div class="clipattr-note">{markup(kind, 40)}: {markup(says, 160)}. {does} '
        f"<b>{markup(finding.causal_effect.points())}</b> points on held-back pictures.</div>"
    )
