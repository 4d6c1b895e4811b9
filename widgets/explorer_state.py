"""The explorer's view-model: the chosen model, picture and prompt, and the results for them.

Owns all state of the explorer and when what is computed again. Ignores widgets. What the user chooses are the upper
traits; what follows are the lower ones, set by the worker's answers. Start at `ExplorerState`.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import traitlets as T
from PIL import Image

from clipattr.attribution import METHODS
from clipattr.errors import ClipattrError
from clipattr_widgets.bar_rows import bar_rows, check_words, columns, factor_of, unit_name
from clipattr_widgets.cards import Card
from clipattr_widgets.changes import Changes, what_if
from clipattr_widgets.desk import Desk, PanelError
from clipattr_widgets.explorer_export import UPLOAD, code_of_view, first_view, frame_of_view
from clipattr_widgets.measured import Measured
from clipattr_widgets.picture_choice import PictureChoice
from clipattr_widgets.shelf import Shelf, shelf_of
from clipattr_widgets.text import plain, shown, signed, words_of

log = logging.getLogger(__name__)


class ExplorerState(Changes, PictureChoice):
    """Everything the explorer shows.

    Args:
        studies: opened studies; the first is shown.
        names: what the model picker calls them.
        findings: an audit of the first study, or a mapping of the studies' places to audits; their latents get a badge.
        read_only: nothing is written to the studies.
        threaded: see `Worker`.
        Further keywords set traits, e.g. `picture=7, prompt="kite"`.

    Traits that are chosen: `desk` (which study), `picture` (number, or -1 for the uploaded one), `prompt`, `against`
    (rather than), `method`, `n_rows`, `latent` (chosen, -1 none), `compare` (second picture, -1 none), `waterfall`,
    `finding` (its place in the study's audit, -1 none).
    Traits that follow: `measured`, `rows`, `columns`, `now` and `after` (the target, raw), `card`, `examples`;
    `pending`, `error`, `note`, `check` (what the rows sum to), `standing` (the score among other pictures and
    prompts); `gen` counts every new `rows`.
    """

    desk = T.Int(0)
    picture = T.Int(0)
    prompt = T.Unicode("")
    against = T.Unicode("")
    method = T.Unicode("")
    n_rows = T.Int(15, min=1, max=200)
    latent = T.Int(-1)
    compare = T.Int(-1)
    waterfall = T.Bool(False)
    finding = T.Int(-1)

    measured = T.Instance(Measured, allow_none=True)
    other = T.Instance(Measured, allow_none=True)
    rows: "T.List[dict[str, Any]]" = T.List()
    columns = T.Dict()
    now = T.Float(math.nan)
    after = T.Float(math.nan)
    card = T.Instance(Card, allow_none=True)
    examples = T.Instance(Shelf, ())
    heat = T.Any(None, allow_none=True)
    upload_count = T.Int(0)
    note = T.Unicode("")
    check = T.Unicode("")
    standing = T.Unicode("")

    def __init__(
        self,
        studies: Sequence[Any],
        *,
        names: Sequence[str] | None = None,
        findings: Any = None,
        read_only: bool = False,
        threaded: bool | None = None,
        **chosen: Any,
    ) -> None:
        self.desks = [
            Desk(study, names[i] if names else None, read_only=read_only) for i, study in enumerate(studies)
        ]
        if not self.desks:
            raise PanelError("explore() got no study; pass one, or a list of them.")
        self.start_worker(threaded)
        self.uploaded: Image.Image | None = None
        self.upload_name = ""
        self._kinds: dict[str, dict[int, str]] = {}
        self.audits: dict[int, Any] = (
            dict(findings) if isinstance(findings, Mapping) else {0: findings} if findings is not None else {}
        )
        place = int(chosen.get("desk", 0))
        self._alone: dict[int, float] = {}  # by changed latent, what it alone would change
        self._asked_for = "latent" in chosen  # whether the chosen latent may be one that the picture lacks
        found = self.audits.get(place)
        super().__init__(**(first_view(self.desks[place], found, chosen) | chosen))
        self.show_findings(found)
        self.observe(self._changed_desk, "desk")
        self.observe(self._ask, ["picture", "prompt", "against", "method", "compare"])
        self.observe(self._lay_out, ["n_rows", "waterfall"])
        self.observe(self._ask_after, "scales")
        self.observe(self._ask_examples, "latent")
        self.observe(self._ask_heat, ["latent", "measured"])
        self._ask()
        self._ask_examples()

    # what is on the table

    @property
    def table(self) -> Desk:
        """The current study."""
        return self.desks[self.desk]

    @T.validate("desk")
    def _desk_exists(self, proposal: Any) -> int:
        if not 0 <= proposal["value"] < len(self.desks):
            raise T.TraitError(f"there are {len(self.desks)} studies; got number {proposal['value']}")
        return proposal["value"]

    @T.validate("picture", "compare")
    def _picture_exists(self, proposal: Any) -> int:
        index = int(proposal["value"])
        return max(-1, min(index, self.table.n_pictures - 1))

    def show_findings(self, findings: Any) -> None:
        """The audit of the study in hand: its latents are marked with their kind, each under its own prompt."""
        if findings is not None:
            self.audits[self.desk] = findings
        kinds: dict[str, dict[int, str]] = {}
        for finding in findings or ():
            own = kinds.setdefault(finding.prompt.casefold(), {})
            for latent in finding.latents:
                own.setdefault(int(latent), finding.kind)
        self._kinds = kinds
        self._lay_out()

    @property
    def kinds(self) -> dict[int, str]:
        """The kind of finding by latent, for the prompt in hand."""
        return self._kinds.get(self.prompt.strip().casefold(), {})

    def go_to_latent(self, text: str) -> None:
        """Choose a latent by number, or the first whose name or label holds this text."""
        if text.strip():
            with self.telling():
                self.latent, self.found_words = self.table.find_latent(text, after=self.latent)
                self._asked_for = self.pending > 0
                self.error = ""
                self._lay_out()

    def look_for(self, latent: int) -> None:
        """Choose a latent that the picture in hand may lack; it stays chosen, and the panel says so."""
        self._asked_for = self.pending > 0
        self.latent = latent

    def rename(self, latent: int, name: str) -> None:
        """Name a latent; kept in the study. A study that cannot be written says so in `error`."""
        with self.telling():
            self.table.rename(latent, name)
            self.refresh()

    def refresh(self) -> None:
        """Read names again and update the layout."""
        self.table.forget()
        self._lay_out()
        self._ask_examples()

    # asking

    def _changed_desk(self, change: Any) -> None:
        """Another study: the same picture, by its id where the study holds it, else as one from outside."""
        self.measured = self.other = None  # their latents are those of the study before
        self._start_at({})  # no latent changed
        before = self.desks[change["old"]]
        self._kinds, self.latent, self.finding = {}, -1, -1
        self.show_findings(self.audits.get(self.desk))
        with self.hold_trait_notifications():
            self.compare = -1
            if self.picture != UPLOAD:
                self.picture = self.same_picture(before, self.picture)
        self._ask()

    def _ask(self, _: Any = None) -> None:
        """Measure the picture in hand (and the one compared with), in the worker."""
        desk, picture, second = self.table, self.picture, self.compare
        prompt, against, method = self.prompt, self.against, self.method or None
        scales = dict(self.scales)

        def work() -> tuple[Measured, Measured | None, Any]:
            target = desk.target(prompt, against)
            measured = desk.measure(self.source(picture), target, method)
            other = desk.measure(second, target, method) if second >= 0 else None
            return measured, other, what_if(desk, measured, scales)

        if self._cannot():
            return
        self.ask("measure", work, lambda answer: self._measured(answer, scales))

    def _cannot(self) -> bool:
        reason = self.table.browse_only
        if reason is None and not self.table.n_pictures and self.uploaded is None:
            reason = "This study holds no pictures. Upload one to look at."
        if reason is not None:
            self.measured, self.other, self.now, self.after = None, None, math.nan, math.nan
            self.error = shown(reason, 600)
            self._lay_out()
        return reason is not None

    def _measured(self, answer: tuple[Measured, Measured | None, Any], scales: dict[int, float]) -> None:
        measured, other, (after, self._alone) = answer
        with self.hold_trait_notifications():
            self.error = ""
            self.measured, self.other = measured, other
            self.now, self.after = measured.y, after
        # A latent that is not in the picture has no bar: the strongest takes its place, unless it was asked for here.
        if self.latent not in measured.latents and not self._asked_for and len(measured.latents):
            self.latent = int(measured.latents[0])
        self._asked_for = False
        self._ask_standing(measured)
        if self.scales == scales:
            self._lay_out()
        else:  # latents were changed while this was measured
            self._ask_after()

    def _ask_standing(self, measured: Measured) -> None:
        """How the score compares with the other pictures; after the bars, since it reads the whole collection."""
        desk, prompt, against = self.table, self.prompt, self.against
        picture = self.picture if self.picture != UPLOAD else None
        self.standing = ""

        def done(words: str) -> None:
            if self.measured is measured:
                self.standing = words

        self.ask("standing", lambda: desk.standing(measured, desk.target(prompt, against), picture), done)

    def _failed(self, error: Exception) -> None:
        if not isinstance(error, ClipattrError):
            log.warning("the explorer could not show this view", exc_info=error)
        with self.hold_trait_notifications():
            self.measured, self.other, self.now, self.after = None, None, math.nan, math.nan
            self.error = words_of(error)
        self._lay_out()

    def _ask_after(self, _: Any = None) -> None:
        measured, desk, scales = self.measured, self.table, dict(self.scales)
        with self.hold_trait_notifications():
            self.after, self._alone = math.nan, {}  # the old answer belongs to other changes
            self._lay_out()
        if measured is None:
            return

        def done(answer: tuple[float, dict[int, float]]) -> None:
            if self.measured is measured:  # else another picture or prompt has come, with its own answer
                after, self._alone = answer
                self.after = after
                self.note = self._note()

        self.ask("after", lambda: what_if(desk, measured, scales), done)

    @property
    def stacked(self) -> bool:
        """Whether the rows are a waterfall: it is asked for, and the method's values are in the score's unit."""
        return self.waterfall and self.measured is not None and self.measured.unit == self.measured.y_unit

    @property
    def active(self) -> bool:
        """Whether the chosen latent is active in the picture in hand, so that it can be scaled."""
        return self.measured is not None and self.latent in self.measured.latents

    def _lay_out(self, _: Any = None) -> None:
        measured = self.measured
        other = None if self.stacked else self.other  # a waterfall is of one picture
        rows: list[dict[str, Any]] = []
        if measured is not None:
            rows = bar_rows(
                measured, self.table.card, n=self.n_rows, scales=self.scales, kinds=self.kinds,
                other=other, waterfall=self.stacked,
            )  # fmt: skip
        with self.hold_trait_notifications():
            self.columns = columns(
                measured.unit if measured else "cosine", other is not None, prompt=self.prompt
            )
            self.rows = rows
            self.check = "" if measured is None else check_words(measured)
            self.note = self._note()
            self.gen += 1

    def _note(self) -> str:
        if self.measured is None:
            return ""
        present = set(self.measured.latents.tolist())
        absent = sum(j not in present for j in self.scales)
        notes = []
        method = METHODS.get(self.method)
        if method is not None:
            control = " is a control, no explanation" if method.control else ""
            notes.append(f"“{method.name.replace('_', ' ')}”{control}: {shown(method.about, 140)}")
        if self.scales:
            notes.append(f"{len(self.scales)} latent{'s' * (len(self.scales) != 1)} changed")
        if len(self._alone) > 1:
            unit = factor_of(self.measured.y_unit)
            each = [signed(change * unit) for _, change in sorted(self._alone.items())]
            notes.append(f"each change alone gives {', '.join(each)}; the joint effect is not their sum")
        if absent:
            notes.append(f"{absent} of them not active in this picture")
        if self.scales:
            notes.append("the rows are those of the unchanged picture")
        if self.waterfall and not self.stacked:
            notes.append(f"no waterfall: the values of “{self.measured.method}” rank latents and have no sum")
        if self.latent >= 0 and not self.active:
            notes.append(f"latent {self.latent} is not active in this picture")
        if any(row.get("mark") for row in self.rows):
            notes.append("≠ ablated alone, this latent changes the score the other way")
        if self.stacked and self.other is not None:
            notes.append("the waterfall is that of the first picture only")
        return "; ".join(notes)

    def _ask_examples(self, _: Any = None) -> None:
        if self.latent < 0:
            self.card, self.examples, self.heat = None, Shelf(), None
            return
        desk, latent = self.table, self.latent
        self.ask("examples", lambda: shelf_of(desk, latent), self.fill("card", "examples"))

    def _ask_heat(self, _: Any = None) -> None:
        """Where the chosen latent is driven in the picture in hand; nothing where it is not active."""
        measured, desk, latent = self.measured, self.table, self.latent
        if measured is None or latent not in measured.latents:
            self.heat = None
            return
        picture = self.pixels()
        self.ask("heat", lambda: desk.maps([picture], latent), self.fill("heat"))

    # what to take away

    def score_words(self) -> dict[str, str]:
        """The score as text: `unit`, `now`, `after`, `change`; dashes where there is none."""
        unit = self.measured.y_unit if self.measured else "cosine"
        factor = factor_of(unit)
        change = self.after - self.now
        return {
            "unit": unit_name(unit),
            "now": plain(self.now * factor),
            "after": plain(self.after * factor) if self.scales else "",
            "change": signed(change * factor) if self.scales else "",
        }

    def frame(self) -> Any:
        """All active latents as a table; see `explorer_export.frame_of_view`."""
        return frame_of_view(self)

    def code(self) -> str:
        """Python code that computes the view, with public functions only."""
        return code_of_view(self)
