"""Methods: how one class's weights are changed so that they rely less on a concept, and which method is best here.

Owns the list of methods and the choice among them on pictures that were not used to fit. To add one: a function of a
`Task` in `METHODS`. Ignores how several classes are repaired at once (`rows.py`), results and how they are exported
(`repair.py`). Start at `METHODS`; `task_of` makes what they take.

    project   the concept's direction, the slope of the embedding on its presence, is taken out of the class's weights.
    latents   the directions of the family's latents are taken out instead (after S&P TopK, arXiv:2509.10809, which
              projects along encoder weights; here along what the latents add to the embedding).
    combined  both, and for written words the shift that inserting the text causes; the bias is fitted as in `refit`.
    refit     the weights are fitted again on balanced pictures with the concept put in and taken out.
    erased    the concept's direction is taken out whole, for written words also the shift that inserting the text
              causes; then the weights are refitted with what stands along these directions held fixed.
    sharpened as erased, with better directions of marks, looks, contexts and written words, and the bias lowered where
              other pictures would lose by it: less of the response is left, at a higher cost to everyday pictures.
    measured  the first of `PREFERRED` that on the half of the pictures that was not fitted on has no worse worst group
              than doing nothing, at a loss below `ALLOWED_LOSS`; the row as it was where there is none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from clipattr.attribution.tail_algebra import TailAlgebra
from clipattr.discovery.audit.text_insertion import shifts
from clipattr.discovery.encoded import Encoded, summed_codes
from clipattr.discovery.probes.probe import Probe
from clipattr.discovery.repair.directions import embeddings_without, factors_of, sharpened
from clipattr.discovery.repair.erasure import (
    Factors,
    erased,
    fitted_bias,
    others_weight,
    spread_within,
    within_classes,
)
from clipattr.discovery.repair.refit import moved, refitted
from clipattr.discovery.repair.removals import Removal

if TYPE_CHECKING:
    from clipattr.studies.study import Study

MEASURED, KEPT = "measured", "none"
PREFERRED = ("erased", "refit", "project")  # in the order of what they close on the choosing worlds
# Weight of other pictures where the bias of a `combined` row is fitted. It lies between 1, at which 3 % more of other
# pictures of the bundled world b are called by the prompt, and the square root of the number of classes, at which a
# third less of the gap is closed.
OTHERS = 3.0
# Of an `erased` row; see docs/decisions/repair.md. Of ridges 0.001, 0.01 and 0.1 the last closes most and leaves least
# of the effect. Other pictures weigh as in `fitted_bias`: with a fixed weight of 2 a repair costs three times as much
# on held-out pictures, which adds up where many prompts are repaired.
ERASED_RIDGE = 0.1
OTHERS_LOSS = (
    0.01  # share of accuracy that other pictures may lose by a `sharpened` row; 0.005 closes 2 % less
)
FEWEST_SHOWING = 10  # other pictures that show a concept, for their accuracy to count by itself
# Directions of inserted text: the first singular vectors of single shifts, since faces and sizes shift differently. On
# ten plants of three choosing worlds the mean shift alone leaves 19 % of the response, 4 leave 15, 8 leave 11 and 12
# leave 10.
INSERTED = 8
ALLOWED_LOSS = (
    0.02  # share of accuracy on held-back pictures, those of the class and others, that a choice may cost
)


@dataclass(frozen=True)
class Task:
    """One class to repair, and the pictures to learn from; row i of everything the same picture.

    Attributes:
        weights, bias: of all classes. number: of the class.
        embeddings: (pictures, embed). own: (pictures,) bool, the class's pictures. classes: (pictures,) numbers.
        factors: the concepts' directions and presences. latents: (embed, latents), what the family's latents add to an
            embedding. inserted: (embed, texts), mean shifts by inserted text; none for other kinds.
        covariance: of embeddings within classes. strength: share of a direction that is taken out.
        sharp: the factors with better directions for concepts that are no objects; None: the factors themselves.
        single: (embed, n), `INSERTED` directions a text along which inserting it shifts single pictures; None: the
            mean shifts.
    """

    weights: Tensor
    bias: Tensor
    number: int
    embeddings: Tensor
    own: Tensor
    classes: Tensor
    factors: Factors
    latents: Tensor
    inserted: Tensor
    covariance: Tensor
    strength: float
    sharp: Factors | None = None
    single: Tensor | None = None

    def of(self, rows: Tensor) -> Task:
        """The same task on some of the pictures, (rows,) numbers."""
        sharp = None if self.sharp is None else replace(self.sharp, presence=self.sharp.presence[rows])
        return replace(
            self,
            embeddings=self.embeddings[rows],
            own=self.own[rows],
            classes=self.classes[rows],
            factors=replace(self.factors, presence=self.factors.presence[rows]),
            sharp=sharp,
            covariance=spread_within(self.embeddings[rows], self.classes[rows]),
        )

    def without(self, directions: Tensor, strength: float = 1.0) -> tuple[Tensor, Tensor]:
        """Row and bias with directions (embed, n) taken out; the bias is fitted with the concepts put in and out."""
        n = directions.shape[1]
        unknown = directions.new_zeros(len(self.embeddings), n)  # erasure asks for no presence
        factors = Factors(directions, unknown, unknown.new_zeros(n), unknown.new_zeros(n))
        given = (self.weights, self.bias, self.number, self.embeddings, self.own)
        row, _ = erased(*given, factors, self.covariance, strength=strength)
        return row, fitted_bias(row, *given, self.factors)


def _project(task: Task) -> tuple[Tensor, Tensor]:
    return task.without(task.factors.directions, task.strength)


def _latents(task: Task) -> tuple[Tensor, Tensor]:
    return task.without(task.latents)


def _combined(task: Task) -> tuple[Tensor, Tensor]:
    directions = torch.cat([task.factors.directions, task.latents, task.inserted], 1)
    # The row stays as erased: fitting it again would let its scores grow, and what is left of the concept with them.
    return _fitted(
        task, start=task.without(directions), fixed=torch.eye(len(directions)), others_weight=OTHERS
    )


def _erased(task: Task) -> tuple[Tensor, Tensor]:
    directions = torch.cat([task.factors.directions, task.inserted], 1)
    start, others = task.without(directions), others_weight(task.weights)
    return _fitted(task, start=start, fixed=directions, others_weight=others, ridge=ERASED_RIDGE)


def _sharpened(task: Task) -> tuple[Tensor, Tensor]:
    task = replace(
        task,
        factors=task.factors if task.sharp is None else task.sharp,
        inserted=task.inserted if task.single is None else task.single,
    )
    row, bias = _erased(task)
    return row, sparing_bias(task, row, bias)


def sparing_bias(task: Task, row: Tensor, bias: Tensor, loss: float = OTHERS_LOSS) -> Tensor:
    """The largest bias, up to the given one, that spares other pictures.

    Their accuracy may fall by `loss` at most, that of all of them and that of those that show a concept, if these are
    `FEWEST_SHOWING` or more. A bias at which that holds always exists: at one low enough the prompt is never called.

    Args:
        row: (embed,), bias: (), of the class.
    """
    logits = task.embeddings @ task.weights.T + task.bias
    before = (logits.argmax(1) == task.classes).double()
    logits[:, task.number] = -torch.inf
    right = logits.argmax(1) == task.classes
    room = logits.amax(1) - task.embeddings @ row  # the prompt is called where the bias is above this
    middle = (task.factors.absent + task.factors.present) / 2
    showing = (task.factors.presence > middle).T
    # A picture without a label may be of the class by the evaluator alone: it is neither own nor another's.
    other = ~task.own & (task.classes != task.number)
    groups = [other, *(some & other for some in showing)]
    for place, group in enumerate(groups):
        n = int(group.sum())
        if n < (FEWEST_SHOWING if place else 1):
            continue
        needed = math.ceil(float(before[group].sum()) - loss * n - 1e-9)
        rooms = room[group & right].sort(descending=True).values
        if needed > 0:  # others that are right without the prompt are at least as many as were right with it
            bias = torch.minimum(bias, rooms[needed - 1] - 1e-4)
    return bias


def _refit(task: Task) -> tuple[Tensor, Tensor]:
    return _fitted(task)


def _fitted(task: Task, **options: Any) -> tuple[Tensor, Tensor]:
    given = (task.weights, task.bias, task.number, task.embeddings, task.own, task.factors, task.covariance)
    return refitted(*given, **options)


METHODS: dict[str, Callable[[Task], tuple[Tensor, Tensor]]] = {
    "project": _project,
    "latents": _latents,
    "combined": _combined,
    "refit": _refit,
    "erased": _erased,
    "sharpened": _sharpened,
}


def task_of(
    study: Study,
    removals: Sequence[Removal],
    pictures: Encoded,
    before: Probe,
    strength: float,
    classes: tuple[Tensor, Tensor],
) -> Task:
    """The task of one prompt, that of all `removals`; `classes` as `own_pictures` tells them."""
    numbers, own = classes
    number = before.index(str(removals[0].prompt))
    mine, classes_of = own[:, number], numbers.clamp_min(0)
    factors = factors_of(study, pictures, removals, mine, numbers, before.names)
    latents = _latent_directions(study, pictures, removals)
    added = _added(study, pictures, removals, latents, ~mine)
    inserted, single = _insertions(study, pictures, removals, mine)
    return Task(
        before.weights,
        before.bias,
        number,
        pictures.embeddings,
        mine,
        classes_of,
        factors,
        latents,
        inserted,
        spread_within(pictures.embeddings, numbers),
        strength,
        sharpened(factors, [r.kind for r in removals], added, pictures.embeddings, classes_of, ~mine),
        single,
    )


def best(task: Task) -> str:
    """The first of `PREFERRED` that is no worse than the row as it is, on held-back pictures; else `KEPT`.

    Every method is fitted on every second picture and judged on the others. The worst group may not be worse; neither
    the mean of the accuracies on own and other pictures may fall by more than `ALLOWED_LOSS`, nor that on others.
    Taking the method with the best worst group closes less: on so few pictures methods differ mostly by chance.
    """
    everyone = torch.arange(len(task.embeddings))
    fitted, judged = task.of(everyone[::2]), task.of(everyone[1::2])
    if not judged.own.any() or judged.own.all() or not fitted.own.any() or fitted.own.all():
        return KEPT
    kept = task.weights[task.number], task.bias[task.number]
    before, least = _accuracies(judged, *kept), worst_group(judged, *kept)
    for name in PREFERRED:
        made = METHODS[name](fitted)
        losses = [one - other for one, other in zip(before, _accuracies(judged, *made), strict=True)]
        if max(sum(losses) / 2, losses[1]) <= ALLOWED_LOSS and worst_group(judged, *made) >= least:
            return name
    return KEPT


def worst_group(task: Task, row: Tensor, bias: Tensor) -> float:
    """The lowest accuracy among own and other pictures, each with a concept put in and with it taken out."""
    others = torch.arange(len(task.weights)) != task.number
    found = []
    for state in moved(task.embeddings, task.factors):
        logits = state @ task.weights.T + task.bias
        called = state @ row + bias > logits[:, others].amax(1)
        logits[:, task.number] = -torch.inf
        right = torch.where(task.own, called, ~called & (logits.argmax(1) == task.classes)).double()
        found += [float(right[task.own].mean()), float(right[~task.own].mean())]
    return min(found)


def reliance(task: Task, row: Tensor) -> float:
    """How far a class's contrast moves with the concepts, in logits: its slope on their presence within classes, over
    pictures of other classes, times the difference between absent and present; absolute values summed over concepts."""
    others = torch.arange(len(task.weights)) != task.number
    contrast = task.embeddings @ (row - task.weights[others].mean(0))
    among = ~task.own
    moved = within_classes(contrast[among], task.classes[among])
    total = 0.0
    for column in range(task.factors.directions.shape[1]):
        level = within_classes(task.factors.presence[among, column], task.classes[among])
        slope = float((level @ moved) / level.square().sum().clamp_min(1e-9))
        total += abs(slope * float(task.factors.present[column] - task.factors.absent[column]))
    return total


def _accuracies(task: Task, row: Tensor, bias: Tensor) -> tuple[float, float]:
    """Accuracy on the class's own pictures and on others, with this row in the class's place."""
    logits = task.embeddings @ task.weights.T + task.bias
    logits[:, task.number] = task.embeddings @ row + bias
    right = (logits.argmax(1) == task.classes).double()
    return float(right[task.own].mean()), float(right[~task.own].mean())


def _latent_directions(study: Study, pictures: Encoded, removals: Sequence[Removal]) -> Tensor:
    """(embed, latents) of unit length: what the families' latents add to an embedding.

    Behind a site without a closed form, what ablating a family takes away on average, (embed, families).
    """
    tail = study.site.tail(study.model) if study.site.is_single else None
    if tail is None:
        found = []
        for removal in removals:
            active = summed_codes(pictures.codes, list(removal.latents)) > 0
            lost = pictures.embeddings - embeddings_without(study, pictures, removal.latents)
            found.append(lost[active].mean(0) if active.any() else torch.zeros(lost.shape[1]))
        return F.normalize(torch.stack(found, 1), dim=0)
    latents = sorted({latent for removal in removals for latent in removal.latents})
    rows = torch.as_tensor(study.dictionary.decoder)[latents]
    algebra = TailAlgebra(study.model, study.site, tail)
    return F.normalize(algebra.through(rows.to(algebra.device, algebra.dtype)), dim=1).T.float().cpu()


def _added(
    study: Study, pictures: Encoded, removals: Sequence[Removal], latents: Tensor, among: Tensor
) -> Tensor:
    """(embed, families): what each family adds to the embeddings of some pictures, of unit length where it fires.

    Args:
        latents: of `_latent_directions`. among: (pictures,) bool.
    """
    if not (study.site.is_single and study.site.tail(study.model) is not None):
        return latents
    place = {latent: column for column, latent in enumerate(sorted({j for r in removals for j in r.latents}))}
    columns = []
    for removal in removals:
        amounts = [float(summed_codes(pictures.codes, [j])[among].mean()) for j in removal.latents]
        columns.append(latents[:, [place[j] for j in removal.latents]] @ torch.tensor(amounts))
    return F.normalize(torch.stack(columns, 1), dim=0)


def _insertions(
    study: Study, pictures: Encoded, removals: Sequence[Removal], own: Tensor
) -> tuple[Tensor, Tensor]:
    """How inserting the prompt as text moves pictures of other classes; for findings of typography.

    Returns:
        (embed, texts): mean shifts. (embed, n): the directions along which single pictures move, `INSERTED` a text.
    """
    texts = {r.prompt for r in removals if r.kind == "typography" and r.prompt is not None}
    if not texts or own.all():
        nothing = torch.zeros(pictures.embeddings.shape[1], 0)
        return nothing, nothing
    found = [shifts(study, pictures, text, ~own) for text in sorted(texts)]
    single = [torch.linalg.svd(some, full_matrices=False).Vh[:INSERTED] for some in found]
    return torch.stack([some.mean(0) for some in found], 1), torch.cat(single).T
