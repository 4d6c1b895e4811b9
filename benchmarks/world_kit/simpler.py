"""Simpler ways to suspect a reliance, judged beside the audit. They read a study's public arrays only.

Each takes a study and prompts and returns suspects, best first; `Judge` judges them as it judges findings.
Start at `BASELINES`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

EXPECTED = 0.5  # of a family's best word: what the prompt describes at least so well is no surprise
CLEAR, UNALIGNED = 0.4, 0.05  # clarity and alignment of the paper's filter for outliers


@dataclass(frozen=True)
class Suspect:
    """A suspected reliance; without latents it is judged by its word alone."""

    prompt: str
    latents: tuple[int, ...] | None
    label: str | None


class Looks:
    """What all baselines look at."""

    def __init__(self, study: Any, prompts: Sequence[str]):
        self.study, self.prompts = study, list(prompts)
        self.codes = study.codes.to_dense().numpy()
        self.seen = np.asarray(study.evaluator_embeddings, dtype=np.float32)

    @cached_property
    def own(self) -> list[np.ndarray]:
        """Rows of each prompt's pictures: by label, or as many as an equal share by the evaluator's similarity."""
        labels = self.study.images.columns["label"]
        if any(label is not None for label in labels):
            return [np.array([i for i, label in enumerate(labels) if label == p]) for p in self.prompts]
        text = self.study.evaluator.encode_text(self.prompts).numpy()
        share = max(20, len(self.seen) // max(20, len(self.prompts)))
        return [np.argsort(-(self.seen @ column), kind="stable")[:share] for column in text]

    @cached_property
    def contrast(self) -> np.ndarray:
        """(embed, prompts): the audited model's prompts less their mean."""
        text = self.study.model.encode_text(self.prompts)
        return (text - text.mean(0)).T.numpy()

    @cached_property
    def means(self) -> np.ndarray:
        """(latents, embed): mean evaluator embedding of each latent's examples."""
        rows = self.study.examples.indices.numpy()
        there = rows >= 0
        total = (self.seen[rows.clip(0)] * there[..., None]).sum(1)
        return total / there.sum(1, keepdims=True).clip(1)

    @cached_property
    def alignment(self) -> np.ndarray:
        """(latents, prompts): of the examples with each prompt, above the empty prompt's."""
        text = self.study.evaluator.encode_text(self.prompts).numpy()
        return self.means @ text.T - (self.means @ self.study.empty_embedding.numpy())[:, None]

    @cached_property
    def unexpected(self) -> np.ndarray:
        """(latents, prompts) bool: live, and the prompt describes the examples much worse than their best word."""
        words = self.study.vocabulary_embeddings.numpy()
        best = (self.means @ words.T - (self.means @ self.study.empty_embedding.numpy())[:, None]).max(1)
        live = self.study.examples.counts.numpy() > 0
        return (self.alignment < EXPECTED * best[:, None]) & live[:, None]

    @cached_property
    def strength(self) -> np.ndarray:
        """(latents, prompts): mean code on each prompt's pictures."""
        return np.stack(
            [self.codes[rows].mean(0) if len(rows) else np.zeros(self.codes.shape[1]) for rows in self.own], 1
        )

    @cached_property
    def lens(self) -> np.ndarray:
        """(latents, prompts): each decoder row continued alone to the embedding, times the prompt's contrast."""
        from clipattr import continue_from

        alone = continue_from(self.study.model, self.study.site, self.study.dictionary.decoder)
        return alone.detach().numpy() @ self.contrast

    def best(self, score: np.ndarray, allowed: np.ndarray, n: int) -> list[Suspect]:
        """The `n` best allowed (latent, prompt) pairs; latents of one word and prompt make one suspect."""
        names = self.study.latents["label"].tolist()
        order = np.argsort(-np.where(allowed, score, -np.inf), axis=None, kind="stable")
        found: dict[tuple[int, object], list[int]] = {}
        for place in order.tolist():
            latent, prompt = divmod(place, score.shape[1])
            if not allowed[latent, prompt]:
                break
            key = prompt, names[latent] or latent
            if key not in found and len(found) == n:
                break
            found.setdefault(key, []).append(latent)
        return [
            Suspect(self.prompts[prompt], tuple(latents), names[latents[0]])
            for (prompt, _), latents in found.items()
        ]


def low_alignment(looks: Looks, n: int) -> list[Suspect]:
    """The paper's way: activation × logit lens among clear latents that are little aligned with the prompt."""
    clear = looks.study.latents["clarity"].to_numpy()[:, None] > CLEAR
    allowed = (looks.alignment < UNALIGNED) & clear & (looks.study.examples.counts.numpy() > 0)[:, None]
    return looks.best(looks.strength * looks.lens, allowed, n)


def activation(looks: Looks, n: int) -> list[Suspect]:
    """Mean activation on the prompt's pictures, less its mean over prompts."""
    return looks.best(looks.strength - looks.strength.mean(1, keepdims=True), looks.unexpected, n)


def logit_lens(looks: Looks, n: int) -> list[Suspect]:
    """The logit lens alone: no picture is asked."""
    return looks.best(looks.lens, looks.unexpected, n)


def activation_lens(looks: Looks, n: int) -> list[Suspect]:
    """Mean activation times the logit lens."""
    return looks.best(looks.strength * looks.lens, looks.unexpected, n)


def evaluator_alone(looks: Looks, n: int) -> list[Suspect]:
    """No audited model: words that the evaluator sees on the prompt's pictures rather than elsewhere."""
    study = looks.study
    similar = looks.seen @ study.vocabulary_embeddings.numpy().T
    similar = (similar - similar.mean(0)) / similar.std(0).clip(1e-6)
    rise = np.stack([similar[rows].mean(0) if len(rows) else -np.inf + similar[0] for rows in looks.own], 1)
    words = list(study.vocabulary.words)
    text = torch.nn.functional.normalize(study.vocabulary_embeddings, dim=-1).numpy()
    like = text @ study.evaluator.encode_text(looks.prompts).numpy().T
    found: list[Suspect] = []
    for place in np.argsort(-rise, axis=None, kind="stable").tolist():
        word, prompt = divmod(place, rise.shape[1])
        if len(found) == n:
            break
        if words[word] != looks.prompts[prompt] and like[word, prompt] < 0.9:
            found.append(Suspect(looks.prompts[prompt], None, words[word]))
    return found


BASELINES: dict[str, Callable[[Looks, int], list[Suspect]]] = {
    "evaluator_alone": evaluator_alone,
    "low_alignment": low_alignment,
    "activation": activation,
    "logit_lens": logit_lens,
    "activation_lens": activation_lens,
}
