"""Saved dictionaries: read back what `Dictionary.save` wrote.

Owns the reading and its checks (schema, kind, hash). Start at `load_dictionary`.
"""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file

from clipattr.dictionaries.sae import CARD_FILE, CONFIG_FILE, KINDS, SCHEMA, WEIGHTS_FILE, Dictionary
from clipattr.errors import DictionaryError
from clipattr.storage.documents import read_json, schema_complaint
from clipattr.storage.paths import user_path


def load_dictionary(path: str | Path) -> Dictionary:
    """Open a dictionary that `Dictionary.save` wrote. Use `load_sae` for files of other projects.

    Args:
        path: the folder, or one of the two files in it.

    Returns:
        The `Dictionary`, with the hash it was saved with.

    Raises:
        DictionaryError: files missing, damaged, of a newer schema, or not matching their recorded hash.

    >>> import tempfile, torch
    >>> from clipattr.dictionaries import TopK, load_dictionary
    >>> made = TopK(k=1, decoder=torch.eye(2), encoder=torch.eye(2))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     made.save(folder)
    ...     load_dictionary(folder).hash == made.hash
    True
    """
    folder = user_path(path)
    if folder.name in (CONFIG_FILE, WEIGHTS_FILE):
        folder = folder.parent
    missing = [name for name in (CONFIG_FILE, WEIGHTS_FILE) if not (folder / name).is_file()]
    if missing:
        raise DictionaryError(
            f"{folder} is not a clipattr dictionary: {' and '.join(missing)} missing. Files of other projects open "
            "with load_sae()."
        )
    try:
        config = read_json(folder / CONFIG_FILE)
        parts = load_file(folder / WEIGHTS_FILE)
        card = read_json(folder / CARD_FILE) if (folder / CARD_FILE).is_file() else None
    except (OSError, ValueError, SafetensorError) as error:
        raise DictionaryError(f"The dictionary in {folder} is damaged: {error}") from error
    if not isinstance(config, dict) or config.get("format") != "clipattr":
        raise DictionaryError(
            f"{folder / CONFIG_FILE} has no 'format': 'clipattr', so another project wrote it; open it with load_sae()."
        )
    again = f"clipattr train STORE --out {folder} --latents N --k K"
    if told := schema_complaint(folder, config.get("schema", 0), SCHEMA, again, oldest=0):
        raise DictionaryError(told)
    kind = config.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise DictionaryError(
            f"{folder} holds a dictionary of kind {kind!r}; known kinds: {', '.join(sorted(KINDS))}."
        )
    try:
        made = KINDS[kind](
            **parts,
            **config["settings"],
            softcap=config["softcap"],
            # Older files hold True or False, from when layer_norm was the only normalisation.
            row_norm={True: "layer_norm", False: None}.get(config["row_norm"], config["row_norm"]),
            site=config["site"],
            input_site=config.get("input_site"),
            model_hash=config["model_hash"],
            info=config["info"],
        )
    except DictionaryError:
        raise
    except (
        KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError, OverflowError
    ) as error:  # fmt: skip
        raise DictionaryError(
            f"The dictionary in {folder} is incomplete or has unknown fields: {error}"
        ) from error
    made.card = config.get("card") or card
    made._hash = made._hashed(
        {**made._identity(), "row_norm": config["row_norm"]}
    )  # hashed with the file's own spelling of row_norm
    if made._hash != config.get("hash"):
        raise DictionaryError(
            f"The weights in {folder} hash to {made.hash}, its config.json says {config.get('hash')}: the two files do "
            "not belong together, or one was edited. Restore both from one source."
        )
    return made
