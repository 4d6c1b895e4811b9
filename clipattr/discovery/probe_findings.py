"""Probe findings: families of latents that a classifier rests on, and that its class does not explain.

Two witnesses must agree on a family. *Ablation*: on pictures that clearly show it, taking it out of the activation lets
the class's margin fall. *Comparison*: among pictures of one and the same class, those that clearly show it have a
higher margin than those that do not. The first says that the classifier reads the family, the second that what the
family stands for moves the decision that far; a thing may go with others in a collection, and a latent with several
things, but seldom both the same way. Amounts are told in gaps: 1 is what tells the class's own pictures from others.
Owns this measurement. Ignores accuracy and single latents (`probe_audit.py`). Start at `probe_findings`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from clipattr.attribution import ClosedFormTail
from clipattr.discovery.encoded import Encoded, summed_codes
from clipattr.discovery.expectations import expected_share, family_means
from clipattr.discovery.findings import Finding, Interval
from clipattr.discovery.naming import named_families
from clipattr.discovery.probes import Probe
from clipattr.discovery.statistics import interval
from clipattr.errors import StudyError
from clipattr.meaning import clarity

if TYPE_CHECKING:
    from clipattr.study import Study

UNEXPECTED = 0.5  # a family is expected if the class describes it at least this well, against its best word
STRONG, FAINT = 0.5, 0.25  # of the 99th percentile of its codes: clearly there, and as good as absent
FEW = 5  # pictures of a class that must show a family, and lack it, for a comparison
EXAMPLES = 12


@dataclass(frozen=True)
class Bounds:
    """What makes a reliance of a probe worth reporting, in gaps; the lower end of each interval must reach it.

    Attributes:
        compared: difference between pictures of one class with the family and without. ablated: fall when the family
            is ablated on pictures that show it.
    """

    compared: float = 0.1
    ablated: float = 0.03


def probe_findings(
    study: Study, probe: Probe, pictures: Encoded, truth: Tensor, bounds: Bounds | None = None
) -> list[Finding]:
    """Families that a probe rests on and that no class of that name should, largest causal effect first.

    Args:
        pictures: to measure on, of this study's model. truth: (pictures,) the number of each one's class.

    Returns:
        findings. Reliance and effects are raw cosines with the direction of the class's margin, whose length in logits
        is `evidence["logits_per_cosine"]`; `evidence` holds both witnesses in gaps, with intervals.

    Raises:
        StudyError: no latent has an example.
    """
    bounds = bounds or Bounds()
    groups = named_families(study)
    if not groups:
        raise StudyError("No latent of this study has an example: there is nothing to find.")
    means = family_means(study, [group.latents for group in groups])
    text = study.evaluator.encode_text(list(probe.names)).float()
    share, aligned = expected_share(means, text, study.vocabulary_embeddings, study.empty_embedding)
    weights, constants = probe.margins()
    length = weights.norm(dim=0)
    weights = weights / length.clamp_min(1e-12)
    margins = pictures.embeddings @ weights + constants / length.clamp_min(1e-12)  # raw cosine
    tail = ClosedFormTail(study.model, study.dictionary, weights)
    strengths = [summed_codes(pictures.codes, group.latents) for group in groups]
    carried = torch.stack([_carried(tail, pictures, group.latents, truth) for group in groups])
    found = []
    for number, name in enumerate(probe.names):
        own = truth == number
        if not own.any() or own.all():
            continue
        gap = float(margins[own, number].mean() - margins[~own, number].mean())
        if gap <= 0:
            continue  # a class that is not told from the others rests on nothing
        evidence_of_class = carried[:, number].clamp_min(0).sum().clamp_min(1e-9)
        for family, group in enumerate(groups):
            if share[family, number] >= UNEXPECTED:
                continue
            there, gone = shows(strengths[family])
            compared = within_classes(margins[:, number], truth, there, gone)
            if not compared.low >= bounds.compared * gap:
                continue
            rows = torch.nonzero(there).flatten()
            aim = tail.aimed_at(weights[:, [number]])
            codes = pictures.codes.rows(rows)
            whole = aim.exact_group(pictures.acts[rows], codes, [group.latents])[:, 0, 0]
            ablated = interval(whole)
            if not ablated.low >= bounds.ablated * gap:
                continue
            fixed = codes.to_fixed()
            inside = torch.isin(fixed.indices.long(), torch.as_tensor(group.latents)) & (fixed.values != 0)
            single = (aim.exact(pictures.acts[rows], fixed)[..., 0] * inside).sum(1)
            top = study.examples.of(group.latents[0])
            found.append(
                Finding(
                    prompt=name,
                    latents=tuple(group.latents),
                    label=group.label,
                    kind="unknown",
                    kind_probability=0.0,
                    reliance=interval(single),
                    causal_effect=ablated,
                    share=float(carried[family, number].clamp_min(0) / evidence_of_class),
                    alignment=float(aligned[family, number]),
                    clarity=_clarity(study, group.latents),
                    confidence=_above(compared, bounds.compared * gap)
                    * _above(ablated, bounds.ablated * gap),
                    examples=tuple(study.images.ids[row] for row in top[:EXAMPLES]),
                    evidence={
                        "concerns": "a probe",
                        "group": group.group,
                        "pictures": len(rows),
                        "pictures_without": int(gone.sum()),
                        "compared": asdict(_in_gaps(compared, gap)),
                        "ablated": asdict(_in_gaps(ablated, gap)),
                        "gap": gap,
                        "logits_per_cosine": float(length[number]),
                    },
                )
            )
    return sorted(found, key=lambda f: -f.causal_effect.value)


def shows(strength: Tensor) -> tuple[Tensor, Tensor]:
    """Which pictures clearly show a family, and which as good as lack it, (pictures,) bool each.

    By the strong end of its own activations: a family that fires faintly everywhere shows in few pictures.

    Args:
        strength: (pictures,) summed codes.
    """
    active = strength[strength > 0]
    if not len(active):
        return torch.zeros_like(strength, dtype=torch.bool), torch.ones_like(strength, dtype=torch.bool)
    top = active.double().quantile(0.99)
    return strength >= STRONG * top, strength < FAINT * top


def within_classes(values: Tensor, classes: Tensor, there: Tensor, gone: Tensor) -> Interval:
    """Mean difference of values between pictures that show something and those that do not, class by class.

    Each class counts alike. Classes with fewer than `FEW` pictures on either side are left out; where none remains, the
    interval is infinitely wide.

    Args:
        values, classes: (pictures,). there, gone: (pictures,) bool.
    """
    differences, variances = [], []
    for number in classes.unique().tolist():
        own = classes == number
        one, other = values[own & there].double(), values[own & gone].double()
        if min(len(one), len(other)) < FEW:
            continue
        differences.append(float(one.mean() - other.mean()))
        variances.append(float(one.var() / len(one) + other.var() / len(other)))
    if not differences:
        return Interval(0.0, -math.inf, math.inf)
    mean = sum(differences) / len(differences)
    half = 1.96 * math.sqrt(sum(variances)) / len(variances)
    return Interval(mean, mean - half, mean + half)


def _carried(tail: ClosedFormTail, pictures: Encoded, latents: Sequence[int], truth: Tensor) -> Tensor:
    """(classes,) mean fall of each class's margin on its own pictures when a family is ablated."""
    fall = tail.exact_group(pictures.acts, pictures.codes, [list(latents)])[:, 0]  # (pictures, classes)
    means = [
        fall[truth == number, number].mean() if (truth == number).any() else fall.new_zeros(())
        for number in range(fall.shape[1])
    ]
    return torch.stack(means).float()


def _in_gaps(amount: Interval, gap: float) -> Interval:
    return Interval(amount.value / gap, amount.low / gap, amount.high / gap)


def _above(amount: Interval, bound: float) -> float:
    """Probability that a normal estimate truly lies above a bound."""
    error = (amount.high - amount.low) / (2 * 1.96)
    if not math.isfinite(error):
        return 0.0
    return 0.5 * (1 + math.erf((amount.value - bound) / max(error, 1e-9) / math.sqrt(2)))


def _clarity(study: Study, latents: Sequence[int]) -> float:
    import numpy as np

    rows = study.examples.of(latents[0])[:20]
    if len(rows) < 2:
        return 0.0
    seen = torch.from_numpy(np.asarray(study.evaluator_embeddings[np.asarray(rows)], dtype=np.float32))
    return float(clarity(seen.sum(0, keepdim=True), torch.tensor([len(rows)]))[0])
