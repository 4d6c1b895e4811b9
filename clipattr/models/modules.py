"""Modules: checks and conversion of modules, devices, templates and preprocessing that callers pass.

Owns unwrapping of modules, their tokenizer, device names, templates that are functions, and a description of functions
that is equal in every process. Ignores weights. Start at `unwrapped_clip`.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import open_clip
import torch
from open_clip.transform import PreprocessCfg, merge_preprocess_dict
from torch import nn

from clipattr.errors import ModelError

SIMPLE_TOKENIZER_WORDS = 49408  # the vocabulary of open_clip's own tokenizer


def template_texts(templates: Any) -> list[str]:
    """Templates as texts with "{}"; functions of the class name, as in open_clip's lists, are converted.

    Raises:
        ModelError: another type, or a template without "{}".

    >>> template_texts(["{}", lambda c: f"a photo of a {c}."])
    ['{}', 'a photo of a {}.']
    """
    if isinstance(templates, str) or callable(templates):
        given = [templates]
    elif isinstance(templates, Iterable) and not isinstance(templates, (bytes, Mapping)):
        given = list(templates)
    else:
        raise ModelError(
            f"Templates are texts with {{}}, or functions of a text; got {type(templates).__name__}. ['{{}}'] is the "
            "prompt alone."
        )
    texts = []
    for template in given:
        try:
            texts.append(template("{}") if callable(template) else template)
        except Exception as error:  # a function of the caller's own
            raise ModelError(
                f"A template is a text with {{}}, or a function of a text; {template!r} failed: {error}."
            ) from error
    for text in texts:
        if not isinstance(text, str):
            raise ModelError(f"Prompts and templates are strings; got {text!r} ({type(text).__name__}).")
    return texts


def device_named(asked: str | torch.device | int) -> torch.device:
    """The device of a name; ModelError if torch has none of this name."""
    written = asked.strip().lower().replace("gpu", "cuda") if isinstance(asked, str) else asked
    try:
        return torch.device(written)
    except (RuntimeError, TypeError) as error:
        raise ModelError(
            f"There is no device {asked!r}; give 'cpu', 'cuda' (or 'cuda:0', 'cuda:1', …), or 'mps'."
        ) from error


def unwrapped_clip(clip: nn.Module) -> nn.Module:
    """The open_clip module inside wrappers such as DataParallel and torch.compile.

    Raises:
        ModelError: no such module; the message names the missing attributes.
    """
    for _ in range(4):  # wrappers may be nested
        inner = getattr(clip, "_orig_mod", None) or (
            None if hasattr(clip, "visual") else getattr(clip, "module", None)
        )
        if not isinstance(inner, nn.Module):
            break
        clip = inner
    needed = ("visual", "encode_image", "encode_text", "logit_scale")
    missing = [part for part in needed if not hasattr(clip, part)]
    if missing or not hasattr(clip.visual, "image_size"):
        raise ModelError(
            f"{type(clip).__name__} is not a CLIP of open_clip's kind (CLIP, CustomTextCLIP): it lacks "
            f"{', '.join(missing) or 'visual.image_size'}."
        )

    return clip


def tokenizer_of(clip: nn.Module, given: Callable | None) -> Callable:
    """The tokenizer of a module that the caller built."""
    words = getattr(clip, "vocab_size", None) or getattr(getattr(clip, "text", None), "vocab_size", None)
    if given is not None:
        return given
    if words != SIMPLE_TOKENIZER_WORDS:
        raise ModelError(
            f"The text tower has a vocabulary of {words} tokens, open_clip's default tokenizer one of "
            f"{SIMPLE_TOKENIZER_WORDS}: pass load_model(module, tokenizer=...)."
        )
    return open_clip.SimpleTokenizer()


def described(function: Callable) -> str:
    """A description of a function that is equal in every process: without addresses, with the code of the function."""
    code = getattr(function, "__code__", None)
    inside = f" {code.co_code.hex()} {code.co_consts!r}" if code is not None else ""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(function) + inside)


def preprocess_config(clip: nn.Module) -> dict[str, Any]:
    """Size, mean, std and resizing of the tower, without omitted defaults."""
    config = merge_preprocess_dict(PreprocessCfg(), open_clip.get_model_preprocess_cfg(clip))
    return {key: list(value) if isinstance(value, tuple) else value for key, value in config.items()}
