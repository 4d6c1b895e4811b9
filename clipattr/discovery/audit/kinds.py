"""Kinds: the kind of reliance that the evidence supports.

A candidate that is a part of the prompt's name is a compound; an inserted text that raises the score is typography. A
cause that replaces the prompt's object is another sense or another look, which is decided by how well the evaluator
separates the two sets of *pictures*. A cause that occurs beside the object is a context if it covers the whole picture
or its whole edge, a companion if there are pictures of it alone, and otherwise a mark. Roles and groups of the
vocabulary are further evidence; no rule depends on how a word is spelled. Start at `kind_of`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from clipattr.discovery.audit.base import Base
from clipattr.discovery.audit.candidates import Route
from clipattr.discovery.audit.mediators import Family

DOUBT = 0.25  # weight of the kind "unknown"
REMAINS = (
    0.2,
    0.6,
)  # share of the prompt's evidence at which its object is surely gone, and surely still there
# Texts that stand for a role: the evaluator compares a word with them if the vocabulary declares no role.
PROTOTYPES = {
    "mark": ("a watermark", "a logo", "a stamp", "a frame around the picture", "a label stuck on a photo"),
    "text": ("a written word", "letters", "text in the picture", "a caption"),
    "place": ("a background", "a landscape", "a room", "a surface", "outdoors", "the sky"),
}


@dataclass(frozen=True)
class Roles:
    """Probability that each word is a mark, a text or a place; the other words are objects and looks.

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
        """Probability that a word has a role; 0 for a candidate without a word."""
        return 0.0 if word is None else float(self.of[role][word])


@dataclass(frozen=True)
class Witness:
    """Measurements of a candidate on pictures, independent of its name; NaN where not measured.

    Attributes:
        kin: probability that prompt and candidate are of one sort.
        itself: share of its other pictures that the audited model answers with its own word; high for objects, low for
            marks and surroundings.
        remains: evaluator's evidence of the prompt on its own pictures with the candidate, over that on its own
            pictures without it: 0 where another object has taken the prompt's place, near 1 where the object is
            still there, under another look or with something beside it.
        edge, inside: share of the picture's cells, at the edge and inside, that look different with it.
        focus: largest share of the family's strength that goes with one window of the picture.
    """

    kin: float = 0.5
    itself: float = math.nan
    remains: float = math.nan
    edge: float = math.nan
    inside: float = math.nan
    focus: float = math.nan


def degrees(family: Family, roles: Roles, seen: Witness) -> dict[str, float]:
    """Strength of the evidence for each kind, 0 to 1."""
    word, found = family.candidate.word, dict.fromkeys(
        ("polysemy", "compound", "typography", "watermark", "context", "companion", "coarse_label"), 0.0
    )  # fmt: skip
    if family.candidate.route is Route.PART:
        return found | {"compound": 1.0}
    if family.text:
        return found | {"typography": 1.0}
    mark, text, place = (roles.how(role, word) for role in ("mark", "text", "place"))
    local = 1.0 if math.isfinite(family.left) else _or(_ramp(seen.focus, 0.3, 0.6), 0.5)
    # A surrounding changes the whole edge or the whole picture; a mark or an inset changes only its own region.
    wide = max(_ramp(seen.edge, 0.5, 0.75), _ramp(min(seen.edge, seen.inside), 0.3, 0.6))
    wide = max(place, _or(wide, 1 - local)) * (1 - mark)
    thing = _or(_ramp(seen.itself, 0.2, 0.5), 0.5) * (1 - max(mark, text))
    laid, share = 0.0, _or(kept_object(seen.remains), 1.0)
    if family.instead:  # laid over the prompt's object, or another sense or look in its place
        laid = _or(share * _ramp(seen.edge - seen.inside, 0.1, 0.3), 0.0)
        laid = max(laid * _or(_ramp(seen.edge, 0.3, 0.5), 0.0), mark)
        thing, share = 0.0, laid
    in_place = 1 - share
    found |= {"polysemy": in_place * (1 - seen.kin), "coarse_label": in_place * seen.kin}
    look = 0.0 if family.instead else (1 - thing) * (1 - wide) * (1 - local)
    return found | {
        "watermark": share * (1 - thing) * (1 - wide) * max(local, mark, laid),
        "context": share * wide,
        "companion": share * thing * (1 - wide),
        "coarse_label": found["coarse_label"] + share * look,
    }


def kind_of(family: Family, roles: Roles, seen: Witness) -> tuple[str, float]:
    """The likeliest kind and its probability; "unknown" without evidence for any kind."""
    found = degrees(family, roles, seen)
    if family.candidate.label is None:
        found = {kind: degree * 0.5 for kind, degree in found.items()}
    found["unknown"] = DOUBT
    kind = max(found, key=lambda name: found[name])
    return kind, found[kind] / sum(found.values())


def kept_object(remains: float) -> float:
    """Probability that the prompt's object is still there, from `Witness.remains`; NaN where not measured."""
    return _ramp(remains, *REMAINS)


def kinship(alike: float, remains: float, text: float, groups: tuple[str | None, str | None]) -> float:
    """Probability that two concepts in one place are one object in two looks, or two objects of one sort.

    Args:
        remains: of `Witness`. Under another look, and in an object like it, the evaluator still sees the prompt.
        alike: of `Evidence`, likeness of their pictures. text: cosine of the evaluator's centred texts. Both count only
            where `remains` is not known. groups: of prompt and candidate, None where unknown; only whether they are
            equal counts.
    """
    told = [kept_object(remains)]
    if math.isnan(told[0]):
        told = [_ramp(alike, 0.0, 0.6), _ramp(text, 0.0, 0.6)]
    known = [value for value in told if not math.isnan(value)]
    seen = sum(known) / len(known) if known else 0.5
    if None in groups:
        return seen
    return max(seen, float(groups[0] == groups[1]))


def _or(value: float, otherwise: float) -> float:
    return otherwise if math.isnan(value) else value


def _ramp(value: float, low: float, high: float) -> float:
    return math.nan if math.isnan(value) else min(1.0, max(0.0, (value - low) / (high - low)))
