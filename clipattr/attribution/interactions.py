"""Interactions: exact joint effects of several latents.

Owns group ablation and pairwise synergy on a `Splice`, at any site. Ignores how groups are found. At the last block
`ClosedFormTail.exact_group` computes group effects of many pictures at once. Start at `group_effects`.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from clipattr.attribution.splice import Splice
from clipattr.dictionaries.codes import checked_latents


def group_effects(splice: Splice, groups: Sequence[Any]) -> Tensor:
    """Exact effect of setting all latents of a group to their baseline, at all tokens of the site.

    Args:
        splice: a batch from `attribution.splices`.
        groups: latent numbers of each group.

    Returns:
        (batch, groups, n), `y(x) - y(x without the group)`, in the unit of the target. Positive: the group raises the
        target.

    Raises:
        DictionaryError: a latent that the dictionary does not have.

    >>> import clipattr as ca
    >>> from clipattr.attribution import splices
    >>> study = ca.open_study("picture-world")
    >>> [(_, splice)] = splices(study, study.images[19], "kite")
    >>> ca.group_effects(splice, [[656], [656, 404]]).shape  # one picture, two groups, one target
    torch.Size([1, 2, 1])
    """
    states = splice.amounts[:, None].repeat(1, len(groups), 1)
    for number, group in enumerate(groups):
        members = checked_latents(group, splice.codes.n_latents, f"group {number}")
        inside = torch.isin(splice.indices, members.to(splice.indices.device))
        states[:, number] = torch.where(inside, splice.reference, splice.amounts)
    return splice.y[:, None] - splice.states(states)


def pairwise(splice: Splice, places: Tensor | None = None) -> Tensor:
    """Pairwise interaction of parts: `effect(i and j) - effect(i) - effect(j)`.

    Args:
        splice: a batch from `attribution.splices`.
        places: (batch, m) positions of the parts to pair among the splice's parts; default all. Costs m (m + 1) / 2
            outputs of the model per picture.

    Returns:
        (batch, m, m, n) in the unit of the target, symmetric, 0 on the diagonal. Positive: synergy, each part matters
        more in the presence of the other. Negative: redundancy.

    Raises:
        IndexError: a position beyond the splice's parts.

    >>> import clipattr as ca
    >>> from clipattr.attribution import splices
    >>> study = ca.open_study("picture-world")
    >>> [(_, splice)] = splices(study, study.images[19], "kite")
    >>> ca.pairwise(splice, torch.tensor([[0, 1, 2]])).shape
    torch.Size([1, 3, 3, 1])
    """
    if places is None:
        places = torch.arange(splice.parts, device=splice.indices.device).expand(splice.batch, -1)
    m = places.shape[1]
    first, second = torch.triu_indices(m, m)
    states = splice.amounts[:, None].repeat(1, len(first), 1)
    for side in (first, second):
        where = places[:, side]
        states.scatter_(2, where[..., None], splice.reference.gather(1, where)[..., None])
    effects = splice.y[:, None] - splice.states(states)
    table = effects.new_zeros(splice.batch, m, m, splice.n_targets)
    table[:, first, second] = effects
    table[:, second, first] = effects
    alone = torch.diagonal(table, dim1=1, dim2=2).permute(0, 2, 1)  # (batch, m, n)
    result = table - alone[:, :, None] - alone[:, None]
    torch.diagonal(result, dim1=1, dim2=2).zero_()
    return result
