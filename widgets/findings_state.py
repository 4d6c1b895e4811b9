"""The findings panel's view-model: the audit as a table to sort, filter and judge.

Owns which rows are shown in which order, the chosen finding, and verdicts. Ignores widgets; audits nothing itself.
Start at `FindingsState`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import traitlets as T

from clipattr.display.wording import is_number, kind_word, percent, points, span
from clipattr.errors import ClipattrError
from clipattr_widgets.desk import Desk, PanelError
from clipattr_widgets.explorer_state import words_of
from clipattr_widgets.shelf import Shelf
from clipattr_widgets.text import plain, shown, signed
from clipattr_widgets.verdicts import CHOICES, Verdict, Verdicts
from clipattr_widgets.worker import Worker

MAX_ROWS = 300
ANY = ""

COLUMNS: tuple[dict[str, Any], ...] = (
    {"key": "prompt", "label": "prompt"},
    {"key": "label", "label": "rests on"},
    {"key": "kind", "label": "kind"},
    {"key": "effect", "label": "causal effect", "numeric": True, "tip": "fall of the prompt's contrast, in points, "
     "when the whole family is ablated on held-back pictures; or its rise when it is written on them"},
    {"key": "reliance", "label": "reliance", "numeric": True, "tip": "mean exact ablation of single latents"},
    {"key": "share", "label": "share", "numeric": True, "tip": "of the positive evidence for the prompt"},
    {"key": "alignment", "label": "aligned", "numeric": True, "tip": "of the family with the prompt by the evaluator"},
    {"key": "confidence", "label": "confidence", "numeric": True},
    {"key": "verdict", "label": "verdict"},
)  # fmt: skip


HOWS = (("project the directions out", "project"), ("ablate the latents", "ablate"))
REPAIR_COLUMNS: tuple[dict[str, Any], ...] = (
    {"key": "measure", "label": "on held-out pictures"},
    *({"key": key, "label": key, "numeric": True} for key in ("before", "after", "change")),
)


@dataclass(frozen=True, eq=False)
class Repaired:
    """A repair in numbers: what was done, to how many findings, what came of it (a `BeforeAfter`)."""

    about: str
    findings: int
    outcome: Any

    def rows(self) -> list[dict[str, Any]]:
        """Rows for a `DataTable`, shares in per cent; intervals beside the values."""
        return [
            {"id": i, "cells": [shown(f"{row['measure']}, {row['pictures']} pictures", 60),
                                *(_measured(row, key) for key in ("before", "after", "change"))]}
            for i, row in enumerate(self.outcome.rows)
        ]  # fmt: skip


def _measured(row: Mapping[str, Any], key: str) -> str:
    share = row["unit"] == "share"
    value, low, high = (
        float(row[name]) * (100 if share else 1) for name in (key, f"{key}_low", f"{key}_high")
    )
    digits = 1 if share else 2
    text = signed(value, digits) if key == "change" else plain(value, digits)
    unit = " %" if share and key != "change" and math.isfinite(value) else ""
    bounds = f" ({plain(low, digits)} to {plain(high, digits)})" if math.isfinite(low + high) else ""
    return text + unit + bounds


class FindingsState(T.HasTraits):
    """Everything the findings panel shows.

    Args:
        study: a `Study`, or a shared `Desk`.
        findings: list-like of `Finding`.

    Traits that are chosen: `kind` and `verdict` ("" for any), `search`, `least` (smallest causal effect in points,
    0 for any),
    `sorted_by` (a column's key), `falling`, `chosen` (place in `findings`, -1 none). Traits that follow: `rows`,
    `shelf`, `evidence`, `audited` (the findings of an audit that was started here), `repaired` (of the last repair).
    """

    kind = T.Unicode(ANY)
    verdict = T.Unicode(ANY)
    search = T.Unicode("")
    least = T.Float(0.0)
    sorted_by = T.Unicode("effect")
    falling = T.Bool(True)
    chosen = T.Int(-1)

    rows: "T.List[dict[str, Any]]" = T.List()
    hidden = T.Int(0)
    shelf = T.Instance(Shelf, ())
    evidence: "T.List[tuple[str, str]]" = T.List()
    audited = T.Any(None, allow_none=True)
    how = T.Enum([key for _, key in HOWS], "project")
    repaired = T.Instance(Repaired, allow_none=True)
    pending = T.Int(0)
    error = T.Unicode("")
    gen = T.Int(0)

    def __init__(
        self, study: Any, findings: Sequence[Any] = (), *, threaded: bool | None = None, **chosen: Any
    ) -> None:
        self.table = study if isinstance(study, Desk) else Desk(study)
        self.findings = list(findings)
        self.worker = Worker(threaded, lambda pending: self.set_trait("pending", pending))
        super().__init__(**chosen)
        self.verdicts: Verdicts | None = None
        try:
            self.verdicts = Verdicts(self.table.study)
        except PanelError as error:
            self.error = words_of(error)
        self.observe(self._lay_out, ["kind", "verdict", "search", "least", "sorted_by", "falling"])
        self.observe(self._look, ["chosen"])
        self._lay_out()
        if self.rows and self.chosen < 0:
            self.chosen = self.rows[0]["id"]
        else:
            self._look()

    @property
    def finding(self) -> Any:
        """The chosen finding, or None."""
        return self.findings[self.chosen] if 0 <= self.chosen < len(self.findings) else None

    def verdict_of(self, finding: Any) -> Verdict:
        return self.verdicts.of(finding) if self.verdicts else Verdict()

    def sort(self, key: str) -> None:
        """Sort by a column; the same column again turns the order round."""
        if key not in {column["key"] for column in COLUMNS}:
            return
        with self.hold_trait_notifications():
            self.falling = (
                not self.falling if key == self.sorted_by else key not in ("prompt", "label", "kind")
            )
            self.sorted_by = key

    def judge(self, choice: str, note: str | None = None) -> None:
        """Accept, reject or reopen the chosen finding, with a note; kept with the study."""
        finding = self.finding
        if finding is None or self.verdicts is None:
            return
        held = self.verdicts.of(finding)
        try:
            self.table.writable()
            self.verdicts.set(finding, choice, held.note if note is None else note)
        except (ClipattrError, OSError) as error:
            self.error = words_of(error)
            return
        self.error = ""
        self._lay_out()

    def accepted(self) -> list[Any]:
        """The findings that were accepted: what to hand to a repair."""
        return [finding for finding in self.findings if self.verdict_of(finding).choice == "accepted"]

    def kinds(self) -> list[str]:
        """The kinds that occur, most frequent first."""
        counts: dict[str, int] = {}
        for finding in self.findings:
            counts[finding.kind] = counts.get(finding.kind, 0) + 1
        return sorted(counts, key=lambda kind: (-counts[kind], kind))

    def audit(self) -> None:
        """Audit the study, in the worker, over its own prompts; the answer replaces the findings."""
        import clipattr

        study = self.table.study
        try:
            self.table.writable()
        except PanelError as error:
            self.error = words_of(error)
            return
        self.worker.submit(
            "audit",
            lambda: clipattr.audit(study, progress=False),
            self._set_findings,
            self._failed,
            long=True,
        )

    def _set_findings(self, findings: Any) -> None:
        self.chosen = -1
        self.findings = list(findings)
        self._lay_out()
        self.chosen = self.rows[0]["id"] if self.rows else -1
        self.audited = findings

    def to_repair(self) -> list[Any]:
        """What a repair would take out: the accepted findings, else the chosen one."""
        return self.accepted() or ([self.finding] if self.finding is not None else [])

    def repair(self) -> None:
        """Repair what `to_repair` names, in the worker, and measure before and after on the held-out pictures."""
        study, found, how = self.table.study, self.to_repair(), self.how
        if not found:
            self.error = "There is nothing to repair: choose a finding, or accept some."
            return

        def work() -> Repaired:
            from clipattr.discovery.repair.repair import repair

            done = repair(study, found, how=how)
            return Repaired(done.about, len(found), done.evaluate())

        self.worker.submit("repair", work, self._set_repaired, self._failed, long=True)

    def _set_repaired(self, repaired: Repaired) -> None:
        with self.hold_trait_notifications():
            self.error, self.repaired = "", repaired

    def settle(self, timeout: float | None = None) -> None:
        """Wait until everything asked for is on the screen."""
        self.worker.settle(timeout)

    def close(self) -> None:
        self.worker.close()

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
        key = SORTS.get(self.sorted_by, SORTS["effect"])
        kept.sort(key=lambda place: key(self.findings[place], self.verdict_of(self.findings[place])))
        return kept[::-1] if self.falling else kept

    def _lay_out(self, _: Any = None) -> None:
        kept = self._kept()
        rows = []
        for place in kept[:MAX_ROWS]:
            f = self.findings[place]
            cells = [
                shown(f.prompt, 40), shown(f.label or "(no word for it)", 40), kind_word(f.kind),
                f"{points(f.causal_effect.value)} ({span(f.causal_effect.low, f.causal_effect.high)})",
                points(f.reliance.value), percent(f.share), points(f.alignment), percent(f.confidence),
                self.verdict_of(f).choice if self.verdict_of(f).choice != "open" else "",
            ]  # fmt: skip
            rows.append({"id": place, "cells": cells})
        with self.hold_trait_notifications():
            self.rows = rows
            self.hidden = len(kept) - len(rows)
            self.gen += 1

    def _look(self, _: Any = None) -> None:
        finding = self.finding
        if finding is None:
            self.shelf, self.evidence = Shelf(), []
            return
        self.evidence = evidence_of(finding)
        self.shelf = Shelf()  # pictures of another finding never stand under this one's heading
        desk = self.table
        self.worker.submit("look", lambda: examples_of(desk, finding), self._set_shelf, self._failed)

    def _set_shelf(self, shelf: Shelf) -> None:
        self.shelf = shelf

    def _failed(self, error: Exception) -> None:
        self.error = words_of(error)

    def code(self) -> str:
        """Python that computes what is on the screen."""
        lines = [
            "import clipattr as ca",
            "",
            f"study = ca.open_study({self.table.opening})",
            "findings = ca.audit(study)",
        ]
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
        """The rows on the screen as a table, with verdicts and notes; numbers in points, shares from 0 to 1."""
        import pandas as pd

        data = []
        for row in self.rows:
            f = self.findings[row["id"]]
            verdict = self.verdict_of(f)
            data.append((
                f.prompt, f.label, f.kind, f.causal_effect.value * 100, f.causal_effect.low * 100,
                f.causal_effect.high * 100, f.reliance.value * 100, f.share, f.alignment * 100, f.confidence,
                " ".join(map(str, f.latents)), verdict.choice, verdict.note,
            ))  # fmt: skip
        fields = [
            "prompt",
            "rests_on",
            "kind",
            "causal_effect",
            "effect_low",
            "effect_high",
            "reliance",
            "share",
        ]
        return pd.DataFrame(data, columns=[*fields, "alignment", "confidence", "latents", "verdict", "note"])


SORTS: Mapping[str, Callable[[Any, Verdict], Any]] = {
    "prompt": lambda f, v: f.prompt.casefold(),
    "label": lambda f, v: (f.label or "").casefold(),
    "kind": lambda f, v: f.kind,
    "effect": lambda f, v: _sortable(f.causal_effect.value),
    "reliance": lambda f, v: _sortable(f.reliance.value),
    "share": lambda f, v: _sortable(f.share),
    "alignment": lambda f, v: _sortable(f.alignment),
    "confidence": lambda f, v: _sortable(f.confidence),
    "verdict": lambda f, v: CHOICES.index(v.choice) if v.choice in CHOICES else 0,
}


def _sortable(value: float) -> float:
    return value if value is not None and math.isfinite(value) else -math.inf


def evidence_of(finding: Any) -> list[tuple[str, str]]:
    """The named numbers behind a finding, as name and text."""
    rows = [
        ("latents", ", ".join(str(j) for j in finding.latents)),
        ("probability of the kind", percent(finding.kind_probability)),
        ("clarity", f"{finding.clarity:.2f}"),
    ]
    rows += [
        (shown(str(name).replace("_", " "), 60), _in_words(value)) for name, value in finding.evidence.items()
    ]
    return rows


def _in_words(value: Any) -> str:
    """A number behind a finding: intervals in points, lists by what they hold."""
    if isinstance(value, Mapping) and {"value", "low", "high"} <= value.keys():
        return f"{points(value['value'])} ({span(value['low'], value['high'])}) points"
    if isinstance(value, list | tuple):
        return shown(", ".join(str(item) for item in value), 120)
    return f"{value:.3g}" if is_number(value) else shown(value, 120)


def examples_of(desk: Desk, finding: Any, n: int = 12) -> Shelf:
    """The pictures a finding names, as far as the study knows them; others it names are left out, never opened."""
    places = {name: i for i, name in enumerate(desk.study.images.ids)}
    rows = [places[name] for name in finding.examples if name in places][:n]
    return Shelf(
        title=f"top pictures of {shown(finding.label or 'the family', 60)}",
        thumbnails=tuple(desk.thumbnail(row) for row in rows),
        alt=tuple(f"picture {desk.picture_caption(row)}" for row in rows),
        captions=(),
        places=tuple(rows),
    )
