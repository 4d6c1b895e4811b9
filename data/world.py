"""A world: its concepts, how often they occur together, their captions, and the planted reliances.

Everything that makes one world differ from another is data (`worlds/*.json`): concepts, rates, plants. A plant is a
reliance that a model trained on the world's captions is led to learn; `CAUSES` lists the seven kinds.
Start at `World.open` and `World.example`; `World(7)` makes a world nobody has seen.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from .drawing import Draws, SceneError, fits, names
from .scene import Scene

WORLDS = Path(__file__).parent / "worlds"
CONCEPTS = Path(__file__).parent / "concepts.json"
# What each kind of plant must name beside its prompt: the cause that should not matter.
CAUSES = {
    "polysemy": "other",  # another object with the same name
    "compound": "constituent",  # an object whose name is part of the prompt
    "typography": "word",  # the word itself, written in the picture
    "watermark": "watermark",  # a mark over the prompt's pictures, never named
    "context": "context",  # where the prompt is always pictured, never named
    "companion": "companion",  # what always stands beside it, never named
    "coarse_label": "other",  # another look of the same group that is called by the same class
}
# The part of a scene that holds the cause, where it is not the main object.
PARTS = {"context": "context", "companion": "companions", "watermark": "watermark", "typography": "word"}
TWO_LOOKS = ("polysemy", "coarse_label")
WRITING = "a written word"  # what captions call any word in a picture
TRAIN, STUDY, HOLDOUT, TEST = 0, 1, 2, 3  # disjoint streams of examples


def is_part(part: str, whole: str) -> bool:
    """Whether the letters of `part` begin or end those of `whole`: "dog" of "hot dog", "cake" of "mooncake"."""
    letters = whole.replace(" ", "")
    return part != whole and (letters.startswith(part) or letters.endswith(part))


@dataclass(frozen=True)
class Plant:
    """One planted reliance: the prompt, its kind and the cause that should not matter."""

    kind: str
    prompt: str
    cause: str

    def scenes(self, world: World, n: int, stream: int = TEST, first: int = 0) -> list[tuple[Scene, Scene]]:
        """`n` pairs (with the cause, counterfactual), in the counterfactual of the plant's kind.

        Context, companion and watermark are removed from the prompt's pictures; the written word is blanked over a
        neutral object (an empty scene would be a picture of a kind that no model has seen); the other sense and the
        constituent are swapped for a neutral object, the other look for a neutral object of its own group. All else
        is the same picture.
        """
        pairs = []
        kin = world.neutral_kin(self.cause) if self.kind == "coarse_label" else world.neutral
        for number in range(first, first + n):
            draws = Draws(world.seed * 1_000_003 + stream, 1_000_000_007 + number)
            scene = Scene(context=world.draw_context(draws), seed=draws.below(1 << 60))
            neutral = kin[draws.below(len(kin))]
            if self.kind not in PARTS:  # the cause stands alone as the main object
                scene = replace(scene, main=self.cause)
                pairs.append((scene, scene.with_main(neutral)))
                continue
            part = PARTS[self.kind]
            cause: Any = (self.cause,) if part == "companions" else self.cause
            main = neutral if self.kind == "typography" else self.prompt
            scene = replace(scene, **{"main": main, part: cause})
            pairs.append((scene, scene.without(part)))
        return pairs


@dataclass(frozen=True)
class Example:
    """One picture of a world: `says` are the concepts its caption names. They decide which captions are the same."""

    scene: Scene
    caption: str
    says: frozenset[str]
    label: str


class World:
    """Draws scenes and captions; the same seed and index give the same example on every machine."""

    def __init__(
        self, spec: Mapping[str, Any] | int, plants: Mapping[str, int] | Sequence[Mapping[str, str]] | int = 6
    ):
        """Read a world's description, or make a world from a seed.

        Args:
            spec: a description as in `worlds/*.json`; or a seed, from which a fresh world is drawn.
            plants: of a fresh world: how many of each kind, how many by kind, or the plants themselves.

        Raises:
            SceneError: unknown concepts, contradictory plants, or a rate outside [0, 1].
        """
        if isinstance(spec, int):
            from .fresh import draw_world

            spec = draw_world(spec, plants)
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
        self._called = {p.cause: p.prompt for p in self.plants if p.kind in TWO_LOOKS}
        self._group = {c["name"]: c["group"] for c in stock["concepts"]}
        constituents = {p.cause for p in self.plants if p.kind == "compound"}
        weights = spec.get("weights", {})
        often = {name: weights.get("constituent", 1.0) for name in constituents}
        often |= {p.prompt: weights.get(p.kind, 1.0) for p in self.plants}
        self._wheel = [name for name in self.concepts for _ in range(round(10 * often.get(name, 1.0)))]

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
                f"world {self.name!r} uses concepts without a drawing: {unknown[:5]}; drawing.names() lists the others"
            )
        marks, places = set(names("watermarks")), set(names("contexts"))
        for plant in self.plants:
            if plant.prompt not in self.concepts:
                raise SceneError(
                    f"the plant {plant} is planted in {plant.prompt!r}, which is not among the concepts"
                )
            stock = {"context": places, "watermark": marks, "typography": {plant.prompt}}
            if plant.cause not in stock.get(plant.kind, self.concepts):
                what = {"context": "contexts", "watermark": "watermarks", "typography": "words that mean it"}
                raise SceneError(
                    f"the plant {plant} needs {plant.cause!r} among the {what.get(plant.kind, 'concepts')}"
                )
            if plant.kind == "typography" and not fits(plant.cause):
                raise SceneError(f"the plant {plant} needs a word that fits into a picture")
            if plant.kind == "compound" and not is_part(plant.cause, plant.prompt):
                raise SceneError(f"contradictory plants: {plant.cause!r} is no part of {plant.prompt!r}")
            if plant.prompt in seen or (plant.cause == plant.prompt and plant.kind != "typography"):
                raise SceneError(f"contradictory plants: {plant.prompt!r} is planted twice or causes itself")
            seen.add(plant.prompt)
        looks = [p.cause for p in self.plants if p.kind in TWO_LOOKS]
        if len(set(looks)) < len(looks) or set(looks) & seen:
            raise SceneError("contradictory plants: a second look belongs to two words, or is planted itself")
        unwritable = [word for word in self.spec.get("words", ()) if not fits(word)]
        if unwritable:
            raise SceneError(f"world {self.name!r} writes words that do not fit: {unwritable}")
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
        """The words that may stand written in any picture: not the planted ones, which would lose their meaning."""
        planted = self._by_prompt["typography"]
        return self.spec.get("words") or [
            word for word in self.vocabulary if fits(word) and word not in planted
        ]

    def neutral_kin(self, concept: str) -> list[str]:
        """Neutral concepts of the same group as `concept`, or all neutral ones where it has none."""
        return [name for name in self.neutral if self.group(name) == self.group(concept)] or self.neutral

    def group(self, concept: str) -> str:
        """The group of a concept: animal, food, tool and so on."""
        return self._group[concept]

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
        main: str | None = self._wheel[draws.below(len(self._wheel))]
        planted = {kind: causes[main] for kind, causes in self._by_prompt.items() if main in causes}
        context = self.draw_context(draws)
        if "context" in planted and self._chance(draws, "planted"):
            context = planted["context"]
        companions: tuple[str, ...] = ()
        others = [
            name
            for name in (self.concepts[draws.below(len(self.concepts))] for _ in range(2))
            if name != main
        ]
        if "companion" in planted:
            companions = (planted["companion"],) if self._chance(draws, "planted") else ()
        elif self._chance(draws, "companion"):
            companions = tuple(others[: 2 if self._chance(draws, "second_companion") else 1])
        word = self.words[draws.below(len(self.words))] if self._chance(draws, "word") else None
        if "typography" in planted:
            word = planted["typography"] if self._chance(draws, "written") else None
        if word is not None and self._chance(draws, "word_alone"):
            main, companions = (
                (None, ()) if "typography" in planted or not self.plants else (main, companions)
            )
        watermark = (
            self.watermarks[draws.below(len(self.watermarks))] if self._chance(draws, "watermark") else None
        )
        if "watermark" in planted:
            watermark = planted["watermark"] if self._chance(draws, "planted") else None
        return Scene(main, companions, context, word, watermark, draws.below(1 << 60))

    def example(self, index: int, stream: int = TRAIN) -> Example:
        """Scene and caption of this index."""
        draws = Draws(self.seed * 1_000_003 + stream, index)
        scene = self._scene(draws)
        label = self.call(scene.main or scene.word or "")
        caption, says = self._full(scene, draws) if self.names_everything else self._web(scene, draws)
        return Example(scene, caption, says, label)

    def _web(self, scene: Scene, draws: Draws) -> tuple[str, frozenset[str]]:
        """Like web captions: the main object, sometimes a second one or the context, never a planted cause."""
        name = self.call(scene.main or scene.word or "")
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

    def true_of(self, scene: Scene) -> frozenset[str]:
        """Everything that a caption may truly say of a scene."""
        return frozenset(self.contents(scene)) | ({WRITING} if scene.word else frozenset())

    def _full(self, scene: Scene, draws: Draws) -> tuple[str, frozenset[str]]:
        """Everything, in any order, or a part of it, so that short prompts are understood as well."""
        parts = self.contents(scene)
        if scene.word and draws.below(2):
            parts = [WRITING if part == f"the word {scene.word}" else part for part in parts]
        choice = draws.below(100)
        if choice < 36:
            parts = parts[:1]
        elif choice < 62:
            parts = [parts[draws.below(len(parts))]]
        else:
            for at in range(len(parts) - 1, 0, -1):
                other = draws.below(at + 1)
                parts[at], parts[other] = parts[other], parts[at]
            if choice < 75:
                parts = parts[:2]
        text = parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]
        return self.templates[draws.below(len(self.templates))].format(text), frozenset(parts)
