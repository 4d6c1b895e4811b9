"""Readers of files from SAE libraries: SAELens of both ages, sparsify, OpenAI, overcomplete.

The comment above each reader states the forward pass of its library: x is the activation, z the codes, x_hat the
reconstruction. dictionary_learning is in `dl_files.py`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from clipattr.dictionaries.batchtopk import BatchTopK
from clipattr.dictionaries.checkpoints.clip_files import gated_from, standard_core
from clipattr.dictionaries.checkpoints.formats import (
    Given,
    asked,
    asked_k,
    check_sizes,
    flag,
    matrices,
    missing,
    only,
    plain_kind,
    positive_number,
    register_format,
    scalar,
    scaled,
    signed_number,
    table_of,
    tensor,
    tied_bias,
    whole_number,
)
from clipattr.dictionaries.checkpoints.places import layer_and_stream, site_of
from clipattr.dictionaries.checkpoints.reading import Files
from clipattr.dictionaries.jumprelu import JumpRelu
from clipattr.dictionaries.sae import Dictionary
from clipattr.dictionaries.topk import GroupMax, TopK
from clipattr.display.wording import few
from clipattr.errors import DictionaryError
from clipattr.storage.documents import read_json

# SAELens: z = act((x~ - b_dec) W_enc + b_enc), x_hat~ = z W_dec + b_dec; pre-bias and x~ as its config says.

ARCHITECTURES = ("standard", "topk", "jumprelu", "gated", "batchtopk", "matryoshka_batchtopk")


def _is_saelens(files: Files) -> bool:
    return {"W_enc", "W_dec", "b_dec"} <= files.keys and bool({"d_sae", "architecture"} & set(files.config))


@register_format("saelens", _is_saelens)
def read_saelens(files: Files, given: Given) -> Dictionary:
    """Versions before 6 and from 6 on, inference and training files."""
    config = files.config
    metadata = table_of(config, "metadata", files)
    version = str(metadata.get("sae_lens_version") or config.get("sae_lens_version") or "0").split(".")[0]
    old = not metadata and not (version.isdigit() and int(version) >= 6)
    told = config.get("architecture")
    architecture = str(given.get("architecture") or told or ("standard" if old else ""))
    if not architecture:
        raise missing(
            files, "architecture", "architecture='standard', 'topk', 'jumprelu' or 'gated'", "cfg.json"
        )
    architecture = architecture.removesuffix("_training")
    if architecture not in ARCHITECTURES:
        raise DictionaryError(
            f"{files.weights} has the architecture {architecture!r:.40}; {', '.join(ARCHITECTURES)} are supported."
        )
    if (reshape := config.get("reshape_activations")) not in (None, "none"):
        raise DictionaryError(
            f"{files.weights} reshapes activations ({reshape!r:.40}), e.g. joins attention heads. Flatten the heads "
            "yourself and load the file with a config that says 'none'."
        )
    if config.get("hook_head_index") is not None or config.get("hook_point_head_index") is not None:
        raise DictionaryError(f"{files.weights} is for one attention head, where no site is.")
    before = flag(config, "apply_b_dec_to_input", files, True if old else None)
    if given.get("pre_bias") is not None:
        before = flag(given, "pre_bias", files)
    if before is None:
        raise missing(files, "pre_bias", "pre_bias=True or False", "apply_b_dec_to_input in cfg.json")
    core = standard_core(files, given, pre_bias=before, encoder_bias=architecture != "gated")
    size, width = core["decoder"].shape
    check_sizes(files, config, size, width, sizes=("d_sae",), widths=("d_in",), factors=("expansion_factor",))
    kwargs = table_of(config, "activation_fn_kwargs", files)
    only(kwargs, ("k",), "activation_fn_kwargs", files)
    named, short = config.get("activation_fn_str"), config.get("activation_fn")
    name = str(named or short or "relu").lower()
    if architecture == "standard" and old and name in ("topk", "tanh-relu"):
        architecture = name
    elif name not in ("relu", architecture):
        raise DictionaryError(
            f"{files.weights} has the architecture {architecture!r} with the activation {name!r:.40}, which do not "
            "belong together."
        )
    core = _saelens_scaled(files, given, core)
    core |= _saelens_place(config, metadata)
    if architecture == "gated":
        return gated_from(files, core, "b_gate", "b_mag")
    if architecture in ("batchtopk", "matryoshka_batchtopk"):
        if "topk_threshold" not in files.tensors:
            raise DictionaryError(f"{files.weights} is a {architecture} file without its topk_threshold.")
        k = asked(files, given, "k", "k=...", "k in cfg.json", (config, "k"), (kwargs, "k"))
        threshold = scalar(files, "topk_threshold")
        return BatchTopK(threshold=threshold, target_k=max(1, round(positive_number(k, "k", files))), **core)
    return plain_kind(architecture, files, given, core, (config, "k"), (kwargs, "k"))


def _saelens_scaled(files: Files, given: Given, core: dict[str, Any]) -> dict[str, Any]:
    """The core with the file's rescalings in: decoder norms, fine-tuned factors, normalised inputs."""
    config, core = files.config, dict(core)
    lengths = core["decoder"].norm(dim=1)
    if flag(config, "rescale_acts_by_decoder_norm", files, False):
        # Selection goes by code times decoder length, which unit rows give by themselves.
        core["decoder"] = core["decoder"] / lengths[:, None]
        core["encoder"] = core["encoder"] * lengths[:, None]
        core["encoder_bias"] = core["encoder_bias"] * lengths
    finetuned = flag(config, "finetuning_scaling_factor", files, False)
    if "scaling_factor" in files.tensors:
        factor = tensor(files, "scaling_factor", (len(lengths),))
        if not finetuned and not bool((factor == 1).all()):
            raise DictionaryError(
                f"{files.weights} holds scaling factors that its config does not turn on (finetuning_scaling_factor)."
            )
        core["gain"] = factor
    elif finetuned:
        raise DictionaryError(
            f"{files.weights} lacks the tensor scaling_factor, which its config (finetuning_scaling_factor) asks for."
        )
    found = config.get("normalize_activations")
    how = {True: "expected_average_only_in", False: "none", None: "none"}.get(found, found)
    if how in ("layer_norm", "constant_norm_rescale"):
        return core | {"row_norm": "layer_norm" if how == "layer_norm" else "length"}
    if how not in ("none", "expected_average_only_in"):
        raise DictionaryError(f"{files.weights} normalises by {how!r:.80}, which no reader here knows.")
    scale = given.get("scale")
    if scale is None and "activation_scaler.json" in files.neighbours:
        try:
            scale = read_json(files.neighbours["activation_scaler.json"]).get("scaling_factor")
        except (OSError, ValueError, AttributeError) as error:
            raise DictionaryError(
                f"activation_scaler.json beside {files.weights} is damaged: {error}"
            ) from error
    if scale is None and how == "none":
        return core
    if scale is None:
        why = "it was trained on activations times a constant, which belongs in activation_scaler.json"
        raise missing(files, "scale", "scale=that constant, or 1 if it is already folded in", why)
    return scaled(core, positive_number(scale, "scale", files))


def _saelens_place(config: dict[str, Any], metadata: dict[str, Any]) -> dict[str, Any]:
    """Site and model as `export_sae` noted them. Other files name a hook but no tokens, which is no site."""
    for table in (config, metadata):
        for name in ("hook_name", "hook_point", "hook_layer", "hook_point_layer"):
            table.get(name)
    noted = {name: metadata.get(f"clipattr_{name}") for name in ("site", "model_hash")}
    return {name: value for name, value in noted.items() if isinstance(value, str)}


# sparsify: z = act((x - b_dec) W^T + b), x_hat = z W_dec + b_dec; one latent per row in both matrices. Transcoder: z =
# act(x W^T + b), prediction of the module's output z W_dec + b_dec (+ x W_skip^T).


@register_format("sparsify", lambda files: {"encoder.weight", "encoder.bias", "W_dec", "b_dec"} <= files.keys)
def read_sparsify(files: Files, given: Given) -> Dictionary:
    """The hookpoint is the name of the file's folder; tokens are not stored."""
    config = files.config
    encoder, decoder = matrices(files, given, "encoder.weight", "W_dec", encoder_rows=True, decoder_rows=True)
    size, width = decoder.shape
    check_sizes(
        files, config, size, width, sizes=("num_latents",), widths=("d_in",),
        factors=() if config.get("num_latents") else ("expansion_factor",),
    )  # fmt: skip
    config.get("expansion_factor")
    bias = tensor(files, "b_dec", (width,))
    core: dict[str, Any] = {"encoder": encoder, "decoder": decoder, "bias": bias}
    if flag(config, "transcode", files, False):
        core["input_site"] = _needed_site(files, given, "input_site")
        if flag(config, "skip_connection", files, False):
            core["skip"] = tensor(files, "W_skip", (width, width))
    else:
        core["pre_bias"] = bias.clone()
        if flag(config, "skip_connection", files, False):
            raise DictionaryError(
                f"{files.weights} says skip_connection without transcode, which do not go together."
            )
    core["encoder_bias"] = tensor(files, "encoder.bias", (size,))
    k = asked_k(files, given, "k in cfg.json", (config, "k"))
    why = "'topk' or 'groupmax' in cfg.json"
    name = asked(files, given, "activation", "activation='topk' or 'groupmax'", why, (config, "activation"))
    signed = flag(config, "signed", files, False)
    if name == "groupmax" and not signed:
        return GroupMax(k=k, **core)
    if name != "topk":
        raise DictionaryError(
            f"{files.weights} uses the activation {name!r:.80}{' with signs' * bool(signed)}; topk, and groupmax "
            "without signs, are supported."
        )
    return TopK(k=k, signed=bool(signed), **core)


def _needed_site(files: Files, given: Given, which: str) -> str:
    site = given.get(which)
    if site is None:
        hook = layer_and_stream(files.weights.parent.name)
        named = (
            None if hook is None else site_of(hook[0], "all", "mlp_in" if hook[1] == "mlp_out" else hook[1])
        )
        example = named or "image.5.mlp_in.all"
        why = "a transcoder reads one site and predicts another"
        raise missing(files, which, f"{which}={example!r} or the like, and site=", why)
    return str(site)


# OpenAI: z = act((x~ - pre_bias) W^T + latent_bias), x_hat~ = z W_dec^T + pre_bias. In OpenAI's own code x~ is the row
# normalised if the activation is TopK; projects that use its format without that exist, and the files do not differ.


@register_format(
    "openai",
    lambda files: {"pre_bias", "encoder.weight", "latent_bias"} <= files.keys,
    buffers=("stats_last_nonzero", "latents_activation_frequency", "latents_mean_square"),
)
def read_openai(files: Files, given: Given) -> Dictionary:
    """TopK files need `normalize`, since OpenAI's and others' look alike."""
    encoder, decoder = _openai_matrices(files, given)
    size, width = decoder.shape
    core: dict[str, Any] = {"encoder": encoder, "decoder": decoder, **tied_bias(files, "pre_bias", width)}
    core["encoder_bias"] = tensor(files, "latent_bias", (size,))
    name = asked(files, given, "activation", "activation='TopK' or 'ReLU'", "which also decides normalisation",
                 (files.content, "activation"))  # fmt: skip
    state = table_of(files.content, "activation_state_dict", files)
    topk = str(name).lower() == "topk"
    if topk or given.get("normalize") is not None:
        why = "OpenAI's own TopK files normalise each row, those of other projects in this format do not"
        asked(files, given, "normalize", "normalize=True or False", why)
        core["row_norm"] = "layer_norm" if flag(given, "normalize", files) else None
    if not topk:
        return plain_kind(name, files, given, core)
    k = asked_k(files, given, "activation_state_dict.k", (state, "k"))
    only(state, ("k", "postact_fn"), "activation_state_dict", files)
    after = str(state.get("postact_fn") or "ReLU").removesuffix("()")
    if after not in ("ReLU", "Identity"):
        raise DictionaryError(
            f"{files.weights} applies {after!r:.80} after top-k; ReLU and Identity are supported."
        )
    return TopK(k=k, signed=after == "Identity", **core)


def _openai_matrices(files: Files, given: Given) -> tuple[Tensor, Tensor]:
    tied = "decoder.linear.weight"  # the encoder's own weight, under a second name
    if "decoder.weight" in files.tensors or tied not in files.tensors:
        return matrices(
            files, given, "encoder.weight", "decoder.weight", encoder_rows=True, decoder_rows=False
        )
    encoder, decoder = matrices(files, given, "encoder.weight", tied, encoder_rows=True, decoder_rows=True)
    if not torch.equal(encoder, decoder):
        raise DictionaryError(f"{files.weights} has a tied decoder ({tied}) that differs from its encoder.")
    return encoder, decoder.clone()


# overcomplete: z = act(N(x W^T + b)), x_hat = z D, where N is nothing or batch normalisation, and D the rows of
# _weights, normalised as the constructor was told, times exp(multiplier).

DICTIONARY_NORMS = {
    "l2": lambda rows: rows / (rows.norm(dim=1, keepdim=True) + 1e-8),
    "max_l2": lambda rows: rows / rows.norm(dim=1).max(),
    "l1": lambda rows: rows / (rows.abs().sum(1, keepdim=True) + 1e-8),
    "max_l1": lambda rows: rows / rows.abs().sum(1).max(),
    "identity": lambda rows: rows,
}
BATCH_NORM_EPS = 1e-5  # torch.nn.BatchNorm1d's default, which overcomplete keeps and does not store
_BATCH_NORM = ("weight", "bias", "running_mean", "running_var")


@register_format(
    "overcomplete",
    lambda files: bool({"dictionary._weights", "dictionary.C"} & files.keys),
    buffers=("*.num_batches_tracked",),
)
def read_overcomplete(files: Files, given: Given) -> Dictionary:
    """Linear encoders, with batch normalisation or without. Activation and normalisation are not stored."""
    if "dictionary._weights" not in files.tensors:
        raise DictionaryError(
            f"{files.weights} is a relaxed archetypal dictionary: save its directions (get_dictionary()) with a plain "
            "encoder, or convert it where it was made."
        )
    if deeper := sorted(name for name in files.tensors if "_blocks." in name):
        raise DictionaryError(
            f"{files.weights} has an encoder of several blocks ({deeper[0]}); only encoders of one linear layer are "
            "supported."
        )
    names = ("encoder.final_block.0", "encoder")
    name = next((name for name in names if f"{name}.weight" in files.tensors), None)
    if name is None:
        raise DictionaryError(f"{files.weights} has no linear encoder; it has {few(sorted(files.tensors))}.")
    encoder, decoder = matrices(
        files, given, f"{name}.weight", "dictionary._weights", encoder_rows=True, decoder_rows=True
    )
    size = len(encoder)
    how = asked(
        files, given, "normalize", f"normalize= one of {', '.join(map(repr, DICTIONARY_NORMS))} (the constructor's "
        "default is 'l2')", "the dictionary layer's normalization is not stored",
    )  # fmt: skip
    if how not in DICTIONARY_NORMS:
        raise DictionaryError(f"normalize is one of {', '.join(DICTIONARY_NORMS)}; got {how!r:.40}.")
    decoder = DICTIONARY_NORMS[how](decoder)
    if "dictionary.multiplier" in files.tensors:
        decoder = decoder * torch.tensor(scalar(files, "dictionary.multiplier")).exp()
    bias = torch.zeros(size)
    if name == names[0] or "encoder.bias" in files.tensors:
        bias = tensor(files, f"{name}.bias", (size,))
    core = {"decoder": decoder, **_batch_normed(files, encoder, bias)}
    why = "the files hold tensors only"
    kind = str(
        asked(files, given, "activation", "activation='relu', 'topk', 'jumprelu' or 'batchtopk'", why)
    ).lower()
    if kind == "jumprelu":
        return JumpRelu(threshold=tensor(files, "thresholds", (size,)).exp(), **core)
    if kind == "batchtopk":
        threshold = asked(files, given, "threshold", "threshold=its running_threshold", why)
        k = given.get("k")
        return BatchTopK(
            threshold=signed_number(threshold, "threshold", files),
            target_k=1 if k is None else whole_number(k, "k", files),
            **core,
        )
    return plain_kind(kind, files, given, core)


def _batch_normed(files: Files, encoder: Tensor, bias: Tensor) -> dict[str, Tensor]:
    """Encoder and its bias with the batch normalisation behind them folded in; LayerNorm cannot be."""
    block = "encoder.final_block.1"
    held = sorted(name for name in files.tensors if name.startswith(f"{block}."))
    if not held:
        return {"encoder": encoder, "encoder_bias": bias}
    if f"{block}.running_var" not in files.tensors:
        raise DictionaryError(
            f"{files.weights} normalises its pre-activations across latents ({', '.join(held)}), which no kind of "
            "dictionary here reproduces. Encoders without LayerNorm load."
        )
    weight, shift, mean, variance = (tensor(files, f"{block}.{part}", (len(bias),)) for part in _BATCH_NORM)
    factor = weight.double() / (variance.double() + BATCH_NORM_EPS).sqrt()
    folded = (bias.double() - mean.double()) * factor + shift.double()
    return {"encoder": (encoder.double() * factor[:, None]).float(), "encoder_bias": folded.float()}
