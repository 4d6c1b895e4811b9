"""A named dictionary: one direction per word, fitted from the evaluator's embeddings of pictures and words.

Owns which words are names of one concept, the soft labels (a sparse non-negative decomposition of the evaluator's
embeddings over its words), and their linear regression on the audited activations. Start at `named_dictionary`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from clipattr.dictionaries.relu import Relu
from clipattr.dictionaries.sae import Dictionary
from clipattr.errors import DictionaryError

PENALTY = (
    0.2  # l1 penalty of the decomposition, as a share of the largest correlation of a picture with a word
)
STEPS = 60  # of FISTA; the decomposition changes by less than 1 % afterwards
RIDGE = 1e-2  # of the linear reading, in units of the mean variance of the activation
LEAST = 5  # pictures that must show a word for its direction to be fitted
ONE_NAME = 0.97  # cosine of centred texts from which two words are names of one concept
WORDS = 512  # words compared at a time


def centred(embeddings: Tensor) -> Tensor:
    """(rows, embed) float32: minus their mean, scaled to unit length."""
    rows = embeddings.float()
    return F.normalize(rows - rows.mean(0), dim=1)


def one_name(
    words: Sequence[str],
    texts: Tensor,
    *,
    ids: Sequence[str | None] | None = None,
    cosine: float = ONE_NAME,
) -> Tensor:
    """(words,) number of each word's representative: itself, or the shortest other name of the same concept.

    Two names are one where the evaluator's centred texts have at least a cosine, or where their ids are equal. A name
    joins a representative word, never a chain of names of which each is close to the next.

    Args:
        texts: (words, embed) of the evaluator, from `centred`. ids: None where a word has none.

    >>> texts = torch.tensor([[1.0, 0.1, 0.0], [1.0, 0.1, 0.01], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    >>> one_name(["a kite", "kite", "harp", "coin"], centred(texts)).tolist()
    [1, 1, 2, 3]
    """
    n, ids = len(words), [None] * len(words) if ids is None else ids
    by_id: dict[str, list[int]] = {}
    for number, known in enumerate(ids):
        if known:
            by_id.setdefault(known, []).append(number)
    stands = torch.full((n,), -1)
    order = sorted(range(n), key=lambda number: (len(words[number]), words[number], number))
    for start in range(0, n, WORDS):
        some = order[start : start + WORDS]
        # Pairs are never listed: to an evaluator that knows few of the words, thousands of them are one.
        for number, near in zip(some, texts[some] @ texts.T >= cosine, strict=True):
            if stands[number] < 0:
                near[[number, *by_id.get(ids[number] or "", ())]] = True
                stands[near & (stands < 0)] = number
    return stands


def soft_labels(embeddings: Tensor, words: Tensor, *, penalty: float = PENALTY, steps: int = STEPS) -> Tensor:
    """Sparse non-negative coefficients of words for each picture, (rows, words).

    Minimises |e - c W|^2 / 2 + p_e |c|_1 over c >= 0 for every row e, where both sides are centred and of unit length
    and p_e is `penalty` times the row's largest correlation with a word.

    Args:
        embeddings: (rows, embed) of the evaluator; words: (words, embed) of its text side.

    Source: SpLiCE (Bhalla et al. 2024, arXiv:2402.10376), solved by FISTA.
    """
    e, w = centred(embeddings), centred(words)
    gram, against = w @ w.T, e @ w.T
    rate = 1 / float(torch.linalg.matrix_norm(gram, 2).clamp_min(1e-6))
    cut = penalty * against.amax(1, keepdim=True).clamp_min(0)
    codes = torch.zeros_like(against)
    ahead, momentum = codes, 1.0
    for _ in range(steps):
        new = (ahead - rate * (ahead @ gram - against + cut)).clamp_min(0)
        following = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        ahead = new + (momentum - 1) / following * (new - codes)
        codes, momentum = new, following
    return codes


def named_dictionary(
    acts: Tensor | np.ndarray,
    embeddings: Tensor | np.ndarray,
    words: Tensor | np.ndarray,
    names: Sequence[str],
    *,
    labels: Tensor | None = None,
    penalty: float = PENALTY,
    ridge: float = RIDGE,
    **core: Any,
) -> Dictionary:
    """Fit one direction per word from the evaluator's similarities of pictures and words.

    A word's code is max(0, linear reading of its soft label - t), with t chosen so that as many pictures have the
    code as have the label at half its strength or more. Directions are the ridge regression of activations on codes.
    Unlike a trained dictionary, it has latents only for words that the evaluator recognises.

    Args:
        acts: (rows, width) activations to split.
        embeddings: (rows, embed) of the same pictures, by the evaluator.
        words: (words, embed), by the evaluator.
        names: the words; recorded in `info["words"]`, one for each latent.
        labels: (rows, words) non-negative, instead of `soft_labels(embeddings, words)`.
        penalty: of `soft_labels`.
        ridge: of both fits, in units of the mean variance.
        core: further arguments of `Dictionary`.

    Returns:
        A dictionary with as many latents as words seen in at least 5 pictures.

    Raises:
        DictionaryError: rows that do not fit each other, or no word that is seen in 5 pictures.

    Source: Bhalla et al. 2024, arXiv:2402.10376 (decomposition of the evaluator's embeddings).

    >>> import torch
    >>> import clipattr as ca
    >>> rows = torch.eye(2).repeat(20, 1)  # two kinds of pictures
    >>> ca.named_dictionary(rows, rows, torch.eye(2), ["cat", "dog"]).info["words"]
    ['cat', 'dog']
    """
    acts, embeddings, words = (torch.as_tensor(np.asarray(one)).float() for one in (acts, embeddings, words))
    if len(acts) != len(embeddings) or len(words) != len(names) or acts.ndim != 2:
        raise DictionaryError(
            "A named dictionary needs one embedding per row and one name per word; got activations "
            f"{tuple(acts.shape)}, {len(embeddings)} embeddings, {len(words)} words and {len(names)} names."
        )
    wanted = soft_labels(embeddings, words, penalty=penalty) if labels is None else labels.float()
    strong = wanted > wanted.topk(min(LEAST, len(wanted)), dim=0).values.mean(0) / 2
    kept = (strong.sum(0) >= LEAST).nonzero().flatten()
    if not len(kept):
        raise DictionaryError(
            f"None of the {len(names)} words has a positive soft label in at least {LEAST} of {len(acts)} pictures. "
            "Give words for what the pictures show, or more pictures."
        )
    wanted, counts = wanted[:, kept].double(), strong[:, kept].sum(0)
    mean = acts.double().mean(0)
    centred = acts.double() - mean
    second = centred.T @ centred / len(acts)
    damp = ridge * second.diagonal().mean() * torch.eye(len(second), dtype=torch.float64)
    reading = torch.linalg.solve(second + damp, centred.T @ (wanted - wanted.mean(0)) / len(acts))
    # One threshold a word: as many pictures above it as the evaluator finds the word in.
    scores = centred @ reading
    ordered = scores.sort(dim=0, descending=True).values
    last = counts.clamp_max(len(acts) - 1)
    threshold = (ordered.gather(0, (last - 1)[None])[0] + ordered.gather(0, last[None])[0]) / 2
    codes = (scores - threshold).clamp_min(0)
    products = codes.T @ codes / len(acts)
    damp = ridge * products.diagonal().mean() * torch.eye(len(products), dtype=torch.float64)
    offset = codes.mean(0)
    decoder = torch.linalg.solve(
        products - torch.outer(offset, offset) + damp, (codes - offset).T @ centred / len(acts)
    )
    return Relu(
        decoder=decoder.float(),
        encoder=reading.T.float().contiguous(),
        encoder_bias=-threshold.float(),
        pre_bias=mean.float(),
        bias=(mean - offset @ decoder).float(),
        **{
            **core,
            "info": {"control": "named", "words": [names[i] for i in kept.tolist()], **core.get("info", {})},
        },
    )
