"""Blindness: directions of the embedding that findings stand for, and pictures seen without them.

A probe that is fitted anew on embeddings without a direction cannot lean on it, however closely it went with the
classes in training; and it learns whatever else tells the classes, which a probe that was led astray has hardly done.
A direction is how far the embedding moves, among a study's pictures of one class that are alike in all else the
dictionary has a word for, when a family shows. Owns these directions. Ignores fitting (`fitting.py`) and repairs that
need no training set (`repair.py`). Start at `directions_of`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from clipattr.discovery.encoded import encoded
from clipattr.discovery.erasure import within_classes
from clipattr.discovery.expectations import family_means
from clipattr.discovery.findings import Finding
from clipattr.discovery.naming import Family, named_families
from clipattr.discovery.probe_findings import ALIKE, FEW, presences
from clipattr.discovery.removals import removals_of
from clipattr.errors import DataError

if TYPE_CHECKING:
    from clipattr.study import Study

PICTURES = 20_000  # of the study's that directions are learnt from, at most


def directions_of(study: Study, findings: Finding | Iterable[Finding]) -> Tensor:
    """How the embedding moves with each finding's family, (embed, findings) float32.

    Args:
        study: where the findings come from; its pictures that are not held out are looked at.

    Raises:
        StudyError: findings of another model or dictionary. TargetError: none at all. DataError: a family that hardly
            any picture shows, or lacks.
    """
    removals = removals_of(study, findings, None, "prompts")
    rows = study.rows if len(study.rows) else np.arange(len(study.images))
    pictures = encoded(study, rows=rows[:: -(-len(rows) // PICTURES)])
    labels = [label or "" for label in pictures.images.columns["label"]]
    place = {name: number for number, name in enumerate(sorted(set(labels)))}
    classes = torch.tensor([place[label] for label in labels])
    known = [family for family in named_families(study) if family.label is not None]
    asked = [Family(list(removal.latents), removal.label, None) for removal in removals]
    groups = [*asked, *known]
    shown = presences(study, pictures, groups, family_means(study, [group.latents for group in groups]))
    for removal, count in zip(removals, shown.sum(0).tolist(), strict=False):
        if min(count, len(shown) - count) < FEW:
            raise DataError(
                f"{count} of {len(shown)} pictures show {removal.label or list(removal.latents)[:6]}: what it does to "
                f"an embedding cannot be told from fewer than {FEW} with it or without. Add pictures to the study."
            )
    x = within_classes(shown.double(), classes)
    moved = within_classes(pictures.embeddings, classes)
    unit = x / x.norm(dim=0).clamp_min(1e-9)
    found = []
    for number in range(len(asked)):
        others = ((unit.T @ unit[:, number]).abs() < ALIKE).nonzero().flatten()
        design = torch.cat([x[:, [number]], x[:, others[others >= len(asked)]]], 1)
        found.append((torch.linalg.pinv(design, rtol=1e-9) @ moved)[0])
    return torch.stack(found, 1).float()


def remover(directions: Tensor) -> Tensor:
    """(embed, embed): embeddings times this are without the directions (embed, n); symmetric.

    Directions that are nearly the same count once.
    """
    d = directions.double()
    d = d / d.norm(dim=0).clamp_min(1e-12)
    basis, size, _ = torch.linalg.svd(d, full_matrices=False)
    basis = basis[:, size > 1e-3 * size.max().clamp_min(1e-12)]
    return torch.eye(len(d), dtype=torch.float64) - basis @ basis.T
