"""`attribute`: from a study or a model, pictures and a target to an `Attribution`.

Owns the interpretation of arguments: a study or a model with a dictionary, pictures in any form, baselines. The maths
is in `splice.py` and the methods. Uses only these attributes of a study: `model`, `dictionary`, `site`, `labels`,
`latents`, `evaluator`. Start at `attribute`; `splices` gives the same batches to measures and interventions.
"""

import contextlib
import os
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
from clipattr.attribution.target import LinearTarget, Target
from clipattr.attribution.targets import as_target
from clipattr.dictionaries.codes import SparseCodes
from clipattr.dictionaries.placing import place_of
from clipattr.dictionaries.sae import Dictionary
from clipattr.errors import DataError, DictionaryError, TargetError
from clipattr.models.forward import other_facts
from clipattr.models.loading import Model, load_model
from clipattr.models.surroundings import unaffected
from clipattr.sites import Site, activations, acts_and_context

# Number of pictures from which the closed form's table of all latents pays off; below, only active latents get rows.
_MANY = 256


@unaffected
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
    """Attribute a target of each picture to the latents that are active in it (of texts at a site of the text tower).

    Args:
        source: a study, or a model (anything `load_model` takes) together with `dictionary`.
        images: one picture or many: records or a whole `Images`, PIL pictures, (H, W, 3) uint8 arrays, paths, prepared
            pixels (batch, 3, H, W), or the id of one of a study's pictures. At a text site: one text or several.
        target: a prompt, several prompts, a `Target` such as `Contrast("kite", "bat")`, or a function of the
            embedding. For texts also `ImageSimilarity(pictures)`, an image embedding (embed,), or another text.
        dictionary, site: override the study's; needed where `source` is a model. The site defaults to the
            dictionary's.
        method: a name in `METHODS` or a function of a `Splice`. Default: exact ablation where the tail behind the site
            has a closed form (`Site.tail`: `image.embedding`, `image.-1.cls` of most models), attribution patching
            elsewhere.
        baseline: the codes that count as absence. None: 0. A picture: its codes. `SparseCodes` of one row (see
            `mean_codes`), or of one row per picture and token.
        batch: pictures per forward pass. The result holds k · targets numbers per picture; nothing else grows with
            the number of pictures.

    Returns:
        An `Attribution` with values (batch · tokens, k, targets), signed, in the unit of the target (raw cosine or
        logit). Positive: the latent raises the target.

    Raises:
        TargetError: the target cannot be interpreted or embedded.
        SiteError: the site does not exist or does not reach the embedding.
        DictionaryError: no dictionary, one of another model or width, or a baseline that does not fit.
        DataError: no picture, or one that cannot be read.

    >>> import clipattr as ca
    >>> study = ca.open_study("picture-world")
    >>> att = ca.attribute(study, study.images[19], ca.Contrast("kite", "bat"))
    >>> att.values.shape, att.unit, att.method  # one picture, 8 active latents, one target
    (torch.Size([1, 8, 1]), 'cosine', 'exact')
    >>> att.top(1)["label"].item()
    'eagle'

    Source: Dreyer et al. 2025, arXiv:2505.20229 (attribution patching of latents).
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
    """Run a method on a splice; the result also holds the effects of bias and error node, and the gap.

    The method `exact` ablates error node and bias exactly. All other methods report their first-order effect,
    `<dy/dx, node>`; methods that add up hold both fixed, and the number is for comparison.
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
    """Mean codes over all rows as a baseline of one row, restricted to the `keep` latents with the largest mean.

    All other latents have baseline 0: a dense mean would make every latent a part of every picture.
    """
    csr = codes.to_csr()
    total = torch.zeros(codes.n_latents, dtype=torch.float64, device=codes.values.device)
    total.index_add_(0, csr.indices.long(), csr.values.double())
    values, latents = (total / max(len(codes), 1)).topk(min(keep, codes.n_latents))
    return SparseCodes(latents[None].int(), values[None].float(), codes.n_latents)


def splices(source: Any, images: Any, target: Any, **options: Any) -> Iterator[tuple[list[str], Splice]]:
    """Names and `Splice` of each batch of pictures. Arguments as for `attribute`, without `method`."""
    return ((names, splice) for names, _, splice in placed_splices(source, images, target, **options))


def _named(source: Any, site: Site, images: Any) -> Any:
    """The study's picture of an id, where a text is one and names no file; anything else unchanged."""
    own = getattr(source, "images", None)
    if isinstance(images, str) and own is not None and site.tower == "image" and not os.path.exists(images):
        with contextlib.suppress(DataError):
            return own[images]
    return images


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
    """As `splices`, with the indices of the pictures in `images`; pictures before index `start` are skipped."""
    model, dictionary, site = parts_of(source, dictionary, site)
    wanted: Target = as_target(target)
    reference = baseline_codes(model, dictionary, site, baseline)
    tail = None
    if isinstance(wanted, LinearTarget) and count(images) >= _MANY and site.tail(model) is not None:
        weights, constants = wanted.linear(model)
        tail = ClosedFormTail(model, dictionary, weights, site=site, constants=constants)
    rows = 1 if len(shape := site.shape(model)) == 1 else shape[0]  # of codes, per picture
    if reference is not None and len(reference) not in (1, rows, rows * count(images)):
        raise DictionaryError(
            f"the baseline has {len(reference)} rows of codes; 1 for all, {rows} for one picture, or "
            f"{rows * count(images)} for one baseline per picture are needed."
        )
    for names, places, pixels in input_batches(model, site, _named(source, site, images), batch, start):
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


def input_batches(
    model: Any, site: Site, inputs: Any, batch: int, start: int = 0
) -> Iterator[tuple[list[str], list[int], Any]]:
    """Names, indices and inputs of the site's tower in batches: pixels, or texts."""
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
    """Whether a dictionary is the study's own, so that the study's labels apply to its latents."""
    held = getattr(source, "dictionary", None)
    own = getattr(held, "hash", None)
    return held is not None and (held is dictionary or (own is not None and own == dictionary.hash))


def parts_of(source: Any, dictionary: Any, site: Site | str | None) -> tuple[Model, Any, Site]:
    """Model, dictionary and site of a study, or of a model with a dictionary.

    Raises:
        DictionaryError: no dictionary, or one that was trained on another model.
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
    if isinstance(dictionary, Dictionary) and (
        told := other_facts(dictionary.info.get("forward"), model.facts)
    ):
        raise DictionaryError(
            f"the dictionary was made from a model that has the weights of {model.reference} and computes something "
            f"else ({told}). Load the model that it was made from."
        )
    if isinstance(dictionary, Dictionary) and dictionary.device != model.device:
        dictionary = dictionary.to(model.device)
    return model, dictionary, Site(place_of(dictionary, site))


def read_site(model: Any, inputs: Any, site: Site) -> tuple[Tensor, Tensor | None]:
    """Activations of pixels or texts at a site, and the context that `continue_from` needs there (else None)."""
    with torch.no_grad():
        return acts_and_context(model, inputs, site)


def _codes_of_inputs(model: Any, dictionary: Any, site: Site, pixels: Any) -> SparseCodes | None:
    """Codes of a transcoder, which reads another site than the one it predicts; None for other dictionaries."""
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
    """A baseline in any accepted form as codes; None for 0."""
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
        [read_site(model, inputs, source)[0] for _, _, inputs in input_batches(model, source, baseline, 64)]
    )
    return dictionary.encode(acts.reshape(-1, acts.shape[-1]))


def labels_of(source: Any, dictionary: Any = None) -> Sequence[str] | None:
    """Display name of every latent of a study: the analyst's name, else the label if it is aligned, else "".

    For a dictionary that is not the study's: the words stored with it. None without either.
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
    """A function of latents and a target's index that returns alignments with the target's prompt.

    Alignments are those of the study's evaluator, which is loaded on first use; NaN for targets without a prompt. None
    where `source` is not a study.
    """
    means = getattr(getattr(source, "labels", None), "mean_embedding", None)
    if means is None or getattr(source, "evaluator", None) is None:
        return None
    cache: dict[int, tuple[Tensor, Tensor]] = {}

    @unaffected
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
