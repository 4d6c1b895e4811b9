"""The comparison's view-model: several models on one picture, one prompt, or the findings of their audits.

Owns what is compared and the rows it gives. Latents are aligned by `clipattr.discovery.compare`; ignores how, and
widgets. Start at `CompareState`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import traitlets as T
from PIL import Image

from clipattr.attribution import EXPLAINING
from clipattr.display.wording import counted, kind_word
from clipattr_widgets.auditing import Auditor
from clipattr_widgets.bar_rows import factor_of, model_row, unit_name
from clipattr_widgets.desk import Desk, PanelError, desk_of
from clipattr_widgets.model_names import told_apart
from clipattr_widgets.pairing import Pairer
from clipattr_widgets.shelf import Shelf, shelf_of
from clipattr_widgets.text import plain, shown, words_of
from clipattr_widgets.worker import WorkingState

SUBJECTS = (("one picture", "picture"), ("one prompt", "prompt"), ("findings", "findings"))
MAX_MODELS = 5
N_ROWS = 18
PAIRING = "pairing the latents of the models over the first one's pictures; kept for the next time"
ENDED = "the latents of the models are not paired, so only their scores are shown"


class CompareState(WorkingState):
    """Everything the comparison shows.

    Args:
        studies: two to five, or a mapping of names to studies; the first one's pictures are compared on.
        findings: audits made already, one per study in the same order; else `audit` makes them.

    Traits that are chosen: `subject` ("picture", "prompt" or "findings"), `picture` (of the first study), `prompt`,
    `against`, `row` (chosen, -1 none). Traits that follow: `rows` (for a `DotList`), `axis`, `scores` (one text a
    model), `shelves` (examples of the chosen row, one per model or None), `pending`, `error`, `note`, `gen`.

    Raises:
        PanelError: fewer than two studies, or more than there are marks and colours for.
    """

    subject = T.Enum([key for _, key in SUBJECTS], "picture")
    picture = T.Int(0)
    prompt = T.Unicode("")
    against = T.Unicode("")
    row = T.Int(-1)
    outside: Any = T.Any(None)  # a picture from elsewhere instead: (picture, caption, code), or None

    rows: "T.List[dict[str, Any]]" = T.List()
    axis = T.Unicode("")
    scores: "T.List[str]" = T.List()
    shelves: "T.List[Shelf]" = T.List()
    # A name of a model, units (prompts or pictures) done, asked, seconds left; () where none goes on.
    progress = T.Tuple()  # of the audit
    pairing = T.Tuple()  # of the latents with the other model's
    paired = T.Bool(False)  # whether all partners are known
    note = T.Unicode("")

    def __init__(
        self,
        studies: Any,
        *,
        findings: Sequence[Any] | None = None,
        threaded: bool | None = None,
        **chosen: Any,
    ) -> None:
        self.desks = _desks(studies)
        if not 2 <= len(self.desks) <= MAX_MODELS:
            raise PanelError(f"A comparison takes 2 to {MAX_MODELS} studies; got {len(self.desks)}.")
        self.start_worker(threaded)
        self.collections = [desk.collected for desk in self.desks]
        self.findings = list(findings) if findings is not None else None
        self._auditor: Auditor | None = None
        self._cancelled = False
        self._compared: Any = None
        self._partners: list[dict[int, int]] | None = None
        self._pairer = Pairer(
            self.worker, lambda told: self.set_trait("pairing", told), self._set_partners, self._not_paired
        )
        self._pairing_ended = False
        self._members: list[dict[int, int]] = []
        super().__init__(**chosen)
        if not self.prompt and self.table.n_pictures:
            label = self.table.study.images[self.picture].label
            self.prompt = str(label or "").replace("_", " ")
        self.observe(self._ask, ["subject", "picture", "outside", "prompt", "against"])
        self.observe(self._look, ["row"])
        self._ask()

    @property
    def table(self) -> Desk:
        """The first study, whose pictures are compared on."""
        return self.desks[0]

    @property
    def names(self) -> list[str]:
        """Names of the models."""
        return [shown(name, 60) for name in told_apart(self.desks)]

    @T.validate("picture")
    def _picture_exists(self, proposal: Any) -> int:
        return max(0, min(int(proposal["value"]), self.table.n_pictures - 1))

    def find(self, text: str) -> None:
        """Go to the next picture whose number, id or label holds this text."""
        if text.strip():
            with self.telling():
                place, _ = self.table.find_picture(text, self.picture)
                with self.hold_trait_notifications():
                    self.picture, self.outside, self.error = place, None, ""

    def pixels(self) -> Image.Image:
        """The picture that is compared on."""
        return self.outside[0] if self.outside else self.table.picture(self.picture)

    def caption(self) -> str:
        """Its name."""
        return str(self.outside[1]) if self.outside else self.table.picture_caption(self.picture)

    def audit(self) -> None:
        """Audit one study after the other over its own prompts, a few at a time; then show the findings."""
        with self.telling():
            for desk in self.desks:
                desk.writable()
            if self._auditor is None:
                self.error, self._cancelled = "", False
                self._audit_next([])

    def cancel_audit(self) -> None:
        """End the audit after the prompts in hand; findings of an earlier audit stay."""
        if self._auditor is not None:
            self._cancelled = True
            self._auditor.cancel()

    def _audit_next(self, audited: list[Any]) -> None:
        if len(audited) == len(self.desks):
            self._auditor, self.progress = None, ()
            self.findings, self._compared = audited, None
            if self.subject == "findings":
                self._ask()
            else:
                self.subject = "findings"
            return

        def changed(found: Any, done: int, asked: int, left: float | None) -> None:
            self.progress = (self.names[len(audited)], done, asked, left)
            if auditor.running:
                return
            if done == asked and not self._cancelled:
                self._audit_next([*audited, found])
            else:
                self._auditor, self.progress = None, ()

        auditor = self._auditor = Auditor(self.desks[len(audited)], self.worker, changed, self._failed)
        auditor.start()

    # asking

    def comparison(self) -> Any:
        """Result of `clipattr.discovery.compare` for these studies; computed once."""
        if self._compared is None:
            from clipattr.discovery.compare import compare
            from clipattr.discovery.findings import Findings

            studies = {f"{i}": desk.study for i, desk in enumerate(self.desks)}
            found = self.findings or [Findings([], desk.study) for desk in self.desks]
            self._compared = compare(studies, findings=found, progress=False)
        return self._compared

    def pair(self) -> None:
        """Find the partners of all latents, then show the rows; no effect while that goes on."""
        if self._partners is None and not self.pairing:
            self._pairing_ended = False
            self._pairer.start(self.desks, self.names)

    def cancel_pairing(self) -> None:
        """End the pairing with the pictures in hand; the scores stay, and `pair` begins again."""
        if self.pairing:
            self._pairer.cancel()
            with self.hold_trait_notifications():
                self._pairing_ended, self.note = True, ENDED
                self.gen += 1

    def _set_partners(self, found: list[dict[int, int]]) -> None:
        self._partners, self.paired = found, True
        if self.subject != "findings":
            self._ask()

    def _not_paired(self, error: Exception) -> None:
        self._pairing_ended = True
        self._failed(error)

    def _ask_scores(self, picture: int, prompt: str, against: str) -> None:
        """The scores alone, which need no partners: in their own lane, so that they come at once."""

        def work() -> list[str]:
            return self._measured(picture, prompt, against)[1]

        def came(scores: list[str]) -> None:
            if self._partners is not None:
                return  # the rows are there, or follow at once
            self.error = ""
            self._show_unpaired(scores)

        self.ask("scores", work, came)

    def _show_unpaired(self, scores: list[str]) -> None:
        """Show no rows, and pair the latents unless that was ended."""
        with self.hold_trait_notifications():
            self.rows, self._members, self.scores = [], [], scores
            self.note = ENDED if self._pairing_ended else PAIRING
            self.gen += 1
        if not self._pairing_ended:
            self.pair()

    def _ask(self, _: Any = None) -> None:
        self.row = -1
        subject, picture, prompt, against = self.subject, self.picture, self.prompt, self.against
        if subject == "picture" and self._partners is None:
            self._ask_scores(picture, prompt, against)
        if subject != "findings" and self._partners is None:
            if subject == "prompt":
                self._show_unpaired(
                    []
                )  # with a picture once its scores are there, which pairing would slow down
            return
        work = {"picture": self._of_picture, "prompt": self._of_prompt, "findings": self._of_findings}[
            subject
        ]
        self.ask("rows", lambda: work(picture, prompt, against), self._set, long=True)

    def _set(self, answer: Any) -> None:
        with self.hold_trait_notifications():
            self.error = ""
            self.rows, self._members, self.axis, self.scores, self.note = answer
            self.gen += 1

    def _failed(self, error: Exception) -> None:
        with self.hold_trait_notifications():
            self.error, self.rows, self.scores, self.note = words_of(error), [], [], ""
            self.gen += 1

    def _measured(self, picture: int, prompt: str, against: str) -> tuple[list[Any], list[str]]:
        """The picture measured by each model, and its scores in words."""
        image = self.outside[0] if self.outside else self.table.study.images[picture].load()
        found = [desk.measure(image, desk.target(prompt, against)) for desk in self.desks]
        return found, [f"{plain(f.y * factor_of(f.y_unit))} {unit_name(f.y_unit)}" for f in found]

    def _of_picture(self, picture: int, prompt: str, against: str) -> Any:
        found, scores = self._measured(picture, prompt, against)
        values = [dict(zip(f.latents.tolist(), f.attributions.tolist(), strict=True)) for f in found]
        unit = found[0].y_unit
        rows, members = self._aligned(values, factor_of(unit))
        note = f"{_count(rows)}; attribution of {shown(prompt, 40)} in this picture"
        return rows, members, f"attribution, {unit_name(unit)}", scores, note

    def _of_prompt(self, picture: int, prompt: str, against: str) -> Any:
        values, unit, over = [], "cosine", []
        for desk, collection in zip(self.desks, self.collections, strict=True):
            target = desk.target(prompt, against)
            found = collection.rests_on(prompt, target)
            values.append(dict(zip(found.latents.tolist(), found.means.tolist(), strict=True)))
            unit = found.unit
            over.append(f"{counted(len(found.rows), 'picture')}")
        rows, members = self._aligned(values, factor_of(unit))
        note = f"{_count(rows)}; mean over the pictures that show “{shown(prompt, 40)}”"
        return rows, members, f"mean attribution, {unit_name(unit)}", over, note

    def _of_findings(self, picture: int, prompt: str, against: str) -> Any:
        if self.findings is None:
            raise PanelError(
                "There is no audit yet. “audit all” makes one for every model; it takes a while."
            )
        compared = self.comparison()
        rows, members = [], []
        for place, (about, cause, found) in enumerate(compared.rows):
            mine = {int(name): finding for name, finding in found.items()}
            values = [
                mine[i].causal_effect.value * 100 if i in mine else None for i in range(len(self.desks))
            ]
            first = next(iter(mine.values()))
            label = f"{shown(about, 24)} ← {shown(cause, 30)}"
            rows.append(model_row(self.names, place, label, values, f"kind: {kind_word(first.kind)}"))
            members.append({i: int(finding.latents[0]) for i, finding in mine.items()})
        scores = [counted(len(found), "finding") for found in self.findings]
        return rows, members, "causal effect, points", scores, _count(rows)

    def _aligned(
        self, values: Sequence[Mapping[int, float]], factor: float
    ) -> tuple[list[dict[str, Any]], list[dict[int, int]]]:
        """Latents of all models, those that pair up with one of the first model's in one row; the largest first."""
        partner_of = self._partners or []
        groups: dict[tuple[int, int], dict[int, int]] = {(0, j): {0: j} for j in values[0]}
        for i in range(1, len(self.desks)):
            partner = partner_of[i - 1]
            for j in values[i]:
                key = (0, partner[j]) if j in partner else (i, j)
                groups.setdefault(key, {key[0]: key[1]})[i] = j

        def weight(members: Mapping[int, int]) -> float:
            return max(abs(values[i].get(j, 0.0)) for i, j in members.items())

        order = sorted(groups, key=lambda key: (-weight(groups[key]), key))[:N_ROWS]
        rows, kept = [], []
        for place, key in enumerate(order):
            members = groups[key]
            numbers = [
                values[i].get(members[i], 0.0) * factor if i in members else None
                for i in range(len(self.desks))
            ]
            card = self.desks[key[0]].card(key[1])
            tip = " · ".join(
                f"{self.names[i]}: latent {j}, {self.desks[i].name_of(j)}" for i, j in members.items()
            )
            inactive = {i for i, j in members.items() if j not in values[i]}
            rows.append(model_row(self.names, place, shown(card.title, 50), numbers, tip, inactive))
            kept.append(dict(members))
        return rows, kept

    def _look(self, _: Any = None) -> None:
        """Examples of the chosen row's latents, side by side."""
        row = self.row
        if not 0 <= row < len(self._members):
            self.shelves = []
            return
        members = self._members[row]

        def work() -> list[Shelf]:
            return [
                shelf_of(desk, members[i], 8)[1] if i in members else Shelf(title="no partner")
                for i, desk in enumerate(self.desks)
            ]

        self.ask("look", work, self.fill("shelves"))

    def latent_of(self, model: int) -> int:
        """A model's latent in the chosen row; -1 where it has none."""
        return self._members[self.row].get(model, -1) if 0 <= self.row < len(self._members) else -1

    # what to take away

    def frame(self) -> Any:
        """The rows as a table, one column a model, in the unit of the axis."""
        import pandas as pd

        data = {name: [row["values"][i] for row in self.rows] for i, name in enumerate(self._columns())}
        return pd.DataFrame({"row": [row["label"] for row in self.rows], **data})

    def _columns(self) -> list[str]:
        return [
            f"{name} ({i + 1})" if self.names.count(name) > 1 else name for i, name in enumerate(self.names)
        ]

    def code(self) -> str:
        """Python code that computes the view."""
        opened = ", ".join(f"ca.open_study({desk.opening})" for desk in self.desks)
        lines = [
            "import clipattr as ca", "from clipattr.discovery.compare import compare",
            "from clipattr.discovery.partners import partners", "", f"studies = [{opened}]",
            "comparison = compare(studies)" if self.subject == "findings"
            else "matches = [partners(studies[0], other) for other in studies[1:]]",
        ]  # fmt: skip
        if self.subject == "picture":
            code = self.outside[2] if self.outside else f"studies[0].images[{self.picture}].load()"
            lines.append(f"picture = {code}")
            lines.append(
                f"[ca.attribute(study, picture, {self.prompt!r}, method={EXPLAINING!r}).top(10) for study in studies]"
            )
        return "\n".join(lines)


def _desks(studies: Any) -> list[Desk]:
    if isinstance(studies, Mapping):
        return [desk_of(study, str(name)) for name, study in studies.items()]
    return [desk_of(study) for study in studies]


def _count(rows: Sequence[Mapping[str, Any]]) -> str:
    own = sum(bool(row["own"]) for row in rows)
    return f"{len(rows) - own} shared, {own} of one model alone"
