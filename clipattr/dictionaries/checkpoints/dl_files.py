"""Reader of dictionary_learning's files and its fork in sae-for-vlm: z = act((x - b) W + b_enc), x_hat = z W_dec + b.

Matrices are stored with latents in rows or columns depending on the class. BatchTopK and Matryoshka infer with
z (z > threshold), TopK with the k largest.
"""

from __future__ import annotations

from itertools import accumulate
from typing import Any

from clipattr.dictionaries.batchtopk import BatchTopK
from clipattr.dictionaries.checkpoints.clip_files import gated_from, standard_core
from clipattr.dictionaries.checkpoints.formats import (
    Given,
    check_sizes,
    flag,
    matrices,
    missing,
    register_format,
    scalar,
    signed_number,
    table_of,
    tensor,
    tied_bias,
    whole_number,
)
from clipattr.dictionaries.checkpoints.reading import Files
from clipattr.dictionaries.jumprelu import JumpRelu
from clipattr.dictionaries.matryoshka import Matryoshka
from clipattr.dictionaries.relu import Relu
from clipattr.dictionaries.sae import Dictionary
from clipattr.dictionaries.topk import TopK
from clipattr.display.wording import few
from clipattr.errors import DictionaryError

LINEAR = {"encoder.weight", "encoder.bias", "decoder.weight"}
SIGNATURES = {
    "standard": LINEAR | {"bias"},
    "new": LINEAR | {"decoder.bias"},
    "gated": {"decoder_bias", "encoder.weight", "r_mag", "gate_bias", "mag_bias", "decoder.weight"},
    "matryoshka": {"k", "threshold", "group_sizes", "W_enc", "W_dec", "b_enc", "b_dec"},
    "jumprelu": {"W_enc", "W_dec", "b_enc", "b_dec", "threshold"},
    "topk": LINEAR | {"k", "b_dec"},  # and threshold in newer files
}
CLASSES = {
    "AutoEncoder": ("standard", "new"),
    "AutoEncoderNew": ("new",),
    "GatedAutoEncoder": ("gated",),
    "JumpReluAutoEncoder": ("jumprelu",),
    "AutoEncoderTopK": ("topk",),
    "BatchTopKSAE": ("topk",),
    "MatryoshkaBatchTopKSAE": ("matryoshka",),
}


def _matches(files: Files) -> bool:
    trainer = files.config.get("trainer")
    return (isinstance(trainer, dict) and "dict_class" in trainer) or any(
        signature <= files.keys for signature in SIGNATURES.values()
    )


@register_format("dictionary-learning", _matches)
def read_dictionary_learning(files: Files, given: Given) -> Dictionary:
    """The class comes from config.json; without it, from the tensors' names where they are unique to one class."""
    config = table_of(files.config, "trainer", files)
    stated = config.get("dict_class")
    name = given.get("dict_class") if "dict_class" in given else stated
    if name is not None and name not in CLASSES:
        raise DictionaryError(
            f"{files.weights} has the class {name!r:.80}; {', '.join(CLASSES)} are supported."
        )
    layouts = tuple(SIGNATURES) if name is None else CLASSES[name]
    layout = next((layout for layout in layouts if SIGNATURES[layout] <= files.keys), None)
    if layout is None:
        wanted = " or ".join(str(sorted(SIGNATURES[layout])) for layout in layouts)
        raise DictionaryError(f"{files.weights} should hold {wanted}; it has {few(sorted(files.tensors))}.")
    config.get("norm_factor")  # sae-for-vlm has already folded it into biases and thresholds
    made = _by_layout(layout, name, files, given, config)
    check_sizes(files, config, made.n_latents, made.width, sizes=("dict_size",), widths=("activation_dim",))
    return made


def _by_layout(
    layout: str, name: str | None, files: Files, given: Given, config: dict[str, Any]
) -> Dictionary:
    if layout == "matryoshka":
        core = standard_core(files, given)
        sizes = files.tensors["group_sizes"].flatten().tolist()
        prefixes = list(accumulate(whole_number(size, "group_sizes", files) for size in sizes))
        return Matryoshka(prefixes=prefixes, **_threshold(files, given, config), **core)
    if layout == "jumprelu":
        if given.get("pre_bias") is None:
            raise missing(files, "pre_bias", "pre_bias=True or False", "whether b_dec is subtracted first")
        core = standard_core(files, given, pre_bias=bool(flag(given, "pre_bias", files)))
        return JumpRelu(threshold=tensor(files, "threshold", (len(core["decoder"]),)), **core)
    encoder, decoder = matrices(
        files, given, "encoder.weight", "decoder.weight", encoder_rows=True, decoder_rows=False
    )
    size, width = decoder.shape
    core = {"encoder": encoder, "decoder": decoder}
    if layout == "gated":
        return gated_from(files, core | tied_bias(files, "decoder_bias", width), "gate_bias", "mag_bias")
    core["encoder_bias"] = tensor(files, "encoder.bias", (size,))
    if layout == "new":
        return Relu(bias=tensor(files, "decoder.bias", (width,)), **core)
    core |= tied_bias(files, "bias" if layout == "standard" else "b_dec", width)
    if layout == "standard":
        return Relu(**core)
    if name is None:
        why = "TopK and BatchTopK files have the same tensors but select differently"
        raise missing(files, "dict_class", "dict_class='AutoEncoderTopK' or 'BatchTopKSAE'", why)
    if name == "BatchTopKSAE":
        return BatchTopK(**_threshold(files, given, config), **core)
    if "threshold" in files.tensors:
        scalar(files, "threshold")  # stored for a later conversion; TopK inference does not use it
    k = given.get("k")
    return TopK(k=_k(files, config) if k is None else whole_number(k, "k", files), **core)


def _k(files: Files, config: dict[str, Any]) -> int:
    held = whole_number(scalar(files, "k", whole=True), "k", files)
    stated = config.get("k")
    if stated is not None and whole_number(stated, "trainer.k", files) != held:
        raise DictionaryError(
            f"{files.weights} holds k = {held}, its config says {stated!r:.40}: pass k=... to decide."
        )
    return held


def _threshold(files: Files, given: Given, config: dict[str, Any]) -> dict[str, Any]:
    told = given.get("threshold")
    held = scalar(files, "threshold") if "threshold" in files.tensors else None
    threshold = held if told is None else signed_number(told, "threshold", files)
    if threshold is None or threshold < 0:
        raise missing(
            files,
            "threshold",
            "threshold=..., or dict_class='AutoEncoderTopK'",
            "-1: it was never calibrated",
        )
    return {"threshold": threshold, "target_k": _k(files, config)}
