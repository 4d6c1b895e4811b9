"""Cautions: what limits a whole audit: pictures that cannot be opened, words that the evaluator does not distinguish.

An audit notes the facts in its `about`, which is stored with the findings; the sentences are made here for all who
show them. Start at `cautions`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clipattr.discovery.opened import not_opened
from clipattr.display.wording import counted

UNCLEAR = 0.02  # share of the vocabulary that is not distinguished, from which an audit says so


def cautions(about: Mapping[str, Any]) -> list[str]:
    """What an audit's `about` says of pictures and words that limit it, a sentence or two each; [] where nothing does.

    >>> cautions({"missing_pictures": {"asked_for": 1, "first": {"7.png": "no such file"}}})
    ['1 picture could not be opened, first 7.png: no such file. Others took its place where there were.']
    >>> told = cautions({"words": {"given": 900, "not_distinguished": 800, "first": ["heron", "loom"]}})
    >>> "does not distinguish 800 of 900 words" in told[0]
    True
    """
    told, missing, words = [], about.get("missing_pictures"), about.get("words")
    if isinstance(missing, Mapping) and missing.get("first"):
        n = int(missing["asked_for"])
        place = "its place" if n == 1 else "their place"
        told.append(f"{not_opened(missing['first'], n)}. Others took {place} where there were.")
    if isinstance(words, Mapping) and words.get("not_distinguished", 0) > UNCLEAR * words.get("given", 0):
        some = " and ".join(repr(str(word)) for word in list(words.get("first", ()))[:2])
        told.append(
            f"The evaluator does not distinguish {words['not_distinguished']:,} of {counted(words['given'], 'word')} "
            f"from many others, e.g. {some}: it was not trained on them, or they are cut off. Causes get wrong names, "
            "and more findings are wrong. Build the study with words, or with an evaluator, that fit each other."
        )
    return told
