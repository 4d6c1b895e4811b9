"""Validation of labels: the alignment that chance reaches, and prediction of activations on held-out pictures.

Ignores how labels are found. Start at `validation_auc`.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from clipattr.meaning.examples import Examples, by_latent
from clipattr.meaning.labels import alignment
from clipattr.statistics import auc_error, rank_auc


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
    """Quantile, over random draws of m pictures, of the best word's alignment; `rows` restricts the pictures.

    A label whose alignment is below this level is not distinguishable from chance.
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
    """AUC of the label's similarity to a picture as a predictor of whether the latent is active in it.

    0.5 is chance level.

    Args:
        codes: SparseCodes of the validation pictures, preferably held out.
        rows: (len(codes),) indices of these pictures.
        evaluator_embeddings: (n_pictures, embed) of all pictures.
        word: (n_latents,) index of each latent's label, -1 for none.
        vocabulary_embeddings: (n_words, embed).
        exclude: each latent's examples, which are left out of its validation where no pictures are held out.

    Returns:
        AUC and its standard error (Hanley and McNeil 1982), each (n_latents,); nan for latents without a label, or
        without an active or an inactive picture.
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
