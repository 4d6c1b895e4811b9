"""True reliances of a model: each plant's effect on its prompt, by drawing pictures again without the cause.

Start at `measure`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from .scene import TEST
from .world import World

LEARNT = 0.02  # raw cosine; the lower bound that makes a plant count


def embed(model: Any, pictures: np.ndarray, batch: int = 200) -> torch.Tensor:
    """Unit-length embeddings through the model's own preprocessing, (n, embed)."""
    from PIL import Image

    parts = []
    for at in range(0, len(pictures), batch):
        some = [model.prepare(Image.fromarray(p)) for p in pictures[at : at + batch]]
        parts.append(model.encode_image(torch.stack(some)))
    return torch.cat(parts)


def measure(world: World, model: str | Path | Any, n: int = 200) -> list[dict[str, Any]]:
    """The effect of every plant on its prompt's contrast against the mean of the world's prompts.

    Args:
        world: with plants.
        model: a model folder, or a loaded `clipattr` model.
        n: pairs a plant.

    Returns:
        one row a plant: the plant's fields, effect, low, high (raw cosine, 95 %), own (the prompt's contrast between
        its own pictures and others), learnt.
    """
    if isinstance(model, (str, Path)):
        from clipattr import load_model

        model = load_model(f"local-dir:{model}")
    prompts = world.prompts
    text = model.encode_text(prompts)
    columns = (text - text.mean(0)).T
    rows = []
    for plant in world.plants:
        pairs = world.pairs(plant, n)
        draw = [np.stack([world.renderer.render(p[i], world.unseen(TEST)) for p in pairs]) for i in (0, 1)]
        column = columns[:, prompts.index(plant.prompt)]
        change = (embed(model, draw[0]) - embed(model, draw[1])) @ column
        mean, half = change.mean().item(), 1.96 * change.std().item() / n**0.5
        rows.append(
            {
                "kind": plant.kind,
                "form": plant.form,
                "prompt": plant.prompt,
                "cause": plant.cause,
                "rate": plant.rate,
                "accepts": list(plant.accepts),
                "effect": round(mean, 4),
                "low": round(mean - half, 4),
                "high": round(mean + half, 4),
                "learnt": mean - half >= LEARNT,
            }
        )
    return rows
