"""Origins: the activation and preprocessing with which a file of weights was trained.

Weights contain neither the activation (QuickGELU or GELU) nor the normalisation of pictures; open_clip stores both with
its tags. Owns finding the tag of a file: by its hash, its cache folder, its name, or the arguments in a checkpoint.
Ignores how weights are read. Start at `origin_of`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip

from clipattr.errors import ModelError
from clipattr.storage.files import file_digest

PREPROCESSING = ("mean", "std", "interpolation", "resize_mode", "fill_color")
OPENAI_KEYS = {
    "input_resolution",
    "context_length",
    "vocab_size",
}  # present in OpenAI's own files only
SHOWN = 4  # tags in a message


@dataclass(frozen=True)
class Origin:
    """How weights were trained.

    Attributes:
        quick_gelu, preprocessing: None where unknown; the configuration then decides.
        tag: of open_clip, where it was found. how: the evidence in words.
    """

    quick_gelu: bool | None = None
    preprocessing: Mapping[str, Any] | None = None
    tag: str | None = None
    how: str = "the architecture's own configuration"


def origin_of(
    name: str, file: Path, about: Mapping[str, Any], keys: set[str], like: str | None = None
) -> Origin:
    """The origin of a file of weights for an architecture.

    Evidence in this order: the tag that the caller names; the tag whose published hash equals the file's; the tag of
    the cache folder; the tag in the file's name; the training arguments in the checkpoint; the common setting of all
    tags of the architecture. An architecture without tags uses its own configuration.

    Args:
        name: of the architecture.
        about: entries of the checkpoint other than weights.
        keys: names of its tensors.
        like: a tag of the architecture, or "gelu" or "quickgelu".

    Raises:
        ModelError: the tags of the architecture differ, and there is no evidence for one of them.
    """
    tags = _tags(name)
    if like is not None:
        if like.lower().replace("_", "") in ("gelu", "quickgelu"):
            return Origin(like.lower() != "gelu", None, like, f"like={like!r}")
        if like not in tags:
            raise ModelError(f"like={like!r}: {name} has no such tag; its tags: {', '.join(tags) or 'none'}.")
        return _told(tags, like, f"like={like!r}")
    if keys >= OPENAI_KEYS and "openai" in tags:
        return _told(tags, "openai", "the form of OpenAI's own files")
    for how, found in (
        ("the file's hash", _by_hash(tags, file)),
        ("its folder in the cache", _by_folder(tags, file)),
        ("the file's name", _by_name(tags, file)),
    ):
        if found is not None:
            return _told(tags, found, how)
    said = _by_itself(name, tags, about)
    if said is not None:
        return said
    ways = {_way(table) for table in tags.values()}
    if len(ways) == 1:
        return _told(tags, next(iter(tags)), "what all tags of the architecture agree on", named=False)
    if not ways:
        return Origin()
    raise ModelError(_question(name, file, tags))


def _tags(name: str) -> dict[str, Mapping[str, Any]]:
    return {
        tag: open_clip.get_pretrained_cfg(name, tag) for tag in open_clip.list_pretrained_tags_by_model(name)
    }


def _told(tags: Mapping[str, Mapping[str, Any]], tag: str, how: str, *, named: bool = True) -> Origin:
    table = tags[tag]
    chosen = {key: table[key] for key in PREPROCESSING if table.get(key) is not None}
    return Origin(bool(table.get("quick_gelu", False)), chosen, tag if named else None, how)


def _way(table: Mapping[str, Any]) -> tuple[Any, ...]:
    return (bool(table.get("quick_gelu", False)), *(str(table.get(key)) for key in PREPROCESSING))


def _by_hash(tags: Mapping[str, Mapping[str, Any]], file: Path) -> str | None:
    """By the hash in a tag's address, whole or its first digits; the file is read only where an address has one."""
    known: dict[str, str] = {}
    for tag, table in tags.items():
        url = str(table.get("url") or "")
        for digits in re.findall(r"/([0-9a-f]{64})/", url) + re.findall(r"-([0-9a-f]{8})\.pth?$", url):
            known.setdefault(digits, tag)
        if (
            table.get("file")
            and Path(str(table["file"])).exists()
            and Path(str(table["file"])).samefile(file)
        ):
            return tag
    if not known:
        return None
    own = file_digest(file, "sha256", 64)
    return known.get(own) or known.get(own[:8])


def _by_folder(tags: Mapping[str, Mapping[str, Any]], file: Path) -> str | None:
    """By the folder: the hub's cache has models--ORG--REPO/snapshots/…, a copied repository its own name."""
    parts = [part.removeprefix("models--").replace("--", "/") for part in file.absolute().parts[:-1]]
    found = []
    for tag, table in tags.items():
        repository = str(table.get("hf_hub") or "").strip("/").rpartition(".bin")[0] or str(
            table.get("hf_hub") or ""
        )
        repository = "/".join(repository.strip("/").split("/")[:2])
        if repository and (repository in parts or repository.split("/")[-1] in parts):
            found.append(tag)
    return found[0] if len(found) == 1 else None


def _by_name(tags: Mapping[str, Mapping[str, Any]], file: Path) -> str | None:
    """By the file's name: the only tag contained in it, the longest where one tag contains another."""
    stem = _plain(file.stem)
    named = [tag for tag in tags if _plain(tag) and _plain(tag) in stem]
    addresses = {
        tag: _plain(Path(str(table.get("url") or "")).stem) for tag, table in tags.items() if table.get("url")
    }
    named += [tag for tag, address in addresses.items() if address and address == stem and tag not in named]
    longest = [
        tag for tag in named if not any(_plain(tag) in _plain(other) and tag != other for other in named)
    ]
    return longest[0] if len(longest) == 1 else None


def _by_itself(name: str, tags: Mapping[str, Mapping[str, Any]], about: Mapping[str, Any]) -> Origin | None:
    """By the arguments of open_clip's training script in the checkpoint, a namespace or a dictionary."""
    said: dict[str, Any] = {}
    for key in ("args", "config", "cfg", "hparams", "hyper_parameters", "model_cfg"):
        if isinstance(about.get(key), Mapping):
            said |= about[key]
    said |= {key: value for key, value in about.items() if not isinstance(value, Mapping)}
    given = {key: said[key] for key in ("mean", "std") if isinstance(said.get(key), (list, tuple))}
    for key in ("quick_gelu", "force_quick_gelu"):
        if isinstance(said.get(key), bool) and (said[key] or key == "quick_gelu"):
            return Origin(said[key], given or None, None, f"the checkpoint's own {key}")
    start = said.get("pretrained")
    if isinstance(start, str) and start in tags:
        return _told(tags, start, "the tag that the checkpoint says it started from")
    model = said.get("model") or said.get("model_name") or said.get("arch")
    if isinstance(model, str) and model.replace("/", "-").lower() == f"{name}-quickgelu".lower():
        return Origin(True, given or None, None, "the checkpoint's own name of its model")
    return None


def _question(name: str, file: Path, tags: Mapping[str, Mapping[str, Any]]) -> str:
    quick = [tag for tag, table in tags.items() if table.get("quick_gelu")]
    plain = [tag for tag in tags if tag not in quick]
    parts = [
        f"{kind} ({', '.join(some[:SHOWN])}{', …' if len(some) > SHOWN else ''})"
        for kind, some in (("QuickGELU", quick), ("GELU", plain))
        if some
    ]
    what = "activation" if quick and plain else "normalisation of pictures"
    return (
        f"{file} does not say which {what} its weights were trained with, and {name} exists with {' and '.join(parts)}"
        f": the wrong one gives embeddings that look fine and are not the model's. Say which of these it is like: "
        f"load_model({name!r}, pretrained={str(file)!r}, like={(quick or plain)[0]!r}), or {name}:{file}@"
        f"{(quick or plain)[0]} on the command line."
    )


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


def quick_gelu_name(name: str, tag: str) -> str:
    """The architecture's name for a copied file of a tag's weights: the variant with its activation."""
    table = open_clip.get_pretrained_cfg(name, tag)
    other = f"{name}-quickgelu"
    return other if table.get("quick_gelu") and other in open_clip.list_models() else name
