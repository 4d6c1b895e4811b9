"""Usage: the pictures in which a target owes most to each latent, beside those that activate it most.

Owns examples by attribution: what the model *uses* a latent for, which may be a part of what it fires on. Ignores how
attributions are computed. Start at `examples_of_use`.
"""

from typing import Any

import numpy as np
import torch

from clipattr.attribution import ClosedFormTail, as_target, attribute
from clipattr.attribution.targets import LinearTarget
from clipattr.errors import DataError
from clipattr.meaning.examples import Examples


def examples_of_use(
    study: Any, target: Any, m: int = 20, *, rows: np.ndarray | None = None, block: int = 1024
) -> Examples:
    """Each latent's m pictures with the largest attribution to one target.

    Where the tail is closed form, attributions are exact ablations computed from the study's own activations, without
    running the model; elsewhere pictures are read again.

    Args:
        target: one prompt or `Target` with a single value, e.g. Contrast("kite", "bat").
        rows: pictures to look at; default all that are not held out, near-duplicates left out.

    Returns:
        Examples whose `values` are attributions, in raw units of the target. Latents that never raise it have none.
    """
    aim = as_target(target)
    if len(aim) != 1:
        raise DataError(f"Examples of use need one target at a time; got {len(aim)}.")
    chosen = study.rows[~study.repeats[study.rows]] if rows is None else np.asarray(rows)
    examples = Examples(study.dictionary.n_latents, m)
    tail = None
    if (
        isinstance(aim, LinearTarget)
        and str(study.site) == "image.-1.cls"
        and study.model.tail_is_closed_form
    ):
        weights, constants = aim.linear(study.model)
        tail = ClosedFormTail(study.model, study.dictionary, weights, constants=constants)
    for start in range(0, len(chosen), block):
        part = chosen[start : start + block]
        if tail is not None:
            codes = study.codes.rows(torch.from_numpy(part)).to_fixed()
            acts = torch.from_numpy(np.asarray(study.activations[part], dtype=np.float32))
            values = tail.exact(acts, codes)[..., 0]
        else:
            found = attribute(study, study.images.select(part), aim)
            codes, values = found.codes, found.values[..., 0]
        examples.update(codes, indices=part, values=values)
    return examples
