"""True reliances of a classifier of lesions: the change of its decision when a picture is drawn without a part.

The unit of effects is *diagnoses*: the mean change of the margin melanoma − nevus by the part, divided by the
difference of that margin between melanomas and nevi without it. At 1 the part has the same effect as the lesion itself.
A classifier relies on a part if the lower bound of the effect's 95 % interval reaches `RELIED`, in either direction.
Start at `reliance`; `Causes` assigns findings to parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from clipattr.statistics import Z

from .lesion_world import CLASSES, OPPOSITES, LesionWorld, ProbeSet
from .lesions import MALIGNANT, SIGNS, USUAL_SKIN, Lesion
from .train import to_pixels
from .world import TEST

if TYPE_CHECKING:
    from clipattr.models.loading import Model

RELIED = 0.1  # diagnoses
MATCHED = 0.7  # cosine of a direction with what a part does to embeddings
LOOKS = {look: sign for sign, look in OPPOSITES.items()}
UNSEEN = 700_000  # first index of the lesions that judge directions; probes are judged on earlier ones


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
    """Effect of one part on a classifier's decisions.

    Args:
        margins: (2 n,) of melanoma over nevus, above zero where the classifier says melanoma.
        pairs: of `LesionWorld.balanced`: with the part and without in turn.
    """
    values = np.asarray(margins, dtype=np.float64)
    there, gone, malignant = values[::2], values[1::2], pairs.labels[::2] == 1
    gap = gone[malignant].mean() - gone[~malignant].mean()
    scale = abs(gap) if abs(gap) > 1e-12 else np.nan
    moved = (there - gone) / scale
    half = Z * moved.std(ddof=1) / len(moved) ** 0.5
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
    """The part of a picture whose removal changes the embedding along a direction.

    Findings are assigned by direction, not by latents: a part without a latent of its own is represented by latents of
    other concepts, and its removal does not deactivate them.

    Args:
        n: lesions drawn for each part, with it and without.
    """

    def __init__(self, model: Model, world: LesionWorld, n: int = 100):
        lesions = [world.scene(index, TEST) for index in range(UNSEEN, UNSEEN + n)]
        self.shifts = {}
        for part in world.words:
            sides = zip(*(counterfactual(lesion, part) for lesion in lesions), strict=True)
            there, gone = (embed_lesions(model, side) for side in sides)
            self.shifts[part] = (there - gone).mean(0)

    def of(self, direction: torch.Tensor) -> str | None:
        """The part that moves embeddings most nearly along a direction (embed,), if at a cosine of `MATCHED`."""
        cosine = {
            part: float(torch.cosine_similarity(shift, direction, dim=0))
            for part, shift in self.shifts.items()
        }
        best = max(cosine, key=lambda part: cosine[part])
        return best if cosine[best] >= MATCHED else None
