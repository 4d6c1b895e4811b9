"""The prompt panel's view-model: what a prompt rests on across the collection, and its senses side by side.

Owns the prompt and when what is computed. Ignores widgets. Start at `PromptState`.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import traitlets as T

from clipattr.display.wording import counted
from clipattr.studies.collected import Reliances
from clipattr_widgets.bar_rows import REST, columns, factor_of, latent_row, part_row, unit_name
from clipattr_widgets.desk import Desk, desk_of, target_code
from clipattr_widgets.shelf import Shelf, filled
from clipattr_widgets.text import plain, shown, signed, words_of
from clipattr_widgets.worker import WorkingState

N_SENSES = 4
PER_SENSE = 6
N_TOP = 12


@dataclass(frozen=True, eq=False)
class Sense:
    """One family on which a prompt relies: its latents, their joint attribution (raw), and its strongest pictures."""

    name: str
    latents: tuple[int, ...]
    mean: float
    shelf: Shelf


class PromptState(WorkingState):
    """Everything the prompt panel shows.

    Args:
        study: a `Study`, or a shared `Desk`.
        prompt, against: a similarity, or a contrast where `against` is given.
        findings: an audit, whose findings for the prompt are listed.
    """

    prompt = T.Unicode("")
    against = T.Unicode("")
    n_rows = T.Int(12, min=1, max=100)

    reliances = T.Instance(Reliances, allow_none=True)
    rows: "T.List[dict[str, Any]]" = T.List()
    senses: "T.List[Sense]" = T.List()
    top = T.Instance(Shelf, ())
    found: "T.List[Any]" = T.List()
    latent = T.Int(-1)
    finding: Any = T.Any(None, allow_none=True)  # the finding that was clicked

    def __init__(
        self, study: Any, *, findings: Any = None, threaded: bool | None = None, **chosen: Any
    ) -> None:
        self.table = desk_of(study)
        self.start_worker(threaded)
        self.findings = list(findings or ())
        self.fits = np.zeros(0)
        super().__init__(**chosen)
        self.observe(self._ask, ["prompt", "against"])
        self.observe(self._lay_out, ["n_rows"])
        self._ask()

    def show_findings(self, findings: Any) -> None:
        """List the findings of this audit from now on."""
        self.findings = list(findings or ())
        self._lay_out()

    def _ask(self, _: Any = None) -> None:
        desk, collection, prompt, against = self.table, self.table.collected, self.prompt, self.against
        reason = desk.browse_only
        if reason is not None:
            self.error = shown(reason, 600)
            return

        def work() -> Any:
            target = desk.target(prompt, against)
            reliances = collection.rests_on(prompt, target)
            scores = collection.scores(target)
            fits = desk.fits(reliances.latents[: self.n_rows], target)
            return reliances, senses_of(desk, reliances), top_shelf(desk, scores, prompt, target.unit), fits

        self.ask("prompt", work, self._set)

    def _set(self, answer: Any) -> None:
        with self.hold_trait_notifications():
            self.error = ""
            self.reliances, self.senses, self.top, self.fits = answer
        self._lay_out()

    def _failed(self, error: Exception) -> None:
        with self.hold_trait_notifications():
            self.error = words_of(error)
            self.reliances, self.senses, self.top = None, [], Shelf()
        self._lay_out()

    def _lay_out(self, _: Any = None) -> None:
        rows: list[dict[str, Any]] = []
        found = self.reliances
        if found is not None:
            unit = factor_of(found.unit)
            kinds = {j: f.kind for f in self._own_findings() for j in f.latents}
            shown_ = zip(found.latents[: self.n_rows], found.means, found.present, strict=False)
            for i, (j, mean, share) in enumerate(shown_):
                fits = self.fits[i] if i < len(self.fits) else math.nan
                row = latent_row(self.table.card(int(j)), float(mean) * unit, math.nan, 1.0, kinds, fits=fits)
                rows.append(row | {"activation": f"{share:.0%}"})
            rest = found.means[len(rows) :]
            if len(rest):
                rows.append(part_row(REST, f"{counted(len(rest), 'more latent')}", float(rest.sum()) * unit))
        with self.hold_trait_notifications():
            self.rows = rows
            self.found = self._own_findings()
            self.gen += 1

    def _own_findings(self) -> list[Any]:
        wanted = self.prompt.strip().casefold()
        return [finding for finding in self.findings if finding.prompt.casefold() == wanted]

    def columns(self) -> dict[str, str]:
        """Headings of the bar list."""
        unit = self.reliances.unit if self.reliances else "cosine"
        return columns(unit, False, prompt=self.prompt) | {
            "value_tip": "exact ablation of this latent alone, mean over the pictures",
            "activation": "in", "activation_tip": "share of these pictures in which the latent is active",
        }  # fmt: skip

    def code(self) -> str:
        """Python code that computes the view."""
        rows = self.reliances.rows.tolist() if self.reliances else []
        return "\n".join([
            *self.table.code_head(),
            f"pictures = study.images.select({rows})",
            f"att = ca.attribute(study, pictures, {target_code(self.prompt, self.against)})",
            "means = att.to_frame().groupby(['latent', 'label']).attribution.sum() / len(pictures)",
            "means.sort_values(key=abs, ascending=False)",
        ])  # fmt: skip

    def frame(self) -> Any:
        """What the prompt rests on as a table; mean attribution raw, `present_in` a share of the pictures."""
        import pandas as pd

        fields = ["latent", "name", "label", "mean_attribution", "present_in", "alignment"]
        found = self.reliances
        if found is None:
            return pd.DataFrame(columns=fields)
        cards = [self.table.card(int(j)) for j in found.latents]
        data = [
            (c.latent, c.name, c.label, m, p, c.alignment)
            for c, m, p in zip(cards, found.means, found.present, strict=True)
        ]
        return pd.DataFrame(data, columns=fields)


def senses_of(desk: Desk, found: Reliances) -> list[Sense]:
    """The families with the largest attribution for a prompt, each with its strongest pictures.

    Latents with the same label are one family here; those without stand alone.
    """
    groups: dict[str, list[int]] = {}
    means: dict[str, float] = {}
    for j, mean in zip(found.latents.tolist(), found.means.tolist(), strict=True):
        card = desk.card(j)
        key = card.given or (card.label if card.label and card.aligned else card.name)
        groups.setdefault(key, []).append(j)
        means[key] = means.get(key, 0.0) + mean
    senses = []
    for key in sorted(groups, key=lambda key: -means[key])[:N_SENSES]:
        if means[key] <= 0:
            break
        carried = np.asarray(found.values[:, groups[key]].sum(axis=1)).ravel()
        order = [i for i in np.argsort(-carried, kind="stable")[:PER_SENSE] if carried[i] > 0]
        name, factor = shown(key, 60), factor_of(found.unit)
        title = f"pictures in which {name} contributes most; {unit_name(found.unit)} below each"
        numbers = [signed(carried[i] * factor) for i in order]
        shelf = filled(
            desk, title, found.rows[order], numbers,
            lambda _, picture, number, name=name: f"{picture}: {name} contributes {number}",
        )  # fmt: skip
        senses.append(Sense(name, tuple(groups[key]), means[key], shelf))
    return senses


def top_shelf(desk: Desk, scores: np.ndarray, prompt: str, unit: str) -> Shelf:
    """The pictures that score highest."""
    rows = np.argsort(-scores, kind="stable")[:N_TOP]
    numbers = [plain(scores[row] * factor_of(unit)) for row in rows]
    title = f"highest scores for “{shown(prompt, 40)}”; {unit_name(unit)} below each"
    return filled(desk, title, rows, numbers, lambda _, picture, number: f"{picture}, score {number}")
