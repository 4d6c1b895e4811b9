"""The explorer's table of pairs: the score of a picture and a prompt as image latents × text latents.

Owns which pairs are shown and their sum. Pairs come from `clipattr.attribution.pairs`. Start at `PairTable`.
"""

from typing import Any

import ipywidgets as W

from clipattr_widgets.controls import error_html
from clipattr_widgets.parts import DataTable
from clipattr_widgets.tables import column, row
from clipattr_widgets.text import markup, shown, signed, words_of

N_PAIRS = 12
COLUMNS = (
    column("image", "in the picture", "latent of the picture's dictionary, bias or error node"),
    column("text", "in the prompt", "latent of the prompt's dictionary, bias or error node"),
    column("points", "points", "part of the score that runs through these two, signed; cosine × 100. All pairs sum to "
           "the score", numeric=True),
)  # fmt: skip


class PairTable(W.VBox):
    """Pairs of the explorer's picture and prompt, largest first, followed as these change.

    Args:
        state: the explorer's. text_dictionary: of a text site of the study's model (`train_text_sae`).
    """

    def __init__(self, state: Any, text_dictionary: Any) -> None:
        self.state, self.text_dictionary = state, text_dictionary
        self.table = DataTable(title="", empty_text="no pairs to show")
        self.note = W.HTML()
        super().__init__([self.note, self.table])
        self.add_class("clipattr-section")
        state.observe(self.ask, "measured")
        self.ask()

    def ask(self, _: Any = None) -> None:
        """Compute the pairs again, in the panel's worker."""
        from clipattr.attribution.pairs import pairs

        state, prompt = self.state, self.state.prompt
        if state.measured is None:
            self.table.show([], columns=COLUMNS)
            self.note.value = ""
            return
        study, picture = state.table.study, state.source()
        picture = study.images[picture] if isinstance(picture, int) else picture

        def work() -> Any:
            return pairs(study, picture, prompt, text_dictionary=self.text_dictionary)

        state.worker.submit("pairs", work, self._show, self._failed)

    def _show(self, found: Any) -> None:
        self.table.show(pair_rows(found), columns=COLUMNS)
        prompt = markup(shown(self.state.prompt, 60), 80)
        more = "; “rather than” is left out, since pairs are of one prompt" if self.state.against else ""
        self.note.value = (
            f'<h3 class="clipattr-title">{prompt}: latents of the picture × latents of the prompt</h3>'
            f'<div class="clipattr-note">from latents to latents {signed(100 * found.between_latents)} of '
            f"{signed(100 * found.score)} points, the rest through bias and error{more}</div>"
        )

    def _failed(self, error: Exception) -> None:
        self.table.show([], columns=COLUMNS)
        self.note.value = error_html(words_of(error))

    def end(self) -> None:
        """Stop following the explorer."""
        self.state.unobserve(self.ask, "measured")


def pair_rows(found: Any, n: int = N_PAIRS) -> list[dict[str, Any]]:
    """Rows for a `DataTable`: the largest pairs, the sum of the others, and the score, which is their sum."""
    table = found.table(n)
    cells = [
        [
            _name(one.image_latent, one.image_label),
            _name(one.text_latent, one.text_label),
            signed(100 * one.value),
        ]
        for one in table.itertuples()
    ]
    others = found.values.numel() - len(table)
    if others:
        rest = 100 * (float(found.values.sum()) - float(table.value.sum()))
        cells.append([f"{others:,} other pairs", "", signed(rest)])
    cells.append(["score", "", signed(100 * found.score)])
    return [row(i, *said) for i, said in enumerate(cells)]


def _name(number: Any, label: str) -> str:
    """Label and number of a latent; nodes have no number."""
    if number is None or number != number:
        return shown(label, 40)
    return f"{shown(label, 40)} · {int(number)}" if label else f"latent {int(number)}"
