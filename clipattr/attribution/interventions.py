"""Interventions: run the model with some latents ablated, scaled, set, or transplanted from another picture.

Owns the change of codes inside the running model. Bias, error node and all other latents are unchanged, so an
intervention that changes no code leaves the output bit for bit equal. Ignores how the change is measured. Start at
`intervene`; `ablate`, `scale`, `set_to` and `transplant` are the usual changes.

    with ca.ablate(study, [3, 17]):
        study.model.encode_image(pixels)
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor

from clipattr.attribution.compute import parts_of
from clipattr.dictionaries.codes import SparseCodes, amounts_of, checked_latents
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
    """Context in which the model encodes pictures with changed codes; its hook is removed on exit, also after errors.

    Args:
        source: a study, or a model with `dictionary`.
        latents: numbers of the latents to change.
        change: function from codes (rows, latents) to new codes of the same shape; rows are pictures, or
            pictures · tokens at sites of several tokens.
        dictionary, site: override the study's; the site defaults to the dictionary's.

    Returns:
        A context manager. Bias, error node and all other latents are unchanged.

    Raises:
        DictionaryError: unknown latents, or (on encoding) a change that returns another shape or NaN.
        SiteError: the model has no such site.

    >>> import clipattr as ca
    >>> study = ca.open_study("picture-world")
    >>> pixels = study.model.prepare(study.images[0].load())[None]
    >>> before = study.model.encode_image(pixels)
    >>> with ca.intervene(study, range(1024), lambda codes: 2 * codes):
    ...     after = study.model.encode_image(pixels)
    >>> bool((after - before).norm() > 0.01), torch.equal(study.model.encode_image(pixels), before)
    (True, True)
    """
    model, dictionary, site = parts_of(source, dictionary, site)
    wanted = checked_latents(latents, dictionary.n_latents)
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
    """Context in which latents have code 0.

    Args:
        source, latents, dictionary, site: as for `intervene`.

    Returns:
        A context manager; see `intervene`.

    Raises:
        DictionaryError, SiteError: as for `intervene`.

    >>> import clipattr as ca
    >>> study = ca.open_study("picture-world")
    >>> pixels = study.model.prepare(study.images[19].load())[None]
    >>> with ca.ablate(study, [656]):  # a latent for eagles, which raises kite - bat in this picture
    ...     without = study.model.encode_image(pixels)
    >>> kite, bat = study.model.encode_text(["kite", "bat"])
    >>> bool(without @ (kite - bat) < study.model.encode_image(pixels) @ (kite - bat))
    True
    """
    return intervene(source, latents, torch.zeros_like, dictionary=dictionary, site=site)


def scale(
    source: Any,
    latents: Sequence[int] | Tensor,
    factor: float,
    *,
    dictionary: Any = None,
    site: Site | str | None = None,
) -> AbstractContextManager[None]:
    """Context in which the codes of latents are multiplied by a factor; arguments as for `intervene`."""
    return intervene(source, latents, lambda amounts: amounts * factor, dictionary=dictionary, site=site)


def set_to(
    source: Any,
    latents: Sequence[int] | Tensor,
    amounts: float | Tensor,
    *,
    dictionary: Any = None,
    site: Site | str | None = None,
) -> AbstractContextManager[None]:
    """Context in which latents have given codes, whether they were active or not.

    Args:
        source, latents, dictionary, site: as for `intervene`.
        amounts: one code for all latents, or one per latent (latents,).

    Returns:
        A context manager; see `intervene`.

    Raises:
        DictionaryError, SiteError: as for `intervene`.

    >>> import clipattr as ca
    >>> study = ca.open_study("picture-world")
    >>> pixels = study.model.prepare(study.images[0].load())[None]
    >>> with ca.set_to(study, [656], 5.0), ca.capture(study.model, study.site) as held:
    ...     _ = study.model.encode_image(pixels)
    """

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
    """Context in which latents have the codes that they have in other pictures.

    Args:
        source, latents, dictionary, site: as for `intervene`.
        donor: `SparseCodes` of one row for all pictures, or of one row per row that is encoded.

    Returns:
        A context manager; see `intervene`.

    Raises:
        DictionaryError: the donor's codes have another number of latents, or (on encoding) its rows do not match.

    >>> import clipattr as ca
    >>> study = ca.open_study("picture-world")
    >>> pixels = study.model.prepare(study.images[0].load())[None]
    >>> with ca.transplant(study, [656, 404], study.codes.rows(slice(19, 20))):
    ...     study.model.encode_image(pixels).shape
    torch.Size([1, 128])
    """
    given = amounts_of(donor, latents)

    def change(before: Tensor) -> Tensor:
        if len(given) not in (1, len(before)):
            raise DictionaryError(
                f"{len(before)} encoded rows need one donor row, or as many; got {len(given)}."
            )
        return given.to(before).expand_as(before)

    return intervene(source, latents, change, dictionary=dictionary, site=site)
