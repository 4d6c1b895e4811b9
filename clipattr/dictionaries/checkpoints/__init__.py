"""Checkpoints: opening dictionaries of other projects, by the signature of their keys.

Owns detection, loading and conversion. Nothing in a file is executed; what a file does not say is asked for, never
guessed. To add a format, register a reader (see `formats.py`). Start at `load_sae`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clipattr.dictionaries.checkpoints import clip_files, library_files  # noqa: F401 (they register readers)
from clipattr.dictionaries.checkpoints.check import check_reading
from clipattr.dictionaries.checkpoints.formats import FORMATS, Format, register_format
from clipattr.dictionaries.checkpoints.reading import Files, read_files
from clipattr.dictionaries.sae import CONFIG_FILE, WEIGHTS_FILE, Dictionary, load_dictionary
from clipattr.errors import DictionaryError

__all__ = ["FORMATS", "Format", "check_reading", "convert", "detect", "load_sae", "register_format"]

KEYWORDS = {
    "activation", "architecture", "dict_class", "k", "mean", "normalize", "normalize_activations", "orientation",
    "pre_bias", "scalar", "scale", "softcap", "threshold",
}  # fmt: skip


def load_sae(
    path: str | Path,
    format: str = "auto",
    *,
    config: str | Path | None = None,
    site: str | None = None,
    model_hash: str | None = None,
    **given: Any,
) -> Dictionary:
    """Open a dictionary of any known project.

    Args:
        path: a file, or a folder that holds one.
        format: a name in `FORMATS`, "clipattr", or "auto" to go by the keys.
        config: the file with its settings, where it does not lie beside the weights.
        site, model_hash: where its activations come from, if you know better than the file.
        given: what the file does not say, e.g. k=64, activation="topk", pre_bias=True, orientation="as_format". An
            error tells which are needed.

    Raises:
        DictionaryError: unknown or ambiguous files (with the keys seen, or the keyword that settles it), damaged or
            unsafe ones, and shapes that do not fit.
    """
    unknown = sorted(set(given) - KEYWORDS)
    if unknown:
        raise DictionaryError(
            f"load_sae does not know {', '.join(unknown)}; it takes {', '.join(sorted(KEYWORDS))}."
        )
    own = _is_own(Path(path))
    if format == "clipattr" or (format == "auto" and own):
        made = load_dictionary(path)
        name = "clipattr"
    else:
        if format not in ("auto", *FORMATS):
            raise DictionaryError(
                f"Format {format!r} is not known; known: auto, clipattr, {', '.join(FORMATS)}."
            )
        files = read_files(path, config)
        name = detect(files) if format == "auto" else format
        made = FORMATS[name].read(files, given)
        made.info |= {"source": files.weights.name, "format": name}
    made.site = made.site if site is None else str(site)
    made.model_hash = made.model_hash if model_hash is None else model_hash
    return made


def detect(files: Files) -> str:
    """The name of the format these files are of.

    Raises:
        DictionaryError: none fits; the keys seen are listed.
    """
    for name, known in FORMATS.items():
        if known.matches(files):
            return name
    raise DictionaryError(
        f"{files.weights} is of no known format. Its tensors: {sorted(files.keys)[:20]}; its settings: "
        f"{sorted(files.config)[:20]}. If it is one of {', '.join(FORMATS)}, say so with format=..., and give its "
        "config file with config=..."
    )


def convert(path: str | Path, out: str | Path, format: str = "auto", **given: Any) -> Dictionary:
    """Open a dictionary of any known project and save it in the own format; options as in `load_sae`."""
    made = load_sae(path, format, **given)
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
