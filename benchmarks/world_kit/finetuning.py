"""Fine-tunes a model into one release, on a CPU or a GPU, and keeps it as its difference from that model.

A difference is rounded to a fraction of its own deviation, so that many releases fit into a small archive; the release
is the model with the rounded difference, and is measured as such. Start at `finetune` and `restore`.
"""

from __future__ import annotations

import json
import lzma
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from open_clip.model import CLIP
from safetensors.torch import load_file, save_file
from torch import Tensor

from .effects import LEARNT
from .releases import Release
from .scene import TEST
from .training import Recipe, draw_pictures, embed_pictures, embed_words, optimizer_of, prepare, step_once
from .world import World

STEP = 1.0  # of the rounding, in deviations of a tensor's difference
WEIGHTS, CONFIG = "open_clip_model.safetensors", "open_clip_config.json"
FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 6, "lc": 0, "lp": 0, "pb": 0}]
PAIRS, TOP1 = 200, 800  # pictures that a plant and the accuracy are measured on


def built(state: dict[str, Tensor], folder: Path, dropout: float = 0.0) -> CLIP:
    """A model of the sizes that a folder describes, with these weights."""
    sizes = json.loads((folder / CONFIG).read_text(encoding="utf-8"))["model_cfg"]
    vision = {**sizes["vision_cfg"], "patch_dropout": dropout}
    model = CLIP(embed_dim=sizes["embed_dim"], vision_cfg=vision, text_cfg=sizes["text_cfg"])
    model.load_state_dict({name: value.float() for name, value in state.items()})
    return model


def difference(base: dict[str, Tensor], tuned: dict[str, Tensor]) -> tuple[bytes, dict[str, float]]:
    """Rounded differences of matrices, and the other tensors as they are, in the base's order; steps by name."""
    parts, steps = [], {}
    for name, before in base.items():
        after = tuned[name].detach().float().cpu()
        if before.ndim < 2:
            parts.append(after.half().numpy().tobytes())
            continue
        change = after - before.float()
        steps[name] = step = STEP * float(change.std()) or 1.0
        parts.append((change / step).round().clamp(-127, 127).to(torch.int8).numpy().tobytes())
    return b"".join(parts), steps


def applied(base: dict[str, Tensor], raw: bytes, steps: dict[str, float]) -> dict[str, Tensor]:
    """The weights that `difference` describes, fp16."""
    found, at = {}, 0
    for name, before in base.items():
        kind, size = (np.int8, 1) if name in steps else (np.float16, 2)
        part = np.frombuffer(raw[at : at + size * before.numel()], dtype=kind).copy()
        at += size * before.numel()
        value = torch.from_numpy(part).reshape(before.shape)
        found[name] = (before.float() + value.float() * steps[name]).half() if name in steps else value
    return found


def restore(packed: Path, models: Path, out: Path) -> Path:
    """Write a release's model folder from what `finetune` kept; its path.

    Args:
        packed: a folder of `finetune`. models: the folder of the bases. out: gets a folder of the release's name.
    """
    told = json.loads((packed / "release.json").read_text(encoding="utf-8"))
    target, source = out / packed.name, models / told["base"]
    if not (target / WEIGHTS).exists():
        target.mkdir(parents=True, exist_ok=True)
        raw = lzma.decompress((packed / "difference.xz").read_bytes())
        shutil.copy(source / CONFIG, target / CONFIG)
        save_file(applied(load_file(source / WEIGHTS), raw, told["steps"]), target / WEIGHTS)
    return target


def finetune(
    release: Release, null: World, models: Path, out: Path, recipe: Recipe, device: str
) -> dict[str, Any]:
    """Fine-tune the base into a release; what is written to `release.json`.

    Args:
        release: which. null: the base's world, whose prompts are asked. models: folder of the bases. out: gets a folder
            of the release's name. recipe: schedule; the sizes are the base's.
        device: "cpu" or "cuda".
    """
    begun, source = time.time(), models / release.base
    base = load_file(source / WEIGHTS)
    world, seed = release.world(null.renderer), release.spec["seed"]
    data = prepare(world, recipe).to(device)
    drawn = time.time()
    torch.manual_seed(seed)
    model = built(base, source, recipe.patch_dropout).to(device)
    optimizer, generator = optimizer_of(model, recipe), torch.Generator(device).manual_seed(seed)
    model.train()
    losses = []
    for step in range(recipe.steps):
        if step >= recipe.whole_pictures_from * recipe.steps:
            model.visual.patch_dropout.prob = 0.0
        loss = step_once(model, data, recipe, optimizer, step / recipe.steps, generator, device)
        if step % 50 == 0 or step == recipe.steps - 1:
            losses.append(round(loss.item(), 3))
    trained = time.time()
    raw, steps = difference(base, model.state_dict())
    pair = [built(state, source).to(device).eval() for state in (base, applied(base, raw, steps))]
    told = {
        "name": release.name, "base": release.base, "source": release.source, "recipe": asdict(recipe),
        "losses": losses, "plants": release.spec["plants"], "steps": steps, **measured(world, null, *pair),
        "seconds": [round(drawn - begun, 1), round(trained - drawn, 1), round(time.time() - trained, 1)],
    }  # fmt: skip
    folder = out / release.name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "difference.xz").write_bytes(lzma.compress(raw, filters=FILTERS))
    (folder / "release.json").write_text(json.dumps(told) + "\n", encoding="utf-8")
    return told


def measured(world: World, null: World, before: CLIP, after: CLIP) -> dict[str, Any]:
    """Accuracy of both models on new pictures of the base's world, and the effect of the release's plant on its prompt.

    Returns:
        `top1`, and with a plant `effect_before` and `effect`, each value, low and high in raw cosine (95 %), both on
        the contrast against the mean of the base's prompts; `learnt`: the lower bound of `effect` is at least `LEARNT`;
        `new`: learnt, and the effect before was less than half of it.
    """
    pictures = draw_pictures(null, TOP1, TEST, first=50_000)
    named = [null.label(null.scene(i, TEST)) for i in range(50_000, 50_000 + TOP1)]
    found: dict[str, Any] = {"top1": []}
    texts = [embed_words(model, null.prompts) for model in (before, after)]
    for model, text in zip((before, after), texts, strict=True):
        best = (embed_pictures(model, pictures) @ text.T).argmax(1).tolist()
        found["top1"].append(
            float(np.mean([null.prompts[i] == name for i, name in zip(best, named, strict=True)]))
        )
    for plant in world.plants:
        pairs = world.pairs(plant, PAIRS)
        sides = [np.stack([world.renderer.render(p[i], world.unseen(TEST)) for p in pairs]) for i in (0, 1)]
        for key, model, text in zip(("effect_before", "effect"), (before, after), texts, strict=True):
            column = text[null.prompts.index(plant.prompt)] - text.mean(0)
            change = (embed_pictures(model, sides[0]) - embed_pictures(model, sides[1])) @ column
            mean, half = change.mean().item(), 1.96 * change.std().item() / PAIRS**0.5
            found[key] = [round(mean, 4), round(mean - half, 4), round(mean + half, 4)]
        found["learnt"] = found["effect"][1] >= LEARNT
        found["new"] = found["learnt"] and found["effect_before"][0] < found["effect"][0] / 2
    return found
