"""Opens worlds with their renderer. Start at `open_world`."""

from __future__ import annotations

import json
from pathlib import Path

from .photos import PhotoRenderer
from .rendered import RenderedRenderer
from .scene import WorldError
from .world import SPECS, World


def names() -> list[str]:
    """All described worlds."""
    return sorted(path.stem for path in SPECS.glob("*.json"))


def open_world(name: str, photos: str | Path | None = None) -> World:
    """A described world with its renderer.

    Args:
        name: a file under `specs/`.
        photos: the folder of photographs, for worlds of that family.

    Raises:
        WorldError: no such world, or a world of photographs without a folder.
    """
    if name not in names():
        raise WorldError(f"no world is called {name!r}; there are {names()}")
    spec = json.loads((SPECS / f"{name}.json").read_text(encoding="utf-8"))
    if spec["family"] == "photos":
        if photos is None:
            raise WorldError(f"the world {name} is made of photographs; give their folder with --photos")
        return World(spec, PhotoRenderer(photos, list(spec["concepts"])))
    return World(spec, RenderedRenderer(spec["groups"]))
