"""Scored: the pictures and values that an audit's JSON holds, unpacked and checked, as two audits are compared.

Reads what `audit/scores.py` packs. The JSON may be untrusted or damaged: nothing longer than promised is unpacked.
Owns also which of two audits can be compared.
Ignores what is compared (`rises.py`). Start at `Pictures.read` and `Values.read`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from clipattr.discovery.audit.scores import VERSION, unpacked
from clipattr.errors import DataError

if TYPE_CHECKING:
    from clipattr.discovery.findings import Findings
    from clipattr.studies.study import Study

LARGEST = 10_000_000  # pictures that an audit's scores can be of


@dataclass(frozen=True)
class Pictures:
    """The pictures of one audit: (n,) ids, and (n, words) CSR of 0 and 1, where each word is seen and surely seen."""

    ids: np.ndarray
    words: Sequence[str]
    seen: Any
    sure: Any

    @classmethod
    def read(cls, about: Any) -> Pictures:
        """Unpack `scored` of an audit's `about`.

        Raises:
            DataError: damaged.
        """
        from scipy.sparse import csr_array

        n, words = about.get("pictures"), about.get("names")
        if not isinstance(n, int) or not 0 <= n <= LARGEST or not isinstance(words, list):
            raise DataError("The scores do not state which pictures they are of. Audit again.")
        ids = unpacked(about.get("ids"), "u8", n)
        seen, sure = (unpacked(about.get(name), "u1", n).astype(np.int64) for name in ("seen", "sure"))
        places = unpacked(about.get("words"), "u4", int(seen.sum())).astype(np.int64)
        if (sure > seen).any() or (len(places) and int(places.max()) >= len(words)):
            raise DataError("The scores are damaged: they name words that are not there. Audit again.")
        ends = np.concatenate([[0], np.cumsum(seen)])
        nth = np.arange(len(places)) - np.repeat(ends[:-1], seen)
        shape = (n, len(words))
        table = csr_array((np.ones(len(places)), places, ends), shape=shape)
        certain = csr_array(
            ((nth < np.repeat(sure, seen)).astype(np.float64), places, ends), shape=shape, copy=True
        )
        certain.eliminate_zeros()  # in place, so on a copy
        return cls(ids, [str(word) for word in words], table, certain)


@dataclass(frozen=True)
class Values:
    """What an audit holds of one prompt on some of its pictures, (n,) each; see `Scored.subject`."""

    contrast: np.ndarray
    own: np.ndarray
    clear: np.ndarray
    shown: np.ndarray
    same: tuple[str, ...]

    @classmethod
    def read(cls, scored: Mapping[str, Any], n: int, rows: np.ndarray) -> Values:
        def bits(name: str) -> np.ndarray:
            return np.unpackbits(unpacked(scored.get(name), "u1", (n + 7) // 8), count=n).astype(bool)[rows]

        contrast = unpacked(scored.get("contrast"), "f2", n).astype(np.float64)[rows]
        if not np.isfinite(contrast).all():
            raise DataError("The scores are damaged: some are no numbers. Audit again.")
        same = tuple(str(word) for word in scored.get("same", ()))
        return cls(contrast, bits("own"), bits("clear"), bits("shown"), same)


def difference(now: Findings, then: Findings) -> str:
    """What keeps the scores of two audits from being compared; "" if nothing does."""
    for name, audit in (("audit", now), ("baseline", then)):
        about = audit.about.get("scored")
        if not isinstance(about, Mapping):
            return f"the {name} holds no scores of pictures"
        if about.get("version") != VERSION:
            return f"the scores of the {name} are of version {str(about.get('version')):.20}, not {VERSION}"
    same = now.about["scored"].get("texts") == then.about["scored"].get("texts")
    if not same or now.about.get("vocabulary") != then.about.get("vocabulary"):
        return "the vocabularies of the two audits differ"
    return ""


def released_scores(findings: Findings, baseline: Findings | None, previous: Study | None) -> Findings | None:
    """What holds the scores of the released model: its study, if that has the same words, else the baseline."""
    if previous is None or findings.study is None or not any(v.scored for v in findings.verdicts):
        return baseline
    from clipattr.discovery.audit.run import scores

    made = scores(previous, [v.prompt for v in findings.verdicts if v.scored])
    ours, theirs = (about.get("evaluator") or {} for about in (findings.about, made.about))
    same = ours.get("hash") == theirs.get("hash")
    return made if same and not difference(findings, made) else baseline
