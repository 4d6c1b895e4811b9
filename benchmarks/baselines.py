"""Simpler ways to choose suspicious reliances, each naming as many as the audit: what the audit is compared with.

All of them see the same families, prompts and pictures as the audit, and the same test of what is expected; they differ
in the score by which they rank. Each takes a study and a number, and returns that many findings, best first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

import clipattr as ca
from clipattr.discovery.audit.base import Base
from clipattr.discovery.audit.expectations import (
    expected_share,
    family_means,
    prompt_embeddings,
    read_prompts,
)
from clipattr.discovery.audit.mediators import carried_by
from clipattr.discovery.audit.naming import named_families
from clipattr.discovery.audit.subject import Subject
from clipattr.discovery.findings import Finding
from clipattr.statistics import Interval

EXPECTED = 0.5  # share of its best word's alignment from which a prompt describes a family
CLEAR, UNALIGNED = 0.4, 0.05  # clarity and alignment of the reference's outlier filter


class Suspects:
    """What every baseline looks at: families (or single latents), their expected shares, the finding half."""

    def __init__(self, study: ca.Study, single: bool = False):
        self.study, self.prompts = study, read_prompts(None, study)
        families = [group.latents for group in named_families(study)]
        self.families = [[latent] for family in families for latent in family] if single else families
        meant = prompt_embeddings(study, self.prompts)
        means = family_means(study, self.families)
        self.share, self.aligned = expected_share(
            means, meant, study.vocabulary_embeddings, study.empty_embedding
        )
        self.base = Base.of(study)
        self.subjects = [Subject.of(self.base, prompt) for prompt in self.prompts]

    def strength(self) -> Any:
        """(pictures, families) summed codes on the finding half, scipy CSC."""
        codes = self.base.finding.codes.tocsc()
        return np.stack([np.asarray(codes[:, family].sum(1)).ravel() for family in self.families], 1)

    def on_own(self) -> tuple[Tensor, Tensor]:
        """Mean strength and presence of each family on each prompt's own pictures, (families, prompts) each."""
        table = torch.from_numpy(self.strength()).float()
        active = (table > 0).float()
        owns = [subject.finding.own for subject in self.subjects]
        strength = torch.stack([table[own].mean(0) for own in owns], 1).nan_to_num()
        presence = torch.stack([active[own].mean(0) for own in owns], 1).nan_to_num()
        return strength, presence - active.mean(0)[:, None]

    @property
    def columns(self) -> Tensor:
        """(embed, prompts) directions of the contrasts."""
        return torch.stack([subject.column for subject in self.subjects], 1)

    def best(self, score: Tensor, allowed: Tensor, n: int) -> list[Finding]:
        """The `n` best allowed (family, prompt) pairs by score, as findings."""
        flat = score.masked_fill(~allowed, -torch.inf).flatten()
        zero = Interval(0.0, 0.0, 0.0)
        findings = []
        for place in flat.topk(min(n, int(allowed.sum()))).indices.tolist():
            family, prompt = divmod(place, score.shape[1])
            latents = tuple(self.families[family])
            findings.append(
                Finding(self.prompts[prompt].text, latents, None, "unknown", 0, zero, zero, 0, 0, 0, 0)
            )
        return findings


def low_alignment(study: ca.Study, n: int) -> list[Finding]:
    """The reference's way: single latents by attribution, kept if clear and little aligned with the prompt."""
    seen = Suspects(study, single=True)
    clear = study.latents["clarity"].to_numpy()[[family[0] for family in seen.families]] > CLEAR
    allowed = (seen.aligned < UNALIGNED) & torch.from_numpy(clear)[:, None]
    carried = torch.stack(
        [
            carried_by(seen.base, subject, seen.base.finding, subject.finding.own).float()
            for subject in seen.subjects
        ]
    )  # (prompts, latents)
    return seen.best(carried.T[[family[0] for family in seen.families]], allowed, n)


def association(study: ca.Study, n: int) -> list[Finding]:
    """Presence on the prompt's pictures beyond presence elsewhere, without asking what the model uses."""
    seen = Suspects(study)
    return seen.best(seen.on_own()[1], seen.share < EXPECTED, n)


def activation(study: ca.Study, n: int) -> list[Finding]:
    """Mean activation on the prompt's pictures."""
    seen = Suspects(study)
    return seen.best(seen.on_own()[0], seen.share < EXPECTED, n)


def lens(study: ca.Study, n: int) -> list[Finding]:
    """Mean activation times the logit lens, in place of exact attribution."""
    seen = Suspects(study)
    directions = ca.continue_from(study.model, study.site, study.dictionary.decoder)  # each alone, embedded
    score = directions @ seen.columns  # (latents, prompts)
    strength = seen.on_own()[0]
    weight = torch.stack([score[torch.as_tensor(family)].mean(0) for family in seen.families])
    return seen.best(strength * weight, seen.share < EXPECTED, n)


BASELINES: dict[str, Callable[[ca.Study, int], list[Finding]]] = {
    "low_alignment": low_alignment,
    "association": association,
    "activation": activation,
    "logit_lens": lens,
}
