"""Trains a small CLIP on one of these worlds, on a CPU or a GPU, and writes it in open_clip's own format.

Pictures are drawn once, held on the device as bytes, and shown with captions in several tellings. All captions that
are true of a picture count as its positives. Evaluators may leave snapshots at given word AUCs on the way.
Start at `train`.
"""

from __future__ import annotations

import json
import math
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from open_clip.model import CLIP
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from .saving import rounded, save
from .scene import SIDE, STUDY, TEST, TRAIN
from .world import World

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
VOCABULARY_SIZE = 49408


@dataclass(frozen=True)
class Recipe:
    """Sizes and schedule. `steps` and `seconds` both end the training; the rate falls with the nearer of the two."""

    steps: int = 3000
    seconds: float = 1e9
    pictures: int = 20_000
    tellings: int = 4
    batch: int = 512
    rate: float = 1.0e-3
    warmup: float = 0.06
    weight_decay: float = 0.1
    patch_dropout: float = 0.4
    whole_pictures_from: float = 0.8
    width: int = 160
    layers: int = 6
    text_width: int = 96
    text_layers: int = 3
    context_length: int = 24
    embed: int = 128

    def model_config(self) -> dict[str, Any]:
        """What open_clip needs to build the model."""
        return {
            "embed_dim": self.embed,
            "vision_cfg": {
                "image_size": SIDE,
                "layers": self.layers,
                "width": self.width,
                "head_width": 32,
                "patch_size": 16,
            },
            "text_cfg": {
                "context_length": self.context_length,
                "vocab_size": VOCABULARY_SIZE,
                "width": self.text_width,
                "heads": 4,
                "layers": self.text_layers,
            },
        }


@dataclass
class Data:
    """Pictures, captions, and which caption is true of which picture.

    `telling` (pictures, tellings) numbers the distinct captions; `says` (captions, concepts) and `holds` (pictures,
    concepts) are what captions name and pictures show.
    """

    pictures: Tensor
    tokens: Tensor
    telling: Tensor
    says: Tensor
    holds: Tensor
    everything: bool  # whether captions name everything

    def to(self, device: str) -> Data:
        """The same on another device."""
        parts = (self.pictures, self.tokens, self.telling, self.says, self.holds)
        return Data(*(part.to(device) for part in parts), everything=self.everything)


_world: World | None = None


def _draw(job: tuple[int, int, int]) -> np.ndarray:
    stream, first, last = job
    assert _world is not None
    out = np.empty((last - first, SIDE, SIDE, 3), dtype=np.uint8)
    for i in range(first, last):
        out[i - first] = _world.pixels(i, stream)
    return out


def draw_pictures(world: World, n: int, stream: int, workers: int = 1, first: int = 0) -> np.ndarray:
    """Pictures `first` to `first + n` of a stream, (n, 96, 96, 3) uint8."""
    global _world
    _world = world
    jobs = [(stream, at, min(at + 500, first + n)) for at in range(first, first + n, 500)]
    if workers > 1:
        with ProcessPoolExecutor(workers, mp_context=get_context("fork")) as pool:
            return np.concatenate(list(pool.map(_draw, jobs)))
    return np.concatenate([_draw(job) for job in jobs])


def prepare(world: World, recipe: Recipe, workers: int = 1) -> Data:
    """Draw and tokenise everything the training shows."""
    pictures = torch.from_numpy(draw_pictures(world, recipe.pictures, TRAIN, workers))
    captions: dict[tuple[str, frozenset[str]], int] = {}
    telling = np.empty((recipe.pictures, recipe.tellings), dtype=np.int64)
    true: list[frozenset[str]] = []
    for i in range(recipe.pictures):
        scene = world.scene(i, TRAIN)
        for k in range(recipe.tellings):
            example = world.told(scene, i, TRAIN, k)
            telling[i, k] = captions.setdefault((example.caption, example.says), len(captions))
        true.append(world.true_of(scene))
    things = {t: j for j, t in enumerate(sorted(set().union(*true, *(says for _, says in captions))))}
    says, holds = torch.zeros(len(captions), len(things)), torch.zeros(recipe.pictures, len(things))
    for row, (_, named) in enumerate(captions):
        says[row, [things[t] for t in named]] = 1
    for row, shown in enumerate(true):
        holds[row, [things[t] for t in shown]] = 1
    tokens = SimpleTokenizer(context_length=recipe.context_length)([text for text, _ in captions])
    return Data(pictures, tokens, torch.from_numpy(telling), says, holds, world.names_everything)


def contrastive_loss(similarities: Tensor, positive: Tensor) -> Tensor:
    """Cross-entropy both ways, each row's weight spread evenly over its positives; (pictures, captions) both."""
    weights = positive.float()
    rows = (weights / weights.sum(1, keepdim=True) * similarities.log_softmax(1)).sum(1)
    columns = (weights / weights.sum(0, keepdim=True) * similarities.log_softmax(0)).sum(0)
    return -0.5 * (rows.mean() + columns.mean())


def to_pixels(pictures: Tensor, shift: tuple[int, int] = (0, 0)) -> Tensor:
    """(n, 96, 96, 3) uint8 to normalised (n, 3, 96, 96), moved by a few px with the edges repeated."""
    pixels = pictures.permute(0, 3, 1, 2).float() / 255
    if shift != (0, 0):
        down, across = shift
        pixels = functional.pad(pixels, (4, 4, 4, 4), mode="replicate")
        pixels = pixels[:, :, 4 + down : 4 + down + SIDE, 4 + across : 4 + across + SIDE]
    mean = torch.tensor(MEAN, device=pixels.device).view(3, 1, 1)
    return (pixels - mean) / torch.tensor(STD, device=pixels.device).view(3, 1, 1)


@torch.no_grad()
def embed_pictures(model: CLIP, pictures: Tensor | np.ndarray, batch: int = 500) -> Tensor:
    """Unit-length embeddings (n, embed) on the CPU."""
    was, device = model.training, next(model.parameters()).device
    model.eval()
    stack = torch.as_tensor(pictures)
    parts = [
        model.encode_image(to_pixels(stack[at : at + batch].to(device)), normalize=True).float().cpu()
        for at in range(0, len(stack), batch)
    ]
    model.train(was)
    return torch.cat(parts)


@torch.no_grad()
def embed_words(model: CLIP, words: list[str], template: str = "a photo of a {}") -> Tensor:
    """Unit-length embeddings (words, embed) on the CPU."""
    was, device = model.training, next(model.parameters()).device
    model.eval()
    tokens = SimpleTokenizer(context_length=model.context_length)([template.format(w) for w in words])
    text = model.encode_text(tokens.to(device), normalize=True).float().cpu()
    model.train(was)
    return text


class Examiner:
    """Pictures drawn once, on which a model is measured: zero-shot, plants, and the words' AUC of evaluators."""

    def __init__(self, world: World, pictures: int = 600, pairs: int = 40):
        self.world = world
        if world.names_everything:
            self.scenes = [world.scene(i, STUDY) for i in range(4 * pictures)]
            self.pictures = draw_pictures(world, 4 * pictures, STUDY)
            return
        self.scenes = [world.scene(i, TEST) for i in range(pictures)]
        self.pictures = draw_pictures(world, pictures, TEST)
        self.pairs = [
            np.stack(
                [
                    [world.renderer.render(s, world.unseen(TEST)) for s in pair]
                    for pair in world.pairs(p, pairs)
                ]
            )
            for p in world.plants
        ]

    def measure(self, model: CLIP) -> dict[str, Any]:
        """The figures of one model."""
        image = embed_pictures(model, self.pictures)
        if self.world.names_everything:
            return word_auc(self.world, self.scenes, image, model)
        prompts = self.world.prompts
        text = embed_words(model, prompts)
        best = [prompts[i] for i in (image @ text.T).argmax(1).tolist()]
        neutral = set(self.world.neutral)
        right = {"all": [], "neutral": []}
        for scene, said in zip(self.scenes, best, strict=True):
            right["all"].append(said == self.world.label(scene))
            if scene.main in neutral:
                right["neutral"].append(right["all"][-1])
        figures: dict[str, Any] = {f"top1_{k}": float(np.mean(v)) for k, v in right.items() if v}
        rows = []
        for plant, pictures in zip(self.world.plants, self.pairs, strict=True):
            column = text[prompts.index(plant.prompt)] - text.mean(0)
            change = (embed_pictures(model, pictures[:, 0]) - embed_pictures(model, pictures[:, 1])) @ column
            half = 1.96 * change.std().item() / len(change) ** 0.5
            rows.append(
                [plant.form, plant.prompt, plant.cause, round(change.mean().item(), 3), round(half, 3)]
            )
        if rows:
            figures["learnt"] = sum(row[3] - row[4] >= 0.02 for row in rows)
            figures["plants"] = rows
        return figures


def word_auc(world: World, scenes: list[Any], image: Tensor, model: CLIP) -> dict[str, Any]:
    """How well single words separate pictures that show them: area under the ROC curve, over words shown often."""
    truth = [world.true_of(scene) for scene in scenes]
    objects = set(world.concepts.values())
    words = sorted(set().union(*truth))
    scores = (image @ embed_words(model, words).T).numpy()
    areas: dict[str, float] = {}
    for j, word in enumerate(words):
        there = np.array([word in shown for shown in truth])
        n, m = int(there.sum()), int((~there).sum())
        if n < 6:
            continue
        ranks = scores[:, j].argsort().argsort().astype(float)
        areas[word] = (ranks[there].sum() - n * (n - 1) / 2) / (n * m)
    mine = [areas[w] for w in areas if w in objects]
    letters = [areas[w] for w in areas if w.startswith("the word ")]
    rest = [areas[w] for w in areas if w not in objects and not w.startswith("the word ")]
    sets = (("", list(areas.values())), ("objects_", mine), ("written_", letters), ("others_", rest))
    return {f"auc_{name}median": float(np.median(v)) for name, v in sets if v} | {
        "auc_mean": float(np.mean(list(areas.values())))
    }


def rate_at(progress: float, recipe: Recipe) -> float:
    """Linear warm-up, then a cosine to zero."""
    if progress < recipe.warmup:
        return recipe.rate * (progress / recipe.warmup + 1e-3)
    return recipe.rate * 0.5 * (1 + math.cos(math.pi * (progress - recipe.warmup) / (1 - recipe.warmup)))


def optimizer_of(model: CLIP, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW that decays matrices alone."""
    decay = [p for name, p in model.named_parameters() if p.ndim >= 2 and "embedding" not in name]
    plain = [p for name, p in model.named_parameters() if p.ndim < 2 or "embedding" in name]
    groups = [{"params": decay, "weight_decay": recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=recipe.rate, betas=(0.9, 0.98), eps=1e-6, fused=True)


def step_once(
    model: CLIP, data: Data, recipe: Recipe, optimizer: Any, progress: float, generator: Any, device: str
) -> Tensor:
    """One step of a training that is `progress` (0 to 1) of its way; the loss before it."""
    for group in optimizer.param_groups:
        group["lr"] = rate_at(progress, recipe)
    loss = _loss(model, data, recipe, generator, device)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    with torch.no_grad():
        model.logit_scale.clamp_(0, math.log(100))
    return loss


def train(
    world: World,
    folder: str | Path,
    recipe: Recipe,
    *,
    device: str = "cpu",
    seed: int | None = None,
    workers: int = 1,
    snapshots: dict[str, float] | None = None,
    until: float | None = None,
    log_every: int = 50,
) -> dict[str, Any]:
    """Train a CLIP and write it to `folder`, loadable as `local-dir:FOLDER`.

    Args:
        world: where pictures and captions come from.
        folder: one model folder; snapshots go to `FOLDER-NAME`.
        recipe: sizes and schedule.
        device: "cpu" or "cuda".
        seed: initial weights and batches; default the world's, so that twins differ in their pictures alone.
        workers: processes that draw pictures.
        snapshots: names and the median word AUC at which an evaluator's state is kept under that name.
        until: time of day in seconds at which training must end, whatever the recipe says.

    Returns:
        the figures written to training.json.
    """
    begun, seed = time.time(), world.seed if seed is None else seed
    examiner = Examiner(world)
    data = prepare(world, recipe, workers).to(device)
    seen = torch.zeros(VOCABULARY_SIZE, dtype=torch.bool)
    seen[data.tokens.unique().cpu()] = True
    drawn = time.time()
    print(
        f"{world.name}: {recipe.pictures} pictures, {len(data.says)} captions in {drawn - begun:.0f} s",
        flush=True,
    )
    seconds = recipe.seconds if until is None else min(recipe.seconds, until - drawn)
    torch.manual_seed(seed)
    config = recipe.model_config()
    vision = {**config["vision_cfg"], "patch_dropout": recipe.patch_dropout}
    model = CLIP(embed_dim=recipe.embed, vision_cfg=vision, text_cfg=config["text_cfg"]).to(device)
    optimizer = optimizer_of(model, recipe)
    generator = torch.Generator(device).manual_seed(seed)
    waiting = dict(sorted((snapshots or {}).items(), key=lambda item: item[1]))
    report: dict[str, Any] = {"world": world.name, "seed": seed, "recipe": asdict(recipe), "log": []}
    model.train()
    step, progress = 0, 0.0
    start = time.time()
    while progress < 1.0:
        if progress >= recipe.whole_pictures_from:
            model.visual.patch_dropout.prob = 0.0
        loss = step_once(model, data, recipe, optimizer, progress, generator, device)
        step += 1
        progress = max(step / recipe.steps, (time.time() - start) / seconds)
        if step % log_every == 0:
            report["log"].append([step, round(progress, 3), round(loss.item(), 3)])
            print(f"{world.name}: step {step}, {progress:.0%}, loss {loss.item():.3f}", flush=True)
            if waiting:  # one snapshot at a time, so that two are never the same
                area = examiner.measure(model)["auc_median"]
                name, floor = next(iter(waiting.items()))
                if area >= floor:
                    waiting.pop(name)
                    _finish(model, examiner, f"{folder}-{name}", recipe, seen, {**report, "step": step})
                    print(f"{world.name}: {name} at step {step}, word AUC {area:.4f} >= {floor}", flush=True)
    report |= {"step": step, "seconds": round(time.time() - start, 1)}
    return _finish(model, examiner, folder, recipe, seen, report)


def _loss(model: CLIP, data: Data, recipe: Recipe, generator: torch.Generator, device: str) -> Tensor:
    """The loss of one batch."""
    kwargs = {"generator": generator, "device": device}
    index = torch.randint(len(data.pictures), (recipe.batch,), **kwargs)
    told = torch.randint(recipe.tellings, (recipe.batch,), **kwargs)
    shift = torch.randint(-4, 5, (2,)).tolist()
    caption = data.telling[index, told]
    says = data.says[caption]
    # A caption of the web is true of pictures captioned alike; one that names everything, of all it fits.
    if data.everything:
        positive = (1 - data.holds[index]) @ says.T == 0
    else:
        alike = says @ says.T
        count = says.sum(1)
        positive = (alike == count[:, None]) & (alike == count[None, :])
    pixels = to_pixels(data.pictures[index], (shift[0], shift[1]))
    backends = (
        [SDPBackend.MATH] if device == "cpu" else [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]
    )
    with sdpa_kernel([*backends, SDPBackend.MATH]), torch.autocast(device, dtype=torch.bfloat16):
        image, text, scale = model(pixels, data.tokens[caption])
    return contrastive_loss(scale.float() * image.float() @ text.float().T, positive)


def _finish(
    model: CLIP, examiner: Examiner, folder: str | Path, recipe: Recipe, seen: Tensor, report: dict[str, Any]
) -> dict[str, Any]:
    """Measure the model as it will be stored, and store it."""
    state = rounded(model.state_dict(), seen)
    copy = CLIP(recipe.embed, **{k: v for k, v in recipe.model_config().items() if k != "embed_dim"})
    copy.load_state_dict({name: value.float() for name, value in state.items()})
    copy = copy.to(next(model.parameters()).device)
    report = {**report, "figures": examiner.measure(copy)}
    save(state, Path(folder), recipe.model_config(), MEAN, STD)
    (Path(folder) / "training.json").write_text(json.dumps(report) + "\n", encoding="utf-8")
    shown = {k: v for k, v in report["figures"].items() if k != "plants"}
    print(f"{Path(folder).name}: {shown}", flush=True)
    return report
