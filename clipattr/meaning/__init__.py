"""Meaning: labels and scores of latents, from the pictures that activate them.

Start at `examples.py` (top activating pictures), then `labels.py` (words), `scores.py` (clarity, frequency and others),
`families.py` (latents with one meaning), `search.py` (finding latents) and `usage.py` (pictures with the largest
attribution).
"""

from clipattr.meaning.examples import Examples, quantile_examples, strongest_token
from clipattr.meaning.labels import (
    Labels,
    alignment,
    label_by_contrast,
    label_by_evidence,
    label_latents,
    words_of,
)
from clipattr.meaning.scores import clarity, meanings, nearest_latents
from clipattr.meaning.search import find
from clipattr.meaning.usage import examples_of_use
from clipattr.meaning.validation import validation_auc
from clipattr.meaning.vocabulary import Vocabulary

__all__ = [
    "Examples",
    "Labels",
    "Vocabulary",
    "alignment",
    "clarity",
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
