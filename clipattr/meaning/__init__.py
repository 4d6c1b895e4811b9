"""Meaning: what each latent stands for, and how far to trust that.

Start at `examples.py` (what a latent fires on), then `labels.py` (words for it), `scores.py` (numbers about
it), `families.py` (latents that mean the same), `search.py` (finding latents) and `usage.py` (what a target uses
a latent for).
"""

from clipattr.meaning.examples import Examples, example_places, quantile_examples, strongest_token
from clipattr.meaning.labels import (
    Labels,
    alignment,
    label_by_contrast,
    label_by_evidence,
    label_latents,
    validation_auc,
    words_of,
)
from clipattr.meaning.scores import clarity, meanings, nearest_latents
from clipattr.meaning.search import find
from clipattr.meaning.usage import examples_of_use
from clipattr.meaning.vocabulary import Vocabulary

__all__ = [
    "Examples",
    "Labels",
    "Vocabulary",
    "alignment",
    "clarity",
    "example_places",
    "examples_of_use",
    "find",
    "label_by_contrast",
    "label_by_evidence",
    "label_latents",
    "meanings",
    "nearest_latents",
    "quantile_examples",
    "strongest_token",
    "validation_auc",
    "words_of",
]
