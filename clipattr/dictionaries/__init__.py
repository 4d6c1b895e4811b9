"""Parts: dictionaries that split a site's activations into sparse, named-able directions.

Start at `train_sae` to make one, `load_dictionary` to open one, `Dictionary` for what every kind can do.
"""

from clipattr.dictionaries.codes import SparseCodes
from clipattr.dictionaries.sae import KINDS, Dictionary, load_dictionary
from clipattr.dictionaries.topk import TopK
from clipattr.dictionaries.train import train_sae, train_saes

__all__ = [
    "KINDS",
    "Dictionary",
    "SparseCodes",
    "TopK",
    "load_dictionary",
    "train_sae",
    "train_saes",
]
