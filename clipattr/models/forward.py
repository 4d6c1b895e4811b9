"""Forward facts: what decides a model's numbers and is not in its weights.

Activation, attention heads, epsilon, pooling, causal mask, and what preprocessing does to pictures: with equal weights
and another of these, a model is another model. Owns reading them off the modules and comparing them with recorded ones.
Ignores weights and tokenizers. Start at `forward_facts`.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

KNOWN = {
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "relu": F.relu,
    "silu": F.silu,
}
ACTIVATIONS = ("elu", "silu", "swish", "mish", "tanh")  # parts of class names: GELU, QuickGELUActivation, …
ATTRIBUTES = {
    "heads": ("num_heads", int), "epsilon": ("eps", float), "pooling": ("pool_type", str),
    "global pooling": ("global_pool", str), "pooled token": ("text_pool_type", str),
}  # fmt: skip
DIGITS = 4  # decimals of mean and std, which are measured


def forward_facts(model: Any) -> dict[str, Any]:
    """Facts of a model's forward pass that its weights do not hold.

    Args:
        model: a `Model`.

    Returns:
        JSON values by name, such as "image activation": ["quick_gelu"]; two models of equal weights that differ in one
        of them give different embeddings. What cannot be read is absent.

    >>> import clipattr as ca
    >>> facts = forward_facts(ca.load_model("picture-world-a"))
    >>> facts["image activation"], facts["pixels"]
    (['gelu'], [3, 64, 64])
    """
    found: dict[str, set[Any]] = {}
    for name, fact, value in _facts(model.clip):
        parts = name.split(".")
        tower = "image" if "visual" in parts and "text_model" not in parts else "text"
        found.setdefault(f"{tower} {fact}", set()).add(value)
    facts: dict[str, Any] = {name: sorted(values) for name, values in found.items()}
    return {**facts, "pixels": list(model.pixel_shape), **_normalisation(model.preprocess)}


def other_facts(recorded: Any, facts: Mapping[str, Any]) -> str:
    """How facts differ from recorded ones, in words; empty where they do not, or where nothing was recorded.

    >>> other_facts({"image activation": ["gelu"]}, {"image activation": ["quick_gelu"]})
    "image activation ['gelu'] there, ['quick_gelu'] here"
    """
    return "; ".join(
        f"{name} {value} there, {facts[name]} here"
        for name, value in (recorded.items() if isinstance(recorded, Mapping) else ())
        if name in facts and facts[name] != value
    )


def _facts(clip: nn.Module) -> Iterator[tuple[str, str, Any]]:
    """(name of the module, fact, value) of every module."""
    for name, module in clip.named_modules():
        for fact, (attribute, kind) in ATTRIBUTES.items():
            value = getattr(module, attribute, None)
            if isinstance(value, kind):
                yield name, fact, value
        if hasattr(module, "attn_mask"):
            yield name, "causal mask", module.attn_mask is not None
        if any(part in type(module).__name__.lower() for part in ACTIVATIONS):
            yield name, "activation", _activation(module)


def _activation(module: nn.Module) -> str:
    """The function that a module computes, by its values: classes have other names in each library and version."""
    at = torch.tensor([-1.0, 0.5, 2.0], device="cpu", dtype=torch.float32)
    try:
        values = module.forward(at.clone())
        for name, function in KNOWN.items():
            if torch.allclose(values, function(at), rtol=0, atol=2e-5):
                return name
    except Exception:  # parameters, or another number of inputs
        pass
    return type(module).__name__


def _normalisation(preprocess: Any) -> dict[str, list[float]]:
    """Mean and std of the colours, measured on black and on white; empty for packed patches and without an answer."""
    try:
        black, white = (preprocess(Image.new("RGB", (32, 32), colour)) for colour in ("black", "white"))
        low, high = (_middle(pixels) for pixels in (black, white))
    except Exception:  # a function of the caller's own
        return {}
    std = 1 / (high - low)
    made = {"mean": -low * std, "std": std}
    return {
        name: [round(float(x), DIGITS) for x in value]
        for name, value in made.items()
        if value.isfinite().all()
    }


def _middle(pixels: Tensor) -> Tensor:
    return pixels[:, pixels.shape[1] // 2, pixels.shape[2] // 2].double()
