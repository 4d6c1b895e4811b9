"""Labels: the words of a vocabulary that fit a latent's examples, and how reliable they are.

Owns three rankings of words: alignment, evidence and contrast. Ignores where examples come from, and validation
(`validation.py`). Start at `label_latents`.

Alignment is the paper's ranking and the one that findings report. Evidence corrects for words that fit every picture
and weights examples by rank. Contrast compares the top examples with the latent's middle ones and with random
pictures. A label on which they disagree is uncertain.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from clipattr.errors import DataError
from clipattr.meaning.examples import Examples
from clipattr.storage.files import read_tensors, save_tensors
from clipattr.storage.paths import user_path

if TYPE_CHECKING:
    import pandas as pd

CHUNK = 2048  # latents per block of (latents, words)
CANDIDATES = 50  # words per latent that the evidence ranking compares, the best by alignment


@dataclass(frozen=True)
class Labels:
    """The best words of each latent, as `label_latents` returns them.

    Latents without examples have word -1, alignment nan and a zero mean embedding.

    Attributes:
        word_top: (n_latents, top) int64, indices of the vocabulary, best first by `ranking`; -1: none.
        alignment_top: (n_latents, top) alignment of these words, in raw cosine.
        mean_embedding: (n_latents, embed) mean of the examples' unit embeddings; shorter than 1 unless all are equal.
        floor: 99 % quantile of the best word's alignment for random pictures; nan if unknown.
        auc: (n_latents,) AUC of the best word's similarity as a predictor of whether the latent is active; nan: not
            measured.
        auc_error: (n_latents,) its standard error.
        ranking: "alignment", "evidence" or "contrast".

    >>> import clipattr as ca
    >>> labels = ca.open_study("picture-world").labels
    >>> labels.word_top.shape, labels.ranking
    (torch.Size([1024, 5]), 'alignment')
    >>> bool((labels.alignment_top[labels.aligned, 0] > labels.floor).all())
    True
    """

    word_top: Tensor
    alignment_top: Tensor
    mean_embedding: Tensor
    floor: float = float("nan")
    auc: Tensor = field(default_factory=lambda: torch.empty(0))
    auc_error: Tensor = field(default_factory=lambda: torch.empty(0))
    ranking: str = "alignment"

    def __len__(self) -> int:
        return len(self.word_top)

    @property
    def margin(self) -> Tensor:
        """Alignment of the best word minus that of the second, (n_latents,), in raw cosine; nan with one word."""
        if self.alignment_top.shape[1] < 2:
            return torch.full((len(self),), float("nan"))
        return self.alignment_top[:, 0] - self.alignment_top[:, 1]

    @property
    def aligned(self) -> Tensor:
        """Whether the best word's alignment exceeds the chance level `floor`, (n_latents,) bool."""
        floor = self.floor if self.floor == self.floor else 0.0
        return torch.nan_to_num(self.alignment_top[:, 0], nan=-1.0) > floor

    def save(self, path: str | Path) -> None:
        """Write as safetensors."""
        tensors = {
            "word_top": self.word_top.int(),
            "alignment_top": self.alignment_top,
            "mean_embedding": self.mean_embedding.half(),
            "auc": self.auc,
            "auc_error": self.auc_error,
        }
        # One entry: safetensors writes several in an order that changes from run to run.
        about = json.dumps({"floor": repr(self.floor), "ranking": self.ranking})
        save_tensors(user_path(path), tensors, {"about": about})

    @classmethod
    def load(cls, path: str | Path) -> "Labels":
        """Read what `save` wrote."""
        tensors, written = read_tensors(path)
        metadata = json.loads(written["about"])
        tensors["word_top"] = tensors["word_top"].long()
        tensors["mean_embedding"] = tensors["mean_embedding"].float()
        return cls(**tensors, floor=float(metadata["floor"]), ranking=metadata["ranking"])


def alignment(mean_embedding: Tensor, text: Tensor, empty: Tensor) -> Tensor:
    """Alignment of words with mean image embeddings: cos(mean, word) − cos(mean, empty prompt).

    Args:
        mean_embedding: (n_latents, embed), any length; a zero row gives nan.
        text: (n_words, embed), unit length.
        empty: (embed,), unit length, the embedding of the empty prompt.

    Returns:
        (n_latents, n_words) in raw cosine, in [-2, 2]. 0: the word fits no better than the empty prompt.

    Raises:
        RuntimeError: embeddings of different widths.

    Source: Dreyer et al. 2025, arXiv:2505.20229.

    >>> mean, words, empty = torch.tensor([[2.0, 0.0]]), torch.eye(2), torch.tensor([0.6, 0.8])
    >>> alignment(mean, words, empty)  # the first word fits, the second fits worse than no words at all
    tensor([[ 0.4000, -0.6000]])
    """
    length = mean_embedding.norm(dim=-1, keepdim=True)
    unit = torch.where(length > 0, mean_embedding / length, torch.full_like(mean_embedding, float("nan")))
    return unit @ (text - empty).T


def mean_embeddings(examples: Examples, embeddings: Tensor | np.ndarray) -> Tensor:
    """Mean of each latent's example embeddings, (n_latents, embed)."""
    stored = torch.as_tensor(embeddings)
    result = torch.zeros(examples.n_latents, stored.shape[1])
    for start in range(0, examples.n_latents, CHUNK):
        indices = examples.indices[start : start + CHUNK]
        weight = indices >= 0
        gathered = stored[indices.clamp(min=0)].float()
        total = torch.einsum("jm,jme->je", weight.float(), gathered)
        result[start : start + CHUNK] = total / weight.sum(1, keepdim=True).clamp(min=1)
    return result


def label_latents(
    examples: Examples,
    evaluator_embeddings: Tensor | np.ndarray,
    vocabulary_embeddings: Tensor,
    empty_embedding: Tensor,
    *,
    top: int = 5,
    floor: float = float("nan"),
) -> Labels:
    """Label latents with the words of largest alignment.

    Args:
        examples: m examples per latent.
        evaluator_embeddings: (n_pictures, embed), unit length; row i is picture i of `examples`.
        vocabulary_embeddings: (n_words, embed), unit length, of the same evaluator.
        empty_embedding: (embed,), the empty prompt, of the same evaluator.
        top: words per latent.
        floor: see `Labels.floor` and `chance_floor`.

    Returns:
        `Labels` with ranking "alignment".

    Raises:
        DataError: embeddings of different widths.

    Source: Dreyer et al. 2025, arXiv:2505.20229.

    >>> import clipattr as ca
    >>> examples = ca.Examples(n_latents=1, m=2)
    >>> examples.update(ca.SparseCodes.from_dense(torch.tensor([[1.0], [2.0]])))
    >>> pictures, words, empty = torch.eye(2), torch.eye(2), torch.tensor([0.0, 1.0])
    >>> ca.label_latents(examples, pictures, words, empty, top=1).alignment_top
    tensor([[0.]])
    """
    _checked(evaluator_embeddings, vocabulary_embeddings, empty_embedding)
    means = mean_embeddings(examples, evaluator_embeddings)
    words, values = _best_words(
        len(means),
        len(vocabulary_embeddings),
        top,
        lambda low, high: alignment(means[low:high], vocabulary_embeddings, empty_embedding),
    )
    return replace(_labels(examples, words, values, means), floor=floor)


def words_of(study: Any, latent: int) -> "pd.DataFrame":
    """The best words of a study's latent by alignment, at most five.

    Returns:
        DataFrame: word (with its sense where a spelling has several), gloss, group, alignment, and lead, its alignment
        minus that of the next word; both in raw cosine, lead nan in the last row. No rows for a latent without
        examples.

    Raises:
        DataError: no such latent.
    """
    import pandas as pd

    labels, vocabulary = study.labels, study.vocabulary
    if not 0 <= latent < len(labels):
        raise DataError(f"There is no latent {latent}; they are numbered 0 to {len(labels) - 1}.")
    words = [word for word in labels.word_top[latent].tolist() if word >= 0]
    values = labels.alignment_top[latent, : len(words)].double().numpy()
    return pd.DataFrame(
        {
            "word": [vocabulary.display[word] for word in words],
            "gloss": [vocabulary.glosses[word] for word in words],
            "group": [vocabulary.groups[word] for word in words],
            "alignment": values,
            "lead": np.append(-np.diff(values), np.nan)[: len(words)],
        }
    )


def label_by_evidence(
    examples: Examples,
    evaluator_embeddings: Tensor | np.ndarray,
    vocabulary_embeddings: Tensor,
    empty_embedding: Tensor,
    *,
    scale: float = 50.0,
    correction: float = 0.8,
    top: int = 5,
    sample: int = 2000,
    seed: int = 0,
) -> Labels:
    """Label latents with words that are likelier for the top examples than for random pictures.

    The score of a word is the mean of log p(word | example), a softmax of `scale` × cosine over the vocabulary, with
    weights 1 / log2(rank + 1), minus `correction` × log of the word's mean probability over random pictures. Only each
    latent's best 50 words by alignment are ranked. Arguments as for `label_latents`.
    """
    stored = _checked(evaluator_embeddings, vocabulary_embeddings, empty_embedding)
    base = label_latents(
        examples,
        stored,
        vocabulary_embeddings,
        empty_embedding,
        top=min(CANDIDATES, len(vocabulary_embeddings)),
    )
    prior = torch.zeros(len(vocabulary_embeddings))
    chosen = _sample(len(stored), sample, seed)
    for part in chosen.split(256):
        prior += torch.softmax(scale * stored[part].float() @ vocabulary_embeddings.T, -1).sum(0)
    prior = (prior / len(chosen)).clamp(min=1e-12).log()

    used = torch.unique(examples.indices[examples.indices >= 0])
    total = torch.zeros(len(stored))
    for part in used.split(256):
        total[part] = torch.logsumexp(scale * stored[part].float() @ vocabulary_embeddings.T, -1)

    weight = 1 / torch.log2(torch.arange(examples.m) + 2.0)
    words, values = base.word_top.clone(), base.alignment_top.clone()
    for start in range(0, len(words), 256):
        here = slice(start, start + 256)
        index = examples.indices[here].clamp(min=0)
        weights = weight * (examples.indices[here] >= 0)
        candidates = base.word_top[here].clamp(min=0)
        logits = scale * torch.einsum(
            "jme,jke->jmk", stored[index].float(), vocabulary_embeddings[candidates]
        )
        votes = torch.einsum("jm,jmk->jk", weights, logits - total[index][..., None])
        score = votes / weights.sum(1, keepdim=True).clamp(min=1e-12) - correction * prior[candidates]
        order = score.argsort(dim=1, descending=True, stable=True)
        words[here], values[here] = words[here].gather(1, order), values[here].gather(1, order)
    return replace(base, word_top=words[:, :top], alignment_top=values[:, :top], ranking="evidence")


def label_by_contrast(
    examples: Examples,
    evaluator_embeddings: Tensor | np.ndarray,
    vocabulary_embeddings: Tensor,
    empty_embedding: Tensor,
    *,
    middle: Tensor,
    top: int = 5,
    sample: int = 2000,
    seed: int = 0,
) -> Labels:
    """Label latents with words that fit their top examples better than random pictures and middle examples.

    Score: (cosine with the top examples' mean − mean of the cosines with random pictures and middle examples),
    divided by the word's standard deviation over random pictures.

    Args:
        middle: (n_latents, any) picture indices from the middle of each latent's range, -1 where none; see
            `examples.quantile_examples`. The other arguments are as for `label_latents`.
    """
    stored = _checked(evaluator_embeddings, vocabulary_embeddings, empty_embedding)
    means = mean_embeddings(examples, stored)
    random = stored[_sample(len(stored), sample, seed)].float()
    spread = (random @ vocabulary_embeddings.T).std(0).clamp(min=1e-6)
    background = random.mean(0)
    count = (middle >= 0).sum(1, keepdim=True)
    middling = torch.zeros_like(means)
    for start in range(0, len(means), CHUNK):
        index = middle[start : start + CHUNK]
        middling[start : start + CHUNK] = (stored[index.clamp(min=0)].float() * (index >= 0)[..., None]).sum(
            1
        )
    middling = torch.where(count > 0, middling / count.clamp(min=1), background)
    contrast = means - (background + middling) / 2
    words, _ = _best_words(
        len(means),
        len(vocabulary_embeddings),
        top,
        lambda low, high: contrast[low:high] @ vocabulary_embeddings.T / spread,
    )
    unit = F.normalize(means, dim=-1)
    values = torch.einsum("je,jke->jk", unit, vocabulary_embeddings[words] - empty_embedding)
    return replace(_labels(examples, words, values, means), ranking="contrast")


def _best_words(
    n_latents: int, n_words: int, top: int, score: Callable[[int, int], Tensor]
) -> tuple[Tensor, Tensor]:
    """The top words of each latent in blocks; `score(low, high)` returns (high − low, n_words)."""
    block = max(16, min(CHUNK, 20_000_000 // n_words))
    words, values = [], []
    for start in range(0, n_latents, block):
        best = score(start, min(start + block, n_latents)).topk(min(top, n_words), dim=1)
        words.append(best.indices)
        values.append(best.values)
    return torch.cat(words), torch.cat(values)


def _labels(examples: Examples, words: Tensor, values: Tensor, means: Tensor) -> Labels:
    """Labels, with word -1 for latents without examples."""
    empty = examples.indices[:, 0] < 0
    words, values = words.clone(), values.clone()
    words[empty], values[empty] = -1, float("nan")
    nothing = torch.full((len(words),), float("nan"))
    return Labels(words, values, means, auc=nothing, auc_error=nothing.clone())


def _sample(total: int, size: int, seed: int) -> Tensor:
    if total <= size:
        return torch.arange(total)
    return torch.randperm(total, generator=torch.Generator().manual_seed(seed))[:size].sort().values


def _checked(embeddings: Tensor | np.ndarray, text: Tensor, empty: Tensor) -> Tensor:
    """The embeddings of pictures as a tensor; DataError where their width is not that of the words."""
    widths = {int(embeddings.shape[-1]), int(text.shape[-1]), int(empty.shape[-1])}
    if len(widths) > 1 or empty.ndim != 1:
        raise DataError(
            "Pictures, words and the empty prompt must be embedded by the same evaluator; got shapes "
            f"{tuple(embeddings.shape)}, {tuple(text.shape)} and {tuple(empty.shape)}."
        )
    return torch.as_tensor(embeddings)
