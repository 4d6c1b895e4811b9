"""Judges findings by a world's truth, drawing pictures again without their cause.

A finding *matches* a plant if it has the same prompt and leaving out the planted cause at least halves the summed codes
of its latents on new pictures, significantly more than by chance; its label is not used. A finding without a plant is
right where `Judge.confirm` shows the same for the concept that its latents fire for. Start at `Judge`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.stats import rankdata

from .effects import LEARNT
from .scene import TEST, Plant, Scene, draws
from .world import World

UNSEEN = 500_000  # first of the test scenes that findings are judged on; effects are measured on earlier ones
PAIRS = 100  # for a verdict
GLANCE = 24  # pairs after which a hopeless cause is dropped
LEFT = 0.5  # share of the summed codes that may be left without the cause
SURE = 4.0  # standard errors of a rank sum above chance from which a family is taken to fire for something
RARE = 10  # least pictures of a content that is tested as the cause of firing


@dataclass(frozen=True)
class Pairs:
    """Effect of leaving a cause out: codes (n, latents) with and without it, change of every prompt's contrast."""

    present: np.ndarray
    absent: np.ndarray
    change: np.ndarray  # (n, prompts)

    def kept(self, latents: Sequence[int]) -> float:
        """Share of the summed codes that is left; 1 where the latents never fire."""
        fired = float(self.present[:, list(latents)].sum())
        return float(self.absent[:, list(latents)].sum()) / fired if fired > 0 else 1.0

    def falls(self, latents: Sequence[int]) -> bool:
        """Whether the summed codes fall by at least half, and significantly more than by chance."""
        columns = list(latents)
        fall = (self.present[:, columns] - self.absent[:, columns]).sum(1)
        error = float(fall.std(ddof=1)) / len(fall) ** 0.5
        return self.kept(columns) <= LEFT and float(fall.mean()) > 1.96 * error

    def effect(self, prompt: int) -> tuple[float, float, float]:
        """Mean change of a prompt's contrast and its 95 % interval, raw cosine."""
        values = self.change[:, prompt]
        half = 1.96 * float(values.std(ddof=1)) / len(values) ** 0.5
        return float(values.mean()), float(values.mean()) - half, float(values.mean()) + half

    def latent_area(self) -> float:
        """The largest area under the ROC curve by which a single latent tells pictures with the cause from others."""
        n = len(self.present)
        ranks = rankdata(np.concatenate([self.present, self.absent]), axis=0)
        return float(((ranks[:n].sum(0) - n * (n + 1) / 2) / (n * n)).max())


@dataclass(frozen=True)
class Verdict:
    """Verdict on one finding by redrawn pictures.

    Attributes:
        plant: the listed plant it found, if any.
        cause: what was left out, by its own name.
        effect: change of the prompt's contrast with its 95 % interval, raw cosine.
        kept: share of the family's summed codes that is left without the cause.
        right: a learnt plant, or an unlisted cause that drawing again confirms.
    """

    plant: Plant | None
    cause: str | None
    effect: tuple[float, float, float]
    kept: float
    right: bool


class Judge:
    """One audited model in its world."""

    def __init__(self, study: Any, world: World, contents: dict[str, list[str]], learnt: Sequence[Plant]):
        """Prepare to judge findings.

        Args:
            study: of the world's pictures; its codes say what latents fire for.
            world: that the pictures are of.
            contents: everything in every picture of the study, by the picture's id.
            learnt: the plants that count.
        """
        self.study, self.world, self.learnt = study, world, list(learnt)
        self.prompts = world.prompts
        text = study.model.encode_text(self.prompts)
        self._columns = (text - text.mean(0)).T
        rows = [frozenset(contents[name]) for name in study.images.ids]
        self.things = sorted(
            thing for thing in set().union(*rows) if sum(thing in row for row in rows) >= RARE
        )
        self.shown = np.array([[thing in row for thing in self.things] for row in rows], dtype=np.float64)
        self.codes = study.codes.to_dense().numpy()
        self._known: dict[tuple[Any, ...], Pairs] = {}

    def _encode(self, scenes: Sequence[Scene]) -> tuple[np.ndarray, torch.Tensor]:
        """Codes (n, latents) and contrasts (n, prompts) from one forward pass."""
        from PIL import Image

        from clipattr import activations, continue_from

        model, site = self.study.model, self.study.site
        codes, scores = [], []
        for at in range(0, len(scenes), 100):
            pictures = [self.world.renderer.render(s, self.world.unseen(TEST)) for s in scenes[at : at + 100]]
            pixels = torch.stack([model.prepare(Image.fromarray(p)) for p in pictures])
            acts = activations(model, pixels, site)
            codes.append(self.study.dictionary.encode(acts).to_dense().numpy())
            scores.append(continue_from(model, site, acts) @ self._columns)
        return np.concatenate(codes), torch.cat(scores)

    def _pairs(self, key: tuple[Any, ...], scenes: Sequence[tuple[Scene, Scene]]) -> Pairs:
        if key not in self._known:
            codes, scores = self._encode([scene for pair in scenes for scene in pair])
            change = (scores[::2] - scores[1::2]).numpy()
            self._known[key] = Pairs(codes[::2].astype(np.float32), codes[1::2].astype(np.float32), change)
        return self._known[key]

    def of_plant(self, plant: Plant) -> Pairs:
        """Fresh pictures with and without a plant's cause."""
        return self._pairs(("plant", plant), self.world.pairs(plant, PAIRS, TEST, UNSEEN))

    def cause(self, latents: Sequence[int]) -> str | None:
        """The content that separates best the pictures in which the latents' summed codes are high."""
        strength = self.codes[:, list(latents)].sum(1)
        there = self.shown.sum(0)
        absent = len(strength) - there
        ranks = rankdata(strength)
        chance = there * absent
        area = (ranks @ self.shown - there * (there + 1) / 2) / chance.clip(1)
        error = float(ranks.std()) * np.sqrt(len(strength) / chance.clip(1)) / len(strength)  # ties included
        area = np.where((area - 0.5 > SURE * error) & (chance > 0), area, 0.0)
        return self.things[int(area.argmax())] if len(self.things) and area.max() > 0 else None

    def _scenes(self, prompt: str, cause: str, n: int, first: int) -> dict[str, list[tuple[Scene, Scene]]]:
        """How `cause` may raise the score of `prompt`: beside or around the prompt's own objects, or alone."""
        world = self.world
        own = [c for c in world.concepts if world.call(c) == prompt]
        concept = {word: c for c, word in world.concepts.items()}.get(cause)
        parts = {
            **dict.fromkeys(world.contexts, "context"),
            **dict.fromkeys(world.marks, "mark"),
            **dict.fromkeys(world.looks, "look"),
        }
        ways: dict[str, list[tuple[Scene, Scene]]] = {}
        for number in range(first, first + n):
            rng = draws(world.seed, TEST, "confirm", number)
            around = rng.choice(world.contexts) if rng.random() < 0.4 else None
            neutral, main = rng.choice(world.neutral), rng.choice(own)
            scene = Scene(main, context=around, seed=rng.getrandbits(60))
            if cause in parts:
                part = parts[cause]
                ways.setdefault("around", []).append(
                    (replace(scene, **{part: cause}), replace(scene, **{part: None}))
                )
            elif cause.startswith("the word "):
                word = cause.removeprefix("the word ")
                for way, there in (("around", scene), ("alone", replace(scene, main=neutral))):
                    ways.setdefault(way, []).append((replace(there, word=word), there))
            elif concept is not None:
                ways.setdefault("alone", []).append(
                    (replace(scene, main=concept), replace(scene, main=neutral))
                )
                ways.setdefault("beside", []).append((replace(scene, companion=concept), scene))
        return ways

    def effect(self, prompt: str, cause: str, latents: Sequence[int] | None) -> Verdict:
        """Leave a cause out of pictures of a prompt; without latents only the effect on the prompt is asked."""
        best = Verdict(None, cause, (0.0, 0.0, 0.0), 1.0, False)
        place = self.prompts.index(prompt)
        glance = self._scenes(prompt, cause, GLANCE, UNSEEN)
        for way, scenes in glance.items():
            # Swapped main objects and words before neutral ones are the same for every prompt.
            key = (way, cause) if way == "alone" else (way, cause, prompt)
            pairs = self._pairs(("glance", *key), scenes)
            if pairs.effect(place)[2] >= LEARNT:
                pairs = self._pairs(("all", *key), self._scenes(prompt, cause, PAIRS, UNSEEN)[way])
            kept = 0.0 if latents is None else pairs.kept(latents)
            effect = pairs.effect(place)
            right = effect[1] >= LEARNT and (latents is None or pairs.falls(latents))
            verdict = Verdict(None, cause, effect, kept, right)
            if (verdict.right, verdict.effect[1]) > (best.right, best.effect[1]):
                best = verdict
        return best

    def confirm(self, prompt: str, latents: Sequence[int]) -> Verdict:
        """Leave out the cause that the latents fire for, unless it is the prompt's own concept."""
        cause = self.cause(latents)
        if cause is None or cause == prompt or prompt not in self.prompts:
            return Verdict(None, cause, (0.0, 0.0, 0.0), 1.0, False)
        return self.effect(prompt, cause, latents)

    def match(self, prompt: str, latents: Sequence[int]) -> Verdict | None:
        """The learnt plant of a prompt to which the latents respond; None without one."""
        for plant in self.learnt:
            if plant.prompt == prompt:
                pairs = self.of_plant(plant)
                if pairs.falls(latents):
                    effect = pairs.effect(self.prompts.index(prompt))
                    return Verdict(plant, self.name_of(plant), effect, pairs.kept(latents), True)
        return None

    def judge(self, prompt: str, latents: Sequence[int]) -> Verdict:
        """The verdict on one finding."""
        return self.match(prompt, latents) or self.confirm(prompt, latents)

    def name_of(self, plant: Plant) -> str:
        """A plant's cause as contents and captions call it."""
        if plant.kind == "typography":
            return f"the word {plant.cause}"
        return self.world.concepts.get(plant.cause, plant.cause)


WRITING = frozenset(
    ("written word", "word", "words", "text", "writing", "lettering", "letters", "caption", "inscription")
)


def names_cause(label: str | None, cause: str | None) -> bool:
    """Whether a finding's label is a name of the cause: its word, a phrase of the captions with it, or its plural.

    A written word is named by itself or by any word for writing.

    >>> names_cause("one curtain", "curtain"), names_cause("curtain", "radar"), names_cause("text", "the word harp")
    (True, False, True)
    """
    if not label or not cause:
        return False
    said = label.lower().strip()
    for phrase in ("a picture of a ", "one ", "the word ", "a ", "the "):
        said = said.removeprefix(phrase)
    said = said.strip("\"'“”")
    if cause.startswith("the word "):
        return said in WRITING or said == cause.removeprefix("the word ").lower()
    name = cause.lower()
    return said == name or said in (name + "s", name + "es") or name in (said + "s", said + "es")
