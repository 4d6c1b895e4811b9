"""Shards: the files of an activation store, each written atomically.

Owns reading the manifest, the records of shards with their checksums, and arrays on disk. Knows nothing of models.
Start at `read_manifest`.
"""

from __future__ import annotations

import json
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor

from clipattr.errors import DataError
from clipattr.storage.documents import read_json, schema_complaint
from clipattr.storage.files import json_digest, save_tensors, write_text, written

SCHEMA = 1
MANIFEST = "manifest.json"
# Least bytes of one copy from a shuffled store: starting a shorter copy costs more than the copy itself.
BLOCK_BYTES = 2**19
DTYPES: dict[str, Any] = {"float16": np.dtype("<f2"), "float32": np.dtype("<f4")}


class DamagedShard(DataError):
    """A shard differs from its record; if the record is deleted, the shard counts as missing.

    Attributes:
        record: path of the record.
    """

    def __init__(self, file: Path, what: str, record: Path) -> None:
        super().__init__(f"Shard {file} is {what}: delete {record} and resume.")
        self.record = record


def as_tensor(array: np.ndarray) -> Tensor:
    """A tensor over a read-only memory map. torch warns that it is not writable; nothing here writes to it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(np.asarray(array))


def read_manifest(path: Path) -> dict[str, Any]:
    file = path / MANIFEST
    if not file.is_file():
        raise DataError(f"{path} holds no activation store: {MANIFEST} is missing.")
    try:
        manifest = read_json(file)
    except (OSError, ValueError) as error:
        raise DataError(f"{file} is damaged: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != "clipattr-store":
        raise DataError(f"{file} does not describe an activation store.")
    try:
        again = f"clipattr encode {manifest.get('model', 'MODEL')} IMAGES --out {path}"
        if told := schema_complaint(path, manifest["schema"], SCHEMA, again):
            raise DataError(told)
        sizes = [manifest["pictures"], manifest["batch"], manifest["shard_pictures"]]
        for name, layout in manifest["sites"].items():
            sizes += [layout["tokens"], layout["width"]]
            if not name or set(name) & set("/\\\0") or name.startswith(".."):
                raise ValueError(f"{name!r:.60} is no site")
        if "evaluator" in manifest and not isinstance(manifest["evaluator"]["hash"], str):
            raise ValueError("an evaluator without a hash")
        if not all(isinstance(size, int) and 0 < size < 10**12 for size in sizes):
            raise ValueError("sizes that no store has")
        if manifest["dtype"] not in DTYPES:
            raise ValueError(f"dtype {manifest['dtype']!r:.60}")
    except DataError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise DataError(f"{file} is damaged: {type(error).__name__}: {error}") from error
    return manifest


def read_record(file: Path) -> dict[str, Any] | None:
    """The record of a shard; None if it is missing or damaged, so that the shard counts as missing."""
    try:
        record = read_json(file)
        told = record.pop("sum", None)
        if told is not None and told != json_digest(record, "sha256"):
            return None
        return record if isinstance(record["files"], dict) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def write_record(file: Path, record: dict[str, Any]) -> None:
    """Write the record of a shard, with a checksum over the record."""
    write_document(file, {**record, "sum": json_digest(record, "sha256")})


def differences(found: dict[str, Any], wanted: dict[str, Any]) -> str:
    """The differences of two manifests in words; empty if they are equal."""
    told = []
    for name in {**wanted, **found}:
        there, asked = found.get(name), wanted.get(name)
        if isinstance(there, dict) and isinstance(asked, dict):
            told.append(differences(there, asked))
        elif there != asked:
            told.append(f"{name}: {there} there, {asked} asked")
    return "; ".join(filter(None, told))


def write_document(file: Path, content: dict[str, Any], **options: Any) -> None:
    """Write a JSON file with sorted keys atomically; DataError if that fails."""
    try:
        write_text(file, json.dumps(content, sort_keys=True, **options) + "\n")
    except OSError as error:
        raise DataError(f"{file} could not be written ({error}).") from error


def write_array(file: Path, array: np.ndarray) -> None:
    """Write raw values to a file atomically.

    Raises:
        DataError: the disk is full, or the folder is not writable.
    """
    try:
        with written(file) as partial:
            array.tofile(partial)
    except OSError as error:
        advice = f"delete {file}, which is a folder," if file.is_dir() else "free space"
        raise DataError(f"Shard {file} could not be written ({error}); {advice} and resume.") from error


_TEMPORARY: list[Any] = []


def temporary_folder() -> Path:
    """A folder that is removed when the process ends."""
    _TEMPORARY.append(tempfile.TemporaryDirectory(prefix="clipattr-store-"))
    return Path(_TEMPORARY[-1].name)


def narrowed(values: np.ndarray, dtype: str, where: str) -> np.ndarray:
    """Convert float32 rows (n, width) to the stored dtype.

    Raises:
        DataError: values are NaN or infinite; the error names `where` and the first such row.
    """
    with np.errstate(over="ignore"):
        array = values.astype(DTYPES[dtype])
    bad = np.flatnonzero(~np.isfinite(array).all(1))
    if len(bad):
        too_large = bool(np.isfinite(values[bad[0]]).all())
        advice = "use dtype='float32'" if too_large else "check the model's weights and dtype"
        raise DataError(f"{where}, row {bad[0]}: {advice}.")
    return array


def write_pictures(file: Path, tensors: dict[str, Tensor]) -> None:
    """Write a shard's embeddings, fingerprints and thumbnails; DataError if the disk is full."""
    try:
        save_tensors(file, tensors)
    except (OSError, SafetensorError) as error:
        advice = f"delete {file}, which is a folder," if file.is_dir() else "free space"
        raise DataError(f"Shard {file} could not be written ({error}); {advice} and resume.") from error
