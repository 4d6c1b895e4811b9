"""Readers of files from CLIP projects: attributing-clip, HugoFry and its heirs, MSAE, DN-CBM, clipscope, saev.

The comment above each reader states the forward pass of its project: x is the activation, z the codes, x_hat the
reconstruction. Prisma is in `prisma_files.py`.
"""

from __future__ import annotations

import re
from typing import Any

import torch

from clipattr.dictionaries.batchtopk import BatchTopK
from clipattr.dictionaries.checkpoints.formats import (
    Given,
    asked,
    asked_k,
    check_sizes,
    flag,
    matrices,
    missing,
    plain_kind,
    positive_number,
    register_format,
    scalar,
    scaled,
    signed_number,
    table_of,
    tensor,
    tied_bias,
)
from clipattr.dictionaries.checkpoints.places import site_of, stream_of_hook
from clipattr.dictionaries.checkpoints.reading import Files
from clipattr.dictionaries.gated import Gated
from clipattr.dictionaries.jumprelu import JumpRelu
from clipattr.dictionaries.relu import Relu
from clipattr.dictionaries.sae import Dictionary
from clipattr.dictionaries.topk import TopK
from clipattr.display.wording import few
from clipattr.errors import DictionaryError

STANDARD = {"W_enc", "b_enc", "W_dec", "b_dec"}


def standard_core(
    files: Files, given: Given, *, pre_bias: bool = True, encoder_bias: bool = True
) -> dict[str, Any]:
    """Constructor arguments from W_enc (d, n), W_dec (n, d), b_dec (d) and, unless the kind has none, b_enc (n)."""
    encoder, decoder = matrices(files, given, "W_enc", "W_dec", encoder_rows=False, decoder_rows=True)
    size, width = decoder.shape
    bias = tensor(files, "b_dec", (width,))
    core = {"encoder": encoder, "decoder": decoder, "bias": bias}
    if encoder_bias:
        core["encoder_bias"] = tensor(files, "b_enc", (size,))
    if pre_bias:
        core["pre_bias"] = bias.clone()
    return core


def gated_from(files: Files, core: dict[str, Any], gate: str, magnitude: str) -> Dictionary:
    """Gated: active where W x + b_gate > 0, with strength ReLU(exp(r_mag) W x + b_mag).

    Args:
        gate, magnitude: names of the tensors b_gate and b_mag.
    """
    size = len(core["decoder"])
    gain, gate_bias = tensor(files, "r_mag", (size,)).exp(), tensor(files, gate, (size,))
    shift = tensor(files, magnitude, (size,)) - gain * gate_bias
    return Gated(mag_gain=gain, mag_bias=shift, **{**core, "encoder_bias": gate_bias})


# attributing-clip: z = the k largest of W_enc x + b, signs kept; x_hat = W_dec z. Both matrices are weight-normalised.

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
    """Weight norm in the old or the new spelling; k, layer and tokens come from the yaml file or the file name."""
    g_enc, v_enc, g_dec, v_dec = AC_KEYS if AC_KEYS[0] in files.tensors else AC_NEW_KEYS
    encoder, decoder = matrices(files, given, v_enc, v_dec, encoder_rows=True, decoder_rows=False)
    size, width = encoder.shape
    encoder = encoder / encoder.norm(dim=1, keepdim=True) * tensor(files, g_enc, (size, 1))
    decoder = decoder / decoder.norm(dim=1, keepdim=True) * tensor(files, g_dec, (1, size)).T
    named = AC_NAME.search(files.weights.name)
    parts: dict[str, Any] = named.groupdict() if named else {}
    config = files.config
    check_sizes(files, config, size, width, sizes=("sae_hidden_dim",))
    if parts and int(parts["n"]) != size:
        raise DictionaryError(
            f"{files.weights} holds {size} latents, its name says {parts['n']}: it was renamed or damaged. Restore the "
            "publisher's name or file."
        )
    layer, tokens = config.get("sae_layer_idx"), config.get("sae_token")
    if layer is None and parts:
        layer = int(parts["layer"])
    return TopK(
        k=asked_k(files, given, "sae_k of its yaml file", (config, "sae_k"), (parts, "k")),
        signed=True,
        encoder=encoder,
        decoder=decoder,
        encoder_bias=tensor(files, "encoder.0.bias", (size,)),
        site=site_of(layer, parts.get("tokens") if tokens is None else tokens),
    )


# HugoFry, PatchSAE, ConceptScope: z = ReLU((x - b_dec) W_enc + b_enc), x_hat = z W_dec + b_dec.


@register_format(
    "hugofry", lambda files: {"W_enc", "W_dec", "b_dec"} <= files.keys and "block_layer" in files.config
)
def read_hugofry(files: Files, given: Given) -> Dictionary:
    """Sites come from block_layer, module_name and class_token."""
    config = files.config
    cls = flag(config, "class_token", files)
    tokens = None if cls is None else "cls" if cls else "all"
    gated = flag(config, "gated_sae", files, False)
    named_gate = "b_gate" in files.tensors
    core = standard_core(files, given, encoder_bias=not gated)
    size, width = core["decoder"].shape
    check_sizes(files, config, size, width, sizes=("d_sae",), widths=("d_in",), factors=("expansion_factor",))
    module = config.get("module_name")
    core["site"] = site_of(
        config.get("block_layer"), tokens, stream_of_hook("resid" if module is None else module)
    )
    if gated:
        return gated_from(files, core, "b_gate" if named_gate else "b_enc", "b_mag")
    return Relu(**core)


# MSAE: x' = (x - mean) scale, z = act((x' - pre_bias) encoder + latent_bias), x_hat = (z decoder + pre_bias) / scale
# + mean. Activations by name: ReLU; TopK (signs kept), TopKReLU; JumpReLU. TopKabs* takes absolute values before
# selecting, and BatchTopK* selects over a batch; neither is a function of one row's pre-activations as kinds here are.

MSAE_NAME = re.compile(
    r"^\d+_\d+_(?P<activation>[A-Za-z]+)(?:_(?P<k>\d+))?(?:_[RU]W)?_(?P<tied>True|False)_(?P<normalize>True|False)"
    r"_(?P<softcap>[\d.]+)_"
)


@register_format(
    "msae",
    lambda files: {"encoder", "pre_bias", "latent_bias"} <= files.keys,
    buffers=("latents_activation_frequency", "dead_activations.*"),
)
def read_msae(files: Files, given: Given) -> Dictionary:
    """Activation, k, tying, row normalisation and soft cap are in the original file name only."""
    named = MSAE_NAME.match(files.weights.name)
    parts: dict[str, Any] = named.groupdict() if named else {}
    why = "it is part of the original file name only"
    tied = asked(files, given, "tied", "tied=True or False", why, (parts, "tied")) in (True, "True")
    if tied:
        encoder, _ = matrices(files, given, "encoder", "encoder", encoder_rows=False, decoder_rows=False)
        decoder = encoder.clone()
    else:
        encoder, decoder = matrices(files, given, "encoder", "decoder", encoder_rows=False, decoder_rows=True)
    size, width = decoder.shape
    normalise = asked(files, given, "normalize", "normalize=True or False", why, (parts, "normalize"))
    if normalise not in (False, "False"):
        raise DictionaryError(
            f"{files.weights} has normalize={normalise!r}: it normalises rows after centring, a combination that is "
            "not supported. Models trained with normalize=False load."
        )
    softcap = asked(files, given, "softcap", "softcap=0 for none", why, (parts, "softcap"))
    activation = str(
        asked(files, given, "activation", "activation='ReLU', 'TopK', ...", why, (parts, "activation"))
    )
    for field in ("mean_center", "scaling_factor"):
        if field not in files.content:
            raise missing(
                files, field, "nothing: the file is incomplete", "inputs cannot be brought to its units"
            )
    files.content.get("target_norm")  # the length that scaling_factor was computed for
    cap = signed_number(softcap, "softcap", files)
    core: dict[str, Any] = {"encoder": encoder, "decoder": decoder, **tied_bias(files, "pre_bias", width)}
    core["encoder_bias"] = tensor(files, "latent_bias", (size,))
    try:
        mean = torch.as_tensor(files.content["mean_center"]).float().flatten()
    except (TypeError, ValueError, RuntimeError) as error:
        raise DictionaryError(f"mean_center in {files.weights} is no tensor: {error}") from error
    if mean.numel() not in (1, width):
        raise DictionaryError(f"mean_center in {files.weights} has {mean.numel()} numbers for width {width}.")
    scale = positive_number(files.content["scaling_factor"], "scaling_factor", files)
    core = scaled(core, scale, mean.expand(width)) | {"softcap": cap if cap > 0 else None}
    spelt = activation.lower()
    if spelt == "jumprelu":
        return JumpRelu(threshold=tensor(files, "activation.log_threshold", (size,)).exp(), **core)
    if spelt == "relu":
        return Relu(**core)
    if spelt in ("topk", "topkrelu"):
        return TopK(k=asked_k(files, given, why, (parts, "k")), signed=spelt == "topk", **core)
    raise DictionaryError(
        f"{files.weights} uses the activation {activation!r:.80}. ReLU, TopK, TopKReLU and JumpReLU are supported; "
        "TopKabs takes absolute values of pre-activations and BatchTopK selects over a whole batch, which no kind of "
        "dictionary here reproduces."
    )


# DN-CBM: z = ReLU((x - b) W_enc^T + b_enc), x_hat = z W_dec^T + b; every tensor has a leading axis of length 1.
# x is CLIP's image embedding before it is normalised.

DN_BIASES = ("tied_bias", "pre_encoder_bias._bias_reference", "post_decoder_bias._bias_reference")


@register_format(
    "dn-cbm", lambda files: {"encoder._weight", "encoder._bias", "decoder._weight"} <= files.keys
)
def read_dn_cbm(files: Files, given: Given) -> Dictionary:
    """The bias may be stored under up to three names, which must agree."""
    flat = {}
    own = {*DN_BIASES, "encoder._weight", "encoder._bias", "decoder._weight"}
    for name in [name for name in files.tensors if name in own]:
        value = files.tensors[name]
        if value.ndim < 2 or value.shape[0] != 1:
            raise DictionaryError(
                f"Tensor {name!r} in {files.weights} has shape {tuple(value.shape)}; this format keeps one component, "
                "on a leading axis of length 1."
            )
        flat[name] = value[0]
    inner = Files(files.weights, files.content, flat, files.config)
    encoder, decoder = matrices(
        inner, given, "encoder._weight", "decoder._weight", encoder_rows=True, decoder_rows=False
    )
    size, width = encoder.shape
    found = [tensor(inner, name, (width,)) for name in DN_BIASES if name in flat]
    if not found:
        raise DictionaryError(
            f"{files.weights} has no tied bias ({' or '.join(DN_BIASES)}); it has {few(sorted(files.tensors))}. "
            "The file is incomplete, or of another format: name it with format=..."
        )
    if any(not torch.equal(found[0], other) for other in found[1:]):
        raise DictionaryError(
            f"{files.weights} stores its tied bias under {len(found)} names with different values: the file is damaged "
            "or edited. Download it again."
        )
    return Relu(
        encoder=encoder,
        decoder=decoder,
        bias=found[0],
        pre_bias=found[0].clone(),
        encoder_bias=tensor(inner, "encoder._bias", (size,)),
        site="image.embedding",
    )


# clipscope: z = the k largest of (x - pre_b) enc, signs kept; x_hat = z dec + pre_b.


@register_format("clipscope", lambda files: {"pre_b", "enc", "dec"} <= files.keys)
def read_clipscope(files: Files, given: Given) -> Dictionary:
    """Neither layer nor tokens are in the file; the project's card says all tokens."""
    encoder, decoder = matrices(files, given, "enc", "dec", encoder_rows=False, decoder_rows=True)
    size, width = encoder.shape
    check_sizes(files, files.content, size, width, sizes=("n_features",), widths=("d_in",))
    core = {"encoder": encoder, "decoder": decoder, **tied_bias(files, "pre_b", width)}
    return TopK(k=asked_k(files, given, "active latents per row", (files.content, "k")), signed=True, **core)


# saev from schema 1 on: z = act(x W_enc + b_enc), x_hat = z W_dec + b_dec. TopK and BatchTopK keep signs.


@register_format(
    "saev", lambda files: files.header is not None and "schema" in files.header and files.keys >= STANDARD
)
def read_saev(files: Files, given: Given) -> Dictionary:
    """The header says everything but the site."""
    header = files.header or {}
    if header["schema"] not in (1, 2, 3, 4, 5) or isinstance(header["schema"], bool):
        raise DictionaryError(f"{files.weights} has saev schema {header['schema']!r:.40}; 1 to 5 are known.")
    config = table_of(header, "cfg", files)
    activation = config.get("activation") or header.get("activation") or {}
    if isinstance(activation, str):
        activation = {"cls": activation, "params": config}
    elif not isinstance(activation, dict):
        raise DictionaryError(
            f"{files.weights} has the activation {activation!r:.80}; a name or a table is expected."
        )
    name = asked(files, given, "activation", "activation='relu', 'topk' or 'batchtopk'", "cfg.activation.cls",
                 (activation, "cls"))  # fmt: skip
    params = table_of(activation, "params", files)
    core = standard_core(files, given, pre_bias=False)
    size, width = core["decoder"].shape
    check_sizes(
        files, config, size, width, sizes=("d_sae",), widths=("d_model", "d_vit"), factors=("exp_factor",)
    )
    spelt = str(name).split(".")[-1].lower()
    top_k = ("activation.params.top_k", (params, "top_k"), (params, "k"))
    if spelt == "batchtopk":
        threshold = given.get("threshold")
        if threshold is None and "activation.threshold" in files.tensors:
            threshold = scalar(files, "activation.threshold")
        if threshold is None:
            raise missing(files, "threshold", "threshold=...", "BatchTopK at inference")
        threshold = signed_number(threshold, "threshold", files)
        k = asked_k(files, given, *top_k)
        if threshold <= 0:
            return Relu(**core)
        return BatchTopK(threshold=threshold, target_k=k, **core)
    if spelt == "topk":
        return TopK(k=asked_k(files, given, *top_k), signed=True, **core)
    return plain_kind(spelt, files, given, core)


# saev before it had schemas: x~ = (x - mean) / scalar, z = ReLU((x~ - b_dec) W_enc + b_enc), x_hat~ = z W_dec + b_dec.
# mean and scalar were on by default and are not stored.


@register_format("saev0", lambda files: files.header is not None and files.keys >= STANDARD)
def read_saev0(files: Files, given: Given) -> Dictionary:
    """The input normalisation must be given by keyword."""
    why = "files of this age were trained on (x - mean) / scalar and store neither"
    if given.get("mean") is None:
        raise missing(files, "mean", "mean=a tensor, or 0 if inputs were not centred", why)
    if given.get("scalar") is None:
        raise missing(files, "scalar", "scalar=a number, or 1 if inputs were not scaled", why)
    core = standard_core(files, given)
    size, width = core["decoder"].shape
    header = files.header or {}
    check_sizes(files, header, size, width, widths=("d_vit",), factors=("exp_factor",))
    mean = torch.as_tensor(given["mean"]).float().expand(width)
    return Relu(**scaled(core, 1 / positive_number(given["scalar"], "scalar", files), mean))
