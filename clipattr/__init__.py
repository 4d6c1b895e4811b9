"""clipattr: the components of a CLIP model's embedding, their meaning, and the dependence of an output on each.

This page is the table of contents: every public name, and the module it lives in. Names are imported on first
use, so `import clipattr` costs milliseconds and does not load torch. To add a public name, add a line to
`CONTENTS`.
"""

from importlib import import_module
from typing import Any

__version__ = "0.2.0"

CONTENTS = {
    # models and sites
    "load_model": "models.loading",
    "list_models": "models.weights",
    "Model": "models.loading",
    "TextEmbeddings": "models.textonly",
    "Tail": "models.tails",
    "Site": "sites",
    "capture": "sites",
    "replace": "sites",
    "activations": "sites",
    "continue_from": "sites",
    # store
    "ActivationStore": "storage.activations",
    "collect_activations": "studies.encode",
    # parts
    "SparseCodes": "dictionaries",
    "Dictionary": "dictionaries",
    "load_dictionary": "dictionaries",
    "load_sae": "dictionaries",
    "list_saes": "dictionaries",
    "check_sae": "dictionaries",
    "SaeCheck": "dictionaries",
    "export_sae": "dictionaries",
    "train_sae": "dictionaries",
    "neurons": "dictionaries",
    "pca": "dictionaries",
    "random_sae": "dictionaries",
    "kmeans": "dictionaries",
    "train_saes": "dictionaries",
    "choose_sae": "dictionaries",
    "joined_dictionary": "dictionaries",
    "named_dictionary": "dictionaries",
    "Recipe": "dictionaries",
    "convert": "dictionaries",
    "train_text_sae": "dictionaries.text",
    "Card": "studies.cards",
    "make_card": "studies.cards",
    "study_card": "studies.cards",
    # reliance
    "Similarity": "attribution",
    "Contrast": "attribution",
    "VocabularyContrast": "attribution",
    "LogOdds": "attribution",
    "ZeroShot": "attribution",
    "ProbeLogit": "attribution",
    "ImageSimilarity": "attribution",
    "as_target": "attribution",
    "ClosedFormTail": "attribution",
    "mean_effects": "attribution.tail_sums",
    "summed_exact": "attribution.tail_sums",
    "attribute": "attribution",
    "word_attribution": "attribution.words",
    "WordAttribution": "attribution.words",
    "Attribution": "attribution",
    "METHODS": "attribution",
    "register_method": "attribution",
    "ablate": "attribution",
    "faithfulness": "attribution.faithfulness",
    "FunctionTarget": "attribution",
    "intervene": "attribution",
    "set_to": "attribution",
    "transplant": "attribution",
    "head_writes": "attribution.heads",
    "replace_heads": "attribution.heads",
    "group_effects": "attribution",
    "pairwise": "attribution",
    "pairs": "attribution.pairs",
    "stream_pairs": "attribution.pairs",
    "Pairs": "attribution.pairs",
    # pictures and meaning
    "Images": "images.collection",
    "ImageRecord": "images.collection",
    "Embeddings": "images.embeddings",
    "open_table": "images.tables",
    "open_dicom": "images.dicom_folder",
    "Table": "images.tables",
    "HAM10000_CLASSES": "images.tables",
    "Vocabulary": "meaning",
    "Examples": "meaning",
    "Labels": "meaning",
    "label_latents": "meaning",
    "alignment": "meaning",
    "clarity": "meaning",
    "families": "meaning.families",
    "find": "meaning",
    # studies
    "build_study": "studies.start",
    "open_study": "studies.study",
    "Study": "studies.study",
    "Ray": "execution.ray",
    "plan_study": "studies.plan",
    # surprise
    "audit": "discovery.audit.run",
    "check": "discovery.check",
    "check_laws": "discovery.laws",
    "Check": "discovery.check",
    "gate": "discovery.gate",
    "accept": "discovery.gate",
    "by_stratum": "discovery.strata",
    "with_strata": "discovery.strata",
    "verify": "discovery.pixels.verify",
    "PixelSettings": "discovery.pixels.settings",
    "Prompt": "discovery.audit.expectations",
    "write_statement": "reporting.statement",
    "explore": "reporting.panels",
    "Finding": "discovery.finding",
    "Findings": "discovery.findings",
    "compare": "discovery.compare",
    "Comparison": "discovery.compare",
    "repair": "discovery.repair.repair",
    "Repair": "discovery.repair.repair",
    "side": "discovery.repair.side",
    "FindingSide": "discovery.repair.side",
    "Probe": "discovery.probes.probe",
    "fit_probe": "discovery.probes.fitting",
    "fit_sparse_probe": "discovery.probes.fitting",
    "audit_probe": "discovery.probes.audit",
    "directions_of": "discovery.probes.null_space",
    "ProbeAudit": "discovery.probes.audit",
    # published studies
    "reproduce": "reproduction.run",
    "Reproduction": "reproduction.run",
    # errors
    "ClipattrError": "errors",
    "ModelError": "errors",
    "SiteError": "errors",
    "DataError": "errors",
    "StudyError": "errors",
    "DictionaryError": "errors",
    "TargetError": "errors",
}

# Modules that are public as such, e.g. `ca.presets.paper` and `ca.plots.gallery`.
MODULES = {"plots": "display.plots", "presets": "studies.presets"}

__all__ = ["__version__", *CONTENTS]


def __getattr__(name: str) -> Any:
    """Import a public name on first use and keep it."""
    if name in MODULES:
        return import_module(f"clipattr.{MODULES[name]}")
    if name not in CONTENTS:
        raise AttributeError(f"module 'clipattr' has no attribute {name!r}; dir(clipattr) lists what it has.")
    value = getattr(import_module(f"clipattr.{CONTENTS[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *CONTENTS, *MODULES})
