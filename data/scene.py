"""A picture as an editable list of causes: `Scene` says what is in it, `render` draws it.

A scene has a main object, companions, context, written word, watermark and one layout seed. The position of each part
depends on the seed and its role only, so removing or swapping one cause changes no other pixel. This gives the causal
ground truth of attributions and findings.

Rendering is integer arithmetic on baked assets: the same scene gives the same bytes on every machine.
Start at `Scene`, then `Scene.render`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from .drawing import SceneError, draw


@dataclass(frozen=True)
class Placed:
    """One object as drawn: `box` is (left, top, right, bottom) in px, `mask` (64, 64) bool where it is visible."""

    name: str
    role: str
    box: tuple[int, int, int, int]
    mask: np.ndarray


@dataclass(frozen=True)
class Truth:
    """What a picture contains, as drawn: objects front to back order of drawing, context, word, watermark."""

    objects: tuple[Placed, ...]
    context: str | None
    word: str | None
    word_mask: np.ndarray | None
    watermark: str | None
    word_box: tuple[int, int, int, int] | None = None


@dataclass(frozen=True)
class Scene:
    """What is in a picture; `seed` fixes where and how.

    `main` and `companions` are names of concepts, `context` one of the textured backgrounds (None: a plain
    backdrop), `word` is written across the picture, `watermark` lies over everything. `places` moves objects, the
    main one first, then the companions, to (left, top) px, and `word_at` the word; None leaves one, and nothing else
    moves with them."""

    main: str | None = None
    companions: tuple[str | None, ...] = ()  # None keeps the place of one that was removed
    context: str | None = None
    word: str | None = None
    watermark: str | None = None
    seed: int = 0
    places: tuple[tuple[int, int] | None, ...] = ()
    word_at: tuple[int, int] | None = None

    def without(self, part: str) -> Scene:
        """The same scene less one cause: "main", "companions", "context", "word" or "watermark", or an object's name.

        Raises:
            SceneError: the scene has no such part.
        """
        if part == "companions":
            return replace(self, companions=())
        if part in ("main", "context", "word", "watermark"):
            return Scene(**{**self.__dict__, part: None})
        if part == self.main:
            return replace(self, main=None)
        if part in self.companions:
            return replace(
                self, companions=tuple(None if c == part else c for c in self.companions)
            ).compact()
        present = [name for name in (self.main, *self.companions) if name]
        raise SceneError(
            f"cannot remove {part!r}: the scene holds {present}; name one of them, or main, companions, context, "
            "word or watermark"
        )

    def compact(self) -> Scene:
        """Drop empty companion places at the end; a gap in the middle stays, so that the others keep their place."""
        companions = list(self.companions)
        while companions and companions[-1] is None:
            companions.pop()
        return replace(self, companions=tuple(companions))

    def moved(self, number: int, left: int, top: int) -> Scene:
        """The same scene with an object elsewhere: 0 the main one, 1 the first companion; kept inside the picture."""
        padded = self.places + (None,) * (number + 1 - len(self.places))
        return replace(self, places=(*padded[:number], (int(left), int(top)), *padded[number + 1 :]))

    def word_moved(self, left: int, top: int) -> Scene:
        """The same scene with its word elsewhere, kept inside the picture."""
        return replace(self, word_at=(int(left), int(top)))

    def with_main(self, name: str) -> Scene:
        """The same scene with another main object of the same size at the same place."""
        return replace(self, main=name)

    def with_companion(self, name: str) -> Scene:
        """The same scene with one more companion."""
        return replace(self, companions=(*self.companions, name))

    def with_context(self, name: str | None) -> Scene:
        """The same scene before another background."""
        return replace(self, context=name)

    def with_word(self, word: str | None) -> Scene:
        """The same scene with this word written in it."""
        return replace(self, word=word)

    def with_watermark(self, name: str | None) -> Scene:
        """The same scene under this watermark."""
        return replace(self, watermark=name)

    def render(self) -> np.ndarray:
        """Pixels, (64, 64, 3) uint8 RGB."""
        return draw(self)

    def picture(self) -> Image.Image:
        """The rendered scene as a PIL image."""
        return Image.fromarray(self.render())

    def truth(self) -> Truth:
        """Position and visible mask of every part."""
        placed: list[Any] = []
        draw(self, placed)
        objects, word_mask, word_box = [], None, None
        for name, role, box, mask in placed:
            if role == "word":
                word_mask, word_box = mask, box
                continue
            objects.append([name, role, box, mask])
        for number, item in enumerate(objects):  # what is drawn later hides what was drawn before
            for later in objects[number + 1 :]:
                item[3] = item[3] & ~later[3]
            if word_mask is not None:
                item[3] = item[3] & ~word_mask
        return Truth(
            tuple(Placed(*item) for item in objects),
            self.context,
            self.word,
            word_mask,
            self.watermark,
            word_box,
        )

    def factors(self) -> frozenset[str]:
        """What is in the picture, by name: objects; by kind and name the background, the word and the watermark."""
        told = (f"{kind} {name}" for kind in ("context", "word", "watermark") if (name := vars(self)[kind]))
        return frozenset(filter(None, (self.main, *self.companions, *told)))

    def to_json(self) -> str:
        """One line of JSON, without the parts that are absent."""
        filled = {key: value for key, value in asdict(self).items() if value not in (None, (), [])}
        return json.dumps(filled, separators=(",", ":"), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str | Mapping[str, Any]) -> Scene:
        """Read what `to_json` wrote.

        Raises:
            SceneError: not JSON, an unknown field or a wrong type.
        """
        try:
            fields = json.loads(text) if isinstance(text, str) else dict(text)
        except ValueError as error:
            raise SceneError(f"a scene must be a JSON object; this is not JSON: {error}") from error
        known = {"main", "companions", "context", "word", "watermark", "seed", "places", "word_at"}
        if not isinstance(fields, dict) or set(fields) - known:
            raise SceneError(f"a scene has the fields {sorted(known)}; got {fields!r:.200}")
        companions = fields.get("companions", ())
        names = [fields.get(key) for key in ("main", "context", "word", "watermark")]
        if not all(value is None or isinstance(value, str) for value in names):
            raise SceneError(
                f"main, context, word and watermark must be texts or absent; got {fields!r:.200}"
            )
        if not isinstance(companions, list | tuple) or not all(
            c is None or isinstance(c, str) for c in companions
        ):
            raise SceneError(f"companions must be a list of names; got {companions!r:.200}")
        if not isinstance(fields.get("seed", 0), int):
            raise SceneError(f"seed must be a whole number; got {fields['seed']!r:.50}")
        try:
            places = tuple(None if p is None else (int(p[0]), int(p[1])) for p in fields.get("places", ()))
            at = fields.get("word_at")
            word_at = None if at is None else (int(at[0]), int(at[1]))
        except (TypeError, ValueError, IndexError, KeyError) as error:
            got = {name: fields[name] for name in ("places", "word_at") if name in fields}
            raise SceneError(f"places are [left, top] or null; got {got!r:.90}") from error
        return cls(**{**fields, "companions": tuple(companions), "places": places, "word_at": word_at})


def render(scenes: Iterable[Scene]) -> np.ndarray:
    """Many scenes at once, (n, 64, 64, 3) uint8."""
    return np.stack([scene.render() for scene in scenes])
