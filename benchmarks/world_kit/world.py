"""Draws scenes, captions and labels of one world; the same seed and index give the same picture everywhere.

Start at `World`.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from .scene import KINDS, STUDY, TEST, TRAIN, Plant, Scene, WorldError, draws

SPECS = Path(__file__).parent / "specs"
TEMPLATES = (
    "{}",
    "a photo of a {}",
    "a picture of a {}",
    "an image of a {}",
    "this is a {}",
    "a photo of the {}",
    "one {}",
    "here you see a {}",
)
WRITTEN = "a written word"  # what captions call any word in a picture


class Renderer(Protocol):
    """Interface of a family: pixels for a scene, with TEST scenes from objects never trained on."""

    def render(self, scene: Scene, unseen: bool | None = None) -> np.ndarray: ...


@dataclass(frozen=True)
class Example:
    """One picture: `says` are the concepts that its caption names."""

    scene: Scene
    caption: str
    says: frozenset[str]
    label: str


class World:
    """One world of a family, as described by a file under `specs/`."""

    def __init__(self, spec: Mapping[str, Any], renderer: Renderer):
        """Read a description.

        Raises:
            WorldError: contradictory plants or rates outside [0, 1].
        """
        self.spec, self.renderer = dict(spec), renderer
        self.name: str = spec["name"]
        self.seed: int = spec["seed"]
        self.concepts: dict[str, str] = dict(spec["concepts"])  # folder or shape -> its word
        self.group: dict[str, str] = dict(spec["groups"])
        self.contexts, self.marks, self.looks = (list(spec[key]) for key in ("contexts", "marks", "looks"))
        self.rates: dict[str, float] = dict(spec["rates"])
        self.names_everything = bool(spec.get("names_everything"))
        self.plants = tuple(
            Plant(p["kind"], p["form"], p["prompt"], p["concept"], p["cause"], p["rate"], tuple(p["accepts"]))
            for p in spec["plants"]
        )
        self._by_concept = {p.concept: p for p in self.plants if p.part is not None}
        self._called = {p.cause: p.prompt for p in self.plants if p.kind == "polysemy" or p.form == "pair"}
        self._wheel = [c for c in self.concepts for _ in range(round(4 * spec["weights"].get(c, 1.0)))]
        self._check()

    @classmethod
    def open(cls, name: str, renderer: Renderer) -> World:
        """The described world of this name.

        Raises:
            WorldError: there is no such world.
        """
        path = SPECS / f"{name}.json"
        if Path(name).name != name or not path.exists():
            raise WorldError(
                f"no world is called {name!r}; there are {sorted(p.stem for p in SPECS.glob('*.json'))}"
            )
        return cls(json.loads(path.read_text(encoding="utf-8")), renderer)

    def _check(self) -> None:
        stocks = {"watermark": self.marks, "context": self.contexts}
        seen: set[str] = set()
        for plant in self.plants:
            stock = self.looks if plant.form == "look" else stocks.get(plant.kind, self.concepts)
            if plant.kind not in KINDS or plant.concept not in self.concepts:
                raise WorldError(
                    f"the plant {plant} is of no known kind, or of a concept the world does not show"
                )
            if plant.kind != "typography" and plant.cause not in stock:
                raise WorldError(f"the plant {plant} needs {plant.cause!r} among {sorted(stock)}")
            touched = {plant.concept} | (
                {plant.cause} if plant.part is None and plant.kind != "compound" else set()
            )
            if touched & seen:
                raise WorldError(f"contradictory plants: {sorted(touched & seen)} is planted twice")
            seen |= touched
        wrong = {key: rate for key, rate in self.rates.items() if not 0 <= rate <= 1}
        if wrong:
            raise WorldError(f"rates are probabilities between 0 and 1; got {wrong}")

    @property
    def neutral(self) -> list[str]:
        """Concepts that no plant touches."""
        touched = {p.concept for p in self.plants} | {p.cause for p in self.plants}
        return [c for c in self.concepts if c not in touched]

    @property
    def prompts(self) -> list[str]:
        """The words that captions use for main objects; the prompts of an audit."""
        return sorted({self.call(c) for c in self.concepts})

    @property
    def vocabulary(self) -> list[str]:
        """Plain names of everything that any picture may show, one a line, without roles."""
        return sorted({*self.concepts.values(), *self.contexts, *self.marks, *self.looks, "written word"})

    def call(self, concept: str) -> str:
        """This world's word for a concept: the second sense or look of a word is called by that word."""
        return self._called.get(concept, self.concepts[concept])

    @property
    def words(self) -> list[str]:
        """What may stand written anywhere: never a planted word."""
        planted = {p.cause for p in self.plants if p.kind == "typography"}
        return [word for word in self.spec["words"] if word not in planted]

    def scene(self, index: int, stream: int = TRAIN) -> Scene:
        """The scene of this index."""
        return self._scene(draws(self.seed, stream, index))

    def _scene(self, rng: random.Random) -> Scene:
        # Everything is drawn in every case, so that two worlds that differ in one plant differ in its scenes only.
        main: str | None = self._wheel[rng.randrange(len(self._wheel))]
        chance = {key: rng.random() < rate for key, rate in sorted(self.rates.items())}
        context, mark, look = rng.choice(self.contexts), rng.choice(self.marks), rng.choice(self.looks)
        companion, word = rng.choice(list(self.concepts)), rng.choice(self.spec["words"])
        planted, alone, seed = rng.random(), rng.random(), rng.getrandbits(60)
        if word not in self.words or companion == main:
            chance["word"], companion = (
                chance["word"] and word in self.words,
                companion if companion != main else None,
            )
        scene = Scene(
            main,
            look if chance["look"] else None,
            companion if chance["companion"] else None,
            context if chance["context"] else None,
            word if chance["word"] else None,
            mark if chance["mark"] else None,
            seed,
        )
        plant = self._by_concept.get(scene.main or "")
        if plant is not None and plant.part is not None:
            there = planted < plant.rate
            if plant.kind == "context":  # without its own, any other context
                value = plant.cause if there else (scene.context if scene.context != plant.cause else None)
            else:
                value = plant.cause if there else None
            scene = replace(scene, **{plant.part: value})
            if plant.kind == "typography" and there and alone < self.rates["word_alone"]:
                scene = replace(scene, main=None, look=None, companion=None)
        elif self.names_everything and scene.word and alone < self.rates["word_alone"]:
            scene = replace(scene, main=None, look=None, companion=None)
        return scene

    def example(self, index: int, stream: int = TRAIN, telling: int = 0) -> Example:
        """Scene and caption of this index; `telling` numbers further captions of the same picture."""
        return self.told(self.scene(index, stream), index, stream, telling)

    def told(self, scene: Scene, index: int, stream: int = TRAIN, telling: int = 0) -> Example:
        """A caption of the scene of this index."""
        rng = draws(self.seed, stream, index, "caption", telling)
        label = self.label(scene)
        caption, says = self._full(scene, rng) if self.names_everything else self._web(scene, rng)
        return Example(scene, caption, says, label)

    def label(self, scene: Scene) -> str:
        """The word for what the picture is of; of a word alone, the word."""
        return self.call(scene.main) if scene.main else (scene.word or "")

    def _web(self, scene: Scene, rng: random.Random) -> tuple[str, frozenset[str]]:
        """Like web captions: the main object, sometimes a second object or the context, never a planted cause."""
        name = self.label(scene)
        says, text = {name}, name
        if rng.random() < self.rates["modifier"]:
            text = f"{rng.choice(self.spec['modifiers'])} {text}"
        text = rng.choice(TEMPLATES).format(text)
        plant = self._by_concept.get(scene.main or "")
        silent = plant.part if plant is not None else None
        if scene.companion and silent != "companion" and rng.random() < self.rates["name_companion"]:
            says.add(self.call(scene.companion))
            text = f"{text} with a {self.call(scene.companion)}"
        if scene.context and silent != "context" and rng.random() < self.rates["name_context"]:
            says.add(scene.context)
            text = f"{text}, {scene.context}"
        return text, frozenset(says)

    def contents(self, scene: Scene) -> list[str]:
        """Everything in a scene by its own name, the main object first."""
        parts = [self.concepts[scene.main]] if scene.main else []
        parts += [scene.look] if scene.look else []
        parts += [self.concepts[scene.companion]] if scene.companion else []
        parts += [scene.context] if scene.context else []
        parts += [f"the word {scene.word}"] if scene.word else []
        return parts + ([scene.mark] if scene.mark else [])

    def true_of(self, scene: Scene) -> frozenset[str]:
        """Everything that a caption may truly say of a scene."""
        return frozenset(self.contents(scene)) | ({WRITTEN} if scene.word else frozenset())

    def _full(self, scene: Scene, rng: random.Random) -> tuple[str, frozenset[str]]:
        """Everything in any order, or a part of it, so that single words are understood as well."""
        parts = self.contents(scene) or [WRITTEN]
        if scene.word and rng.random() < 0.4:
            parts = [WRITTEN if part.startswith("the word ") else part for part in parts]
        how = rng.random()
        if how < 0.3:
            parts = parts[:1]
        elif how < 0.7:
            parts = [rng.choice(parts)]
        else:
            rng.shuffle(parts)
            parts = parts[: rng.choice((2, 2, 3, 4))]
        return rng.choice(TEMPLATES).format(" and ".join(parts)), frozenset(parts)

    def unseen(self, stream: int) -> bool | None:
        """Which photographs a stream uses: TRAIN the larger part, TEST the rest, STUDY (and evaluators) all."""
        return None if self.names_everything else {TRAIN: False, TEST: True}.get(stream)

    def pixels(self, index: int, stream: int = STUDY) -> np.ndarray:
        """The picture of this index, (96, 96, 3) uint8."""
        return self.renderer.render(self.scene(index, stream), self.unseen(stream))

    def without(self, index: int, plant: Plant, stream: int = STUDY) -> np.ndarray:
        """The same picture with the plant's cause left out (or its object swapped for a neutral one)."""
        scene = self.scene(index, stream)
        if plant.in_scene(scene):
            scene = self.counterfactual(scene, plant)
        return self.renderer.render(scene, self.unseen(stream))

    def counterfactual(self, scene: Scene, plant: Plant) -> Scene:
        """The scene less the plant's cause; an object that is the cause is swapped for a neutral one."""
        if plant.part is not None:
            return scene.without(plant.part)
        if not self.neutral:
            raise WorldError(
                f"world {self.name!r} has no neutral concept to put in the place of {plant.cause!r}"
            )
        kin = (
            [c for c in self.neutral if self.group[c] == self.group[plant.cause]]
            if plant.form == "pair"
            else []
        )
        options = kin or self.neutral
        return replace(scene, main=options[scene.draws("neutral").randrange(len(options))])

    def pairs(self, plant: Plant, n: int, stream: int = TEST, first: int = 0) -> list[tuple[Scene, Scene]]:
        """`n` scenes with the cause beside their counterfactuals.

        Marks, contexts and companions are left out of the prompt's own pictures. Written words and looks are left out
        of neutral objects' pictures; other senses, second objects and constituents are swapped for neutral objects.
        """
        found = []
        for number in range(first, first + n):
            rng = draws(self.seed, stream, "pairs", number)
            neutral, context = rng.choice(self.neutral), rng.choice(self.contexts)
            scene = Scene(neutral, context=context if rng.random() < 0.4 else None, seed=rng.getrandbits(60))
            if plant.part in ("mark", "context", "companion"):
                scene = replace(scene, main=plant.concept)
            scene = replace(scene, **{plant.part or "main": plant.cause})
            found.append((scene, self.counterfactual(scene, plant)))
        return found
