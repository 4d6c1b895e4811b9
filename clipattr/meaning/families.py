"""Families: groups of latents that share one meaning, and a tree of latents for browsing.

One factor is often spread over several latents, by size, position or strength, so findings and repairs refer to
families. Ignores attributions. Start at `families`.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from clipattr.meaning.examples import by_latent
from clipattr.meaning.scores import nearest_latents

NEIGHBOURS = 24  # nearest latents that are compared with each latent
SAMPLED = 200_000  # pictures on which co-activation is counted
LARGEST = 400  # latents per clustering; larger connected components are first split at a stricter threshold


def families(study: Any, *, alike: float = 0.7, latents: Any = None) -> list[list[int]]:
    """Group latents that have one meaning.

    The similarity of two latents is 0.8 × the cosine of their mean evaluator embeddings, centred on the mean over
    pictures, + 0.2 × the larger of their co-activation rate and the cosine of their directions. Nearest neighbours are
    linked, and each connected component is split by average linkage, so that chains of neighbours do not merge.

    Args:
        study: anything with `labels`, `codes`, `dictionary`, `examples` and `evaluator_embeddings`.
        alike: similarity at which latents are merged, in [0, 1]; larger values give more and smaller families.
        latents: restrict to these; default all with examples.

    Returns:
        Lists of latent numbers; each requested latent is in exactly one. A list is ordered by falling mean top
        activation, the lists by falling size and then by first latent.

    Raises:
        IndexError: a latent that does not exist.

    >>> import clipattr as ca
    >>> study = ca.open_study("picture-world")
    >>> groups = ca.families(study, latents=range(100))
    >>> len(groups) < sum(map(len, groups)) <= 100
    True
    """
    live = study.examples.counts > 0
    if latents is not None:
        chosen = torch.zeros_like(live)
        chosen[torch.as_tensor(latents, dtype=torch.int64)] = True
        live &= chosen
    background = torch.as_tensor(np.asarray(study.evaluator_embeddings[:5000], dtype=np.float32)).mean(0)
    return group_latents(
        study.labels.mean_embedding - background,
        study.dictionary.decoder,
        study.codes[:SAMPLED],
        live=live,
        strength=study.examples.values.sum(1),
        alike=alike,
    )


def group_latents(
    meaning: Tensor, decoder: Tensor, codes: Any, *, live: Tensor, strength: Tensor, alike: float = 0.7
) -> list[list[int]]:
    """`families` of tensors: meaning (n_latents, embed), decoder (n_latents, width), live (n_latents,) bool."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    members = torch.nonzero(live).flatten()
    if not len(members):
        return []
    index, _ = nearest_latents(meaning, NEIGHBOURS, among=live)
    pairs = torch.stack([members.repeat_interleave(index.shape[1]), index[members].flatten()])
    pairs = pairs[:, pairs[1] >= 0]
    likeness = _likeness(pairs, meaning, decoder, codes)
    groups: list[np.ndarray] = []
    waiting: list[tuple[np.ndarray, float]] = [(members.numpy(), alike)]
    place = torch.full((len(meaning),), -1, dtype=torch.int64)
    while waiting:
        inside, cut = waiting.pop()
        place.fill_(-1)
        place[torch.from_numpy(inside)] = torch.arange(len(inside))
        one, two = place[pairs[0]], place[pairs[1]]
        linked = (one >= 0) & (two >= 0) & (likeness >= cut)
        graph = coo_array(
            (np.ones(int(linked.sum())), (one[linked].numpy(), two[linked].numpy())), shape=(len(inside),) * 2
        )
        _, part = connected_components(graph, directed=False)
        order = np.argsort(part, kind="stable")
        for component in np.split(inside[order], np.flatnonzero(np.diff(part[order])) + 1):
            if len(component) <= LARGEST:
                groups += _split(component, meaning, decoder, codes, alike)
            else:
                waiting.append((component, cut + (1 - cut) / 4))
    ordered = [
        sorted(group.tolist(), key=lambda latent: (-float(strength[latent]), latent)) for group in groups
    ]
    return sorted(ordered, key=lambda group: (-len(group), group[0]))


def tree(study: Any) -> Tensor:
    """Average-linkage tree over the latents with examples, for browsing.

    Returns:
        (merges, 4) float64 as scipy's `linkage` returns it, over the latents `torch.nonzero(examples.counts > 0)` in
        that order. Distance is 1 − cosine of centred mean embeddings. With more than 5,000 such latents, the leaves are
        the first latents of the families.
    """
    from scipy.cluster.hierarchy import linkage

    live = torch.nonzero(study.examples.counts > 0).flatten()
    if len(live) > 5000:
        live = torch.tensor(sorted(group[0] for group in families(study)))
    background = torch.as_tensor(np.asarray(study.evaluator_embeddings[:5000], dtype=np.float32)).mean(0)
    centred = F.normalize(study.labels.mean_embedding[live] - background, dim=-1).double()
    if len(centred) < 2:
        return torch.empty(0, 4, dtype=torch.float64)
    near = np.triu_indices(len(centred), 1)
    distance = (1 - centred @ centred.T).clamp(min=0).numpy()[near]
    return torch.from_numpy(linkage(distance, "average"))


def _likeness(pairs: Tensor, meaning: Tensor, decoder: Tensor, codes: Any) -> Tensor:
    """Similarity of pairs, (pairs,); see `families`."""
    offsets, pictures, _ = by_latent(codes)
    values = []
    for part in pairs.split(1 << 14, dim=1):
        same = F.cosine_similarity(meaning[part[0]].float(), meaning[part[1]].float(), dim=-1)
        parallel = F.cosine_similarity(decoder[part[0]].float(), decoder[part[1]].float(), dim=-1)
        together = torch.tensor(
            [
                _overlap(pictures[offsets[a] : offsets[a + 1]], pictures[offsets[b] : offsets[b + 1]])
                for a, b in part.T.tolist()
            ]
        )
        values.append(0.8 * same + 0.2 * torch.maximum(parallel, together).clamp(min=0))
    return torch.cat(values) if values else torch.empty(0)


def _overlap(one: Tensor, two: Tensor) -> float:
    """Share of the rarer latent's pictures on which the other is also active; both are sorted."""
    if not len(one) or not len(two):
        return 0.0
    common = np.intersect1d(one.numpy(), two.numpy(), assume_unique=True)
    return len(common) / min(len(one), len(two))


def _split(
    component: np.ndarray, meaning: Tensor, decoder: Tensor, codes: Any, alike: float
) -> list[np.ndarray]:
    from scipy.cluster.hierarchy import fcluster, linkage

    if len(component) < 2:
        return [component]
    one, two = np.triu_indices(len(component), 1)
    pairs = torch.from_numpy(np.stack([component[one], component[two]]))
    distance = (1 - _likeness(pairs, meaning, decoder, codes)).clamp(min=0).numpy().astype(np.float64)
    cluster = fcluster(linkage(distance, "average"), 1 - alike, "distance")
    return [component[cluster == number] for number in np.unique(cluster)]
