"""Vocabulary: words for labels, with ids, glosses, groups and embeddings.

Owns the distinction of senses of one spelling, and the cache of embeddings. Ignores latents and file formats
(`word_lists.py`). Start at `Vocabulary.open`.
"""

import contextlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clipattr.display.wording import be, counted, few
from clipattr.errors import DataError
from clipattr.images.cells import cell_text
from clipattr.meaning.word_lists import SAVED, words_of
from clipattr.models.modules import template_texts
from clipattr.storage.documents import write_rows
from clipattr.storage.files import digest, save_tensors, tensor_bytes
from clipattr.storage.paths import user_path

GENERAL = "general"
IMAGENET = "imagenet21k"
# Bundled lists of one field each, with a role for every word; their groups of artefacts begin with "artefact".
FIELDS = ("dermatology", "chest_xray", "pathology", "inspection")
ROLES = ("object", "place", "mark", "text", "look")
GLOSS_WORDS = 8  # words of a gloss in a prompt; a CLIP reads at most 75 tokens
MAX_WORD = 300  # characters; longer entries are sentences or come from a broken file


class Vocabulary:
    """Words in a fixed order. A spelling may occur more than once with different ids or glosses.

    Args:
        words: as spelled; blank words, repetitions and entries of more than 300 characters are left out.
        ids, glosses, groups, qualifiers, roles: one per word, None where unknown. A qualifier distinguishes senses.
        notes: earlier notes to keep.

    Attributes:
        words: as spelled. ids, glosses, groups: one per word, None where unknown. roles: one of `ROLES` per word, None
            where undeclared.
        display: the word, with its sense where the spelling has several: "queen (female monarch)".
        prompts: the embedded text: the word, with its qualifier where it has several senses.
        notes: sentences on words that were left out or merged.

    Raises:
        DataError: no word left, or columns of different lengths.

    >>> queen = Vocabulary(["queen", "queen", "cat"], glosses=["female monarch", "a rock band", None])
    >>> queen.display
    ['queen (female monarch)', 'queen (a rock band)', 'cat']
    """

    def __init__(
        self,
        words: Sequence[str],
        *,
        ids: Sequence[str | None] | None = None,
        glosses: Sequence[str | None] | None = None,
        groups: Sequence[str | None] | None = None,
        qualifiers: Sequence[str | None] | None = None,
        roles: Sequence[str | None] | None = None,
        notes: Iterable[str] = (),
    ) -> None:
        nothing: list[str | None] = [None] * len(words)
        columns: list[list[Any]] = [
            list(words),
            *(list(nothing if c is None else c) for c in (ids, glosses, groups, qualifiers, roles)),
        ]
        if any(len(column) != len(words) for column in columns):
            names = ("words", "ids", "glosses", "groups", "qualifiers", "roles")
            lengths = few((f"{len(c)} {name}" for name, c in zip(names, columns, strict=True)), len(names))
            raise DataError(
                f"Each word has one id, gloss, group, qualifier and role, or none; got {lengths}."
            )
        self.notes = list(notes)
        rows = self._cleaned(list(zip(*columns, strict=True)))
        if not rows:
            empty = "The vocabulary is empty. Give at least one word; 'general' opens the bundled list."
            raise DataError(" ".join([empty, *self.notes]))
        self.words: list[str] = [row[0] for row in rows]
        self.ids: list[str | None] = [row[1] for row in rows]
        self.glosses: list[str | None] = [row[2] for row in rows]
        self.groups: list[str | None] = [row[3] for row in rows]
        self._qualifiers: list[str | None] = [row[4] for row in rows]
        self.roles: list[str | None] = self._roles([row[5] for row in rows])
        self.display, self.prompts = _senses(rows)
        self._places: dict[str, int] | None = None
        self._embedded: dict[tuple[str, tuple[str, ...]], Tensor] = {}

    def _roles(self, given: list[str | None]) -> list[str | None]:
        """Roles in lower case; others than `ROLES` are dropped with a note."""
        folded = [None if role is None else role.casefold() for role in given]
        unknown = Counter(role for role in folded if role is not None and role not in ROLES)
        if unknown:
            some = ", ".join(repr(role) for role, _ in unknown.most_common(5))
            self.notes.append(
                f"Roles are {', '.join(ROLES)}; {counted(unknown.total(), 'other')} "
                f"{be(unknown.total(), True)} left out: {some}."
            )
        return [role if role in ROLES else None for role in folded]

    def _cleaned(self, rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        kept: list[tuple[Any, ...]] = []
        seen: set[tuple[str, str]] = set()
        blank, repeated, long = 0, Counter[str](), 0
        for row in rows:
            word = " ".join((cell_text(row[0]) or "").split())
            if not word:
                blank += 1
            elif len(word) > MAX_WORD:
                long += 1
            else:
                key = (word.casefold(), str(row[1] or row[2] or ""))
                if key in seen:
                    repeated[word] += 1
                else:
                    seen.add(key)
                    kept.append((word, *map(cell_text, row[1:])))
        if blank:
            self.notes.append(f"{counted(blank, 'blank line')} {be(blank, True)} left out.")
        if long:
            self.notes.append(
                f"{counted(long, 'entry', 'entries')} longer than {MAX_WORD} characters {be(long, True)} left out."
            )
        if repeated:
            some = ", ".join(repr(word) for word, _ in repeated.most_common(5))
            self.notes.append(
                f"{counted(repeated.total(), 'repeated word')} {be(repeated.total(), True)} left out: {some}."
            )
        return kept

    @classmethod
    def open(cls, source: Any = GENERAL, *, encoding: str = "utf-8") -> "Vocabulary":
        """Open a vocabulary.

        Args:
            source: "general" (bundled: common objects, places, attributes and marks); "dermatology", "chest_xray",
                "pathology" or "inspection" (bundled: the content of such pictures including artefacts, with roles);
                "imagenet21k" (names and WordNet glosses that come with timm); a text file with one word per line ("#"
                starts a comment line); a table with a column `word` and optionally `id`, `gloss`, `group`, `role`
                (.csv, .tsv, a data frame, a dictionary of lists); a .json list or object; a list, array or Series of
                words; a mapping from word to group, from group to list of words, or from class number to word; or a
                `Vocabulary`.
            encoding: of the file, if it is neither UTF-8 nor marked as UTF-16.

        Returns:
            The vocabulary, in the order of the source.

        Raises:
            DataError: no such file, not text in this encoding (with line), unknown columns, or no word.

        >>> Vocabulary.open({0: "cat", 1: "dog"}).words
        ['cat', 'dog']
        """
        if isinstance(source, Vocabulary):
            return source
        if isinstance(source, str) and source == GENERAL:
            text = resources.files("clipattr.meaning").joinpath("general.json").read_text(encoding="utf-8")
            return cls._from_groups(json.loads(text))
        if isinstance(source, str) and source == IMAGENET:
            return cls._imagenet()
        if isinstance(source, str) and source in FIELDS:
            return cls._field(source)
        columns = vars(words_of(source, encoding))
        return cls(**{name: column for name, column in columns.items() if name != "exact"})

    @classmethod
    def _from_groups(cls, groups: Mapping[str, Sequence[str]]) -> "Vocabulary":
        pairs = [(word, group) for group, words in groups.items() for word in words]
        return cls([word for word, _ in pairs], groups=[group for _, group in pairs])

    @classmethod
    def _field(cls, name: str) -> "Vocabulary":
        text = resources.files("clipattr.meaning").joinpath("vocabularies", f"{name}.json").read_text("utf-8")
        rows = [
            (word, group, about["role"])
            for group, about in json.loads(text).items()
            for word in about["words"]
        ]
        words, groups, roles = zip(*rows, strict=True)
        return cls(list(words), groups=groups, roles=roles)

    @classmethod
    def _imagenet(cls) -> "Vocabulary":
        try:
            info = resources.files("timm.data").joinpath("_info")
            synsets = info.joinpath("imagenet21k_goog_synsets.txt").read_text(encoding="utf-8").split()
            names = _pairs(info.joinpath("imagenet_synset_to_lemma.txt").read_text(encoding="utf-8"))
            glosses = _pairs(info.joinpath("imagenet_synset_to_definition.txt").read_text(encoding="utf-8"))
        except (ImportError, OSError) as error:
            raise DataError(
                "The ImageNet-21k names come with timm, which is missing or too old: pip install 'timm>=1.0'."
            ) from error
        synonyms = [[part.strip() for part in names[synset].split(",")] for synset in synsets]
        return cls(
            [parts[0] for parts in synonyms],
            ids=synsets,
            glosses=[glosses.get(synset) for synset in synsets],
            qualifiers=[parts[1] if len(parts) > 1 else None for parts in synonyms],
        )

    def __len__(self) -> int:
        return len(self.words)

    def __repr__(self) -> str:
        return f"<Vocabulary: {counted(len(self), 'word')}, {self.hash}>"

    @property
    def hash(self) -> str:
        """16 hex digits over words, ids, glosses, groups and prompts."""
        rows = list(zip(self.words, self.ids, self.glosses, self.groups, self.prompts, strict=True))
        # Lists without roles keep the hash they had before there were any.
        return digest(json.dumps(rows), json.dumps(self.roles) if any(self.roles) else "")

    def index(self, word: str) -> int:
        """Index of the first entry with this spelling or display name.

        Raises:
            DataError: no such entry; the message names similar words.
        """
        if self._places is None:
            self._places = {}
            for names in (self.display, self.words):
                for place, name in enumerate(names):
                    self._places.setdefault(name, place)
        if word in self._places:
            return self._places[word]
        from difflib import get_close_matches

        near = get_close_matches(word, self.words, 3)
        raise DataError(
            f"{word!r} is not among the {len(self.words)} words of the vocabulary"
            + (f"; similar words: {', '.join(near)}." if near else ". `words` lists them.")
        )

    def embed(
        self,
        model: Any,
        templates: Sequence[str] = ("{}",),
        *,
        cache: str | Path | None = None,
        batch: int = 256,
    ) -> Tensor:
        """Unit-length text embeddings, cached per model and set of templates.

        Args:
            model: a `Model`.
            templates: each contains "{}", or is a function from word to text. A word's embedding is the mean of its
                unit embeddings under all templates, normalised again.
            cache: folder for a file of embeddings, named by the hashes of words, templates and weights.
            batch: texts per forward pass.

        Returns:
            (n_words, embed) float32 on the CPU.

        Raises:
            DataError: no template, or one without "{}". ModelError: a word that the model cannot embed.
        """
        templates = tuple(sorted(template_texts(templates)))
        bad = [template for template in templates if "{}" not in template]
        if bad or not templates:
            raise DataError(f"Every template must contain '{{}}', where the word goes; got {few(bad)}.")
        key = (json.dumps([model.weights_hash, getattr(model, "facts", {})]), templates)
        if key not in self._embedded:
            self._embedded[key] = self._embed(model, templates, cache, batch)
        return self._embedded[key]

    def _embed(self, model: Any, templates: tuple[str, ...], cache: str | Path | None, batch: int) -> Tensor:
        from safetensors import SafetensorError, safe_open

        stamp = json.dumps([self.hash, templates, model.weights_hash, getattr(model, "facts", {})])
        file = None
        if cache is not None:
            file = Path(cache) / f"words-{digest(stamp)}.safetensors"
            with (
                contextlib.suppress(OSError, SafetensorError, KeyError, TypeError),
                safe_open(file, "pt") as kept,
            ):
                stored = kept.get_tensor("embeddings")
                if (kept.metadata() or {})["digest"] == digest(tensor_bytes(stored)) and stored.shape[
                    0
                ] == len(self):
                    return stored
        parts = [
            model.encode_text(self.prompts[start : start + batch], templates=templates).float().cpu()
            for start in range(0, len(self), batch)
        ]
        embeddings = torch.cat(parts)
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            save_tensors(file, {"embeddings": embeddings}, {"digest": digest(tensor_bytes(embeddings))})
        return embeddings

    def save(self, path: str | Path) -> None:
        """Write as CSV (UTF-8); `Vocabulary.open` reads it back with the same hash."""
        with user_path(path).open("w", encoding="utf-8", newline="") as file:
            columns = [self.words, self.ids, self.glosses, self.groups, self._qualifiers]
            names = SAVED
            if any(self.roles):
                columns, names = [*columns, self.roles], [*names, "role"]
            write_rows(file, [names, *zip(*columns, strict=True)])


def empty_prompt(model: Any, templates: Sequence[str] = ("{}",)) -> Tensor:
    """Embedding of the empty prompt under the same templates, (embed,), which alignment subtracts."""
    return model.encode_text([""], templates=tuple(sorted(template_texts(templates)))).float().cpu()[0]


def _senses(rows: list[tuple[Any, ...]]) -> tuple[list[str], list[str]]:
    """Display names and prompts; a spelling that occurs more than once gets a qualifier."""
    times = Counter(row[0].casefold() for row in rows)
    display, prompts = [], []
    for word, id, gloss, group, qualifier, _ in rows:
        if times[word.casefold()] == 1:
            display.append(word)
            prompts.append(word)
            continue
        short = " ".join((gloss or "").replace(";", " ;").split(" ;")[0].split()[:GLOSS_WORDS])
        sense = qualifier or short or group
        display.append(f"{word} ({sense or id})" if sense or id else word)
        prompts.append(f"{word}, {sense}" if sense else word)
    return display, prompts


def _pairs(text: str) -> dict[str, str]:
    return dict(line.split("\t", 1) for line in text.splitlines() if "\t" in line)
