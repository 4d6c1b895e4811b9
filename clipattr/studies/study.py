"""Study: one folder that holds what is known about a model's latents at one site, and opens anywhere.

Owns the folder's layout, its hashes, and who may open it. Ignores how the parts are computed (`build.py`)
and what is done with them. Start at `open_study`; `build_study` is in start.py.

The files of the folder and what each holds are listed in docs/formats.md; row i of every array is picture i, and
`names.json` is the only file that changes after building.
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
from clipattr.errors import StudyError
from clipattr.images.collection import Images
from clipattr.meaning.examples import Examples
from clipattr.meaning.labels import Labels
from clipattr.meaning.vocabulary import Vocabulary
from clipattr.models.loading import Model, load_model
from clipattr.models.textonly import FILE, REFERENCE, TextEmbeddings
from clipattr.sites import Site
from clipattr.storage.arrays import load_array, load_tensors, reading, within
from clipattr.storage.documents import read_json, write_json
from clipattr.storage.files import file_digest, json_digest
from clipattr.storage.paths import user_path
from clipattr.studies.belonging import check_pictures
from clipattr.studies.format import (
    SCHEMA,
    bundled_study,
    read_codes,
    read_manifest,
    read_pictures,
    read_thumbnail,
)  # fmt: skip
from clipattr.studies.join import repeated
from clipattr.studies.latents import latents_table
from clipattr.studies.vectors import pictures_there

if TYPE_CHECKING:
    import pandas as pd


class Study:
    """An opened study. Everything heavy is read when first used; arrays are memory-mapped.

    Attributes:
        path: the folder. manifest: its study.json.
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
        """Sent to another process it takes its models along and reads the folder itself, under the same path."""
        kept = ("manifest", "_models", "_images")
        return {"path": self.path.absolute(), **{name: self.__dict__[name] for name in kept}}

    @property
    def hash(self) -> str:
        """16 hex digits over every file but the given names: equal hashes, equal studies."""
        return json_digest(self.manifest["files"])

    @property
    def site(self) -> Site:
        return Site(self.manifest["site"])

    @property
    def model(self) -> Model:
        """The audited model, loaded when first asked for. StudyError if it is not the one the study was built with."""
        return self._model("model")

    @property
    def evaluator(self) -> Model:
        """The model that judges pictures and words, loaded when first asked for."""
        return self._model("evaluator")

    @cached_property
    def dictionary(self) -> Any:
        return load_dictionary(self.path / "dictionary")

    @cached_property
    def images(self) -> Images:
        """The pictures, row i of every array; files are read from where they were relative to this folder."""
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
        """(pictures,) bool: which originals can be looked at. None of them where a study was built from embeddings
        without paths; heat maps, occlusion and text insertion are then not to be had."""
        return pictures_there(self.images)

    @cached_property
    def codes(self) -> SparseCodes:
        """(pictures, latents); row i belongs to picture i. At several tokens, each latent's largest value."""
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
        """Some pictures as the evaluator embeds them, (rows, embed) float32."""
        return torch.from_numpy(np.asarray(self.evaluator_embeddings[rows], dtype=np.float32))

    @cached_property
    def examples(self) -> Examples:
        with reading(self.path / "examples.safetensors"):
            examples = Examples.load(self.path / "examples.safetensors")
            within(examples.indices, -1, self._count("pictures"), self._count("latents"))
        return examples

    @cached_property
    def labels(self) -> Labels:
        with reading(self.path / "labels.safetensors"):
            labels = Labels.load(self.path / "labels.safetensors")
            within(labels.word_top, -1, len(self.vocabulary), self._count("latents"))
        return labels

    @cached_property
    def scores(self) -> dict[str, Tensor]:
        """The numbers behind `latents`, one (n_latents, …) tensor each."""
        return load_tensors(self.path / "scores.safetensors")

    @cached_property
    def vocabulary(self) -> Vocabulary:
        return Vocabulary.open(self.path / "vocabulary.csv")

    @cached_property
    def vocabulary_embeddings(self) -> Tensor:
        """(words, embed) float32, the evaluator's, unit length."""
        return load_tensors(self.path / "vocabulary.safetensors", "words")["words"].float()

    @cached_property
    def empty_embedding(self) -> Tensor:
        """(embed,) float32, the evaluator's embedding of the empty prompt."""
        return load_tensors(self.path / "vocabulary.safetensors", "empty")["empty"].float()

    @cached_property
    def rows(self) -> np.ndarray:
        """Rows of the pictures that examples and labels were taken from: not held out, duplicates included."""
        return np.flatnonzero([split != "holdout" for split in self.images.columns["split"]])

    @cached_property
    def holdout_rows(self) -> np.ndarray:
        """Rows of the held-out pictures."""
        return np.flatnonzero([split == "holdout" for split in self.images.columns["split"]])

    @cached_property
    def repeats(self) -> np.ndarray:
        """(pictures,) bool: nearly equal to an earlier picture, so that it does not serve as an example."""
        file = self.path / "repeats.npy"  # the first studies kept only what it follows from
        return np.array(load_array(file, self._count("pictures")) if file.exists() else repeated(self.path))

    @property
    def holdout(self) -> Images | None:
        """The held-out pictures, None if there are none; `holdout_rows` are their rows in the study's arrays."""
        return self.images.select(self.holdout_rows) if len(self.holdout_rows) else None

    @cached_property
    def names(self) -> dict[int, str]:
        """Names given by the analyst, per latent; they win over labels. Change them with `rename`."""
        file = self.path / "names.json"
        if not file.exists():
            return {}
        try:
            return {int(latent): str(name) for latent, name in read_json(file).items()}
        except (OSError, ValueError, AttributeError) as error:
            raise StudyError(f"{str(file)!r} is damaged ({error}); mend or delete it.") from error

    def rename(self, latent: int, name: str | None) -> None:
        """Give a latent a name, kept in the folder; None or "" takes it back. StudyError if nothing can be written."""
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
                f"The name cannot be kept: {str(self.path)!r} is not writable ({error.strerror}). Copy the folder and "
                "open the copy."
            ) from error
        self.__dict__["names"] = names
        self.__dict__.pop("latents", None)

    @cached_property
    def latents(self) -> "pd.DataFrame":
        """One row per latent.

        label: the vocabulary's best word (None for silent latents); alignment, margin: of it, in cosine; aligned: it
        fits better than words fit random pictures; auc: how well the label's text alone tells where the latent is
        active, on the pictures that the manifest names under counts.auc_on; clarity, monosemanticity: cosines;
        meanings: separate groups of examples; mixture: how evenly they lie along two directions; frequency: share of
        pictures; mean_top: mean activation of the examples; triage: their product as in the paper; nearest: the latent
        with the most parallel direction; label_evidence, label_contrast: what other rankings say; name: what to show:
        the given name, else the label if it is aligned.
        """
        return latents_table(self)

    def thumbnail(self, index: int) -> Image.Image:
        """A small copy of picture `index`, kept in the folder (rendered pictures are rendered again)."""
        if not (self.path / "thumbnails.npy").exists():
            return self.images[index].thumbnail()
        ends = self._thumbnail_ends
        index = range(len(ends) - 1)[index]
        return read_thumbnail(self.path, int(ends[index]), int(ends[index + 1]))

    @cached_property
    def _thumbnail_ends(self) -> np.ndarray:
        return load_array(self.path / "thumbnails.npy", self._count("pictures") + 1)

    def row_of(self, picture: Any) -> int:
        """Row of a picture of this study, given as its id or as a record from any selection."""
        return self.images.index_of(picture if isinstance(picture, str) else picture.id)

    def verify(self) -> None:
        """Compare every file with its hash in the manifest; StudyError names those that differ."""
        wrong = [
            name
            for name, (_, digest) in self.manifest["files"].items()
            if file_digest(self.path / name) != digest
        ]
        if wrong:
            raise StudyError(f"{str(self.path)!r} is damaged: {', '.join(wrong)} changed since it was built.")

    def _count(self, of: str) -> int:
        return int(self.manifest["counts"][of])

    def _model(self, role: str) -> Model:
        if role not in self._models:
            about = self.manifest[role]
            other = "evaluator" if role == "model" else "model"
            if other in self._models and self._models[other].weights_hash == about["hash"]:
                self._models[role] = self._models[other]
            elif about["reference"] == REFERENCE:
                self._models[role] = self._checked(role, TextEmbeddings.open(self.path / FILE))
            elif about["reference"] == "custom":
                raise StudyError(
                    f"The study's {role} (weights {about['hash']}) was a module, which no name loads. Open the study "
                    f"with open_study(path, {role}=…)."
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
        return model


def open_study(
    path: str | os.PathLike[str],
    *,
    model: Any = None,
    evaluator: Any = None,
    images: Any = None,
) -> Study:
    """Open a study folder, or a bundled study by its name. Nothing in the folder is changed.

    Args:
        model, evaluator: needed only if they were custom modules; otherwise loaded by name when first used.
        images: where the pictures are now, if they moved; anything `Images.open` takes. Matched by id, and a few are
            compared with what the study keeps of them.

    Raises:
        StudyError: no study there, an incomplete or damaged one, one of a newer schema, another model, other pictures.
    """
    folder = user_path(path)
    if not folder.exists() and folder.name == str(path):
        folder = bundled_study(str(path)) or folder
    roles = {"model": model, "evaluator": evaluator}
    models = {role: load_model(given) for role, given in roles.items() if given is not None}
    study = Study(folder, images=None if images is None else Images.open(images), **models)
    return study if images is None else check_pictures(study)


__all__ = ["SCHEMA", "Study", "open_study"]
