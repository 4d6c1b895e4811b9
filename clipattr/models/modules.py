"""Modules: checks and conversion of modules, devices, templates and preprocessing that callers pass.

Owns unwrapping of modules, their tokenizer, device names, templates that are functions, and a description of functions
that is equal in every process. Ignores weights. Start at `unwrapped`.
"""

import copy
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import open_clip
import torch
from open_clip.hf_model import HFTextEncoder
from open_clip.transform import PreprocessCfg, merge_preprocess_dict
from torch import nn

from clipattr.errors import ModelError

SHOWN = 3  # names in a message
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


def dtype_named(asked: Any) -> torch.dtype:
    """The floating point dtype of a name such as "float16", "fp16", "half" or "bf16"; ModelError for another."""
    short = {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32", "fp64": "float64"}
    if isinstance(asked, str):
        written = asked.strip().lower().removeprefix("torch.")
        asked = getattr(torch, short.get(written, written), asked)
    if not isinstance(asked, torch.dtype) or not asked.is_floating_point:
        raise ModelError(f"A model is held in a floating point dtype such as torch.float32; got {asked!r}.")
    return asked


def frozen(clip: nn.Module, reference: str) -> nn.Module:
    """The module in eval mode, without gradients of parameters, compiled calls or checkpointing; see `require_finite`.

    A module that was built in inference mode, whose tensors no gradient can pass, is copied.
    """
    require_finite(clip, reference)
    if any(value.is_inference() for value in clip.state_dict().values()):
        with torch.inference_mode(False):
            clip = copy.deepcopy(clip)
    # What Module.compile() has compiled does not call hooks that are added later.
    for module in clip.modules():
        module._compiled_call_impl = None
    # Checkpointing would run blocks, and their hooks, twice. Text towers of transformers are excluded: a call of this
    # method with any argument turns checkpointing on.
    switched: Any = clip.visual if isinstance(getattr(clip, "text", None), HFTextEncoder) else clip
    if hasattr(switched, "set_grad_checkpointing"):
        switched.set_grad_checkpointing(False)
    return clip.eval().requires_grad_(False)


def require_finite(clip: nn.Module, reference: str) -> nn.Module:
    """The same module; ModelError if its weights hold NaN or infinity.

    Training that diverged leaves such weights, and so does a cast to half precision that overflowed. Weights without
    values and modules without gradients (meta device, quantised, TorchScript) are refused too.
    """
    state = clip.state_dict().values()
    empty = any(isinstance(value, torch.Tensor) and value.is_meta for value in state)
    for unusable, what in (
        (empty, "is on the meta device, without values"),
        (not all(isinstance(value, torch.Tensor) for value in state), "is quantised, without gradients"),
        (
            isinstance(clip, torch.jit.ScriptModule),
            "is TorchScript, in which nothing can be read or replaced",
        ),
    ):
        if unusable:
            raise ModelError(
                f"{reference}: the module {what}. Load its floating point weights into the plain module."
            )
    broken = [name for name, value in clip.state_dict().items() if _broken(value)]
    broken = [name for name in broken if not name.endswith("attn_mask")]  # a causal mask holds minus infinity
    if broken:
        raise ModelError(
            f"{reference}: {len(broken)} of the weights' tensors hold NaN or infinity, first {broken[0]!r}: the "
            "training diverged, or the file was saved in a type that cannot hold its values. Use another checkpoint."
        )
    return clip


def _broken(value: torch.Tensor) -> bool:
    return value.is_floating_point() and not bool(torch.isfinite(value).all())


def misfit(error: BaseException) -> str:
    """The first line of an error; of torch's on a state dict, the names that are missing, unexpected or misshapen."""
    text = str(error).strip() or type(error).__name__
    told = []
    for what, pattern in (
        ("missing", r"Missing key\(s\) in state_dict: (.*)"),
        ("not of this model", r"Unexpected key\(s\) in state_dict: (.*)"),
    ):
        names = [name for line in re.findall(pattern, text) for name in re.findall(r'"([^"]+)"', line)]
        if names:
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            told.append(f"{what}: {', '.join(names[:SHOWN])}{more}")
            if any("lora_" in name or ".base_layer." in name for name in names):
                told.append(
                    "these are LoRA adapters: merge them into the weights first (peft's merge_and_unload)"
                )
    shapes = re.findall(
        r"size mismatch for (\S+): copying a param with shape torch.Size\((.*?)\) from checkpoint, the shape in "
        r"current model is torch.Size\((.*?)\)",
        text,
    )
    told += [
        f"{name} is {theirs} in the file and {ours} in the model" for name, theirs, ours in shapes[:SHOWN]
    ]
    return "; ".join(told) or text.splitlines()[0][:300]


def device_named(asked: str | torch.device | int) -> torch.device:
    """The device of a name; ModelError if torch has none of this name."""
    written = asked.strip().lower().replace("gpu", "cuda") if isinstance(asked, str) else asked
    try:
        return torch.device(written)
    except (RuntimeError, TypeError) as error:
        raise ModelError(
            f"torch has no device {asked!r}; give 'cpu', 'cuda' (or 'cuda:0', 'cuda:1', …), or 'mps'."
        ) from error


def unwrapped(module: nn.Module) -> nn.Module:
    """The module inside wrappers such as DataParallel and torch.compile."""
    for _ in range(4):  # wrappers may be nested
        inner = getattr(module, "_orig_mod", None) or (
            None if hasattr(module, "visual") else getattr(module, "module", None)
        )
        if not isinstance(inner, nn.Module):
            break
        module = inner
    return module


def required_clip(clip: nn.Module) -> nn.Module:
    """The same module of open_clip's kind; ModelError for another, with the names of missing attributes."""
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
