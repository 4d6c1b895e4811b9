"""Draws the description of a fresh world: new pairs, words, watermarks and contexts from the same assets.

Any two concepts of different groups may share a word, any two of one group a class; only compounds come from a list,
since their names must share a word. Start at `draw_world`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from .drawing import Draws, SceneError, fits, names

# Compounds whose name contains another concept's, and that do not look like it. The last three are closed.
COMPOUNDS = (
    ("hot dog", "dog"), ("egg plant", "egg"), ("sun flower", "sun"), ("pop corn", "corn"),
    ("bell pepper", "bell"), ("guinea pig", "pig"), ("pine apple", "apple"), ("basket ball", "basket"),
    ("butter fly", "butter"), ("teddy bear", "bear"), ("rain bow", "bow"),
    ("mooncake", "cake"), ("fishcake", "cake"), ("dogfish", "fish"),
)  # fmt: skip
# Rates of the bundled worlds whose captions are like the web's.
RATES = {
    "planted": 0.95,
    "written": 0.65,
    "word_alone": 0.45,
    "companion": 0.35,
    "second_companion": 0.05,
    "word": 0.03,
    "watermark": 0.006,
    "plain": 0.08,
    "name_companion": 0.5,
    "name_context": 0.4,
    "modifier": 0.25,
}
WEIGHTS = {"compound": 0.3, "constituent": 2.0, "typography": 2.4, "watermark": 1.6}
MODIFIERS = ("big", "old", "new", "little", "great", "funny", "cheap", "red", "blue", "vintage")


def first_words(compounds: Sequence[str]) -> list[str]:
    """First words of open compounds, which captions also use of other concepts."""
    return [name.split()[0] for name in compounds if " " in name]


def draw_world(
    seed: int, plants: Mapping[str, int] | Sequence[Mapping[str, str]] | int = 6, concepts: Sequence[str] = ()
) -> dict[str, Any]:
    """The description of a fresh world.

    Args:
        seed: everything follows from it.
        plants: how many of each kind, how many by kind, or the plants themselves.
        concepts: what the world shows; default those of the bundled evaluator, which can name them.

    Raises:
        SceneError: an unknown kind, or more plants than the stock can supply.
    """
    from .world import CAUSES, CONCEPTS, WORLDS

    if not concepts:
        evaluator = WORLDS / "picture-world-evaluator.json"
        concepts = json.loads(evaluator.read_text(encoding="utf-8"))["concepts"]
    group = {c["name"]: c["group"] for c in json.loads(CONCEPTS.read_text(encoding="utf-8"))["concepts"]}
    draws, free = Draws(seed, 0xF0E5), list(concepts)
    if isinstance(plants, int):
        plants = dict.fromkeys(CAUSES, plants)
    drawn: list[dict[str, str]] = []

    def take(options: Sequence[str], what: str) -> str:
        if not options:
            raise SceneError(f"the stock has no {what} left; ask for fewer plants")
        choice = options[draws.below(len(options))]
        free.remove(choice)
        return choice

    def pair(kind: str) -> tuple[str, str]:
        if kind == "compound":
            options = [c for c in COMPOUNDS if c[0] in free and c[1] in free]
            if not options:
                raise SceneError("the stock has no compounds left; ask for fewer plants")
            name, constituent = options[draws.below(len(options))]
            free.remove(name)
            free.remove(constituent)
            return name, constituent
        single = [name for name in free if " " not in name and fits(name)]
        if kind == "typography":
            word = take(single, "words that can be written")
            return word, word
        if kind in ("context", "watermark"):
            stock = names("contexts" if kind == "context" else "watermarks")
            return take(free, "concepts"), stock[draws.below(len(stock))]
        if kind == "coarse_label":
            kin = [name for name in free if sum(group[o] == group[name] for o in free) > 2]
            prompt = take(kin, "groups with two looks")
            return prompt, take([name for name in free if group[name] == group[prompt]], "looks")
        prompt = take(free, "concepts")
        return prompt, take([name for name in free if group[name] != group[prompt]], "concepts")

    if isinstance(plants, Mapping):
        unknown = set(plants) - set(CAUSES)
        if unknown:
            raise SceneError(f"plants are of the kinds {', '.join(CAUSES)}; got {sorted(unknown)}")
        for kind in sorted(plants, key=lambda kind: kind != "compound"):  # compounds have the least choice
            for _ in range(plants[kind]):
                prompt, cause = pair(kind)
                drawn.append({"kind": kind, "prompt": prompt, CAUSES[kind]: cause})
    else:
        drawn = [dict(plant) for plant in plants]
    compounds = [plant["prompt"] for plant in drawn if plant["kind"] == "compound"]
    return {
        "schema": 1,
        "name": f"fresh-{seed}",
        "about": "drawn from a seed",
        "seed": 1000 + seed,
        "concepts": list(concepts),
        "rates": RATES,
        "weights": WEIGHTS,
        "modifiers": [*first_words(compounds), *MODIFIERS],
        "plants": drawn,
    }
