"""Names the kind of an unexpected reliance from its evidence.

Each kind has a degree in [0, 1], made of the evidence that speaks for it; the probabilities are the degrees' shares,
with a fixed share for "unknown" so that weak evidence does not become a confident name. Rules, not a fit: every number
that decides is in the finding's evidence. Start at `kind_of`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from clipattr.discovery.audit.evidence import Evidence
from clipattr.discovery.audit.text_insertion import WRITING

DOUBT = 0.25  # the weight of "unknown"
MARKS, PLACES = {"mark", "marks", "watermark"}, {"place", "places", "background"}


def words_of(text: str) -> list[str]:
    """Lower-case words of a text."""
    return re.findall(r"[^\W_]+", text.casefold())


def is_constituent(label: str, prompt: str) -> bool:
    """Whether `label` is a part of the compound `prompt`: "dog" of "hot dog", "butter" of "butterfly".

    A closed compound needs a part of at least three letters at its start or end, so that "car" is not found in
    "oscar" by its middle; "art" in "heart" remains possible and is one reason for a probability below one.
    """
    part, whole = words_of(label), words_of(prompt)
    if not part or part == whole or len(whole) < len(part):
        return False
    if len(whole) > 1:
        return any(whole[at : at + len(part)] == part for at in range(len(whole) - len(part) + 1))
    word = whole[0]
    return len(part) == 1 and len(part[0]) >= 3 and (word.startswith(part[0]) or word.endswith(part[0]))


def constituents(prompts: Sequence[str], words: Sequence[str]) -> list[int]:
    """Numbers of the words that are a part of some prompt, as `is_constituent` has it, for long lists of both."""
    numbers: dict[tuple[str, ...], list[int]] = {}
    for number, word in enumerate(words):
        numbers.setdefault(tuple(words_of(word)), []).append(number)
    found: set[int] = set()
    for whole in {tuple(words_of(prompt)) for prompt in prompts}:
        n = len(whole)
        parts: list[tuple[str, ...]] = [
            whole[a:b] for a in range(n) for b in range(a + 1, n + 1) if b - a < n
        ]
        if n == 1:
            parts = [(part,) for cut in range(1, len(whole[0])) for part in (whole[0][:cut], whole[0][cut:])]
        found.update(
            number
            for part in parts
            for number in numbers.get(part, ())
            if is_constituent(words[number], " ".join(whole))
        )
    return sorted(found)


def degrees(
    evidence: Evidence, prompt: str, label: str | None, group: str | None, prompt_group: str | None = None
) -> dict[str, float]:
    """How much speaks for each kind, 0 to 1."""
    family_group = (group or "").casefold()
    diffuse = 0.5 if math.isnan(evidence.focus) else 1 - _ramp(evidence.focus, 0.4, 0.7)
    if family_group in PLACES:
        diffuse = max(diffuse, 0.9)
    elif family_group:
        diffuse = min(diffuse, 0.4)
    part = label is not None and is_constituent(label, prompt)
    mark, writing = family_group in MARKS, family_group in WRITING
    thing = 0.0 if mark or writing or part else 1.0
    # Something that comes with the prompt is seen on its pictures more often than elsewhere: beside what the prompt
    # should rest on (context, companion), or in its place (another sense, another look).
    with_it = _ramp(evidence.shown - evidence.shown_elsewhere, 0.1, 0.4)
    beside = 0.5 if math.isnan(evidence.beside) else evidence.beside
    if not math.isnan(evidence.left):  # it has a place of its own
        beside = 1.0
    accompanies = thing * with_it * beside
    # A second sense passes for the prompt without what the prompt should rest on. Where nothing says that both go by
    # one word, a thing that merely looks alike must pass almost entirely to be called a sense.
    replaces = thing * max(with_it * (1 - beside), (1 - with_it) * 0.5 * _ramp(evidence.standing, 0.4, 1.0))
    # Two looks of one word: a coarse label if both are things of one group, else two senses.
    kin = 0.5 if not (group and prompt_group) else float(family_group == prompt_group.casefold())
    return {
        "compound": float(part),
        "watermark": float(mark),
        "typography": float(writing),
        "polysemy": replaces * (1 - diffuse) * (1 - kin),
        "coarse_label": replaces * (1 - diffuse) * kin,
        "context": accompanies * diffuse,
        "companion": accompanies * (1 - diffuse),
    }


def kind_of(
    evidence: Evidence, prompt: str, label: str | None, group: str | None, prompt_group: str | None = None
) -> tuple[str, float]:
    """The likeliest kind and its probability; "unknown" when no word fits the family or nothing speaks for a kind.

    Args:
        label, group: the family's word and its group in the vocabulary.
        prompt_group: the prompt's own group, where the vocabulary knows it.
    """
    found = degrees(evidence, prompt, label, group, prompt_group)
    if label is None:
        found = {kind: degree * 0.3 for kind, degree in found.items()}
    found["unknown"] = DOUBT
    kind = max(found, key=lambda name: found[name])
    return kind, found[kind] / sum(found.values())


def _ramp(value: float, low: float, high: float) -> float:
    if math.isnan(value):
        return 0.5
    return min(1.0, max(0.0, (value - low) / (high - low)))
