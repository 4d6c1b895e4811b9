"""Null-space projection: directions of the embedding that findings refer to, and embeddings without them.

A probe that is refitted on embeddings without a direction cannot use it, however strongly it correlates with the
classes in the training data, and instead learns other features that separate the classes. The direction of a concept is
the change of the embedding with the concept, among a study's pictures of one class with other concepts held equal. Owns
these directions. Ignores fitting (`fitting.py`) and repairs that need no training set (`discovery/repair`). Start at
`directions_of`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from clipattr.discovery.findings import Finding
from clipattr.discovery.probes.matching import FEW, change, enough
from clipattr.discovery.probes.presence import candidate_words, shown_family, shown_words
from clipattr.discovery.repair.directions import learning_pictures
from clipattr.discovery.repair.removals import removals_of
from clipattr.errors import DataError

if TYPE_CHECKING:
    from clipattr.studies.study import Study


def directions_of(study: Study, findings: Finding | Iterable[Finding]) -> Tensor:
    """Change of the embedding with the concept of each finding, (embed, findings) float32.

    Args:
        study: source of the findings; its pictures that are not held out are used.
        findings: of `audit`, all, some or one.

    Returns:
        (embed, findings) float32, one direction per finding, in units of unit-length embeddings.

    Raises:
        StudyError: findings of another model or dictionary. TargetError: there are no findings. DataError: too few
            pictures show a concept, or lack it.

    >>> import clipattr as ca
    >>> study = ca.open_study("picture-world")
    >>> from clipattr.statistics import Interval
    >>> effect = Interval(0.06, 0.04, 0.08)
    >>> finding = ca.Finding("rose", (3,), "tulip", "companion", 0.8, effect, effect, 0.3, 0.1, 0.6, 0.9)
    >>> ca.directions_of(study, finding).shape[1]
    1
    """
    removals = removals_of(study, findings, None, "prompts")
    pictures = learning_pictures(study)
    seen = pictures.seen(study)
    classes, names = pictures.classes()
    vocabulary = study.vocabulary.words
    others = shown_words(study, seen, candidate_words(study, names))
    moved = pictures.embeddings.double()
    found = []
    for removal in removals:
        if removal.label in vocabulary:
            own = shown_words(study, seen, [vocabulary.index(removal.label)])[:, 0]
        else:
            own = shown_family(pictures, removal.latents)
        if not enough(own):
            raise DataError(
                f"{float(own.sum()):.0f} of {len(own)} pictures show {removal.label or list(removal.latents)[:6]}: "
                f"its effect on an embedding cannot be estimated from fewer than {FEW} with or without it. Add "
                "pictures to the study."
            )
        found.append(change(classes, own, others) @ moved)
    return torch.stack(found, 1).float()


def remover(directions: Tensor) -> Tensor:
    """Symmetric projection (embed, embed) onto the orthogonal complement of directions (embed, n).

    Nearly parallel directions count once.
    """
    d = directions.double()
    d = d / d.norm(dim=0).clamp_min(1e-12)
    basis, size, _ = torch.linalg.svd(d, full_matrices=False)
    basis = basis[:, size > 1e-3 * size.max().clamp_min(1e-12)]
    return torch.eye(len(d), dtype=torch.float64) - basis @ basis.T
