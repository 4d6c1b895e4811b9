"""Sums of exact effects over many pictures, at a cost that does not grow with the number of targets.

The exact effect of ablating a family, `y(x) - y(x - u)` with `u` the family's codes times directions, is
`<e(x) - e(x - u), w>` for the unit embedding `e`. The change of the embedding does not depend on the target, so it is
summed over pictures first, and multiplied with all targets once at the end. Start at `mean_effects`.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from clipattr.attribution.padding import padded
from clipattr.attribution.tail import ClosedFormTail
from clipattr.attribution.target import LinearTarget
from clipattr.attribution.targets import as_target
from clipattr.display.progress import Progress
from clipattr.errors import SiteError, TargetError
from clipattr.images.embeddings import Embeddings

ROWS = 512  # pictures whose entries are in memory at a time


def mean_effects(
    model: Any,
    dictionary: Any,
    rows: Any,
    target: Any,
    groups: Sequence[Any] | None = None,
    *,
    site: Any = None,
    batch: int = 4096,
    progress: bool = True,
) -> Tensor:
    """Exact effect of ablating each latent, or each group of latents at once, averaged over stored activations.

    Neither pictures nor forward passes are needed. Memory holds one batch of rows and `embed` numbers per group; time
    does not depend on the number of targets.

    Args:
        model: a `Model`, or the `TextEmbeddings` that take its place where only vectors are known.
        dictionary: trained at a site with one vector per picture and a closed-form tail, such as `image.embedding`.
        rows: (pictures, width) activations at that site: `Embeddings`, an array (also memory-mapped) or a tensor.
        target: what `as_target` reads, if it is linear: prompts, `Contrast`, `VocabularyContrast`, `ProbeLogit` …
        groups: latent numbers of each group; a latent may be in several. None: every latent by itself.
        site: where the dictionary does not say it.
        batch: rows read and encoded at a time.
        progress: show a bar.

    Returns:
        (groups or latents, targets) float64, in the unit of the target (cosine for prompts). Positive: the latents
        raise the target on average over all rows; a row in which none of them is active counts 0.

    Raises:
        TargetError: the target is not linear, or there is no row. SiteError: no closed form at the site, or several
        tokens per picture. DictionaryError: the dictionary or a group does not fit.

    Example:
        >>> import clipattr as ca
        >>> study = ca.open_study("picture-world")
        >>> effects = ca.mean_effects(study.model, study.dictionary, study.activations, ["kite", "bat"], progress=False)
        >>> tuple(effects.shape) == (study.dictionary.n_latents, 2)
        True

    Source of the exact effect: the definition of ablation in Dreyer et al. 2025, arXiv:2505.20229.
    """
    wanted = as_target(target)
    if not isinstance(wanted, LinearTarget):
        raise TargetError(
            f"Mean effects need a target that is linear in the embedding; {wanted!r} is not. "
            "ca.attribute(...) takes any target, picture by picture."
        )
    if not len(rows):
        raise TargetError("Mean effects need at least one row of activations; none was given.")
    weights, constants = wanted.linear(model)
    tail = ClosedFormTail(model, dictionary, weights, site=site, constants=constants)
    total: Tensor | float = 0.0
    for start in Progress(range(0, len(rows), batch), unit="batch", disable=not progress, desc="effects"):
        stop = min(start + batch, len(rows))
        block = rows.read(start, stop) if isinstance(rows, Embeddings) else rows[start:stop]
        acts = torch.as_tensor(block).to(tail.device, tail.dtype)
        total = total + summed_exact(tail, acts, dictionary.encode(acts), groups)
    assert isinstance(total, Tensor)
    return total / len(rows)


def summed_exact(
    tail: ClosedFormTail,
    acts: Tensor,
    codes: Any,
    groups: Sequence[Any] | None = None,
    *,
    weights: Tensor | None = None,
) -> Tensor:
    """Exact effects of ablating each group of latents, summed over pictures.

    Args:
        tail: the closed form of the site, for n targets.
        acts: (batch, width) at a site with one vector per picture.
        codes: `SparseCodes` of `acts`.
        groups: latent numbers of each group; a latent may be in several. None: one group per latent.
        weights: (batch,) weights of the pictures in the sum; default ones.

    Returns:
        (groups, n) float64, signed, in the unit of the targets. Divided by the number of pictures: mean reliance.
        Positive: the group raises the target.

    Raises:
        SiteError: the site has several tokens per picture.
        DictionaryError: codes or groups that do not fit the dictionary.

    >>> import clipattr as ca
    >>> study = ca.open_study("picture-world")
    >>> weights, _ = ca.Similarity(["kite", "bat"]).linear(study.model)
    >>> tail = ca.ClosedFormTail(study.model, study.dictionary, weights)
    >>> acts = torch.randn(3, study.dictionary.width, generator=torch.Generator().manual_seed(0))
    >>> ca.summed_exact(tail, acts, study.dictionary.encode(acts), groups=[[7, 12], [3]]).shape
    torch.Size([2, 2])
    """
    if tail.splits_tokens or acts.ndim != 2:
        raise SiteError(
            f"{tail.site} has several tokens per picture; sums need one vector per picture. Use a tail at image.-1.cls "
            "or image.embedding."
        )
    acts = tail.checked(acts)
    indices, amounts = tail.rows_of(codes, acts)
    latents = padded(codes)[0].to(indices)
    first, group_of = _membership(tail, groups)
    count = tail.n_latents if groups is None else len(groups)
    total = torch.zeros(count, tail.embed, dtype=torch.float64, device=acts.device)
    if weights is None:
        weights = torch.ones(len(acts), dtype=torch.float64, device=acts.device)
    for some in torch.arange(len(acts), device=acts.device).split(ROWS):
        _add(
            tail,
            total,
            acts[some],
            (indices[some], latents[some], amounts[some]),
            first,
            group_of,
            weights[some],
        )
    return total @ tail.weights.double()


def _membership(tail: ClosedFormTail, groups: Sequence[Any] | None) -> tuple[Tensor, Tensor]:
    """Groups of each latent as CSR: offsets (latents + 1) and group numbers."""
    if groups is None:
        everything = torch.arange(tail.n_latents + 1, device=tail.device)
        return everything, everything[:-1]
    members = [tail.members(group, number).unique() for number, group in enumerate(groups)]
    latent = torch.cat([torch.empty(0, dtype=torch.long), *members])
    number = torch.repeat_interleave(torch.arange(len(members)), torch.tensor([len(m) for m in members]))
    order = latent.argsort(stable=True)
    first = torch.searchsorted(latent[order], torch.arange(tail.n_latents + 1))
    return first.to(tail.device), number[order].to(tail.device)


def _add(
    tail: ClosedFormTail,
    total: Tensor,
    acts: Tensor,
    entries: tuple[Tensor, Tensor, Tensor],
    first: Tensor,
    group_of: Tensor,
    weights: Tensor,
) -> None:
    """Add to `total` the change of each picture's unit embedding for every group that is active in it."""
    indices, latents, amounts = (part.flatten() for part in entries)
    picture = torch.arange(len(acts), device=acts.device).repeat_interleave(entries[0].shape[1])
    active = (amounts != 0).nonzero().flatten()
    times = first[latents[active] + 1] - first[latents[active]]
    entry = active.repeat_interleave(times)
    if not len(entry):
        return
    within = torch.arange(len(entry), device=acts.device) - (times.cumsum(0) - times).repeat_interleave(times)
    group = group_of[first[latents[entry]] + within]
    # One segment per picture and family that is active in it.
    keys, segment = (picture[entry] * len(total) + group).unique(return_inverse=True)
    rows, owners = keys // len(total), keys % len(total)
    moved = torch.zeros(len(keys), tail.tail.width, dtype=tail.dtype, device=acts.device)
    moved.index_add_(0, segment, tail.decoder[indices[entry]] * amounts[entry, None].to(tail.dtype))
    before = tail.embeddings(acts)
    after = tail.embeddings(acts[rows] - moved)
    change = (before[rows] - after).double() * weights[rows, None].to(torch.float64)
    total.index_add_(0, owners, change)
