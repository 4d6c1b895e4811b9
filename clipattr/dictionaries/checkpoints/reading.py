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
from clipattr.storage.checkpoints import unwrapped
from clipattr.storage.documents import parse_json, read_json
from clipattr.storage.paths import user_path
from clipattr.storage.unpickling import MOST_UNFOLDED, as_plain

WEIGHT_NAMES = (
    "sae_weights.safetensors", "sae.safetensors", "ae.pt", "sae.pt", "weights.pt", "sparse_autoencoder_final.pt",
)  # fmt: skip
<<<<<<< HEAD
WEIGHT_SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".pkl", ".gz")
# Largest ratio of unpacked to packed size. Float weights hardly compress, so a higher ratio is an attack.
MOST_UNFOLDED = 32
CONFIG_NAMES = ("cfg.json", "config.json", "cfg.yaml", "config.yaml")


class Bag:
    """Stands in for a class that is not known here: keeps the stored attributes and does nothing.

    A bag is built without arguments; a file that *calls* an unknown name is refused, and the error gives that name.
    """

    stands_for = ""

    def __new__(cls, *_args: Any, **_kwargs: Any) -> Bag:
        return super().__new__(cls)

    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        raise DictionaryError(
            f"The file asks to call {self.stands_for!r}, which is neither a tensor nor plain data: refused, nothing "
            "was run. Load it where it was made and save its state dict as safetensors."
        )

    def __setstate__(self, state: Any) -> None:
        parts = state if isinstance(state, tuple) else (state,)
        for part in parts:
            if isinstance(part, dict):
                self.__dict__.update({str(name): value for name, value in part.items()})


def _tensor_from_bytes(data: bytes) -> Any:
    """A storage inside a plain pickle, which is a torch file itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def _fresh(function: Callable[..., Any]) -> Callable[..., Any]:
    """A wrapper of an allowed function, so that a file cannot set attributes of the function itself."""

    def call(*args: Any) -> Any:
        return function(*args)

    return call


def _rebuilt_object(cls: type, base: type, state: Any) -> Any:
    """`copyreg._reconstructor`, for bags only."""
    if not (isinstance(cls, type) and issubclass(cls, Bag)):
        raise DictionaryError(f"The file rebuilds {cls!r} by hand: refused, nothing was run.")
    return cls.__new__(cls)


def _encoded(text: str, encoding: str = "latin1") -> bytes:
    if encoding not in ("latin1", "ascii", "utf-8"):
        raise DictionaryError(f"The file asks for the codec {encoding!r}: refused, nothing was run.")
    return text.encode(encoding)


def _allowed(module: str, name: str) -> Any:
    """What a name in a file stands for: tensor rebuilders, dtypes, arrays, plain containers; None for all others."""
    if module == "torch" and isinstance(found := getattr(torch, name, None), torch.dtype):
        return found
    full = f"{module}.{name}".replace("numpy._core.", "numpy.core.")
    if full == "collections.OrderedDict":
        return OrderedDict
    if full in (
        "torch._utils._rebuild_tensor",
        "torch._utils._rebuild_tensor_v2",
        "torch._utils._rebuild_parameter",
    ):
        return _fresh(getattr(torch._utils, name))
    functions: dict[str, Callable[..., Any]] = {
        "torch.storage._load_from_bytes": _tensor_from_bytes,
        "torch.device": lambda *parts: str(parts[0]),
        "torch.Size": lambda sizes=(): tuple(sizes),
        "copyreg._reconstructor": _rebuilt_object,
        "_codecs.encode": _encoded,
        "pathlib.Path": lambda *parts: "/".join(map(str, parts)),
        "pathlib.PosixPath": lambda *parts: "/".join(map(str, parts)),
        "pathlib.WindowsPath": lambda *parts: "/".join(map(str, parts)),
        "numpy.core.multiarray._reconstruct": lambda cls, shape, kind: np.ndarray(0, np.int8),
        "numpy.core.multiarray.scalar": lambda dtype, data: np.frombuffer(data, dtype)[0],
        "numpy.dtype": lambda code, *_: np.dtype(_plain_code(code)),
    }
    if full in functions:
        return _fresh(functions[full])
    return None


def _plain_code(code: Any) -> str:
    if not isinstance(code, str) or code.lstrip("<>|=")[:1] not in "fiub":
        raise DictionaryError(f"The file holds an array of type {code!r}; only numbers are read.")
    return code


class RestrictedUnpickler(pickle.Unpickler):
    """Builds tensors, arrays and plain containers. Unknown classes become bags, unknown calls are refused."""

    def find_class(self, module: str, name: str) -> Any:
        found = _allowed(module, name)
        if found is not None:
            return found
        return type("Bag", (Bag,), {"stands_for": f"{module}.{name}"})


class _PickleModule:
    """The restricted pickle module that `torch.load` is given."""

    Unpickler = RestrictedUnpickler

    @staticmethod
    def load(file: Any, **options: Any) -> Any:
        return RestrictedUnpickler(file, **options).load()


def read_torch(data: bytes, name: str) -> Any:
    """The content of a torch or pickle file; nothing in it is executed.

    Args:
        data: the file's bytes. name: what errors call it.

    Raises:
        DictionaryError: not such a file, truncated, a TorchScript archive, or one that calls unknown names (the error
            lists them).
    """
    if zipfile.is_zipfile(io.BytesIO(data)):
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                entries = archive.infolist()
        except Exception as error:  # zipfile raises several kinds for a damaged directory
            raise DictionaryError(f"{name} is a damaged archive: {error}") from error
        # torch writes its archives uncompressed, so a large ratio means a decompression bomb.
        if sum(entry.file_size for entry in entries) > MOST_UNFOLDED * len(data) + 2**20:
            raise DictionaryError(f"{name} unfolds to far more than its own size: refused, not unpacked.")
        if any(entry.filename.endswith("constants.pkl") for entry in entries):
            raise DictionaryError(f"{name} is a TorchScript archive, that is a program: refused.")
    # Where torch's own restricted reader fails or warns, the one here decides.
    with contextlib.suppress(Exception), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    try:
        if data[:2] == b"PK" or b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19." in data[:64]:
            return torch.load(
                io.BytesIO(data), map_location="cpu", weights_only=False, pickle_module=_PickleModule
            )
        return RestrictedUnpickler(io.BytesIO(data)).load()
    except DictionaryError as error:
        raise DictionaryError(f"{name}: {error}") from error
    except Exception as error:
        raise DictionaryError(
            f"{name} is not a readable torch or pickle file, or is cut short: {error}"
        ) from error


def as_plain(value: Any) -> Any:
    """A value with bags replaced by dicts and arrays by tensors, at any depth."""
    if isinstance(value, Bag):
        return {name: as_plain(part) for name, part in vars(value).items()}
    if isinstance(value, dict):
        return {str(name): as_plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_plain(part) for part in value]
    if isinstance(value, Tensor):
        plain = value.layout == torch.strided and value.device.type == "cpu"
        if not plain or value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise ValueError(
                f"a tensor of shape {tuple(value.shape)} that the file does not hold the numbers of"
            )
        return value
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy())
    return value.item() if isinstance(value, np.generic) else value
=======
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
>>>>>>> files


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
    places = [user_path(config)] if config is not None else [f / name for f in folders for name in CONFIG_NAMES]
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
    found = sorted(file for file in path.iterdir() if file.suffix.lower() in WEIGHT_SUFFIXES and file.name[0] != ".")
    if len(found) != 1:
        names = ", ".join(file.name for file in found[:8]) or "none"
        raise DictionaryError(f"{path} holds {len(found)} files that may be weights ({names}); name one.")
    return found[0]


def _content(file: Path) -> tuple[Any, dict[str, Any] | None]:
    try:
        data = file.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = _unzipped(file, data)
    except (OSError, EOFError, zlib.error) as error:
        raise DictionaryError(f"{file} cannot be read: {error}") from error
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


<<<<<<< HEAD
def _note(data: bytes) -> dict[str, Any] | None:
    """What `export_sae` noted in the header of a safetensors file."""
    length = int.from_bytes(data[:8], "little")
    try:
        note = parse_json(parse_json(data[8 : 8 + length])["__metadata__"]["clipattr"])
    except (ValueError, KeyError, TypeError):
        return None
    return {"clipattr": note} if isinstance(note, dict) else None
=======
def _arrays(file: Path, data: bytes) -> dict[str, Any]:
    """The arrays of a NumPy archive, numbers only."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > MOST_UNFOLDED * len(data) + 2**20:
                raise DictionaryError(f"{file} unfolds to far more than its own size: refused, not unpacked.")
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise DictionaryError(f"{file} is no NumPy archive of numbers: {error}") from error
>>>>>>> files


def _unzipped(file: Path, data: bytes) -> bytes:
    most = MOST_UNFOLDED * len(data) + 2**20
    with gzip.GzipFile(fileobj=io.BytesIO(data)) as unzipping:
        unfolded = unzipping.read(most + 1)
    if len(unfolded) > most:
        raise DictionaryError(f"{file} unfolds to far more than its own size: refused, not unpacked.")
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
