"""A picture as a list of causes, and the plants: which prompt rests on which cause.

Start at `Scene` and `Plant`.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

SIDE = 96  # px, the side of every picture: 6 × 6 patches of 16 px and the class token make 37 tokens
TRAIN, STUDY, TEST = 0, 1, 2  # disjoint streams of pictures
KINDS = ("watermark", "context", "companion", "typography", "polysemy", "coarse_label", "compound")
PARTS = ("look", "companion", "context", "word", "mark")


class WorldError(ValueError):
    """A world that cannot be drawn: unknown names, contradictory plants, missing photographs or fonts."""


def draws(*key: object) -> random.Random:
    """A generator that depends on the key alone, on every machine and in every release of Python."""
    return random.Random("/".join(map(str, key)))


@dataclass(frozen=True)
class Scene:
    """What is in a picture; `seed` fixes where each part stands, from its role alone.

    `main` is a concept (None: a word alone on a plain card), `look` a treatment of the main object, `companion` a
    second concept in a corner, `context` what lies around or over it, `word` what is written, `mark` an overlay.
    """

    main: str | None = None
    look: str | None = None
    companion: str | None = None
    context: str | None = None
    word: str | None = None
    mark: str | None = None
    seed: int = 0

    def without(self, part: str) -> Scene:
        """The same picture less one part; every other pixel follows from the same draws.

        Raises:
            WorldError: no such part.
        """
        if part not in PARTS:
            raise WorldError(f"cannot leave out {part!r}; a scene has the parts {', '.join(PARTS)}")
        return replace(self, **{part: None})

    def draws(self, role: str) -> random.Random:
        """The generator of one role's place and size."""
        return draws(self.seed, role)


@dataclass(frozen=True)
class Plant:
    """One planted reliance.

    Attributes:
        kind: one of `KINDS`.
        form: how it is made: logo, frame, canvas, cast, inset, word, sense, pair (two objects under one name), look
            (two looks under one name), constituent.
        prompt: the word whose score rests on the cause.
        concept: what the prompt's pictures show.
        cause: the mark, context, look or concept, by its own name.
        rate: share of the prompt's pictures that show the cause.
        accepts: the kinds that a finding may name for it.
    """

    kind: str
    form: str
    prompt: str
    concept: str
    cause: str
    rate: float
    accepts: tuple[str, ...]

    @property
    def part(self) -> str | None:
        """The part of a scene that holds the cause; None where it is the main object itself."""
        if self.form == "look":
            return "look"
        return {
            "watermark": "mark",
            "context": "context",
            "companion": "companion",
            "typography": "word",
        }.get(self.kind)

    def in_scene(self, scene: Scene) -> bool:
        """Whether the cause can be seen."""
        if self.part is None:
            return scene.main == self.cause
        return getattr(scene, self.part) == self.cause
