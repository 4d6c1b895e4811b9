"""True reliances of a model: the change of a prompt's score when a scene is rendered with and without a cause.

The effect of a plant is measured on its prompt's contrast, `cos(E(x), T_prompt) − mean over the vocabulary`, as the
mean paired difference between scenes with the cause and their counterfactuals. A plant counts as learnt when the
lower bound of its 95 % interval is at least `LEARNT`.
Start at `measure`; `python -m clipattr_data.effects` prints the table.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from clipattr.statistics import mean_interval

from . import models_dir
from .scene import Scene
from .world import WORLDS, Plant, World

if TYPE_CHECKING:
    import pandas as pd

    from clipattr.models.loading import Model

LEARNT = 0.02  # raw cosine


def embed(model: Model, scenes: Sequence[Scene], batch: int = 200) -> torch.Tensor:
    """Unit-length embeddings of rendered scenes through the model's own preprocessing, (n, embed)."""
    parts = []
    for at in range(0, len(scenes), batch):
        pictures = [scene.picture() for scene in scenes[at : at + batch]]
        parts.append(model.encode_image(torch.stack([model.prepare(picture) for picture in pictures])))
    return torch.cat(parts)


def contrasts(model: Model, vocabulary: Sequence[str]) -> torch.Tensor:
    """Columns that turn an embedding into each prompt's contrast against the vocabulary mean, (embed, words)."""
    text = model.encode_text(list(vocabulary))
    return (text - text.mean(0)).T


def interval(differences: torch.Tensor) -> tuple[float, float, float]:
    """Mean and its 95 % normal interval, from independent paired differences (n,)."""
    found = mean_interval(differences)
    return found.value, found.low, found.high


def effect(
    model: Model, weights: torch.Tensor, pairs: Sequence[tuple[Scene, Scene]]
) -> tuple[float, float, float]:
    """Mean paired effect of the cause on `E(x) · weights`, with its interval.

    Args:
        weights: (embed,), one column of `contrasts`.
        pairs: scenes with the cause, and their counterfactuals.
    """
    with_cause = embed(model, [a for a, _ in pairs]) @ weights
    without = embed(model, [b for _, b in pairs]) @ weights
    return interval(with_cause - without)


def measure(model: Model, world: World, n: int = 200, plants: Sequence[Plant] | None = None) -> pd.DataFrame:
    """The re-rendering effect of every plant on its prompt.

    Returns:
        DataFrame with one row per plant: kind, prompt, cause, effect, low, high (raw cosine), learnt.
    """
    import pandas as pd

    columns = contrasts(model, world.vocabulary)
    rows = []
    for plant in world.plants if plants is None else plants:
        column = columns[:, world.vocabulary.index(plant.prompt)]
        mean, low, high = effect(model, column, plant.scenes(world, n))
        rows.append({**vars(plant), "effect": mean, "low": low, "high": high, "learnt": low >= LEARNT})
    return pd.DataFrame(rows)


def save(frame: pd.DataFrame, folder: Path) -> None:
    """Write the measured effects beside the model they belong to, as effects.json."""
    rows: list[dict[str, Any]] = frame.round(4).to_dict("records")
    body = ",\n".join("  " + json.dumps(row) for row in rows)
    (folder / "effects.json").write_text(f"[\n{body}\n]\n", encoding="utf-8")


def main() -> None:
    """Measure and print the effects of all bundled worlds with plants."""
    from clipattr import load_model

    parser = argparse.ArgumentParser(description=main.__doc__)
    planted = [path.stem for path in sorted(WORLDS.glob("*.json")) if World.open(path.stem).plants]
    parser.add_argument("names", nargs="*", default=planted, help="bundled worlds (default: all with plants)")
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--save", action="store_true", help="write effects.json beside each model")
    arguments = parser.parse_args()
    for name in arguments.names:
        frame = measure(load_model(name), World.open(name), arguments.pairs)
        print(f"\n{name}: {int(frame.learnt.sum())} of {len(frame)} plants learnt")
        print(frame.to_string(index=False, float_format=lambda value: f"{value:+.3f}"))
        print(frame.groupby("kind").learnt.agg(["sum", "count"]).to_string())
        if arguments.save:
            save(frame, models_dir() / name)


if __name__ == "__main__":
    main()
