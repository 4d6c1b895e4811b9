"""Probes: linear classifiers on a model's image embeddings, fitted here, read from a file, or made from prompts.

Owns the classifier as a value and the files it is read from. Zero-shot prompts are the same kind of classifier, so the
same measurements apply to both. Ignores fitting (`fitting.py`), what a probe relies on (`audit.py`) and its repair
(`discovery/repair`). Start at `Probe`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clipattr.attribution import ProbeLogit
from clipattr.display.wording import few, visible
from clipattr.errors import DataError, TargetError
from clipattr.images.cells import cell_text, column_texts
from clipattr.storage.checkpoints import read_state
from clipattr.storage.documents import read_json, schema_complaint, write_json
from clipattr.storage.files import save_tensors
from clipattr.storage.paths import user_path

SCHEMA = 1
WEIGHTS, ABOUT = "classifier.safetensors", "classifier.json"


@dataclass(frozen=True)
class Probe:
    """A linear classifier on unit-length image embeddings: `logit_c = <e, w_c> + b_c`, softmax over classes.

    Attributes:
        names: the classes, all different. weights: (classes, embed) float32. bias: (classes,) float32. Tensors,
            arrays, lists, Series or frames are converted.
        model_hash: of the model whose embeddings it takes; None if unknown.
        about: origin of the probe, JSON-like.

    Raises:
        TargetError: fewer than two classes, two classes of one name, weights that are not finite, or numbers of names,
            rows and biases that differ. DataError: weights or bias are not real numbers.

    >>> import clipattr as ca
    >>> study = ca.open_study("picture-world")
    >>> probe = ca.Probe.of_prompts(study.model, ["kite", "bat"])
    >>> probe.names, tuple(probe.weights.shape)
    (('kite', 'bat'), (2, 128))
    """

    names: tuple[str, ...]
    weights: Tensor
    bias: Tensor
    model_hash: str | None = None
    about: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Arrays, lists, Series and frames are converted; a single string would be read as a list of letters.
        if isinstance(self.names, str):
            raise TargetError(f"a probe's names are a list, one per class; got the text {self.names!r}.")
        for name, value in (
            ("names", tuple(cell_text(name) or "" for name in self.names)),
            ("weights", numbers_in(self.weights, "the probe's weights").float()),
            ("bias", numbers_in(self.bias, "the probe's bias").float().reshape(-1)),
        ):
            object.__setattr__(self, name, value)
        if self.weights.ndim != 2 or not len(self.names) == len(self.weights) == len(self.bias) >= 2:
            raise TargetError(
                f"a probe has at least two classes, each with a name, a row of weights and a bias; got "
                f"{len(self.names)} names, weights {tuple(self.weights.shape)}, bias {tuple(self.bias.shape)}."
            )
        if len(set(self.names)) < len(self.names):
            twice = next(name for name in self.names if self.names.count(name) > 1)
            raise TargetError(f"the probe has two classes called {twice!r}. Give every class its own name.")
        if not (torch.isfinite(self.weights).all() and torch.isfinite(self.bias).all()):
            raise TargetError(
                "the probe's weights or biases are not finite (NaN or infinite). Fit the probe again."
            )

    def __repr__(self) -> str:
        shown = ", ".join(self.names[:4]) + (", …" if len(self.names) > 4 else "")
        return f"<Probe: {len(self.names)} classes ({shown}) on {self.weights.shape[1]} numbers>"

    @classmethod
    def of_prompts(
        cls, model: Any, prompts: Sequence[str] | Mapping[str, str], templates: Sequence[str] = ("{}",)
    ) -> Probe:
        """The zero-shot classifier of a model: weights are text embeddings times the model's own temperature.

        Args:
            model: a `Model`.
            prompts: class names, which are also the prompts; or a mapping from class name to prompt.
            templates: as for `Model.encode_text`.

        Returns:
            A `Probe` with weights (classes, embed) and zero bias, in logits.

        Raises:
            TargetError: fewer than two classes. ModelError: as for `Model.encode_text`.
        """
        texts = dict(prompts) if isinstance(prompts, Mapping) else {name: name for name in prompts}
        with torch.no_grad():
            weights = model.logit_scale * model.encode_text(list(texts.values()), tuple(templates))
        about = {"kind": "prompts", "prompts": list(texts.values()), "templates": list(templates)}
        bias = torch.zeros(len(texts))
        return cls(tuple(texts), weights.float().cpu(), bias, model.weights_hash, about)

    def index(self, name: str) -> int:
        """Number of a class; TargetError if the probe has no class of that name."""
        if name not in self.names:
            raise TargetError(f"the classifier has no class {name!r}; it has {few(self.names)}.")
        return self.names.index(name)

    def logits(self, embeddings: Any) -> Tensor:
        """Logits (pictures, classes) of embeddings (pictures, embed) of unit length: a tensor, array, list or frame.

        Raises:
            TargetError: the embeddings have another width than the probe. DataError: they are not real numbers.
        """
        embeddings = numbers_in(embeddings, "the embeddings")
        if embeddings.shape[-1] != self.weights.shape[1]:
            raise TargetError(
                f"the probe reads {self.weights.shape[1]} numbers per picture, the embeddings have "
                f"{embeddings.shape[-1]}. Use the model that it was fitted on."
            )
        return embeddings @ self.weights.to(embeddings).T + self.bias.to(embeddings)

    def predict(self, embeddings: Any) -> list[str]:
        """The class of each picture; arguments and errors (TargetError, DataError) as for `logits`."""
        return [self.names[number] for number in self.logits(embeddings).argmax(-1).tolist()]

    def probabilities(self, embeddings: Any) -> Tensor:
        """Softmax over the classes, (pictures, classes); arguments and errors (TargetError, DataError) as `logits`."""
        return self.logits(embeddings).softmax(-1)

    def margins(self) -> tuple[Tensor, Tensor]:
        """Each class against the mean of the others: weights (embed, classes) and constants (classes,).

        Margins decide between classes; the common part of all logits cancels. For two classes they are the difference.
        """
        n = len(self.names)
        others = (self.weights.sum(0) - self.weights) / (n - 1)
        return (self.weights - others).T, self.bias - (self.bias.sum() - self.bias) / (n - 1)

    def target(self, *classes: str) -> ProbeLogit:
        """Attribution target: margins of some classes (default: all) over the mean of the others, in logits.

        Raises:
            TargetError: a class that the probe does not have.
        """
        which = [self.index(name) for name in classes] if classes else list(range(len(self.names)))
        weights, constants = self.margins()
        return ProbeLogit(weights.T[which], constants[which], names=[self.names[number] for number in which])

    def save(self, folder: str | Path) -> Path:
        """Write classifier.safetensors and classifier.json; `Probe.open` reads them again."""
        place = user_path(folder)
        place.mkdir(parents=True, exist_ok=True)
        save_tensors(place / WEIGHTS, {"weights": self.weights, "bias": self.bias})
        content = {
            "schema": SCHEMA, "classes": list(self.names), "model_hash": self.model_hash,
            "reads": "unit-length image embeddings e; logits = e @ weights.T + bias; softmax over classes",
            "about": dict(self.about),
        }  # fmt: skip
        write_json(place / ABOUT, content, indent=2)
        return place

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        names: Sequence[str] | None = None,
        model: Any = None,
        trust_pickle: bool = False,
    ) -> Probe:
        """Read a probe from a file or folder.

        Args:
            path: a folder that `save` wrote; weights as .safetensors; a torch state dict (.pt, .pth, .bin), opened
                weights-only; or a scikit-learn classifier as a pickle (.pkl, .pickle, .joblib).
            names: of the classes, in the order of the rows; default: the file's names, else numbers.
            model: the model whose embeddings the probe takes; its hash is stored and checked later.
            trust_pickle: a pickle runs whatever code its author wrote. It is refused unless you say that you trust it.

        Raises:
            DataError: the file is unreadable, refused, or has no (classes, embed) weights.
        """
        place = user_path(path)
        if place.is_dir():
            return cls._open_folder(place)
        if not place.is_file():
            raise DataError(f"there is no probe at {place}: no such file or folder. Check the path.")
        if place.suffix.lower() in (".pkl", ".pickle", ".joblib"):
            weights, bias, found = _unpickled(place, trust_pickle)
        else:
            weights, bias = _linear_layer(_tensors(place), place)
            found = None
        if len(weights) == 1:  # scikit-learn stores two classes in one row
            weights, bias = torch.cat([-weights / 2, weights / 2]), torch.cat([-bias / 2, bias / 2])
        called = names if names is not None else found
        called = tuple(cell_text(name) or "" for name in (range(len(weights)) if called is None else called))
        if len(called) != len(weights):
            raise DataError(
                f"{place} has {len(weights)} classes; {len(called)} names were given. Give one per class, in the order "
                "of its rows."
            )
        hashed = None if model is None else model.weights_hash
        if model is not None and weights.shape[1] != model.embed_dim:
            raise DataError(
                f"{place} reads {weights.shape[1]} numbers per picture, {model.reference} gives {model.embed_dim}. Use "
                "the model that the probe was fitted on."
            )
        return cls(called, weights, bias, hashed, {"kind": "file", "file": place.name})

    @classmethod
    def _open_folder(cls, place: Path) -> Probe:
        try:
            content = read_json(place / ABOUT)
            schema, classes = content["schema"], [str(name) for name in content["classes"]]
            hashed, about = content["model_hash"], dict(content["about"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{place} holds no readable probe ({error!r}). Give a folder that Probe.save wrote, or a weights file."
            ) from error
        if told := schema_complaint(place / ABOUT, schema, SCHEMA, "fit the Probe again and save it"):
            raise DataError(told)
        held = _tensors(place / WEIGHTS)
        if set(held) != {"weights", "bias"}:
            raise DataError(
                f"{place / WEIGHTS} must hold weights and bias; it holds {sorted(held)[:5]}. Save the probe again."
            )
        weights, bias = held["weights"].float(), held["bias"].float()
        if weights.ndim != 2 or bias.shape != (len(classes),) or len(weights) != len(classes):
            raise DataError(
                f"{place} is damaged: {len(classes)} classes, but weights {tuple(weights.shape)} and bias "
                f"{tuple(bias.shape)}. Save the probe again."
            )
        return cls(tuple(classes), weights, bias, None if hashed is None else str(hashed), about)


def numbers_in(values: Any, what: str) -> Tensor:
    """Convert a tensor, array, nested list, Series, frame or sparse matrix to a tensor on the CPU.

    Integers and half-precision numbers become float32.

    Raises:
        DataError: the values are not numbers, or rows have different lengths.

    >>> numbers_in([[1, 2], [3, 4]], "x").dtype
    torch.float32
    """
    if isinstance(values, Tensor):
        found = values.detach()
    else:
        if hasattr(values, "toarray"):
            values = values.toarray()
        elif isinstance(values, (list, tuple)):
            values = [part.detach().cpu().numpy() if isinstance(part, Tensor) else part for part in values]
        try:
            array = np.asarray(values)
            found = torch.from_numpy(np.array(array, dtype=float if array.dtype == object else None))
        except (TypeError, ValueError) as error:
            raise DataError(
                f"{what} must be numbers, rows of one length; got {type(values).__name__} ({error})."
            ) from error
    if found.dtype in (torch.float32, torch.float64):
        return found
    if found.is_complex() or found.dtype == torch.bool:
        raise DataError(f"{what} must be real numbers; got {found.dtype}.")
    return found.float()


def _tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a file by name, without wrappers."""
    try:
        return read_state(file).tensors
    except DataError as error:
        raise DataError(
            f"{file} could not be read as tensors ({visible(str(error), 200)}). Save the probe's weights as "
            "safetensors."
        ) from error


def _linear_layer(held: Mapping[str, Tensor], file: Path) -> tuple[Tensor, Tensor]:
    """The only matrix among the tensors, and the vector of matching length."""
    matrices = {name: value for name, value in held.items() if value.ndim == 2}
    if len(matrices) != 1:
        shapes = {name: tuple(value.shape) for name, value in list(held.items())[:5]}
        raise DataError(
            f"{file} must hold one matrix of weights (classes, embed), and may hold one bias; got {len(held)} tensors, "
            f"first {shapes}. Save the classifier's last layer alone."
        )
    weights = next(iter(matrices.values())).detach().float()
    vectors = [value for value in held.values() if value.ndim == 1 and len(value) == len(weights)]
    bias = vectors[0].detach().float() if vectors else torch.zeros(len(weights))
    return weights, bias


def _unpickled(file: Path, trusted: bool) -> tuple[Tensor, Tensor, list[str] | None]:
    if not trusted:
        raise DataError(
            f"{file} is a pickle: opening it runs whatever code its author put there, so it was not opened. Save "
            "coef_ and intercept_ as safetensors, or pass trust_pickle=True if you made the file yourself."
        )
    import joblib

    try:
        model = joblib.load(file)
        weights = torch.as_tensor(np.atleast_2d(model.coef_), dtype=torch.float32)
        bias = torch.as_tensor(np.atleast_1d(model.intercept_), dtype=torch.float32).expand(len(weights))
    except Exception as error:
        raise DataError(
            f"{file} holds no linear classifier with coef_ and intercept_ ({error}). Save a fitted scikit-learn "
            "classifier such as LogisticRegression."
        ) from error
    classes = getattr(model, "classes_", None)
    return (
        weights,
        bias.clone(),
        None if classes is None else [cell_text(name) or "" for name in column_texts(classes)],
    )
