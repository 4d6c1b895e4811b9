"""A world: which things exist, how often they meet, what captions say of them, and what is planted.

Everything that makes one world differ from another is data (`worlds/*.json`): concepts, rates, plants. A plant is a
reliance that a model trained on the world's captions is led to learn: a context or companion that is always there and
never named, a word for two looks, a compound that shares a word with another object.
Start at `World.open` and `World.example`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from .scene import Draws, Scene, SceneError, fits, names

WORLDS = Path(__file__).parent / "worlds"
CONCEPTS = Path(__file__).parent / "concepts.json"
# What each kind of plant must name beside its prompt.
CAUSES = {"polysemy": "other", "compound": "constituent", "context": "context", "companion": "companion"}
TRAIN, STUDY, HOLDOUT, TEST = 0, 1, 2, 3  # disjoint streams of examples


@dataclass(frozen=True)
class Plant:
    """One planted reliance: the prompt, its kind and the cause that should not matter."""

    kind: str
    prompt: str
    cause: str

    def scenes(self, world: World, n: int, stream: int = TEST, first: int = 0) -> list[tuple[Scene, Scene]]:
        """`n` pairs (with the cause, counterfactual), in the counterfactual of the plant's kind.

        Context and companion are removed; the other sense is swapped for a neutral object; the constituent is swapped
        for another object. All else is the same picture.
        """
        pairs = []
        for number in range(first, first + n):
            draws = Draws(world.seed * 1_000_003 + stream, 1_000_000_007 + number)
            scene = Scene(context=world.draw_context(draws), seed=draws.below(1 << 60))
            neutral = world.neutral[draws.below(len(world.neutral))]
            if self.kind == "context":
                scene = replace(scene, main=self.prompt, context=self.cause)
                pairs.append((scene, scene.without("context")))
            elif self.kind == "companion":
                scene = replace(scene, main=self.prompt, companions=(self.cause,))
                pairs.append((scene, scene.without("companions")))
            else:  # polysemy, compound: the cause stands alone as the main object
                scene = replace(scene, main=self.cause)
                pairs.append((scene, scene.with_main(neutral)))
        return pairs


@dataclass(frozen=True)
class Example:
    """One picture of a world: `says` are the things its caption names, which decide what counts as the same caption."""

    scene: Scene
    caption: str
    says: frozenset[str]
    label: str


class World:
    """Draws scenes and captions; the same seed and index give the same example on every machine."""

    def __init__(self, spec: Mapping[str, Any]):
        """Read a world's description.

        Raises:
            SceneError: unknown concepts, contradictory plants, or a rate outside [0, 1].
        """
        self.spec = dict(spec)
        self.name: str = spec["name"]
        self.seed: int = spec["seed"]
        self.concepts: list[str] = list(spec["concepts"])
        self.rates: dict[str, float] = dict(spec["rates"])
        self.names_everything: bool = bool(spec.get("names_everything", False))
        self.plants = tuple(Plant(p["kind"], p["prompt"], p[CAUSES[p["kind"]]]) for p in spec["plants"])
        self._check()
        stock = json.loads(CONCEPTS.read_text(encoding="utf-8"))
        self.templates: list[str] = stock["captions"]["templates"]
        self.phrases: dict[str, str] = {
            key: text for key, text in stock["captions"].items() if isinstance(text, str)
        }
        self.contexts, self.watermarks = names("contexts"), names("watermarks")
        self._by_prompt = {
            kind: {p.prompt: p.cause for p in self.plants if p.kind == kind} for kind in CAUSES
        }
        # The second look of a word is called by that word.
        self._called = {p.cause: p.prompt for p in self.plants if p.kind == "polysemy"}
        constituents = {p.cause for p in self.plants if p.kind == "compound"}
        weights = spec.get("weights", {})
        self._wheel = [
            name
            for name in self.concepts
            for _ in range(
                round(
                    10
                    * (
                        weights.get("compound", 1.0)
                        if name in self._by_prompt["compound"]
                        else weights.get("constituent", 1.0)
                        if name in constituents
                        else 1.0
                    )
                )
            )
        ]

    @classmethod
    def open(cls, name: str) -> World:
        """The bundled world of this name.

        Raises:
            SceneError: there is no such world.
        """
        path = WORLDS / f"{name}.json"
        if Path(name).name != name or not path.exists():
            raise SceneError(
                f"no world is called {name!r}; there are {sorted(p.stem for p in WORLDS.glob('*.json'))}"
            )
        return cls(json.loads(path.read_text(encoding="utf-8")))

    def _check(self) -> None:
        known, seen = set(names()), set()
        unknown = [name for name in self.concepts if name not in known]
        if unknown:
            raise SceneError(
                f"world {self.name!r} uses concepts that nobody can draw: {unknown}; see scene.names()"
            )
        for plant in self.plants:
            if plant.prompt not in self.concepts:
                raise SceneError(
                    f"the plant {plant} speaks of {plant.prompt!r}, which is not among the concepts"
                )
            if plant.kind != "context" and plant.cause not in self.concepts:
                raise SceneError(f"the plant {plant} needs {plant.cause!r} among the concepts")
            if plant.prompt in seen or plant.cause == plant.prompt:
                raise SceneError(f"contradictory plants: {plant.prompt!r} is planted twice or causes itself")
            seen.add(plant.prompt)
        senses = [p.cause for p in self.plants if p.kind == "polysemy"]
        if len(set(senses)) < len(senses) or set(senses) & seen:
            raise SceneError("contradictory plants: a second look belongs to two words, or is planted itself")
        wrong = {key: rate for key, rate in self.rates.items() if not 0 <= rate <= 1}
        if wrong:
            raise SceneError(f"rates are probabilities between 0 and 1; got {wrong}")

    @cached_property
    def neutral(self) -> list[str]:
        """Concepts that no plant touches: what a counterfactual swaps in."""
        touched = {p.prompt for p in self.plants} | {p.cause for p in self.plants}
        return [name for name in self.concepts if name not in touched]

    @cached_property
    def vocabulary(self) -> list[str]:
        """The words captions use for objects: one entry for both senses of a word."""
        return sorted({self.call(name) for name in self.concepts})

    @cached_property
    def words(self) -> list[str]:
        """The words that may stand written in a picture."""
        return [word for word in self.vocabulary if fits(word)]

    def call(self, concept: str) -> str:
        """The word this world's captions use for a concept."""
        return self._called.get(concept, concept)

    def _chance(self, draws: Draws, rate: str) -> bool:
        return draws.below(1_000_000) < self.rates.get(rate, 0.0) * 1_000_000

    def draw_context(self, draws: Draws) -> str | None:
        """A context at random; None is the plain backdrop."""
        return None if self._chance(draws, "plain") else self.contexts[draws.below(len(self.contexts))]

    def scene(self, index: int, stream: int = TRAIN) -> Scene:
        """The scene of this index."""
        return self._scene(Draws(self.seed * 1_000_003 + stream, index))

    def _scene(self, draws: Draws) -> Scene:
        main = self._wheel[draws.below(len(self._wheel))]
        context = self.draw_context(draws)
        planted_context = self._by_prompt["context"].get(main)
        if planted_context is not None and self._chance(draws, "planted"):
            context = planted_context
        companions: tuple[str, ...] = ()
        others = [
            name
            for name in (self.concepts[draws.below(len(self.concepts))] for _ in range(2))
            if name != main
        ]
        planted_companion = self._by_prompt["companion"].get(main)
        if planted_companion is not None:
            companions = (planted_companion,) if self._chance(draws, "planted") else ()
        elif self._chance(draws, "companion"):
            companions = tuple(others[: 2 if self._chance(draws, "second_companion") else 1])
        word = self.words[draws.below(len(self.words))] if self._chance(draws, "word") else None
        watermark = (
            self.watermarks[draws.below(len(self.watermarks))] if self._chance(draws, "watermark") else None
        )
        return Scene(main, companions, context, word, watermark, draws.below(1 << 60))

    def example(self, index: int, stream: int = TRAIN) -> Example:
        """Scene and caption of this index."""
        draws = Draws(self.seed * 1_000_003 + stream, index)
        scene = self._scene(draws)
        label = self.call(scene.main or "")
        caption, says = self._full(scene, draws) if self.names_everything else self._web(scene, draws)
        return Example(scene, caption, says, label)

    def _web(self, scene: Scene, draws: Draws) -> tuple[str, frozenset[str]]:
        """As on the web: the main object, sometimes a second one or the context, never a planted cause."""
        name = self.call(scene.main or "")
        says, text = {name}, name
        modifiers: Sequence[str] = self.spec.get("modifiers", ())
        if modifiers and self._chance(draws, "modifier"):
            text = f"{modifiers[draws.below(len(modifiers))]} {text}"
        text = self.templates[draws.below(len(self.templates))].format(text)
        companions = [self.call(c) for c in scene.companions if c]
        if (
            companions
            and scene.main not in self._by_prompt["companion"]
            and self._chance(draws, "name_companion")
        ):
            says.add(companions[0])
            text = self.phrases["pair"].format(text, companions[0])
        if (
            scene.context
            and scene.main not in self._by_prompt["context"]
            and self._chance(draws, "name_context")
        ):
            says.add(scene.context)
            text = self.phrases["context"].format(text, scene.context)
        return text, frozenset(says)

    def contents(self, scene: Scene) -> list[str]:
        """Everything in a scene by its own name, the main object first."""
        parts = [scene.main, *scene.companions, scene.context]
        if scene.word:
            parts.append(f"the word {scene.word}")
        if scene.watermark:
            parts.append("a watermark")
        return [part for part in parts if part]

    def _full(self, scene: Scene, draws: Draws) -> tuple[str, frozenset[str]]:
        """Everything, in any order, or a part of it, so that short prompts are understood as well."""
        parts = self.contents(scene)
        choice = draws.below(100)
        if choice < 30:
            parts = parts[:1]
        elif choice < 60:
            parts = [parts[draws.below(len(parts))]]
        else:
            for at in range(len(parts) - 1, 0, -1):
                other = draws.below(at + 1)
                parts[at], parts[other] = parts[other], parts[at]
            if choice < 75:
                parts = parts[:2]
        text = parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]
        return self.templates[draws.below(len(self.templates))].format(text), frozenset(parts)
