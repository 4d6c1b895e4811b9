"""Weights: where a model's weights are found, and how they are read without trusting them.

Owns names, tags, folders and hub ids, the checks of what comes from them, and the hash of weights. Files are
opened as safetensors or with torch's weights-only unpickler; whatever is missing, damaged or more than
tensors stops with a `ModelError`. Knows nothing of pictures or texts. Start at `find_weights`.
"""

import difflib
import hashlib
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
from torch import nn

from clipattr.errors import ModelError
from clipattr.models.huggingface import EXTRA, PREFIX, find_transformers, transformers_or_error
from clipattr.storage.documents import read_json

CONFIG_NAME = "open_clip_config.json"
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pth")
LOCAL, HUB = "local-dir:", "hf-hub:"

# Well above every published CLIP; with these, a hostile configuration cannot ask for more than a large model's memory.
LARGEST_SIZES = {
    "embed_dim": 16_384, "width": 16_384, "layers": 256, "heads": 1_024, "head_width": 4_096, "image_size": 4_096,
    "patch_size": 1_024, "vocab_size": 2_000_000, "context_length": 65_536, "mlp_ratio": 64, "depth": 256,
}  # fmt: skip

# The eight variants of arXiv:2505.20229, by their open_clip names.
PAPER_VARIANTS = (
    ("ViT-B-32", "datacomp_xl_s13b_b90k"),
    ("ViT-B-32", "datacomp_m_s128m_b4k"),
    ("ViT-B-32", "laion400m_e32"),
    ("ViT-B-32", "laion2b_s34b_b79k"),
    ("ViT-B-16", "datacomp_xl_s13b_b90k"),
    ("ViT-L-14", "datacomp_xl_s13b_b90k"),
    ("ViT-L-14-336", "openai"),
    ("ViT-H-14-quickgelu", "dfn5b"),
)


@dataclass(frozen=True)
class Found:
    """A module with its weights in, the string that finds it again, and how to make its tokenizer when
    needed."""

    clip: nn.Module
    reference: str
    make_tokenizer: Callable[[], Any]
    preprocess: Callable[[Any], Any] | None = (
        None  # where the module does not say itself how pictures are prepared
    )


def find_weights(name: str, pretrained: str | None = None) -> Found:
    """Find and read what `load_model` was asked for by name; see there for the forms of `name`.

    Raises:
        ModelError: unknown name or tag (with the nearest ones), weights missing, unreadable, unsafe or not
            fitting.
    """
    if name.startswith((LOCAL, HUB, PREFIX)) and pretrained is not None:
        raise ModelError(f"{name!r} names its own weights; leave out pretrained={pretrained!r}.")
    if name.startswith(LOCAL):
        folder = Path(name.removeprefix(LOCAL)).expanduser().resolve()
        return _find_folder(folder, f"{LOCAL}{folder}")
    if name.startswith(HUB):
        return _find_on_hub(name)
    if name.startswith(PREFIX):
        return Found(*find_transformers(name.removeprefix(PREFIX)))
    if pretrained is None and name in (bundled := bundled_models()):
        return _find_folder(bundled[name], name)
    return _find_named(name, pretrained)


def bundled_models() -> dict[str, Path]:
    """The folders of the models that come with the package, by name."""
    import clipattr_data

    configs = Path(clipattr_data.models_dir()).glob(f"*/{CONFIG_NAME}")
    return {path.parent.name: path.parent for path in configs}


def _find_named(name: str, pretrained: str | None) -> Found:
    """NAME with a tag or a file of weights, through open_clip."""
    if pretrained is None and ":" in name:
        name, pretrained = name.split(":", 1)
    written, name = name, name.replace("/", "-")
    architectures = open_clip.list_models()
    if name not in architectures:
        known = [*bundled_models(), *architectures]
        hint = f" If you mean the folder, write {LOCAL}{written}." if Path(written).is_dir() else ""
        raise ModelError(
            f"There is no model named {written!r}.{_nearest(name, known)}{hint} list_models() shows all."
        )
    tags = open_clip.list_pretrained_tags_by_model(name)
    reference = f"{name}:{pretrained}"
    if not pretrained:
        raise ModelError(
            f"{name} needs weights: write {name}:TAG with one of {', '.join(tags) or '(no tags known)'}, "
            "or give pretrained= the path of a file."
        )
    tag = open_clip.get_pretrained_cfg(name, pretrained)
    if not tag and not Path(pretrained).is_file():
        listed = f"Its tags: {', '.join(tags)}" if tags else "open_clip knows no tags for it"
        raise ModelError(
            f"{name} has no weights {pretrained!r}, and there is no such file."
            f"{_nearest(pretrained, tags)} {listed}."
        )
    # Weights trained with QuickGELU under a configuration with plain GELU (ViT-L-14-336:openai,
    # ViT-B-32:laion400m_e32) would run with the wrong activation, of which open_clip only warns. The weights
    # know better than the name.
    quick_gelu = bool(tag.get("quick_gelu", False))
    if tag:
        try:
            open_clip.download_pretrained(tag)
        except Exception as error:  # whatever a hub, a proxy or a disk may raise
            raise ModelError(
                f"The weights of {reference} are neither in the cache nor could they be downloaded "
                f"({_first_line(error)}). Offline: copy the file here and load_model({name!r}, "
                "pretrained=FILE), or use a bundled model from list_models()."
            ) from error
    clip = _create(name, reference, pretrained=pretrained, force_quick_gelu=quick_gelu)
    return Found(clip, reference, lambda: _tokenizer(name, reference))


def _find_on_hub(name: str) -> Found:
    """A repository on the Hugging Face hub in open_clip's format."""
    try:
        config = open_clip.get_model_config(name)
    except Exception as error:  # whatever a hub, a proxy or a broken file may raise
        raise ModelError(
            f"{name}: {CONFIG_NAME} could not be read from the hub ({_first_line(error)}). Check the name "
            f"and the connection; offline, copy the repository and load {LOCAL}PATH. A repository in the format of "
            f"transformers is loaded as {PREFIX}{name.removeprefix(HUB)}."
        ) from error
    _check_config(config, name)
    return Found(_create(name, name), name, lambda: _tokenizer(name, name))


def _find_folder(folder: Path, reference: str) -> Found:
    """A folder in open_clip's local-dir format: its configuration and one file of weights."""
    if not folder.is_dir():
        raise ModelError(f"{reference}: {folder} is not a folder.")
    file = folder / CONFIG_NAME
    if not file.is_file() and (folder / "config.json").is_file():
        return Found(*find_transformers(str(folder)))
    if not file.is_file():
        raise ModelError(f"{reference}: {folder} has no {CONFIG_NAME}: not a model in open_clip's format.")
    try:
        content = read_json(file)
    except (OSError, ValueError) as error:
        raise ModelError(f"{reference}: {file} is not readable JSON ({error}).") from error
    _check_config(content.get("model_cfg") if isinstance(content, dict) else None, reference)
    if not any(path.suffix in WEIGHT_SUFFIXES for path in folder.iterdir()):
        raise ModelError(f"{reference}: {folder} holds no weights ({', '.join(WEIGHT_SUFFIXES)}).")
    source = f"{LOCAL}{folder}"
    return Found(_create(source, reference), reference, lambda: _tokenizer(source, reference))


def _check_config(config: Any, reference: str) -> None:
    """Refuse a configuration that cannot describe a CLIP, or that asks for foreign code."""
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
                    f"{reference}: {CONFIG_NAME} sends for another model, {key}={value!r:.80}; refused."
                )
    options = config["text_cfg"].get("tokenizer_kwargs") or {}
    if "trust_remote_code" in options:
        raise ModelError(f"{reference}: its tokenizer asks to run code that comes with the weights; refused.")


def _check_sizes(config: dict[str, Any], reference: str) -> None:
    """Refuse sizes that no CLIP has, before anything of that size is allocated."""
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


def _create(source: str, reference: str, **options: Any) -> nn.Module:
    """Build the module and read its weights: tensors only, never pickled objects, never left at random."""
    _require_text_library(source, reference)
    try:
        with torch.random.fork_rng(devices=[]):  # the throw-away initial values do not move the caller's seed
            return open_clip.create_model(
                source, precision="fp32", device="cpu", require_pretrained=True, weights_only=True, **options
            )
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{reference}: the weights hold more than tensors, or are damaged, and were not opened "
            f"({_first_line(error)}). Save them as safetensors."
        ) from error
    except Exception as error:  # a foreign file can go wrong in any way; the cause stays attached
        raise ModelError(
            f"{reference}: the weights could not be read into the model; they are damaged or belong to "
            f"another configuration ({type(error).__name__}: {_first_line(error)})."
        ) from error


def _require_text_library(source: str, reference: str) -> None:
    """Say what is missing where the text tower is one of transformers' and the library is not installed."""
    try:
        config = open_clip.get_model_config(source) or {}
    except Exception:  # reported where it matters, by the creation of the model
        return
    if (config.get("text_cfg") or {}).get("hf_model_name"):
        transformers_or_error(f"The text tower of {reference}")


def _tokenizer(source: str, reference: str) -> Any:
    try:
        return open_clip.get_tokenizer(source)
    except ImportError as error:
        raise ModelError(
            f"{reference} needs a tokenizer from the library transformers, which is not installed: {EXTRA}."
        ) from error
    except Exception as error:  # hub, proxy, broken files
        raise ModelError(f"{reference}: its tokenizer could not be loaded ({_first_line(error)}).") from error


def _nearest(word: str, among: Sequence[str]) -> str:
    """' Nearest: a, b.' or nothing."""
    spelt = {entry.lower(): entry for entry in among}
    close = difflib.get_close_matches(word.lower(), spelt, n=4, cutoff=0.5)
    return f" Nearest: {', '.join(spelt[entry] for entry in close)}." if close else ""


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300]


def hash_weights(module: nn.Module) -> str:
    """16 hex digits over a module's state dict; floating point tensors count as float32."""
    digest = hashlib.sha256()
    for key, value in sorted(module.state_dict().items()):
        value = value.detach().cpu()
        value = value.float() if value.is_floating_point() else value
        digest.update(f"{key}|{value.dtype}|{tuple(value.shape)}|".encode())
        digest.update(value.reshape(-1).contiguous().numpy())
    return digest.hexdigest()[:16]
