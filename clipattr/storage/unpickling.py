"""Unpickling: read torch and pickle files as tensors and plain data, without executing anything in them.

Owns the names that a file may use: tensor rebuilders, dtypes, arrays, NumPy scalars, plain containers. An unknown class
becomes a `Bag` that holds the stored attributes; any other call is refused. Ignores what the names mean. Start at
`read_torch`.
"""

from __future__ import annotations

import contextlib
import io
import pickle
import warnings
import zipfile
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clipattr.errors import DataError

# Largest ratio of unpacked to packed size. Float weights hardly compress; a higher ratio indicates a zip bomb.
MOST_UNFOLDED = 32


class Bag:
    """Replaces an unknown class: holds the stored attributes and has no behaviour.

    A bag is built without arguments. A file that *calls* an unknown name is refused with an error that gives the name.
    """

    stands_for = ""

    def __new__(cls, *_args: Any, **_kwargs: Any) -> Bag:
        return super().__new__(cls)

    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        raise DataError(
            f"The file asks to call {self.stands_for!r}, which is neither a tensor nor plain data: refused, nothing "
            "was run. Load it where it was made and save its state dict as safetensors."
        )

    def __setstate__(self, state: Any) -> None:
        parts = state if isinstance(state, tuple) else (state,)
        for part in parts:
            if isinstance(part, dict):
                self.__dict__.update({str(name): value for name, value in part.items()})


def _tensor_from_bytes(data: bytes) -> Any:
    """Read a storage inside a plain pickle; it is a torch file itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def _fresh(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap an allowed function, so that a file cannot set attributes of the function itself."""

    def call(*args: Any) -> Any:
        return function(*args)

    return call


def _rebuilt_object(cls: type, base: type, state: Any) -> Any:
    """`copyreg._reconstructor`, for bags only."""
    if not (isinstance(cls, type) and issubclass(cls, Bag)):
        raise DataError(f"The file rebuilds {cls!r} by hand: refused, nothing was run.")
    return cls.__new__(cls)


def _encoded(text: str, encoding: str = "latin1") -> bytes:
    if encoding not in ("latin1", "ascii", "utf-8"):
        raise DataError(f"The file asks for the codec {encoding!r}: refused, nothing was run.")
    return text.encode(encoding)


def _allowed(module: str, name: str) -> Any:
    """The object for a name in a file: tensor rebuilders, dtypes, arrays, plain containers; None for any other name."""
    if module == "torch" and isinstance(found := getattr(torch, name, None), torch.dtype):
        return found
    full = f"{module}.{name}".replace("numpy._core.", "numpy.core.")
    if full == "collections.OrderedDict":
        return OrderedDict
    if full in ("builtins.set", "builtins.frozenset", "__builtin__.set", "__builtin__.frozenset"):
        return _fresh(lambda values=(): set(values))
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
        "collections.defaultdict": lambda factory=None: defaultdict(),
        "numpy.dtype": lambda code, *_: np.dtype(_plain_code(code)),
    }
    if full in functions:
        return _fresh(functions[full])
    return None


def _plain_code(code: Any) -> str:
    if not isinstance(code, str) or code.lstrip("<>|=")[:1] not in "fiub":
        raise DataError(f"The file holds an array of type {code!r}; only numbers are read.")
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
    """Read a torch or pickle file without executing anything in it.

    Args:
        data: the file's bytes. name: name of the file for errors.

    Raises:
        DataError: the file is of another type, truncated, a TorchScript archive, or calls an unknown name (which the
            error gives).
    """
    if zipfile.is_zipfile(io.BytesIO(data)):
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                entries = archive.infolist()
        except Exception as error:  # zipfile raises several kinds for a damaged directory
            raise DataError(f"{name} is a damaged archive: {error}") from error
        # torch writes its archives uncompressed, so a large ratio means a decompression bomb.
        if sum(entry.file_size for entry in entries) > MOST_UNFOLDED * len(data) + 2**20:
            raise DataError(
                f"{name} would unpack to far more than its own size, as a decompression bomb does: refused."
            )
        if any(entry.filename.endswith("constants.pkl") for entry in entries):
            raise DataError(
                f"{name} is a TorchScript archive, which is a program: refused. Save its state dict where it was made."
            )
    # If torch's own restricted reader fails, the reader of this module decides.
    with contextlib.suppress(Exception), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    try:
        if data[:2] == b"PK" or b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19." in data[:64]:
            return torch.load(
                io.BytesIO(data), map_location="cpu", weights_only=False, pickle_module=_PickleModule
            )
        return RestrictedUnpickler(io.BytesIO(data)).load()
    except DataError as error:
        raise DataError(f"{name}: {error}") from error
    except Exception as error:
        raise DataError(f"{name} is not a readable torch or pickle file, or is cut short: {error}") from error


def as_plain(value: Any) -> Any:
    """The value with bags replaced by dicts and arrays by tensors, at any depth."""
    if isinstance(value, Bag):
        return {name: as_plain(part) for name, part in vars(value).items()}
    if isinstance(value, dict):
        return {str(name): as_plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
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
