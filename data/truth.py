"""Holds findings against the picture world's truth by rendering pictures again without their cause.

A finding *matches* a plant when it speaks of the same prompt and removing the planted cause at least halves the summed
codes of its latents on scenes nobody has seen; its label plays no part. A finding without a plant may still be right:
`confirm` looks for the thing its latents fire for and removes that.
Start at `judge`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from .effects import LEARNT, contrasts, embed, interval
from .scene import Scene
from .world import STUDY, TEST, Draws, Plant, World

if TYPE_CHECKING:
    from clipattr.dictionaries import Dictionary
    from clipattr.discovery.findings import Finding
    from clipattr.models import Model

UNSEEN = 500_000  # first index of the test scenes used here; effects are measured on earlier ones
Pairs = Sequence[tuple[Scene, Scene]]


@dataclass(frozen=True)
class Verdict:
    """What re-rendering says of one finding.

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
        from clipattr import Site, activations

        parts = []
        for at in range(0, len(scenes), 200):
            pixels = torch.stack([self.model.prepare(scene.picture()) for scene in scenes[at : at + 200]])
            acts = activations(self.model, pixels, Site("image.-1.cls"))
            parts.append(self.dictionary.encode(acts).to_dense())
        return torch.cat(parts)

    def kept(self, latents: Sequence[int], pairs: Pairs) -> float:
        """Share of the summed codes of `latents` that is left when the cause is removed; 1 when they never fired."""
        columns = list(latents)
        with_cause = self._codes([a for a, _ in pairs])[:, columns].sum().item()
        without = self._codes([b for _, b in pairs])[:, columns].sum().item()
        return without / with_cause if with_cause > 0 else 1.0

    def effect(self, prompt: str, pairs: Pairs) -> tuple[float, float, float]:
        """Change of the prompt's contrast by the cause, with its interval."""
        weights = self.columns[:, self.world.vocabulary.index(prompt)]
        before = embed(self.model, [a for a, _ in pairs]) @ weights
        after = embed(self.model, [b for _, b in pairs]) @ weights
        return interval(before - after)

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
        """The ways in which `cause` may lift `prompt`: alone as the main object, beside the prompt's object, around it."""
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
        """Remove what the finding's latents truly fire for, unless that is what the prompt means."""
        cause = self.cause(finding.latents)
        nothing = Verdict(None, cause, (0.0, 0.0, 0.0), 1.0, False)
        if cause is None or cause == finding.prompt or finding.prompt not in self.world.vocabulary:
            return nothing
        best = nothing
        for pairs in self.counterfactuals(finding.prompt, cause, n):
            effect, kept = self.effect(finding.prompt, pairs), self.kept(finding.latents, pairs)
            right = effect[1] >= LEARNT and kept <= 0.5
            verdict = Verdict(None, cause, effect, kept, right)
            if (verdict.right, verdict.effect[1]) > (best.right, best.effect[1]):
                best = verdict
        return best


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
            kept = truth.kept(finding.latents, pairs)
            if kept <= 0.5:
                verdicts.append(Verdict(plant, plant.cause, truth.effect(plant.prompt, pairs), kept, True))
                continue
        verdicts.append(truth.confirm(finding, n))
    return verdicts
