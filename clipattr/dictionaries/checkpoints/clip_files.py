"""Readers of files from CLIP projects: attributing-clip, HugoFry and its heirs, Prisma, MSAE, DN-CBM, clipscope, saev.

Each reader states its forward formula. Start at the one whose name you look for.
"""

from __future__ import annotations

import re
from typing import Any

import torch

from clipattr.dictionaries.batchtopk import BatchTopK
from clipattr.dictionaries.checkpoints.formats import (
    Given,
    asked,
    matrices,
    missing,
    plain_kind,
    register_format,
    scaled,
    signed_number,
    site_of,
    tensor,
    whole_number,
)
from clipattr.dictionaries.checkpoints.reading import Files
from clipattr.dictionaries.gated import Gated
from clipattr.dictionaries.jumprelu import JumpRelu
from clipattr.dictionaries.relu import Relu
from clipattr.dictionaries.sae import Dictionary
from clipattr.dictionaries.topk import TopK
from clipattr.errors import DictionaryError

STANDARD = {"W_enc", "b_enc", "W_dec", "b_dec"}


def standard_core(files: Files, given: Given, *, pre_bias: bool = True) -> dict[str, Any]:
    """W_enc (d, n), W_dec (n, d), b_dec and, where there is one, b_enc."""
    encoder, decoder = matrices(files, given, "W_enc", "W_dec", encoder_rows=False, decoder_rows=True)
    size, width = decoder.shape
    bias = tensor(files, "b_dec", (width,))
    core = {"encoder": encoder, "decoder": decoder, "bias": bias}
    if "b_enc" in files.tensors:
        core["encoder_bias"] = tensor(files, "b_enc", (size,))
    if pre_bias:
        core["pre_bias"] = bias.clone()
    return core


def gated_from(files: Files, core: dict[str, Any], gate: str, magnitude: str) -> Dictionary:
    """Gate W x + b_gate > 0, strength ReLU(exp(r_mag) W x + b_mag)."""
    size = len(core["decoder"])
    gain, gate_bias = tensor(files, "r_mag", (size,)).exp(), tensor(files, gate, (size,))
    shift = tensor(files, magnitude, (size,)) - gain * gate_bias
    return Gated(mag_gain=gain, mag_bias=shift, **{**core, "encoder_bias": gate_bias})


# attributing-clip: z = top-k of W_enc x + b by value, signs kept; x_hat = W_dec z. Weights under weight norm.

AC_KEYS = ("encoder.0.weight_g", "encoder.0.weight_v", "decoder.weight_g", "decoder.weight_v")
AC_NEW_KEYS = tuple(
    f"{part}.parametrizations.weight.original{number}"
    for part in ("encoder.0", "decoder")
    for number in (0, 1)
)
AC_NAME = re.compile(r"topk-(?P<tokens>\w+)-(?P<k>\d+)-(?P<n>\d+)_layer-?(?P<layer>-?\d+)")


@register_format(
    "attributing-clip", lambda files: set(AC_KEYS) <= files.keys or set(AC_NEW_KEYS) <= files.keys
)
def read_attributing_clip(files: Files, given: Given) -> Dictionary:
    g_enc, v_enc, g_dec, v_dec = AC_KEYS if AC_KEYS[0] in files.tensors else AC_NEW_KEYS
    encoder, decoder = matrices(files, given, v_enc, v_dec, encoder_rows=True, decoder_rows=False)
    size = len(encoder)
    encoder = encoder / encoder.norm(dim=1, keepdim=True) * tensor(files, g_enc, (size, 1))
    decoder = decoder / decoder.norm(dim=1, keepdim=True) * tensor(files, g_dec, (1, size)).T
    named = AC_NAME.search(files.weights.name)
    parts: dict[str, Any] = named.groupdict() if named else {}
    config = files.config
    k = asked(files, given, "k", "k=...", "sae_k of its yaml file", (config, "sae_k"), (parts, "k"))
    site = site_of(
        config.get("sae_layer_idx", parts.get("layer")), config.get("sae_token", parts.get("tokens"))
    )
    bias = tensor(files, "encoder.0.bias", (size,))
    return TopK(
        k=whole_number(k, "k", files),
        signed=True,
        encoder=encoder,
        decoder=decoder,
        encoder_bias=bias,
        site=site,
    )


# Prisma: z = act((x~ - b_dec) W_enc + b_enc), x_hat~ = z W_dec + b_dec; x~ is x normalised row by row, undone at the
# end.


def _is_prisma(files: Files) -> bool:
    marks = {"activation_fn_str", "hook_point_layer", "layer_subtype", "cls_token_only", "is_transcoder"}
    return (
        {"W_enc", "W_dec", "b_dec"} <= files.keys
        and bool(marks & set(files.config))
        and not _has_architecture_6(files)
    )


def _has_architecture_6(files: Files) -> bool:
    return "cfg.json" in files.neighbours and "sae_weights.safetensors" in files.neighbours


@register_format("prisma", _is_prisma)
def read_prisma(files: Files, given: Given) -> Dictionary:
    config = files.config
    if config.get("is_transcoder") or "W_skip" in files.tensors:
        raise DictionaryError(
            f"{files.weights} is a transcoder: it predicts another layer, so it does not split an activation."
        )
    normalise = asked(
        files, given, "normalize_activations", "normalize_activations='layer_norm', 'constant_norm_rescale' or 'none'",
        "forgetting it changes every code", (config, "normalize_activations"),
    )  # fmt: skip
    norms = {"layer_norm": "layer_norm", "constant_norm_rescale": "length", "none": None, "None": None}
    if normalise not in norms:
        raise DictionaryError(f"{files.weights} normalises by {normalise!r}, which is not known here.")
    tokens = "cls" if config.get("cls_token_only") else "patches" if config.get("use_patches_only") else "all"
    core = standard_core(files, given) | {
        "row_norm": norms[normalise],
        "site": site_of(config.get("hook_point_layer"), tokens),
    }
    if config.get("architecture") == "gated" or "r_mag" in files.tensors:
        return gated_from(files, core, "b_gate", "b_mag")
    why = "ReLU and TopK files have the same tensors"
    name = asked(
        files, given, "activation", "activation='relu' or 'topk'", why, (config, "activation_fn_str")
    )
    return plain_kind(
        name, files, given, core, given.get("k") or (config.get("activation_fn_kwargs") or {}).get("k")
    )


# HugoFry, PatchSAE, ConceptScope: z = ReLU((x - b_dec) W_enc + b_enc), x_hat = z W_dec + b_dec.


@register_format(
    "hugofry", lambda files: {"W_enc", "W_dec", "b_dec"} <= files.keys and "block_layer" in files.config
)
def read_hugofry(files: Files, given: Given) -> Dictionary:
    config = files.config
    tokens = "cls" if config.get("class_token") else "all"
    core = standard_core(files, given) | {"site": site_of(config.get("block_layer"), tokens)}
    if config.get("gated_sae") or "r_mag" in files.tensors:
        return gated_from(files, core, "b_gate" if "b_gate" in files.tensors else "b_enc", "b_mag")
    return Relu(**core)


# MSAE: x' = (x - mean) scale, z = act((x' - pre_bias) encoder + latent_bias), x_hat = (z decoder + pre_bias) / scale +
# mean.

MSAE_NAME = re.compile(
    r"^\d+_\d+_(?P<activation>[A-Za-z]+)(?:_(?P<k>\d+))?(?:_[RU]W)?_(?P<tied>True|False)_(?P<normalize>True|False)"
    r"_(?P<softcap>[\d.]+)_"
)


@register_format("msae", lambda files: {"encoder", "pre_bias", "latent_bias"} <= files.keys)
def read_msae(files: Files, given: Given) -> Dictionary:
    named = MSAE_NAME.match(files.weights.name)
    parts: dict[str, Any] = named.groupdict() if named else {}
    name_says = "it is part of the original file name only"
    if "decoder" in files.tensors:
        encoder, decoder = matrices(files, given, "encoder", "decoder", encoder_rows=False, decoder_rows=True)
    else:
        encoder, _ = matrices(files, given, "encoder", "encoder", encoder_rows=False, decoder_rows=False)
        decoder = encoder.clone()
    size, width = decoder.shape
    normalise = asked(files, given, "normalize", "normalize=True or False", name_says, (parts, "normalize"))
    if normalise in (True, "True"):
        raise DictionaryError(
            f"{files.weights} normalises rows after centring; that combination is not read."
        )
    softcap = asked(files, given, "softcap", "softcap=0 for none", name_says, (parts, "softcap"))
    activation = asked(
        files, given, "activation", "activation='ReLU', 'TopK', ...", name_says, (parts, "activation")
    )
    for field in ("mean_center", "scaling_factor"):
        if field not in files.content:
            raise missing(
                files, field, "nothing: the file is incomplete", "inputs cannot be brought to its units"
            )
    cap = signed_number(softcap, "softcap", files)
    bias = tensor(files, "pre_bias", (width,))
    core: dict[str, Any] = {
        "encoder": encoder, "decoder": decoder, "bias": bias, "pre_bias": bias.clone(),
        "encoder_bias": tensor(files, "latent_bias", (size,)),
    }  # fmt: skip
    mean = torch.as_tensor(files.content["mean_center"]).float().flatten()
    if mean.numel() not in (1, width):
        raise DictionaryError(f"mean_center in {files.weights} has {mean.numel()} numbers for width {width}.")
    scale = signed_number(files.content["scaling_factor"], "scaling_factor", files)
    core = scaled(core, scale, mean.expand(width)) | {"softcap": cap if cap > 0 else None}
    spelt = str(activation).lower()
    if spelt.startswith("jumprelu"):
        return JumpRelu(threshold=tensor(files, "activation.log_threshold", (size,)).exp(), **core)
    name = next((name for name in ("topk", "relu") if spelt.startswith(name)), spelt)
    return plain_kind(name, files, given, core, given.get("k") or parts.get("k"))


# DN-CBM: z = ReLU((x - b) W_enc^T + b_enc), x_hat = z W_dec^T + b; every tensor has a leading axis of length 1.


@register_format(
    "dn-cbm", lambda files: {"encoder._weight", "encoder._bias", "decoder._weight"} <= files.keys
)
def read_dn_cbm(files: Files, given: Given) -> Dictionary:
    flat = {}
    for name, value in files.tensors.items():
        if value.ndim < 2 or value.shape[0] != 1:
            raise DictionaryError(
                f"Tensor {name!r} in {files.weights} has shape {tuple(value.shape)}; this format keeps one component, "
                "on a leading axis of length 1."
            )
        flat[name] = value[0]
    files = Files(files.weights, files.content, flat, files.config)
    encoder, decoder = matrices(
        files, given, "encoder._weight", "decoder._weight", encoder_rows=True, decoder_rows=False
    )
    names = ("tied_bias", "pre_encoder_bias._bias_reference", "post_decoder_bias._bias_reference")
    found = next((name for name in names if name in flat), None)
    if found is None:
        raise DictionaryError(f"{files.weights} has no tied bias; it has {sorted(flat)}.")
    bias = tensor(files, found, (encoder.shape[1],))
    encoder_bias = tensor(files, "encoder._bias", (len(encoder),))
    return Relu(encoder=encoder, decoder=decoder, bias=bias, pre_bias=bias.clone(), encoder_bias=encoder_bias)


# clipscope: z = top-k of (x - pre_b) enc by value, signs kept; x_hat = z dec + pre_b.


@register_format("clipscope", lambda files: {"pre_b", "enc", "dec"} <= files.keys)
def read_clipscope(files: Files, given: Given) -> Dictionary:
    encoder, decoder = matrices(files, given, "enc", "dec", encoder_rows=False, decoder_rows=True)
    k = asked(files, given, "k", "k=...", "active latents per row", (files.content, "k"))
    bias = tensor(files, "pre_b", (encoder.shape[1],))
    core = {"encoder": encoder, "decoder": decoder, "bias": bias, "pre_bias": bias.clone()}
    return TopK(k=whole_number(k, "k", files), signed=True, **core)


# saev from schema 1 on: z = act(x W_enc + b_enc), x_hat = z W_dec + b_dec. Before: x~ = (x - mean) / scalar, and a
# pre-bias.


@register_format(
    "saev", lambda files: files.header is not None and "schema" in files.header and files.keys >= STANDARD
)
def read_saev(files: Files, given: Given) -> Dictionary:
    header = files.header or {}
    if header["schema"] not in (1, 2, 3, 4, 5):
        raise DictionaryError(f"{files.weights} has saev schema {header['schema']!r}; 1 to 5 are known.")
    config = header.get("cfg") or {}
    activation = config.get("activation") or header.get("activation") or {}
    if isinstance(activation, str):
        activation = {"cls": activation, "params": config}
    name = asked(files, given, "activation", "activation='relu', 'topk' or 'batchtopk'", "cfg.activation.cls",
                 (activation, "cls"))  # fmt: skip
    params = activation.get("params") or {}
    core = standard_core(files, given, pre_bias=False)
    spelt = str(name).split(".")[-1].lower()
    if spelt == "batchtopk":
        threshold = given.get("threshold")
        if threshold is None and "activation.threshold" in files.tensors:
            threshold = float(files.tensors["activation.threshold"])
        if threshold is None:
            raise missing(files, "threshold", "threshold=...", "BatchTopK at inference")
        if threshold <= 0:
            return Relu(**core)
        k = given.get("k") or params.get("top_k") or params.get("k") or 1
        return BatchTopK(threshold=float(threshold), target_k=whole_number(k, "top_k", files), **core)
    if spelt == "topk":
        k = asked(files, given, "k", "k=...", "activation.params.top_k", (params, "top_k"), (params, "k"))
        return TopK(k=whole_number(k, "k", files), signed=True, **core)
    return plain_kind(spelt, files, given, core)


@register_format("saev0", lambda files: files.header is not None and files.keys >= STANDARD)
def read_saev0(files: Files, given: Given) -> Dictionary:
    why = "files of this age were trained on (x - mean) / scalar and keep neither"
    if given.get("mean") is None:
        raise missing(files, "mean", "mean=a tensor, or 0 if inputs were not centred", why)
    if given.get("scalar") is None:
        raise missing(files, "scalar", "scalar=a number, or 1 if inputs were not scaled", why)
    core = standard_core(files, given)
    mean = torch.as_tensor(given["mean"]).float().expand(core["decoder"].shape[1])
    return Relu(**scaled(core, 1 / signed_number(given["scalar"], "scalar", files), mean))
