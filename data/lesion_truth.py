"""What a classifier of lesions truly relies on: draw a picture without a part, and see how its decision moves.

An effect is told in *diagnoses*: the mean change of the margin melanoma − nevus when the part is there, over the
difference of that margin between melanomas and nevi without it. At 1 the part speaks as loudly as the lesion itself.
A classifier relies on a part if the lower bound of the effect's 95 % interval reaches `RELIED`, for or against.
Start at `reliance`; `Causes` tells which part a family of latents stands for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from .lesion_world import CLASSES, OPPOSITES, LesionWorld, ProbeSet
from .lesions import MALIGNANT, SIGNS, USUAL_SKIN, Lesion
from .train import to_pixels
from .world import TEST

if TYPE_CHECKING:
    from clipattr.dictionaries import Dictionary
    from clipattr.models import Model

RELIED = 0.1  # diagnoses
MATCHED = 0.5  # share of a family's codes that may be left without its cause
CLEARLY = 0.1  # of the codes
LOOKS = {look: sign for sign, look in OPPOSITES.items()}
UNSEEN = 700_000  # first index of the lesions on which families are judged; probes are judged on earlier ones


@dataclass(frozen=True)
class Reliance:
    """How much a part moves a classifier.

    Attributes:
        effect, low, high: mean paired change of the margin with its 95 % interval, in diagnoses; positive: towards
            melanoma.
        flipped: share of the pictures whose decision changes with the part.
        accuracy: share of right decisions over all groups alike; worst: in the worst group; groups: in each.
    """

    effect: float
    low: float
    high: float
    flipped: float
    accuracy: float
    worst: float
    groups: dict[str, float]

    @property
    def relied(self) -> bool:
        """Whether the classifier relies on the part."""
        return self.low >= RELIED or self.high <= -RELIED


@torch.no_grad()
def embed_lesions(model: Model, lesions: Sequence[Lesion], batch: int = 250) -> torch.Tensor:
    """Unit-length embeddings of drawn lesions, (n, embed) float32."""
    parts = []
    for at in range(0, len(lesions), batch):
        pictures = np.stack([lesion.render() for lesion in lesions[at : at + batch]])
        parts.append(model.encode_image(to_pixels(pictures)).float())
    return torch.cat(parts)


def reliance(margins: torch.Tensor | np.ndarray, pairs: ProbeSet) -> Reliance:
    """What one part does to a classifier's decisions.

    Args:
        margins: (2 n,) of melanoma over nevus, above zero where the classifier says melanoma.
        pairs: of `LesionWorld.balanced`: with the part and without in turn.
    """
    values = np.asarray(margins, dtype=np.float64)
    there, gone, malignant = values[::2], values[1::2], pairs.labels[::2] == 1
    gap = gone[malignant].mean() - gone[~malignant].mean()
    scale = abs(gap) if abs(gap) > 1e-12 else np.nan
    moved = (there - gone) / scale
    half = 1.96 * moved.std(ddof=1) / len(moved) ** 0.5
    right = (values > 0) == (pairs.labels == 1)
    groups = {str(name): float(right[pairs.groups == name].mean()) for name in np.unique(pairs.groups)}
    return Reliance(
        effect=float(moved.mean()),
        low=float(moved.mean() - half),
        high=float(moved.mean() + half),
        flipped=float(((there > 0) != (gone > 0)).mean()),
        accuracy=float(np.mean(list(groups.values()))),
        worst=min(groups.values()),
        groups=groups,
    )


def counterfactual(lesion: Lesion, part: str) -> tuple[Lesion, Lesion]:
    """The lesion with a part, and without it.

    A look is taken away by giving the sign it is the opposite of, a diagnosis by giving or taking all signs, a tone of
    skin by another tone.
    """
    if part in CLASSES:
        ill, well = (replace(lesion, signs=signs) for signs in (SIGNS, ()))
        return (ill, well) if part == MALIGNANT else (well, ill)
    if part in LOOKS:
        return lesion.without(LOOKS[part]), lesion.having(LOOKS[part])
    if part == USUAL_SKIN:
        return lesion.having(part), lesion.having("dark skin")
    return lesion.having(part), lesion.having(part).without(part)


class Causes:
    """Which part of the picture a family of latents stands for: the one whose removal silences it.

    Args:
        n: lesions drawn for each part, with it and without.
    """

    def __init__(self, model: Model, dictionary: Dictionary, world: LesionWorld, n: int = 100):
        lesions = [world.scene(index, TEST) for index in range(UNSEEN, UNSEEN + n)]
        self.sums = {}
        for part in world.words:
            sides = zip(*(counterfactual(lesion, part) for lesion in lesions), strict=True)
            self.sums[part] = tuple(_codes(model, dictionary, side).sum(0) for side in sides)

    def kept(self, latents: Sequence[int], part: str) -> float:
        """Share of the latents' summed codes that is left without the part; 1 if they are silent with it."""
        there, gone = (float(side[list(latents)].sum()) for side in self.sums[part])
        return gone / there if there > 0 else 1.0

    def of(self, latents: Sequence[int]) -> str | None:
        """The part that leaves least of the codes, if at most `MATCHED`.

        Taking all signs at once silences more than one sign does: a diagnosis counts only where it is clearly better.
        """
        part = min((p for p in self.sums if p not in CLASSES), key=lambda p: self.kept(latents, p))
        whole = min(CLASSES, key=lambda p: self.kept(latents, p))
        best = whole if self.kept(latents, whole) + CLEARLY < self.kept(latents, part) else part
        return best if self.kept(latents, best) <= MATCHED else None


@torch.no_grad()
def _codes(model: Model, dictionary: Dictionary, lesions: Sequence[Lesion]) -> torch.Tensor:
    from clipattr import Site, activations

    pixels = to_pixels(np.stack([lesion.render() for lesion in lesions]))
    return dictionary.encode(activations(model, pixels, Site("image.-1.cls")).float()).to_dense()
