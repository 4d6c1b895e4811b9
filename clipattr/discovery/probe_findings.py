"""Probe findings: families of latents that a classifier rests on, and that its class does not explain.

Two witnesses must agree on a family. *Ablation*: on pictures that show it, taking it out of the activation lets the
class's margin fall. *Comparison*: among pictures of one class that are alike in all else the dictionary has a word for,
those that show it have a higher margin. The first says that the classifier reads the family, the second that what the
family stands for moves the decision that far; a latent may stand for several things, and a thing may come with others,
but seldom both the same way. Amounts are told in gaps: 1 is what tells the class's own pictures from others.
Owns this measurement. Ignores accuracy and single latents (`probe_audit.py`). Start at `probe_findings`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from clipattr.attribution import ClosedFormTail
from clipattr.discovery.encoded import Encoded, summed_codes
from clipattr.discovery.erasure import standardised, within_classes
from clipattr.discovery.expectations import expected_share, family_means
from clipattr.discovery.findings import Finding, Interval
from clipattr.discovery.naming import Family, family_meanings, named_families
from clipattr.discovery.probes import Probe
from clipattr.discovery.statistics import above_zero, clarity_of, interval
from clipattr.errors import StudyError

if TYPE_CHECKING:
    from clipattr.study import Study

UNEXPECTED = 0.5  # a family is expected if the class describes it at least this well, against its best word
FEW = 5  # pictures that must show a family, and lack it, for a comparison
CONTROLS = 40  # other families at most that are held equal in a comparison: those that say most of the margin
ALIKE = (
    0.4  # correlation within classes, of either sign, from which two families are one thing or its opposite
)
EXAMPLES = 12


@dataclass(frozen=True)
class Bounds:
    """What makes a reliance of a probe worth reporting, in gaps; no interval may reach below half of it.

    Attributes:
        compared: between pictures of one class with the family and without. ablated: fall when the family is ablated on
            pictures that show it.
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
    there = presences(study, pictures, groups, means)
    classes = [number for number in range(len(probe.names)) if 0 < int((truth == number).sum()) < len(truth)]
    gaps = {
        number: float(margins[truth == number, number].mean() - margins[truth != number, number].mean())
        for number in classes
    }
    carried = torch.zeros(len(groups), len(probe.names))
    kept: list[tuple[int, int, Interval, Interval]] = []
    for family, group in enumerate(groups):
        fall = tail.exact_group(pictures.acts, pictures.codes, [group.latents])[
            :, 0
        ].float()  # (pictures, classes)
        for number in classes:
            carried[family, number] = fall[truth == number, number].mean()
            # A class that is not told from the others rests on nothing.
            if gaps[number] <= 0 or share[family, number] >= UNEXPECTED:
                continue
            ablated = interval(fall[there[:, family], number])
            if not _holds(ablated, bounds.ablated * gaps[number]):
                continue
            compared = comparison(margins[:, number], truth, there, family)
            if _holds(compared, bounds.compared * gaps[number]):
                kept.append((family, number, ablated, compared))
    positive = carried.clamp_min(0)
    portions = positive / positive.sum(0).clamp_min(1e-9)
    found = []
    for family, number, ablated, compared in kept:
        group, gap = groups[family], gaps[number]
        rows = torch.nonzero(there[:, family]).flatten()
        fixed = pictures.codes.rows(rows).to_fixed()
        inside = torch.isin(fixed.indices.long(), torch.as_tensor(group.latents)) & (fixed.values != 0)
        aim = tail.aimed_at(weights[:, [number]])
        single = (aim.exact(pictures.acts[rows], fixed)[..., 0] * inside).sum(1)
        top = study.examples.of(group.latents[0])
        found.append(
            Finding(
                prompt=probe.names[number],
                latents=tuple(group.latents),
                label=group.label,
                kind="unknown",
                kind_probability=0.0,
                reliance=interval(single),
                causal_effect=ablated,
                share=float(portions[family, number]),
                alignment=float(aligned[family, number]),
                clarity=_clarity(study, top[:20]),
                confidence=above_zero(compared) * above_zero(ablated),
                examples=tuple(study.images.ids[row] for row in top[:EXAMPLES]),
                evidence={
                    "concerns": "a probe",
                    "group": group.group,
                    "pictures": len(rows),
                    "pictures_without": len(there) - len(rows),
                    "compared": asdict(_in_gaps(compared, gap)),
                    "ablated": asdict(_in_gaps(ablated, gap)),
                    "gap": gap,
                    "logits_per_cosine": float(length[number]),
                },
            )
        )
    return sorted(found, key=lambda f: -f.causal_effect.value)


def presences(study: Study, pictures: Encoded, groups: Sequence[Family], means: Tensor) -> Tensor:
    """Which pictures show which family, (pictures, families) bool: by its codes and by the evaluator, in equal parts.

    Codes see what the model uses, and are weak where much else is in the picture; the evaluator sees the thing, and
    knows nothing of the model. Each family's pictures fall into two heaps by the sum, which `split` tells apart.

    Args:
        means: (families, embed), the evaluator's mean example of each; used where no word fits.
    """
    seen = pictures.seen(study)
    meanings = family_meanings(study, groups, means)
    everything = torch.ones(len(pictures), dtype=torch.bool)
    columns = []
    for group, meaning in zip(groups, meanings, strict=True):
        codes = summed_codes(pictures.codes, group.latents)
        fits = seen @ (meaning - F.normalize(seen.mean(0), dim=0))
        columns.append(split(standardised(codes, everything) + standardised(fits, everything)))
    return torch.stack(columns, 1)


def split(values: Tensor) -> Tensor:
    """The upper of the two heaps that values (pictures,) fall into with the least variance within (Otsu 1979)."""
    ordered = values.double().sort().values
    n = len(ordered)
    if n < 2 or ordered[0] == ordered[-1]:
        return torch.zeros(n, dtype=torch.bool)
    below = torch.arange(1, n, dtype=torch.float64)
    sums = ordered.cumsum(0)
    between = below * (n - below) * (sums[:-1] / below - (sums[-1] - sums[:-1]) / (n - below)).square()
    return values.double() > ordered[int(between.argmax())]


def comparison(margin: Tensor, classes: Tensor, there: Tensor, family: int) -> Interval:
    """How much higher the margin of a picture that shows a family is, all else alike, with its 95 % interval.

    Least squares on the family, the class and the other families that say most of the margin; the interval is robust to
    unequal spread (HC1). Families that nearly always come along, or never, are the same thing or its opposite, and are
    not held equal. Infinitely wide where fewer than `FEW` pictures show the family, or lack it.

    Args:
        margin, classes: (pictures,). there: (pictures, families) bool.
    """
    shown = int(there[:, family].sum())
    if min(shown, len(there) - shown) < FEW:
        return Interval(0.0, -math.inf, math.inf)
    y = within_classes(margin, classes)
    x = within_classes(there.double(), classes)
    x = x / x.square().mean(0).sqrt().clamp_min(1e-9)
    alike = (x.T @ x[:, family] / len(x)).abs()
    says = (x.T @ y).abs() * (alike < ALIKE)
    others = says.argsort(descending=True)[: min(CONTROLS, int((says > 0).sum()))]
    own = within_classes(there[:, [family]].double(), classes)
    design = torch.cat([own, x[:, others]], 1)
    inverse = torch.linalg.pinv(design.T @ design, hermitian=True, rtol=1e-9)
    slopes = inverse @ (design.T @ y)
    freedom = max(len(y) - design.shape[1] - len(classes.unique()), 1)
    weighted = design * (y - design @ slopes)[:, None]
    variance = (inverse @ (weighted.T @ weighted) @ inverse)[0, 0] * len(y) / freedom
    half = 1.96 * float(variance.clamp_min(0).sqrt())
    value = float(slopes[0])
    return Interval(value, value - half, value + half)


def _holds(amount: Interval, bound: float) -> bool:
    return amount.value >= bound and amount.low >= bound / 2


def _in_gaps(amount: Interval, gap: float) -> Interval:
    return Interval(amount.value / gap, amount.low / gap, amount.high / gap)


def _clarity(study: Study, rows: Sequence[int]) -> float:
    """Of examples; 0 below two, since the clarity of a single picture is not defined."""
    return clarity_of(study.seen(np.asarray(rows))) if len(rows) > 1 else 0.0
