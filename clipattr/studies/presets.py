"""Presets: settings of published work as values, so that it can be repeated with one call.

Owns the protocol of arXiv:2505.20229 and what it takes over from there: sizes, labels, triage, and which latents count
as outliers. Computes nothing of its own: studies are built by `build_study`, attributions by `attribute`. Start at
`paper`.
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

SETTINGS = {"n_latents", "k", "examples", "vocabulary", "evaluator", "site", "templates", "training"}


@dataclass(frozen=True)
class Protocol:
    """What a published study did, as arguments of this package. Frozen: pass changes to the calls.

    Attributes:
        variants: (name, pretrained) of the models it looks at.
        site, n_latents, k: where it reads and what it trains there.
        examples: strongest pictures kept per latent. evaluator, vocabulary, templates: what names them.
        training: further settings of the dictionary's training, see `train_sae`.
        method: how reliance is measured; the target is the plain cosine, and absent means code 0.
        clear: least clarity of a latent that is looked at.
        unaligned: (low, high) best alignment, in cosine, around which it reports its outliers.
        differences: what this package does otherwise although asked for the protocol.
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
        """The protocol as keyword arguments of `build_study`, with changes of your own.

        >>> paper.settings(n_latents=512)["n_latents"], paper.n_latents
        (512, 30000)

        Raises:
            StudyError: a change that is none of the protocol's settings.
        """
        asked = {
            "site": self.site,
            "n_latents": self.n_latents,
            "k": self.k,
            "examples": self.examples,
            "evaluator": self.evaluator,
            "vocabulary": self.vocabulary,
            "templates": self.templates,
            "training": dict(self.training),
        }
        unknown = sorted(set(changes) - SETTINGS)
        if unknown:
            raise StudyError(
                f"The protocol says nothing of {', '.join(unknown)}; it sets {', '.join(sorted(SETTINGS))}. Give other "
                "options to build_study itself."
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
        """Build a study as the protocol does; `changes` replace single settings, e.g. n_latents=512.

        The whole of it needs the evaluator's weights and a training set of about a million pictures.

        Raises:
            StudyError, DataError, ModelError: as `build_study`.
        """
        settings = self.settings(**changes)
        if settings["vocabulary"] == "imagenet21k":
            settings["vocabulary"] = first_names(settings["vocabulary"])
        return build_study(model, images, path=path, progress=progress, **settings)

    def attribute(self, study: Study, images: Any, prompts: Any) -> Attribution:
        """Signed attributions of the cosine with each prompt, in raw cosine; `× 100` is what the paper prints."""
        return attribute(study, images, Similarity(prompts, templates=self.templates), method=self.method)

    def triage(self, study: Study) -> pd.DataFrame:
        """Clear latents in the order in which the paper inspects them: mean top activation × clarity × alignment."""
        clear = study.latents[study.latents["clarity"] > self.clear]
        return clear.sort_values("triage", ascending=False, kind="stable")

    def outliers(self, study: Study, *, below: float | None = None) -> pd.DataFrame:
        """Strong and clear latents that no word fits, strongest first.

        Args:
            below: best alignment, in cosine, under which a latent counts as unaligned; default the upper end of
                `unaligned`. Alignments depend on the evaluator: with another one, look at their distribution first.
        """
        limit = self.unaligned[1] if below is None else below
        clear = self.triage(study)
        return clear[clear["alignment"] < limit].sort_values("mean_top", ascending=False, kind="stable")


def first_names(vocabulary: str) -> Any:
    """The list with the first name of every entry alone, as the paper prompts it: no gloss tells senses apart."""
    from clipattr.meaning import Vocabulary

    full = Vocabulary.open(vocabulary)
    return Vocabulary(list(dict.fromkeys(full.words)))


#: The protocol of Dreyer et al. 2025.
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
    # 30 epochs over a tenth of the pictures each are 3 passes over all of them; its rate falls at 24 and 28 of 30.
    training={"epochs": 3, "batch": 32, "lr": 2e-4, "decay": 0.2},
    differences=(
        "training minimises the share of variance left unexplained, not 100 × the squared error of unit vectors",
        "the learning rate falls linearly over the last fifth, not in two steps",
        "latents that stopped firing are revived; training={..., 'dead_after': 0} turns that off",
        "computed in float32 or bfloat16, without mixed half precision and gradient clipping",
        "nearly equal pictures count once among a latent's examples",
    ),
)
