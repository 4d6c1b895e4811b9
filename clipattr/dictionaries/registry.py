"""Registry: published dictionaries that load by name, with what their publishers say of them.

Owns `registry.toml` beside this file, and its checks. It does not download anything. Start at `list_saes`.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipattr.errors import DictionaryError

if TYPE_CHECKING:
    import pandas

REGISTRY = Path(__file__).with_name("registry.toml")
PROMISES = ("explained_variance", "l0", "cosine", "spliced_cosine", "alive")


@dataclass(frozen=True)
class Entry:
    """One published dictionary.

    Attributes:
        name: what `load_sae` takes, "PUBLISHER:MODEL/TOKENS[-KIND]-LAYER".
        repository, file, revision: where it is on the Hugging Face hub; without `file`, the repository's only weights.
        extra: further files that are downloaded beside it, such as its config.
        sha256: of the file, where the publisher documents it; checked after the download.
        format: name of its reader. keywords: what the file does not say and the reader asks for.
        model: as `load_model` takes it. site: where activations are read; None if the publisher does not say.
        promise: measured by the publisher: `explained_variance` and `alive` (shares), `l0` (active latents per
            token), `cosine` (of activation and reconstruction), `spliced_cosine` (of the outputs).
        source: the page that the figures come from.
    """

    name: str
    repository: str
    format: str
    model: str
    source: str
    file: str | None = None
    revision: str | None = None
    extra: tuple[str, ...] = ()
    sha256: str | None = None
    site: str | None = None
    keywords: dict[str, Any] = field(default_factory=dict)
    promise: dict[str, float] = field(default_factory=dict)


def read_registry(path: Path = REGISTRY) -> dict[str, Entry]:
    """The entries of a registry file by name.

    Raises:
        DictionaryError: unreadable, or an entry with missing or unknown fields.
    """
    try:
        tables = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise DictionaryError(f"The registry {path} cannot be read: {error}") from error
    known = {part.name for part in fields(Entry)}
    entries = {}
    for name, table in tables.items():
        strange = sorted(set(table) - known) if isinstance(table, dict) else ["no table"]
        strange += sorted(set(table.get("promise", {})) - set(PROMISES)) if isinstance(table, dict) else []
        try:
            if strange:
                raise TypeError(f"unknown fields {', '.join(strange)}")
            entries[name] = Entry(name, **{**table, "extra": tuple(table.get("extra", ()))})
        except TypeError as error:
            raise DictionaryError(
                f"The entry {name!r} of the registry {path} is invalid: {error}."
            ) from error
    return entries


@cache
def _bundled() -> dict[str, Entry]:
    return read_registry()


def find_entry(source: str | Path) -> Entry | None:
    """The entry of a registered name; None for paths and hub ids.

    Raises:
        DictionaryError: something like a registered name that is not one; the nearest names are listed.
    """
    if isinstance(source, os.PathLike):
        return None
    if not isinstance(source, str):
        raise DictionaryError(
            f"A dictionary is opened from a path, a name of list_saes() or hf-hub:ID; got {type(source).__name__}."
        )
    known = _bundled()
    if source in known:
        return known[source]
    publishers = {name.partition(":")[0] for name in known}
    if source.partition(":")[0] in publishers and ":" in source and not Path(source).exists():
        near = difflib.get_close_matches(source, known, n=4, cutoff=0.4)
        hint = f" Nearest: {', '.join(near)}." if near else ""
        raise DictionaryError(f"There is no dictionary named {source!r}.{hint} list_saes() shows all.")
    return None


def list_saes(text: str | None = None) -> pandas.DataFrame:
    """The published dictionaries that `load_sae` opens by name.

    Args:
        text: keep those whose name, model or site contains it; all if None.

    Returns:
        One row each: name, model, site (None where unknown), format, repository, and what the publisher promises:
        explained_variance (share), l0 (active latents per token), cosine, spliced_cosine, alive (share); NaN where
        nothing is promised.

    Raises:
        DictionaryError: a damaged registry.

    >>> import clipattr as ca
    >>> table = ca.list_saes("cls-11")
    >>> table[["name", "site", "explained_variance", "l0"]].values.tolist()
    [['prisma:clip-b32-datacomp/cls-11', 'image.11.cls', 0.84, 64.0]]
    """
    import pandas

    rows = [
        {
            **{name: getattr(entry, name) for name in ("name", "model", "site", "format", "repository")},
            **{name: float(entry.promise.get(name, "nan")) for name in PROMISES},
            "source": entry.source,
        }
        for entry in _bundled().values()
    ]
    table = pandas.DataFrame(rows)
    table["site"] = pandas.Series(
        [row["site"] for row in rows], dtype=object
    )  # None, where pandas would put NaN
    if text is not None:
        wanted = text.lower()
        keep = [any(wanted in str(row[name]).lower() for name in ("name", "model", "site")) for row in rows]
        table = table[keep].reset_index(drop=True)
    return table
