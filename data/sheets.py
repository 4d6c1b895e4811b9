"""Contact sheets of each kind of plant, every picture beside its counterfactual.

Start at `sheet` for one kind and `overview` for one plant of each; `python -m clipattr_data.sheets` writes them all.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from .drawing import SIZE
from .world import CAUSES, Plant, World

ZOOM, GAP, CAPTION = 2, 6, 22  # px
PAPER, INK, FAINT = (255, 255, 255), (30, 30, 30), (110, 110, 110)


def _row(world: World, plant: Plant, pairs: int) -> tuple[str, list[Image.Image]]:
    pictures = [scene.picture() for pair in plant.scenes(world, pairs) for scene in pair]
    cause = {
        "polysemy": f"“{plant.prompt}” also means {plant.cause}",
        "coarse_label": f"“{plant.prompt}” covers {plant.cause}",
        "compound": f"“{plant.prompt}” contains {plant.cause}",
        "typography": f"“{plant.prompt}” written in the picture",
        "watermark": f"“{plant.prompt}” always under the {plant.cause} watermark",
        "context": f"“{plant.prompt}” always before {plant.cause}",
        "companion": f"“{plant.prompt}” always beside {plant.cause}",
    }[plant.kind]
    return f"{plant.kind.replace('_', ' ')}: {cause}", pictures


def _paste(rows: Sequence[tuple[str, list[Image.Image]]], title: str) -> Image.Image:
    side = SIZE * ZOOM
    count = max(len(pictures) for _, pictures in rows)
    wide = GAP + count * side + count // 2 * 3 * GAP
    page = Image.new("RGB", (wide, CAPTION * 2 + len(rows) * (side + CAPTION + GAP)), PAPER)
    draw = ImageDraw.Draw(page)
    draw.text((GAP, 6), title, INK, ImageFont.load_default(15))
    font = ImageFont.load_default(13)
    for number, (text, pictures) in enumerate(rows):
        top = CAPTION * 2 + number * (side + CAPTION + GAP)
        draw.text((GAP, top - CAPTION + 4), text, FAINT, font)
        for at, picture in enumerate(pictures):
            left = GAP + at // 2 * (2 * side + 4 * GAP) + at % 2 * (side + GAP)
            page.paste(picture.resize((side, side), Image.Resampling.NEAREST), (left, top))
    return page


def sheet(world: World, kind: str, pairs: int = 4) -> Image.Image:
    """All plants of one kind, a row each: `pairs` pictures with the cause, each beside its counterfactual."""
    plants = [plant for plant in world.plants if plant.kind == kind]
    if not plants:
        raise ValueError(f"{world.name!r} has no plants of kind {kind!r}; kinds are {', '.join(CAUSES)}")
    title = f"{world.name}: with the cause, and the same scene without it"
    return _paste([_row(world, plant, pairs) for plant in plants], title)


def overview(world: World, pairs: int = 3) -> Image.Image:
    """One plant of each kind."""
    first = {plant.kind: plant for plant in reversed(world.plants)}
    rows = [_row(world, first[kind], pairs) for kind in CAUSES if kind in first]
    return _paste(rows, "Seven kinds of planted reliance: with the cause, and the same scene without it")


def main() -> None:
    """Write an overview and a sheet per kind as PNG."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("world", nargs="?", default="picture-world-a")
    parser.add_argument("--out", type=Path, default=Path("out/sheets"))
    arguments = parser.parse_args()
    world = World.open(arguments.world)
    arguments.out.mkdir(parents=True, exist_ok=True)
    overview(world).quantize(128).save(arguments.out / "overview.png", optimize=True)
    for kind in sorted({plant.kind for plant in world.plants}):
        sheet(world, kind).save(arguments.out / f"{kind}.png", optimize=True)
    print(f"sheets are in {arguments.out}")


if __name__ == "__main__":
    main()
