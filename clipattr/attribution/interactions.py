"""Interactions: what several latents do together, exactly.

Owns group ablation and pairwise synergy on a `Splice`, at any site. Ignores how groups are found. At the last block
`ClosedFormTail.exact_group` gives the same for many pictures at once. Start at `group_effects`.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from clipattr.attribution.splice import Splice
from clipattr.errors import DictionaryError


def group_effects(splice: Splice, groups: Sequence[Any]) -> Tensor:
    """Exact effect of taking whole groups of latents to their baseline, at all tokens of the site.

    Args:
        groups: latent numbers of each group.

    Returns:
        (batch, groups, n), `y(x) - y(x without the group)`; positive: the group raises the target.

    Raises:
        DictionaryError: a latent that the dictionary does not have.
    """
    states = splice.amounts[:, None].repeat(1, len(groups), 1)
    for number, group in enumerate(groups):
        members = torch.as_tensor(group, device=splice.indices.device).long().flatten()
        if len(members) and not 0 <= int(members.min()) <= int(members.max()) < splice.codes.n_latents:
            raise DictionaryError(
                f"group {number} names latents {int(members.min())} to {int(members.max())}; the dictionary has "
                f"{splice.codes.n_latents}, counted from 0."
            )
        inside = torch.isin(splice.indices, members)
        states[:, number] = torch.where(inside, splice.reference, splice.amounts)
    return splice.y[:, None] - splice.states(states)


def pairwise(splice: Splice, places: Tensor | None = None) -> Tensor:
    """What two parts do together beyond what they do alone: `effect(i and j) - effect(i) - effect(j)`.

    Positive: synergy, each matters more while the other is there. Negative: redundancy, either one suffices.

    Args:
        places: (batch, m) places of the parts to pair; all where None. One output per pair: m (m + 1) / 2.

    Returns:
        (batch, m, m, n), symmetric, 0 on the diagonal.
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
