"""Presets: settings of published work, to reproduce it with one call.

Owns the protocol of arXiv:2505.20229: sizes, labels, triage, and the definition of outliers. Studies are built by
`build_study`, attributions computed by `attribute`. Start at `paper`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from clipattr.attribution import Attribution, Similarity, attribute
from clipattr.errors import StudyError
from clipattr.models.weights import PAPER_VARIANTS
from clipattr.studies.start import build_study
from clipattr.studies.study import Study

if TYPE_CHECKING:
    import pandas as pd

SETTINGS = ("site", "n_latents", "k", "examples", "evaluator", "vocabulary", "templates", "training")


@dataclass(frozen=True)
class Protocol:
    """Settings of a published study as arguments of this package. Frozen; changes are passed to the methods.

    Attributes:
        variants: (name, pretrained) of the models.
        site, n_latents, k: site and size of the dictionary.
        examples: examples per latent. evaluator, vocabulary, templates: for labels.
        training: further settings of `train_sae`.
        method: attribution method; the target is the plain cosine, the baseline 0.
        clear: smallest clarity of inspected latents.
        unaligned: (low, high) best alignment, in cosine, around which outliers are reported.
        differences: known differences of this package from the publication.
    """

    source: str
    variants: tuple[tuple[str, str], ...]
    site: str
    n_latents: int
    k: int
    examples: int
    evaluator: str
    vocabulary: str
    templates: tuple[str, ...]
    method: str
    clear: float
    unaligned: tuple[float, float]
    training: dict[str, Any] = field(default_factory=dict)
    differences: tuple[str, ...] = ()

    def settings(self, **changes: Any) -> dict[str, Any]:
        """The protocol as keyword arguments of `build_study`, with changes.

        >>> paper.settings(n_latents=512)["n_latents"], paper.n_latents
        (512, 30000)

        Raises:
            StudyError: a change of something that is not one of the protocol's settings.
        """
        asked = {name: getattr(self, name) for name in SETTINGS} | {"training": dict(self.training)}
        if unknown := sorted(changes.keys() - set(SETTINGS)):
            raise StudyError(
                f"The protocol has no setting {', '.join(unknown)}; it has {', '.join(sorted(SETTINGS))}. Pass other "
                "options to build_study."
            )
        return asked | changes

    def build(
        self,
        model: Any,
        images: Any,
        *,
        path: str | os.PathLike[str],
        progress: bool = True,
        **changes: Any,
    ) -> Study:
        """Build a study by the protocol; `changes` replace single settings, e.g. n_latents=512.

        The full protocol needs the evaluator's weights and a training set of about a million pictures.

        Raises:
            StudyError, DataError, ModelError: as `build_study`.
        """
        settings = self.settings(**changes)
        if settings["vocabulary"] == "imagenet21k":
            settings["vocabulary"] = first_names(settings["vocabulary"])
        return build_study(model, images, path=path, progress=progress, **settings)

    def attribute(self, study: Study, images: Any, prompts: Any) -> Attribution:
        """Signed attributions of the cosine with each prompt, in raw cosine; the paper reports cosine × 100."""
        return attribute(study, images, Similarity(prompts, templates=self.templates), method=self.method)

    def triage(self, study: Study) -> pd.DataFrame:
        """Clear latents in the paper's order of inspection: mean top activation × clarity × alignment."""
        clear = study.latents[study.latents["clarity"] > self.clear]
        return clear.sort_values("triage", ascending=False, kind="stable")

    def outliers(self, study: Study, *, below: float | None = None) -> pd.DataFrame:
        """Strong and clear latents without an aligned word, strongest first.

        Args:
            study: a study.
            below: best alignment, in cosine, below which a latent counts as unaligned; default the upper end of
                `unaligned`. Alignments depend on the evaluator, so check their distribution for another one.
        """
        limit = self.unaligned[1] if below is None else below
        clear = self.triage(study)
        return clear[clear["alignment"] < limit].sort_values("mean_top", ascending=False, kind="stable")


def first_names(vocabulary: str) -> Any:
    """The vocabulary with only the first name of every entry, as in the paper, without glosses in prompts.

    Args:
        vocabulary: anything `Vocabulary.open` takes.

    Returns:
        A `Vocabulary`.

    Raises:
        DataError: as for `Vocabulary.open`.

    >>> first_names(["crane", "kite", "crane"]).words
    ['crane', 'kite']
    """
    from clipattr.meaning import Vocabulary

    full = Vocabulary.open(vocabulary)
    return Vocabulary(list(dict.fromkeys(full.words)))


#: The protocol of Dreyer et al. 2025, arXiv:2505.20229.
paper = Protocol(
    source="arXiv:2505.20229",
    variants=PAPER_VARIANTS,
    site="image.-1.cls",
    n_latents=30_000,
    k=64,
    examples=20,
    evaluator="MobileCLIP-S2:datacompdr",
    vocabulary="imagenet21k",
    templates=("{}",),
    method="patching",
    clear=0.4,
    unaligned=(0.05, 0.08),
    # 30 epochs over a tenth of the pictures are 3 passes over all; the learning rate falls after epochs 24 and 28.
    training={"epochs": 3, "batch": 32, "lr": 2e-4, "decay": 0.2},
    differences=(
        "training minimises the share of variance left unexplained, not 100 × the squared error of unit vectors",
        "the learning rate falls linearly over the last fifth, not in two steps",
        "latents that stopped firing are revived; training={..., 'dead_after': 0} turns that off",
        "computed in float32 or bfloat16, without mixed half precision and gradient clipping",
        "nearly equal pictures count once among a latent's examples",
    ),
)
