"""Placing: the site at which a dictionary is used, and whether it may be used there.

Owns the two questions that attribution, cards and studies ask. Start at `place_of`.
"""

from __future__ import annotations

from typing import Any

from clipattr.errors import DictionaryError, StudyError


def place_of(dictionary: Any, site: Any = None) -> Any:
    """The site that was asked for, else the dictionary's own; it is never guessed.

    Raises:
        DictionaryError: neither is there.
    """
    place = site or getattr(dictionary, "site", None)
    if place is None:
        raise DictionaryError(
            "The dictionary does not say where its activations were read. Pass site=, e.g. site='image.-1.cls'."
        )
    return place


def require_place(dictionary: Any, model: Any, site: Any) -> None:
    """Raise unless a dictionary was made at a study's block and stream; unknown sites pass.

    Args:
        model: the `Model`. site: the study's `Site`.

    Raises:
        StudyError: another block or stream, or a transcoder, which has two sites.
    """
    if getattr(dictionary, "is_transcoder", False):
        raise StudyError(
            f"The dictionary is a transcoder from {dictionary.input_site} to {dictionary.site}: attribute(model, "
            "images, target, dictionary=...) takes it; a study needs a dictionary of one site."
        )
    if dictionary.site is None:
        return
    own = type(site)(dictionary.site)
    same = own.is_embedding and site.is_embedding
    if not own.is_embedding and not site.is_embedding:
        same = (own.index(model), own.stream) == (site.index(model), site.stream)
    if not same:
        raise StudyError(f"The dictionary was trained at {dictionary.site}; the study's site is {site}.")
