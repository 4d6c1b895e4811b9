"""The findings panel: an audit to sort, filter, look into and judge.

Owns layout and wiring of `FindingsState`. Start at `FindingsPanel`.
"""

from typing import Any

import ipywidgets as W

from clipattr.display.wording import KIND_WORDS, counted, kind_word
from clipattr.reporting.names import proof_words
from clipattr.studies.verdicts import CHOICES
from clipattr_widgets.controls import (
    button,
    label_width,
    labelled,
    progress_html,
    remarks_html,
    show_if,
    takeaway,
    text_field,
    toolbar,
)
from clipattr_widgets.finding_views import PROMPT_COLUMNS
from clipattr_widgets.findings_state import FindingsState, list_columns
from clipattr_widgets.opening import opened
from clipattr_widgets.panel import Panel
from clipattr_widgets.parts import DataTable, Gallery
from clipattr_widgets.repaired import HOWS, REPAIR_COLUMNS, Repaired
from clipattr_widgets.static import Static, findings_figure, strip_html, table_html
from clipattr_widgets.tables import column, row
from clipattr_widgets.text import markup

EVIDENCE = (
    column("what", "evidence", wraps=True),
    column("value", "value", wraps=True),
    column("why", "what it says", wraps=True),
)
ALL = (("accept", "accepted"), ("reject", "rejected"))  # verdicts that can be given to all open findings


class FindingsPanel(Panel):
    """The findings of an audit.

    Args:
        study: a `Study`, its path or name; findings: what `clipattr.audit` returned. Or a ready `state`.
        chosen: what to show first, e.g. `kind="context", least=5`.
    """

    def __init__(
        self, study: Any = None, findings: Any = (), *, state: FindingsState | None = None, **chosen: Any
    ) -> None:

        self.state = state = state or FindingsState(opened(study)[0][0], findings, **chosen)
        narrow = label_width(60)
        self.kind = W.Dropdown(options=self._kinds(), value=state.kind, description="kind",
                               layout=W.Layout(width="200px"), style=narrow)  # fmt: skip
        self.verdict = W.Dropdown(options=[("any", ""), *((c, c) for c in CHOICES)], value=state.verdict,
                                  description="verdict", layout=W.Layout(width="150px"), style=narrow)  # fmt: skip
        self.search = text_field("search prompt, label, note", 206, value=state.search)
        self.least = W.FloatSlider(value=state.least, min=0, max=30, step=0.5, description="at least, points",
                                   continuous_update=False, readout_format=".1f", layout=W.Layout(width="250px"),
                                   style=label_width(104))  # fmt: skip
        self.list = DataTable(title="", empty_text="no finding matches these filters", letters="arnpou")
        self.gallery = Gallery(title="top pictures", empty_text="no pictures of this finding in the study")
        self.measured = Gallery(
            title="where it was measured", empty_text="no pictures that it was measured on"
        )
        self.edited = Gallery(title="", empty_text="")
        self.prompts = DataTable(opens=False, title="every prompt that was audited", empty_text="")
        self.evidence = DataTable(opens=False, title="", empty_text="")
        self.accept = button("accept", 90, "A", icon="check")
        self.reject = button("reject", 90, "R", icon="times")
        self.reopen = button("reopen", 80, "O")
        self.explore = button(
            "in the explorer", 122, "its first picture, prompt and strongest latent in the explorer"
        )
        self.undo = button("undo", 62, "undo the last verdict (U)")
        self.all = W.Dropdown(
            options=[("all open …", "")], layout=W.Layout(width="160px"),
            tooltip="one verdict for all findings that fit the filters and have none, listed or not yet",
        )  # fmt: skip
        self.rename = text_field("another name for its latents", 210)
        self.note = W.Textarea(placeholder="a note, kept with the study", continuous_update=False, rows=2,
                               layout=W.Layout(width="auto"))  # fmt: skip
        self.audit = button("audit now", 96, "audit this study over its own prompts; takes a while")
        self.cancel = button("end audit", 96, "stop after the current prompts; what was found so far stays")
        self.how = W.Dropdown(options=list(HOWS), value=state.how, layout=W.Layout(width="200px"))
        self.how.tooltip = "how a repair removes them"
        self.repair = button("repair", 150, "remove the accepted findings (or the chosen one), and measure")
        self.leave = button("end repair", 96, "stop after the current prompt; nothing of this repair is kept")
        self.outcome = DataTable(opens=False, title="", empty_text="")
        self.repaired = W.HTML()
        self.about, self.notice, self.status, self.count = (W.HTML() for _ in range(4))
        self.take, self.drawer = takeaway(self)
        head = toolbar(
            self.kind, self.verdict, self.least, self.search, self.take, self.audit, self.cancel, self.status
        )
        verdicts = toolbar(
            self.accept, self.reject, self.reopen, self.undo, self.all, self.rename, self.explore
        )
        evidence = labelled(W.VBox([self.evidence]), "clipattr-evidence")
        self.detail = labelled(
            W.VBox([self.about, verdicts, self.note, self.gallery, self.measured, self.edited, evidence]),
            "clipattr-section",
        )
        repairs = toolbar(self.repair, self.how, self.leave, self.repaired)
        self.mending = labelled(W.VBox([repairs, self.outcome]), "clipattr-section")
        prompts = labelled(self.prompts, "clipattr-prompts")
        remarks = W.HTML(remarks_html(state.table.study))
        super().__init__([head, self.notice, self.list, self.count, self.detail, self.mending, prompts, remarks,
                          self.drawer], state)  # fmt: skip
        self._wire()
        self.draw_all()

    def _wire(self) -> None:
        state = self.state
        for name in ("kind", "verdict", "search", "least", "how"):
            self.link(name, getattr(self, name))
        self.list.on("sort", lambda message: state.sort(str(message.get("key"))))
        self.list.observe(lambda change: setattr(state, "chosen", change["new"]), "selected")
        self.accept.on_click(lambda _: state.judge("accepted", self.note.value))
        self.reject.on_click(lambda _: state.judge("rejected", self.note.value))
        self.reopen.on_click(lambda _: state.judge("open", self.note.value))
        self.explore.on_click(lambda _: self._open())
        self.undo.on_click(lambda _: state.undo())
        self.all.observe(lambda change: self._judge_all(change["new"]), "value")
        self.rename.observe(lambda change: self._renamed(change["new"]), "value")
        self.list.on("more", lambda _: state.more())
        self.list.on("key", lambda message: state.press(str(message.get("key"))))
        self.audit.on_click(lambda _: state.audit())
        self.cancel.on_click(lambda _: state.cancel_audit())
        self.repair.on_click(lambda _: state.repair())
        self.leave.on_click(lambda _: state.repairer.cancel())
        self.note.observe(lambda change: self._noted(change["new"]), "value")
        self.doors(self.gallery, lambda: state.looked.found)
        self.doors(self.measured, lambda: state.looked.measured)
        self.watch(self._draw_rows, "gen")
        self.watch(self._draw_detail, "chosen", "gen")
        self.watch(self._draw_shelf, "looked")
        self.watch(self._draw_edited, "edited")
        self.watch(self._draw_repaired, "repaired", "repairing", "chosen", "gen")
        self.watch(self._draw_status, "pending", "error", "progress", "audited")

    def _kinds(self) -> list[tuple[str, str]]:
        return [("any kind", ""), *((kind_word(kind), kind) for kind in self.state.kinds())]

    def shown_for(self) -> tuple[int, str]:
        finding = self.state.finding
        return (int(finding.latents[0]), finding.prompt) if finding is not None else (-1, "")

    def _open(self) -> None:
        """Look at the chosen finding in the explorer, at the picture that its latents respond to most."""
        places = self.state.looked.found.places or self.state.looked.measured.places
        if places and self._look_at is not None:
            self._look_at(places[0], *self.shown_for())

    def on_picture(self, look: Any) -> None:
        super().on_picture(look)
        self._draw_shelf()

    def _judge_all(self, choice: str) -> None:
        if choice:
            self.state.judge_all(choice)
            self.all.value = ""

    def _renamed(self, name: str) -> None:
        if name and self.state.finding is not None:
            self.state.rename(name)
            self.rename.value = ""
            self._draw_about()

    def _noted(self, note: str) -> None:
        finding = self.state.finding
        if finding is not None and note != self.state.verdict_of(finding).note:
            self.state.judge(self.state.verdict_of(finding).choice, note)

    def _draw_rows(self) -> None:
        state = self.state
        kinds = self._kinds()
        if list(self.kind.options) != kinds:
            self.kind.options = kinds
            self.kind.value = state.kind if state.kind in dict(kinds).values() else ""
        nothing = "nothing was found" if state.prompts else "no audit yet"
        self.list.empty_text = "no finding matches these filters" if state.findings else nothing
        count = len(state.still_open())
        acts = [(f"{verb} all {count:,} open", said) for verb, said in ALL] if count else []
        if self.all.options != (options := (("all open …", ""), *acts)):
            self.all.options = options
        self.all.disabled = not count or state.verdicts is None
        show_if(state.can_write, self.all)
        show_if(state.findings, self.detail, self.mending)
        self.list.selected = state.chosen
        self.list.more = state.hidden > 0
        self.list.show(state.rows, columns=list_columns(), sorted_by=state.sorted_by, falling=state.falling)
        told = state.prompt_rows()
        show_if(told, self.prompts)
        self.prompts.show(told, columns=PROMPT_COLUMNS)
        total = self._total()
        if state.hidden:
            total += f"; {state.hidden} more fit and come with scrolling"
        self.count.value = f'<div class="clipattr-note">{total}</div>'

    def _total(self) -> str:
        return f"{len(self.state.rows):,} of {counted(len(self.state.findings), 'finding')}"

    def _draw_detail(self) -> None:
        state = self.state
        finding = state.finding
        for control in (self.accept, self.reject, self.reopen, self.note, self.undo, self.rename):
            control.disabled = finding is None or state.verdicts is None
            show_if(state.can_write, control)
        if finding is None:
            self.about.value = '<span class="clipattr-note">choose a finding to see its evidence</span>'
            self.evidence.show([], columns=())
            return
        self._draw_about()
        self.note.value = state.verdict_of(finding).note
        rows = [row(i, *cells) for i, cells in enumerate(state.evidence)]
        self.evidence.show(rows, columns=EVIDENCE)

    def _draw_shelf(self) -> None:
        looked = self.state.looked
        show_if(self._look_at and (looked.found.places or looked.measured.places), self.explore)
        for gallery, shelf in ((self.gallery, looked.found), (self.measured, looked.measured)):
            gallery.show_shelf(shelf, shown=76)
        if self.state.finding is not None:
            self._draw_about()

    def _draw_edited(self) -> None:
        show_if(self.state.edited.thumbnails, self.edited)
        self.edited.show_shelf(self.state.edited, px=152, shown=152)

    def _draw_about(self) -> None:
        self.about.value = self._about()

    def _about(self) -> str:
        state, finding = self.state, self.state.finding
        verdict = state.verdict_of(finding).choice
        return about_html(finding, verdict, state.looked.check, state.given(finding))

    def _draw_repaired(self) -> None:
        state, done = self.state, self.state.repaired
        count = len(state.accepted())
        show_if(state.can_write, self.repair, self.how)
        self.repair.description = f"repair {count} accepted" if count else "repair this finding"
        self.repair.disabled = self.how.disabled = bool(state.repairing) or not state.to_repair()
        show_if(state.repairing, self.leave)
        if state.repairing:
            self.repaired.value = progress_html(state.repairing, of="repair")
        elif done is None:
            self.repaired.value = ""
        else:
            self.repaired.value = repaired_html(done)
            self.outcome.show(done.rows(), columns=REPAIR_COLUMNS)

    def _draw_status(self) -> None:
        super()._draw_status()
        state, running = self.state, self.state.auditor.running
        if running:
            self.status.value = progress_html(state.progress)
        self.audit.disabled = running
        show_if(state.can_write, self.audit)
        show_if(running, self.cancel)

    def static(self) -> Static:
        state = self.state
        state.settle()
        body = table_html(list_columns(), state.rows[:40], self._total())
        if state.finding is not None:
            body += self._about()
            shelves = (state.looked.found, state.looked.measured, state.edited)
            for shelf in (shelf for shelf in shelves if shelf.thumbnails):
                body += f"<p>{markup(shelf.title, 160)}<br>{strip_html(shelf.thumbnails, shelf.title)}</p>"
        if state.prompts:
            body += table_html(PROMPT_COLUMNS, state.prompt_rows(), "every prompt that was audited")
        body += remarks_html(state.table.study)
        if state.repaired is not None:
            body += repaired_html(state.repaired)
            body += table_html(REPAIR_COLUMNS, state.repaired.rows(), "before and after the repair")
        return Static(body, lambda: findings_figure(state.findings, state.rows), state.frame())


def repaired_html(done: Repaired) -> str:
    """Result of a repair, with remarks on its numbers."""
    notes = " ".join(str(note) for note in done.outcome.notes)
    findings = f"{counted(done.findings, 'finding')}"
    return f'<span class="clipattr-note">{findings}: {markup(done.about, 160)}. {markup(notes, 400)}</span>'


def about_html(finding: Any, verdict: str, check: Any = None, given: str = "") -> str:
    """A finding in words; `check` says how sure its name is, `given` is the name that a person gave to its latents."""
    kind, says = KIND_WORDS.get(finding.kind, (finding.kind, ""))
    effect = finding.causal_effect.value
    does = "Writing it changes" if finding.by_writing else "Ablating it changes"
    # The effect is a fall of the score by ablation, or a rise by text insertion.
    way = "rises" if (effect >= 0) is finding.by_writing else "falls"
    said = "" if verdict == "open" else f' <span class="clipattr-badge">{markup(verdict)}</span>'
    label = markup(finding.label or "something no word fits", 60)
    name = f"{markup(given, 60)} <small>named by hand; by the audit: {label}</small>" if given else label
    doubt = ""
    if check is not None and check.words():
        kind_of = "clipattr-error" if check.is_doubtful else "clipattr-note"
        doubt = f'<div class="{kind_of}">{markup(check.words(), 800)}</div>'
    return (
        f'<h3 class="clipattr-title">{markup(finding.prompt, 60)} rests on '
        f"{name}{said}</h3>{doubt}"
        f'<div class="clipattr-note">{markup(kind, 40)}: {markup(says, 160)}. {does} the prompt\'s contrast: it {way} '
        f"by <b>{abs(effect) * 100:.1f}</b> points on held-back pictures. {markup(proof_words(finding), 400)}</div>"
    )
