"""Kinds: what sort of reliance the evidence speaks for.

What was asked directly names itself: a part of the name is a compound, an inserted text that lifts is typography. What
stands in the prompt's place is another sense or another look, by how far the evaluator keeps the two sets of *pictures*
apart. What comes beside it is a context, a companion or a mark, by where in the picture the family sits and by what its
word means. The vocabulary is one witness: roles and groups sharpen, nothing hangs on how they are spelled. Start at
`kind_of`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from clipattr.discovery.audit.base import Base
from clipattr.discovery.audit.candidates import Route
from clipattr.discovery.audit.evidence import Evidence
from clipattr.discovery.audit.mediators import Family

DOUBT = 0.25  # the weight of "unknown"
# What the evaluator is asked to compare a word with where no role is declared.
PROTOTYPES = {
    "mark": ("a watermark", "a logo", "a stamp", "a frame around the picture", "a label stuck on a photo"),
    "text": ("a written word", "letters", "text in the picture", "a caption"),
    "place": ("a background", "a landscape", "a room", "a surface", "outdoors", "the sky"),
}


@dataclass(frozen=True)
class Roles:
    """How surely each word is a mark, a text, a place, 0 to 1; the rest is things and looks.

    Attributes:
        of: by role (words,).
    """

    of: dict[str, Tensor]

    @classmethod
    def read(cls, base: Base) -> Roles:
        """By a declared role, else by how much nearer a word is to a role's prototypes than other words are."""
        texts = [text for texts in PROTOTYPES.values() for text in texts]
        words = base.concepts.words
        declared = getattr(base.study.vocabulary, "roles", None) or [None] * len(words)
        known = torch.tensor([role is not None for role in declared])
        if not base.study.evaluator.knows(texts, base.templates):  # a table of texts without the prototypes
            return cls(
                {role: torch.tensor([float(name == role) for name in declared]) for role in PROTOTYPES}
            )
        encoded = base.study.evaluator.encode_text(texts, templates=base.templates).float().cpu()
        cosine = words @ base.concepts.texts(encoded).T
        found, start = {}, 0
        for role, some in PROTOTYPES.items():
            best = cosine[:, start : start + len(some)].amax(1)
            start += len(some)
            deviation = best.std() if len(best) > 1 else torch.tensor(1.0)
            surely = torch.sigmoid(2 * ((best - best.mean()) / deviation.clamp_min(1e-6) - 2))
            exactly = torch.tensor([float(name == role) for name in declared])
            found[role] = torch.where(known, exactly, surely)
        return cls(found)

    def how(self, role: str, word: int | None) -> float:
        """How surely a word has a role; 0 for what has no word."""
        return 0.0 if word is None else float(self.of[role][word])


def degrees(
    family: Family, evidence: Evidence, roles: Roles, kin: float, focus: float = math.nan
) -> dict[str, float]:
    """How much speaks for each kind, 0 to 1.

    Args:
        kin: how surely prompt and candidate are of one sort, 0 to 1. focus: largest share of the family's strength that
            goes with one window of the picture; NaN where not measured.
    """
    word, found = family.candidate.word, dict.fromkeys(
        ("polysemy", "compound", "typography", "watermark", "context", "companion", "coarse_label"), 0.0
    )  # fmt: skip
    if family.candidate.route is Route.PART:
        return found | {"compound": 1.0}
    if family.instead:
        return found | {"polysemy": 1 - kin, "coarse_label": kin}
    local = 0.5 if math.isnan(focus) else _ramp(focus, 0.35, 0.75)
    if family.covered is not None:
        local = 1.0
    mark, text, place = (roles.how(role, word) for role in ("mark", "text", "place"))
    thing = (1 - mark) * (1 - text)
    return found | {
        "watermark": max(mark, text * 0.5) * (1 - 0.5 * place) + (0.3 * (1 - local) if word is None else 0.0),
        "context": thing * max(place, (1 - local) * (1 - 0.5 * place)),
        "companion": thing * local * (1 - place),
    }


def kind_of(
    family: Family, evidence: Evidence, roles: Roles, kin: float, focus: float = math.nan
) -> tuple[str, float]:
    """The likeliest kind and its probability; "unknown" where nothing speaks for a kind."""
    found = degrees(family, evidence, roles, kin, focus)
    if family.candidate.label is None:
        found = {kind: degree * 0.5 for kind, degree in found.items()}
    found["unknown"] = DOUBT
    kind = max(found, key=lambda name: found[name])
    return kind, found[kind] / sum(found.values())


def kinship(alike: float, text: float, groups: tuple[str | None, str | None]) -> float:
    """How surely two things are of one sort: by a shared group, the likeness of their pictures and of their texts.

    Args:
        alike: of `Evidence`. text: cosine of the evaluator's centred texts, NaN without. groups: of prompt and
            candidate, None where unknown; only whether they are equal counts.
    """
    pictures = 0.5 if math.isnan(alike) else _ramp(alike, -0.1, 0.6)
    texts = 0.5 if math.isnan(text) else _ramp(text, -0.1, 0.5)
    seen = 0.7 * pictures + 0.3 * texts
    if None in groups:
        return seen
    return 0.8 * float(groups[0] == groups[1]) + 0.2 * seen


def _ramp(value: float, low: float, high: float) -> float:
    return min(1.0, max(0.0, (value - low) / (high - low)))
