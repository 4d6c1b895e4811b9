"""Parts: dictionaries that decompose a site's activations into sparse directions.

Start at `train_sae` to train one, `load_sae` to open a published one, `Dictionary` for the interface of every kind.
"""

from clipattr.dictionaries.batchtopk import BatchTopK
from clipattr.dictionaries.checkpoints import FORMATS
from clipattr.dictionaries.choosing import choose_sae, train_sae
from clipattr.dictionaries.codes import SparseCodes
from clipattr.dictionaries.controls import Directions, kmeans, neurons, pca, random_sae
from clipattr.dictionaries.export import export_sae
from clipattr.dictionaries.gated import Gated
from clipattr.dictionaries.joined import joined_dictionary
from clipattr.dictionaries.jumprelu import JumpRelu
from clipattr.dictionaries.loading import convert, load_sae
from clipattr.dictionaries.matryoshka import Matryoshka
from clipattr.dictionaries.named import named_dictionary
from clipattr.dictionaries.nested import NestedTopK
from clipattr.dictionaries.objective import OBJECTIVES
from clipattr.dictionaries.quality import SaeCheck, check_sae
from clipattr.dictionaries.recipes import Recipe
from clipattr.dictionaries.registry import list_saes
from clipattr.dictionaries.relu import Relu
from clipattr.dictionaries.sae import KINDS, Dictionary
from clipattr.dictionaries.saved import load_dictionary
from clipattr.dictionaries.topk import GroupMax, TopK
from clipattr.dictionaries.training import train_saes

__all__ = [
    "FORMATS",
    "KINDS",
    "OBJECTIVES",
    "BatchTopK",
    "Dictionary",
    "Directions",
    "Gated",
    "GroupMax",
    "JumpRelu",
    "Matryoshka",
    "NestedTopK",
    "Recipe",
    "Relu",
    "SaeCheck",
    "SparseCodes",
    "TopK",
    "check_sae",
    "choose_sae",
    "convert",
    "export_sae",
    "joined_dictionary",
    "kmeans",
    "list_saes",
    "load_dictionary",
    "load_sae",
    "named_dictionary",
    "neurons",
    "pca",
    "random_sae",
    "train_sae",
    "train_saes",
]
