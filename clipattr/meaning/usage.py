"""Usage: the pictures with the largest attribution of a target to each latent.

Owns examples by attribution, which may differ from examples by activation. Ignores how attributions are computed. Start
at `examples_of_use`.
"""

from typing import Any

import numpy as np
import torch

from clipattr.attribution import Attribution, ClosedFormTail, as_target, attribute
from clipattr.attribution.target import LinearTarget
from clipattr.dictionaries import SparseCodes
from clipattr.errors import DataError
from clipattr.meaning.examples import Examples, entries


def examples_of_use(
    study: Any, target: Any, m: int = 20, *, rows: np.ndarray | None = None, block: int = 1024
) -> Examples:
    """Each latent's m pictures with the largest attribution to one target.

    Where the site has one vector per picture and a closed-form tail, attributions are exact ablations computed from the
    stored activations, without running the model; elsewhere pictures are encoded again.

    Args:
        study: a study.
        target: one prompt or `Target` with a single value, e.g. Contrast("kite", "bat").
        m: examples per latent.
        rows: pictures to consider; default all except held-out pictures and near-duplicates.
        block: pictures per block.

    Returns:
        Examples whose `values` are attributions in raw units of the target; at a site of several tokens their sum over
        tokens, with the token of the largest one in `tokens`. Latents that never raise the target have no examples.

    Raises:
        DataError: more than one target.
    """
    aim = as_target(target)
    if len(aim) != 1:
        raise DataError(
            f"Examples by attribution take one target per call; got {len(aim)}. Call once per target."
        )
    chosen = study.rows[~study.repeats[study.rows]] if rows is None else np.asarray(rows)
    examples = Examples(study.dictionary.n_latents, m)
    tail = None
    if isinstance(aim, LinearTarget) and study.site.is_single and study.site.tail(study.model) is not None:
        weights, constants = aim.linear(study.model)
        tail = ClosedFormTail(study.model, study.dictionary, weights, site=study.site, constants=constants)
    for start in range(0, len(chosen), block):
        part = chosen[start : start + block]
        if tail is not None:
            codes = study.codes.rows(torch.from_numpy(part)).to_fixed()
            acts = torch.from_numpy(np.asarray(study.activations[part], dtype=np.float32))
            values = tail.exact(acts, codes)[..., 0]
        else:
            found = attribute(study, study.images.select(part), aim)
            if found.tokens > 1:
                summed, token = _over_tokens(found)
                examples.update(summed, indices=part, tokens=token)
                continue
            codes, values = found.codes, found.values[..., 0]
        examples.update(codes, indices=part, values=values)
    return examples


def _over_tokens(found: Attribution) -> tuple[SparseCodes, torch.Tensor]:
    """Attributions summed over tokens as codes per picture, and the token with the largest part of each."""
    rows, latents, _ = entries(found.codes)
    values = found.values[..., 0].detach().float().cpu().reshape(-1)
    used = values != 0
    rows, latents, values = rows[used], latents[used], values[used]
    keys, place = (rows // found.tokens * found.codes.n_latents + latents).unique(return_inverse=True)
    sums = torch.zeros(len(keys)).index_add_(0, place, values)
    order = torch.from_numpy(np.lexsort((rows.numpy(), -values.numpy(), place.numpy())))
    first = torch.cat([torch.ones(1, dtype=torch.bool), place[order].diff() > 0])[: len(order)]
    offsets = torch.searchsorted(keys, torch.arange(len(found) + 1) * found.codes.n_latents)
    codes = SparseCodes((keys % found.codes.n_latents).int(), sums, found.codes.n_latents, offsets)
    return codes, (rows[order][first] % found.tokens).int()
