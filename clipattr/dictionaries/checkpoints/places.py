"""Places: the site that a file's own words (layer numbers, hook names, token flags) stand for.

Owns the translation of other projects' hook names. Start at `site_of` and `stream_of_hook`.
"""

from __future__ import annotations

import re
from typing import Any

TOKENS = {"cls": "cls", "patches": "patches", "spatial": "patches", "all": "all"}
STREAMS = {
    "resid": "resid_post",
    "resid_post": "resid_post",
    "resid_pre": "resid_pre",
    "resid_mid": "resid_mid",
    "mlp_out": "mlp_out",
    "attn_out": "attn_out",
    "ln2.normalized": "mlp_in",  # Prisma: the MLP's LayerNorm, affine part included
}
_HOOKED = re.compile(r"^blocks\.(?P<layer>\d+)\.(?P<stream>.+)$")
_MODULE = re.compile(
    r"^(?:.*\.)?(?:layers|resblocks|blocks|h)\.(?P<layer>\d+)(?:\.(?P<part>mlp|attn|self_attn|attention))?$"
)
_PARTS = {
    None: "resid_post",
    "mlp": "mlp_out",
    "attn": "attn_out",
    "self_attn": "attn_out",
    "attention": "attn_out",
}


def stream_of_hook(name: Any) -> str | None:
    """The stream that the last part of a hook's name stands for, None if it is not known.

    >>> stream_of_hook("hook_mlp_out"), stream_of_hook("ln2.hook_normalized"), stream_of_hook("attn.hook_z")
    ('mlp_out', 'mlp_in', None)
    """
    if not isinstance(name, str):
        return None
    return STREAMS.get(name.replace("hook_", ""))


def layer_and_stream(name: Any) -> tuple[int, str] | None:
    """Layer and stream of a full hook or module name, None if it is not known.

    >>> layer_and_stream("blocks.9.hook_resid_post"), layer_and_stream("vision_model.encoder.layers.3.mlp")
    ((9, 'resid_post'), (3, 'mlp_out'))
    """
    if not isinstance(name, str):
        return None
    hooked = _HOOKED.match(name)
    if hooked and (stream := stream_of_hook(hooked["stream"])):
        return int(hooked["layer"]), stream
    module = _MODULE.match(name)
    return (int(module["layer"]), _PARTS[module["part"]]) if module else None


def site_of(layer: Any, tokens: Any, stream: str | None = "resid_post") -> str | None:
    """The written site, None where layer, tokens or stream do not say.

    The stream before block L is the one after block L - 1. Before block 0 there is no site.

    >>> site_of(11, "cls"), site_of(-2, "spatial"), site_of(3, "all", "resid_pre"), site_of(3, "all", "mlp_out")
    ('image.11.cls', 'image.-2.patches', 'image.2.all', 'image.3.mlp_out.all')
    >>> site_of(0, "cls", "resid_pre"), site_of(3, None), site_of("3", "cls")
    (None, None, None)
    """
    if isinstance(layer, (list, tuple)) and len(layer) == 1:
        layer = layer[0]
    if isinstance(layer, bool) or not isinstance(layer, int) or stream is None or tokens not in TOKENS:
        return None
    if stream == "resid_pre":
        if layer == 0:
            return None
        layer, stream = layer - 1, "resid_post"
    middle = "" if stream == "resid_post" else f"{stream}."
    return f"image.{layer}.{middle}{TOKENS[tokens]}"
