"""Pairs: the cosine of a picture and a prompt as a sum over image latents × text latents.

Behind a site with a closed form the unit-length embedding is a sum of parts: each active latent, the bias, the error
node. The LayerNorm's deviation and the length are those of this picture or text, so that no part is an approximation.
The cosine is bilinear in the two embeddings, so it is the sum of all products of a part of one and a part of the other.
What a product says is how much of *this* score runs through the two; what ablating a latent would change is another
question, answered by `attribute`. Start at `pairs`; `stream_pairs` is for many pictures or prompts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from clipattr.attribution.compute import input_batches, labels_of, parts_of, read_site
from clipattr.attribution.padding import padded
from clipattr.attribution.prompts import check_length
from clipattr.attribution.tail_algebra import TailAlgebra
from clipattr.dictionaries.text import train_text_sae
from clipattr.errors import DictionaryError, SiteError, TargetError
from clipattr.models.modules import template_texts
from clipattr.models.surroundings import unaffected
from clipattr.models.tails import MEAN
from clipattr.sites import Site

if TYPE_CHECKING:
    import pandas as pd

    from clipattr.display.plots import Chart

BIAS, ERROR = -1, -2  # in the place of a latent's number
NODES = {BIAS: "bias", ERROR: "error"}
BATCH = 64  # pictures or prompts taken apart at a time
DRAWN = 8  # rows and columns of a figure

_trained: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()


@dataclass(frozen=True, eq=False)
class Side:
    """One picture's or prompt's unit-length embedding as a sum of parts.

    Attributes:
        name: of the picture, or the prompt. latents: (parts,) numbers; `BIAS` and `ERROR` for the two nodes, which come
            last. parts: (parts, embed) float64; their sum is the embedding. labels: (parts,) what the parts are called.
    """

    name: str
    latents: Tensor
    parts: Tensor = field(repr=False)
    labels: tuple[str, ...] = field(repr=False)

    @cached_property
    def embedding(self) -> Tensor:
        """(embed,) unit length."""
        return self.parts.sum(0)


@dataclass(frozen=True, eq=False)
class Pairs:
    """The cosine of a picture and a prompt, part by part.

    Attributes:
        image, text: the two sides; row i of `values` is part i of the image, column t part t of the text.
        values: (image parts, text parts), raw cosine, signed; all of them sum to `score`. The last two rows and columns
            are the bias and the error node.
        score: the cosine, from the embeddings and not from the sum.

    >>> import clipattr as ca
    >>> study = ca.open_study("picture-world")
    >>> sae = ca.train_text_sae(study, n_latents=64, k=4, steps=30, progress=False)
    >>> found = ca.pairs(study, study.images[0], "palm", text_dictionary=sae)
    >>> f"{abs(found.rows.value.sum() - found.score):.4f}"
    '0.0000'
    """

    image: Side
    text: Side
    values: Tensor = field(repr=False)
    score: float

    def table(self, n: int | None = None) -> pd.DataFrame:
        """One row per pair, largest |value| first, nodes included; all rows add up to `score`.

        Args:
            n: how many; None for all.
        """
        import pandas as pd

        flat = self.values.flatten()
        order = flat.abs().argsort(descending=True, stable=True)[:n]
        rows, columns = (order // self.values.shape[1]).tolist(), (order % self.values.shape[1]).tolist()
        return pd.DataFrame(
            {
                "image_latent": [_number(self.image, row) for row in rows],
                "image_label": [self.image.labels[row] for row in rows],
                "text_latent": [_number(self.text, column) for column in columns],
                "text_label": [self.text.labels[column] for column in columns],
                "value": flat[order].tolist(),
            }
        )

    @property
    def rows(self) -> pd.DataFrame:
        """What each image part adds to the score, over all of the text; adds up to `score`."""
        return _margin(self.image, self.values.sum(1))

    @property
    def columns(self) -> pd.DataFrame:
        """What each text part adds to the score, over all of the image; adds up to `score`."""
        return _margin(self.text, self.values.sum(0))

    @property
    def between_latents(self) -> float:
        """The part of the score that runs from latents to latents, without bias and error of either side."""
        return float(self.values[:-2, :-2].sum())

    def plot(self, n: int = DRAWN) -> Chart:
        """The table as a figure: the `n` largest rows and columns, the rest summed, in points (cosine × 100)."""
        from clipattr.display.pair_table import pair_table

        return pair_table(
            self.values.numpy(),
            [_called(self.image, row) for row in range(len(self.values))],
            [_called(self.text, column) for column in range(self.values.shape[1])],
            n=n,
            title=f"{self.image.name} and “{self.text.name}”",
        )

    def __repr__(self) -> str:
        shape = " × ".join(str(size - 2) for size in self.values.shape)
        return (
            f"<Pairs: {self.image.name!r} and {self.text.name!r}, {shape} latents, cosine {self.score:.4f}>"
        )


@unaffected
def pairs(
    source: Any,
    picture: Any,
    prompt: str,
    *,
    text_dictionary: Any = None,
    dictionary: Any = None,
    site: Site | str | None = None,
    templates: Sequence[str] = ("{}",),
) -> Pairs:
    """The cosine of one picture and one prompt as a sum over image latents × text latents.

    Args:
        source: a study, or a model with `dictionary` and `text_dictionary`.
        picture: as for `attribute`, one. prompt: one text.
        text_dictionary: of a text site with a closed form (`train_text_sae`). Default: one trained on the study's
            vocabulary, once for each study that is open.
        dictionary, site: of pictures, where no study says them; a site with a closed form.
        templates: the prompt is put into each; parts of the ensemble are means over templates.

    Returns:
        `Pairs`: values of image latents × text latents, signed, in raw cosine; with bias and error nodes they sum to
        `score`. Positive: the pair raises the cosine.

    Raises:
        SiteError: no closed form follows a site. DictionaryError: a dictionary is missing, or of another model.
        TargetError: not one picture and one prompt.

    >>> import clipattr as ca
    >>> study = ca.open_study("picture-world")
    >>> sae = ca.train_text_sae(study, n_latents=64, k=4, steps=30, progress=False)
    >>> found = ca.pairs(study, study.images[0], "palm", text_dictionary=sae)
    >>> abs(float(found.values.sum()) - found.score) < 1e-5
    True
    """
    if not isinstance(prompt, str):
        raise TargetError(
            f"pairs takes one prompt, a string; got {prompt!r:.80}. stream_pairs takes several."
        )
    options = {"text_dictionary": text_dictionary, "dictionary": dictionary, "site": site}
    found = list(stream_pairs(source, picture, [prompt], templates=templates, **options))
    if len(found) != 1:
        raise TargetError(f"pairs takes one picture; got {len(found)}. stream_pairs takes several.")
    return found[0]


def stream_pairs(
    source: Any,
    pictures: Any,
    prompts: Sequence[str],
    *,
    text_dictionary: Any = None,
    dictionary: Any = None,
    site: Site | str | None = None,
    templates: Sequence[str] = ("{}",),
) -> Iterator[Pairs]:
    """`pairs` of every picture with every prompt, picture by picture; each side is encoded once.

    Memory holds at most `BATCH` pictures, and (k + 2) · embed numbers per prompt.

    Args:
        pictures, prompts: one or several.
        source, text_dictionary, dictionary, site, templates: as for `pairs`.

    Returns:
        An iterator of `Pairs`, picture by picture and within a picture prompt by prompt.

    Raises:
        SiteError, DictionaryError, TargetError: as for `pairs`.

    >>> import clipattr as ca
    >>> study = ca.open_study("picture-world")
    >>> sae = ca.train_text_sae(study, n_latents=64, k=4, steps=30, progress=False)
    >>> pictures = [study.images[0], study.images[1]]
    >>> len(list(ca.stream_pairs(study, pictures, ["palm", "rose"], text_dictionary=sae)))
    4
    """
    model, dictionary, place = parts_of(source, dictionary, site)
    words = [prompts] if isinstance(prompts, str) else list(prompts)
    if not words or not all(isinstance(word, str) for word in words):
        raise TargetError(f"prompts are strings, at least one; got {prompts!r:.80}.")
    text_dictionary = _text_dictionary(source, model) if text_dictionary is None else text_dictionary
    _, text_dictionary, text_place = parts_of(model, text_dictionary, None)
    if place.is_text or not text_place.is_text:
        raise SiteError(
            f"pairs need a dictionary of the image tower and one of the text tower; got {place} and {text_place}."
        )
    labels = labels_of(source, dictionary)
    texts = list(_text_sides(model, text_dictionary, text_place, words, template_texts(templates)))
    for names, _, pixels in input_batches(model, place, pictures, BATCH):
        for image in sides(model, dictionary, place, pixels, names, labels):
            for text in texts:
                yield _joined(image, text)


def sides(
    model: Any, dictionary: Any, site: Site, inputs: Any, names: Sequence[str], labels: Sequence[str] | None
) -> list[Side]:
    """Pictures or texts as sums of parts.

    Args:
        inputs: pixels, or texts at a text site. names: of each. labels: of the latents, None for none.
    """
    tail = site.tail(model)
    if tail is None or getattr(dictionary, "input_site", None) is not None:
        raise SiteError(
            f"{site}: an embedding is a sum of parts only where a LayerNorm, a linear map and the division by the "
            "length follow, and the dictionary reads where it writes. Use image.embedding or text.embedding, which "
            "every model has, image.-1.cls or text.-1.eot."
        )
    algebra = TailAlgebra(model, site, tail)
    with torch.no_grad():
        acts = algebra.checked(read_site(model, inputs, site)[0])
        found = _parts(algebra, dictionary, acts)
    return [
        Side(name, latents, parts, tuple(_label(int(latent), labels) for latent in latents))
        for name, (latents, parts) in zip(names, found, strict=True)
    ]


def _parts(algebra: TailAlgebra, dictionary: Any, acts: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Per picture the latents with bias and error behind them, and their parts of the embedding (parts, embed)."""
    flat = acts.reshape(-1, acts.shape[-1])
    codes = dictionary.encode(flat)
    indices, amounts = (part.to(flat.device) for part in padded(codes))
    error = dictionary.error(flat, codes).to(flat)
    decoder = torch.as_tensor(dictionary.decoder).to(flat)
    amounts = amounts.to(flat)
    bias = flat - error - torch.bmm(amounts[:, None], decoder[indices.long()])[:, 0]
    tokens = 1 if acts.ndim == 2 else acts.shape[1]
    weight = _weights(algebra, acts)  # (pictures, tokens)
    units = algebra.embeddings(acts).double()
    found = []
    for number in range(len(acts)):
        rows = slice(number * tokens, (number + 1) * tokens)
        scaled = weight[number][:, None]
        latents, place = indices[rows].long().flatten().unique(return_inverse=True)
        summed = flat.new_zeros(len(latents)).index_add_(0, place, (scaled * amounts[rows]).flatten())
        latents, summed = latents[summed != 0], summed[summed != 0]
        at_site = torch.cat(
            [
                summed[:, None] * decoder[latents],
                (scaled * bias[rows]).sum(0, keepdim=True),
                (scaled * error[rows]).sum(0, keepdim=True),
            ]
        )
        features = algebra.through(at_site)
        features[-2] += algebra.offset.to(features)
        parts = features.double() / features.double().sum(0).norm()
        parts[-1] += units[number] - parts.sum(
            0
        )  # rounding, so that table and score agree to the last digits
        numbers = torch.cat([latents, latents.new_tensor([BIAS, ERROR])])
        found.append((numbers.cpu(), parts.cpu()))
    return found


def _weights(algebra: TailAlgebra, acts: Tensor) -> Tensor:
    """(pictures, tokens): what a token's activation is multiplied by before the linear map."""
    share = 1.0
    if algebra.tail.pooling == MEAN:
        share = 1 / acts.shape[1]
        if not algebra.splits_tokens:
            acts = acts.mean(1, keepdim=True).expand_as(acts)
    else:
        acts = acts[:, None]
    if algebra.tail.norm is None:
        return torch.full(acts.shape[:2], share, dtype=acts.dtype, device=acts.device)
    spread = acts.double().var(-1, unbiased=False)
    return (share / (spread + algebra.tail.norm.eps).sqrt()).to(acts)


def _text_sides(
    model: Any, dictionary: Any, site: Site, prompts: Sequence[str], templates: Sequence[str]
) -> Iterator[Side]:
    """The prompts' sides; parts of an ensemble of templates are means, brought to unit length together."""
    labels = labels_of(model, dictionary)
    step = max(1, BATCH // len(templates))
    for first in range(0, len(prompts), step):
        some = list(prompts[first : first + step])
        texts = [template.replace("{}", prompt) for prompt in some for template in templates]
        check_length(texts, model)
        found = sides(model, dictionary, site, texts, texts, labels)
        for number, prompt in enumerate(some):
            own = found[number * len(templates) : (number + 1) * len(templates)]
            yield _ensemble(prompt, own, labels)


def _ensemble(name: str, found: Sequence[Side], labels: Sequence[str] | None) -> Side:
    if len(found) == 1:
        return Side(name, found[0].latents, found[0].parts, found[0].labels)
    latents, place = torch.cat([side.latents for side in found]).unique(return_inverse=True)
    parts = found[0].parts.new_zeros(len(latents), found[0].parts.shape[1])
    parts.index_add_(0, place, torch.cat([side.parts for side in found]))
    parts = parts / parts.sum(0).norm()
    # `unique` sorts, so the nodes come first: error, bias.
    order = torch.cat([torch.arange(2, len(latents)), torch.tensor([1, 0])])
    latents = latents[order]
    return Side(name, latents, parts[order], tuple(_label(int(latent), labels) for latent in latents))


def _joined(image: Side, text: Side) -> Pairs:
    return Pairs(image, text, image.parts @ text.parts.T, float(image.embedding @ text.embedding))


def _text_dictionary(source: Any, model: Any) -> Any:
    if not hasattr(source, "vocabulary"):
        raise DictionaryError(
            "pairs need a dictionary of text activations too: pass text_dictionary=ca.train_text_sae(model, texts), "
            "or a study, on whose vocabulary one is trained."
        )
    if source not in _trained:
        _trained[source] = train_text_sae(source, progress=False)
    return _trained[source]


def _label(latent: int, labels: Sequence[str] | None) -> str:
    if latent in NODES:
        return NODES[latent]
    return (labels[latent] if labels is not None else "") or ""


def _number(side: Side, place: int) -> int | None:
    latent = int(side.latents[place])
    return None if latent in NODES else latent


def _called(side: Side, place: int) -> str:
    latent = int(side.latents[place])
    return NODES.get(latent) or side.labels[place] or f"latent {latent}"


def _margin(side: Side, sums: Tensor) -> pd.DataFrame:
    import pandas as pd

    order = sums.abs().argsort(descending=True, stable=True).tolist()
    return pd.DataFrame(
        {
            "latent": [_number(side, place) for place in order],
            "label": [side.labels[place] for place in order],
            "value": [float(sums[place]) for place in order],
        }
    )
