"""Classes: labels that are codes, such as ImageNet's numbers and HAM10000's diagnoses, replaced by words.

Owns the detection of codes and the words that they stand for: classes become prompts, and no text encoder knows that
n02012849 is a crane. Owns also the two classes of skin lesions. Ignores how labels are read (`images/`). Start at
`with_words`.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping

from clipattr.errors import DataError
from clipattr.images.collection import Images
from clipattr.images.tables import HAM10000_CLASSES, Table, open_table
from clipattr.meaning.vocabulary import IMAGENET, Vocabulary

SYNSET = re.compile(r"n\d{8}")  # a noun of WordNet, as ImageNet names its folders
SHOWN = 3  # labels in a note
DIAGNOSES = {
    "akiec": "actinic keratosis",
    "bcc": "basal cell carcinoma",
    "bkl": "benign keratosis",
    "df": "dermatofibroma",
    "mel": "melanoma",
    "nv": "melanocytic nevus",
    "scc": "squamous cell carcinoma",
    "vasc": "vascular lesion",
}  # of HAM10000 and the ISIC challenges
MALIGNANT, BENIGN = "malignant", "benign"
# How tables call the two classes, besides HAM10000's seven diagnoses.
LESION_CLASSES = HAM10000_CLASSES | {
    "malignant": MALIGNANT, "benign": BENIGN, "melanoma": MALIGNANT, "nevus": BENIGN, "1": MALIGNANT, "0": BENIGN,
    "basal cell carcinoma": MALIGNANT, "squamous cell carcinoma": MALIGNANT, "seborrheic keratosis": BENIGN,
    "scc": MALIGNANT,
}  # fmt: skip


def lesion_table(
    folder: str | os.PathLike[str],
    metadata: str | os.PathLike[str] | None = None,
    group: str | None = None,
) -> Table:
    """Pictures of skin lesions in two classes, split so that no lesion or patient is on both sides.

    Args:
        folder, metadata, group: as for `open_table`.

    Raises:
        DataError: as `open_table`.
    """
    return open_table(folder, metadata, labels=LESION_CLASSES, group=group)


def with_words(images: Images, names: Mapping[str, str] | None = None) -> tuple[Images, list[str]]:
    """The pictures with words as labels, and sentences on what was replaced or is still a code.

    Underscores in labels, as names of folders have them, are read as spaces.

    Args:
        names: word of each code; default WordNet's names for ImageNet's numbers, and HAM10000's diagnoses where no
            other label occurs.

    Raises:
        DataError: two labels get one word.

    >>> import numpy as np
    >>> table = {"path": [np.zeros((8, 8, 3), np.uint8)] * 2, "label": ["mel", "nv"]}
    >>> named, notes = with_words(Images.open(table))
    >>> named.columns["label"], notes
    (['melanoma', 'melanocytic nevus'], ['labels are read as words: mel as melanoma, nv as melanocytic nevus'])
    """
    labels = images.columns["label"]
    found = sorted({label for label in labels if label})
    known = _known(found) if names is None else names
    words = {
        label: known.get(label, spaced(label)) for label in found if label in known or spaced(label) != label
    }
    notes = []
    if words:
        _check_apart(found, words)
        columns = {**images.columns, "label": [words.get(label or "", label) for label in labels]}
        images = Images(images.source, images.ids, columns, rows=images.rows, notes=images.notes)
        notes.append(f"labels are read as words: {_listed([f'{a} as {b}' for a, b in words.items()])}")
    left = [label for label in found if label not in words and is_code(label)]
    if left:
        notes.append(
            f"{len(left)} of {len(found)} labels look like codes, which no text encoder knows ({_listed(left)}); give "
            "their words with names="
        )
    return images, notes


def spaced(label: str) -> str:
    """A label with spaces for its underscores, unless it is a code.

    >>> spaced("joshua_tree"), spaced("class_07")
    ('joshua tree', 'class_07')
    """
    return label if is_code(label) else " ".join(label.replace("_", " ").split())


def is_code(label: str) -> bool:
    """Whether a label looks like a code: it holds a digit, is one letter, or has no vowel.

    >>> [is_code(label) for label in ("n02012849", "nv", "7", "mel", "kite", "water lily")]
    [True, True, True, True, False, False]
    """
    plain = label.strip().casefold()
    if plain in DIAGNOSES or any(letter.isdigit() for letter in plain) or len(plain) < 2:
        return True
    letters = [letter for letter in plain if "a" <= letter <= "z"]
    return len(letters) == len(plain) and not set(letters) & set("aeiouy")


def _known(found: list[str]) -> dict[str, str]:
    if found and {label.casefold() for label in found} <= DIAGNOSES.keys():
        return {label: DIAGNOSES[label.casefold()] for label in found}
    if any(SYNSET.fullmatch(label) for label in found):
        return _synsets(found)
    return {}


def _synsets(found: list[str]) -> dict[str, str]:
    """The first name of each of ImageNet's numbers; with its sense where two would get the same, as with "crane"."""
    full = Vocabulary.open(IMAGENET)
    place = {name: number for number, name in reversed(list(enumerate(full.ids)))}
    there = {label: place[label] for label in found if label in place}
    first = {label: full.words[number] for label, number in there.items()}
    counts = Counter(first.values())
    return {label: word if counts[word] == 1 else full.prompts[there[label]] for label, word in first.items()}


def _check_apart(found: list[str], words: Mapping[str, str]) -> None:
    counts = Counter(words.get(label, label) for label in found)
    word, most = counts.most_common(1)[0]
    if most > 1:
        same = [label for label in found if words.get(label, label) == word]
        raise DataError(
            f"The labels {_listed(same)} all have the word {word!r}. Give each its own word with names=."
        )


def _listed(texts: list[str]) -> str:
    more = f" and {len(texts) - SHOWN} more" if len(texts) > SHOWN else ""
    return ", ".join(texts[:SHOWN]) + more
