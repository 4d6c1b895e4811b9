"""The repairs that are measured side by side: the methods of `ca.repair`, published ideas rewritten, and two limits.

Every way takes a `Setting` and a case and gives logits for any pictures. Those in `LIMITS` use information that a
repair does not have: which test pictures show the cause, or their contents. Start at `WAYS`.

    balanced    the row fitted again on class-balanced pictures, whatever was found (last-layer retraining)
    bias        the bias alone fitted again, on the same pictures with the concept put in and taken out
    orthogonal  the concept's direction projected out of the prompt's text embedding, nothing else (orth. projection)
    gloss       the mean of wordings of the prompt with glosses, templates and without, in the prompt's place
    joint_*     the prompts of all the world's cases repaired at once, by a method of `ca.repair`
    suppress    the family's latents taken out in the image tower, for every class (latent suppression)
    embedding   the concept's direction projected out of every picture's embedding
    shifted     limit: the cause's true mean shift taken from exactly the pictures that show it
    drawn       limit: the row fitted on one half of the drawn test set, balanced by class and cause, for the other half
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from repair_cases import Case, open_case_study
from torch import Tensor

import clipattr as ca
from clipattr.discovery.encoded import Encoded, encoded, family_directions
from clipattr.discovery.repair.directions import learning_pictures, own_pictures
from clipattr.discovery.repair.erasure import Factors, spread_within
from clipattr.discovery.repair.methods import KEPT, METHODS, Task, best, task_of
from clipattr.discovery.repair.refit import refitted
from clipattr.discovery.repair.removals import Removal
from clipattr.discovery.repair.repair import STRENGTH
from clipattr.discovery.repair.rows import changed_rows
from clipattr.discovery.repair.side import wordings


class Setting:
    """A study, its classifier of all labels, the pictures to learn from and held-out ones, and the world's cases."""

    def __init__(self, world: str, out: Path | None, cases: Sequence[Case] = ()) -> None:
        self.cases, self._together = cases, dict[str, ca.Probe]()
        self.study, names = open_case_study(world, out)
        self.before = ca.Probe.of_prompts(self.study.model, names)
        self.pictures = learning_pictures(self.study)
        self.classes = own_pictures(self.study, self.pictures, names)
        self.held = encoded(self.study)
        labels = self.held.images.columns["label"]
        self.held_truth = np.array([names.index(name) if name in names else -1 for name in labels])

    def task(self, case: Case) -> Task:
        """What a repair of the case's finding is fitted on."""
        finding = case.asked
        assert finding is not None
        removal = Removal(case.prompt, tuple(finding.latents), finding.label, finding.kind)
        return task_of(self.study, [removal], self.pictures, self.before, STRENGTH, self.classes)

    def together(self, how: str) -> ca.Probe:
        """The classifier with the prompts of all cases repaired at once."""
        if how not in self._together:
            asked = [(case.prompt, case.asked) for case in self.cases if case.asked is not None]
            removals = [Removal(p, tuple(f.latents), f.label, f.kind) for p, f in asked]
            unique = list(dict.fromkeys(removals))
            made = changed_rows(self.study, unique, self.pictures, self.before, STRENGTH, how)
            self._together[how] = made
        return self._together[how]


Logits = Callable[[Encoded], Tensor]
Way = Callable[[Setting, Case, Task], Logits]


def _row(setting: Setting, task: Task, row: Tensor, bias: Tensor) -> Logits:
    def logits(pictures: Encoded) -> Tensor:
        made = setting.before.logits(pictures.embeddings).clone()
        made[:, task.number] = pictures.embeddings @ row + bias
        return made

    return logits


def _method(name: str) -> Way:
    def way(setting: Setting, case: Case, task: Task) -> Logits:
        return _row(setting, task, *METHODS[name](task))

    return way


def _jointly(name: str) -> Way:
    return lambda setting, case, task: lambda pictures: setting.together(name).logits(pictures.embeddings)


def _measured(setting: Setting, case: Case, task: Task) -> Logits:
    chosen = best(task)
    kept = task.weights[task.number], task.bias[task.number]
    return _row(setting, task, *(kept if chosen == KEPT else METHODS[chosen](task)))


def _fitted(task: Task, ridge: float | None = None) -> tuple[Tensor, Tensor]:
    given = (task.weights, task.bias, task.number, task.embeddings, task.own, task.factors, task.covariance)
    return refitted(*given) if ridge is None else refitted(*given, ridge=ridge)


def _balanced(setting: Setting, case: Case, task: Task) -> Logits:
    n = len(task.embeddings)
    nothing = Factors(
        torch.zeros(task.weights.shape[1], 0), torch.zeros(n, 0), torch.zeros(0), torch.zeros(0)
    )
    return _row(setting, task, *_fitted(replace(task, factors=nothing)))


def _bias(setting: Setting, case: Case, task: Task) -> Logits:
    row = task.weights[task.number]
    given = (task.weights, task.bias, task.number, task.embeddings, task.own, task.factors, task.covariance)
    _, bias = refitted(*given, fixed=torch.eye(len(row)))
    return _row(setting, task, row, bias)


def _without(directions: Tensor) -> Tensor:
    basis = torch.linalg.qr(F.normalize(directions, dim=0)).Q
    return torch.eye(len(directions)) - basis @ basis.T


def _orthogonal(setting: Setting, case: Case, task: Task) -> Logits:
    row = task.weights[task.number]
    cut = row @ _without(task.factors.directions)
    return _row(setting, task, F.normalize(cut, dim=0) * row.norm(), task.bias[task.number])


def _gloss(setting: Setting, case: Case, task: Task) -> Logits:
    texts, _ = wordings(setting.study, case.prompt, None)
    with torch.no_grad():
        rows = setting.study.model.encode_text(texts).float().cpu()
    row = task.weights[task.number]
    return _row(setting, task, F.normalize(rows.mean(0), dim=0) * row.norm(), task.bias[task.number])


def _suppress(setting: Setting, case: Case, task: Task) -> Logits:
    finding, study = case.asked, setting.study
    assert finding is not None

    def logits(pictures: Encoded) -> Tensor:
        acts = pictures.acts - family_directions(study.dictionary, pictures.codes, list(finding.latents))
        with torch.no_grad():
            return setting.before.logits(ca.continue_from(study.model, study.site, acts).float().cpu())

    return logits


def _embedding(setting: Setting, case: Case, task: Task) -> Logits:
    cut = _without(task.factors.directions)
    return lambda pictures: setting.before.logits(F.normalize(pictures.embeddings @ cut, dim=1))


def _shifted(setting: Setting, case: Case, task: Task) -> Logits:
    """For the case's own test set alone."""
    there, other = torch.from_numpy(case.there), torch.from_numpy(case.other)
    shift = case.embeddings[other & there].mean(0) - case.embeddings[other & ~there].mean(0)

    def logits(pictures: Encoded) -> Tensor:
        moved = torch.where(there[:, None], pictures.embeddings - shift, pictures.embeddings)
        return setting.before.logits(F.normalize(moved, dim=1))

    return logits


def _drawn(setting: Setting, case: Case, task: Task) -> Logits:
    """For the case's own test set alone; pictures of one scene stay in one half."""
    place = {name: number for number, name in enumerate(setting.before.names)}
    truth = torch.tensor([place[label] for label in case.labels])
    half = torch.arange(len(truth)) // 4 % 2 == 0

    def logits(pictures: Encoded) -> Tensor:
        made = setting.before.logits(pictures.embeddings).clone()
        for fit in (half, ~half):
            some = pictures.embeddings[fit]
            n, width = len(some), some.shape[1]
            nothing = Factors(torch.zeros(width, 0), torch.zeros(n, 0), torch.zeros(0), torch.zeros(0))
            drawn = replace(
                task, embeddings=some, own=truth[fit] == task.number, classes=truth[fit], factors=nothing,
                covariance=spread_within(task.embeddings, task.classes),
            )  # fmt: skip
            row, bias = _fitted(drawn)
            made[~fit, task.number] = pictures.embeddings[~fit] @ row + bias
        return made

    return logits


JOINT = ("erased", "sharpened")
OURS: dict[str, Way] = {**{name: _method(name) for name in METHODS}, "measured": _measured}
LIMITS: dict[str, Way] = {"shifted": _shifted, "drawn": _drawn}
WAYS: dict[str, Way] = {
    **OURS,
    "balanced": _balanced,
    "bias": _bias,
    "orthogonal": _orthogonal,
    "gloss": _gloss,
    "suppress": _suppress,
    "embedding": _embedding,
    **{f"joint_{name}": _jointly(name) for name in JOINT},
    **LIMITS,
}
