"""What a classifier of lesions truly relies on: draw a picture without a part, and see how its decision moves.

An effect is told in *diagnoses*: the mean change of the margin melanoma − nevus when the part is there, over the
difference of that margin between melanomas and nevi without it. At 1 the part speaks as loudly as the lesion itself.
A classifier relies on a part if the lower bound of the effect's 95 % interval reaches `RELIED`, for or against.
Start at `reliance`; `kept` tells whether a family of latents stands for a part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from .lesion_world import LesionWorld, ProbeSet
from .lesions import Lesion
from .train import to_pixels
from .world import TEST

if TYPE_CHECKING:
    from clipattr.dictionaries import Dictionary
    from clipattr.models import Model

RELIED = 0.1  # diagnoses
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


@torch.no_grad()
def kept(
    model: Model, dictionary: Dictionary, world: LesionWorld, latents: Sequence[int], part: str, n: int = 100
) -> float:
    """Share of the latents' summed codes that is left when `part` is taken out of pictures with it; 1 if silent."""
    from clipattr import Site, activations

    some = [world.scene(index, TEST).having(part) for index in range(UNSEEN, UNSEEN + n)]
    sums = []
    for lesions in (some, [lesion.without(part) for lesion in some]):
        pixels = to_pixels(np.stack([lesion.render() for lesion in lesions]))
        codes = dictionary.encode(activations(model, pixels, Site("image.-1.cls")).float()).to_dense()
        sums.append(codes[:, list(latents)].sum().item())
    return sums[1] / sums[0] if sums[0] > 0 else 1.0
