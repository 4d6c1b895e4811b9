"""Formats: what every kind of foreign file is recognised by, and the shared pieces their readers are made of.

Owns the registry and the checks of shapes and missing fields. The readers themselves are in `clip_files.py` and
`library_files.py`. Start at `Format`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from clipattr.dictionaries.checkpoints.reading import Files
from clipattr.dictionaries.jumprelu import JumpRelu
from clipattr.dictionaries.relu import Relu
from clipattr.dictionaries.sae import Dictionary
from clipattr.dictionaries.topk import TopK
from clipattr.errors import DictionaryError

Given = dict[str, Any]


@dataclass(frozen=True)
class Format:
    """One file format. `matches` looks at keys and config only; `read` builds the dictionary or names what is
    missing."""

    name: str
    matches: Callable[[Files], bool]
    read: Callable[[Files, Given], Dictionary]


FORMATS: dict[str, Format] = {}


def register_format(name: str, matches: Callable[[Files], bool]) -> Callable[..., Any]:
    """Decorator of a reader; formats are tried in the order in which they register."""

    def keep(read: Callable[[Files, Given], Dictionary]) -> Callable[[Files, Given], Dictionary]:
        FORMATS[name] = Format(name, matches, read)
        return read

    return keep


def missing(files: Files, field: str, keyword: str, why: str) -> DictionaryError:
    """The error for something a file does not say."""
    return DictionaryError(
        f"{files.weights} does not say {field} ({why}). Pass it to load_sae: {keyword}. It is never guessed, since a "
        "wrong guess gives codes that look fine and mean nothing."
    )


def asked(
    files: Files, given: Given, field: str, keyword: str, why: str, *sources: tuple[dict[str, Any], str]
) -> Any:
    """A setting from the keyword, else from the first source that has it; an error names both."""
    if given.get(field) is not None:
        return given[field]
    for table, name in sources:
        if table.get(name) is not None:
            return table[name]
    raise missing(files, field, keyword, why)


def tensor(files: Files, name: str, shape: Sequence[int | None] | None = None) -> Tensor:
    """A float32 tensor of the file by name, with the given shape (None: any size)."""
    if name not in files.tensors:
        raise DictionaryError(f"{files.weights} has no tensor {name!r}; it has {sorted(files.tensors)}.")
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


def matrices(
    files: Files, given: Given, encoder: str, decoder: str, *, encoder_rows: bool, decoder_rows: bool
) -> tuple[Tensor, Tensor]:
    """Encoder and decoder as (n_latents, width), from the names and orientation a format has.

    `..._rows` tells whether the file keeps one latent per row. Width and size follow from the 1-D tensors' lengths;
    where width and size are equal nothing can be checked, so the caller must say `orientation`.
    """
    first, second = tensor(files, encoder, (None, None)), tensor(files, decoder, (None, None))
    first = first if encoder_rows else first.T
    second = second if decoder_rows else second.T
    orientation = given.get("orientation")
    if orientation not in (None, "as_format", "transposed"):
        raise DictionaryError(f"orientation is 'as_format' or 'transposed'; got {orientation!r}.")
    if first.shape[0] == first.shape[1] and orientation is None:
        why = f"width and number of latents are both {first.shape[0]}, so shapes cannot tell"
        raise missing(files, "orientation", "orientation='as_format' or 'transposed'", why)
    if orientation == "transposed":
        first, second = first.T, second.T
    if first.shape != second.shape:
        raise DictionaryError(
            f"In {files.weights} the encoder {encoder!r} is for {first.shape[0]} latents of width {first.shape[1]}, "
            f"the decoder {decoder!r} for {second.shape[0]} of {second.shape[1]}: one of them is transposed."
        )
    return first.contiguous(), second.contiguous()


def scaled(core: dict[str, Any], scale: float, mean: Tensor | None = None) -> dict[str, Any]:
    """A core made for x' = (x - mean) * scale, brought to x itself: codes and reconstruction in x's units.

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
    """A number out of a config; the error names the field."""
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise DictionaryError(f"{field} in {files.weights} should be a number; got {value!r}.") from error


def whole_number(value: Any, field: str, files: Files) -> int:
    """A whole number of at least 1 out of a config; the error names the field."""
    number = signed_number(value, field, files)
    if number != int(number) or number < 1:
        raise DictionaryError(
            f"{field} in {files.weights} should be a whole number of at least 1; got {value!r}."
        )
    return int(number)


def plain_kind(name: str, files: Files, given: Given, core: dict[str, Any], k: Any = None) -> Dictionary:
    """The dictionary of a config's activation name: ReLU, TopK or JumpReLU in their usual spellings."""
    spelt = name.lower().replace("_", "").replace("-", "")
    if spelt in ("relu", "standard", "vanilla"):
        return Relu(**core)
    if spelt == "tanhrelu":
        return Relu(softcap=1.0, **core)
    if spelt == "topk":
        if k is None:
            raise missing(files, "k", "k=...", "the number of active latents per row")
        return TopK(k=whole_number(k, "k", files), **core)
    if spelt == "jumprelu":
        return JumpRelu(threshold=tensor(files, "threshold", (len(core["decoder"]),)), **core)
    raise DictionaryError(f"{files.weights} uses the activation {name!r}, which is not known here.")


def site_of(layer: Any, tokens: str | None) -> str | None:
    """A site from a config's layer and token names, None where they do not say."""
    known = {"cls": "cls", "patches": "patches", "spatial": "patches", "all": "all"}
    if layer is None or tokens not in known:
        return None
    try:
        return f"image.{int(layer)}.{known[tokens]}"
    except (TypeError, ValueError):
        return None
