"""Search: latents similar to a text, a picture or another latent.

Ignores how studies are stored. Start at `find`.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F

from clipattr.errors import DataError
from clipattr.images.collection import ImageRecord
from clipattr.images.decoding import to_picture
from clipattr.meaning.labels import alignment
from clipattr.meaning.vocabulary import empty_prompt

if TYPE_CHECKING:
    import pandas as pd


def find(study: Any, what: Any, n: int = 10, *, by: str | None = None) -> "pd.DataFrame":
    """Find the n latents most similar to a text, a picture or another latent.

    Args:
        study: a study with an evaluator.
        what: a text; the number of a latent; or a picture (`ImageRecord`, PIL picture, array).
        n: number of latents.
        by: "text" compares the text's evaluator embedding with examples (the default), "label" searches labels and
            given names for it.

    Returns:
        DataFrame, best first: latent, name (a given one, else the label if it is aligned), match, label, clarity,
        frequency. `match` is the alignment for a text; the cosine of the picture's evaluator embedding with the
        examples' mean for a picture; the cosine of the two means for a latent; the matched fraction of the label or
        name for `by="label"`.

    Raises:
        DataError: an empty text, a latent that does not exist or has no examples, or another type.

    >>> import clipattr as ca
    >>> study = ca.open_study("picture-world")
    >>> ca.find(study, "eagle", n=2, by="label")["label"].tolist()
    ['eagle', 'eagle']
    """
    means = study.labels.mean_embedding
    live = study.examples.counts > 0
    if isinstance(what, str):
        if not what.strip():
            raise DataError("The text to search for is empty. Give a word, e.g. find(study, 'dog').")
        if by == "label":
            match = _by_label(study, what.strip().casefold())
            live &= match > 0
        elif by in (None, "text"):
            text = study.evaluator.encode_text([what]).float().cpu()
            match = alignment(means, text, empty_prompt(study.evaluator))[:, 0]
        else:
            raise DataError(f"by must be 'text' or 'label'; got {by!r}.")
    elif isinstance(what, (int, np.integer)):
        latent = int(what)
        if not 0 <= latent < len(means) or not live[latent]:
            raise DataError(
                f"Latent {latent} has no examples or does not exist; latents are 0 to {len(means) - 1}."
            )
        match = F.cosine_similarity(means, means[latent][None], dim=-1)
        live[latent] = False
    else:
        match = F.cosine_similarity(means, _embed_picture(study, what), dim=-1)
    ranked = torch.where(live, torch.nan_to_num(match, nan=-9.0), -9.0)
    order = ranked.argsort(descending=True, stable=True)[: min(n, int(live.sum()))]
    table = study.latents.iloc[order.tolist()][["latent", "name", "label", "clarity", "frequency"]].copy()
    table.insert(2, "match", ranked[order].tolist())
    return table.reset_index(drop=True)


def _by_label(study: Any, wanted: str) -> torch.Tensor:
    def score(label: Any) -> float:
        text = str(label or "").casefold()
        return len(wanted) / len(text) if wanted in text else 0.0

    labels, given = study.latents["label"], study.names
    return torch.tensor([max(score(label), score(given.get(latent))) for latent, label in enumerate(labels)])


def _embed_picture(study: Any, what: Any) -> torch.Tensor:
    picture = what.load() if isinstance(what, ImageRecord) else what
    pixels = study.evaluator.prepare(to_picture(picture))[None]
    return study.evaluator.encode_image(pixels).float().cpu()
