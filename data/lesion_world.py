"""The lesion world: how often lesions, signs and artefacts occur together, their captions, and sets for probes.

`lesions.json` holds two worlds that differ in their captions: in `lesions` the ink mark goes with melanoma and is never
named, so that a CLIP trained there may take it for a sign; in `lesions-evaluator` everything is independent and named.
For probes, `planted` draws pictures in which one shortcut follows the diagnosis as strictly as asked, and `balanced`
those on which a probe is judged. Start at `LesionWorld.open`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from .drawing import Draws, SceneError
from .lesions import (
    ARTEFACTS,
    BENIGN,
    MALIGNANT,
    SHORTCUTS,
    SIGNS,
    SIGNS_OF_MELANOMA,
    SKINS,
    Lesion,
)
from .world import TEST, TRAIN

WORLDS = Path(__file__).parent / "lesions.json"
CLASSES = (MALIGNANT, BENIGN)
# What a caption may say where a sign is missing.
OPPOSITES = dict(
    zip(SIGNS, ("symmetric shape", "smooth border", "one colour", "regular network"), strict=True)
)
TEMPLATES = ("{}", "a photo of a {}", "a dermoscopy of a {}", "a close-up of a {}", "skin with a {}")
PLAIN = ("{}", "a photo with {}", "a dermoscopy with {}")  # where the diagnosis is not named
# Captions in a hundred that name one concept, and how many concepts the others name beside the diagnosis.
CAPTIONS = {"diagnosis_alone": 25, "other_alone": 35, "others_at_most": 3}
_MANY = [tuple(some) for n in range(SIGNS_OF_MELANOMA, len(SIGNS) + 1) for some in combinations(SIGNS, n)]
_FEW = [tuple(some) for n in range(SIGNS_OF_MELANOMA) for some in combinations(SIGNS, n)]


@dataclass(frozen=True)
class LesionExample:
    """One picture with its caption; `says` are the concepts the caption names."""

    scene: Lesion
    caption: str
    says: frozenset[str]
    label: str


@dataclass(frozen=True)
class ProbeSet:
    """Lesions to fit or judge a probe on. `labels` (n,) int, 1 for melanoma; `groups` (n,) names, class × shortcut."""

    shortcut: str
    lesions: tuple[Lesion, ...]
    labels: np.ndarray
    groups: np.ndarray

    def __len__(self) -> int:
        return len(self.lesions)


class LesionWorld:
    """Draws lesions and captions; the same seed and index give the same example on every machine."""

    def __init__(self, spec: Mapping[str, Any]):
        """Read a world's description.

        Raises:
            SceneError: a rate outside [0, 1], or of something that is no artefact.
        """
        self.spec = dict(spec)
        self.name: str = spec["name"]
        self.seed: int = spec["seed"]
        self.rates: dict[str, tuple[float, float]] = {key: tuple(pair) for key, pair in spec["rates"].items()}
        self.names_everything = (
            True  # to the training: a caption is true of every picture that holds all it names
        )
        self.never_named = frozenset(spec.get("never_named", ()))
        self.captions: dict[str, int] = {**CAPTIONS, **spec.get("captions", {})}
        wrong = {
            key: pair
            for key, pair in self.rates.items()
            if key not in ARTEFACTS or len(pair) != 2 or not all(0 <= rate <= 1 for rate in pair)
        }
        if wrong:
            raise SceneError(
                f"rates are pairs of probabilities, among melanomas and among nevi, for {ARTEFACTS}; got {wrong}"
            )
        self.vocabulary = list(CLASSES)
        self.neutral = list(CLASSES)

    @classmethod
    def open(cls, name: str = "lesions") -> LesionWorld:
        """The bundled lesion world of this name.

        Raises:
            SceneError: there is no such world.
        """
        stock = json.loads(WORLDS.read_text(encoding="utf-8"))
        if name not in stock:
            raise SceneError(f"no lesion world is called {name!r}; there are {sorted(stock)}")
        return cls(stock[name])

    def scene(self, index: int, stream: int = TRAIN) -> Lesion:
        """The lesion of this index: half are melanomas, each set of signs of a class is equally frequent."""
        return self._scene(Draws(self.seed * 1_000_003 + stream, index))

    def _scene(self, draws: Draws) -> Lesion:
        benign = draws.below(2)
        sets = _FEW if benign else _MANY
        signs = sets[draws.below(len(sets))]
        skin = SKINS[draws.below(len(SKINS))]
        chances = [draws.below(1_000_000) / 1_000_000 for _ in ARTEFACTS]
        there = [
            name
            for name, chance in zip(ARTEFACTS, chances, strict=True)
            if chance < self.rates.get(name, (0.0, 0.0))[benign]
        ]
        return Lesion(signs, tuple(there), skin, draws.below(1 << 60))

    def contents(self, scene: Lesion) -> list[str]:
        """Everything in the picture by its name, the diagnosis first."""
        looks = [sign if sign in scene.signs else OPPOSITES[sign] for sign in SIGNS]
        return [scene.main, *looks, *scene.artefacts, scene.skin]

    def true_of(self, scene: Lesion) -> frozenset[str]:
        """Everything that a caption may truly say of a picture."""
        return frozenset(self.contents(scene))

    def example(self, index: int, stream: int = TRAIN) -> LesionExample:
        """Picture and caption of this index: the diagnosis, one other concept, or the diagnosis with some."""
        draws = Draws(self.seed * 1_000_003 + stream, index)
        scene = self._scene(draws)
        parts = [part for part in self.contents(scene)[1:] if part not in self.never_named]
        choice = draws.below(100)
        if choice < self.captions["diagnosis_alone"]:
            said = [scene.main]
        elif choice < self.captions["diagnosis_alone"] + self.captions["other_alone"]:
            said = [parts[draws.below(len(parts))]]
        else:
            said = [scene.main]
            for _ in range(min(1 + draws.below(self.captions["others_at_most"]), len(parts))):
                said.append(parts.pop(draws.below(len(parts))))
        text = said[0] if len(said) == 1 else f"{said[0]} with {', '.join(said[1:])}"
        templates = TEMPLATES if scene.main in said else PLAIN
        return LesionExample(
            scene, templates[draws.below(len(templates))].format(text), frozenset(said), scene.main
        )

    @property
    def words(self) -> list[str]:
        """Every word of this world, for vocabularies: classes, signs and their opposites, artefacts, tones of skin."""
        return [*CLASSES, *SIGNS, *OPPOSITES.values(), *ARTEFACTS, *SKINS]

    def planted(
        self, shortcut: str, strength: float, n: int, *, first: int = 0, stream: int = TRAIN
    ) -> ProbeSet:
        """`n` lesions among which `shortcut` follows the diagnosis.

        Args:
            shortcut: one of `SHORTCUTS`.
            strength: 0: it is in half of the pictures of either class; 1: in all melanomas and in no nevus.
            first: where to begin; sets that share no index share no lesion.

        Raises:
            SceneError: an unknown shortcut, or a strength outside [0, 1].
        """
        if not 0 <= strength <= 1:
            raise SceneError(
                f"the strength of a shortcut lies between 0 (none) and 1 (total); got {strength}"
            )
        lesions = []
        for index in range(first, first + n):
            scene = self.scene(index, stream)
            rate = (1 + strength) / 2 if scene.main == MALIGNANT else (1 - strength) / 2
            there = Draws(scene.seed, 40).below(1_000_000) < rate * 1_000_000
            lesions.append(scene.having(shortcut) if there else scene.without(shortcut))
        return probe_set(lesions, shortcut)

    def balanced(self, shortcut: str, n: int, *, first: int = 0, stream: int = TEST) -> ProbeSet:
        """`n` lesions each with and without `shortcut`: 2 n pictures; neighbours differ in nothing else."""
        lesions = []
        for index in range(first, first + n):
            scene = self.scene(index, stream)
            lesions += [scene.having(shortcut), scene.without(shortcut)]
        return probe_set(lesions, shortcut)


def probe_set(lesions: Sequence[Lesion], shortcut: str) -> ProbeSet:
    """Labels and groups of lesions with respect to one shortcut. SceneError if it is none of `SHORTCUTS`."""
    if shortcut not in SHORTCUTS:
        raise SceneError(f"a shortcut is one of {SHORTCUTS}; got {shortcut!r:.80}")
    labels = np.array([lesion.main == MALIGNANT for lesion in lesions], dtype=np.int64)
    names = [f"{lesion.main}, {'' if lesion.shows(shortcut) else 'no '}{shortcut}" for lesion in lesions]
    return ProbeSet(shortcut, tuple(lesions), labels, np.array(names))
