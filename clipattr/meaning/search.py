"""Search: the latents that fit a text, a picture, or another latent.

Owns `find`. Ignores how studies are stored. Start there.
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
    """The n latents that fit best.

    Args:
        what: a text; the number of a latent ("more like this"); or a picture (an `ImageRecord`, PIL picture,
            array).
        by: "text" embeds the text with the evaluator, "label" looks for it in labels and given names.
            Default: text.

    Returns:
        DataFrame: latent, name (a given one, else the label if it is aligned), match, label, clarity, frequency; best
        first. `match` is, for a text the alignment; for a picture the cosine of its evaluator embedding with the
        examples' mean; for a latent the cosine of the two means; for labels and given names 1 (whole) to 0.

    Raises:
        DataError: empty text, a latent that does not exist, or something else than these.
    """
    means = study.labels.mean_embedding
    live = study.examples.counts > 0
    if isinstance(what, str):
        if not what.strip():
            raise DataError("Nothing to look for: the text is empty.")
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
