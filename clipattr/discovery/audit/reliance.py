"""How much prompts rely on families of latents, over the pictures of a study.

Owns which pictures are a prompt's and which half finds or measures; sums exact ablations from the closed-form tail.
Ignores meaning. Start at `Reliance`.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from clipattr.attribution import ClosedFormTail
from clipattr.discovery.audit.expectations import Prompt, most_like
from clipattr.errors import SiteError

if TYPE_CHECKING:
    from clipattr.studies.study import Study

BATCH = 512  # pictures a step
OWN = 100  # pictures chosen by the evaluator for a prompt without labels
STRONG = 0.5  # of the 99th percentile of a family's strength: a picture that clearly shows it
STRONGEST = 200  # pictures looked at for a family
FEW = 4  # pictures below which nothing is said


@dataclass(frozen=True)
class Half:
    """The pictures of one half of the study: those that find, or those that measure.

    Attributes:
        rows: (pictures,) rows in the study's arrays.
        strength: (pictures, families) summed codes, scipy CSR.
        own: for each prompt, numbers of the pictures that show it.
    """

    rows: np.ndarray
    strength: Any
    own: list[Tensor]

    def is_own(self, prompt: int) -> Tensor:
        """(pictures,) bool: which pictures are the prompt's."""
        mask = torch.zeros(len(self.rows), dtype=torch.bool)
        mask[self.own[prompt]] = True
        return mask

    def others(self) -> Tensor:
        """(pictures, prompts) float: 1 where a picture is not the prompt's own."""
        return 1.0 - torch.stack([self.is_own(prompt) for prompt in range(len(self.own))], 1).float()


class Reliance:
    """Exact reliances of prompts on families, for one study.

    The target of each prompt is its contrast against the mean over `background`, so that a latent which lifts every
    prompt alike counts for none.

    Args:
        study: with codes at `image.-1.cls`.
        prompts: texts.
        background: (n, embed) unit-length text embeddings of the audited model.
        families: groups of latents.

    Raises:
        SiteError: the study's site or model has no closed-form tail.
    """

    def __init__(
        self, study: Study, prompts: Sequence[Prompt], background: Tensor, families: Sequence[Sequence[int]]
    ) -> None:
        self.study, self.prompts = study, list(prompts)
        if not study.site.is_single or study.site.tail(study.model) is None:
            raise SiteError(
                "audit needs one vector a picture with a closed-form tail: image.embedding, or image.-1.cls where the "
                f"class token is pooled. This study was built at {study.site}; build one there."
            )
        text = study.model.encode_text([prompt.text for prompt in prompts])
        self.columns = (text - background.mean(0)).T.float()  # (embed, prompts)
        self.tail = ClosedFormTail(study.model, study.dictionary, self.columns, site=study.site)
        self._gather(families)

    def _gather(self, families: Sequence[Sequence[int]]) -> None:
        from scipy.sparse import csr_array

        self.families = [list(family) for family in families]
        latents = [latent for family in self.families for latent in family]
        numbers = [number for number, family in enumerate(self.families) for _ in family]
        shape = (self.study.dictionary.n_latents, len(self.families))
        self.members = csr_array((np.ones(len(latents), np.float32), (latents, numbers)), shape=shape)

    def with_more(self, families: Sequence[Sequence[int]]) -> Reliance:
        """The same with more families behind the present ones."""
        more = copy(self)
        more._gather([*self.families, *families])
        return more

    def halves(self, prompt_text: Tensor) -> tuple[Half, Half]:
        """The half that finds and the half that measures: the study's own split, or every other picture.

        Args:
            prompt_text: (prompts, embed), the evaluator's; chooses a prompt's pictures where there are no labels.
        """
        finding, measuring = self.study.rows, self.study.holdout_rows
        if len(measuring) < max(50, len(finding) // 20):
            everything = np.arange(len(self.study.images))
            finding, measuring = everything[::2], everything[1::2]
        return self._half(finding, prompt_text), self._half(measuring, prompt_text)

    def _half(self, rows: np.ndarray, prompt_text: Tensor) -> Half:
        return Half(rows, self._strength(rows), self._own(rows, prompt_text))

    def codes(self, rows: np.ndarray) -> Any:
        """(rows, latents) codes of some of the study's pictures, scipy CSR."""
        return self.study.codes.rows(torch.from_numpy(rows)).to_scipy().tocsr()

    def _strength(self, rows: np.ndarray) -> Any:
        from scipy.sparse import vstack

        parts = np.array_split(rows, max(1, -(-len(rows) // 4096)))
        return vstack([self.codes(some) @ self.members for some in parts]).tocsr()

    def _own(self, rows: np.ndarray, prompt_text: Tensor) -> list[Tensor]:
        labels = self.study.images.columns["label"]
        by_label: dict[str, list[int]] = {}
        for number, row in enumerate(rows.tolist()):
            if labels[row]:
                by_label.setdefault(labels[row].casefold(), []).append(number)
        missing = [i for i, prompt in enumerate(self.prompts) if prompt.text.casefold() not in by_label]
        chosen: dict[int, Tensor] = {}
        if missing:
            pictures = self.study.seen(rows)
            found = most_like(pictures, prompt_text, OWN)
            chosen = {i: found[i] for i in missing}
        return [
            chosen[i] if i in chosen else torch.tensor(by_label[prompt.text.casefold()])
            for i, prompt in enumerate(self.prompts)
        ]

    def contrasts(self, half: Half) -> Tensor:
        """Contrast of every prompt on every picture of a half, (pictures, prompts) raw cosine."""
        numbers = torch.arange(len(half.rows))
        return torch.cat([self.tail.values(self.acts(half, some)) for some in numbers.split(4096)])

    def acts(self, half: Half, numbers: Tensor) -> Tensor:
        """Activations of some pictures of a half, (pictures, width) float32."""
        return torch.from_numpy(
            np.asarray(self.study.activations[half.rows[numbers.numpy()]], dtype=np.float32)
        )

    def effects(
        self, half: Half, numbers: Tensor, prompts: Sequence[int] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Exact single-latent ablations of some pictures.

        Returns:
            latent: (pictures, k) number of each active latent, −1 where the place is empty.
            effect: (pictures, k, prompts) raw cosine, positive where the latent lifts the prompt's contrast.
        """
        tail = self.tail if prompts is None else self.tail.aimed_at(self.columns[:, list(prompts)])
        codes = self.study.codes.rows(torch.from_numpy(half.rows[numbers.numpy()])).to_fixed()
        latent = torch.where(codes.values != 0, codes.indices.long(), -1)
        return latent, tail.exact(self.acts(half, numbers), codes)

    def carried(self, half: Half, prompt: int, shows: Tensor) -> Tensor:
        """Mean reliance of a prompt on each latent, over those of its own pictures that show something.

        Args:
            shows: (pictures, things) bool, over all pictures of the half.

        Returns:
            (things, latents) summed single-latent exact ablation, raw cosine; zero where no own picture shows it.
        """
        n_latents = self.study.dictionary.n_latents
        total = torch.zeros(shows.shape[1], n_latents + 1)  # the last: empty places
        own = half.own[prompt]
        for some in own.split(BATCH):
            if not len(some):
                continue
            latent, effect = self.effects(half, some, [prompt])
            latent = torch.where(latent < 0, n_latents, latent)
            for thing, there in enumerate(shows[some].T):
                total[thing].index_add_(0, latent[there].flatten(), effect[there].flatten().float())
        return total[:, :-1] / shows[own].sum(0).clamp_min(1)[:, None]

    def where_strong(self, half: Half, family: int, n: int = STRONGEST) -> Tensor:
        """Numbers of the pictures that clearly show a family, strongest first."""
        column = half.strength[:, [family]].toarray()[:, 0]
        active = np.flatnonzero(column)
        if not len(active):
            return torch.empty(0, dtype=torch.long)
        # By the strong end of its own activations: a family that fires faintly everywhere shows in few pictures.
        bound = STRONG * np.quantile(column[active], 0.99)
        strong = active[column[active] >= bound]
        return torch.from_numpy(strong[np.argsort(-column[strong], kind="stable")][:n].copy())

    def levels(self, half: Half, contrast: Tensor) -> Tensor:
        """Mean contrast of every prompt on pictures that clearly show a family and are not the prompt's own.

        Args:
            contrast: (pictures, prompts) of this half.

        Returns:
            (families, prompts) raw cosine; NaN where fewer than `FEW` such pictures are.
        """
        not_own = half.others()
        result = torch.full((len(self.families), len(self.prompts)), float("nan"))
        for number in range(len(self.families)):
            strong = self.where_strong(half, number)
            result[number] = _mean_where(contrast[strong], not_own[strong])
        return result

    def effects_elsewhere(self, half: Half) -> Tensor:
        """Mean fall of every prompt's contrast when a family is ablated whole, on pictures that show it alone.

        Returns:
            (families, prompts) raw cosine, over pictures that clearly show the family and are not the prompt's own;
            NaN where fewer than `FEW` such pictures are.
        """
        not_own = half.others()
        result = torch.full((len(self.families), len(self.prompts)), float("nan"))
        for number, family in enumerate(self.families):
            strong = self.where_strong(half, number)
            if len(strong) < FEW:
                continue
            codes = self.study.codes.rows(torch.from_numpy(half.rows[strong.numpy()])).to_fixed()
            fall = self.tail.exact_group(self.acts(half, strong), codes, [family])[
                :, 0
            ]  # (pictures, prompts)
            result[number] = _mean_where(fall.float(), not_own[strong])
        return result


def _mean_where(values: Tensor, there: Tensor) -> Tensor:
    """Column means over the pictures where `there` is 1, both (pictures, columns); NaN over fewer than `FEW`."""
    count = there.sum(0)
    return torch.where(count >= FEW, (values * there).sum(0) / count.clamp_min(1), float("nan"))
