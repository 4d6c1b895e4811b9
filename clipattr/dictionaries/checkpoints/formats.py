"""Formats: how each foreign file format is recognised, and the shared pieces that readers are made of.

Owns the registry of formats, the strict call of a reader (nothing in a file may be ignored silently), and the checks
of shapes, numbers and missing fields. The readers are in `clip_files.py`, `prisma_files.py` and `library_files.py`.
Start at `Format`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

import torch
from torch import Tensor

from clipattr.dictionaries.checkpoints.reading import Files
from clipattr.dictionaries.checkpoints.usage import Recorded, suspicious
from clipattr.dictionaries.jumprelu import JumpRelu
from clipattr.dictionaries.relu import Relu
from clipattr.dictionaries.sae import Dictionary
from clipattr.dictionaries.topk import TopK
from clipattr.display.wording import few
from clipattr.errors import ClipattrError, DictionaryError

Given = dict[str, Any]


@dataclass(frozen=True)
class Format:
    """One file format.

    Attributes:
        name: what `load_sae(format=...)` calls it.
        matches: whether files look like it; sees tensor names and settings only.
        read: builds the dictionary, or raises an error that names what is missing.
        buffers: name patterns (as in `fnmatch`) of tensors that the format stores and its forward pass does not use.
    """

    name: str
    matches: Callable[[Files], bool]
    read: Callable[[Files, Given], Dictionary]
    buffers: tuple[str, ...] = ()


FORMATS: dict[str, Format] = {}


def register_format(
    name: str, matches: Callable[[Files], bool], *, buffers: Sequence[str] = ()
) -> Callable[..., Any]:
    """Decorator of a reader. Formats are tried in the order in which they are registered; fields as in `Format`."""

    def keep(read: Callable[[Files, Given], Dictionary]) -> Callable[[Files, Given], Dictionary]:
        FORMATS[name] = Format(name, matches, read, tuple(buffers))
        return read

    return keep


def read_strictly(known: Format, files: Files, given: Given, ignore: Sequence[str] = ()) -> Dictionary:
    """Call a format's reader, and raise unless it used every tensor, keyword and setting that may matter.

    Args:
        given: keywords of the caller, for what the file does not say.
        ignore: names (patterns) of tensors and settings that the caller knows not to belong to the forward pass.

    Raises:
        DictionaryError: naming the tensors, keywords or settings that were not used, or whatever the reader misses.
    """
    recorded = Recorded(given)
    tensors, config = Recorded(files.tensors), Recorded(files.config)
    content, header = Recorded(files.content), Recorded(files.header or {})
    watched = Files(
        files.weights, content, tensors, config, None if files.header is None else header, files.neighbours
    )
    try:
        made = known.read(watched, recorded)
    except ClipattrError:
        raise
    except (TypeError, ValueError, LookupError, AttributeError, RuntimeError, OverflowError) as error:
        raise DictionaryError(
            f"{files.weights} cannot be read as {known.name}: a tensor or setting has another type or value than this "
            f"format's ({type(error).__name__}: {error})."
        ) from error
    spared = (*known.buffers, *ignore)
    held = {id(value) for value in files.tensors.values()}
    outer = [
        name
        for name, value in files.content.items()
        if isinstance(value, Tensor) and name not in content.read and id(value) not in held
    ]
    unused = [
        name
        for name in sorted([*set(tensors) - tensors.read, *outer])
        if not any(fnmatch(name, pattern) for pattern in spared)
    ]
    if unused:
        raise DictionaryError(
            f"{files.weights}, read as {known.name}, holds tensors that this format does not use: {few(unused)}. "
            "The file is of another format or a variant of this one, and reading it without them would give wrong "
            "codes. Name the right format with format=..., or, if you know that the forward pass does not use them, "
            f"ignore={unused[:3]!r}."
        )
    if idle := sorted(set(recorded) - recorded.read):
        raise DictionaryError(
            f"{files.weights}, read as {known.name}, has no use for "
            f"{', '.join(f'{name}={given[name]!r:.40}' for name in idle)}. "
            "Leave it out, or name the format that it belongs to with format=..."
        )
    strange = [name for table in (config, content, header) for name in suspicious(table, tuple(ignore))]
    strange = [name for name in strange if name not in files.tensors]
    if strange:
        raise DictionaryError(
            f"{files.weights}, read as {known.name}, has settings that may change the forward pass and that this "
            f"reader does not know: {few(strange)}. If they do not change it, pass ignore={strange[:3]!r}."
        )
    return made


def missing(files: Files, field: str, keyword: str, why: str) -> DictionaryError:
    """The error for something that a file does not say."""
    return DictionaryError(
        f"{files.weights} does not state {field} ({why}). Pass it to load_sae: {keyword}. It is never guessed, since a "
        "wrong guess gives plausible codes that are wrong."
    )


def asked(
    files: Files, given: Given, field: str, keyword: str, why: str, *sources: tuple[dict[str, Any], str]
) -> Any:
    """A setting from the caller's keyword, else from the first source that has it; the error names both."""
    told = given.get(field)
    values = [table.get(name) for table, name in sources]
    if told is not None:
        return told
    for value in values:
        if value is not None:
            return value
    raise missing(files, field, keyword, why)


def asked_k(files: Files, given: Given, why: str, *sources: tuple[dict[str, Any], str]) -> int:
    """`asked` for the number of active latents."""
    return whole_number(asked(files, given, "k", "k=...", why, *sources), "k", files)


def tied_bias(files: Files, name: str, width: int) -> dict[str, Tensor]:
    """One tensor as bias of the decoder, and subtracted before the encoder."""
    bias = tensor(files, name, (width,))
    return {"bias": bias, "pre_bias": bias.clone()}


def tensor(files: Files, name: str, shape: Sequence[int | None] | None = None) -> Tensor:
    """A tensor of the file by name as float32.

    Args:
        shape: the shape that the format has; None for any, None inside for any size.

    Raises:
        DictionaryError: no such tensor, another shape, or values that are not real floating point numbers.
    """
    if name not in files.tensors:
        raise DictionaryError(f"{files.weights} has no tensor {name!r}; it has {few(sorted(files.tensors))}.")
    found = files.tensors[name]
    fits = shape is None or (
        found.ndim == len(shape)
        and all(want is None or want == got for want, got in zip(shape, found.shape, strict=True))
    )
    if not fits:
        told = ", ".join("?" if size is None else str(size) for size in shape or ())
        raise DictionaryError(
            f"Tensor {name!r} in {files.weights} has shape {tuple(found.shape)}; this format has ({told}). The file is "
            "of another format, or its matrices are swapped."
        )
    if not found.is_floating_point():
        raise DictionaryError(
            f"Tensor {name!r} in {files.weights} holds {found.dtype}, weights are real floating point numbers: "
            "the file is damaged, or quantised in a way that this format does not describe."
        )
    return found.float()


def scalar(files: Files, name: str, *, whole: bool = False) -> float:
    """A tensor of one number without dimensions: a real one, or, with `whole`, one of any real type."""
    found = files.tensors[name]
    fits = found.is_floating_point() or (
        whole and found.dtype not in (torch.bool, torch.complex64, torch.complex128)
    )
    if found.ndim or not fits:
        raise DictionaryError(
            f"Tensor {name!r} in {files.weights} should be one number; it holds {found.dtype} of shape "
            f"{tuple(found.shape)}."
        )
    return float(found)


def matrices(
    files: Files, given: Given, encoder: str, decoder: str, *, encoder_rows: bool, decoder_rows: bool
) -> tuple[Tensor, Tensor]:
    """Encoder and decoder as (n_latents, width), from a format's names and orientation.

    Args:
        encoder_rows, decoder_rows: whether the file keeps one latent per row.

    Raises:
        DictionaryError: shapes that do not fit; or, where width and number of latents are equal so that shapes decide
            nothing, no `orientation` keyword.
    """
    first, second = tensor(files, encoder, (None, None)), tensor(files, decoder, (None, None))
    first = first if encoder_rows else first.T
    second = second if decoder_rows else second.T
    if first.shape[0] == first.shape[1]:
        orientation = given.get("orientation")
        if orientation is None:
            why = f"width and number of latents are both {first.shape[0]}, so shapes cannot tell"
            raise missing(files, "orientation", "orientation='as_format' or 'transposed'", why)
    else:
        orientation = given.get("orientation") if "orientation" in given else "as_format"
    if orientation not in ("as_format", "transposed"):
        raise DictionaryError(f"orientation is 'as_format' or 'transposed'; got {orientation!r}.")
    if orientation == "transposed":
        first, second = first.T, second.T
    if first.shape != second.shape:
        raise DictionaryError(
            f"In {files.weights} the encoder {encoder!r} is for {first.shape[0]} latents of width {first.shape[1]}, "
            f"the decoder {decoder!r} for {second.shape[0]} of {second.shape[1]}: one of them is transposed."
        )
    return first.contiguous(), second.contiguous()


def check_sizes(
    files: Files,
    table: dict[str, Any],
    size: int,
    width: int,
    *,
    sizes: Sequence[str] = (),
    widths: Sequence[str] = (),
    factors: Sequence[str] = (),
) -> None:
    """Compare the sizes that a config states with those of the tensors; 0 and None state nothing.

    Args:
        size, width: number of latents and width of the tensors.
        sizes, widths, factors: names of the fields that state n_latents, width, and n_latents / width.

    Raises:
        DictionaryError: naming the first field that disagrees.
    """
    stated: list[tuple[str, float]] = [(name, size / width) for name in factors]
    stated += [(name, size) for name in sizes]
    stated += [(name, width) for name in widths]
    for name, held in stated:
        value = table.get(name)
        if value in (None, 0):
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value != held:
            raise DictionaryError(
                f"{files.weights} says {name} = {value!r:.40}, its tensors have {size} latents of width {width}: "
                "weights and settings do not belong together, or one was edited."
            )


def scaled(core: dict[str, Any], scale: float, mean: Tensor | None = None) -> dict[str, Any]:
    """Core tensors made for x' = (x - mean) * scale, changed to take x itself and to give codes in the units of x.

    Thresholds stay as they are, since pre-activations keep their values.
    """
    out = dict(core)
    for name in ("bias", "pre_bias"):
        if name in core:
            out[name] = core[name] / scale + (0 if mean is None else mean)
        elif mean is not None:
            out[name] = mean
    out["encoder"] = core["encoder"] * scale
    out["gain"] = core.get("gain", core["encoder"].new_ones(len(core["encoder"]))) / scale
    return out


def signed_number(value: Any, field: str, files: Files) -> float:
    """A number from a config; the error names the field."""
    try:
        if isinstance(value, bool):
            raise TypeError
        return float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise DictionaryError(f"{field} in {files.weights} should be a number; got {value!r:.80}.") from error


def positive_number(value: Any, field: str, files: Files) -> float:
    """A finite number above 0 from a config; the error names the field."""
    number = signed_number(value, field, files)
    if not 0 < number < float("inf"):
        raise DictionaryError(f"{field} in {files.weights} should be a number above 0; got {value!r:.80}.")
    return number


def whole_number(value: Any, field: str, files: Files) -> int:
    """A whole number of at least 1 from a config; the error names the field."""
    number = signed_number(value, field, files)
    if not 1 <= number < 2**53 or number != int(number):
        raise DictionaryError(
            f"{field} in {files.weights} should be a whole number of at least 1; got {value!r:.80}."
        )
    return int(number)


def flag(table: dict[str, Any], name: str, files: Files, default: bool | None = None) -> bool | None:
    """A setting that is True or False; `default` where it is absent. Texts like "False" are refused."""
    value = table.get(name)
    if value is None:
        return default
    if isinstance(value, bool):
        return value
    raise DictionaryError(f"{name} in {files.weights} should be true or false; got {value!r:.80}.")


def table_of(table: dict[str, Any], name: str, files: Files) -> dict[str, Any]:
    """A nested table of settings; empty where it is absent."""
    value = table.get(name)
    if value is None:
        return Recorded({})
    if isinstance(value, dict):
        return value
    raise DictionaryError(f"{name} in {files.weights} should be a table of settings; got {value!r:.80}.")


def only(table: dict[str, Any], allowed: Sequence[str], name: str, files: Files) -> None:
    """Raise unless a nested table has no keys but these."""
    if strange := sorted(set(table) - set(allowed)):
        raise DictionaryError(
            f"{name} in {files.weights} holds {', '.join(strange)}, which this reader does not know; it knows "
            f"{', '.join(allowed)}."
        )


def plain_kind(
    name: Any, files: Files, given: Given, core: dict[str, Any], *sources: tuple[dict[str, Any], str]
) -> Dictionary:
    """The dictionary for a config's activation name: ReLU, TopK or JumpReLU in their usual spellings.

    Args:
        sources: where k is found, for TopK.
    """
    spelt = str(name).lower().replace("_", "").replace("-", "")
    if spelt in ("relu", "standard", "vanilla"):
        return Relu(**core)
    if spelt == "tanhrelu":
        return Relu(softcap=1.0, **core)
    if spelt == "topk":
        return TopK(k=asked_k(files, given, "the number of active latents per row", *sources), **core)
    if spelt == "jumprelu":
        return JumpRelu(threshold=tensor(files, "threshold", (len(core["decoder"]),)), **core)
    raise DictionaryError(f"{files.weights} uses the activation {name!r:.80}, which no reader here knows.")
