"""Scores: the contrast of every picture that an audit used, in a form that its JSON keeps for the next release.

A gate that has the scores of the released and of the new model on the same pictures can test directly which words have
come to raise a prompt, without any dictionary. Owns which pictures and values are kept and how they are packed; ignores
what follows from them (`discovery/rises.py`). Start at `Scored`.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from clipattr.discovery.audit.base import Base, digest
from clipattr.discovery.audit.subject import Subject
from clipattr.errors import DataError
from clipattr.storage.files import json_digest

VERSION = 1  # of the packed form
MOST = 16_384  # pictures kept, chosen by the digest of their id: 30 kB a prompt at most
MOST_SEEN = 255  # words kept of one picture, those that weigh most: their number fits into a byte


@dataclass(frozen=True)
class Scored:
    """The pictures whose scores are kept.

    Attributes:
        words: of the study's vocabulary. order: (n,) their numbers in the finding half followed by the measuring half.
        about: what the audit's JSON says of them: `ids` (a 64-bit digest of each), `names` (the words that are seen),
            `seen` and `sure` (how many of them the evaluator sees, and surely sees, in each picture), `words` (their
            places in `names`, the heaviest first), and `texts`, a digest of the texts whose mean every score lacks.
    """

    order: np.ndarray
    about: Mapping[str, Any]
    words: Sequence[str]

    @classmethod
    def of(cls, base: Base, background: Sequence[str] | None = None) -> Scored:
        """Choose the pictures of a study and pack what the evaluator sees in them.

        Args:
            background: texts whose mean is subtracted from every score; None: the words that compete.
        """
        given = base.rival_words.tolist() if background is None else list(background)
        texts = json_digest([given, list(base.templates)])
        rows = np.concatenate([base.finding.rows, base.measuring.rows])
        keys = np.array([digest(base.study.images.ids[int(row)]) for row in rows], dtype=np.uint64)
        order = np.argsort(keys, kind="stable")[:MOST]
        split = len(base.finding)
        seen, sure, words = [], [], []
        for at in order.tolist():
            half, row = (base.finding, at) if at < split else (base.measuring, at - split)
            part = slice(half.seen.indptr[row], half.seen.indptr[row + 1])
            weight, word = half.seen.data[part], half.seen.indices[part]
            heaviest = np.argsort(-weight, kind="stable")[: int((weight > base.settings.seen).sum())]
            heaviest = heaviest[:MOST_SEEN]
            seen.append(len(heaviest))
            sure.append(int((weight[heaviest] > base.settings.surely).sum()))
            words.append(word[heaviest])
        numbers, places = np.unique(
            np.concatenate([*words, np.zeros(0, int)]).astype(int), return_inverse=True
        )
        about = {
            "version": VERSION,
            "pictures": len(order),
            "ids": packed(keys[order]),
            "seen": packed(np.array(seen, dtype=np.uint8)),
            "sure": packed(np.array(sure, dtype=np.uint8)),
            "words": packed(places.astype(np.uint32)),
            "names": [base.study.vocabulary.words[number] for number in numbers.tolist()],
            "texts": texts,
        }
        return cls(order, about, base.study.vocabulary.words)

    def subject(self, subject: Subject) -> dict[str, Any]:
        """What a verdict keeps of one prompt, each of n values in the same order.

        Returns:
            `contrast`: raw cosine, float16. `own`, `clear`, `shown`: bits, see `Side`. `same`: the words that are other
            names of the prompt.
        """
        sides = (subject.finding, subject.measuring)

        def joined(name: str) -> np.ndarray:
            return np.concatenate([getattr(side, name).numpy() for side in sides])[self.order]

        bits = {name: packed(np.packbits(joined(name))) for name in ("own", "clear", "shown")}
        contrast = packed(joined("contrast").astype(np.float16))
        return {"contrast": contrast, **bits, "same": [self.words[n] for n in sorted(subject.same)]}


def packed(values: np.ndarray) -> str:
    """An array's bytes, little-endian, compressed, as text."""
    raw = np.ascontiguousarray(values).astype(values.dtype.newbyteorder("<")).tobytes()
    return base64.b64encode(zlib.compress(raw, 6)).decode("ascii")


def unpacked(text: Any, kind: str, n: int) -> np.ndarray:
    """The array of `packed`.

    Args:
        kind: numpy's name of the type. n: how many values are promised; nothing longer is unpacked.

    Raises:
        DataError: no text, damaged, or of another length.

    >>> unpacked(packed(np.array([1, 2, 3], dtype=np.uint8)), "u1", 3).tolist()
    [1, 2, 3]
    """
    kept = np.dtype(kind).newbyteorder("<")
    try:
        raw = base64.b64decode(text, validate=True)
        values = zlib.decompressobj().decompress(raw, n * kept.itemsize + 1)
    except (TypeError, ValueError, zlib.error) as error:
        raise DataError(f"the scores are damaged ({error}). Audit again.") from error
    if len(values) != n * kept.itemsize:
        raise DataError(f"the scores are damaged: {n:,} values were promised. Audit again.")
    return np.frombuffer(values, dtype=kept).astype(np.dtype(kind))
