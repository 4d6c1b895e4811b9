"""Readers of files from SAE libraries: SAELens of both ages, dictionary_learning, sparsify, OpenAI, overcomplete.

Each reader states its forward formula. Start at the one whose name you look for.
"""

from __future__ import annotations

import json
from typing import Any

import torch

from clipattr.dictionaries.batchtopk import BatchTopK
from clipattr.dictionaries.checkpoints.clip_files import gated_from, standard_core
from clipattr.dictionaries.checkpoints.formats import (
    Given,
    asked,
    matrices,
    missing,
    plain_kind,
    register_format,
    scaled,
    signed_number,
    tensor,
    whole_number,
)
from clipattr.dictionaries.checkpoints.reading import Files
from clipattr.dictionaries.jumprelu import JumpRelu
from clipattr.dictionaries.matryoshka import Matryoshka
from clipattr.dictionaries.relu import Relu
from clipattr.dictionaries.sae import Dictionary
from clipattr.dictionaries.topk import GroupMax, TopK
from clipattr.errors import DictionaryError

# SAELens: z = act((x~ - b_dec) W_enc + b_enc), x_hat~ = z W_dec + b_dec; the pre-bias and the x~ as its config says.


def _is_saelens(files: Files) -> bool:
    return {"W_enc", "W_dec", "b_dec"} <= files.keys and bool({"d_sae", "architecture"} & set(files.config))


@register_format("saelens", _is_saelens)
def read_saelens(files: Files, given: Given) -> Dictionary:
    config = files.config
    metadata = config.get("metadata") or {}
    version = str(metadata.get("sae_lens_version") or config.get("sae_lens_version") or "0").split(".")[0]
    old = not metadata and not (version.isdigit() and int(version) >= 6)
    architecture = str(given.get("architecture") or config.get("architecture") or ("standard" if old else ""))
    if not architecture:
        raise missing(
            files, "architecture", "architecture='standard', 'topk', 'jumprelu' or 'gated'", "cfg.json"
        )
    if str(config.get("reshape_activations", "none")).lower() != "none":
        raise DictionaryError(
            f"{files.weights} reshapes activations ({config['reshape_activations']}): flatten heads yourself and load "
            "it with a config that says 'none'."
        )
    before = config.get("apply_b_dec_to_input", True if old else None)
    if given.get("pre_bias") is not None:
        before = given["pre_bias"]
    if before is None:
        raise missing(files, "pre_bias", "pre_bias=True or False", "apply_b_dec_to_input in cfg.json")
    core = standard_core(files, given, pre_bias=bool(before))
    kwargs = config.get("activation_fn_kwargs") or {}
    k = given.get("k") or config.get("k") or kwargs.get("k")
    name = config.get("activation_fn_str") or config.get("activation_fn")
    if architecture == "standard" and old and str(name).lower() in ("topk", "tanh-relu"):
        architecture = str(name)
    lengths = core["decoder"].norm(dim=1)
    if config.get("rescale_acts_by_decoder_norm"):
        # Selection goes by code times decoder length, which is what unit rows do by themselves.
        core["decoder"] = core["decoder"] / lengths[:, None]
        core["encoder"] = core["encoder"] * lengths[:, None]
        core["encoder_bias"] = core["encoder_bias"] * lengths
    if "scaling_factor" in files.tensors:
        core["gain"] = tensor(files, "scaling_factor", (len(lengths),))
    core = _saelens_normalised(files, given, core)
    if architecture in ("gated", "gated_training"):
        return gated_from(files, core, "b_gate", "b_mag")
    if "topk_threshold" in files.tensors:
        threshold = float(files.tensors["topk_threshold"])
        return BatchTopK(threshold=threshold, target_k=whole_number(k or 1, "k", files), **core)
    return plain_kind(architecture.removesuffix("_training"), files, given, core, k)


def _saelens_normalised(files: Files, given: Given, core: dict[str, Any]) -> dict[str, Any]:
    found = files.config.get("normalize_activations", "none")
    how = {True: "expected_average_only_in", False: "none", None: "none"}.get(found, found)
    if how in ("layer_norm", "constant_norm_rescale"):
        return core | {"row_norm": "layer_norm" if how == "layer_norm" else "length"}
    scale = given.get("scale")
    if scale is None and "activation_scaler.json" in files.neighbours:
        scale = json.loads(files.neighbours["activation_scaler.json"].read_text()).get("scaling_factor")
    if how == "none" and scale is None:
        return core
    if how not in ("none", "expected_average_only_in"):
        raise DictionaryError(f"{files.weights} normalises by {how!r}, which is not known here.")
    if scale is None:
        why = "it was trained on activations times a constant, which belongs in activation_scaler.json"
        raise missing(files, "scale", "scale=that constant, or 1 if it is already folded in", why)
    return scaled(core, signed_number(scale, "scale", files))


# dictionary_learning and sae-for-vlm's fork: z = act((x - b) W + b_enc), x_hat = z W_dec + b, rows or columns by class.

DL_SIGNATURES = (
    {"bias", "encoder.weight", "encoder.bias", "decoder.weight"},
    {"encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias"},
    {"decoder_bias", "encoder.weight", "r_mag", "gate_bias", "mag_bias", "decoder.weight"},
    {"k", "threshold", "encoder.weight", "encoder.bias", "decoder.weight", "b_dec"},
    {"k", "encoder.weight", "encoder.bias", "decoder.weight", "b_dec"},
    {"k", "threshold", "group_sizes", "W_enc", "W_dec", "b_enc", "b_dec"},
    {"W_enc", "W_dec", "b_enc", "b_dec", "threshold"},
)


def _is_dictionary_learning(files: Files) -> bool:
    return "dict_class" in (files.config.get("trainer") or {}) or any(
        signature <= files.keys for signature in DL_SIGNATURES
    )


# sparsify: z = act((x - b_dec) W^T + b), x_hat = z W_dec + b_dec; one latent per row in both matrices.


@register_format("sparsify", lambda files: {"encoder.weight", "encoder.bias", "W_dec", "b_dec"} <= files.keys)
def read_sparsify(files: Files, given: Given) -> Dictionary:
    config = files.config
    if config.get("transcode") or config.get("skip_connection") or "W_skip" in files.tensors:
        raise DictionaryError(
            f"{files.weights} is a transcoder: it predicts another layer, so it does not split an activation."
        )
    encoder, decoder = matrices(files, given, "encoder.weight", "W_dec", encoder_rows=True, decoder_rows=True)
    size, width = decoder.shape
    told = config.get("num_latents") or width * int(config.get("expansion_factor") or 0)
    if told and int(told) != size:
        raise DictionaryError(f"{files.weights} holds {size} latents, its cfg.json says {told}.")
    bias = tensor(files, "b_dec", (width,))
    core = {"encoder": encoder, "decoder": decoder, "bias": bias, "pre_bias": bias.clone()}
    core["encoder_bias"] = tensor(files, "encoder.bias", (size,))
    k = whole_number(asked(files, given, "k", "k=...", "k in cfg.json", (config, "k")), "k", files)
    why = "'topk' or 'groupmax' in cfg.json"
    name = asked(files, given, "activation", "activation='topk' or 'groupmax'", why, (config, "activation"))
    if name == "groupmax":
        return GroupMax(k=k, **core)
    if name != "topk":
        raise DictionaryError(
            f"{files.weights} uses the activation {name!r}; sparsify has topk and groupmax."
        )
    return TopK(k=k, signed=bool(config.get("signed", False)), **core)


# OpenAI: z = act((x~ - pre_bias) W^T + latent_bias), x_hat~ = z W_dec^T + pre_bias; x~ is LayerNorm of x iff TopK.


@register_format("openai", lambda files: {"pre_bias", "encoder.weight", "latent_bias"} <= files.keys)
def read_openai(files: Files, given: Given) -> Dictionary:
    tied = "decoder.weight" not in files.tensors
    encoder, decoder = matrices(
        files,
        given,
        "encoder.weight",
        "encoder.weight" if tied else "decoder.weight",
        encoder_rows=True,
        decoder_rows=tied,
    )
    size, width = decoder.shape
    bias = tensor(files, "pre_bias", (width,))
    core: dict[str, Any] = {"encoder": encoder, "decoder": decoder, "bias": bias, "pre_bias": bias.clone()}
    core["encoder_bias"] = tensor(files, "latent_bias", (size,))
    name = asked(files, given, "activation", "activation='TopK' or 'ReLU'", "which also decides LayerNorm",
                 (files.content, "activation"))  # fmt: skip
    state = files.content.get("activation_state_dict") or {}
    if str(name).lower() != "topk":
        return plain_kind(str(name), files, given, core)
    k = asked(files, given, "k", "k=...", "activation_state_dict.k", (state, "k"))
    after = str(state.get("postact_fn", "ReLU"))
    if not any(word in after for word in ("ReLU", "Identity")):
        raise DictionaryError(f"{files.weights} applies {after!r} after top-k; ReLU and Identity are known.")
    return TopK(k=whole_number(k, "k", files), signed="Identity" in after, row_norm="layer_norm", **core)


# overcomplete: z = act(x W^T + b), x_hat = z D, D = normalised rows of _weights times exp(multiplier).


@register_format("overcomplete", lambda files: bool({"dictionary._weights", "dictionary.C"} & files.keys))
def read_overcomplete(files: Files, given: Given) -> Dictionary:
    if "dictionary._weights" not in files.tensors:
        raise DictionaryError(
            f"{files.weights} is a relaxed archetypal dictionary: save its directions (get_dictionary()) with a plain "
            "encoder, or convert it where it was made."
        )
    names = ("encoder.final_block.0", "encoder")
    name = next((name for name in names if f"{name}.weight" in files.tensors), None)
    if name is None:
        raise DictionaryError(f"{files.weights} has no linear encoder; it has {sorted(files.tensors)}.")
    encoder, decoder = matrices(
        files, given, f"{name}.weight", "dictionary._weights", encoder_rows=True, decoder_rows=True
    )
    decoder = torch.nn.functional.normalize(decoder, dim=1)
    if "dictionary.multiplier" in files.tensors:
        decoder = decoder * tensor(files, "dictionary.multiplier").exp()
    core = {"encoder": encoder, "decoder": decoder}
    if f"{name}.bias" in files.tensors:
        core["encoder_bias"] = tensor(files, f"{name}.bias", (len(encoder),))
    why = "the files hold tensors only"
    kind = str(
        asked(files, given, "activation", "activation='relu', 'topk', 'jumprelu' or 'batchtopk'", why)
    ).lower()
    if kind == "jumprelu":
        return JumpRelu(threshold=tensor(files, "thresholds", (len(encoder),)).exp(), **core)
    if kind == "batchtopk":
        threshold = asked(files, given, "threshold", "threshold=its running_threshold", why)
        return BatchTopK(threshold=float(threshold), target_k=int(given.get("k") or 1), **core)
    return plain_kind(kind, files, given, core, given.get("k"))


@register_format("dictionary-learning", _is_dictionary_learning)
def read_dictionary_learning(files: Files, given: Given) -> Dictionary:
    config = files.config.get("trainer") or {}
    name = str(given.get("dict_class") or config.get("dict_class") or "")
    keys = files.keys
    if "group_sizes" in keys:
        core = standard_core(files, given)
        groups = files.tensors["group_sizes"].tolist()
        prefixes = [sum(groups[: i + 1]) for i in range(len(groups))]
        return Matryoshka(prefixes=prefixes, **_threshold(files, given), **core)
    if {"W_enc", "threshold"} <= keys:
        if given.get("pre_bias") is None:
            raise missing(files, "pre_bias", "pre_bias=True or False", "whether b_dec is subtracted first")
        core = standard_core(files, given, pre_bias=bool(given["pre_bias"]))
        return JumpRelu(threshold=tensor(files, "threshold", (len(core["decoder"]),)), **core)
    encoder, decoder = matrices(
        files, given, "encoder.weight", "decoder.weight", encoder_rows=True, decoder_rows=False
    )
    size, width = decoder.shape
    core = {"encoder": encoder, "decoder": decoder}
    if "r_mag" in keys:
        bias = tensor(files, "decoder_bias", (width,))
        return gated_from(files, core | {"bias": bias, "pre_bias": bias.clone()}, "gate_bias", "mag_bias")
    core["encoder_bias"] = tensor(files, "encoder.bias", (size,))
    if "decoder.bias" in keys and "bias" not in keys:
        return Relu(bias=tensor(files, "decoder.bias", (width,)), **core)
    bias = tensor(files, "bias" if "bias" in keys else "b_dec", (width,))
    core |= {"bias": bias, "pre_bias": bias.clone()}
    if "k" not in keys:
        return Relu(**core)
    if not name:
        why = "TopK and BatchTopK files have the same tensors but select differently"
        raise missing(files, "dict_class", "dict_class='AutoEncoderTopK' or 'BatchTopKSAE'", why)
    if "batch" in name.lower():
        return BatchTopK(**_threshold(files, given), **core)
    k = given.get("k") or int(files.tensors["k"])
    return TopK(k=whole_number(k, "k", files), **core)


def _threshold(files: Files, given: Given) -> dict[str, Any]:
    threshold = given.get("threshold")
    threshold = float(files.tensors["threshold"]) if threshold is None else float(threshold)
    if threshold < 0:
        raise missing(
            files,
            "threshold",
            "threshold=..., or dict_class='AutoEncoderTopK'",
            "-1: it was never calibrated",
        )
    return {"threshold": threshold, "target_k": int(files.tensors["k"])}
