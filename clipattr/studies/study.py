"""Study: one folder with the latents of a model at one site, their examples, labels and scores.

Owns opening the folder, and the checks that model and pictures belong to it. Ignores how its parts are computed
(`build.py`) and used. Start at `open_study`; `build_study` is in `start.py`.

docs/formats.md lists the files of the folder. Row i of every array is picture i. `names.json` is the only file that
changes after the build.
"""

import os
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clipattr.dictionaries import SparseCodes, load_dictionary
from clipattr.display.wording import few
from clipattr.errors import StudyError
from clipattr.images.collection import Images
from clipattr.meaning.examples import Examples
from clipattr.meaning.labels import Labels
from clipattr.meaning.vocabulary import Vocabulary
from clipattr.models.forward import other_facts
from clipattr.models.loading import Model, load_model
from clipattr.models.textonly import FILE, REFERENCE, TextEmbeddings
from clipattr.sites import Site
from clipattr.storage.arrays import load_array, load_tensors, reading, within
from clipattr.storage.documents import read_json, write_json
from clipattr.storage.files import file_digest, json_digest
from clipattr.storage.paths import full_path, user_path
from clipattr.studies.belonging import check_pictures
from clipattr.studies.format import (
    MANIFEST,
    SCHEMA,
    bundled_study,
    read_codes,
    read_manifest,
    read_pictures,
    read_thumbnail,
)  # fmt: skip
from clipattr.studies.join import repeated
from clipattr.studies.latents import latents_table
from clipattr.studies.vectors import pictures_had, pictures_there

if TYPE_CHECKING:
    import pandas as pd


class Study:
    """An opened study; `open_study` and `build_study` return it. Parts are read on first use; arrays are memory-mapped.

    Attributes:
        path: the folder.
        manifest: the content of its study.json.

    Raises:
        StudyError: no study in the folder, a damaged part (on its first use), or another model than the study's.

    >>> import clipattr as ca
    >>> study = ca.open_study("picture-world")
    >>> study.site, study.dictionary.n_latents, study.codes.shape
    (Site('image.-1.cls'), 1024, (9000, 1024))
    >>> study.latents[["latent", "label"]].shape
    (1024, 2)
    """

    def __init__(
        self,
        path: Path,
        *,
        model: Model | None = None,
        evaluator: Model | None = None,
        images: Images | None = None,
    ) -> None:
        self.path = path
        self.manifest: dict[str, Any] = read_manifest(path)
        self._models: dict[str, Model] = {}
        self._images = images
        for role, given in (("model", model), ("evaluator", evaluator)):
            if given is not None:
                self._models[role] = self._checked(role, given)

    def __repr__(self) -> str:
        counts = self.manifest["counts"]
        return (
            f"<Study {self.path.name!r}: {counts['pictures']} pictures, {counts['live']} of "
            f"{counts['latents']} latents live, {self.manifest['model']['reference']} at {self.site}>"
        )

    def __getstate__(self) -> dict[str, Any]:
        """For another process: the models are pickled, the folder is opened again under the same path."""
        kept = ("manifest", "_models", "_images")
        return {"path": self.path.absolute(), **{name: self.__dict__[name] for name in kept}}

    @property
    def hash(self) -> str:
        """16 hex digits over every file except names.json; equal for equal studies."""
        return json_digest(self.manifest["files"])

    @property
    def site(self) -> Site:
        """The site of the dictionary."""
        return Site(self.manifest["site"])

    @property
    def model(self) -> Model:
        """The audited model, loaded on first use.

        Raises:
            StudyError: it is not the one that the study was built with, or a module that no name loads.
        """
        return self._model("model")

    @property
    def evaluator(self) -> Model:
        """The model whose embeddings label the latents, loaded on first use; StudyError as for `model`."""
        return self._model("evaluator")

    @cached_property
    def dictionary(self) -> Any:
        """The `Dictionary`."""
        return load_dictionary(self.path / "dictionary")

    @cached_property
    def images(self) -> Images:
        """The pictures, in the order of rows; paths are relative to the study's folder. StudyError if damaged."""
        with reading(self.path / "pictures.csv"):
            stored = read_pictures(self.path)
            if len(stored) != self._count("pictures"):
                raise ValueError(f"it lists {len(stored)} pictures")
        if self._images is None:
            return stored
        places = np.array([self._images.index_of(name) for name in stored.ids])
        return Images(self._images.source, stored.ids, stored.columns, rows=self._images.rows[places])

    @cached_property
    def sees(self) -> np.ndarray:
        """(pictures,) bool: whether the original file exists or can be rendered.

        All False for a study of embeddings without paths; it has no heat maps, occlusion and text insertion.
        """
        return pictures_there(self.images)

    @cached_property
    def had(self) -> np.ndarray:
        """(pictures,) bool: as `sees`, but True as well for files that were there once and are missing now."""
        return pictures_had(self.images, self.sees)

    @cached_property
    def codes(self) -> SparseCodes:
        """`SparseCodes` (pictures, latents); at sites of several tokens, each latent's largest value per picture.

        Raises:
            StudyError: the files are missing or damaged, or do not fit the manifest.
        """
        with reading(self.path / "codes"):
            codes = read_codes(self.path, self._count("latents"))
            within(codes.indices, 0, self._count("latents"))
            if len(codes) != self._count("pictures") or codes.n_latents != self._count("latents"):
                raise ValueError(f"they are of {len(codes)} pictures and {codes.n_latents} latents")
        return codes

    @cached_property
    def activations(self) -> np.ndarray:
        """(pictures, width) float16, memory-mapped; (pictures, tokens, width) where the site has several tokens."""
        return load_array(self.path / "activations.npy", self._count("pictures"))

    @cached_property
    def evaluator_embeddings(self) -> np.ndarray:
        """(pictures, embed) float16, memory-mapped, unit length."""
        return load_array(self.path / "evaluator.npy", self._count("pictures"))

    def seen(self, rows: np.ndarray) -> Tensor:
        """The evaluator's embeddings of some pictures, (n, embed) float32, for n row numbers (n,)."""
        return torch.from_numpy(np.asarray(self.evaluator_embeddings[rows], dtype=np.float32))

    @cached_property
    def examples(self) -> Examples:
        """The `Examples` of each latent."""
        with reading(self.path / "examples.safetensors"):
            examples = Examples.load(self.path / "examples.safetensors")
            within(examples.indices, -1, self._count("pictures"), self._count("latents"))
        return examples

    @cached_property
    def labels(self) -> Labels:
        """The `Labels` of each latent."""
        with reading(self.path / "labels.safetensors"):
            labels = Labels.load(self.path / "labels.safetensors")
            within(labels.word_top, -1, len(self.vocabulary), self._count("latents"))
        return labels

    @cached_property
    def scores(self) -> dict[str, Tensor]:
        """The scores that `latents` shows, one (n_latents, …) tensor each."""
        return load_tensors(self.path / "scores.safetensors")

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The `Vocabulary` of labels."""
        return Vocabulary.open(self.path / "vocabulary.csv")

    @cached_property
    def vocabulary_embeddings(self) -> Tensor:
        """(words, embed) float32, unit length, by the evaluator."""
        return load_tensors(self.path / "vocabulary.safetensors", "words")["words"].float()

    @cached_property
    def empty_embedding(self) -> Tensor:
        """(embed,) float32, the evaluator's embedding of the empty prompt."""
        return load_tensors(self.path / "vocabulary.safetensors", "empty")["empty"].float()

    @cached_property
    def rows(self) -> np.ndarray:
        """(n,) int64: rows of the pictures that are not held out, including near-duplicates."""
        return np.flatnonzero([split != "holdout" for split in self.images.columns["split"]])

    @cached_property
    def holdout_rows(self) -> np.ndarray:
        """(n,) int64: rows of the held-out pictures."""
        return np.flatnonzero([split == "holdout" for split in self.images.columns["split"]])

    @cached_property
    def repeats(self) -> np.ndarray:
        """(pictures,) bool: near-duplicate of an earlier picture, and therefore not used as an example."""
        file = self.path / "repeats.npy"  # absent in the first studies, for which it is computed
        return np.array(load_array(file, self._count("pictures")) if file.exists() else repeated(self.path))

    @property
    def holdout(self) -> Images | None:
        """The held-out pictures, None if there are none; their rows are `holdout_rows`."""
        return self.images.select(self.holdout_rows) if len(self.holdout_rows) else None

    @cached_property
    def names(self) -> dict[int, str]:
        """{latent: name} of names that the analyst has given, which replace labels; StudyError if damaged.

        `rename` changes them.
        """
        file = self.path / "names.json"
        if not file.exists():
            return {}
        try:
            return {int(latent): str(name) for latent, name in read_json(file).items()}
        except (OSError, ValueError, AttributeError) as error:
            raise StudyError(f"{str(file)!r} is damaged ({error}); repair or delete it.") from error

    def rename(self, latent: int, name: str | None) -> None:
        """Give a latent a name, which is saved in the folder; None or "" removes it.

        Raises:
            StudyError: no such latent, or a folder that cannot be written.
        """
        if not 0 <= int(latent) < (count := self.manifest["counts"]["latents"]):
            raise StudyError(f"There is no latent {latent}; they are numbered 0 to {count - 1}.")
        names = dict(self.names)
        if name and name.strip():
            names[int(latent)] = name.strip()
        else:
            names.pop(int(latent), None)
        try:
            write_json(self.path / "names.json", {str(key): names[key] for key in sorted(names)})
        except OSError as error:
            raise StudyError(
                f"The name cannot be saved: {str(self.path)!r} is not writable ({error.strerror}). Copy the folder and "
                "open the copy."
            ) from error
        self.__dict__["names"] = names
        self.__dict__.pop("latents", None)

    @cached_property
    def latents(self) -> "pd.DataFrame":
        """DataFrame with one row per latent.

        label: best word of the vocabulary (None for latents without examples); alignment: its alignment, and margin:
        its lead over the second word, both in cosine; aligned: whether the alignment exceeds chance level; auc: AUC of
        the label's similarity as a predictor of activation, on the pictures under counts.auc_on of the manifest;
        clarity, monosemanticity: cosines; meanings: clusters of examples; mixture: eigenvalue ratio of examples;
        frequency: fraction of pictures; mean_top: mean activation of examples; triage: the paper's order of inspection;
        nearest: latent with the largest cosine of directions; label_evidence, label_contrast: labels by other
        rankings; name: display name, the given name or else the label if it is aligned.
        """
        return latents_table(self)

    def thumbnail(self, index: int) -> Image.Image:
        """Thumbnail of the picture in row `index`, stored or made of the picture; IndexError beyond the last row."""
        if not (self.path / "thumbnails.npy").exists():
            return self.images[index].thumbnail()
        ends = self._thumbnail_ends
        index = range(len(ends) - 1)[index]
        return read_thumbnail(self.path, int(ends[index]), int(ends[index + 1]))

    @cached_property
    def _thumbnail_ends(self) -> np.ndarray:
        return load_array(self.path / "thumbnails.npy", self._count("pictures") + 1)

    def verify(self) -> None:
        """Compare every file with its hash in the manifest.

        Raises:
            StudyError: files that differ, by name.
        """
        wrong = [
            name
            for name, (_, digest) in self.manifest["files"].items()
            if file_digest(self.path / name) != digest
        ]
        if wrong:
            raise StudyError(
                f"{str(self.path)!r} is damaged: {few(wrong)} changed since it was built. Take an undamaged copy, or "
                "build it again."
            )

    def _count(self, of: str) -> int:
        return int(self.manifest["counts"][of])

    def _model(self, role: str) -> Model:
        if role not in self._models:
            about = self.manifest[role]
            other = "evaluator" if role == "model" else "model"
            same = all(about.get(name) == self.manifest[other].get(name) for name in ("hash", "forward"))
            if same and other in self._models:
                self._models[role] = self._models[other]
            elif about["reference"] == REFERENCE:
                self._models[role] = self._checked(role, TextEmbeddings.open(self.path / FILE))
            elif about["reference"] == "custom":
                raise StudyError(
                    f"The study's {role} (weights {about['hash']}) was a module, which cannot be loaded by name. Open "
                    f"the study with open_study(path, {role}=…)."
                )
            else:
                self._models[role] = self._checked(role, load_model(about["reference"]))
        return self._models[role]

    def _checked(self, role: str, model: Model) -> Model:
        about = self.manifest[role]
        if model.weights_hash != about["hash"]:
            raise StudyError(
                f"The study in {str(self.path)!r} was built with the {role} {about['reference']!r}, weights "
                f"{about['hash']}; it was opened with {model.reference!r}, weights {model.weights_hash}. Open it with "
                "that model, or build another study."
            )
        if told := other_facts(about.get("forward"), model.facts):
            raise StudyError(
                f"The study in {str(self.path)!r} was built with the {role} {about['reference']!r}; it was opened with "
                f"{model.reference!r}, which has the same weights and computes something else ({told}). Open it with "
                "the architecture, tag and preprocessing that it was built with, or build another study."
            )
        return model


def open_study(
    path: str | os.PathLike[str],
    *,
    model: Any = None,
    evaluator: Any = None,
    images: Any = None,
) -> Study:
    """Open a study folder, or a bundled study by name. Nothing in the folder is changed.

    Args:
        path: the folder, or the name of a bundled study: "picture-world", "picture-world-b", "picture-world-c" or
            "lesions".
        model, evaluator: needed if they were custom modules; otherwise loaded by name on first use.
        images: the pictures, if they have moved; anything `Images.open` takes. They are matched by id, and a sample is
            compared with the study's fingerprints.

    Returns:
        The `Study`.

    Raises:
        StudyError: no study, an incomplete or damaged one, one of a newer schema, another model, or other pictures.

    >>> import clipattr as ca
    >>> len(ca.open_study("picture-world").images)
    9000
    """
    folder = user_path(path)
    if folder.name == MANIFEST and folder.is_file():
        folder = folder.parent
    if folder.name in ("", ".."):  # the study's name is its folder's
        folder = full_path(folder)
    if not folder.exists() and folder.name == str(path):
        folder = bundled_study(str(path)) or folder
    roles = {"model": model, "evaluator": evaluator}
    models = {role: load_model(given) for role, given in roles.items() if given is not None}
    study = Study(folder, images=None if images is None else Images.open(images), **models)
    return study if images is None else check_pictures(study)


__all__ = ["SCHEMA", "Study", "open_study"]
