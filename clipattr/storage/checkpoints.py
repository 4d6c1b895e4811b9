"""Checkpoints: the tensors of weights files by name, without the wrappers that training code adds.

Owns single files (safetensors, torch, pickle), sharded safetensors, the search for the level of a checkpoint that holds
the state, pickled modules, and prefixes that wrappers add to names. Nothing in a file is executed. Ignores what the
names mean. Start at `read_state`.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clipattr.display.wording import few
from clipattr.errors import DataError
from clipattr.storage.documents import read_json
from clipattr.storage.files import read_tensors, stand_in
from clipattr.storage.unpickling import as_plain, read_torch

# Keys under which trainers store the state; the first that holds tensors is used.
STATES = (
    "state_dict", "model_state_dict", "model_state", "state", "model", "module", "net", "network", "clip", "weights",
    "params", "generator", "student",
)  # fmt: skip
AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "ema", "ema_model", "teacher")
# Prefixes of every name, added by DataParallel, torch.compile, Lightning, FSDP and averaged models.
PREFIXES = ("module.", "_orig_mod.", "_forward_module.", "model.", "net.", "network.", "clip.", "clip_model.", "ema.",
            "ema_model.", "averaged_model.", "student.", "teacher.", "sae.", "ae.", "autoencoder.")  # fmt: skip
# Parts that wrappers insert anywhere in a name.
INNER = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
COUNTERS = frozenset({"n_averaged", "num_updates", "step", "steps", "decay", "initted", "_extra_state"})
MOST_SHARDS = 10_000


@dataclass
class State:
    """A checkpoint's tensors by name.

    Attributes:
        about: its other content (epoch, arguments) as plain data. notes: choices made while reading.
        wrapped: whether the file held anything besides the plain tensors.
    """

    tensors: dict[str, Tensor]
    about: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    wrapped: bool = False


def read_state(file: Path) -> State:
    """Read the tensors of a weights file, or of the shards that an index (`*.index.json`) names.

    Raises:
        DataError: the file or a shard is missing, damaged, a program, or without tensors.
    """
    if file.name.lower().endswith(".index.json"):
        return State(read_shards(file), wrapped=True)
    content = read_content(file)
    return state_of(content, str(file))


def read_content(file: Path) -> Any:
    """The whole content of a weights file, as tensors and plain data.

    Raises:
        DataError: see `read_state`.
    """
    if not file.is_file():
        raise DataError(f"There is no file {str(file)!r}.")
    with contextlib.suppress(OSError), file.open("rb") as opened:
        if (instead := stand_in(opened.read(256))) is not None:
            raise DataError(f"{file} is {instead}.")
    if file.suffix.lower() == ".safetensors":
        from safetensors.torch import load_file

        try:
            return load_file(file)
        except Exception as error:  # safetensors raises errors of its own classes
            raise DataError(f"{file} is damaged or cut short: {error}") from error
    content: Any = None
    # Tensors of a torch archive are memory-mapped; everything else goes through the restricted reader.
    with contextlib.suppress(Exception), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    if content is None:
        try:
            content = read_torch(file.read_bytes(), str(file))
        except OSError as error:
            raise DataError(f"{file} cannot be read: {error.strerror or error}") from error
    try:
        return as_plain(content)
    except (RecursionError, ValueError, TypeError) as error:
        raise DataError(f"{file} holds no plain tensors: {error}") from error


def read_shards(index: Path) -> dict[str, Tensor]:
    """Read the tensors of the shards in the folder of an index.

    Raises:
        DataError: the index names no shards, or a shard or tensor is missing.
    """

    try:
        table = read_json(index)["weight_map"]
        shards = {str(name): str(shard) for name, shard in table.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{index} is not an index of shards, an object with weight_map: {error!r}."
        ) from error
    wanted = sorted(set(shards.values()))
    if not wanted or len(wanted) > MOST_SHARDS or any(Path(name).name != name for name in wanted):
        raise DataError(
            f"{index} must name 1 to {MOST_SHARDS:,} shards in its own folder; it names {len(wanted):,}: "
            f"{few(wanted, 3)}."
        )
    missing = [name for name in wanted if not (index.parent / name).is_file()]
    if missing:
        raise DataError(
            f"{len(missing)} of the {len(wanted)} shards that {index} names are missing: {few(missing, 3)}. Copy them "
            "beside it."
        )
    tensors: dict[str, Tensor] = {}
    for shard in wanted:
        if not shard.endswith(".safetensors"):
            tensors |= state_of(read_content(index.parent / shard), shard).tensors
            continue
        try:
            tensors |= read_tensors(index.parent / shard)[0]
        except Exception as error:  # safetensors raises errors of its own classes
            raise DataError(f"The shard {index.parent / shard} is damaged or cut short: {error}") from error
    lost = sorted(set(shards) - set(tensors))
    if lost:
        raise DataError(f"{len(lost)} tensors that {index} names are in no shard, first {lost[0]!r}.")
    return tensors


def state_of(content: Any, name: str) -> State:
    """Find the tensors in the content of a checkpoint, and its other data.

    Args:
        content: result of `read_content`. name: name of the file, for errors.

    Raises:
        DataError: it holds no tensors.

    >>> state_of({"epoch": 3, "state_dict": {"module._orig_mod.weight": torch.ones(2)}}, "w.pt").tensors
    {'weight': tensor([1., 1.])}
    """
    if not isinstance(content, Mapping):
        raise DataError(f"{name} holds a {type(content).__name__}, not tensors by name: save a state dict.")
    about: dict[str, Any] = {}
    notes: list[str] = []
    level: Mapping[str, Any] = content
    for _ in range(4):
        level = flattened(level)
        if any(isinstance(value, Tensor) and value.ndim for value in level.values()):
            break
        about |= {key: value for key, value in level.items() if not _holds_tensors(value)}
        inner = next((key for key in (*STATES, *AVERAGED) if _holds_tensors(level.get(key))), None)
        if inner is None:
            inner = next(
                (key for key, value in level.items() if _holds_tensors(value) and key != "optimizer"), None
            )
        if inner is None:
            raise DataError(
                f"{name} holds no named tensors; it has {few(sorted(map(str, level)))}. Save a state dict."
            )
        averaged = [key for key in AVERAGED if key != inner and _holds_tensors(level.get(key))]
        if averaged and inner not in AVERAGED:
            notes.append(
                f"{name} also holds averaged weights ({averaged[0]}), which were not taken: {inner} was. Save the "
                "averaged ones alone to use them."
            )
        level = level[inner]
    tensors = {str(key): value for key, value in level.items() if isinstance(value, Tensor)}
    if not tensors:
        raise DataError(f"{name} holds no named tensors. Save a state dict.")
    about |= {str(key): value for key, value in level.items() if not isinstance(value, Tensor)}
    plain = unwrapped(tensors)
    wrapped = level is not content or set(plain) != set(tensors)
    return State(plain, about, notes, wrapped)


def unwrapped(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors without the wrappers' prefixes, name parts and counters.

    A prefix is removed only if every name has it.

    >>> list(unwrapped({"module.a.weight": torch.ones(1), "module.b": torch.ones(1), "n_averaged": torch.ones(())}))
    ['a.weight', 'b']
    """
    cleaned = {
        ".".join(part for part in name.split(".") if part not in INNER): value
        for name, value in tensors.items()
    }
    if len(cleaned) < len(tensors):
        return dict(tensors)
    for _ in range(6):
        names = [name for name in cleaned if name not in COUNTERS]
        prefix = next(
            (one for one in PREFIXES if names and all(name.startswith(one) for name in names)), None
        )
        if prefix is None:
            break
        cleaned = {name.removeprefix(prefix): cleaned[name] for name in names}
    return cleaned


def flattened(level: Mapping[str, Any]) -> Mapping[str, Any]:
    """The parameters and buffers of a pickled module by name; any other mapping unchanged."""
    if "_modules" not in level or "_parameters" not in level:
        return level
    found: dict[str, Any] = {}

    def visit(module: Mapping[str, Any], before: str) -> None:
        passing = module.get("_non_persistent_buffers_set") or ()
        for part in ("_parameters", "_buffers"):
            for name, value in (module.get(part) or {}).items():
                if isinstance(value, Tensor) and name not in passing:
                    found[before + name] = value
        for name, inner in (module.get("_modules") or {}).items():
            if isinstance(inner, Mapping):
                visit(inner, f"{before}{name}.")

    visit(level, "")
    return found or level


def _holds_tensors(value: Any) -> bool:
    if not isinstance(value, Mapping):
        return False
    level = flattened(value)
    return any(isinstance(part, Tensor) for part in level.values()) or any(
        _holds_tensors(part) for key, part in level.items() if key in STATES
    )
