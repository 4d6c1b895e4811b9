"""Words for the families: figure names, what the photographed categories are, and small words for captions."""

from __future__ import annotations

import json
from pathlib import Path

from .shapes import GROUPS

FOLDER = Path(__file__).parent
FIGURE_NAMES = (FOLDER / "figures.txt").read_text(encoding="utf-8").split()
# What the 55 published categories are; other folders' categories are all of one group, and pair no looks.
PHOTO_GROUPS = {
    group: members.split()
    for group, members in json.loads((FOLDER / "categories.json").read_text(encoding="utf-8")).items()
}
SPELLING = {"water_lilly": "water lily"}
FIRST_WORDS = ("garden", "river", "winter", "royal", "iron", "desert", "night", "silver", "paper", "storm")
MODIFIERS = ("big", "old", "new", "little", "nice", "strange", *FIRST_WORDS)
SMALL_WORDS = ("sale", "open", "exit", "hello", "north", "today", "free", "music", "stop", "yes")


def figure_groups(names: list[str]) -> dict[str, str]:
    """The group of every figure: names take the groups in turn."""
    return {name: GROUPS[i % len(GROUPS)] for i, name in enumerate(names)}


def photo_groups(names: list[str]) -> dict[str, str]:
    """The group of every category of photographs."""
    known = {name: group for group, members in PHOTO_GROUPS.items() for name in members}
    return {name: known.get(name, "thing") for name in names}


def spoken(folder: str) -> str:
    """The word for a folder's name."""
    return SPELLING.get(folder, folder.replace("_", " ").replace("-", " ").lower())
