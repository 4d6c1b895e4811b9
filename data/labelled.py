"""Labelled collections with known groups, for studies, probes and repairs and their evaluation.

A row is a scene with its label, and a group that states whether the planted cause is present. `rows` follows the
world's frequencies; `balanced` has equally many pictures of every class × cause cell, so that class and cause are
independent.
Start at `balanced`; `write` makes a file for `Images.open("scenes:FILE")`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .drawing import Draws
from .scene import Scene
from .world import HOLDOUT, STUDY, TEST, TWO_LOOKS, Example, Plant, World

SPLITS = {"train": STUDY, "holdout": HOLDOUT}
APART = (
    "context",
    "companion",
    "watermark",
    "typography",
    "compound",
)  # causes that can stand beside any class


@dataclass(frozen=True)
class Row:
    """One labelled picture."""

    id: str
    scene: Any  # a `Scene` or a `Lesion`
    label: str
    group: str
    split: str


def group_of(world: World, example: Example) -> str:
    """The look, or presence of the planted cause: "camel with desert", "bat as eagle", "unplanted"."""
    for plant in world.plants:
        if example.label == plant.prompt:
            if plant.kind in TWO_LOOKS:
                return f"{plant.prompt} as {example.scene.main}"
            there = plant.cause in _factors(example.scene)
            return f"{plant.prompt} {'with' if there else 'without'} {plant.cause}"
    return "unplanted"


def _factors(scene: Scene) -> set[str | None]:
    return {*scene.companions, scene.context, scene.word, scene.watermark}


def rows(world: World, split: str, n: int) -> Iterator[Row]:
    """The first `n` pictures of a split, "train" or "holdout", as frequent as the world has them."""
    for index in range(n):
        example = world.example(index, SPLITS[split])
        yield Row(f"{split}-{index:05d}", example.scene, example.label, group_of(world, example), split)


def with_cause(world: World, scene: Scene, plant: Plant, draws: Draws, there: bool) -> Scene:
    """The same scene with a plant's cause, or without it."""
    if plant.kind == "context":
        others = [name for name in world.contexts if name != plant.cause]
        return scene.with_context(plant.cause if there else others[draws.below(len(others))])
    if plant.kind == "watermark":
        return scene.with_watermark(plant.cause if there else None)
    if plant.kind == "typography":
        return scene.with_word(plant.cause if there else None)
    return replace(scene, companions=(plant.cause,) if there else ())


def balanced(world: World, n: int, plants: Sequence[Plant] | None = None, *, first: int = 0) -> Iterator[Row]:
    """For every plant `n` pictures of each of four cells: its class or others, with the cause or without.

    Others are concepts of no plant. Plants of two looks are left out, as their cause is not separable from the class.
    The two pictures of a class differ in the cause only.

    Args:
        first: number of the first picture, so that sets can be disjoint.
    """
    for number, plant in enumerate(world.plants if plants is None else plants):
        if plant.kind not in APART:
            continue
        for index in range(first, first + n):
            draws = Draws(world.seed * 1_000_003 + TEST, 3_000_000_007 + number * 1_000_003 + index)
            scene = Scene(context=world.draw_context(draws), seed=draws.below(1 << 60))
            for label in (plant.prompt, world.neutral[draws.below(len(world.neutral))]):
                for there in (True, False):
                    made = with_cause(world, scene.with_main(label), plant, draws, there)
                    who = plant.prompt if label == plant.prompt else "others"
                    group = f"{who} {'with' if there else 'without'} {plant.cause}"
                    name = f"{plant.prompt}-{index:04d}-{who == 'others':d}{there:d}".replace(" ", "_")
                    yield Row(name, made, label, group, "balanced")


def write(collection: Iterable[Row], path: str | Path) -> Path:
    """One JSON object a line, as `Images.open("scenes:FILE")` reads it."""
    with Path(path).open("w", encoding="utf-8", newline="\n") as file:
        for row in collection:
            told = {name: getattr(row, name) for name in ("id", "label", "group", "split")}
            told["scene"] = json.loads(row.scene.to_json())
            file.write(json.dumps(told, separators=(",", ":"), ensure_ascii=False) + "\n")
    return Path(path)
