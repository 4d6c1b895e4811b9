"""Export: write dictionaries in formats that others read, SAELens's folder or one plain safetensors file.

Owns both layouts and the rule which dictionaries they can hold. `load_sae` reads both back bit for bit. Start at
`export_sae`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clipattr.dictionaries.batchtopk import BatchTopK
from clipattr.dictionaries.gated import Gated
from clipattr.dictionaries.jumprelu import JumpRelu
from clipattr.dictionaries.relu import Relu
from clipattr.dictionaries.sae import Dictionary
from clipattr.dictionaries.topk import TopK
from clipattr.errors import DictionaryError
from clipattr.storage.files import save_tensors
from clipattr.storage.paths import user_path

NOTE = "clipattr"  # key of our note in the header of a safetensors file
NOTE_SCHEMA = 1
EXACT_COPY = "clipattr"  # subfolder with the own format, where SAELens's layout cannot hold every bit
FORMULA = (
    "pre = (x - b_pre) @ W_enc + b_enc; z = select(pre), see kind and settings; z = softcap * tanh(z / softcap) if "
    "any; z = z * gain if any; x_hat = z @ W_dec + b_dec (+ x @ W_skip.T). With row_norm, x is normalised by its own "
    "statistics first, and codes and b_dec are multiplied by its deviation."
)
_RENAMED = {  # our constructor arguments -> names in the file; matrices that are stored (width, n_latents)
    "encoder": "W_enc", "decoder": "W_dec", "encoder_bias": "b_enc", "bias": "b_dec", "pre_bias": "b_pre",
    "skip": "W_skip",
}  # fmt: skip


def export_sae(dictionary: Dictionary, path: str | Path, format: str = "saelens") -> Path:
    """Write a dictionary so that other libraries can read it.

    Args:
        dictionary: the dictionary to write.
        path: for "saelens" the folder to write (cfg.json, sae_weights.safetensors); for "safetensors" the file.
        format: "saelens" holds ReLU, TopK, JumpReLU, gated, BatchTopK and Matryoshka dictionaries; BatchTopK and
            Matryoshka become JumpReLU with one threshold, as SAELens itself exports them. "safetensors" holds every
            kind, with the forward formula in its header.

    Returns:
        The path. `load_sae(path)` gives a dictionary with the same hash.

    Raises:
        DictionaryError: a kind or setting that SAELens has no words for, or a path that cannot be written.

    >>> import tempfile, torch
    >>> import clipattr as ca
    >>> from clipattr.dictionaries import TopK
    >>> made = TopK(k=1, decoder=torch.eye(2), encoder=torch.eye(2), site="image.-1.cls")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = ca.export_sae(made, f"{folder}/two.safetensors", "safetensors")
    ...     ca.load_sae(path).hash == made.hash
    True
    """
    path = user_path(path)
    if format == "safetensors":
        return _write_plain(dictionary, path)
    if format != "saelens":
        raise DictionaryError(f"format is 'saelens' or 'safetensors'; got {format!r}.")
    config, tensors = saelens_parts(dictionary)
    path.mkdir(parents=True, exist_ok=True)
    if not _is_exact(dictionary):
        dictionary.save(path / EXACT_COPY)
    _write(tensors, path / "sae_weights.safetensors", {})
    (path / "cfg.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    return path


def saelens_parts(dictionary: Dictionary) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """SAELens's config and tensors of a dictionary.

    Raises:
        DictionaryError: naming the kind or setting that SAELens has no words for.
    """
    reason = _not_in_saelens(dictionary)
    if reason:
        raise DictionaryError(
            f"SAELens cannot hold this dictionary: {reason}. Use export_sae(dictionary, FILE, 'safetensors')."
        )
    config: dict[str, Any] = {
        "d_in": dictionary.width,
        "d_sae": dictionary.n_latents,
        "dtype": "float32",
        "device": "cpu",
        "normalize_activations": {
            None: "none",
            "layer_norm": "layer_norm",
            "length": "constant_norm_rescale",
        }[dictionary.row_norm],
        "reshape_activations": "none",
        "metadata": {
            "clipattr_site": dictionary.site,
            "clipattr_hash": dictionary.hash,
            "clipattr_model_hash": dictionary.model_hash,
        },
    }
    gain = torch.ones(dictionary.n_latents) if dictionary.gain is None else dictionary.gain
    encoder_bias = dictionary.encoder_bias
    subtracts = torch.equal(dictionary.pre_bias, dictionary.bias) and bool(dictionary.bias.any())
    if not subtracts and bool(dictionary.pre_bias.any()):
        # SAELens subtracts b_dec or nothing, so another pre-bias goes into the encoder's bias.
        encoder_bias = (
            encoder_bias.double() - dictionary.encoder.double() @ dictionary.pre_bias.double()
        ).float()
    config["apply_b_dec_to_input"] = subtracts
    tensors = {
        "W_enc": dictionary.encoder.T,
        "W_dec": dictionary.decoder if dictionary.gain is None else dictionary.decoder * gain[:, None],
        "b_dec": dictionary.bias,
    }
    if isinstance(dictionary, Gated):
        config["architecture"] = "gated"
        tensors |= {
            "b_gate": encoder_bias,
            "r_mag": dictionary.mag_gain.log(),
            "b_mag": dictionary.mag_bias + dictionary.mag_gain * encoder_bias,
        }
        return config, tensors
    tensors["b_enc"] = encoder_bias
    if isinstance(dictionary, JumpRelu):
        config["architecture"] = "jumprelu"
        tensors["threshold"] = dictionary.threshold
    elif isinstance(dictionary, BatchTopK):
        config["architecture"] = "jumprelu"
        tensors["threshold"] = torch.full((dictionary.n_latents,), dictionary.threshold)
    elif isinstance(dictionary, TopK):
        config |= {"architecture": "topk", "k": dictionary.k, "rescale_acts_by_decoder_norm": False}
    else:
        config["architecture"] = "standard"
    return config, tensors


def _not_in_saelens(dictionary: Dictionary) -> str | None:
    if dictionary.is_transcoder:
        return "it is a transcoder"
    if dictionary.softcap is not None:
        return "it has a soft cap"
    if not isinstance(dictionary, (Relu, TopK, JumpRelu, Gated, BatchTopK)):
        return f"it has no kind {dictionary.kind!r}"
    if isinstance(dictionary, TopK) and dictionary.signed:
        return "its TopK applies a ReLU, this one keeps signs"
    if isinstance(dictionary, Gated) and not bool((dictionary.mag_gain > 0).all()):
        return "its gated kind needs gains above 0"
    if dictionary.gain is not None and not bool((dictionary.gain > 0).all()):
        return "some decoder rows have length 0 or a negative gain"
    return None


def _is_exact(dictionary: Dictionary) -> bool:
    """Whether the reader gets the very same tensors and kind back from SAELens's layout."""
    plain = isinstance(dictionary, (Relu, TopK, JumpRelu)) and dictionary.gain is None
    return plain and (
        not bool(dictionary.pre_bias.any()) or torch.equal(dictionary.pre_bias, dictionary.bias)
    )


def _write_plain(dictionary: Dictionary, path: Path) -> Path:
    tensors = {_RENAMED.get(name, name): value for name, value in dictionary._all_tensors().items()}
    tensors["W_enc"] = tensors["W_enc"].T
    note = {
        "schema": NOTE_SCHEMA, "formula": FORMULA, "hash": dictionary.hash, **dictionary._identity(),
        "site": dictionary.site, "input_site": dictionary.input_site, "model_hash": dictionary.model_hash,
        "info": dictionary.info,
    }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(tensors, path, {NOTE: json.dumps(note, sort_keys=True)})
    return path


def _write(tensors: dict[str, Tensor], path: Path, note: dict[str, str]) -> None:
    try:
        save_tensors(path, {name: t.detach().cpu().clone() for name, t in tensors.items()}, note)
    except Exception as error:
        raise DictionaryError(f"{path} could not be written: {error}") from error


def plain_arguments(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Constructor arguments from the tensors of a plain safetensors file."""
    back = {there: here for here, there in _RENAMED.items()}
    parts = {back.get(name, name): value for name, value in tensors.items()}
    if "encoder" in parts:
        parts["encoder"] = parts["encoder"].T
    return parts
