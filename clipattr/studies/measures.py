"""Measures: the quality figures of a dictionary that its card reports.

One function per group of figures, on activations, codes and a model. Ignores cards and studies. Start at
`reconstruction`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clipattr.dictionaries import Dictionary, SparseCodes
from clipattr.dictionaries.codes import offsets_of
from clipattr.dictionaries.kernels import bag_sum
from clipattr.errors import DictionaryError
from clipattr.meaning.scores import Totals
from clipattr.sites import Site, continue_from

ROWS = 4096  # pictures per block
DENSE = 0.1  # fraction of rows from which an active latent counts as dense
# Pictures; figures of rarer factors would be too noisy.
RARE = 10


def reconstruction(dictionary: Dictionary, acts: Tensor) -> dict[str, float]:
    """FVU, explained variance, L0, dead and dense shares, shrinkage; summed in float64 over blocks.

    Dead: never active on these rows. Dense: active on more than a tenth of them. Shrinkage: fraction by which centred
    reconstructions are too short for their direction; negative if too long.

    Raises:
        DictionaryError: activations without variance.
    """
    mean = torch.zeros(dictionary.width, dtype=torch.float64)
    for part in acts.split(ROWS):
        mean += part.double().sum(0)
    mean /= len(acts)
    error = total = along = length = active = 0.0
    fired = torch.zeros(dictionary.n_latents, dtype=torch.int64)
    for part in acts.split(ROWS):
        codes = dictionary.encode(part)
        recon = dictionary.decode(codes).double() - mean
        centred = part.double() - mean
        error += float((centred - recon).square().sum())
        total += float(centred.square().sum())
        along += float((centred * recon).sum())
        length += float(recon.square().sum())
        active += float(codes.counts().sum())
        fired += torch.bincount(codes.indices[codes.values != 0].long(), minlength=dictionary.n_latents)
    if total == 0:
        raise DictionaryError(
            "All activations are equal: there is no variance to explain. Give rows of several pictures."
        )
    fvu = error / total
    return {
        "fvu": fvu,
        "explained_variance": 1 - fvu,
        "l0": active / len(acts),
        "dead_share": float((fired == 0).double().mean()),
        "dense_share": float((fired > DENSE * len(acts)).double().mean()),
        "shrinkage": 1 - length / along if along > 0 else float("nan"),
    }


@torch.no_grad()
def spliced(
    dictionary: Dictionary,
    acts: Tensor,
    model: Any,
    site: Site,
    *,
    context: Tensor | None = None,
    text: Tensor | None = None,
    labels: Tensor | Sequence[int] | None = None,
) -> dict[str, float]:
    """Figures of the model's output when activations are replaced by reconstructions.

    recovered_over_zero, recovered_over_mean: 1 - d(reconstruction) / d(ablation), where d is the mean of 1 - cosine to
    the true embedding and the ablation sets activations to zero or to their mean. similarity_change: mean |change| of
    cos(picture, prompt). zero_shot, zero_shot_spliced, zero_shot_kept (their ratio): zero-shot accuracy.
    """
    mean = acts.double().mean(0).float()
    distance = {"recon": 0.0, "zero": 0.0, "mean": 0.0}
    change = right = right_spliced = 0.0
    answers = None if labels is None else torch.as_tensor(labels)
    for start in range(0, len(acts), ROWS):
        part = acts[start : start + ROWS]
        around = None if context is None else context[start : start + ROWS]

        def embed(value: Tensor, around: Tensor | None = around) -> Tensor:
            return continue_from(model, site, value, around).float().cpu()

        true = embed(part)
        recon = embed(dictionary.reconstruct(part))
        for name, other in (
            ("recon", recon),
            ("zero", embed(torch.zeros_like(part))),
            ("mean", embed(mean.expand_as(part))),
        ):
            distance[name] += float((1 - (true * other).sum(-1)).sum())
        if text is not None:
            before, after = true @ text.T, recon @ text.T
            change += float((after - before).abs().mean(-1).sum())
            if answers is not None:
                expected = answers[start : start + ROWS]
                right += float((before.argmax(-1) == expected).sum())
                right_spliced += float((after.argmax(-1) == expected).sum())
    figures = {
        "recovered_over_zero": 1 - distance["recon"] / max(distance["zero"], 1e-12),
        "recovered_over_mean": 1 - distance["recon"] / max(distance["mean"], 1e-12),
    }
    if text is not None:
        figures["similarity_change"] = change / len(acts)
    if answers is not None:
        figures |= {
            "zero_shot": right / len(acts),
            "zero_shot_spliced": right_spliced / len(acts),
            "zero_shot_kept": right_spliced / max(right, 1.0),
        }
    return figures


def monosemanticity(codes: SparseCodes, embeddings: Tensor | np.ndarray) -> float:
    """Mean over latents of the activation-weighted mean cosine of the pictures on which they are active."""
    totals = Totals(codes.n_latents, np.shape(embeddings)[1])
    positive = SparseCodes(codes.indices, codes.values.clamp_min(0), codes.n_latents, codes.offsets)
    totals.update(positive, embeddings)
    return float(totals.monosemanticity().nanmean())


def factor_scores(codes: SparseCodes, factors: Tensor | np.ndarray) -> tuple[Tensor, Tensor]:
    """AUC and F1 of each latent as a detector of each true factor.

    Args:
        codes: `SparseCodes` of the rows.
        factors: (rows, factors) of 0 and 1.

    Returns:
        (n_latents, factors) AUC of the activation (0.5 is chance level, and the value for constant factors), and F1 of
        "active" or of "above half its maximum", whichever is larger.
    """
    truth = torch.as_tensor(factors).float()
    if truth.shape[0] != len(codes):
        raise DictionaryError(
            f"{len(codes)} rows of codes need as many rows of factors; got {truth.shape[0]}."
        )
    rows, latents, values = codes.row_of_entries(), codes.indices.reshape(-1).long(), codes.values.reshape(-1)
    keep = values > 0
    rows, latents, values = rows[keep], latents[keep], values[keep]
    # By latent, and within a latent by value.
    order = torch.from_numpy(np.lexsort((values.numpy(), latents.numpy())))
    rows, latents, values = rows[order].int(), latents[order], values[order]
    counts = torch.bincount(latents, minlength=codes.n_latents)
    offsets = offsets_of(counts).int()
    silent = (len(codes) - counts).float()
    rank = torch.arange(1, len(values) + 1) - offsets[latents] + silent[latents]
    positives = truth.sum(0)
    hits = bag_sum(truth, rows, torch.ones(len(rows)), offsets)
    ranks = bag_sum(truth, rows, rank.float(), offsets) + (positives - hits) * (silent[:, None] + 1) / 2
    pairs = positives * (len(codes) - positives)
    auc = torch.where(pairs > 0, (ranks - positives * (positives + 1) / 2) / pairs.clamp_min(1), 0.5)
    f1 = 2 * hits / (counts[:, None] + positives).clamp_min(1)
    largest = values[(offsets[1:].long() - 1)[latents]]
    strong = (values > largest / 2).float()
    strong_hits = bag_sum(truth, rows, strong, offsets)
    strong_counts = torch.zeros(codes.n_latents).index_add_(0, latents, strong)
    return auc, torch.maximum(f1, 2 * strong_hits / (strong_counts[:, None] + positives).clamp_min(1))
