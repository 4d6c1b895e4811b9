"""Base: values of a study that an audit computes once and that all prompts share.

Near-duplicates count as one picture and are never in both halves; the competing words are those of the study. So the
findings of a prompt do not depend on copies of pictures or on the other prompts. All
tensors are on the CPU, wherever the models run. Start at `Base.of`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from clipattr.attribution import ClosedFormTail
from clipattr.dictionaries.named import centred, one_name
from clipattr.discovery.audit.concepts import Concepts
from clipattr.discovery.audit.names import by_parts
from clipattr.discovery.audit.settings import Settings
from clipattr.discovery.opened import Opener
from clipattr.errors import SiteError, StudyError
from clipattr.sites import continue_from

if TYPE_CHECKING:
    from clipattr.studies.study import Study

BLOCK = 2048  # pictures per step
RIVALS = 16  # best words of the audited model kept for each picture
KEPT_BYTES = (
    2**29
)  # float32 embeddings of one half kept in memory; beyond it float16, of up to twice as many bytes
CENTRE = 20_000  # pictures whose mean is the evaluator's centre, at most
# What separates words. Signs that tell names apart are kept: "C++" is not "C", "HER2-" not "HER2+", "-1" not "1".
BETWEEN = re.compile(r"(?:[^\w+#%&<>=-]|_|(?<=\w)-(?=\w)|(?<!\w)-(?!\d))+")
ARTICLES = re.compile(r"^(a|an|the)\s+")


@dataclass(frozen=True)
class Half:
    """The pictures of one half; row i of every array is the same picture.

    Attributes:
        rows: (n,) rows in the study's arrays.
        seen: (n, words) CSR, how much each word weighs in a picture. seen_by_word: the same by column.
        bar: (n,) cosine from which a text is among the picture's best words.
        rival, rival_score: (n, some) words that the audited model gives the picture, best first, and their similarity.
        codes: (n, latents) CSR.
    """

    rows: np.ndarray
    seen: Any
    seen_by_word: Any
    bar: Tensor
    rival: Tensor
    rival_score: Tensor
    codes: Any

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def codes_by_latent(self) -> Any:
        """`codes` by column, (n, latents) CSC."""
        return self.codes.tocsc()

    @cached_property
    def sums(self) -> tuple[np.ndarray, np.ndarray]:
        """Of each latent the sum of its codes over the half, float64, and how many of them are not zero."""
        table = self.codes_by_latent
        sums = np.array(table.sum(0, dtype=np.float64)).ravel()
        return sums, np.asarray(table.count_nonzero(axis=0)).ravel()


class Base:
    """A study made ready for an audit; see `of`."""

    def __init__(self, study: Study, settings: Settings) -> None:
        if not study.site.is_single or study.site.tail(study.model) is None:
            raise SiteError(
                "an audit needs one vector per picture with a closed-form tail: image.embedding, or image.-1.cls "
                f"where the class token is pooled. This study was built at {study.site}; build one there."
            )
        if not len(study.vocabulary):
            raise StudyError(
                "an audit names causes by words of a vocabulary, and this study has none. Build it with vocabulary=..."
            )
        if not bool((study.examples.counts > 0).any()):
            raise StudyError(
                "No latent of this study has an example: its dictionary never fires on these pictures. Build it with "
                "another."
            )
        self.templates = tuple(study.manifest.get("plan", {}).get("meaning", {}).get("templates") or ("{}",))
        self.study, self.settings, self.opener = study, settings, Opener(study.images)
        self._cache: dict[tuple[int, str], Tensor] = {}
        self._aimed: tuple[Tensor, ClosedFormTail] | None = None
        finding, measuring = halves(study)
        sample = _evenly(finding, CENTRE)
        known = study.vocabulary
        texts = centred(study.vocabulary_embeddings)
        stands = one_name(known.words, texts, ids=known.ids, cosine=settings.one_name)
        self.concepts = Concepts(
            study.vocabulary_embeddings, study.seen(sample), settings.sparsity, settings.fits, stands
        )
        self._rows = {"finding": finding, "measuring": measuring}
        self._seen = {name: self._decomposed(rows) for name, rows in self._rows.items()}
        self._choose_rivals()
        self.finding, self.measuring = (self._half(name) for name in ("finding", "measuring"))

    @classmethod
    def of(cls, study: Study, settings: Settings | None = None) -> Base:
        """Prepare a study.

        Raises:
            SiteError: the study's site has no closed-form tail. StudyError: no vocabulary, or nothing ever fires.
        """
        return cls(study, settings or Settings())

    def _decomposed(self, rows: np.ndarray) -> tuple[Any, Tensor]:
        from scipy.sparse import vstack

        parts = [self.concepts.decompose(self.study.seen(some)) for some in _blocks(rows)]
        if not parts:
            return self.concepts.decompose(self.study.seen(rows))
        return vstack([part for part, _ in parts]).tocsr(), torch.cat([bar for _, bar in parts])

    def _choose_rivals(self) -> None:
        """The words that the audited model chooses among, and the mean text that every contrast is taken against."""
        competing = self.concepts.competing.tolist()
        often = np.zeros(len(self.study.vocabulary))
        for seen, _ in self._seen.values():
            often += np.asarray((seen > self.settings.seen).sum(0)).ravel()
        words = self.study.vocabulary.words
        order = sorted(competing, key=lambda number: (-int(often[number]), words[number], number))
        self.rival_words = np.sort(np.array(order[: self.settings.rivals], dtype=np.int64))
        chosen = [self.study.vocabulary.prompts[number] for number in self.rival_words.tolist()]
        self.rival_text = self.text(chosen)
        self.background = (
            self.rival_text.double().mean(0).float()
            if len(chosen) > 1
            else torch.zeros_like(self.rival_text[0])
        )

    def text(self, prompts: list[str]) -> Tensor:
        """(n, embed) unit-length texts of the audited model, under the study's templates."""
        return self.study.model.encode_text(prompts, templates=self.templates).float().cpu()

    def _half(self, name: str) -> Half:
        from scipy.sparse import vstack

        rows, (seen, bar) = self._rows[name], self._seen[name]
        rivals, scores, codes = [], [], []
        for some in _blocks(rows):
            values, index = (self.audited(some) @ self.rival_text.T).topk(
                min(RIVALS, len(self.rival_words)), 1
            )
            rivals.append(torch.from_numpy(self.rival_words)[index])
            scores.append(values)
            codes.append(self.study.codes.rows(torch.from_numpy(some)).to_scipy().tocsr())
        nothing = torch.zeros(0, 1)
        return Half(
            rows, seen, seen.tocsc(), bar,
            torch.cat(rivals) if rivals else nothing.long(),
            torch.cat(scores) if scores else nothing,
            vstack(codes).tocsr() if codes else self.study.codes.rows(torch.from_numpy(rows)).to_scipy().tocsr(),
        )  # fmt: skip

    def acts(self, rows: np.ndarray) -> Tensor:
        """(rows, width) float32 at the site."""
        return torch.from_numpy(np.asarray(self.study.activations[rows], dtype=np.float32))

    def audited(self, rows: np.ndarray) -> Tensor:
        """(rows, embed) unit-length embeddings of the audited model, from the stored activations."""
        with torch.no_grad():
            return continue_from(self.study.model, self.study.site, self.acts(rows)).float().cpu()

    def scores(self, half: Half, column: Tensor) -> Tensor:
        """(n,) similarity of each picture of a half with a direction (embed,) of the audited model's output."""
        if (kept := self._kept(half, "audited", self.audited)) is not None:
            return _product(kept, column)
        return torch.cat([self.audited(some) @ column for some in _blocks(half.rows)] or [torch.zeros(0)])

    def mean_score(self, half: Half) -> Tensor:
        """(n,) similarity of each picture with the mean text."""
        key = (id(half), "mean")
        if key not in self._cache:
            self._cache[key] = self.scores(half, self.background)
        return self._cache[key]

    def along(self, half: Half, text: Tensor) -> Tensor:
        """(n,) cosine of each centred picture with a text of `Concepts.texts`, as the evaluator has them."""

        def centred(rows: np.ndarray) -> Tensor:
            return self.concepts.centred(self.study.seen(rows))

        if (kept := self._kept(half, "centred", centred)) is not None:
            return _product(kept, text)
        return torch.cat([centred(some) @ text for some in _blocks(half.rows)] or [torch.zeros(0)])

    def main_words(self, half: Half) -> tuple[Tensor, Tensor]:
        """The words that weigh most and second most in each picture, (n,) each; −1 where there is none."""
        key = (id(half), "main")
        if key not in self._cache:
            seen, best = half.seen, np.full((len(half), 2), -1, dtype=np.int64)
            count = np.diff(seen.indptr)
            order = np.lexsort((-seen.data, np.repeat(np.arange(len(half)), count)))
            for place in (0, 1):
                has = count > place
                best[has, place] = seen.indices[order[seen.indptr[:-1][has] + place]]
            self._cache[key] = torch.from_numpy(best)
        kept = self._cache[key]
        return kept[:, 0], kept[:, 1]

    def _kept(self, half: Half, what: str, made: Callable[[np.ndarray], Tensor]) -> Tensor | None:
        """(n, embed) kept in memory once made, None where that would be too large."""
        key = (id(half), what)
        if key not in self._cache:
            width = made(half.rows[:1]).shape[1]
            size = len(half) * width
            if not len(half) or size > KEPT_BYTES:
                return None
            exact = size * 4 <= KEPT_BYTES
            kept = torch.empty(len(half), width, dtype=torch.float32 if exact else torch.float16)
            for into, some in zip(kept.split(BLOCK), _blocks(half.rows), strict=True):
                into.copy_(made(some))
            self._cache[key] = kept
        return self._cache[key]

    def aimed(self, column: Tensor) -> ClosedFormTail:
        """The closed form aimed at a direction (embed,) of the audited model's output; the latest is kept."""
        if self._aimed is None or self._aimed[0] is not column:
            self._aimed = column, self.tail.aimed_at(column[:, None])
        return self._aimed[1]

    @cached_property
    def tail(self) -> ClosedFormTail:
        """The closed form behind the site, aimed at nothing yet."""
        return ClosedFormTail(
            self.study.model,
            self.study.dictionary,
            torch.zeros(len(self.background), 1),
            site=self.study.site,
        )

    @cached_property
    def answered(self) -> np.ndarray:
        """(words,) names in the form in which labels and prompts are compared."""
        return np.array([plain(word) for word in self.study.vocabulary.words])

    @cached_property
    def seen_words(self) -> tuple[Any, Any]:
        """For the finding and for the measuring half (n, words) CSC, 1 where a word is seen."""
        halves = (self.finding, self.measuring)
        found = [(half.seen_by_word > self.settings.seen).astype(np.float64) for half in halves]
        return found[0], found[1]

    @cached_property
    def numbers(self) -> dict[tuple[str, ...], list[int]]:
        """Numbers of the vocabulary's words by their lower-case parts."""
        return by_parts(self.study.vocabulary.words)

    @cached_property
    def labels(self) -> tuple[np.ndarray, dict[str, int]]:
        """Of each picture in the study the number of its label in plain form, −1 without one; and those numbers."""
        forms: dict[str, int] = {}
        known: dict[str | None, int] = {None: -1, "": -1}
        labels = self.study.images.columns["label"]
        for label in dict.fromkeys(labels):
            if label:
                known[label] = forms.setdefault(plain(label), len(forms))
        return np.array([known[label] for label in labels], dtype=np.int64), forms

    def word_of(self, text: str) -> int | None:
        """Number of the word that stands for what a text spells, up to case, article and plural; None if none does."""
        found = np.flatnonzero(self.answered == plain(text))
        return int(self.concepts.stands[int(found[0])]) if len(found) else None


def plain(text: str) -> str:
    """A name without case, article, hyphens and plural ending: the common form of its spellings."""
    words = " ".join(BETWEEN.sub(" ", text.casefold()).split()) or text.casefold()  # a text of signs alone
    words = ARTICLES.sub("", words)
    for ending, instead in (("ies", "y"), ("sses", "ss"), ("xes", "x"), ("ches", "ch"), ("shes", "sh")):
        if words.endswith(ending) and len(words) > len(ending) + 2:
            return words[: -len(ending)] + instead
    return words[:-1] if words.endswith("s") and not words.endswith("ss") and len(words) > 3 else words


def digest(*parts: str) -> int:
    """Hash of texts, for choices that do not depend on any order."""
    return int.from_bytes(hashlib.blake2b("\0".join(parts).encode(), digest_size=8).digest(), "big")


def halves(study: Study) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the finding half and of the measuring half, sorted by id; one picture per set of near-duplicates.

    The halves follow the study's own split if it holds out enough pictures, else a hash of the ids.
    """
    leader = representatives(study)
    ids, split = study.images.ids, study.images.columns["split"]
    held = np.array([part == "holdout" for part in split])
    # Duplicates of a picture that the dictionary was trained on are not in the measuring half.
    trained = np.zeros(len(ids), dtype=bool)
    np.logical_or.at(trained, leader, ~held)
    # The study keeps the first of several near-duplicates; pictures of equal activations count as one in any order.
    alone = ~np.asarray(study.repeats, dtype=bool)
    kept = np.zeros(len(ids), dtype=bool)
    np.logical_or.at(kept, leader, alone)
    chosen = np.flatnonzero((leader == np.arange(len(ids))) & kept)
    finding, measuring = chosen[trained[chosen]], chosen[~trained[chosen]]
    if len(measuring) < max(50, len(finding) // 20):
        side = np.array([digest(ids[row]) % 2 == 0 for row in chosen.tolist()], dtype=bool)
        finding, measuring = chosen[side], chosen[~side]
    return by_id(finding, ids), by_id(measuring, ids)


def by_id(rows: np.ndarray, ids: Sequence[str]) -> np.ndarray:
    """Rows in the order of their pictures' ids."""
    return rows[np.argsort([ids[row] for row in rows.tolist()], kind="stable")]


def representatives(study: Study) -> np.ndarray:
    """(pictures,) row of each picture's representative: of pictures with equal activations, the one with the first
    id."""
    ids = study.images.ids
    order = np.argsort(ids, kind="stable")
    first: dict[bytes, int] = {}
    leader = np.arange(len(ids))
    for row in order.tolist():
        key = hashlib.blake2b(study.activations[row].tobytes(), digest_size=16).digest()
        leader[row] = first.setdefault(key, row)
    return leader


def near_texts(texts: Tensor, text: Tensor, mean: Tensor) -> Tensor:
    """(n,) cosine of texts with one text, after the mean text is subtracted."""
    return F.normalize(texts - mean, dim=-1) @ F.normalize(text - mean, dim=0)


def _product(table: Tensor, column: Tensor) -> Tensor:
    """(n,) float32 product of a table (n, embed), float32 or float16, with a column."""
    if table.dtype == torch.float32:
        return table @ column
    return torch.cat([some.float() @ column for some in table.split(BLOCK)])


def _blocks(rows: np.ndarray) -> list[np.ndarray]:
    return [rows[start : start + BLOCK] for start in range(0, len(rows), BLOCK)]


def _evenly(rows: np.ndarray, n: int) -> np.ndarray:
    return rows[np.linspace(0, len(rows) - 1, min(n, len(rows))).astype(int)] if len(rows) else rows
