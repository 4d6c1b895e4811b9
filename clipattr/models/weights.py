"""Weights: finding and safely reading the weights of a model.

Owns names, tags, files, folders and hub ids, and the hash of weights. Files are read as tensors only
(`storage.checkpoints`); missing or damaged weights, and files with other content, raise `ModelError`. The activation of
a file is found in `origins.py`, configurations are validated in `configs.py`. Start at `find_weights`.
"""

import contextlib
import difflib
import functools
import json
import pickle
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import pandas as pd
import torch
from torch import nn

from clipattr.errors import DataError, ModelError
from clipattr.models.configs import CONFIG_NAME, HUB, LOCAL, check_config
from clipattr.models.huggingface import EXTRA, PREFIX, find_transformers, transformers_or_error
from clipattr.models.modules import misfit
from clipattr.models.origins import Origin, origin_of, quick_gelu_name
from clipattr.models.surroundings import usual_surroundings
from clipattr.storage.checkpoints import State, read_state
from clipattr.storage.documents import read_json
from clipattr.storage.files import digest_parts, tensor_bytes
from clipattr.storage.paths import full_path, user_path

WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pth", ".pt", ".ckpt")
INDEX_SUFFIX = ".index.json"
# Names of weights in a folder; the first one present is used.
WEIGHT_STEMS = ("open_clip_model", "open_clip_pytorch_model", "model", "pytorch_model")

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
    """A module with its weights, the string that loads it again, and a function that makes its tokenizer."""

    clip: nn.Module
    reference: str
    make_tokenizer: Callable[[], Any]
    preprocess: Callable[[Any], Any] | None = None  # for a module without its own preprocessing


def find_weights(name: str, pretrained: str | None = None, like: str | None = None) -> Found:
    """Find and read a model by name; see `load_model` for the forms of `name`.

    Raises:
        ModelError: unknown name or tag (with similar ones), weights that are missing, unreadable, unsafe or do not fit,
            or a file of unknown activation.
    """
    if like is not None and name.startswith((LOCAL, HUB, PREFIX)):
        raise ModelError(f"{name!r} already determines its activation; leave out like={like!r}.")
    if name.startswith((LOCAL, HUB, PREFIX)) and pretrained is not None:
        raise ModelError(f"{name!r} names its own weights; leave out pretrained={pretrained!r}.")
    if name.startswith(LOCAL):
        folder = user_path(name.removeprefix(LOCAL)).resolve()
        return _find_folder(folder, f"{LOCAL}{folder}")
    if name.startswith(HUB):
        return _find_on_hub(name)
    if name.startswith(PREFIX):
        return Found(*find_transformers(name.removeprefix(PREFIX)))
    if pretrained is None and name in (bundled := bundled_models()):
        return _find_folder(bundled[name], name)
    return _find_named(name, pretrained, like)


def bundled_models() -> dict[str, Path]:
    """{name: folder} of the bundled models."""
    import clipattr_data

    configs = Path(clipattr_data.models_dir()).glob(f"*/{CONFIG_NAME}")
    return {path.parent.name: path.parent for path in configs}


def _find_named(name: str, pretrained: str | None, like: str | None) -> Found:
    """NAME with a tag or a file of weights, through open_clip."""
    if pretrained is None and ":" in name:
        name, pretrained = name.split(":", 1)
    if pretrained and like is None and not user_path(pretrained).is_file():
        before, at, behind = pretrained.rpartition("@")
        if at and user_path(before).is_file():
            pretrained, like = before, behind
    written, name = name, name.replace("/", "-")
    architectures = open_clip.list_models()
    if name not in architectures:
        known = [*bundled_models(), *architectures]
        if user_path(written).is_file():
            raise ModelError(
                f"{written!r} is a file. If it holds weights, say which architecture they are of, and for a fine-tuned "
                f"model which tag it started from: ViT-B-32:{written}@openai, or load_model('ViT-B-32', "
                f"pretrained={written!r}, like='openai'). `clipattr models` lists architectures and tags."
            )
        hint = f" If you mean the folder, write {LOCAL}{written}." if Path(written).is_dir() else ""
        if "/" in written and not hint:
            hint = f" If it is a repository of the hub: {PREFIX}{written} (transformers) or {HUB}{written} (open_clip)."
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
    file = user_path(pretrained)
    if not tag and file.is_file():
        return _find_file(name, file, like)
    if not tag:
        raise ModelError(
            f"{name} has no weights {pretrained!r}, and there is no such file."
            f"{_nearest(pretrained, tags)} {listed_tags(tags)}."
        )
    if like is not None:
        raise ModelError(
            f"like={like!r} is for a file of weights; the tag {reference} determines its activation."
        )
    # Weights trained with QuickGELU under a configuration with plain GELU (ViT-L-14-336:openai,
    # ViT-B-32:laion400m_e32) would run with the wrong activation, of which open_clip only warns.
    quick_gelu = bool(tag.get("quick_gelu", False))
    try:
        open_clip.download_pretrained(tag)
    except Exception as error:  # a hub, a proxy or a disk may raise any class
        other = quick_gelu_name(name, pretrained)
        raise ModelError(
            f"The weights of {reference} are neither in the cache nor could they be downloaded "
            f"({_first_line(error)}). Offline: copy the file here and load_model({other!r}, pretrained=FILE, "
            f"like={pretrained!r}), or use a bundled model from list_models()."
        ) from error
    clip = _create(name, reference, pretrained=pretrained, force_quick_gelu=quick_gelu)
    return Found(clip, reference, functools.partial(_tokenizer, name, reference))


def _find_file(name: str, file: Path, like: str | None) -> Found:
    """NAME with a file of weights: its tensors, and the activation and preprocessing of its origin."""
    file = full_path(file)
    reference = f"{name}:{file}"
    state = _state(file, reference)
    origin = origin_of(name, file, state.about, set(state.tensors), like)
    if origin.tag is not None:
        reference = f"{reference}@{origin.tag}"
    with _plain_file(file, state) as plain:
        clip = _create(name, reference, pretrained=str(plain), **_options(origin), **_bias(state))
    return Found(clip, reference, functools.partial(_tokenizer, name, reference))


def _options(origin: Origin) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if origin.quick_gelu is not None:
        options["force_quick_gelu"] = origin.quick_gelu
        if not origin.quick_gelu and origin.tag is not None:
            options["quick_gelu"] = False  # also where the architecture's name says otherwise
    if origin.preprocessing:
        options["force_preprocess_cfg"] = dict(origin.preprocessing)
    return options


def _bias(state: State) -> dict[str, Any]:
    """The option that gives a model its logit bias: a CLIP trained by SigLIP's loss has one without its config."""
    bias = state.tensors.get("logit_bias")
    return {} if bias is None or not bias.numel() else {"init_logit_bias": float(bias.flatten()[0])}


def _state(file: Path, reference: str) -> State:
    """The tensors of a file; ModelError if it holds more than tensors or cannot be read."""
    if file.suffix.lower() in (".npz", ".npy"):  # JAX's weights, which open_clip reads itself
        return State({})
    try:
        state = read_state(file)
    except DataError as error:
        raise ModelError(
            f"{reference}: the weights hold more than tensors, or are damaged, and were not opened "
            f"({_first_line(error)}). Save them as safetensors."
        ) from error
    for note in state.notes:
        warnings.warn(note, stacklevel=5)
    return state


@contextlib.contextmanager
def _plain_file(file: Path, state: State) -> Iterator[Path]:
    """A file of plain tensors that open_clip reads: the given one, or a temporary one without its wrapping."""
    if not state.wrapped:
        yield file
        return
    from safetensors.torch import save_file

    with tempfile.TemporaryDirectory(prefix="clipattr-weights-") as folder:
        made = Path(folder) / "weights.safetensors"
        save_file({name: value.clone().contiguous() for name, value in state.tensors.items()}, made)
        yield made


def listed_tags(tags: Sequence[str]) -> str:
    """The tags of an architecture as the end of a sentence."""
    return f"Its tags: {', '.join(tags)}" if tags else "open_clip knows no tags for it"


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
    check_config(config, name)
    return Found(_create(name, name), name, functools.partial(_tokenizer, name, name))


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
    check_config(content.get("model_cfg") if isinstance(content, dict) else None, reference)
    weights = _weights_in(folder, reference)
    source = f"{LOCAL}{folder}"
    state = _state(weights, reference)
    plain = file.read_bytes()[:1] == b"{" and weights.suffix in (".safetensors", ".bin", ".pth")
    if plain and not state.wrapped:
        clip = _create(source, reference, **_bias(state))
    else:
        with (
            tempfile.TemporaryDirectory(prefix="clipattr-model-") as made,
            _plain_file(weights, state) as ready,
        ):
            (Path(made) / CONFIG_NAME).write_text(json.dumps(content), encoding="utf-8")
            suffix = ".bin" if ready.suffix in (".pt", ".ckpt") else ready.suffix
            (Path(made) / f"open_clip_model{suffix}").symlink_to(ready)
            clip = _create(f"{LOCAL}{made}", reference, **_bias(state))
    return Found(clip, reference, functools.partial(_tokenizer, source, reference))


def _weights_in(folder: Path, reference: str) -> Path:
    """A folder's file of weights, or the index of its shards.

    Raises:
        ModelError: none, or several of which none has a usual name.
    """
    files = [path for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith(".")]
    weights = [path for path in files if path.suffix.lower() in WEIGHT_SUFFIXES]
    indices = [path for path in files if path.name.lower().endswith(INDEX_SUFFIX)]
    kinds = [path for suffix in WEIGHT_SUFFIXES for path in weights if path.suffix.lower() == suffix]
    for stem in WEIGHT_STEMS:
        usual = [path for path in kinds if path.stem == stem]
        if usual:
            return usual[0]
        if usual := [path for path in indices if path.name.startswith(f"{stem}.")]:
            return usual[0]
    if len(indices) == 1:
        return indices[0]
    first = [path for path in kinds if path.suffix.lower() == kinds[0].suffix.lower()]
    if len(first) == 1:
        return first[0]
    if not first:
        raise ModelError(f"{reference}: {folder} holds no weights ({', '.join(WEIGHT_SUFFIXES)}).")
    raise ModelError(
        f"{reference}: {folder} holds several files of weights ({', '.join(path.name for path in first[:4])}). If they "
        "are shards, their index (*.index.json) is missing; else keep one, or call it open_clip_model.safetensors."
    )


def _create(source: str, reference: str, **options: Any) -> nn.Module:
    """Build the module and read its weights as tensors only; missing weights are an error."""
    _require_text_library(source, reference)
    try:
        with torch.random.fork_rng(devices=[]), usual_surroundings():
            # Random initial values, which are overwritten, must not change the caller's random state.
            return open_clip.create_model(
                source, precision="fp32", device="cpu", require_pretrained=True, weights_only=True, **options
            )
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{reference}: the weights hold more than tensors, or are damaged, and were not opened "
            f"({_first_line(error)}). Save them as safetensors."
        ) from error
    except Exception as error:  # a foreign file may raise any class, which stays attached as the cause
        raise ModelError(
            f"{reference}: the weights could not be read into the model; they are damaged or belong to "
            f"another configuration ({type(error).__name__}: {misfit(error)})."
        ) from error


def _require_text_library(source: str, reference: str) -> None:
    """Raise ModelError where the text tower needs transformers and the library is not installed."""
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

    def parts() -> Iterator[str | bytes]:
        for key, value in sorted(module.state_dict().items()):
            value = value.float() if value.is_floating_point() else value
            yield f"{key}|{value.dtype}|{tuple(value.shape)}|"
            yield tensor_bytes(value)

    return digest_parts(parts(), "sha256")


def list_models() -> pd.DataFrame:
    """All models that can be loaded by name.

    Returns:
        DataFrame: `name`, `pretrained` (empty for bundled models) and `kind`: "bundled", "paper" for the eight variants
        of arXiv:2505.20229, "open_clip" for all others.

    Raises:
        ImportError: open_clip is not installed.

    >>> import clipattr as ca
    >>> models = ca.list_models()
    >>> "picture-world-a" in models.loc[models["kind"] == "bundled", "name"].tolist()
    True
    """
    rows = [(name, "", "bundled") for name in sorted(bundled_models())]
    rows += [(*variant, "paper") for variant in PAPER_VARIANTS]
    others = [pair for pair in open_clip.list_pretrained() if tuple(pair) not in PAPER_VARIANTS]
    rows += [(*pair, "open_clip") for pair in others]
    return pd.DataFrame(rows, columns=["name", "pretrained", "kind"])
