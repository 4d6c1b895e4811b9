"""Checkpoints: readers of other projects' files, chosen by the names of tensors and settings.

Owns the formats, detection and strict reading. Nothing in a file is executed; what a file does not say is asked for;
what a reader does not use is an error. To add a format, register a reader (see `formats.py`). Start at `read_sae`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Imported in the order in which formats are tried.
from clipattr.display.wording import few

from clipattr.dictionaries.checkpoints import clip_files, prisma_files  # noqa: F401  # isort: skip
from clipattr.dictionaries.checkpoints import library_files, dl_files  # noqa: F401  # isort: skip
from clipattr.dictionaries.checkpoints.formats import FORMATS, Format, read_strictly, register_format
from clipattr.dictionaries.checkpoints.own_files import own_export
from clipattr.dictionaries.checkpoints.reading import Files, read_files
from clipattr.dictionaries.sae import Dictionary
from clipattr.errors import DictionaryError

__all__ = ["FORMATS", "Format", "detect", "read_sae", "register_format"]


def read_sae(
    path: Path,
    format: str = "auto",
    *,
    config: str | Path | None = None,
    ignore: Sequence[str] = (),
    given: dict[str, Any] | None = None,
) -> Dictionary:
    """Read a file, or a folder with one, of another project or of `export_sae`. Arguments as for `load_sae`.

    Returns:
        The dictionary; its `site` is None if the file does not say.

    Raises:
        DictionaryError: see `load_sae`.
    """
    given = given or {}
    if format not in ("auto", *FORMATS):
        raise DictionaryError(
            f"There is no format {format!r}; there are auto, clipattr, {', '.join(FORMATS)}."
        )
    files = read_files(path, config)
    if format == "auto" and (own := own_export(files)) is not None:
        if given:
            raise DictionaryError(
                f"{path} was exported by clipattr and contains all its settings: leave out {', '.join(given)}."
            )
        return own
    name = detect(files) if format == "auto" else format
    made = read_strictly(FORMATS[name], files, given, ignore)
    made.info |= {"source": files.weights.name, "format": name}
    return made


def detect(files: Files) -> str:
    """The name of the format of these files.

    Raises:
        DictionaryError: none fits; the names seen are listed.
    """
    for name, known in FORMATS.items():
        if known.matches(files):
            return name
    raise DictionaryError(
        f"{files.weights} is of no known format. Its tensors: {few(sorted(files.keys))}; its settings: "
        f"{few(sorted(files.config))}. If it is one of {', '.join(FORMATS)}, say so with format=..., and give its "
        "config file with config=..."
    )
