"""A joined dictionary: named directions for words that an evaluator sees, and trained latents beside them.

Owns the choice of words, their linear reading, and the directions fitted for both parts together. The result is a
`NestedTopK` whose first level is named and whose second is trained: each level keeps its own largest codes, and what
neither explains is the error, as in every dictionary. Ignores studies. Start at `joined_dictionary`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from clipattr.dictionaries.batches import as_source
from clipattr.dictionaries.choosing import train_sized
from clipattr.dictionaries.named import LEAST, centred, one_name, soft_labels
from clipattr.dictionaries.nested import NestedTopK
from clipattr.dictionaries.sae import Dictionary
from clipattr.errors import DictionaryError

AT_ONCE = 3  # named latents active per row, at most: words compete for a row
SLACK = 2.0  # rows that a word may be active in, in numbers of rows in which the evaluator sees it
RIDGE = 3e-2  # of the readings, in units of the activations' mean variance
REFIT = 1e-2  # of the directions, in units of the codes' mean variance
CHANCE = 1e-3  # probability, over all words, that a word of no direction is kept
WORDS = 1000  # named latents, at most; the words that most pictures show
LATENTS = 6144  # trained latents, at most: directions are fitted by one solution of this size
ROWS, REFIT_ROWS = 16_384, 32_768  # evenly spread rows for readings and for directions
BLOCK = 1024


def joined_dictionary(
    acts: Any,
    embeddings: Tensor | np.ndarray,
    words: Tensor | np.ndarray,
    names: Sequence[str],
    *,
    n_latents: int | None = None,
    k: int | None = None,
    seed: int = 0,
    **training: Any,
) -> Dictionary:
    """Fit named directions and train latents on the same activations, as one dictionary.

    A word gets a direction if a linear reading of the activation separates held-out rows that show it from others
    better than chance (hypergeometric test, 0.001 over all words). Which rows show it is what the evaluator says
    (`soft_labels`); the reading, the direction and their effects are the audited model's.

    Args:
        acts: (rows, width) tensor, array or memory map.
        embeddings: (rows, embed) of the same rows, by an evaluator that is not the audited model.
        words: (words, embed), by the evaluator.
        names: the words; `info["named"]` lists those that have a latent, in order: they are the first latents.
        n_latents, k: of the trained part; default 8 latents per dimension, at most a quarter of the rows, and a twelfth
            of the width active.
        seed: of training.
        training: further arguments of `train_sae`.

    Returns:
        A `NestedTopK`: at most 3 named latents are active per row, and k trained ones. Where the activations hold none
        of the words it is the trained `TopK` alone, and `info["named"]` is empty.

    Raises:
        DictionaryError: rows that do not fit each other.

    Source: SpLiCE (Bhalla et al. 2024, arXiv:2402.10376) for the labels, TopK (Gao et al. 2024, arXiv:2406.04093) for
    the trained part.

    >>> import torch
    >>> import clipattr as ca
    >>> rows = torch.eye(4).repeat(20, 1) + 0.01 * torch.randn(80, 4, generator=torch.Generator().manual_seed(0))
    >>> made = ca.joined_dictionary(rows, rows, torch.eye(4), ["cat", "dog", "car", "sea"], steps=5, progress=False)
    >>> made.info["named"], made.n_latents
    (['cat', 'dog', 'car', 'sea'], 24)
    """
    shape = tuple(getattr(acts, "shape", ()))
    if len(shape) != 2 or shape[0] != embeddings.shape[0] or len(words) != len(names):
        raise DictionaryError(
            f"A joined dictionary needs one embedding per row and one name per word; got activations {shape}, "
            f"{embeddings.shape[0]} embeddings, {len(words)} words and {len(names)} names."
        )
    texts = torch.as_tensor(np.asarray(words)).float()
    rows = _spread(shape[0], ROWS)
    kept, encoder, bias, mean = readings(_some(acts, rows), _some(embeddings, rows), texts, names)
    source = as_source(acts)
    size, active = trained_size(source.width, len(source)) if n_latents is None else (n_latents, k)
    trained = train_sized(source, size, k or active, training, seed=seed)
    about = {"named": [names[word] for word in kept], "asked": len(names), "trained_k": trained.k}
    if not kept:
        trained.info |= about
        return trained
    levels: dict[str, Any] = {
        "sizes": [len(kept), trained.n_latents],
        "active": [min(AT_ONCE, len(kept)), trained.k],
        "encoder": torch.cat([encoder, trained.encoder]),
        "encoder_bias": torch.cat([bias, trained.encoder_bias + trained.encoder @ (mean - trained.pre_bias)]),
        "pre_bias": mean,
        "site": trained.site,
        "model_hash": trained.model_hash,
    }
    start = torch.cat([torch.zeros(len(kept), source.width), trained.decoder])
    directions, offset = _directions(
        acts, NestedTopK(decoder=F.normalize(start + 1e-12, dim=1), **levels), start
    )
    return NestedTopK(decoder=directions, bias=offset, info={**trained.info, **about}, **levels)


def trained_size(width: int, rows: int) -> tuple[int, int]:
    """Latents of the trained part, and how many of them are active: 8 a dimension, a twelfth of the width.

    >>> trained_size(160, 6000)
    (1280, 13)
    """
    size = max(16, min(LATENTS, 8 * width, rows // 4))
    return size, max(1, min(64, width // 12, size // 8))


def readings(
    acts: Tensor, embeddings: Tensor, words: Tensor, names: Sequence[str]
) -> tuple[list[int], Tensor, Tensor, Tensor]:
    """Linear readings of the words that activations hold.

    Args:
        acts: (rows, width). embeddings: (rows, embed). words: (words, embed).

    Returns:
        Numbers of the words kept; encoder (kept, width), by which rows that show the word read 1 on average; bias
        (kept,), minus the value that `SLACK` times as many rows exceed as show the word; mean activation (width,).
    """
    asked = _asked(embeddings, words, names)
    labels = soft_labels(embeddings, words[asked])
    shows = labels > labels.topk(min(LEAST, len(labels)), dim=0).values.mean(0) / 2
    known = (shows.sum(0) >= LEAST).nonzero().flatten()
    mean = acts.double().mean(0)
    centred, shows = acts.double() - mean, shows[:, known]
    if len(known):
        told = _told(centred, shows, len(names))
        known, shows = known[told], shows[:, told]
    if not len(known):
        return [], torch.zeros(0, acts.shape[1]), torch.zeros(0), mean.float()
    reading = _ridge(centred, shows.double())
    scores, counts = centred @ reading, shows.sum(0)
    unit = ((scores * shows).sum(0) / counts).clamp_min(1e-9)
    last = (counts * SLACK).long().clamp_max(len(acts) - 1)
    bound = (scores / unit).sort(dim=0, descending=True).values.gather(0, last[None])[0]
    kept = torch.tensor(asked)[known].tolist()
    return kept, (reading / unit).T.float().contiguous(), -bound.float(), mean.float()


def told_joined(dictionary: Dictionary) -> list[str]:
    """What a joined dictionary is made of, as one sentence; empty for others."""
    named = dictionary.info.get("named")
    if named is None:
        return []
    if not named:
        return [f"trained alone: the activations hold none of the {dictionary.info['asked']} words asked."]
    return [
        f"joined: {len(named)} named latents for the {dictionary.info['asked']} words asked, at most "
        f"{min(AT_ONCE, len(named))} active; {dictionary.n_latents - len(named)} trained latents, "
        f"{dictionary.info['trained_k']} active; directions fitted together."
    ]


def _asked(embeddings: Tensor, words: Tensor, names: Sequence[str]) -> list[int]:
    """Words to be fitted: of names of one concept the shortest; of too many those among the best of most pictures."""
    texts, best, often = centred(words), list(range(len(words))), torch.zeros(len(words))
    if len(words) > WORDS:
        for part in centred(embeddings).split(BLOCK):
            often += torch.bincount((part @ texts.T).topk(AT_ONCE).indices.flatten(), minlength=len(words))
        best = sorted(often.argsort(descending=True, stable=True)[: 2 * WORDS].tolist())
    stands = one_name([names[word] for word in best], texts[best]).tolist()
    kept = [word for place, word in enumerate(best) if stands[place] == place]
    return sorted(sorted(kept, key=lambda word: (-float(often[word]), word))[:WORDS])


def _told(centred: Tensor, shows: Tensor, words: int) -> Tensor:
    """(words,) bool: whether a reading fitted on the other half finds rows that show a word beyond chance."""
    from scipy.stats import hypergeom

    # Halves at random: pictures may come in an order of period 2.
    fold = torch.randperm(len(centred), generator=torch.Generator().manual_seed(0)) % 2 == 0
    scores = torch.zeros(shows.shape, dtype=torch.float64)
    for part in (fold, ~fold):
        scores[~part] = centred[~part] @ _ridge(centred[part], shows[part].double())
    counts = shows.sum(0)
    bound = scores.sort(dim=0, descending=True).values.gather(0, (counts - 1)[None])
    hits = ((scores >= bound) & shows).sum(0)
    chance = hypergeom.sf(hits.numpy() - 1, len(centred), counts.numpy(), counts.numpy())
    return torch.from_numpy(chance <= CHANCE / words)


def _ridge(x: Tensor, y: Tensor) -> Tensor:
    """(width, columns): ridge regression of y on x, both centred here, in float64."""
    x, y = x - x.mean(0), y - y.mean(0)
    second = x.T @ x / len(x)
    damp = RIDGE * second.diagonal().mean().clamp_min(1e-12)
    return torch.linalg.solve(second + damp * torch.eye(len(second), dtype=x.dtype), x.T @ y / len(x))


def _directions(acts: Any, encoder: NestedTopK, start: Tensor) -> tuple[Tensor, Tensor]:
    """Directions (n_latents, width) and bias by ridge regression of activations on all codes together.

    A concept that both parts follow is shared between them. Latents that are never active keep their directions.
    """
    from scipy.sparse import vstack

    x = _some(acts, _spread(acts.shape[0], REFIT_ROWS)).double()
    blocks = [encoder.encode(part.float()).to_scipy().tocsr().astype(np.float64) for part in x.split(BLOCK)]
    codes, mean = vstack(blocks).tocsr(), x.mean(0)
    usual = torch.from_numpy(np.asarray(codes.mean(0)).ravel())
    second = torch.from_numpy((codes.T @ codes).toarray()) / len(x) - torch.outer(usual, usual)
    second.diagonal().add_(REFIT * second.diagonal().mean().clamp_min(1e-12))
    fitted = torch.linalg.solve(second, torch.from_numpy(codes.T @ (x - mean).numpy()) / len(x))
    found = torch.where((usual == 0)[:, None], start.double(), fitted)
    return found.float(), (mean - usual @ found).float()


def _spread(rows: int, most: int) -> np.ndarray:
    """At most so many row numbers, evenly spread."""
    return np.linspace(0, rows - 1, min(rows, most)).astype(np.int64)


def _some(table: Any, rows: np.ndarray) -> Tensor:
    """(rows, columns) float32 of some rows of a tensor, array or memory map."""
    part = (
        table[torch.from_numpy(rows)]
        if isinstance(table, Tensor)
        else np.asarray(table[rows], dtype=np.float32)
    )
    return torch.as_tensor(part).float().cpu()
