"""Interventions: run the model with some latents switched off, scaled, set, or taken from another picture.

Owns the change of codes inside the running model. Bias, error node and all other latents stay as they are, so a model
in which nothing is changed gives its output bit for bit. Ignores what the change is measured by. Start at `intervene`;
`ablate`, `scale`, `set_to` and `transplant` say what to do with the amounts.

    with ca.ablate(study, [3, 17]):
        study.model.encode_image(pixels)
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor

from clipattr.attribution.compute import parts_of
from clipattr.dictionaries.codes import SparseCodes, amounts_of
from clipattr.errors import DictionaryError
from clipattr.sites import Site, replace

Change = Callable[[Tensor], Tensor]


@contextmanager
def intervene(
    source: Any,
    latents: Sequence[int] | Tensor,
    change: Change,
    *,
    dictionary: Any = None,
    site: Site | str | None = None,
) -> Iterator[None]:
    """Change the amounts of some latents while pictures are encoded; nothing is left behind afterwards.

    Args:
        source: a study, or a model with `dictionary`.
        latents: which ones.
        change: (rows, latents) amounts to new amounts of the same shape; rows are pictures, or pictures · tokens.
        site: the dictionary's where None.

    Raises:
        DictionaryError: unknown latents, or (on encoding) a change that returns another shape or NaN.
        SiteError: the model has no such site.
    """
    model, dictionary, site = parts_of(source, dictionary, site)
    wanted = torch.as_tensor(latents).long().flatten()
    amounts_of(SparseCodes.from_dense(torch.zeros(1, dictionary.n_latents)), wanted)
    rows = torch.as_tensor(dictionary.decoder)[wanted.to(dictionary.decoder.device)]

    def edit(acts: Tensor) -> Tensor:
        flat = acts.detach().reshape(-1, acts.shape[-1])
        before = amounts_of(dictionary.encode(flat), wanted)
        after = change(before.clone())
        if not isinstance(after, Tensor) or after.shape != before.shape or not torch.isfinite(after).all():
            got = tuple(after.shape) if isinstance(after, Tensor) else type(after).__name__
            raise DictionaryError(
                f"a change must return finite amounts of shape {tuple(before.shape)}, one per row and latent; "
                f"got {got}."
            )
        difference = (after - before).to(rows)
        moved = (difference @ rows).to(acts.dtype).view_as(acts)
        touched = (difference != 0).any(1).view(*acts.shape[:-1], 1)
        return torch.where(touched, acts + moved, acts)

    with replace(model, site, edit):
        yield


def ablate(
    source: Any, latents: Sequence[int] | Tensor, *, dictionary: Any = None, site: Site | str | None = None
) -> AbstractContextManager[None]:
    """Switch latents off; see `intervene`."""
    return intervene(source, latents, torch.zeros_like, dictionary=dictionary, site=site)


def scale(
    source: Any,
    latents: Sequence[int] | Tensor,
    factor: float,
    *,
    dictionary: Any = None,
    site: Site | str | None = None,
) -> AbstractContextManager[None]:
    """Multiply latents where they are active; see `intervene`."""
    return intervene(source, latents, lambda amounts: amounts * factor, dictionary=dictionary, site=site)


def set_to(
    source: Any,
    latents: Sequence[int] | Tensor,
    amounts: float | Tensor,
    *,
    dictionary: Any = None,
    site: Site | str | None = None,
) -> AbstractContextManager[None]:
    """Set latents to an amount, one for all or one each, whether they are active or not; see `intervene`."""

    def change(before: Tensor) -> Tensor:
        return torch.as_tensor(amounts, dtype=before.dtype, device=before.device).expand_as(before)

    return intervene(source, latents, change, dictionary=dictionary, site=site)


def transplant(
    source: Any,
    latents: Sequence[int] | Tensor,
    donor: SparseCodes,
    *,
    dictionary: Any = None,
    site: Site | str | None = None,
) -> AbstractContextManager[None]:
    """Give latents the amounts they have in other pictures' codes: one donor row for all, or one per row.

    Raises:
        DictionaryError: the donor's codes are over another number of latents, or (on encoding) its rows do not match.
    """
    given = amounts_of(donor, latents)

    def change(before: Tensor) -> Tensor:
        if len(given) not in (1, len(before)):
            raise DictionaryError(
                f"{len(given)} donor rows for {len(before)} rows. Give one, or one per row."
            )
        return given.to(before).expand_as(before)

    return intervene(source, latents, change, dictionary=dictionary, site=site)
