"""Rows: the changed rows of all repaired classes, and a joint choice of how far they go where there are several.

Each row is fitted by a method (`methods.py`) while all other rows are as they were. A row alone may be called a little
too often; with many repaired rows these errors add up, and repaired classes take pictures from each other. Two numbers
are therefore chosen for all of them together, on logits of pictures that the rows were not fitted on: a common strength
(1: the rows as fitted, 0: a softer method's or as before), and how far the biases go towards those of the greatest
joint likelihood. The largest strength comes first, then the least change of biases. A repair of one class has nothing
to choose; nor have rows of a fitted probe: one that rests on a shortcut must lose accuracy on everyday pictures.
Start at `changed_rows`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from clipattr.discovery.encoded import Encoded
from clipattr.discovery.probes.probe import Probe
from clipattr.discovery.repair.directions import own_pictures
from clipattr.discovery.repair.methods import KEPT, MEASURED, METHODS, Task, best, task_of
from clipattr.discovery.repair.removals import Removal

if TYPE_CHECKING:
    from clipattr.studies.study import Study

# Share of accuracy on held-back pictures that several repairs together may cost: the limit that a repair is held to.
JOINT_LOSS = 0.01
SOFTER = {"sharpened": "erased"}  # methods whose rows cost less, taken before the rows as they were
STRENGTHS = tuple(step / 10 for step in range(9, -1, -1))  # common strengths tried below 1, strongest first
PATHS = tuple(step / 10 for step in range(1, 11))  # fractions of the likeliest shifts, in order
RIDGE = 1e-3  # weight of squared shifts (logits²) beside the mean log-loss; enough for a unique minimum
STEPS, LONGEST = 50, 2.0  # Newton steps, and the largest change of a bias in one of them, logits
SMALL = 1e-8  # change of biases at which they end
Rows = dict[int, tuple[Tensor, Tensor]]  # row (embed,) and bias () by number of the class


def changed_rows(
    study: Study,
    removals: Sequence[Removal],
    pictures: Encoded,
    before: Probe,
    strength: float,
    how: str,
    on_prompt: Callable[[int, int], None] | None = None,
) -> Probe:
    """The classifier with the rows of the removals' prompts changed by a method.

    Its `about` says under "taken" by which method each, and under "together" what was chosen for several: see `_fade`.
    """
    on_prompt = on_prompt or (lambda done, of: None)
    classes = own_pictures(study, pictures, before.names)
    taken: dict[str, str] = {}
    tasks: dict[int, Task] = {}
    rows: Rows = {}
    prompts = list(dict.fromkeys(str(removal.prompt) for removal in removals))
    on_prompt(0, len(prompts))
    for done, prompt in enumerate(prompts, 1):
        some = [removal for removal in removals if removal.prompt == prompt]
        task = task_of(study, some, pictures, before, strength, classes)
        taken[prompt] = best(task) if how == MEASURED else how
        if taken[prompt] != KEPT:
            tasks[task.number] = task
            rows[task.number] = METHODS[taken[prompt]](task)
        on_prompt(done, len(prompts))
    together = None
    if len(tasks) > 1 and before.about.get("kind") == "prompts":
        rows, together = _fade(tasks, {n: taken[before.names[n]] for n in tasks}, rows, classes[0])
        together["shifts"] = {before.names[n]: shift for n, shift in together["shifts"].items()}
    weights, bias = before.weights.clone(), before.bias.clone()
    for number, (row, level) in rows.items():
        weights[number], bias[number] = row, level
    about = {
        "kind": "repair", "how": how, "taken": taken, "strength": strength, "of": dict(before.about),
        "together": together,
        "what": "the rows of these classes are changed and their biases refitted; all other rows are as they were",
        "removed": [{"class": r.prompt, "latents": list(r.latents), "label": r.label} for r in removals],
    }  # fmt: skip
    return Probe(before.names, weights, bias, study.model.weights_hash, about)


def _fade(
    tasks: dict[int, Task], taken: dict[int, str], rows: Rows, classes: Tensor
) -> tuple[Rows, dict[str, Any]]:
    """Several changed rows as far as the joint choice lets them go, and what was chosen.

    Returns:
        the rows. What was chosen: "strength" (fraction, 0: the methods "to", 1: the methods "of"; "none" are
        the rows as they were), and "shifts" of the biases, in logits.
    """
    numbers, first = torch.tensor(list(tasks)), next(iter(tasks.values()))
    softer = {n: SOFTER.get(name, KEPT) for n, name in taken.items()}
    kept = dict.fromkeys(taken, KEPT)
    names = [taken, *([] if softer == kept else [softer]), kept]
    known = classes >= 0
    before = first.embeddings[known] @ first.weights.T + first.bias

    def stages() -> Iterator[Tensor]:
        for stage in names[:-1]:
            yield torch.stack([crossed(task, stage[n])[known] for n, task in tasks.items()], 1)
        yield before[:, numbers]

    place, strength, shifts = joint_choice(before, stages(), numbers, classes[known])
    near = {n: _row(task, names[place + 1][n]) for n, task in tasks.items()} if strength < 1 else rows
    far = rows if place == 0 else {n: _row(task, names[place][n]) for n, task in tasks.items()}
    made = {
        n: (torch.lerp(near[n][0], far[n][0], strength), torch.lerp(near[n][1], far[n][1], strength) + shift)
        for n, shift in zip(tasks, shifts, strict=True)
    }
    told = {
        "strength": strength, "of": sorted(set(names[place].values())), "to": sorted(set(names[place + 1].values())),
        "shifts": dict(zip(numbers.tolist(), shifts.tolist(), strict=True)),
    }  # fmt: skip
    return made, told


def _row(task: Task, name: str) -> tuple[Tensor, Tensor]:
    return (task.weights[task.number], task.bias[task.number]) if name == KEPT else METHODS[name](task)


def crossed(task: Task, name: str) -> Tensor:
    """(pictures,) logits of the class by a method's row, on every second picture from a fit on the others."""
    logits, everyone = torch.zeros(len(task.embeddings)), torch.arange(len(task.embeddings))
    for fitted, held in ((everyone[::2], everyone[1::2]), (everyone[1::2], everyone[::2])):
        row, bias = _row(task.of(fitted), name)
        logits[held] = task.embeddings[held] @ row + bias
    return logits


def joint_choice(
    logits: Tensor, stages: Iterable[Tensor], numbers: Tensor, classes: Tensor, loss: float = JOINT_LOSS
) -> tuple[int, float, Tensor]:
    """How far several changed rows may go together, and shifts of their biases, that cost at most `loss` of accuracy.

    Args:
        logits: (pictures, classes) before. stages: each (pictures, repaired), logits of the changed rows, best on
            pictures that they were not fitted on; the most thorough rows first, the rows as they were last. A stage is
            asked for only when those before it cost too much. numbers: (repaired,) of their classes.
        classes: (pictures,) true class of each picture. loss: share of accuracy over all pictures.

    Returns:
        stage, strength: the rows and biases are `softer + strength * (row - softer)`, the rows of that stage and of the
        next. shifts: (repaired,), added to the biases. Rows as they were cost nothing, so there always is an answer.
    """
    rest = logits.double().clone()
    rest[:, numbers] = -torch.inf
    others, (best_other, called) = rest.logsumexp(1), rest.max(1)
    place = (classes[:, None] == numbers).double()
    # Right without a repaired class being called: only where the picture is of none of them.
    spared = (called == classes) & ~place.bool().any(1)

    def accuracy(scores: Tensor) -> float:
        top, which = scores.max(1)
        own = place.gather(1, which[:, None])[:, 0] > 0
        return float(torch.where(top > best_other, own, spared).double().mean())

    least = accuracy(logits[:, numbers].double()) - loss

    def allowed(scores: Tensor) -> Tensor | None:
        """The least shifts at which these scores cost little enough; None where all cost too much."""
        if accuracy(scores) >= least:
            return torch.zeros(len(numbers))
        shifts = likeliest_shifts(scores, others, place)
        paths = (path * shifts for path in PATHS if accuracy(scores + path * shifts) >= least)
        found = next(paths, None)
        return None if found is None else found.float()

    remaining = iter(stages)
    row = next(remaining).double()
    if (shifts := allowed(row)) is not None:
        return 0, 1.0, shifts
    for stage, given in enumerate(remaining):
        softer = given.double()
        for strength in STRENGTHS:
            if (shifts := allowed(softer + strength * (row - softer))) is not None:
                return stage, strength, shifts
        row = softer
    raise ValueError("the last stage of a joint choice must be the rows as they were")


def likeliest_shifts(scores: Tensor, others: Tensor, place: Tensor) -> Tensor:
    """Shifts of biases (repaired,) with the least mean log-loss over pictures, plus `RIDGE` times their squares.

    Args:
        scores: (pictures, repaired) logits of the repaired classes. others: (pictures,) logsumexp of all other logits.
        place: (pictures, repaired) 1 at a picture's own class, zeros where it is of no repaired class. All float64.
    """
    shifts = scores.new_zeros(scores.shape[1])
    eye = torch.eye(len(shifts), dtype=scores.dtype)
    for _ in range(STEPS):
        p = torch.softmax(torch.cat([others[:, None], scores + shifts], 1), 1)[:, 1:]
        gradient = (p - place).mean(0) + 2 * RIDGE * shifts
        curvature = torch.diag(p.mean(0)) - p.T @ p / len(p) + 2 * RIDGE * eye
        step = torch.linalg.solve(curvature, gradient).clamp(-LONGEST, LONGEST)
        shifts = shifts - step
        if float(step.abs().max()) < SMALL:
            break
    return shifts
