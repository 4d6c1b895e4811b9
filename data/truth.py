"""Judges findings by the picture world's truth, rendering pictures again without their cause.

A finding *matches* a plant if it has the same prompt and removing the planted cause at least halves the summed codes of
its latents on new scenes; its label is not used. A finding without a plant may still be right:
`confirm` finds the concept that its latents fire for and removes that concept.
Start at `judge`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from . import models_dir
from .effects import LEARNT, contrasts, interval
from .scene import Scene
from .world import STUDY, TEST, Draws, Plant, World

if TYPE_CHECKING:
    from clipattr.dictionaries import Dictionary
    from clipattr.discovery.findings import Finding
    from clipattr.models.loading import Model

UNSEEN = 500_000  # first index of the test scenes used here; effects are measured on earlier ones
Pairs = Sequence[tuple[Scene, Scene]]


@dataclass(frozen=True)
class Verdict:
    """Verdict on one finding by re-rendering.

    Attributes:
        plant: the listed plant it found, if any.
        cause: what was removed, by its own name.
        effect: change of the prompt's contrast with its 95 % interval, raw cosine.
        kept: share of the family's summed codes that is left without the cause.
        right: a learnt plant, or an unlisted cause that re-rendering confirms.
    """

    plant: Plant | None
    cause: str | None
    effect: tuple[float, float, float]
    kept: float
    right: bool


class Truth:
    """One audited model with its world: encodes scenes, and knows each prompt's true looks."""

    def __init__(self, model: Model, dictionary: Dictionary, world: World, pictures: int = 3000):
        self.model, self.dictionary, self.world = model, dictionary, world
        self.columns = contrasts(model, world.vocabulary)
        self.scenes = [world.scene(index, STUDY) for index in range(1_000_000, 1_000_000 + pictures)]
        self.codes = self._codes(self.scenes)
        self.contents = [frozenset(world.contents(scene)) for scene in self.scenes]

    def _codes(self, scenes: Sequence[Scene]) -> torch.Tensor:
        """Dense (scenes, latents); the picture world's dictionaries are small."""
        return self._encode(scenes)[0]

    def _encode(self, scenes: Sequence[Scene]) -> tuple[torch.Tensor, torch.Tensor]:
        """Dense codes (scenes, latents) and contrasts (scenes, words) from one forward pass."""
        from clipattr import Site, activations, continue_from

        site, codes, scores = Site("image.-1.cls"), [], []
        for at in range(0, len(scenes), 200):
            pixels = torch.stack([self.model.prepare(scene.picture()) for scene in scenes[at : at + 200]])
            acts = activations(self.model, pixels, site)
            codes.append(self.dictionary.encode(acts).to_dense())
            scores.append(continue_from(self.model, site, acts) @ self.columns)
        return torch.cat(codes), torch.cat(scores)

    def remove(
        self, prompt: str, latents: Sequence[int], pairs: Pairs
    ) -> tuple[tuple[float, float, float], float]:
        """Effect of removing the cause on the prompt's contrast (mean and interval) and on the latents.

        Returns:
            the effect of the cause in raw cosine, and the share of the summed codes that is left without it (1 when
            they never fired).
        """
        columns, word = list(latents), self.world.vocabulary.index(prompt)
        codes, scores = self._encode([a for a, _ in pairs])
        codes_without, scores_without = self._encode([b for _, b in pairs])
        fired = codes[:, columns].sum().item()
        kept = codes_without[:, columns].sum().item() / fired if fired > 0 else 1.0
        return interval(scores[:, word] - scores_without[:, word]), kept

    def cause(self, latents: Sequence[int]) -> str | None:
        """The content of scenes that the latents' summed codes separate best (largest area under the ROC curve)."""
        strength = self.codes[:, list(latents)].sum(1).numpy()
        ranks = np.argsort(np.argsort(strength, kind="stable")).astype(float)
        best: tuple[float, str | None] = (0.6, None)
        for content in sorted(set().union(*self.contents)):
            there = np.array([content in contents for contents in self.contents])
            n, m = int(there.sum()), int((~there).sum())
            if n < 10:
                continue
            area = (ranks[there].sum() - n * (n - 1) / 2) / (n * m)
            best = max(best, (area, content), key=lambda item: item[0])
        return best[1]

    def counterfactuals(self, prompt: str, cause: str, n: int) -> list[Pairs]:
        """How `cause` may raise the score of `prompt`: alone as main object, beside the prompt's own, around it."""
        world, looks = self.world, [c for c in self.world.concepts if self.world.call(c) == prompt]
        alone, beside, around = [], [], []
        for number in range(n):
            draws = Draws(world.seed * 1_000_003 + TEST, 2_000_000_007 + number)
            look = looks[draws.below(len(looks))] if looks else None
            scene = Scene(look, context=world.draw_context(draws), seed=draws.below(1 << 60))
            neutral = world.neutral[draws.below(len(world.neutral))]
            if cause in world.contexts:
                around.append((scene.with_context(cause), scene.without("context")))
            elif cause == "a watermark":
                mark = world.watermarks[draws.below(len(world.watermarks))]
                around.append((scene.with_watermark(mark), scene))
            elif cause.startswith("the word "):
                around.append((scene.with_word(cause.removeprefix("the word ")), scene))
            else:
                beside.append((scene.with_companion(cause), scene))
                alone.append((replace(scene, main=cause), scene.with_main(neutral)))
        return [pairs for pairs in (alone, beside, around) if pairs]

    def confirm(self, finding: Finding, n: int = 100) -> Verdict:
        """Remove the content that the finding's latents fire for, unless it is the prompt's own concept."""
        cause = self.cause(finding.latents)
        nothing = Verdict(None, cause, (0.0, 0.0, 0.0), 1.0, False)
        if cause is None or cause == finding.prompt or finding.prompt not in self.world.vocabulary:
            return nothing
        best = nothing
        for pairs in self.counterfactuals(finding.prompt, cause, n):
            effect, kept = self.remove(finding.prompt, finding.latents, pairs)
            right = effect[1] >= LEARNT and kept <= 0.5
            verdict = Verdict(None, cause, effect, kept, right)
            if (verdict.right, verdict.effect[1]) > (best.right, best.effect[1]):
                best = verdict
        return best


def learnt_plants(world: World) -> list[Plant]:
    """The plants of a bundled world that re-rendering has shown its model to have learnt."""
    rows = json.loads((models_dir() / world.name / "effects.json").read_text(encoding="utf-8"))
    return [plant for plant, row in zip(world.plants, rows, strict=True) if row["learnt"]]


def judge(truth: Truth, findings: Sequence[Finding], learnt: Sequence[Plant], n: int = 100) -> list[Verdict]:
    """A verdict for each finding, in order.

    Args:
        truth: the audited model's world.
        learnt: the plants that count.
        n: scenes rendered per check.
    """
    by_prompt = {plant.prompt: plant for plant in learnt}
    verdicts = []
    for finding in findings:
        plant = by_prompt.get(finding.prompt)
        if plant is not None:
            pairs = plant.scenes(truth.world, n, TEST, UNSEEN)
            effect, kept = truth.remove(plant.prompt, finding.latents, pairs)
            if kept <= 0.5:
                verdicts.append(Verdict(plant, plant.cause, effect, kept, True))
                continue
        verdicts.append(truth.confirm(finding, n))
    return verdicts
