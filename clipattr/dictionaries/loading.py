"""Loading: a dictionary by its published name, from the Hugging Face hub, or from a file of any known project.

Owns the steps after reading a file: a warning for an unknown site, comparison with the registry, and the quality check
where images are given. Start at `load_sae`.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clipattr.dictionaries.checkpoints import read_sae
from clipattr.dictionaries.hub import HUB, fetch
from clipattr.dictionaries.quality import check_sae
from clipattr.dictionaries.registry import Entry, find_entry
from clipattr.dictionaries.sae import CONFIG_FILE, WEIGHTS_FILE, Dictionary
from clipattr.dictionaries.saved import load_dictionary
from clipattr.errors import DictionaryError
from clipattr.storage.paths import user_path

KEYWORDS = {
    "activation", "architecture", "dict_class", "input_site", "k", "mean", "normalize", "normalize_activations",
    "orientation", "pre_bias", "scalar", "scale", "softcap", "threshold", "tied",
}  # fmt: skip
EMBEDDINGS = ("image.embedding", "text.embedding")


def load_sae(
    source: str | Path,
    format: str = "auto",
    *,
    config: str | Path | None = None,
    site: str | None = None,
    model: Any = None,
    images: Any = None,
    model_hash: str | None = None,
    ignore: Sequence[str] = (),
    offline: bool = False,
    **given: Any,
) -> Dictionary:
    """Open a dictionary of any known project: by name, from the Hugging Face hub, or from a file.

    Args:
        source: a name from `list_saes()` such as "prisma:clip-b32-datacomp/cls-11"; "hf-hub:OWNER/NAME", with
            "@REVISION" and "/PATH/IN/REPOSITORY" behind it where needed; or a file, or a folder that holds one.
        format: a name in `FORMATS`, "clipattr", or "auto" to recognise it.
        config: the file with its settings, if it is not beside the weights.
        site: where its activations are read, e.g. "image.11.cls". Needed where the file does not say; overrides it
            where it does.
        model: the model it belongs to, or its name; default for registered dictionaries: their model. Used with
            `images` only.
        images: a folder, table or `Images`. The dictionary is then checked on a few hundred of them against its card,
            see `check_sae`.
        model_hash: `Model.weights_hash` of the model it belongs to, if known.
        ignore: name patterns of tensors and settings that do not belong to the forward pass.
        offline: use the hub's cache only; the environment variable HF_HUB_OFFLINE=1 does the same.
        given: settings that the file lacks, e.g. k=64, activation="topk", pre_bias=True, orientation="as_format". An
            error names them.

    Returns:
        A dictionary whose `info` records source, format and promised quality. Its `site` is None, with a warning, if
        neither file, registry nor `site` states it; functions that need the site then raise an error.

    Raises:
        DictionaryError: unknown or ambiguous files (with the names seen, or the keyword that settles it); tensors,
            keywords or settings that the reader does not use; damaged or unsafe files; shapes that do not fit; no
            connection; or measured quality that contradicts the promised one.

    >>> import tempfile, torch
    >>> from safetensors.torch import save_file
    >>> import clipattr as ca
    >>> weights = {"pre_b": torch.zeros(4), "enc": torch.randn(4, 9), "dec": torch.randn(9, 4)}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_file(weights, f"{folder}/sae.safetensors")
    ...     sae = ca.load_sae(f"{folder}/sae.safetensors", k=2, site="image.-1.cls")
    >>> sae.kind, sae.k, sae.site, sae.info["format"]
    ('topk', 2, 'image.-1.cls', 'clipscope')
    """
    unknown = sorted(set(given) - KEYWORDS)
    if unknown:
        raise DictionaryError(
            f"load_sae does not know {', '.join(unknown)}; it takes {', '.join(sorted(KEYWORDS))}."
        )
    entry = find_entry(source)
    if entry is not None:
        given = {**entry.keywords, **given}
        format = entry.format if format == "auto" else format
        path = fetch(
            entry.repository, entry.file, entry.revision, extra=entry.extra, sha256=entry.sha256, offline=offline
        )  # fmt: skip
    elif str(source).startswith(HUB):
        path = fetch(str(source), offline=offline)
    else:
        path = user_path(source)
    made = _read(path, format, config, site, None if entry is None else entry.site, ignore, given)
    made.model_hash = made.model_hash if model_hash is None else model_hash
    if entry is not None:
        _record(made, entry)
    if images is not None:
        _checked(made, model if model is not None else (None if entry is None else entry.model), images)
    return made


def _read(
    path: Path,
    format: str,
    config: str | Path | None,
    site: str | None,
    registered: str | None,
    ignore: Sequence[str],
    given: dict[str, Any],
) -> Dictionary:
    if format == "clipattr" or (format == "auto" and _is_own(path)):
        if given:
            raise DictionaryError(
                f"{path} was saved by clipattr and contains all its settings: leave out {', '.join(given)}."
            )
        made = load_dictionary(path)
        made.site = made.site if site is None else str(site)
        return made
    made = read_sae(path, format, config=config, ignore=ignore, given=given)
    if site is not None:
        made.site = str(site)
    elif registered is not None:
        if made.site not in (None, registered):
            raise DictionaryError(
                f"{path} says that its site is {made.site}, the registry says {registered}. Find out which is right, "
                "with check_sae for instance, and pass site=."
            )
        made.site = registered
    if made.site is None:
        warnings.warn(
            f"{path} does not say where its activations were read (layer, stream, tokens). Pass it to load_sae: site= "
            "with the written form, e.g. 'image.11.cls', 'image.-2.all', 'image.3.mlp_out.patches' or "
            "'image.embedding'. It is never guessed: attributions, studies and cards refuse a dictionary without it.",
            stacklevel=3,
        )
        return made
    from clipattr.sites import Site

    for written in (made.site, made.input_site):
        if written is not None and written not in EMBEDDINGS:
            Site(written)
    return made


def _record(made: Dictionary, entry: Entry) -> None:
    made.info |= {"name": entry.name, "repository": entry.repository, "model": entry.model}
    made.info["promise"] = entry.promise


def _checked(made: Dictionary, model: Any, images: Any) -> None:
    if model is None:
        raise DictionaryError(
            "Checking a dictionary on images needs the model that it belongs to: pass model=, e.g. a name."
        )
    check_sae(made, model, images).raise_if_wrong()


def convert(source: str | Path, out: str | Path, format: str = "auto", **given: Any) -> Dictionary:
    """Open a dictionary of any known project and save it in the own format.

    Args:
        source, format, given: as in `load_sae`.
        out: the folder to write.

    Returns:
        The dictionary.

    Raises:
        DictionaryError: as `load_sae`, or the folder cannot be written.

    >>> import tempfile
    >>> import clipattr as ca
    >>> sae = ca.open_study("picture-world").dictionary
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = ca.export_sae(sae, f"{folder}/sae.safetensors", "safetensors")
    ...     made = ca.convert(path, f"{folder}/own")
    ...     made.hash == ca.load_dictionary(f"{folder}/own").hash == sae.hash
    True
    """
    made = load_sae(source, format, **given)
    made.save(out)
    return made


def _is_own(path: Path) -> bool:
    folder = path if path.is_dir() else path.parent
    config = folder / CONFIG_FILE
    return (
        (path.is_dir() or path.name in (CONFIG_FILE, WEIGHTS_FILE))
        and (folder / WEIGHTS_FILE).is_file()
        and config.is_file()
        and '"format": "clipattr"' in config.read_text(errors="replace")
    )
