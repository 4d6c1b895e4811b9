"""The findings panel's view-model: the audit as a table to sort, filter and judge.

Owns which rows are shown in which order, the chosen finding, and verdicts. Ignores widgets; audits nothing itself.
Start at `FindingsState`.
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import traitlets as T

from clipattr.discovery.finding import Column, columns
from clipattr.discovery.findings import Findings
from clipattr.display.wording import span
from clipattr.studies.verdicts import CHOICES, Verdict, Verdicts
from clipattr_widgets.auditing import Auditor
from clipattr_widgets.desk import desk_of
from clipattr_widgets.finding_views import Looked, edited, evidence_of, look_at, prompt_rows
from clipattr_widgets.repaired import HOWS, Repaired, Repairer
from clipattr_widgets.shelf import Shelf
from clipattr_widgets.tables import column, row
from clipattr_widgets.text import shown
from clipattr_widgets.worker import WorkingState

ROWS_AT_ONCE = 300  # rows that are drawn; scrolling to the end of a list adds as many
ANY = ""


def list_columns() -> list[dict[str, Any]]:
    """Columns of the list: the verdict, then those of a finding."""
    return [column("verdict", "verdict")] + [
        column(c.name, c.heading, c.tip, numeric=bool(c.unit and not c.bounds)) for c in columns(listed=True)
    ]


class FindingsState(WorkingState):
    """Everything the findings panel shows.

    Args:
        study: a `Study`, or a shared `Desk`.
        findings: list-like of `Finding`.

    Traits that are chosen: `kind` and `verdict` ("" for any), `search`, `least` (smallest causal effect in points,
    0 for any),
    `sorted_by` (a column's key), `falling`, `chosen` (place in `findings`, -1 none). Traits that follow: `rows`,
    `looked` (its pictures and the check of its name), `edited` (the four pictures of a verified one), `evidence`,
    `audited` (the findings of an audit that was started here), `progress` (of that audit: prompts done, asked, seconds
    left), `repairing` (the same of a repair, or ()), `repaired` (of the last repair).
    """

    kind = T.Unicode(ANY)
    verdict = T.Unicode(ANY)
    search = T.Unicode("")
    least = T.Float(0.0)
    sorted_by = T.Unicode("causal_effect")
    falling = T.Bool(True)
    chosen = T.Int(-1)

    rows: "T.List[dict[str, Any]]" = T.List()
    hidden = T.Int(0)  # findings that fit beyond the rows
    limit = T.Int(ROWS_AT_ONCE)
    looked = T.Instance(Looked, ())
    edited = T.Instance(Shelf, ())
    evidence: "T.List[tuple[str, str, str]]" = T.List()
    progress = T.Tuple()
    repairing = T.Tuple()
    renamed = T.Int(0)
    audited = T.Any(None, allow_none=True)
    how = T.Enum([key for _, key in HOWS], HOWS[0][1])
    repaired = T.Instance(Repaired, allow_none=True)

    def __init__(
        self, study: Any, findings: Sequence[Any] = (), *, threaded: bool | None = None, **chosen: Any
    ) -> None:
        self.table = desk_of(study)
        self.findings = list(findings)
        self.prompts = tuple(getattr(findings, "verdicts", ()))  # what the audit says of every prompt
        self.start_worker(threaded)
        self.auditor = Auditor(self.table, self.worker, self._audited_so_far, self._failed)
        self.repairer = Repairer(
            self.worker, lambda told: self.set_trait("repairing", told), self._set_repaired, self._failed
        )
        self._past: list[list[tuple[Any, Verdict]]] = []
        super().__init__(**chosen)
        self.verdicts: Verdicts | None = None
        with self.telling():
            self.verdicts = Verdicts(self.table.study)
        self.observe(self._lay_out, ["kind", "verdict", "search", "least", "sorted_by", "falling"])
        self.observe(self._look, ["chosen"])
        self._lay_out()
        self._look()

    @property
    def finding(self) -> Any:
        """The chosen finding, or None."""
        return self.findings[self.chosen] if 0 <= self.chosen < len(self.findings) else None

    def verdict_of(self, finding: Any) -> Verdict:
        return self.verdicts.of(finding) if self.verdicts else Verdict()

    def sort(self, key: str) -> None:
        """Sort by a column; the same column again reverses the order."""
        listed = {one.name: one for one in columns(listed=True)}
        if key not in ("verdict", *listed):
            return
        with self.hold_trait_notifications():
            first = key == "verdict" or bool(listed[key].unit)  # texts begin with A, numbers with the largest
            self.falling = not self.falling if key == self.sorted_by else first
            self.sorted_by = key

    def judge(self, choice: str, note: str | None = None) -> None:
        """Accept, reject or reopen the chosen finding, with a note; kept with the study."""
        if self.finding is not None:
            self._say([self.finding], choice, note)

    def still_open(self) -> list[Any]:
        """Findings that fit the filters and have no verdict, also those that the list shows only after scrolling."""
        kept = [self.findings[place] for place in self._kept()]
        return [finding for finding in kept if self.verdict_of(finding).choice == "open"]

    def judge_all(self, choice: str) -> None:
        """The same verdict for everything that is `still_open`."""
        self._say(self.still_open(), choice, None)

    def given(self, finding: Any) -> str:
        """The name that a person gave to the finding's strongest latent, or ""."""
        return str(self.table.study.names.get(int(finding.latents[0])) or "") if finding.latents else ""

    def rename(self, name: str) -> None:
        """Give the latents of the chosen finding a name; kept in the study. The finding's own label stays."""
        if self.finding is None:
            return
        with self.telling():
            for latent in self.finding.latents:
                self.table.rename(int(latent), name)
            self.renamed += 1

    def undo(self) -> None:
        """Undo the last verdict, or the last one given to many."""
        if self._past and self.verdicts is not None:
            past = self._past.pop()
            self.verdicts.set_all([(finding, before.choice, before.note) for finding, before in past])
            self._lay_out()

    def next(self, by: int = 1) -> None:
        """Choose the next finding of the list; the last stays."""
        ids = [row["id"] for row in self.rows]
        if ids:
            place = ids.index(self.chosen) + by if self.chosen in ids else 0
            if place >= len(ids) and self.hidden:
                self.more()
                ids = [row["id"] for row in self.rows]
            self.chosen = ids[max(0, min(place, len(ids) - 1))]

    def more(self) -> None:
        """List more of the findings that fit."""
        if self.hidden:
            self.limit += ROWS_AT_ONCE
            self._lay_out()

    def press(self, key: str) -> None:
        """What a key does: a accepts, r rejects, both go on to the next; n next, p previous, o reopens, u undoes."""
        if key in ("a", "r"):
            before = self.chosen
            self.judge({"a": "accepted", "r": "rejected"}[key])
            if self.chosen == before and not self.error:  # else the list has gone on by itself
                self.next()
        elif key in ("n", "p"):
            self.next(1 if key == "n" else -1)
        elif key == "o":
            self.judge("open")
        elif key == "u":
            self.undo()

    def _say(self, findings: Sequence[Any], choice: str, note: str | None) -> None:
        if not findings or self.verdicts is None:
            return
        before = [(finding, self.verdicts.of(finding)) for finding in findings]
        with self.telling():
            self.table.writable()
            self.verdicts.set_all(
                [(finding, choice, held.note if note is None else note) for finding, held in before]
            )
            self._past.append(before)
            self.error = ""
            self._lay_out()

    def accepted(self) -> list[Any]:
        """The accepted findings, for a repair."""
        return [finding for finding in self.findings if self.verdict_of(finding).choice == "accepted"]

    def kinds(self) -> list[str]:
        """The kinds that occur, most frequent first."""
        counts = Counter(finding.kind for finding in self.findings)
        return sorted(counts, key=lambda kind: (-counts[kind], kind))

    def audit(self) -> None:
        """Audit the study over its own prompts, a few at a time; findings replace earlier ones of their prompts."""
        with self.telling():
            self.table.writable()
            self.error = ""
            self.auditor.start(earlier=Findings(self.findings, self.table.study, {}, list(self.prompts)))

    def cancel_audit(self) -> None:
        """Stop the audit after the current prompts; findings so far are kept."""
        self.auditor.cancel()
        self.progress = ()

    @property
    def can_write(self) -> bool:
        """Whether verdicts are kept and audits are run here."""
        return not self.table.read_only

    def _audited_so_far(self, findings: Findings, done: int, asked: int, left: float | None) -> None:
        judged = self.finding
        with self.hold_trait_notifications():
            self.progress = (done, asked, left)
            if done:
                self.findings, self.prompts = list(findings), findings.verdicts
                same = [i for i, f in enumerate(self.findings) if judged is not None and _same(f, judged)]
                self.chosen = same[0] if same else -1
        if done:
            self._lay_out()
        if not self.auditor.running and done:
            self.audited = findings

    def to_repair(self) -> list[Any]:
        """The findings that a repair removes: the accepted ones, else the chosen one."""
        return self.accepted() or ([self.finding] if self.finding is not None else [])

    def repair(self) -> None:
        """Repair what `to_repair` names, in the worker, and measure before and after on the held-out pictures."""
        found = self.to_repair()
        if not found:
            self.error = "There is nothing to repair: choose a finding, or accept some."
            return

        self.error = ""
        self.repairer.start(self.table.study, found, self.how)

    def _set_repaired(self, repaired: Repaired) -> None:
        with self.hold_trait_notifications():
            self.error, self.repaired = "", repaired

    def _kept(self) -> list[int]:
        wanted = self.search.strip().casefold()
        kept = []
        for place, finding in enumerate(self.findings):
            text = f"{finding.prompt} {finding.label or ''} {self.verdict_of(finding).note}".casefold()
            if (
                (self.kind == ANY or finding.kind == self.kind)
                and (self.verdict == ANY or self.verdict_of(finding).choice == self.verdict)
                and (self.least <= 0 or finding.causal_effect.value * 100 >= self.least)
                and wanted in text
            ):
                kept.append(place)
        orders = {one.name: one.order for one in columns(listed=True)}
        orders["verdict"] = lambda finding: CHOICES.index(self.verdict_of(finding).choice)
        order = orders.get(self.sorted_by, orders["causal_effect"])
        kept.sort(key=lambda place: order(self.findings[place]))
        return kept[::-1] if self.falling else kept

    def _lay_out(self, _: Any = None) -> None:
        kept = self._kept()
        if self.chosen in kept[self.limit :]:  # a link leads to it
            self.limit = ROWS_AT_ONCE * (kept.index(self.chosen) // ROWS_AT_ONCE + 1)
        rows: list[dict[str, Any]] = []
        for place in kept[: self.limit]:
            finding = self.findings[place]
            choice = self.verdict_of(finding).choice
            cells = [_cell(one, finding) for one in columns(listed=True)]
            rows.append(row(place, choice if choice != "open" else "", *cells))
        ids = [int(shown_["id"]) for shown_ in rows]
        with self.hold_trait_notifications():
            # A hidden finding cannot be judged, so the row that took its place is chosen.
            if self.chosen not in ids:
                before = [int(shown_["id"]) for shown_ in self.rows]
                at = before.index(self.chosen) if self.chosen in before else 0
                self.chosen = ids[min(at, len(ids) - 1)] if ids else -1
            self.rows = rows
            self.hidden = len(kept) - len(rows)
            self.gen += 1

    def _look(self, _: Any = None) -> None:
        finding = self.finding
        self.edited = Shelf()
        if finding is None:
            self.looked, self.evidence = Looked(), []
            return
        self.evidence = evidence_of(finding)
        self.looked = Looked()  # pictures of another finding never stand under this one's heading
        desk = self.table
        self.ask("look", lambda: look_at(desk, finding), self.fill("looked"))
        if finding.evidence.get("pixels"):

            def came(made: Shelf) -> None:
                if finding is self.finding:  # another one may have been chosen meanwhile
                    self.edited = made

            self.ask("edited", lambda: edited(desk, finding), came, long=True)

    def prompt_rows(self) -> list[dict[str, Any]]:
        """What the audit says of every prompt that the search fits; see `finding_views.prompt_rows`."""
        return prompt_rows(self.prompts, self.search)

    def code(self) -> str:
        """Python code that computes the view."""
        lines = [*self.table.code_head(), "findings = ca.audit(study)"]
        if self.finding is not None:
            prompt, latents = self.finding.prompt, tuple(self.finding.latents)
            lines.append(f"[f for f in findings if f.prompt == {prompt!r} and f.latents == {latents!r}]")
        if self.repaired is not None:
            prompts = sorted({f.prompt for f in self.to_repair()})
            lines += [
                f"found = [f for f in findings if f.prompt in {prompts!r}]",
                f"ca.repair(study, found, how={self.how!r}).evaluate()",
            ]
        return "\n".join(lines)

    def frame(self) -> Any:
        """The rows on the screen as `Findings.to_frame` gives them, with verdicts and notes."""
        listed = [self.findings[row["id"]] for row in self.rows]
        said = [self.verdict_of(finding) for finding in listed]
        frame = Findings(listed).to_frame()
        return frame.assign(verdict=[one.choice for one in said], note=[one.note for one in said])


def _cell(column: Column, finding: Any) -> Any:
    """One cell of the list; an interval with bounds of its own columns is drawn as well."""
    text = column.text(finding)
    if column.name == "label" and finding.doubts:
        return shown(text, 40) + " ?"
    if not column.bounds:
        return text if column.unit else shown(text, 40)
    value = column.value(finding)
    bounds = {key: _finite(getattr(value, key) * 100) for key in ("value", "low", "high")}
    return {"text": f"{text} ({span(value.low, value.high)})", **bounds}


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _same(one: Any, other: Any) -> bool:
    return one.prompt == other.prompt and set(one.latents) == set(other.latents)
