"""Parts: dictionaries that split a site's activations into sparse, named-able directions.

Start at `train_sae` to make one, `load_dictionary` to open one, `Dictionary` for what every kind can do.
"""

from clipattr.dictionaries.batchtopk import BatchTopK
from clipattr.dictionaries.checkpoints import FORMATS, convert, load_sae
from clipattr.dictionaries.code_store import CodeStore, encode_store
from clipattr.dictionaries.codes import SparseCodes
from clipattr.dictionaries.controls import Directions, kmeans, neurons, pca, random_sae
from clipattr.dictionaries.gated import Gated
from clipattr.dictionaries.jumprelu import JumpRelu
from clipattr.dictionaries.matryoshka import Matryoshka
from clipattr.dictionaries.objective import OBJECTIVES
from clipattr.dictionaries.relu import Relu
from clipattr.dictionaries.sae import KINDS, Dictionary, load_dictionary
from clipattr.dictionaries.topk import GroupMax, TopK
from clipattr.dictionaries.training import train_sae, train_saes

__all__ = [
    "FORMATS",
    "KINDS",
    "OBJECTIVES",
    "BatchTopK",
    "CodeStore",
    "Dictionary",
    "Directions",
    "Gated",
    "GroupMax",
    "JumpRelu",
    "Matryoshka",
    "Relu",
    "SparseCodes",
    "TopK",
    "convert",
    "encode_store",
    "kmeans",
    "load_dictionary",
    "load_sae",
    "neurons",
    "pca",
    "random_sae",
    "train_sae",
    "train_saes",
]
