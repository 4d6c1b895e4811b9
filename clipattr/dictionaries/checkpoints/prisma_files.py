"""Reader of Prisma's files: SAEs and transcoders on OpenCLIP, at several streams of a block.

SAE: z = act((x~ - b_dec) W_enc + b_enc), x_hat~ = z W_dec + b_dec, where x~ is x normalised row by row and x_hat is
x_hat~ with the normalisation undone. Transcoder: the same z from the input site; prediction of the output site
z W_dec + b_dec_out (+ x W_skip^T), then the *input's* normalisation undone.
"""

from __future__ import annotations

from typing import Any

from clipattr.dictionaries.checkpoints.clip_files import gated_from, standard_core
from clipattr.dictionaries.checkpoints.formats import (
    Given,
    asked,
    check_sizes,
    flag,
    only,
    plain_kind,
    register_format,
    table_of,
    tensor,
)
from clipattr.dictionaries.checkpoints.places import layer_and_stream, site_of, stream_of_hook
from clipattr.dictionaries.checkpoints.reading import Files
from clipattr.dictionaries.sae import Dictionary
from clipattr.errors import DictionaryError

NORMS = {"layer_norm": "layer_norm", "constant_norm_rescale": "length", "none": None}
MARKS = {
    "activation_fn_str", "hook_point_layer", "layer_subtype", "cls_token_only", "use_patches_only", "is_transcoder",
}  # fmt: skip


def _matches(files: Files) -> bool:
    saelens = "cfg.json" in files.neighbours and "sae_weights.safetensors" in files.neighbours
    return (
        {"W_enc", "W_dec", "b_dec"} <= files.keys
        and len(MARKS & set(files.config)) >= 2
        and not saelens
        and "block_layer" not in files.config
    )


@register_format("prisma", _matches)
def read_prisma(files: Files, given: Given) -> Dictionary:
    """All of Prisma's architectures; sites from layer, layer_subtype and the token flags."""
    config = files.config
    normalise = asked(
        files, given, "normalize_activations", "normalize_activations='layer_norm', 'constant_norm_rescale' or 'none'",
        "it changes every code", (config, "normalize_activations"),
    )  # fmt: skip
    if normalise not in NORMS:
        raise DictionaryError(
            f"{files.weights} normalises by {normalise!r:.80}; {', '.join(NORMS)} are known."
        )
    if config.get("hook_point_head_index") is not None:
        raise DictionaryError(
            f"{files.weights} is for one attention head ({config['hook_point_head_index']!r:.40}), where no site is."
        )
    tokens = _tokens(files)
    stated = config.get("hook_point"), config.get("hook_point_layer"), config.get("layer_subtype")
    site = _site(files, *stated, tokens)
    architecture = str(config.get("architecture") or "standard")
    transcoder = flag(config, "is_transcoder", files, False)
    gated = architecture == "gated"
    if architecture not in ("standard", "gated"):
        raise DictionaryError(
            f"{files.weights} has the architecture {architecture!r:.40}; Prisma's own loader knows standard and gated."
        )
    core: dict[str, Any] = {"row_norm": NORMS[normalise]}
    if transcoder:
        core |= _transcoder(files, given)
        core["input_site"] = site
        names = ("out_hook_point", "out_hook_point_layer", "layer_out_subtype")
        hook, layer, subtype = (config.get(name) for name in names)
        core["site"] = _site(files, hook, layer, subtype, tokens)
    else:
        core |= standard_core(files, given, encoder_bias=not gated) | {"site": site}
    size, width = core["encoder"].shape
    check_sizes(files, config, size, width, sizes=("d_sae",), widths=("d_in",), factors=("expansion_factor",))
    why = "ReLU and TopK files have the same tensors"
    name = asked(
        files, given, "activation", "activation='relu' or 'topk'", why, (config, "activation_fn_str")
    )
    kwargs = table_of(config, "activation_fn_kwargs", files)
    only(kwargs, ("k",), "activation_fn_kwargs", files)
    if gated:
        if name != "relu":
            raise DictionaryError(
                f"{files.weights} is gated with the activation {name!r:.40}; only relu is supported."
            )
        if "b_enc" in files.tensors:
            tensor(files, "b_enc", (size,))  # stored by Prisma, unused by its gated forward pass
        return gated_from(files, core, "b_gate", "b_mag")
    return plain_kind(name, files, given, core, (kwargs, "k"))


def _tokens(files: Files) -> str | None:
    """Which tokens the flags name; None where there are no flags."""
    cls, patches = (flag(files.config, name, files) for name in ("cls_token_only", "use_patches_only"))
    if cls is None and patches is None:
        return None
    if cls and patches:
        raise DictionaryError(
            f"{files.weights} sets cls_token_only and use_patches_only, which exclude each other."
        )
    return "cls" if cls else "patches" if patches else "all"


def _site(files: Files, hook: Any, layer: Any, subtype: Any, tokens: str | None) -> str | None:
    """The site of a full hook name, or of layer and subtype; they must agree where both are there."""
    if hook is not None:
        found = layer_and_stream(hook)
        named = None if found is None else site_of(found[0], tokens, found[1])
        if subtype is None:
            return named
        if named != site_of(layer, tokens, stream_of_hook(subtype)):
            raise DictionaryError(
                f"{files.weights} names the hook {hook!r:.80}, and layer {layer!r:.40} with {subtype!r:.80}: they "
                "disagree."
            )
        return named
    return site_of(layer, tokens, stream_of_hook(subtype))


def _transcoder(files: Files, given: Given) -> dict[str, Any]:
    encoder, decoder = tensor(files, "W_enc", (None, None)).T, tensor(files, "W_dec", (None, None))
    size, inner = encoder.shape
    width = decoder.shape[1]
    if size == inner:
        raise DictionaryError(
            f"{files.weights} has as many latents as inputs, so its shapes do not show how the encoder is stored."
        )
    if len(decoder) != size:
        raise DictionaryError(
            f"In {files.weights} the encoder is for {size} latents, the decoder for {len(decoder)}: one of them is "
            "transposed."
        )
    check_sizes(files, files.config, size, width, widths=("d_out",))
    core = {
        "encoder": encoder.contiguous(), "decoder": decoder, "encoder_bias": tensor(files, "b_enc", (size,)),
        "pre_bias": tensor(files, "b_dec", (inner,)), "bias": tensor(files, "b_dec_out", (width,)),
    }  # fmt: skip
    if flag(files.config, "transcoder_with_skip_connection", files, "W_skip" in files.tensors):
        core["skip"] = tensor(files, "W_skip", (width, inner))
    return core
