"""Labels: which words of a vocabulary fit a latent's examples, and how far to trust them.

Owns three rankings of words (alignment, evidence, contrast), the chance level below which a latent has no
aligned label, and validation on held-back pictures. Ignores where examples come from. Start at
`label_latents`.

Why three: alignment is the paper's and the one that findings report; evidence corrects for words that fit
everything and counts the strongest examples most; contrast asks what sets the strong examples apart from the
latent's own middling ones and from any others. Where they disagree a label deserves a second look.
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
from clipattr.meaning.examples import Examples, by_latent
from clipattr.statistics import auc_error, rank_auc
from clipattr.storage.files import save_tensors

if TYPE_CHECKING:
    import pandas as pd

CHUNK = 2048  # latents per block of (latents, words)
CANDIDATES = 50  # words per latent that the slower evidence ranking looks at


@dataclass(frozen=True)
class Labels:
    """The best words per latent. Latents without examples have word -1, alignment nan and a zero mean
    embedding.

    Attributes:
        word_top: (n_latents, top) int64, places in the vocabulary, best first by the ranking used; -1: none.
        alignment_top: (n_latents, top) alignment of these words.
        mean_embedding: (n_latents, embed) mean of the examples' unit embeddings (shorter than 1 unless all
            equal).
        floor: the alignment that the best word reaches for random pictures in 99 of 100 cases; nan if
            unknown.
        auc: (n_latents,) how well the best word predicts where the latent is active; nan: not measured.
        auc_error: (n_latents,) its standard error.
        ranking: "alignment", "evidence" or "contrast".
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
        """(n_latents,) lead of the best word's alignment over the next word's; small: the label is a
        toss-up."""
        if self.alignment_top.shape[1] < 2:
            return torch.full((len(self),), float("nan"))
        return self.alignment_top[:, 0] - self.alignment_top[:, 1]

    @property
    def aligned(self) -> Tensor:
        """(n_latents,) bool: the best word fits better than words fit random pictures. False: no aligned
        label."""
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
        save_tensors(Path(path), tensors, {"about": about})

    @classmethod
    def load(cls, path: str | Path) -> "Labels":
        """Read what `save` wrote."""
        from safetensors import safe_open

        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = json.loads(file.metadata()["about"])
        tensors["word_top"] = tensors["word_top"].long()
        tensors["mean_embedding"] = tensors["mean_embedding"].float()
        return cls(**tensors, floor=float(metadata["floor"]), ranking=metadata["ranking"])


def alignment(mean_embedding: Tensor, text: Tensor, empty: Tensor) -> Tensor:
    """How well words fit mean pictures: cos(mean, word) − cos(mean, empty prompt).

    Args:
        mean_embedding: (n_latents, embed), any length; a zero row gives nan.
        text: (n_words, embed) unit length; empty: (embed,) unit length.

    Returns:
        (n_latents, n_words) in raw cosine. Subtracting the empty prompt removes what every text shares with a
        picture, so 0 means "no better than saying nothing". Source: Dreyer et al. 2025, arXiv:2505.20229.

    >>> mean, words, empty = torch.tensor([[2.0, 0.0]]), torch.eye(2), torch.tensor([0.6, 0.8])
    >>> alignment(mean, words, empty)  # the first word fits, the second fits worse than no words at all
    tensor([[ 0.4000, -0.6000]])
    """
    length = mean_embedding.norm(dim=-1, keepdim=True)
    unit = torch.where(length > 0, mean_embedding / length, torch.full_like(mean_embedding, float("nan")))
    return unit @ (text - empty).T


def mean_embeddings(
    examples: Examples, embeddings: Tensor | np.ndarray, weights: Tensor | None = None
) -> Tensor:
    """(n_latents, embed) mean of each latent's example embeddings; `weights` (m,) by rank, default equal."""
    stored = torch.as_tensor(embeddings)
    result = torch.zeros(examples.n_latents, stored.shape[1])
    rank_weights = torch.ones(examples.m) if weights is None else weights
    for start in range(0, examples.n_latents, CHUNK):
        indices = examples.indices[start : start + CHUNK]
        weight = (indices >= 0) * rank_weights
        gathered = stored[indices.clamp(min=0)].float()
        total = torch.einsum("jm,jme->je", weight.float(), gathered)
        result[start : start + CHUNK] = total / weight.sum(1, keepdim=True).clamp(min=1e-12)
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
    """Name latents by alignment.

    Args:
        examples: m per latent; evaluator_embeddings: (n_pictures, embed), unit length, row i = picture i.
        vocabulary_embeddings: (n_words, embed) and empty_embedding: (embed,), of the same evaluator.
        floor: see `Labels.floor` and `chance_floor`.
    """
    _check(evaluator_embeddings, vocabulary_embeddings, empty_embedding)
    means = mean_embeddings(examples, evaluator_embeddings)
    words, values = _best_words(
        len(means),
        len(vocabulary_embeddings),
        top,
        lambda low, high: alignment(means[low:high], vocabulary_embeddings, empty_embedding),
    )
    return replace(_silence(examples, words, values, means), floor=floor)


def words_of(study: Any, latent: int) -> "pd.DataFrame":
    """The words that fit a latent of a study best, best first, at most five.

    Returns:
        DataFrame: word (with its sense where a spelling has several), gloss, group, alignment, and lead, what it has
        over the next word; both in raw cosine, nan after the last. No rows for a silent latent.
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
    """Name latents by the words that their strongest examples raise above what any picture gives them.

    Each example "votes" with log p(word | picture), a softmax of scale × cosine over the vocabulary, weighted
    by 1 / log2(rank + 1); `correction` × log of the word's mean probability over random pictures is taken
    off, so that a word that fits everything does not win everywhere. Only each latent's best 50 words by
    alignment are ranked.
    """
    _check(evaluator_embeddings, vocabulary_embeddings, empty_embedding)
    stored = torch.as_tensor(evaluator_embeddings)
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
    """Name latents by the words that fit their top examples better than random and than middling ones.

    Score: (cosine with the top examples' mean − mean of the cosines with random and with middling pictures),
    divided by the word's standard deviation over random pictures.

    Args:
        middle: (n_latents, any) picture indices from the middle of each latent's range, -1 where none; see
            `examples.quantile_examples`.
    """
    _check(evaluator_embeddings, vocabulary_embeddings, empty_embedding)
    stored = torch.as_tensor(evaluator_embeddings)
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
    apart = means - (background + middling) / 2
    words, _ = _best_words(
        len(means),
        len(vocabulary_embeddings),
        top,
        lambda low, high: apart[low:high] @ vocabulary_embeddings.T / spread,
    )
    unit = F.normalize(means, dim=-1)
    values = torch.einsum("je,jke->jk", unit, vocabulary_embeddings[words] - empty_embedding)
    return replace(_silence(examples, words, values, means), ranking="contrast")


def chance_floor(
    evaluator_embeddings: Tensor | np.ndarray,
    vocabulary_embeddings: Tensor,
    empty_embedding: Tensor,
    *,
    rows: np.ndarray | None = None,
    m: int = 20,
    draws: int = 400,
    quantile: float = 0.99,
    seed: int = 0,
) -> float:
    """The alignment that the best of all words reaches for m random pictures, at this quantile over draws.

    Below it a label says no more about a latent than about any handful of pictures. `rows` restricts the pictures.
    """
    stored = torch.as_tensor(evaluator_embeddings)
    generator = torch.Generator().manual_seed(seed)
    picks = torch.randint(len(stored) if rows is None else len(rows), (draws, m), generator=generator)
    picks = picks if rows is None else torch.as_tensor(rows, dtype=torch.int64)[picks]
    means = stored[picks].float().mean(1)
    best = torch.cat(
        [alignment(part, vocabulary_embeddings, empty_embedding).amax(1) for part in means.split(256)]
    )
    return float(torch.quantile(best, quantile))


def validation_auc(
    codes: Any,
    rows: Tensor | np.ndarray,
    evaluator_embeddings: Tensor | np.ndarray,
    word: Tensor,
    vocabulary_embeddings: Tensor,
    *,
    exclude: Examples | None = None,
) -> tuple[Tensor, Tensor]:
    """How well the label's text alone tells on which pictures the latent is active.

    The pictures are ranked by the cosine of their evaluator embedding with the label; the AUC is the chance that an
    active picture ranks above a silent one. 0.5: the label predicts nothing.

    Args:
        codes: SparseCodes of the pictures to judge on, best held-back ones; rows: (len(codes),) which they are.
        evaluator_embeddings: (n_pictures, embed) of all pictures.
        word: (n_latents,) place of each latent's label, -1 for none.
        exclude: where nothing was held back, each latent's own examples, left out of its judgement.

    Returns:
        auc and its standard error (Hanley and McNeil 1982), each (n_latents,); nan without label, without an active
        or without a silent picture.
    """
    from scipy.stats import rankdata

    stored, chosen = torch.as_tensor(evaluator_embeddings), torch.as_tensor(rows, dtype=torch.int64)
    place = torch.full((len(stored),), -1, dtype=torch.int64)
    place[chosen] = torch.arange(len(chosen))
    offsets, pictures, _ = by_latent(codes)
    auc, error = torch.full((len(word),), float("nan")), torch.full((len(word),), float("nan"))
    embeddings = stored[chosen].float()
    labelled = torch.nonzero((word >= 0) & (offsets.diff() > 0)).flatten()
    labelled = labelled[word[labelled].argsort(stable=True)]
    distinct, number = torch.unique_consecutive(word[labelled], return_counts=True)
    ends = number.cumsum(0)
    for start in range(0, len(distinct), 128):
        cosines = (embeddings @ vocabulary_embeddings[distinct[start : start + 128]].T).numpy()
        ranks = rankdata(cosines, axis=0)
        for column in range(cosines.shape[1]):
            end = int(ends[start + column])
            for latent in labelled[end - int(number[start + column]) : end].tolist():
                active = pictures[offsets[latent] : offsets[latent + 1]].numpy()
                rank, total = ranks[:, column], len(chosen)
                if exclude is not None:
                    own = place[exclude.indices[latent][exclude.indices[latent] >= 0]]
                    left = np.setdiff1d(np.arange(total), own[own >= 0].numpy())
                    active = np.flatnonzero(np.isin(left, active))
                    rank, total = rankdata(cosines[left, column]), len(left)
                value = rank_auc(rank, active)
                auc[latent], error[latent] = value, auc_error(value, len(active), total - len(active))
    return auc, error


def _best_words(
    n_latents: int, n_words: int, top: int, score: Callable[[int, int], Tensor]
) -> tuple[Tensor, Tensor]:
    """The top words per latent, block by block; `score(low, high)` gives (high − low, n_words)."""
    block = max(16, min(CHUNK, 20_000_000 // n_words))
    words, values = [], []
    for start in range(0, n_latents, block):
        best = score(start, min(start + block, n_latents)).topk(min(top, n_words), dim=1)
        words.append(best.indices)
        values.append(best.values)
    return torch.cat(words), torch.cat(values)


def _silence(examples: Examples, words: Tensor, values: Tensor, means: Tensor) -> Labels:
    """Latents without an example get no word."""
    silent = examples.indices[:, 0] < 0
    words, values = words.clone(), values.clone()
    words[silent], values[silent] = -1, float("nan")
    nothing = torch.full((len(words),), float("nan"))
    return Labels(words, values, means, auc=nothing, auc_error=nothing.clone())


def _sample(total: int, size: int, seed: int) -> Tensor:
    if total <= size:
        return torch.arange(total)
    return torch.randperm(total, generator=torch.Generator().manual_seed(seed))[:size].sort().values


def _check(embeddings: Tensor | np.ndarray, text: Tensor, empty: Tensor) -> None:
    widths = {int(embeddings.shape[-1]), int(text.shape[-1]), int(empty.shape[-1])}
    if len(widths) > 1 or empty.ndim != 1:
        raise DataError(
            "Pictures, words and the empty prompt must be embedded by one evaluator; got shapes "
            f"{tuple(embeddings.shape)}, {tuple(text.shape)} and {tuple(empty.shape)}."
        )
