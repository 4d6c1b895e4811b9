"""Reading files of other projects: tensors, configs and headers, without executing anything in them.

Owns finding the files, safe unpickling, and the `Files` view of what was found. Does not interpret the names. Start at
`read_files`.
"""

from __future__ import annotations

import gzip
import io
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors_bytes
from torch import Tensor

from clipattr.errors import DataError, DictionaryError
from clipattr.storage import unpickling
from clipattr.storage.checkpoints import read_shards, unwrapped
from clipattr.storage.documents import parse_json, read_json
from clipattr.storage.files import stand_in
from clipattr.storage.paths import user_path
from clipattr.storage.unpickling import MOST_UNFOLDED, as_plain

WEIGHT_NAMES = (
    "sae_weights.safetensors", "sae.safetensors", "ae.pt", "sae.pt", "weights.pt", "sparse_autoencoder_final.pt",
)  # fmt: skip
WEIGHT_SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".pkl", ".gz", ".bin", ".npz")
CONFIG_NAMES = ("cfg.json", "config.json", "cfg.yaml", "config.yaml")


def read_torch(data: bytes, name: str) -> Any:
    """The content of a torch or pickle file; nothing in it is executed (`storage.unpickling`).

    Raises:
        DictionaryError: not such a file, truncated, a TorchScript archive, or one that calls unknown names.
    """
    try:
        return unpickling.read_torch(data, name)
    except DataError as error:
        raise DictionaryError(str(error)) from error


@dataclass
class Files:
    """What was found at a path.

    Attributes:
        weights: the file. content: what it holds, tensors and plain data.
        tensors: its tensors by name, from the level that holds the state dict.
        config: its settings, from inside or from a file beside it.
        header: the line of JSON that some files begin with, or the note in the header of our own safetensors files.
        neighbours: the other files of its folder, by name.
    """

    weights: Path
    content: dict[str, Any]
    tensors: dict[str, Tensor]
    config: dict[str, Any]
    header: dict[str, Any] | None = None
    neighbours: dict[str, Path] = field(default_factory=dict)

    @property
    def keys(self) -> set[str]:
        """Names of the tensors."""
        return set(self.tensors)


def read_files(path: str | Path, config: str | Path | None = None) -> Files:
    """Find and read the weights at a path, and their settings.

    Args:
        path: a file, or a folder with one file of weights.
        config: the file with the settings. Default: those inside the weights, else a file beside them.

    Raises:
        DictionaryError: nothing there, several candidates, or a file that cannot be read.
    """
    path = user_path(path)
    weights = _weights_file(path)
    folder = weights.parent
    content, header = _content(weights)
    settings: dict[str, Any] = {}
    # Some projects keep the steps of a run in a subfolder of the one with the config.
    folders = [folder, folder.parent] if folder.name == "checkpoints" else [folder]
    places = (
        [user_path(config)] if config is not None else [f / name for f in folders for name in CONFIG_NAMES]
    )
    for place in places:
        if place.is_file():
            settings = _config(place)
            break
        if config is not None:
            raise DictionaryError(f"There is no config file {place}.")
    try:
        content = as_plain(content)
    except (RecursionError, ValueError, TypeError) as error:
        raise DictionaryError(
            f"{weights} holds values nested in each other, or no plain ones: {error}"
        ) from error
    if not isinstance(content, dict):
        raise DictionaryError(f"{weights} holds a {type(content).__name__}, not a dictionary of tensors.")
    inside = [content[name] for name in ("cfg", "config") if isinstance(content.get(name), dict)]
    if inside and config is None:
        settings = {}  # a file with settings of its own does not take those of whatever lies beside it
    for table in reversed(inside):
        settings = {**table, **settings} if config is not None else {**settings, **table}
    inner = content
    for name in ("state_dict", "model_state_dict", "autoencoder", "state_dict", "model", "ae"):
        if isinstance(inner.get(name), dict):
            inner = inner[name]
    tensors = unwrapped({name: value for name, value in inner.items() if isinstance(value, Tensor)})
    neighbours = {file.name: file for file in folder.iterdir() if file.is_file()}
    return Files(weights, content, tensors, settings, header, neighbours)


def _weights_file(path: Path) -> Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise DictionaryError(f"There is no file or folder {path}.")
    for name in WEIGHT_NAMES:
        if (path / name).is_file():
            return path / name
    indices = [file for file in path.iterdir() if file.name.endswith(".index.json")]
    if len(indices) == 1:
        return indices[0]
    found = sorted(
        file for file in path.iterdir() if file.suffix.lower() in WEIGHT_SUFFIXES and file.name[0] != "."
    )
    if len(found) != 1:
        names = ", ".join(file.name for file in found[:8]) or "none"
        raise DictionaryError(f"{path} holds {len(found)} files that may be weights ({names}); name one.")
    return found[0]


def _content(file: Path) -> tuple[Any, dict[str, Any] | None]:
    if file.name.endswith(".index.json"):
        try:
            return read_shards(file), None
        except DataError as error:
            raise DictionaryError(str(error)) from error
    try:
        data = file.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = _unzipped(file, data)
    except (OSError, EOFError, zlib.error) as error:
        raise DictionaryError(f"{file} cannot be read: {error}") from error
    if (instead := stand_in(data)) is not None:
        raise DictionaryError(f"{file} is {instead}.")
    if file.suffix.lower() == ".npz":
        return _arrays(file, data), None
    if file.suffix.lower() == ".safetensors":
        try:
            return load_safetensors_bytes(data), _note(data)
        except SafetensorError as error:
            raise DictionaryError(f"{file} is damaged or cut short: {error}") from error
    if data[:1] == b"{":
        line, _, rest = data.partition(b"\n")
        try:
            header = parse_json(line)
        except ValueError as error:
            raise DictionaryError(f"{file} begins like a JSON header that cannot be read: {error}") from error
        return read_torch(rest, str(file)), header
    return read_torch(data, str(file)), None


def _note(data: bytes) -> dict[str, Any] | None:
    """What `export_sae` noted in the header of a safetensors file."""
    length = int.from_bytes(data[:8], "little")
    try:
        note = parse_json(parse_json(data[8 : 8 + length])["__metadata__"]["clipattr"])
    except (ValueError, KeyError, TypeError):
        return None
    return {"clipattr": note} if isinstance(note, dict) else None


def _arrays(file: Path, data: bytes) -> dict[str, Any]:
    """The arrays of a NumPy archive, numbers only."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > MOST_UNFOLDED * len(data) + 2**20:
                raise DictionaryError(
                    f"{file} would unpack to far more than its own size, as a decompression bomb does: refused."
                )
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise DictionaryError(f"{file} is not a NumPy archive of numbers: {error}") from error


def _unzipped(file: Path, data: bytes) -> bytes:
    most = MOST_UNFOLDED * len(data) + 2**20
    with gzip.GzipFile(fileobj=io.BytesIO(data)) as unzipping:
        unfolded = unzipping.read(most + 1)
    if len(unfolded) > most:
        raise DictionaryError(
            f"{file} would unpack to far more than its own size, as a decompression bomb does: refused."
        )
    return unfolded


def _config(file: Path) -> dict[str, Any]:
    try:
        if file.suffix == ".json":
            found = read_json(file)
        else:
            import yaml

            found = yaml.safe_load(file.read_text())
    except (OSError, ValueError) as error:
        raise DictionaryError(f"The config {file} cannot be read: {error}") from error
    except Exception as error:  # yaml has its own errors
        raise DictionaryError(f"The config {file} is not valid YAML: {error}") from error
    if not isinstance(found, dict):
        raise DictionaryError(f"The config {file} is not a table of settings.")
    return found
