"""Sizes: how large each part of a reproduction is.

Owns the numbers that trade time for precision, in three forms: the paper's, one for small collections, and a quick one.
Ignores what they are used for. Start at `Sizes`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from clipattr.errors import StudyError
from clipattr.studies.presets import paper

MAY_BE_ZERO = ("pictures", "prompts", "budget", "verified", "truth")


@dataclass(frozen=True)
class Sizes:
    """Sizes of a reproduction; the defaults are the paper's where it states them.

    Attributes:
        pictures: of the collection, evenly spread over its order; 0 takes all.
        n_latents, k, epochs, examples: of the dictionary, as the paper trains it. holdout: share of pictures held out.
        prompts: audited, those with the most labelled pictures; 0 takes all.
        budget: forward passes of an audit per prompt.
        seeds: dictionaries trained from different seeds on the first model.
        faithful_pictures, faithful_prompts: held-out pictures and classes of the faithfulness measures.
        faithful_masks: random groups of latents per picture.
        spurious_classes, spurious_pictures, spurious_seeds: classes, training pictures and draws of the comparison of
            prompts with probes.
        verified: findings of each model that are tested by editing pictures; 0 tests none.
        truth: scenes rendered per check where the pictures are rendered; 0 checks nothing.
        lesion_pool, lesion_judged, lesion_training, lesion_seeds: lesions drawn, lesions judged on, pictures a probe is
            fitted on, and draws, where the lesions are rendered.
    """

    pictures: int = 0
    n_latents: int = paper.n_latents
    k: int = paper.k
    epochs: float = paper.training["epochs"]
    examples: int = paper.examples
    holdout: float = 0.3
    prompts: int = 0
    budget: int = 60
    seeds: int = 3
    faithful_pictures: int = 256
    faithful_prompts: int = 8
    faithful_masks: int = 64
    spurious_classes: int = 10
    spurious_pictures: int = 2000
    spurious_seeds: int = 3
    verified: int = 40
    truth: int = 100
    lesion_pool: int = 1200
    lesion_judged: int = 400
    lesion_training: int = 800
    lesion_seeds: int = 3

    def changed(self, changes: Mapping[str, Any]) -> Sizes:
        """The same sizes with some replaced.

        >>> PAPER.changed({"k": 8}).k
        8

        Raises:
            StudyError: a size that does not exist, or a value of another kind.
        """
        kinds = {item.name: type(getattr(self, item.name)) for item in fields(self)}
        for name, value in changes.items():
            if name not in kinds:
                raise StudyError(f"There is no size {name!r}; there are {', '.join(kinds)}.")
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            enough = number and (value > 0 or (value == 0 and name in MAY_BE_ZERO))
            if not enough or (kinds[name] is int and value != int(value)):
                least = "0 or more" if name in MAY_BE_ZERO else "above 0"
                kind = "a whole number" if kinds[name] is int else "a number"
                raise StudyError(f"The size {name} is {kind}, {least}; got {value!r}.")
        return replace(self, **{name: kinds[name](value) for name, value in changes.items()})

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


PAPER = Sizes()
# A few thousand pictures: a dictionary of 30,000 latents would have less than one picture a latent.
SMALL = Sizes(pictures=4000, n_latents=1024, k=8, epochs=60, prompts=80)
# A few minutes on two cores for models of 64 pixels; ViT-B/32 takes about a quarter of an hour.
QUICK = Sizes(
    pictures=2000,
    n_latents=256,
    k=8,
    epochs=60,
    prompts=10,
    budget=40,
    seeds=2,
    faithful_pictures=24,
    faithful_prompts=3,
    faithful_masks=16,
    spurious_classes=6,
    spurious_pictures=300,
    spurious_seeds=2,
    verified=2,
    truth=20,
    lesion_pool=300,
    lesion_judged=60,
    lesion_training=250,
    lesion_seeds=1,
)
FORMS = {"paper": PAPER, "small": SMALL, "quick": QUICK}
