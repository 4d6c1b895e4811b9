"""Names: which words are a part of a prompt's name, as "dog" of "hot dog". Start at `constituents`."""

from __future__ import annotations

import re
from collections.abc import Sequence


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


def by_parts(words: Sequence[str]) -> dict[tuple[str, ...], list[int]]:
    """Numbers of words by their lower-case parts."""
    numbers: dict[tuple[str, ...], list[int]] = {}
    for number, word in enumerate(words):
        numbers.setdefault(tuple(words_of(word)), []).append(number)
    return numbers


def constituents(
    prompts: Sequence[str],
    words: Sequence[str],
    numbers: dict[tuple[str, ...], list[int]] | None = None,
) -> list[int]:
    """Numbers of the words that are a part of some prompt, as `is_constituent` has it, for long lists of both.

    Args:
        numbers: `by_parts` of the words, if it is at hand.
    """
    numbers = by_parts(words) if numbers is None else numbers
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
