"""Latents of the text tower: dictionaries over text activations, trained from words and named by the texts that they
fire for.

Owns the texts that such a dictionary is trained on, and its latents' names. Training itself is `train_sae`, as for
pictures. Start at `train_text_sae`.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from clipattr.dictionaries.choosing import train_sae
from clipattr.dictionaries.sae import Dictionary
from clipattr.errors import DataError
from clipattr.models.loading import Model
from clipattr.models.modules import template_texts
from clipattr.sites import Site, activations

# Wordings in which every text is seen, so that latents of the wording and of the word come apart. Few enough that a
# vocabulary of 20,000 words takes minutes.
TEMPLATES = ("{}", "a {}", "the {}", "a photo of a {}", "a picture of the {}", "a drawing of a {}")
SITE = "text.-1.eot"
NAMED_BY = 3  # strongest texts whose words name a latent


def default_text_site(model: Model) -> Site:
    """The pooled token after the last text block where it has a closed form behind it, else the embedding."""
    site = Site(SITE)
    if hasattr(model, "text_output") and model.text_tower.tail() is not None:
        return site
    return Site("text.embedding")


def train_text_sae(
    source: Any,
    texts: Sequence[str] | None = None,
    *,
    site: Site | str | None = None,
    templates: Sequence[str] = TEMPLATES,
    **options: Any,
) -> Dictionary:
    """Train a dictionary on text activations, by `train_sae`, and name its latents.

    Args:
        source: a model, or a study, whose vocabulary is used where `texts` is None.
        texts: words, phrases or captions. templates: each text is put into every one; `("{}",)` for captions.
        site: "text.-1.eot", "text.embedding" or any other site of the text tower. Default: the first where what follows
            it has a closed form, else the second.
        options: of `train_sae`: n_latents, k, kind, steps, seed, …

    Returns:
        A dictionary with `site` and `model_hash`; `info["words"]` names each latent by the texts that it fires for
        most, "" where it never fires.

    Raises:
        DataError: no texts, or not one more than a text. SiteError: the model has no such site.
        DictionaryError: as for `train_sae`.

    >>> import clipattr as ca
    >>> study = ca.open_study("picture-world")
    >>> sae = ca.train_text_sae(study, n_latents=64, k=4, steps=30, progress=False)
    >>> sae.site, sae.n_latents, len(sae.info["words"])
    ('text.-1.eot', 64, 64)
    """
    model = source.model if hasattr(source, "dictionary") else source
    if texts is None:
        vocabulary = getattr(source, "vocabulary", None)
        if vocabulary is None:
            raise DataError(
                "a text dictionary is trained on texts: pass texts=[…], or a study with a vocabulary."
            )
        texts = list(vocabulary.prompts)
    texts = list(dict.fromkeys(texts))
    if len(texts) < 2:
        raise DataError(f"a text dictionary needs at least two different texts; got {len(texts)}. Add texts.")
    place = Site(site) if site is not None else default_text_site(model)
    wordings = template_texts(templates)
    written = [wording.replace("{}", text) for text in texts for wording in wordings]
    acts = activations(model, written, place).float().cpu()
    rows = acts.reshape(-1, acts.shape[-1])
    found = train_sae(rows, site=str(place), model_hash=model.weights_hash, **options)
    found.info["forward"] = model.facts
    each = len(rows) // len(texts)
    found.info = {
        **(found.info or {}),
        "words": names_of_latents(found, rows, texts, each),
        "texts": len(texts),
    }
    return found


def names_of_latents(dictionary: Dictionary, rows: Tensor, texts: Sequence[str], each: int) -> list[str]:
    """Each latent's name: the texts with the largest mean code over their `each` rows, e.g. "palm, palm tree".

    A text is named only if its mean code is at least half of the strongest one's.
    """
    codes = dictionary.encode(rows).to_csr()
    total = torch.zeros(dictionary.n_latents, len(texts))
    place = codes.row_of_entries() // each
    total.index_put_((codes.indices.long(), place), codes.values.float(), accumulate=True)
    values, strongest = total.topk(min(NAMED_BY, len(texts)), dim=1)
    return [
        ", ".join(
            texts[text]
            for value, text in zip(some.tolist(), which.tolist(), strict=True)
            if value > 0 and value >= some[0] / 2
        )
        for some, which in zip(values, strongest, strict=True)
    ]
