"""Which words of a vocabulary a picture shows: a sparse, non-negative decomposition of its evaluator embedding.

Words compete for a picture, so that a word of a similar look is not seen beside the right one. Each picture is
decomposed by itself, so the result does not depend on other pictures or prompts. Names that the evaluator cannot
distinguish count as one word, since they would share its weight and none might be seen. After Bhalla et al. 2024
(SpLiCE, arXiv 2402.10376). Ignores the audited model. Start at `Concepts`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

CHOSEN = 64  # words a picture that fit it best and compete for it
SWEEPS = 12  # of coordinate descent
BLOCK = 512  # pictures per step
NAMES = 10  # of one concept; a larger group are words that the evaluator does not distinguish


class Concepts:
    """A vocabulary as an evaluator sees it.

    Args:
        words: (words, embed) text embeddings, unit length. pictures: (n, embed) whose mean is the evaluator's picture
            side of the gap between texts and pictures. sparsity: penalty, cosine. fits: how many best words count.
        stands: (words,) number of the word that stands for each, from `one_name`. Only these compete for a picture.

    Attributes:
        competing: (some,) numbers of the words that stand for themselves.
    """

    def __init__(self, words: Tensor, pictures: Tensor, sparsity: float, fits: int, stands: Tensor) -> None:
        self.stands, self.competing = stands, stands.unique()
        self.text_mean, self.centre = words[self.competing].float().mean(0), pictures.float().mean(0)
        self.words = self.texts(words)
        self.sparsity, self.fits = sparsity, fits

    @property
    def not_distinguished(self) -> list[int]:
        """Numbers of words that share a representative with more than `NAMES` - 1 others."""
        group = self.stands.bincount(minlength=len(self.stands))[self.stands]
        return torch.nonzero(group > NAMES).flatten().tolist()

    def texts(self, texts: Tensor) -> Tensor:
        """(n, embed) centred, unit length; a vocabulary of one word is not centred."""
        centred = texts.float() - self.text_mean
        return F.normalize(
            centred if len(self.text_mean) and centred.norm() > 1e-6 else texts.float(), dim=-1
        )

    def centred(self, pictures: Tensor) -> Tensor:
        """(n, embed) pictures less the average picture, unit length."""
        return F.normalize(pictures.float() - self.centre, dim=-1)

    def decompose(self, pictures: Tensor) -> tuple[Any, Tensor]:
        """Weights of the words in each picture.

        Args:
            pictures: (n, embed), the evaluator's.

        Returns:
            weights: (n, words) scipy CSR, float32, non-negative. bar: (n,) cosine of the `fits`-th best word.
        """
        from scipy.sparse import csr_array

        n, words = len(pictures), self.words[self.competing]
        rows, columns, values, bars = [], [], [], []
        for start in range(0, n, BLOCK):
            some = self.centred(pictures[start : start + BLOCK])
            cosine, index = (some @ words.T).topk(min(CHOSEN, len(words)), dim=1)
            bars.append(cosine[:, min(self.fits, len(words)) - 1])
            weight = _non_negative(words[index], cosine, self.sparsity)
            row, place = torch.nonzero(weight, as_tuple=True)
            rows.append(row + start)
            columns.append(self.competing[index[row, place]])
            values.append(weight[row, place])
        parts = [torch.cat(part).numpy() if part else np.zeros(0, int) for part in (values, rows, columns)]
        table = csr_array((parts[0].astype(np.float32), (parts[1], parts[2])), shape=(n, len(self.words)))
        table.sort_indices()
        return table, torch.cat(bars) if bars else torch.zeros(0)

    def weight_of(self, text: Tensor, cosine: Tensor, weights: Any) -> Tensor:
        """What a text that need not be in the vocabulary weighs in each picture, given the vocabulary's words, (n,).

        Args:
            text: (embed,) of `texts`. cosine: (n,) of the centred pictures with it. weights: of `decompose`.
        """
        explained = np.asarray(weights @ (self.words @ text).numpy(), dtype=np.float32)
        return (cosine - torch.from_numpy(explained) - self.sparsity).clamp_min(0)


def _non_negative(words: Tensor, cosine: Tensor, sparsity: float) -> Tensor:
    """Minimise |x − Σ z w|²/2 + sparsity Σ z over z ≥ 0 by coordinate descent, (batch, chosen).

    Args:
        words: (batch, chosen, embed) unit length. cosine: (batch, chosen) with the picture.
    """
    gram = words @ words.transpose(1, 2)
    weight, left = torch.zeros_like(cosine), cosine - sparsity
    for _ in range(SWEEPS):
        for place in range(cosine.shape[1]):
            after = (weight[:, place] + left[:, place]).clamp_min(0)
            change = after - weight[:, place]
            left -= gram[:, :, place] * change[:, None]
            weight[:, place] = after
    return torch.where(weight > 1e-4, weight, 0.0)
