"""Pictured: which pictures of a finding's family show its cause, and what its latents are labelled by themselves.

A word is chosen over all pictures, so a family's strongest pictures may show something else. Owns the pictures that are
shown for a finding, the count of those that are not, and the sentences about a doubtful word, which table, JSON,
report and panel share. Ignores effects and decisions. Start at `pictured`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clipattr.discovery.audit.base import Base, plain
from clipattr.discovery.audit.evidence import strength_of

SHOWN = 8  # pictures shown for a cause
FEWEST = 3  # of them; fewer may all be errors of the evaluator, and none is shown
STRONGEST = 12  # of a family's pictures, counted
CLEARLY = (
    0.6  # of a word's weight in the pictures that show it best, from which a picture is shown as showing it
)
BEST = 20  # such pictures
NAMED = 3  # labels of latents that a sentence names


def pictured(
    base: Base, prompt: str, latents: Sequence[int], label: str | None, weight: Tensor | None
) -> dict[str, Any]:
    """What a family's pictures and its latents' labels say of the word of a finding.

    Args:
        prompt: of the finding. latents: the family. label: the word for its cause; None where there is none.
        weight: of `weights_of` that label, None without one.

    Returns:
        Values for a finding's evidence. `latent_labels`: the best word of each latent by its own strongest pictures,
        None where none fits. With a label also `latents_named`: how many of these are the label; `cause_examples`: ids
        of pictures on which the family is active and which clearly show the label to the evaluator, the clearest first;
        `strongest`: ids of the family's strongest pictures; `strongest_shown`: in how many of them the evaluator sees
        the label; `doubts`: clauses.
    """
    labels = own_labels(base, latents)
    if label is None or weight is None:
        return {"latent_labels": labels}
    halves = (base.finding, base.measuring)
    strength = torch.cat([strength_of(half, tuple(latents)) for half in halves])
    row = np.concatenate([half.rows for half in halves])
    active = strength > 0
    strongest = strength.argsort(descending=True, stable=True)[: min(STRONGEST, int(active.sum()))]
    showing = clearest(weight, active, clear_from(base, weight))
    shown = int((weight[strongest] > base.settings.seen).sum())
    return {
        "latent_labels": labels,
        "cause_examples": [base.study.images.ids[int(at)] for at in row[showing.numpy()]],
        "latents_named": sum(_says(one, label) for one in labels),
        "strongest": [base.study.images.ids[int(at)] for at in row[strongest.numpy()]],
        "strongest_shown": shown,
        "doubts": list(doubts(prompt, label, latents, labels, (shown, len(strongest)), len(showing))),
    }


def clear_from(base: Base, weight: Tensor) -> float:
    """Weight from which a picture clearly shows a label: relative to the pictures of both halves that show it best."""
    best = weight.topk(min(BEST, len(weight))).values
    return max(base.settings.surely, CLEARLY * float(best.mean())) if len(best) else base.settings.surely


def clearest(weight: Tensor, among: Tensor, bar: float) -> Tensor:
    """Numbers of at most `SHOWN` pictures that clearly show a word, the clearest first; none if under `FEWEST` do.

    Args:
        weight: (n,) of the word. among: (n,) bool. bar: weight above which a picture clearly shows it.
    """
    showing = torch.nonzero(among & (weight > bar)).flatten()
    showing = showing[weight[showing].argsort(descending=True, stable=True)][:SHOWN]
    return showing if len(showing) >= FEWEST else showing[:0]


def own_labels(base: Base, latents: Sequence[int]) -> list[str | None]:
    """The display word that each latent's own strongest pictures fit best, None where none fits better than chance."""
    held, words = base.study.labels, base.study.vocabulary.display
    best, fits = held.word_top[:, 0], held.aligned
    return [str(words[int(best[j])]) if bool(fits[j]) and int(best[j]) >= 0 else None for j in latents]


def doubts(
    prompt: str,
    label: str,
    latents: Sequence[int],
    labels: Sequence[str | None],
    strongest: tuple[int, int],
    examples: int,
) -> tuple[str, ...]:
    """Doubts about the word of a finding, one clause each.

    Args:
        labels: of the latents, by themselves. strongest: in how many of how many strongest pictures the evaluator sees
            the word. examples: number of the family's pictures that surely show it.

    >>> doubts("rose", "tulip", [7], ["rose"], (2, 12), 5)[2]
    'the evaluator sees tulip in 2 of the 12 strongest pictures of the family'
    """
    told = []
    plural = len(latents) > 1
    if not any(_says(one, label) for one in labels):
        counts = Counter(one for one in labels if one is not None)
        named = ", ".join(f"{word} ({n})" if n > 1 else word for word, n in counts.most_common(NAMED))
        by = f"by themselves they are labelled {named}" if plural else f"by itself it is labelled {named}"
        none = f"none of the {len(latents)} latents" if plural else "the latent is not"
        first = f"{none} is labelled {label}" if plural else f"{none} labelled {label}"
        told.append(f"{first}; {by if named else 'no word fits its own pictures'}")
    same = [str(j) for j, one in zip(latents, labels, strict=True) if _says(one, prompt)]
    if same:
        verb, which = ("are", "latents") if len(same) > 1 else ("is", "latent")
        told.append(f"{which} {', '.join(same)} {verb} labelled {prompt}, the prompt itself")
    shown, of = strongest
    if 2 * shown <= of:
        told.append(f"the evaluator sees {label} in {shown} of the {of} strongest pictures of the family")
    if not examples:
        told.append(f"hardly any picture of the family clearly shows {label}")
    return tuple(told)


def _says(word: str | None, label: str) -> bool:
    return word is not None and plain(word) == plain(label)


def weights_of(base: Base, label: str) -> Tensor:
    """(n,) how much a label weighs in each picture of the finding, then of the measuring half.

    It need not be a word of the vocabulary.
    """
    halves, word = (base.finding, base.measuring), base.word_of(label)
    if word is not None:
        found = [torch.from_numpy(half.seen_by_word[:, [word]].toarray()[:, 0]) for half in halves]
    else:
        text = base.study.evaluator.encode_text([label], templates=base.templates).float().cpu()
        meant = base.concepts.texts(text)[0]
        found = [base.concepts.weight_of(meant, base.along(half, meant), half.seen) for half in halves]
    return torch.cat(found)
