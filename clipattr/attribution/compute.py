"""`attribute`: from a study or a model, pictures and a target to an `Attribution`.

Owns the reading of what callers pass: a study or a model with a dictionary, pictures in any form, baselines. The
maths is in `splice.py` and the methods. Knows a study only by its attributes (`model`, `dictionary`, `site`, `labels`,
`latents`, `evaluator`). Start at `attribute`; `splices` gives the same batches to measures and interventions.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from clipattr.attribution.methods import Method, find_method
from clipattr.attribution.paths import tolerated  # importing it registers its methods
from clipattr.attribution.pixels import count, pixel_batches
from clipattr.attribution.prompts import check_length
from clipattr.attribution.result import Attribution
from clipattr.attribution.splice import Splice
from clipattr.attribution.tail import ClosedFormTail
from clipattr.attribution.targets import LinearTarget, Target, as_target
from clipattr.dictionaries.codes import SparseCodes
from clipattr.dictionaries.placing import place_of
from clipattr.dictionaries.sae import Dictionary
from clipattr.errors import DictionaryError, TargetError
from clipattr.models.loading import Model, load_model
from clipattr.sites import Site, activations, acts_and_context

# Full table of the closed form from this many pictures on; below, rows of the active latents alone.
_MANY = 256


def attribute(
    source: Any,
    images: Any,
    target: Any,
    *,
    dictionary: Any = None,
    site: Site | str | None = None,
    method: "str | Method | Callable[[Splice], Tensor] | None" = None,
    baseline: Any = None,
    batch: int = 64,
) -> Attribution:
    """Attribute targets of pictures to latents; at a site of the text tower, of texts.

    Args:
        source: a study, or a model (anything `load_model` takes) together with `dictionary`.
        images: one picture or many: records or a whole `Images`, PIL pictures, (H, W, 3) uint8 arrays, paths, or
            prepared pixels (batch, 3, H, W). At a site of the text tower one text or many.
        target: a prompt, several, a `Target` such as `Contrast("kite", "bat")`, or a function of the embedding. Of
            texts too: `ImageSimilarity(pictures)`, an image embedding (embed,), or another text.
        dictionary, site: where no study says them, or to use others; the site defaults to the dictionary's.
        method: a name in `METHODS` or a function of a `Splice`. Default: exact ablation where what follows the site
            has a closed form (`Site.tail`: `image.embedding`, `image.-1.cls` of most models), attribution patching
            elsewhere.
        baseline: what "absent" means. None: code 0. A picture: what does each picture have that this one lacks?
            `SparseCodes` of one row (see `mean_codes`), or one row per picture and token.
        batch: pictures at a time. Memory grows with pictures by the result alone: k · targets numbers each.

    Returns:
        An `Attribution`; raw units, signed, positive where the latent raises the target.

    Raises:
        TargetError, SiteError, DictionaryError, DataError: saying what was wrong with which argument.
    """
    parts = [
        explain_splice(
            splice,
            method,
            names,
            align=align_with(source, splice.target) if is_own(source, splice.dictionary) else None,
            labels=labels_of(source, splice.dictionary),
        )
        for names, splice in splices(
            source, images, target, dictionary=dictionary, site=site, baseline=baseline, batch=batch
        )
    ]
    return Attribution.cat([part.cpu() for part in parts])


def explain_splice(
    splice: Splice,
    method: "str | Method | Callable[[Splice], Tensor] | None" = None,
    pictures: Sequence[str] | None = None,
    *,
    labels: Sequence[str] | None = None,
    align: Callable[[Sequence[int], int], Tensor] | None = None,
) -> Attribution:
    """Run a method on a splice and put bias, error and gap beside its values.

    Error and bias are taken out exactly for `exact`, and credited to first order (`<dy/dx, node>`) otherwise; methods
    that hold both fixed (those that add up) report the first-order numbers too, for comparison.
    """
    chosen = find_method(method, splice)
    values = chosen(splice)
    error, bias = splice.nodes
    if chosen.name == "exact":
        of_error, of_bias = splice.removal(error), splice.removal(bias)
    else:
        of_error, of_bias = splice.along([error, bias])
    total = splice.y - splice.y_reference
    gap = total - values.sum(1).to(total)
    flagged = (gap.abs() >= tolerated(total)) if chosen.adds_up else torch.zeros_like(gap, dtype=torch.bool)
    codes = splice.merged_codes
    names = (
        {int(latent): str(labels[latent]) for latent in codes.indices.unique()} if labels is not None else {}
    )
    return Attribution(
        codes=codes,
        values=values.reshape(*codes.indices.shape, splice.n_targets),
        y=splice.y,
        error=of_error,
        bias=of_bias,
        gap=gap,
        y_baseline=splice.y_reference,
        unit=splice.target.unit if chosen.in_unit else "rank only",
        names=list(splice.target.names),
        method=chosen.name,
        site=str(splice.site),
        adds_up=chosen.adds_up,
        pictures=list(pictures) if pictures is not None else [f"picture {i}" for i in range(splice.batch)],
        flagged=flagged,
        tokens=splice.tokens,
        grid=tuple(splice.model.grid) if splice.site.tokens == "patches" else None,
        labels=names,
        model_hash=splice.model.weights_hash,
        dictionary_hash=getattr(splice.dictionary, "hash", None),
        units=splice.target.units,
        preprocess=splice.model.preprocess_id,
        y_bias=_bias_alone(splice, error),
        route="closed form" if splice.tail is not None else "autograd from the site onward",
        align=align,
    )


def _bias_alone(splice: Splice, error: Tensor) -> Tensor:
    """(batch, n): the targets with every part at its baseline and without the error node."""
    with torch.no_grad():
        rest = splice.directions(splice.reference - splice.amounts).to(splice.acts.dtype)
        return splice.read(splice.embeddings(splice.acts - error + rest))


def mean_codes(codes: SparseCodes, keep: int = 256) -> SparseCodes:
    """The mean over rows as baseline codes of one row, of the `keep` latents with the largest mean.

    A dense mean would make every latent a part of every picture; latents whose mean is smaller count as absent at 0.
    """
    csr = codes.to_csr()
    total = torch.zeros(codes.n_latents, dtype=torch.float64, device=codes.values.device)
    total.index_add_(0, csr.indices.long(), csr.values.double())
    values, latents = (total / max(len(codes), 1)).topk(min(keep, codes.n_latents))
    return SparseCodes(latents[None].int(), values[None].float(), codes.n_latents)


def splices(
    source: Any,
    images: Any,
    target: Any,
    *,
    dictionary: Any = None,
    site: Site | str | None = None,
    baseline: Any = None,
    batch: int = 64,
) -> Iterator[tuple[list[str], Splice]]:
    """Batches of pictures taken apart: names and a `Splice` each. Arguments as for `attribute`."""
    parts = placed_splices(
        source, images, target, dictionary=dictionary, site=site, baseline=baseline, batch=batch
    )
    return ((names, splice) for names, _, splice in parts)


def placed_splices(
    source: Any,
    images: Any,
    target: Any,
    *,
    dictionary: Any = None,
    site: Site | str | None = None,
    baseline: Any = None,
    batch: int = 64,
    start: int = 0,
) -> Iterator[tuple[list[str], list[int], Splice]]:
    """As `splices`, with the places of the pictures among `images`, from the place `start` on."""
    model, dictionary, site = parts_of(source, dictionary, site)
    wanted: Target = as_target(target)
    reference = baseline_codes(model, dictionary, site, baseline)
    tail = None
    if isinstance(wanted, LinearTarget) and count(images) >= _MANY and site.tail(model) is not None:
        weights, constants = wanted.linear(model)
        tail = ClosedFormTail(model, dictionary, weights, site=site, constants=constants)
    rows = _rows_per_picture(site, model)
    if reference is not None and len(reference) not in (1, rows, rows * count(images)):
        raise DictionaryError(
            f"the baseline has {len(reference)} rows of codes; 1 for all, {rows} for one picture, or "
            f"{rows * count(images)} for one baseline per picture are needed."
        )
    for names, places, pixels in _input_batches(model, site, images, batch, start):
        acts, context = read_site(model, pixels, site)
        codes = _codes_of_inputs(model, dictionary, site, pixels)
        own = reference
        if reference is not None and len(reference) > rows:
            own = SparseCodes.cat(
                [reference.rows(slice(place * rows, (place + 1) * rows)) for place in places]
            )
        elif reference is not None and len(reference) > 1:
            own = SparseCodes.cat([reference] * len(names))
        splice = Splice(
            model, dictionary, site, acts, wanted, codes=codes, reference=own, context=context, tail=tail
        )
        yield names, places, splice


def _input_batches(
    model: Any, site: Site, inputs: Any, batch: int, start: int = 0
) -> Iterator[tuple[list[str], list[int], Any]]:
    """Names, places and what the site's tower takes: pixels, or texts."""
    if not site.is_text:
        yield from pixel_batches(model, inputs, batch, start)
        return
    texts = [inputs] if isinstance(inputs, str) else list(inputs)
    if not texts or not all(isinstance(text, str) for text in texts):
        raise TargetError(
            f"{site} takes texts, at least one; got {type(inputs).__name__}. The pictures go into the target, e.g. "
            "ImageSimilarity(pictures)."
        )
    for first in range(start, len(texts), batch):
        some = texts[first : first + batch]
        check_length(some, model)
        yield some, list(range(first, first + len(some))), some


def is_own(source: Any, dictionary: Any) -> bool:
    """Whether a dictionary is the study's own, so that the study's labels speak of its latents."""
    held = getattr(source, "dictionary", None)
    own = getattr(held, "hash", None)
    return held is not None and (held is dictionary or (own is not None and own == dictionary.hash))


def _rows_per_picture(site: Site, model: Any) -> int:
    shape = site.shape(model)
    return 1 if len(shape) == 1 else shape[0]


def parts_of(source: Any, dictionary: Any, site: Site | str | None) -> tuple[Model, Any, Site]:
    """Model, dictionary and site of a study, or of a model with a dictionary.

    Raises:
        DictionaryError: no dictionary, or one that was made from another model.
    """
    if hasattr(source, "dictionary") and hasattr(source, "model"):
        model, held, held_site = source.model, source.dictionary, source.site
        dictionary = held if dictionary is None else dictionary
        site = site if site is not None else (held_site if dictionary is held else None)
    else:
        model = (
            source
            if hasattr(source, "encode_image") and hasattr(source, "weights_hash")
            else load_model(source)
        )
    if dictionary is None:
        raise DictionaryError(
            "attribution to latents needs a dictionary: pass a study, or dictionary=load_sae(...)."
        )
    made_for = getattr(dictionary, "model_hash", None)
    if made_for is not None and made_for != model.weights_hash:
        raise DictionaryError(
            f"the dictionary was made from model {made_for}, this is model {model.weights_hash} ({model.reference}). "
            "Load the one that belongs to this model."
        )
    if isinstance(dictionary, Dictionary) and dictionary.device != model.device:
        dictionary = dictionary.to(model.device)
    return model, dictionary, Site(place_of(dictionary, site))


def read_site(model: Any, inputs: Any, site: Site) -> tuple[Tensor, Tensor | None]:
    """Activations of pixels or texts at a site, and what the rest of the model needs beside them."""
    with torch.no_grad():
        return acts_and_context(model, inputs, site)


def _codes_of_inputs(model: Any, dictionary: Any, site: Site, pixels: Any) -> SparseCodes | None:
    """A transcoder's codes, which come from another site than the one that they are spliced into; else None."""
    if getattr(dictionary, "input_site", None) is None:
        return None
    source = Site(dictionary.input_site)
    if source.shape(model)[:-1] != site.shape(model)[:-1]:
        raise DictionaryError(
            f"the transcoder reads {source} and predicts {site}, which have different tokens. Pass the site with the "
            f"tokens of {source}."
        )
    with torch.no_grad():
        acts = activations(model, pixels, source)
    return dictionary.encode(acts.reshape(-1, acts.shape[-1]))


def baseline_codes(model: Any, dictionary: Any, site: Site, baseline: Any) -> SparseCodes | None:
    """What a caller means by a baseline, as codes."""
    if baseline is None or (isinstance(baseline, int | float) and baseline == 0):
        return None
    if isinstance(baseline, SparseCodes):
        return baseline
    if isinstance(baseline, int | float) or (isinstance(baseline, Tensor) and baseline.ndim < 3):
        raise DictionaryError(
            "a baseline is None (code 0), a picture, or SparseCodes such as mean_codes(study.codes); got "
            f"{type(baseline).__name__}."
        )
    source = Site(getattr(dictionary, "input_site", None) or site)
    acts = torch.cat(
        [read_site(model, inputs, source)[0] for _, _, inputs in _input_batches(model, source, baseline, 64)]
    )
    return dictionary.encode(acts.reshape(-1, acts.shape[-1]))


def labels_of(source: Any, dictionary: Any = None) -> Sequence[str] | None:
    """What to call every latent of a study: the analyst's name, else the label if it is aligned, else "".

    With a dictionary that is not the study's: the words that it was named with when it was made. None without either.
    """
    if dictionary is not None and not is_own(source, dictionary):
        words = (getattr(dictionary, "info", None) or {}).get("words")
        return words if words is not None and len(words) == dictionary.n_latents else None
    table = getattr(source, "latents", None)
    if table is None or "label" not in table:
        return None
    fits = table["aligned"].tolist() if "aligned" in table else [True] * len(table)
    labels = [
        label if fit and isinstance(label, str) else ""
        for label, fit in zip(table["label"], fits, strict=True)
    ]
    for latent, name in (getattr(source, "names", None) or {}).items():
        labels[latent] = name
    return labels


def align_with(source: Any, target: Target) -> Callable[[Sequence[int], int], Tensor] | None:
    """A function from latents and a target's number to alignments with its prompt, by the study's evaluator.

    None without a study; NaN for targets that are no prompt. The evaluator is loaded when first needed.
    """
    means = getattr(getattr(source, "labels", None), "mean_embedding", None)
    if means is None or getattr(source, "evaluator", None) is None:
        return None
    cache: dict[int, tuple[Tensor, Tensor]] = {}

    def align(latents: Sequence[int], number: int) -> Tensor:
        subject = target.subjects[number]
        if subject is None:
            return torch.full((len(latents),), float("nan"))
        if number not in cache:
            with torch.no_grad():
                text, empty = source.evaluator.encode_text([subject, ""]).cpu()
            cache[number] = (text, empty)
        text, empty = cache[number]
        mean = torch.nn.functional.normalize(means[list(latents)].to(text), dim=-1)
        return mean @ text - mean @ empty

    return align
