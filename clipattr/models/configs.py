"""Configurations: validation of open_clip_config.json before a model is built from it.

Owns the checks of sizes, of references to other models, and of requests to run code. Ignores weights. Start at
`check_config`.
"""

from typing import Any

from clipattr.errors import ModelError

CONFIG_NAME = "open_clip_config.json"
LOCAL, HUB = "local-dir:", "hf-hub:"

# Upper limits, well above every published CLIP; they bound the memory that a hostile configuration can request.
LARGEST_SIZES = {
    "embed_dim": 16_384, "width": 16_384, "layers": 256, "heads": 1_024, "head_width": 4_096, "image_size": 4_096,
    "patch_size": 1_024, "vocab_size": 2_000_000, "context_length": 65_536, "mlp_ratio": 64, "depth": 256,
}  # fmt: skip


def check_config(config: Any, reference: str) -> None:
    """Raise ModelError for a configuration that does not describe a CLIP, or that asks to run foreign code."""
    if not isinstance(config, dict):
        raise ModelError(f"{reference}: {CONFIG_NAME} has no model_cfg.")
    for key, kind in {"embed_dim": int, "vision_cfg": dict, "text_cfg": dict}.items():
        if not isinstance(config.get(key), kind):
            got = repr(config.get(key))[:80]
            raise ModelError(f"{reference}: {CONFIG_NAME}: {key} must be {kind.__name__}; got {got}.")
    _check_sizes(config, reference)
    for tower in ("vision_cfg", "text_cfg"):
        for key, value in config[tower].items():
            if (
                key.endswith("model_name")
                and isinstance(value, str)
                and ("://" in value or value.startswith((HUB, LOCAL)))
            ):
                raise ModelError(
                    f"{reference}: {CONFIG_NAME} refers to another model, {key}={value!r:.80}, which is refused."
                )
    options = config["text_cfg"].get("tokenizer_kwargs") or {}
    if "trust_remote_code" in options:
        raise ModelError(f"{reference}: its tokenizer asks to run code that comes with the weights; refused.")


def _check_sizes(config: dict[str, Any], reference: str) -> None:
    """Raise ModelError for sizes that no CLIP has, before anything of that size is allocated."""
    for place in (config, config["vision_cfg"], config["text_cfg"]):
        for key, largest in LARGEST_SIZES.items():
            value = place.get(key)
            for number in value if isinstance(value, list) else [value]:
                if number is None or isinstance(number, (bool, str)):
                    continue
                if not isinstance(number, (int, float)) or not 0 <= number <= largest:
                    raise ModelError(
                        f"{reference}: {CONFIG_NAME}: {key} must lie between 0 and {largest:,}; got {number!r:.80}."
                    )
