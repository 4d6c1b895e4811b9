"""First look: a picture and a prompt to begin with.

Owns the choice. Start at `well_explained`.
"""

from typing import TYPE_CHECKING

import numpy as np

from clipattr.errors import SiteError

if TYPE_CHECKING:
    from clipattr.studies.collected import Collected

OPENING_WORDS = 24  # words embedded to choose a first picture; a second or two on a large model


def well_explained(collected: "Collected", n: int = 96) -> tuple[int, str]:
    """A picture and the word that scores highest on it, with the largest part of the score attributed to latents.

    Words are the labels of pictures, and the word is the picture's own; without labels they are the words that most
    latents are labelled with.

    Args:
        n: pictures tried, evenly spaced over the study.

    Returns:
        Its row and the word; (0, "") where there are no words, or the site does not determine the embedding.
    """
    from clipattr.attribution.targets import Similarity

    study = collected.study
    labels = collected.labels
    labelled = any(labels)
    candidates = np.array([i for i, label in enumerate(labels) if label or not labelled])
    rows = candidates[np.unique(np.linspace(0, len(candidates) - 1, n).round().astype(int))]
    words = list(dict.fromkeys(labels[row] for row in rows)) if labelled else _frequent_words(collected)
    words = words[:OPENING_WORDS]
    if labelled:
        rows = np.array([row for row in rows if labels[row] in words])
    if not words:
        return 0, ""
    try:
        splice = collected.splice(rows, Similarity(study.model.encode_text(words), names=words))
    except SiteError:
        return 0, ""
    y, base = (part.float().cpu().numpy() for part in (splice.y, splice.y_reference))
    highest = y.argmax(1)
    own = np.array([words.index(labels[row]) for row in rows]) if labelled else highest
    at = np.arange(len(rows))
    carried = np.where(highest == own, y[at, own] - base[at, own], -np.inf)
    best = int(carried.argmax())
    return int(rows[best]), words[own[best]]


def _frequent_words(collected: "Collected") -> list[str]:
    """Labels that fit their latents, those of the most latents first."""
    frame = collected.study.latents
    fits = frame["label"].notna() & frame["aligned"].fillna(False).astype(bool)
    return [str(word) for word in frame["label"][fits].value_counts().index]
