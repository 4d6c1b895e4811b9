"""Attributions on disk: one safetensors file each, with a digest over its numbers.

Owns the layout of the file. Ignores what the numbers mean. Start at `write_result`.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from clipattr.dictionaries.codes import SparseCodes
from clipattr.display.wording import few
from clipattr.errors import DataError
from clipattr.storage.documents import parse_json, schema_complaint
from clipattr.storage.files import read_tensors, save_tensors, tensors_digest

if TYPE_CHECKING:
    from clipattr.attribution.result import Attribution

SCHEMA = 1
_PLAIN = (
    "unit", "names", "method", "site", "adds_up", "pictures", "tokens", "grid", "model_hash", "dictionary_hash",
    "units",
    "route", "preprocess",
)  # fmt: skip
_LATER = {
    "units": [],
    "route": "",
    "preprocess": "",
}  # fields that were added to schema 1; the first files lack them
TENSORS = ("values", "y", "error", "bias", "gap", "y_baseline", "flagged", "y_bias")


def write_result(attribution: "Attribution", path: Path) -> None:
    """Write a result atomically.

    Raises:
        DataError: a full disk or a folder that cannot be written.
    """
    from safetensors import SafetensorError

    meta = {name: getattr(attribution, name) for name in _PLAIN}
    meta |= {"schema": SCHEMA, "n_latents": attribution.codes.n_latents}
    meta["labels"] = {str(latent): label for latent, label in attribution.labels.items()}
    tensors = {name: getattr(attribution, name).contiguous().clone() for name in TENSORS}
    tensors |= {
        "indices": attribution.codes.indices.contiguous(),
        "amounts": attribution.codes.values.contiguous().clone(),
    }
    meta["digest"] = digest_of(tensors)
    try:
        save_tensors(path, tensors, {"clipattr_attribution": json.dumps(meta)})
    except (OSError, SafetensorError) as error:
        raise DataError(
            f"{path} could not be written ({error}). Choose another path, or free space."
        ) from error


def read_result(path: Path) -> dict[str, Any]:
    """The fields of a result that `write_result` wrote.

    Raises:
        DataError: not such a file, or of a newer schema.
    """
    from safetensors import SafetensorError

    try:
        tensors, written = read_tensors(path)
        meta = parse_json(written.get("clipattr_attribution", "{}"))
    except (OSError, ValueError, SafetensorError) as error:
        raise DataError(f"cannot read an attribution from {path}: {error}.") from error
    if "schema" not in meta or not {*TENSORS, "indices", "amounts"} <= tensors.keys() | {"y_bias"}:
        raise DataError(f"{path} holds no attribution; it has the tensors {few(sorted(tensors))}.")
    again = "attribute(...) or stream(...) with the same arguments"
    if told := schema_complaint(path, meta["schema"], SCHEMA, again):
        raise DataError(told)
    try:
        if meta.get("digest", digest_of(tensors)) != digest_of(tensors):
            raise ValueError("its numbers are not those that were written")
        plain = {name: meta[name] for name in _PLAIN if name in meta or name not in _LATER}
        plain = {**_LATER, **plain}
        plain["grid"] = None if plain["grid"] is None else tuple(plain["grid"])
        codes = SparseCodes(tensors["indices"], tensors["amounts"], meta["n_latents"])
        labels = {int(latent): str(label) for latent, label in meta["labels"].items()}
        tensors.setdefault("y_bias", torch.full_like(tensors["y"], torch.nan))
        _check_shapes(plain, tensors)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise DataError(f"{path} is damaged: {type(error).__name__}: {str(error)[:200]}.") from error
    return {"codes": codes, "labels": labels, **plain, **{name: tensors[name] for name in TENSORS}}


def digest_of(tensors: dict[str, Tensor]) -> str:
    """32 hex digits over the numbers of some tensors, in the order of their names."""
    return tensors_digest(tensors, digits=32)


def _check_shapes(plain: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """ValueError or TypeError unless all fields agree in the numbers of pictures and targets."""
    pictures, targets, tokens = len(plain["pictures"]), len(plain["names"]), plain["tokens"]
    if not isinstance(tokens, int) or tokens < 1:
        raise ValueError(f"{tokens!r:.40} tokens per picture")
    if not all(isinstance(name, str) for name in (*plain["pictures"], *plain["names"], *plain["units"])):
        raise ValueError("names that are no texts")
    rows = tensors["indices"].shape
    if tensors["values"].shape != (*rows, targets) or rows[0] != pictures * tokens or len(rows) != 2:
        raise ValueError(
            f"values of shape {tuple(tensors['values'].shape)} for {pictures} pictures, {targets} targets"
        )
    for name in TENSORS[1:]:
        if tensors[name].shape != (pictures, targets):
            raise ValueError(
                f"{name} has shape {tuple(tensors[name].shape)} for {pictures} pictures, {targets} targets"
            )
