"""Reader of our own exports: plain safetensors files, and SAELens folders that keep an exact copy. See `export.py`."""

from __future__ import annotations

import torch

from clipattr.dictionaries.checkpoints.reading import Files
from clipattr.dictionaries.export import EXACT_COPY, NOTE, NOTE_SCHEMA, plain_arguments, saelens_parts
from clipattr.dictionaries.sae import KINDS, Dictionary
from clipattr.dictionaries.saved import load_dictionary
from clipattr.errors import DictionaryError


def own_export(files: Files) -> Dictionary | None:
    """The dictionary that `export_sae` wrote into these files; None if it wrote none of them.

    Raises:
        DictionaryError: the files were changed after they were written.
    """
    if files.header is not None and NOTE in files.header:
        return _plain(files)
    copy = files.weights.parent / EXACT_COPY
    metadata = files.config.get("metadata")
    if isinstance(metadata, dict) and metadata.get("clipattr_hash") and copy.is_dir():
        made = load_dictionary(copy)
        config, tensors = saelens_parts(made)
        same = set(tensors) == files.keys and all(
            torch.equal(value, files.tensors[name]) for name, value in tensors.items()
        )
        told = {name: value for name, value in files.config.items() if name != "metadata"}
        del config["metadata"]
        if not same or told != config:
            raise DictionaryError(
                f"{files.weights} or its cfg.json differs from the exact copy in {copy}: one was changed. Delete the "
                "copy to read the weights as SAELens does."
            )
        made.info |= {"source": files.weights.name, "format": "saelens"}
        return made
    return None


def _plain(files: Files) -> Dictionary:
    note = (files.header or {})[NOTE]
    try:
        if note["schema"] != NOTE_SCHEMA:
            raise DictionaryError(
                f"{files.weights} has export schema {note['schema']!r:.40}; this version reads {NOTE_SCHEMA}: update "
                "clipattr."
            )
        if note["kind"] not in KINDS:
            raise DictionaryError(
                f"{files.weights} holds a dictionary of kind {note['kind']!r:.40}; known kinds: "
                f"{', '.join(sorted(KINDS))}."
            )
        made = KINDS[note["kind"]](
            **plain_arguments(files.tensors), **note["settings"], softcap=note["softcap"], row_norm=note["row_norm"],
            site=note["site"], input_site=note["input_site"], model_hash=note["model_hash"], info=note["info"],
        )  # fmt: skip
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, IndexError) as error:
        if isinstance(error, DictionaryError):
            raise
        raise DictionaryError(f"{files.weights} is incomplete or has unknown fields: {error}") from error
    if made.hash != note["hash"]:
        raise DictionaryError(
            f"{files.weights} hashes to {made.hash}, its header says {note['hash']!r:.40}: it was changed after it was "
            "written."
        )
    made.info |= {"source": files.weights.name, "format": "clipattr safetensors"}
    return made
