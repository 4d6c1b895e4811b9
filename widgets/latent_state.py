"""The latent panel's view-model: one latent, its examples in three orders, and its scores.

Owns which latent, which examples, and when they are computed. Ignores widgets. Start at `LatentState`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import traitlets as T

from clipattr_widgets.bar_rows import factor_of, unit_name
from clipattr_widgets.cards import Card
from clipattr_widgets.desk import desk_of
from clipattr_widgets.shelf import Shelf, filled
from clipattr_widgets.text import plain, shown, signed
from clipattr_widgets.worker import WorkingState

ORDERS = (("by activation", "activation"), ("by use", "use"), ("in bands", "bands"))
PER_BAND = 5
BANDS = ("1st ¼", "2nd ¼", "3rd ¼", "4th ¼")  # quarters of its active pictures, the strongest first
N_EXAMPLES = 20
BINS = 24


class LatentState(WorkingState):
    """Everything the latent panel shows.

    Args:
        study: a `Study`, or a `Desk` that is shared with another panel.
        latent: which one.
        order: "activation" (strongest), "use" (what it carries of `prompt`), "bands" (a few from every quarter of its
            active range).
    """

    latent = T.Int(0)
    order = T.Enum([key for _, key in ORDERS], "activation")
    prompt = T.Unicode("")
    heat = T.Bool(False)

    card = T.Instance(Card, allow_none=True)
    shelf = T.Instance(Shelf, ())
    histogram = T.Tuple(T.Any(), T.Any(), default_value=((), ()))
    words: "T.List[tuple[str, float]]" = T.List()
    nearest: "T.List[tuple[int, float]]" = T.List()
    beside: "T.List[tuple[int, float, float]]" = T.List()
    users: "T.List[tuple[str, float]]" = T.List()
    names_changed = T.Int(0)
    opened = T.Int(0)  # how often a word was chosen to be looked at as a prompt

    def __init__(self, study: Any, *, threaded: bool | None = None, **chosen: Any) -> None:
        self.table = desk_of(study)
        self.start_worker(threaded)
        super().__init__(**chosen)
        self.observe(self._ask, ["latent"])
        self.observe(self._ask_shelf, ["order", "prompt", "heat"])
        self._ask()

    @T.validate("latent")
    def _latent_exists(self, proposal: Any) -> int:
        return max(0, min(int(proposal["value"]), self.table.n_latents - 1))

    def find(self, text: str) -> None:
        """Choose a latent by number, name or label."""
        if text.strip():
            with self.telling():
                self.latent, _ = self.table.find_latent(text, after=self.latent)
                self.error = ""

    def step(self, by: int) -> None:
        """Go `by` latents on; the ends meet."""
        self.latent = (self.latent + by) % max(self.table.n_latents, 1)

    def open_prompt(self, place: int, texts: Sequence[tuple[str, float]]) -> None:
        """Look at the word or prompt at this place of a table."""
        if 0 <= place < len(texts):
            self.prompt = texts[place][0]
            self.opened += 1

    def rename(self, name: str) -> None:
        """Name the latent; kept in the study."""
        with self.telling():
            self.table.rename(self.latent, name)
            self.names_changed += 1
            self._ask()

    def _ask(self, _: Any = None) -> None:
        latent, desk, collection = self.latent, self.table, self.table.collected

        def known() -> Any:
            values = collection.active_rows(latent)[1]
            words, nearest = collection.words(latent), collection.nearest(latent)
            return desk.card(latent), _histogram(values), words, nearest, collection.coactive(latent)

        self.ask("known", known, self._set_known)
        self._ask_shelf()
        self.users = []
        if desk.browse_only is None:
            self.ask("users", lambda: collection.users(latent), self.fill("users"))

    def _set_known(self, answer: Any) -> None:
        with self.hold_trait_notifications():
            self.error = ""
            self.card, self.histogram, self.words, self.nearest, self.beside = answer
            self.gen += 1

    def _ask_shelf(self, _: Any = None) -> None:
        latent, order, prompt, heat = self.latent, self.order, self.prompt, self.heat
        self.ask("shelf", lambda: self._shelf(latent, order, prompt, heat), self.fill("shelf"))

    def _shelf(self, latent: int, order: str, prompt: str, heat: bool) -> Shelf:
        desk, collection = self.table, self.table.collected
        name = desk.name_of(latent)
        if order == "use":
            target = desk.target(prompt)
            rows, values = collection.by_use(latent, target, N_EXAMPLES)
            captions = [signed(value * factor_of(target.unit)) for value in values]
            title = f"pictures in which {name} contributes most to “{shown(prompt, 40)}”"
            title += f"; {unit_name(target.unit)} below each"
        elif order == "bands":
            rows, values = collection.bands(latent, PER_BAND)
            ranks = {int(row): i for i, row in enumerate(collection.active_rows(latent)[0])}
            quarters = [4 * ranks[int(row)] // max(len(ranks), 1) for row in rows]
            captions = [f"{BANDS[quarter]} {plain(v)}" for quarter, v in zip(quarters, values, strict=True)]
            title = f"{name} from strong to weak, {PER_BAND} pictures of each quarter; activation below each"
        else:
            rows, values = desk.examples(latent, N_EXAMPLES)
            captions = [plain(value) for value in values]
            title = f"examples of {name}; activation below each"
        wanted = heat and desk.browse_only is None
        maps = desk.maps([desk.picture(int(row)) for row in rows], latent) if wanted else None
        return filled(
            desk,
            title,
            rows,
            captions,
            lambda rank, picture, said: f"{title}, {rank}: {picture}, {said}",
            maps,
        )

    def code(self) -> str:
        """Python code that computes the view."""
        lines = [
            *self.table.code_head(),
            f"study.latents.loc[{self.latent}]",
            f"study.examples.of({self.latent})",
        ]
        if self.order == "use":
            pictures = list(self.shelf.places)
            lines.append(
                f"ca.attribute(study, [study.images[i] for i in {pictures}], {self.prompt!r}).to_frame()"
            )
        return "\n".join(lines)

    def frame(self) -> Any:
        """The examples as a table: rank, picture, id, label, value (as shown)."""
        import pandas as pd

        images = self.table.study.images
        records = [images[row] for row in self.shelf.places]
        rows = [
            (rank, one.index, one.id, one.label, value)
            for rank, (one, value) in enumerate(zip(records, self.shelf.captions, strict=True), start=1)
        ]
        return pd.DataFrame(rows, columns=["rank", "picture", "id", "label", "value"])


def _histogram(values: np.ndarray) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Counts and edges of a latent's activations where it is active."""
    if not len(values):
        return (), ()
    counts, edges = np.histogram(values, bins=BINS, range=(0.0, float(values.max())))
    return tuple(int(c) for c in counts), tuple(float(e) for e in edges)
