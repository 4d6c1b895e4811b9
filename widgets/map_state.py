"""The map's view-model: all latents of a study, with positions, highlights and choices.

Owns the axes, what is lit or chosen, and the table beside the map. Ignores widgets. Start at `MapState`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import traitlets as T

from clipattr.display.wording import counted, kind_word
from clipattr.studies.browsing import surprise
from clipattr_widgets.cards import Card
from clipattr_widgets.desk import desk_of
from clipattr_widgets.map_places import Places, meaning_places, quality_places, spread, surprise_places
from clipattr_widgets.opening import read_upload
from clipattr_widgets.shelf import Shelf, shelf_of
from clipattr_widgets.tables import column, row
from clipattr_widgets.text import plain, shown, signed, words_of
from clipattr_widgets.worker import WorkingState

VIEWS = (("surprise", "surprise"), ("clarity × frequency", "quality"), ("meaning", "meaning"))
PLAIN, LIT, MARKED, OTHERS, CHOSEN = 0, 1, 2, 4, 8  # bits of `groups`
ROWS_AT_ONCE = 300  # rows that are drawn; scrolling to the end of the list adds as many
N_SHOWN = 20  # rows where nothing is chosen, and latents that a search by meaning lights up

COLUMNS: tuple[dict[str, Any], ...] = (
    column("latent", "latent"),
    column("reliance", "reliance", "of the prompt on it: mean exact ablation over its pictures, in points",
           numeric=True),
    column("fit", "fits prompt", "alignment of its examples with the prompt by the evaluator, in points", numeric=True),
    column("alignment", "fits label", "alignment with its own label, in points", numeric=True),
    column("clarity", "clarity", numeric=True),
    column("frequency", "active in", numeric=True),
    column("finding", "finding"),
)  # fmt: skip


class MapState(WorkingState):
    """Everything the map shows.

    Args:
        study: a `Study`, or a shared `Desk`.
        findings: an audit; the latents of its findings are marked.

    Traits that are chosen: `view` ("surprise": reliance of `prompt` × fit to it; "quality": clarity × frequency;
    "meaning": a layout on which latents with like examples are neighbours), `search`, `latent`, `chosen` (latents in a
    box or loop), `sorted_by`, `falling`. Traits that follow: `places`, `groups` (per latent, a sum of
    `LIT`, `MARKED`: in a finding of this prompt, `OTHERS`: in one of another prompt, `CHOSEN`),
    `rows`, `card`, `examples`, `pending`, `error`, `note`, `gen`.
    """

    view = T.Enum([key for _, key in VIEWS], "surprise")
    prompt = T.Unicode("")
    search = T.Unicode("")
    latent = T.Int(-1)
    chosen: Any = T.Tuple()  # of int
    sorted_by = T.Unicode("")
    falling = T.Bool(True)

    places = T.Instance(Places, allow_none=True)
    lit: Any = T.Tuple()  # of int
    rows: "T.List[dict[str, Any]]" = T.List()
    hidden = T.Int(0)  # latents of the list beyond the rows
    limit = T.Int(ROWS_AT_ONCE)
    card = T.Instance(Card, allow_none=True)
    examples = T.Instance(Shelf, ())
    opened = T.Int(0)
    note = T.Unicode("")
    progress = (
        T.Tuple()
    )  # of the meaning view's layout: rounds done, asked, seconds left; () where none is made

    def __init__(
        self, study: Any, *, findings: Any = None, threaded: bool | None = None, **chosen: Any
    ) -> None:
        self.table = desk_of(study)
        self.start_worker(threaded)
        self._found: dict[int, list[tuple[str, str]]] = {}
        super().__init__(**({"prompt": self._first_prompt(findings)} | chosen))
        self._mark(findings)
        self.observe(self._ask, ["view", "prompt"])
        self.observe(self._ask_lit, ["search"])
        self.observe(self._lay_out, ["chosen", "sorted_by", "falling", "lit"])
        self.observe(self._ask_card, ["latent"])
        self._ask()
        if self.search:
            self._ask_lit()
        self._ask_card()

    def _first_prompt(self, findings: Any) -> str:
        for finding in findings or ():
            return str(finding.prompt)
        texts = self.table.collected.texts
        return texts[0] if texts else ""

    @T.validate("latent")
    def _latent_exists(self, proposal: Any) -> int:
        return max(-1, min(int(proposal["value"]), self.table.n_latents - 1))

    @T.validate("chosen")
    def _latents_exist(self, proposal: Any) -> tuple[int, ...]:
        return tuple(sorted({int(j) for j in proposal["value"] if 0 <= int(j) < self.table.n_latents}))

    # what is marked and lit

    def _mark(self, findings: Any) -> None:
        self._found = {}
        for finding in findings or ():
            for j in finding.latents:
                self._found.setdefault(int(j), []).append((str(finding.prompt), str(finding.kind)))

    def _is_own(self, prompt: str) -> bool:
        """Whether a finding's prompt is the one in hand; views without a prompt show the findings of all."""
        return self.view != "surprise" or prompt.casefold() == self.prompt.strip().casefold()

    def found_words(self, latent: int) -> str:
        """The kinds of the findings that a latent is in; those of other prompts with the prompt's name."""
        found = sorted(self._found.get(latent, ()), key=lambda item: not self._is_own(item[0]))
        own = self.view == "surprise"
        return "; ".join(
            kind_word(kind) if own and self._is_own(prompt) else f"{shown(prompt, 24)}: {kind_word(kind)}"
            for prompt, kind in found[:3]
        )

    def show_findings(self, findings: Any) -> None:
        """Mark the latents of this audit's findings from now on."""
        self._mark(findings)
        self._lay_out()

    @property
    def groups(self) -> np.ndarray:
        """(n_latents,) uint8: how each is drawn."""
        groups = np.zeros(self.table.n_latents, np.uint8)
        for j, found in self._found.items():
            groups[j] = MARKED if any(self._is_own(prompt) for prompt, _ in found) else OTHERS
        groups[list(self.lit)] |= LIT
        groups[list(self.chosen)] |= CHOSEN
        return groups

    def labels(self, n: int = 15) -> list[tuple[int, str]]:
        """What is named on the map: the chosen latent, then findings and what stands out, strongest first."""
        first = [self.latent] if self.latent >= 0 else []
        own = np.flatnonzero(self.groups & MARKED).tolist()
        named = list(dict.fromkeys([*first, *own[:n], *self._outstanding()]))[:n]
        if self.view != "surprise" and self.places:  # there the outliers tell most, here the regions
            clarity = np.asarray(self.table.latents["clarity"], np.float64)
            named = list(dict.fromkeys([*named, *spread(self.places.xy, clarity)]))
        return [(j, shown(self.table.card(j).title, 30)) for j in named]

    @property
    def columns(self) -> list[dict[str, Any]]:
        """Columns of the table: those of the prompt only where the map is of a prompt."""
        unknown = () if self._of_prompt else ("reliance", "fit")
        return [one for one in COLUMNS if one["key"] not in unknown]

    @property
    def _of_prompt(self) -> bool:
        return self.places is not None and bool(np.isfinite(self.places.reliance).any())

    def names(self) -> list[str]:
        """Names of the latents on the map."""
        if "name" not in self.table.latents:
            return [f"latent {j}" for j in range(self.table.n_latents)]
        return [shown(name, 60) for name in self.table.latents["name"]]  # the map adds the number

    def light_picture(self, text: str) -> None:
        """Light up the latents that are active in the picture with this number, id or label; nothing puts them out."""
        if not text.strip():
            self.lit, self.note = (), ""
            return
        with self.telling():
            place, _ = self.table.find_picture(text)
            row = self.table.study.codes.rows([place]).to_csr()
            active = np.asarray(row.indices)[np.asarray(row.values) != 0]
            self.lit = tuple(np.unique(active).tolist())
            caption = self.table.picture_caption(place)
            self.note = f"{counted(len(self.lit), 'latent')} active in picture {caption}"

    def light_upload(self, data: bytes, name: str) -> None:
        """Light up the latents that are active in a file's picture."""
        desk = self.table

        def work() -> Any:
            acts, _ = desk.read(read_upload(data, name))
            codes = desk.study.dictionary.encode(acts.reshape(-1, acts.shape[-1])).to_csr()
            return np.unique(codes.indices.cpu().numpy()[codes.values.cpu().numpy() != 0])

        def done(active: np.ndarray) -> None:
            self.lit = tuple(active.tolist())
            self.note = f"{counted(len(self.lit), 'latent')} active in {shown(name, 60)}"

        self.ask("lit", work, done)

    def _ask_lit(self, _: Any = None) -> None:
        words, study = self.search.strip(), self.table.study
        if not words:
            self.lit, self.note = (), ""
            return

        def work() -> tuple[tuple[int, ...], str, str]:
            from clipattr.meaning.search import find

            found = find(study, words, n=self.table.n_latents, by="label")
            note = f"{counted(len(found), 'latent')} called “{shown(words, 40)}”"
            if not len(found):
                found = find(study, words, n=N_SHOWN)
                note = f"no latent is called “{shown(words, 40)}”; these {len(found)} fit it best by the evaluator"
            return tuple(found["latent"].tolist()), note, ""

        self.ask("lit", work, self.fill("lit", "note", "error"))

    def go_to_latent(self, text: str) -> None:
        """Choose a latent by number, name or label."""
        if text.strip():
            with self.telling():
                self.latent, _ = self.table.find_latent(text, after=self.latent)

    # where latents lie

    def _ask(self, _: Any = None) -> None:
        desk, view, prompt = self.table, self.view, self.prompt
        self.progress = ()
        told = self.worker.paced("places", lambda progress: self.set_trait("progress", progress))
        work = {
            "surprise": lambda: surprise_places(desk, prompt),
            "quality": lambda: quality_places(desk),
            "meaning": lambda: meaning_places(desk, told),
        }
        self.worker.submit(
            "places",
            work[view],
            self._set_places,
            lambda error: self._set_places(None, words_of(error)),
            long=True,
        )

    def _set_places(self, places: Places | None, error: str = "") -> None:
        with self.hold_trait_notifications():
            self.error, self.progress, self.places = error, (), places
        self._lay_out()

    def cancel(self) -> None:
        """End the layout of the meaning view after the round in hand, and go back to the first view."""
        if self.progress:
            self.worker.forget("places")
            self.progress = ()
            self.view = VIEWS[1][1] if self.table.browse_only is not None else VIEWS[0][1]

    # the table

    def sort(self, key: str) -> None:
        """Sort by a column; the same column again reverses the order."""
        if key in {one["key"] for one in COLUMNS}:
            falling = not self.falling if key == self.sorted_by else key not in ("latent", "finding")
            with self.hold_trait_notifications():
                self.falling, self.sorted_by = falling, key

    def listed(self) -> list[int]:
        """Latents of the table, all of them: the chosen, else the lit, else the marked and those that stand out."""
        latents = np.asarray(self.chosen or self.lit or (), np.int64)
        if not len(latents):
            latents = np.unique(
                np.asarray([*np.flatnonzero(self.groups & MARKED), *self._outstanding()], np.int64)
            )
        if not len(latents):
            return []
        if self.sorted_by:
            keys = self._numbers(self.sorted_by)[latents]
            order = np.argsort(keys, kind="stable")
            order = order[::-1] if self.falling else order
            if keys.dtype.kind == "f":  # unknown values come last in either order
                order = np.concatenate([order[np.isfinite(keys[order])], order[~np.isfinite(keys[order])]])
        else:
            order = np.argsort(-np.nan_to_num(self._standing()[latents], nan=-np.inf), kind="stable")
        return [int(j) for j in latents[order]]

    def _standing(self) -> np.ndarray:
        """(n_latents,) priority in this view: reliance on latents that do not fit, else triage."""
        places = self.places
        if places is not None and self._of_prompt:
            return surprise(places.reliance, places.fit)
        frame = self.table.latents
        return np.asarray(frame["triage"] if "triage" in frame else np.zeros(len(frame)), np.float64)

    def _outstanding(self) -> Sequence[int]:
        standing = np.nan_to_num(self._standing(), nan=-np.inf)
        order = np.argsort(-standing, kind="stable")[:N_SHOWN]
        return [int(j) for j in order if np.isfinite(standing[j])]

    def _numbers(self, key: str) -> np.ndarray:
        places = self.places
        nothing = np.full(self.table.n_latents, np.nan)
        if key in ("reliance", "fit"):
            return nothing if places is None else getattr(places, key)
        if key == "latent":
            return np.asarray([name.casefold() for name in self.names()])
        if key == "finding":
            return np.asarray([self.found_words(j) for j in range(self.table.n_latents)])
        frame = self.table.latents
        return np.asarray(frame[key], np.float64) if key in frame else nothing

    def more(self) -> None:
        """List more of the latents."""
        if self.hidden:
            self.limit += ROWS_AT_ONCE
            self._lay_out()

    def _lay_out(self, _: Any = None) -> None:
        listed = self.listed()
        reliance, fit = self._numbers("reliance"), self._numbers("fit")
        rows = []
        for j in listed[: self.limit]:
            card = self.table.card(j)
            of_prompt = [signed(reliance[j] * 100), signed(fit[j] * 100, 1)] if self._of_prompt else []
            rows.append(row(
                j, shown(card.title, 50), *of_prompt, signed(card.alignment * 100, 1), plain(card.clarity),
                f"{plain(card.frequency * 100, 1)} %", shown(self.found_words(j), 60),
            ))  # fmt: skip
        with self.hold_trait_notifications():
            self.rows, self.hidden = rows, len(listed) - len(rows)
            self.gen += 1

    def _ask_card(self, _: Any = None) -> None:
        if self.latent < 0:
            self.card, self.examples = None, Shelf()
            return
        desk, latent = self.table, self.latent
        self.ask("card", lambda: shelf_of(desk, latent, 12), self.fill("card", "examples"))

    # what to take away

    def frame(self) -> Any:
        """The latents of the table with their places; cosines raw, `frequency` a share."""
        import pandas as pd

        listed = self.listed()
        known = [self.table.card(j) for j in listed]
        xy = self.places.xy[listed] if self.places else np.full((len(listed), 2), np.nan)
        reliance, fit = self._numbers("reliance"), self._numbers("fit")
        return pd.DataFrame({
            "latent": listed, "name": [c.name for c in known], "x": xy[:, 0], "y": xy[:, 1],
            "reliance": reliance[listed], "fits_prompt": fit[listed], "alignment": [c.alignment for c in known],
            "clarity": [c.clarity for c in known], "frequency": [c.frequency for c in known],
            "finding": [self.found_words(j) for j in listed],
        })  # fmt: skip

    def code(self) -> str:
        """Python that computes what the map rests on."""
        lines = self.table.code_head()
        if self.view == "surprise":
            lines += [
                f"fit = ca.find(study, {self.prompt!r}, n={self.table.n_latents}).set_index('latent')['match']",
                f"pictures = [p for p in study.images if p.label == {self.prompt!r}]",
                f"att = ca.attribute(study, pictures, {self.prompt!r}).to_frame()",
                "reliance = att.groupby('latent').attribution.sum() / len(pictures)",
            ]
        elif self.view == "meaning":
            lines += [
                "from clipattr.meaning.layout import layout",
                "",
                "places = layout(study.labels.mean_embedding)",
            ]
        else:
            lines.append("study.latents[['latent', 'name', 'clarity', 'frequency']]")
        if self.chosen:
            lines.append(f"study.latents.iloc[{list(self.chosen)}]")
        return "\n".join(lines)
