"""Arrays: checked reading of a study's .npy and .safetensors files, which may be untrusted or damaged.

Owns the checks: plain numbers only, the expected number of rows, no pickles. Ignores what the numbers mean. Start at
`load_array`.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from tokenize import TokenError

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from clipattr.display.wording import few
from clipattr.errors import ClipattrError, StudyError


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Convert any error inside the block to a StudyError that names the file."""
    try:
        yield
    except ClipattrError:
        raise
    except (
        OSError, EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, RuntimeError,
        MemoryError, SafetensorError, SyntaxError, TokenError,
    ) as error:  # fmt: skip
        raise StudyError(
            f"{str(path)!r} is damaged, or no such part of a study ({type(error).__name__}: {str(error)[:300]}). "
            "Build the study again, or take an undamaged copy."
        ) from error


def load_array(path: Path, rows: int | None) -> np.ndarray:
    """Memory-map a .npy file; StudyError unless it holds `rows` rows of numbers (None: any number of rows)."""
    with reading(path):
        array = np.load(path, mmap_mode="c", allow_pickle=False)
        if array.dtype.kind not in "biuf" or array.ndim < 1 or rows not in (None, len(array)):
            raise ValueError(f"{rows} rows of numbers were promised; it holds {array.dtype} {array.shape}")
    return array


def within(values: Tensor, least: int, below: int, rows: int | None = None) -> None:
    """ValueError unless all indices lie in [least, below) and there are `rows` rows."""
    if rows is not None and len(values) != rows:
        raise ValueError(f"{rows} rows were promised; it has {len(values)}")
    if values.numel() and not least <= int(values.min()) <= int(values.max()) < below:
        raise ValueError(
            f"indices from {int(values.min())} to {int(values.max())}; {least} to {below - 1} are possible"
        )


def load_tensors(path: Path, *names: str) -> dict[str, Tensor]:
    """Read a .safetensors file; StudyError unless it has these tensors."""
    with reading(path):
        tensors = load_file(path)
        missing = [name for name in names if name not in tensors]
        if missing:
            raise ValueError(f"it lacks {', '.join(missing)} and has {few(sorted(tensors))}")
    return tensors
