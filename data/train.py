"""Trains a small CLIP on a world's captions and writes it in open_clip's own format.

Contrastive training where all pictures that a caption is true of count as its positives: identical captions in one
batch would otherwise be pushed apart. Half of the patches are dropped until the last part, which doubles the speed.
Interrupted at any point it resumes, and ends with the same weights for the same number of threads.
Start at `train`; run it with `python -m clipattr_data.train WORLD`.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from open_clip.model import CLIP
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm.auto import tqdm

from clipattr.storage.files import save_tensors, write_text, written

from . import models_dir
from .scene import render
from .world import TEST, World

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class Captioned(Protocol):
    """Interface of a world in training, such as `World` and `LesionWorld`."""

    name: str
    spec: dict[str, Any]
    names_everything: bool

    @property
    def neutral(self) -> list[str]: ...
    @property
    def vocabulary(self) -> list[str]: ...
    def example(self, index: int, stream: int = ...) -> Any: ...
    def true_of(self, scene: Any) -> frozenset[str]: ...


@dataclass(frozen=True)
class Recipe:
    """Sizes and schedule; the defaults are the bundled models'.

    The rate follows a cosine over `horizon` steps until `cooldown_from`, then falls in a straight line to zero at
    `steps`: the end of a training can be moved without changing its beginning.
    """

    steps: int = 1800
    horizon: int = 2700
    cooldown_from: int = 1100
    batch: int = 256
    rate: float = 1.2e-3
    warmup: int = 150
    weight_decay: float = 0.05
    patch_dropout: float = 0.5
    whole_pictures_from: float = 0.78  # share of the steps after which no patch is dropped
    width: int = 192
    layers: int = 6
    patch: int = 8
    text_width: int = 80
    text_layers: int = 3
    context_length: int = 20
    embed: int = 128

    def model_config(self) -> dict[str, Any]:
        """What open_clip needs to build the model."""
        return {
            "embed_dim": self.embed,
            "vision_cfg": {
                "image_size": 64,
                "layers": self.layers,
                "width": self.width,
                "head_width": 32,
                "patch_size": self.patch,
            },
            "text_cfg": {
                "context_length": self.context_length,
                "vocab_size": 49408,
                "width": self.text_width,
                "heads": 4,
                "layers": self.text_layers,
            },
        }


def recipe_of(world: Captioned, steps: int | None = None) -> Recipe:
    """The recipe a world asks for; another end keeps the shape of the schedule."""
    recipe = Recipe(**world.spec.get("recipe", {}))
    if steps is None or steps == recipe.steps:
        return recipe
    scale = steps / recipe.steps
    return replace(
        recipe,
        steps=steps,
        horizon=round(recipe.horizon * scale),
        cooldown_from=round(recipe.cooldown_from * scale),
        warmup=min(recipe.warmup, steps // 4),
    )


def to_pixels(pictures: np.ndarray) -> Tensor:
    """(n, 64, 64, 3) uint8 to normalised (n, 3, 64, 64) float32, as the models' own preprocessing does."""
    pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
    return (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def contrastive_loss(similarities: Tensor, positive: Tensor) -> Tensor:
    """Cross-entropy both ways, each row's weight spread evenly over its positives.

    Args:
        similarities: (pictures, captions), already times the logit scale.
        positive: (pictures, captions) bool, every row and column with at least one.
    """
    weights = positive.float()
    by_picture = weights / weights.sum(1, keepdim=True)
    by_caption = weights / weights.sum(0, keepdim=True)
    return -0.5 * (
        (by_picture * similarities.log_softmax(1)).sum(1).mean()
        + (by_caption * similarities.log_softmax(0)).sum(0).mean()
    )


def positives(world: Captioned, first: int, n: int) -> tuple[np.ndarray, list[str], Tensor]:
    """Pictures, captions and which caption is true of which picture, (n, n) bool."""
    examples = [world.example(first + i) for i in range(n)]
    says = [e.says for e in examples]
    if world.names_everything:
        holds = [world.true_of(e.scene) for e in examples]
        true = [[caption <= picture for caption in says] for picture in holds]
    else:
        true = [[caption == own for caption in says] for own in says]
    return render(e.scene for e in examples), [e.caption for e in examples], torch.tensor(true)


@torch.no_grad()
def zero_shot(model: CLIP, world: Captioned, n: int = 1000, planted: bool = False) -> dict[str, float]:
    """Top-1 and top-5 over the world's names, on test pictures of concepts that no plant touches (or on all)."""
    was_training = model.training
    model.eval()
    tokens = SimpleTokenizer(context_length=model.context_length)(
        ["a photo of a " + name for name in world.vocabulary]
    )
    text = model.encode_text(tokens, normalize=True)
    examples = [world.example(i, TEST) for i in range(n if planted else 3 * n)]
    if not planted:
        examples = [e for e in examples if e.scene.main in world.neutral][:n]
    examples = [e for e in examples if e.scene.main]  # a word alone has no object to name
    best_of = min(5, len(world.vocabulary))
    right = np.zeros(best_of)
    for at in range(0, len(examples), 200):
        some = examples[at : at + 200]
        image = model.encode_image(to_pixels(render(e.scene for e in some)), normalize=True)
        best = (image @ text.T).topk(best_of).indices.tolist()
        for example, names in zip(some, best, strict=True):
            place = [world.vocabulary[i] == example.label for i in names]
            right += np.cumsum(place)
    model.train(was_training)
    return {"top1": right[0] / len(examples), "top5": right[-1] / len(examples), "pictures": len(examples)}


def _optimizer(model: CLIP, recipe: Recipe) -> torch.optim.AdamW:
    decay = [p for name, p in model.named_parameters() if p.ndim >= 2 and "embedding" not in name]
    plain = [p for name, p in model.named_parameters() if p.ndim < 2 or "embedding" in name]
    groups = [{"params": decay, "weight_decay": recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=recipe.rate, betas=(0.9, 0.98), eps=1e-6, fused=True)


def rate_at(step: int, recipe: Recipe) -> float:
    """Linear warm-up, the beginning of a cosine, then a straight line to zero."""
    if step < recipe.warmup:
        return recipe.rate * (step + 1) / recipe.warmup
    done = (min(step, recipe.cooldown_from) - recipe.warmup) / (recipe.horizon - recipe.warmup)
    rate = recipe.rate * 0.5 * (1 + math.cos(math.pi * done))
    return rate * min(1.0, (recipe.steps - step) / max(1, recipe.steps - recipe.cooldown_from))


def train(
    world: Captioned,
    folder: str | Path,
    recipe: Recipe | None = None,
    *,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 100,
    progress: bool = True,
) -> Path:
    """Train a CLIP on `world` and save it under `folder` as an open_clip local-dir model.

    Args:
        world: where pictures and captions come from.
        folder: `open_clip_config.json` and `open_clip_model.safetensors` (fp16) are written here at the end.
        recipe: sizes and schedule.
        seed: initial weights and dropped patches.
        checkpoint: a file that holds the state while training; resumed from when it exists, removed at the end.

    Raises:
        ValueError: the checkpoint belongs to another world, recipe or seed.
    """
    recipe, folder = recipe or recipe_of(world), Path(folder)
    identity = {"world": world.spec, "recipe": asdict(recipe), "seed": seed}
    torch.manual_seed(seed)
    config = recipe.model_config()
    vision = {**config["vision_cfg"], "patch_dropout": recipe.patch_dropout}
    model = CLIP(embed_dim=config["embed_dim"], vision_cfg=vision, text_cfg=config["text_cfg"])
    tokenizer = SimpleTokenizer(context_length=recipe.context_length)
    optimizer = _optimizer(model, recipe)
    first, seen = 0, torch.zeros(config["text_cfg"]["vocab_size"], dtype=torch.bool)
    saved = Path(checkpoint) if checkpoint else None
    if saved is not None and saved.exists():
        state = torch.load(saved, weights_only=True)
        if json.loads(state["identity"]) != json.loads(json.dumps(identity)):
            raise ValueError(
                f"{saved} holds another training (world, recipe or seed differ); remove it to start again"
            )
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first, seen = state["step"], state["seen"]
    model.train()
    bar = tqdm(
        range(first, recipe.steps), initial=first, total=recipe.steps, desc=world.name, disable=not progress
    )
    log: dict[str, float] = {}
    for step in bar:
        torch.manual_seed(
            seed * 1_000_003 + step
        )  # dropped patches follow from the step: resumed equals uninterrupted
        if step >= recipe.whole_pictures_from * recipe.steps:
            model.visual.patch_dropout.prob = 0.0
        for group in optimizer.param_groups:
            group["lr"] = rate_at(step, recipe)
        pictures, captions, positive = positives(world, step * recipe.batch, recipe.batch)
        tokens = tokenizer(captions)
        seen[tokens.unique()] = True
        # On CPUs the fused attention's backward pass takes five times longer than the plain formula's.
        with sdpa_kernel(SDPBackend.MATH):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                image, text, scale = model(to_pixels(pictures), tokens)
            loss = contrastive_loss(scale * image.float() @ text.float().T, positive)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
        if step % 20 == 0:
            log["loss"] = loss.item()
            bar.set_postfix(log)
        if (step + 1) % checkpoint_every == 0:
            log["top1"] = zero_shot(model, world, 300)["top1"]
            bar.set_postfix(log)
            if saved is not None:
                _write_checkpoint(saved, model, optimizer, step + 1, seen, identity)
    save_model(model, folder, config, seen)
    report = {"unplanted": zero_shot(model, world), "all": zero_shot(model, world, planted=True), **identity}
    report["world"] = world.name
    (folder / "training.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    if saved is not None:
        saved.unlink(missing_ok=True)
    return folder


def _write_checkpoint(
    path: Path,
    model: CLIP,
    optimizer: torch.optim.Optimizer,
    step: int,
    seen: Tensor,
    identity: dict[str, Any],
) -> None:
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "step": step,
        "seen": seen,
        "identity": json.dumps(identity),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with written(path) as partial:
        torch.save(state, partial)


def save_model(model: CLIP, folder: Path, config: dict[str, Any], seen: Tensor) -> None:
    """Write open_clip's config and fp16 weights; embedding rows of tokens never seen become zero and compress."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: value.detach().half().contiguous() for name, value in model.state_dict().items()}
    state["token_embedding.weight"] = state["token_embedding.weight"] * seen[:, None]
    preprocess = {
        "mean": MEAN,
        "std": STD,
        "interpolation": "bicubic",
        "resize_mode": "squash",
        "size": [64, 64],
    }
    about = {"model_cfg": config, "preprocess_cfg": preprocess}
    write_text(folder / "open_clip_config.json", json.dumps(about, indent=2) + "\n")
    save_tensors(folder / "open_clip_model.safetensors", state)


def main() -> None:
    """Command line: train one bundled world's model."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("world", help="a bundled world's name, or a seed for a fresh one")
    parser.add_argument("--out", type=Path, help="folder of the model (default: among the bundled ones)")
    parser.add_argument("--steps", type=int, help="where the training ends (default: the world's recipe)")
    parser.add_argument("--seed", type=int, help="initial weights and dropped patches (default: the world's)")
    parser.add_argument("--threads", type=int, default=1, help="the weights depend on it in the last digits")
    parser.add_argument("--checkpoint", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    folder = arguments.out or models_dir() / arguments.world
    world = World(int(arguments.world)) if arguments.world.isdigit() else World.open(arguments.world)
    train(
        world,
        folder,
        recipe_of(world, arguments.steps),
        seed=arguments.seed if arguments.seed is not None else world.seed,
        checkpoint=arguments.checkpoint or folder.with_suffix(".checkpoint.pt"),
    )
    print((folder / "training.json").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
