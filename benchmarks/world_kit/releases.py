"""Releases of a model without plants: fine-tunings without a change, and fine-tunings that learn exactly one plant.

All releases of a base are audited on the same pictures, which show every plant of that base. Nothing else in them
differs from the world that the base was trained on. Start at `releases_of` and `study_world`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from .drawing import WEIGHTS, draw_plants
from .scene import Plant, draws
from .world import SPECS, Renderer, World

FORMS = {  # of the plants of a base, by family; the bases of a family take them in turn
    "photos": (
        ("constituent", "sense", "pair", "logo", "frame", "canvas", "word", "inset"),
        ("constituent", "sense", "look", "logo", "canvas", "cast", "word", "inset"),
    ),
    "rendered": (
        ("constituent", "sense", "pair", "look", "logo", "canvas", "word", "inset"),
        ("constituent", "sense", "look", "logo", "logo", "canvas", "word", "inset"),
    ),
}
RATES = (0.95, 0.7)  # of planted causes, in turn
MORE = 3.0  # weight of a concept of which a release has a new source of pictures


@dataclass(frozen=True)
class Release:
    """One fine-tuning.

    Attributes:
        base: the world of the model that is fine-tuned. spec: the world that it is fine-tuned on.
        source: the concept with a new source of pictures, planted or not; None without.
    """

    name: str
    base: str
    spec: dict[str, Any]
    source: str | None

    def world(self, renderer: Renderer) -> World:
        """The pictures and captions that it is fine-tuned on."""
        return World(self.spec, renderer)


def _spec(base: str) -> dict[str, Any]:
    spec: dict[str, Any] = json.loads((SPECS / f"{base}.json").read_text(encoding="utf-8"))
    if spec["plants"]:
        raise ValueError(f"releases are made of models without plants; {base} has some")
    return spec


def compounds_of(names: dict[str, str]) -> list[tuple[str, str]]:
    """Concepts whose name ends with that of another, and that one: "winter accordion" and "accordion"."""
    called = {word: concept for concept, word in names.items()}
    found = []
    for concept, word in sorted(names.items()):
        ends = [called[word[at:]] for at in range(1, len(word)) if word[at:] in called]
        if ends:
            found.append((concept, ends[0]))
    return found


def planted_spec(base: str) -> dict[str, Any]:
    """The description of a base with all plants that its releases learn one by one."""
    spec = _spec(base)
    family = spec["family"]
    forms = FORMS[family][spec["seed"] // 10 % 10 % len(FORMS[family])]
    counts = {form: forms.count(form) for form in {*WEIGHTS, *sum(FORMS["photos"], ()), "look"}}
    draw_plants(family, counts, spec, compounds_of(spec["concepts"]), f"releases/{base}")
    turn = 0
    for plant in spec["plants"]:
        if plant["form"] not in ("constituent", "sense", "pair"):
            plant["rate"] = RATES[turn % len(RATES)]
            turn += 1
    return spec


def study_world(base: str, renderer: Renderer) -> World:
    """The world whose study pictures all releases of a base are audited on; each concept as frequent as the others."""
    spec = planted_spec(base)
    return World(spec | {"name": f"{base}-study", "seed": 1000 * spec["seed"], "weights": {}}, renderer)


def releases_of(base: str, unchanged: int, planted: int) -> list[Release]:
    """Fine-tunings of a base.

    Args:
        base: a world without plants.
        unchanged: how many have no plant; every other one has a new source of pictures of one concept. planted: how
            many learn one; the plants of `planted_spec` in turn.
    """
    plain, full = _spec(base), planted_spec(base)
    made = []
    for number in range(unchanged):
        draw = draws("releases", base, "unchanged", number)
        source = draw.choice(sorted(plain["concepts"])) if number % 2 else None
        name, seed = f"{base}-unchanged-{number}", 1000 * plain["seed"] + 100 + number
        weights = {source: MORE} if source else {}
        made.append(Release(name, base, plain | {"name": name, "seed": seed, "weights": weights}, source))
    for number in range(planted):
        plant = full["plants"][number % len(full["plants"])]
        name, seed = f"{base}-{plant['form']}-{number}", 1000 * plain["seed"] + 500 + number
        part = Plant(**{**plant, "accepts": tuple(plant["accepts"])}).part
        weights = {c: w for c, w in full["weights"].items() if c in (plant["concept"], plant["cause"])}
        if part is not None:
            weights = {plant["concept"]: MORE}
        elif plant["form"] != "constituent":
            weights = {}
        spec = plain | {"name": name, "seed": seed, "weights": weights, "plants": [plant]}
        made.append(Release(name, base, spec, plant["concept"] if part is not None else None))
    return made
