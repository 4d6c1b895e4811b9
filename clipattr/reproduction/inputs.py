"""Inputs: the models, pictures, words and studies that a reproduction reads.

Owns reading what the caller gives, building each model's studies from one encoding of the pictures, and the hashes that
identify all of it. Ignores what is measured. Start at `Inputs.open`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from clipattr.dictionaries import Dictionary, neurons, pca, random_sae
from clipattr.errors import ClipattrError, DataError, StudyError
from clipattr.images.collection import Images
from clipattr.images.tables import Table
from clipattr.meaning.vocabulary import Vocabulary
from clipattr.models.loading import Model, load_model
from clipattr.reproduction.classes import lesion_table, with_words
from clipattr.reproduction.pieces import plain
from clipattr.reproduction.sizes import Sizes
from clipattr.reproduction.times import LOADING, STUDIES, Times
from clipattr.storage.files import json_digest
from clipattr.storage.paths import user_path
from clipattr.studies.encode import collect_activations
from clipattr.studies.format import bundled_study
from clipattr.studies.presets import Protocol, first_names
from clipattr.studies.start import build_study
from clipattr.studies.study import Study, open_study

if TYPE_CHECKING:
    from clipattr.execution.engine import Engine

TRAINED, FROZEN, PCA, NEURONS = "trained", "frozen", "pca", "neurons"
SYNTHETIC = "lesions"  # the bundled study of synthetic lesions
FITTED_ON = 4000  # activations that set the directions, mean and gain of a control


@dataclass
class Inputs:
    """What a reproduction reads, and the studies built from it.

    Attributes:
        protocol: the published settings. sizes: of this run. folder: where studies are built.
        models: reference (or module) of each variant, by the name it is shown under.
        images, vocabulary: opened. evaluator: reference or module of the model that names pictures.
        prompts: that are audited. lesions: photographs with a table, the name of the bundled study, or None.
        truth: one {"prompt", "cause", "kind"} for each planted reliance, by model; empty if unknown.
        notes: what was changed or left out when the inputs were read.
    """

    protocol: Protocol
    sizes: Sizes
    folder: Path
    models: dict[str, Any]
    images: Images
    evaluator: Any
    vocabulary: Vocabulary
    prompts: list[str]
    lesions: Table | str | None = None
    truth: Mapping[str, tuple[Mapping[str, Any], ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    engine: Engine | None = None
    progress: bool = True
    given: dict[str, Any] = field(default_factory=dict)
    times: Times = field(default_factory=Times)
    _loaded: dict[str, Model] = field(default_factory=dict)
    _studies: dict[tuple[str, str, int], Study] = field(default_factory=dict)

    @classmethod
    def open(
        cls,
        protocol: Protocol,
        sizes: Sizes,
        folder: Path,
        *,
        models: Any,
        images: Any,
        names: Mapping[str, str] | None = None,
        evaluator: Any = None,
        vocabulary: Any = None,
        prompts: Iterable[str] | None = None,
        lesions: Any = None,
        truth: Any = None,
        engine: Engine | None = None,
        progress: bool = True,
    ) -> Inputs:
        """Read what `reproduce` was given.

        Raises:
            StudyError: no model, or two of one name. DataError: no pictures, words or prompts; causes of a model that
                is not tested.
        """
        named = named_models(models)
        given = _pictures(images)
        pictures, notes = with_words(given, names)
        # Prompts and causes may be given by the labels as they were.
        words_of = dict(zip(given.columns["label"], pictures.columns["label"], strict=True))
        pictures = _fewer(pictures, sizes.pictures)
        asked = protocol.vocabulary if vocabulary is None else vocabulary
        words = first_names(asked) if asked == "imagenet21k" else _words(asked)
        listed = _prompts(prompts, pictures, words, sizes.prompts, words_of)
        if prompts is None and not any(pictures.columns["label"]):
            notes.append(
                "the pictures have no labels, so words of the vocabulary are the prompts, whether or not pictures show "
                "them; give prompts=, or one folder per class"
            )
        return cls(
            protocol=protocol,
            sizes=sizes,
            folder=folder,
            models=named,
            images=pictures,
            evaluator=protocol.evaluator if evaluator is None else evaluator,
            vocabulary=words,
            prompts=listed,
            lesions=lesions if lesions is None or isinstance(lesions, Table) else _lesions(lesions),
            truth=known_causes(truth, list(named), words_of),
            notes=tuple(notes),
            engine=engine,
            progress=progress,
            given={"vocabulary": asked if isinstance(asked, str) else "a list of words"},
        )

    @property
    def variants(self) -> list[str]:
        """Names of the models, in the order given."""
        return list(self.models)

    @property
    def labels(self) -> list[str]:
        """The labels of the pictures, sorted; empty if they have none."""
        return sorted({label for label in self.images.columns["label"] if label})

    def model(self, variant: str) -> Model:
        """A variant's model, loaded when first asked for."""
        return self._load(variant, self.models[variant])

    @property
    def judge(self) -> Model:
        """The evaluator, loaded when first asked for."""
        return self._load(" evaluator", self.evaluator)

    def _load(self, key: str, given: Any) -> Model:
        if key not in self._loaded:
            with self.times.of(LOADING):
                self._loaded[key] = load_model(given)
        return self._loaded[key]

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Hashes of everything that is read but the models."""
        return {
            "images": self.images.fingerprint,
            "vocabulary": self.vocabulary.hash,
            "prompts": json_digest(self.prompts),
            "evaluator": self.judge.weights_hash,
            "lesions": self.lesions.images.fingerprint if isinstance(self.lesions, Table) else self.lesions,
            "truth": json_digest(plain(self.truth)) if self.truth else None,
        }

    def study(self, variant: str, parts: str = TRAINED, seed: int = 0) -> Study:
        """A variant's study, built if it is not there yet; all studies of a variant share one encoding.

        Args:
            parts: "trained" for the protocol's dictionary, "frozen" for random directions, "pca" for principal
                components, "neurons" for coordinates. seed: of the dictionary.
        """
        key = (variant, parts, seed)
        if key not in self._studies:
            shared = parts == TRAINED and seed == 0
            with self.times.of(f"{STUDIES} · {variant}") if shared else nullcontext():
                self._studies[key] = self._built(variant, parts, seed)
        return self._studies[key]

    def _built(self, variant: str, parts: str, seed: int) -> Study:
        sizes, site = self.sizes, self.protocol.site
        about = [self.model(variant).weights_hash, self.identity, site, sizes.holdout]
        store = self.folder / f"{file_name(variant)}-{json_digest(about, digits=8)}.acts"
        self.encode(variant, self.images, store)
        dictionary = None
        if parts != TRAINED:
            trained = self.study(variant)
            some = torch.from_numpy(np.asarray(trained.activations[trained.rows[:FITTED_ON]], np.float32))
            dictionary = control(
                parts, some, sizes, seed, site=site, model_hash=self.model(variant).weights_hash
            )
        about += [sizes.n_latents, sizes.k, sizes.epochs, sizes.examples, parts, seed]
        path = self.folder / f"{file_name(variant)}-{parts}-{seed}-{json_digest(about, digits=8)}.study"
        return self.build(variant, self.images, path, store, dictionary=dictionary, seed=seed)

    def encode(self, variant: str, images: Images, store: Path) -> None:
        """Encode pictures with a variant and the evaluator into a store, as far as it is not filled yet."""
        collect_activations(
            self.model(variant), images, self.protocol.site, store, evaluator=self.judge, engine=self.engine,
            progress=self.progress and images is self.images,
        )  # fmt: skip

    def build(
        self,
        variant: str,
        images: Images,
        path: Path,
        store: Path,
        *,
        dictionary: Dictionary | None = None,
        seed: int = 0,
    ) -> Study:
        """Build a variant's study of encoded pictures, with the protocol's dictionary or a given one."""
        settings = self.settings(self.vocabulary)
        if dictionary is not None:
            settings |= dict.fromkeys(("n_latents", "k", "training"))
        held = any(split == "holdout" for split in images.columns["split"])
        return build_study(
            self.model(variant), images, path=path, dictionary=dictionary, holdout=None if held else self.sizes.holdout,
            store=store, seed=seed, engine=self.engine, progress=self.progress and images is self.images, **settings,
        )  # fmt: skip

    def settings(self, vocabulary: Vocabulary) -> dict[str, Any]:
        """What `build_study` is told of dictionary, examples and words."""
        sizes, training = self.sizes, {**self.protocol.training, "epochs": self.sizes.epochs}
        return self.protocol.settings(
            n_latents=sizes.n_latents, k=sizes.k, examples=sizes.examples, evaluator=self.judge,
            vocabulary=vocabulary, training=training,
        )  # fmt: skip


def control(parts: str, acts: torch.Tensor, sizes: Sizes, seed: int, **core: Any) -> Dictionary:
    """An untrained dictionary with as many active latents as the trained one."""
    k = min(sizes.k, acts.shape[1])
    if parts == PCA:
        return pca(acts, min(acts.shape[1], len(acts)), k=k, **core)
    if parts == NEURONS:
        return neurons(acts.shape[1], k=k, **core)
    return random_sae(acts, sizes.n_latents, sizes.k, seed=seed, **core)


def file_name(text: str) -> str:
    """A text as part of a file's name.

    >>> file_name("ViT-B-32:openai")
    'ViT-B-32-openai'
    """
    return re.sub(r"[^\w.-]+", "-", text).strip("-.") or "model"


def named_models(models: Any) -> dict[str, Any]:
    """Models by the name they are shown under.

    Args:
        models: a mapping; a list of references; or one text: a file with one reference a line, or references separated
            by commas. "paper" stands for the protocol's own variants. A folder is shown under its last name.

    Raises:
        StudyError: none, or two of one name.

    >>> list(named_models("ViT-B-32:openai, ViT-L-14:openai"))
    ['ViT-B-32:openai', 'ViT-L-14:openai']
    """
    if isinstance(models, Mapping):
        return {str(name): given for name, given in models.items()}
    if isinstance(models, (str, Path)):
        file = user_path(models)
        try:
            text = file.read_text("utf-8") if file.is_file() else str(models).replace(",", "\n")
        except (OSError, UnicodeError) as error:
            raise StudyError(f"The list of models {str(models)!r} cannot be read: {error}.") from error
        listed: list[Any] = [line.strip() for line in text.splitlines()]
        listed = [line for line in listed if line and not line.startswith("#")]
    else:
        listed = list(models) if isinstance(models, Sequence) else [models]
    if listed == ["paper"]:
        from clipattr.studies.presets import paper

        listed = [f"{name}:{weights}" for name, weights in paper.variants]
    if not listed:
        raise StudyError("There is no model to test: give at least one, e.g. ViT-B-32:openai.")
    named: dict[str, Any] = {}
    for number, given in enumerate(listed, 1):
        name = _model_name(given, number)
        if name in named:
            raise StudyError(
                f"The model {name!r} is given twice. Give each one once, or name them in a mapping."
            )
        named[name] = given
    return named


def _model_name(given: Any, number: int) -> str:
    name = str(given) if isinstance(given, (str, Path)) else getattr(given, "reference", "custom")
    if name == "custom":
        return f"model {number}"
    folder = name.removeprefix("local-dir:")
    return user_path(folder).resolve().name if user_path(folder).is_dir() else name


def _pictures(images: Any) -> Images:
    """The collection; the name of a bundled study stands for its pictures."""
    if isinstance(images, str) and not user_path(images).exists() and ":" not in images:
        try:
            found = bundled_study(images)
        except StudyError as error:
            raise DataError(
                f"There are no pictures at {images!r}: no file or folder, and no bundled study of that name."
            ) from error
        images = open_study(images).images if found else images
    return images.images if isinstance(images, (Study, Table)) else Images.open(images)


def _fewer(images: Images, at_most: int) -> Images:
    return images.select(evenly(len(images), at_most)) if at_most and len(images) > at_most else images


def _lesions(lesions: Any) -> Table | str:
    """The photographs in a folder with a table; the name of the bundled study stays a name."""
    bundled = isinstance(lesions, str) and lesions == SYNTHETIC and not user_path(lesions).exists()
    return SYNTHETIC if bundled else lesion_table(lesions)


def known_causes(
    truth: Any, variants: Sequence[str], words_of: Mapping[str | None, str | None] | None = None
) -> dict[str, tuple[Mapping[str, Any], ...]]:
    """Planted reliances by model.

    Args:
        truth: None; a list of {"prompt", "cause", "kind"}, which holds for every model; or such a list for each model
            by its name.
        words_of: word of each label that was replaced; prompts are replaced alike.

    Raises:
        DataError: a model that is not tested.

    >>> known_causes([{"prompt": "kite", "cause": "bird"}], ["a"])
    {'a': ({'prompt': 'kite', 'cause': 'bird'},)}
    """
    if truth is None:
        return {}
    by_model = truth if isinstance(truth, Mapping) else dict.fromkeys(variants, truth)
    if unknown := sorted(set(by_model) - set(variants)):
        raise DataError(
            f"Causes are given for the model {unknown[0]!r}; the models are {', '.join(variants)}."
        )
    said = words_of or {}
    return {
        name: tuple({**row, "prompt": said.get(row["prompt"], row["prompt"])} for row in rows)
        for name, rows in by_model.items()
    }


def _words(vocabulary: Any) -> Vocabulary:
    """The vocabulary; the name of a bundled study stands for its words."""
    if isinstance(vocabulary, Study):
        return vocabulary.vocabulary
    if isinstance(vocabulary, str):
        try:
            return Vocabulary.open(vocabulary)
        except DataError as error:
            try:
                return open_study(vocabulary).vocabulary
            except ClipattrError:
                raise error from None
    return Vocabulary.open(vocabulary)


def _prompts(
    prompts: Any,
    images: Images,
    words: Vocabulary,
    at_most: int,
    words_of: Mapping[str | None, str | None],
) -> list[str]:
    """The given prompts; else the labels; else the words. Of too many, those with the most pictures are taken."""
    counts = Counter(label for label in images.columns["label"] if label)
    listed = sorted(counts) or list(words.words)
    if prompts is not None:
        listed = list(dict.fromkeys(str(words_of.get(prompt, prompt)) for prompt in map(str, prompts)))
    if not listed:
        raise DataError("There is no prompt to audit: give prompts, labelled pictures, or a vocabulary.")
    if not at_most or len(listed) <= at_most:
        return listed
    if not any(counts[prompt] for prompt in listed):
        return [listed[number] for number in evenly(len(listed), at_most)]
    return sorted(sorted(listed, key=lambda prompt: (-counts[prompt], prompt))[:at_most])


def evenly(count: int, at_most: int) -> np.ndarray:
    """At most so many of `count` places, evenly spread.

    >>> evenly(10, 3).tolist()
    [0, 4, 9]
    """
    return np.unique(np.linspace(0, count - 1, min(count, at_most)).astype(int))
