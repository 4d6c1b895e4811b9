"""Data sets: pictures, labels and splits of torchvision, Hugging Face and other data sets.

Owns finding the picture in a sample and the labels of a data set, without decoding pictures. Ignores files. Start at
`columns_of`; `opening.py` joins several data sets as splits of one collection.
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from clipattr.display.wording import few
from clipattr.errors import DataError
from clipattr.images.cells import class_names, column_texts, normal_name
from clipattr.images.decoding import PictureError, to_picture
from clipattr.images.sources import Source
from clipattr.images.splits import held_out
from clipattr.storage.files import digest_parts

# Accepted column names, compared by `normal_name`; the first one present is used.
LABELS = ("label", "labels", "class", "class_name", "class_label", "category", "target", "fine_label", "y")
GROUPS = ("group",)
SPLITS = ("split",)
PICTURES = (
    "image",
    "img",
    "picture",
    "photo",
    "pixel_values",
    "pixels",
    "jpg",
    "jpeg",
    "png",
    "webp",
    "image_bytes",
)
# Attributes with class numbers in torchvision and similar data sets.
TARGETS = ("targets", "labels", "_labels", "y", "target")
SAMPLES = ("samples", "imgs", "_samples")
CLASSES = ("classes", "class_names", "categories", "class_to_idx")
SAMPLED = 32  # pictures whose pixels are hashed for a data set's fingerprint; under a second for usual photos


class DatasetSource(Source):
    """A torchvision or Hugging Face data set: `picture_of` picks the picture out of one sample."""

    kind = "a data set"
    threads = False

    def __init__(self, dataset: Any, picture_of: Callable[[Any], Any]) -> None:
        self.dataset = dataset
        self.picture_of = picture_of
        self._digest: str | None = None

    def read(self, row: int, draft: int | None = None) -> Any:
        try:
            item = self.picture_of(self.dataset[row])
        except PictureError:
            raise
        except Exception as error:  # whatever the data set's own code raises on a broken sample
            raise PictureError(f"the data set failed: {type(error).__name__}: {error}") from error
        return to_picture(item)

    def content(self, row: int) -> str:
        return self.pixels(row)

    def sampled(self, rows: np.ndarray) -> np.ndarray:
        if len(rows) and self.pixels(int(rows[0])) != self.pixels(int(rows[0])):
            warnings.warn(
                "The data set gives another picture each time one is read (random transforms?), so it cannot be "
                "distinguished from others of the same length. Give it without them.",
                stacklevel=3,
            )
            return rows[:0]
        return _evenly(rows)

    def signature(self, row: int) -> str:
        """Hash of a sample of the data set's pixels, as reading each picture would take as long as encoding it."""
        if self._digest is None and not len(self.sampled(np.arange(len(self.dataset)))):
            self._digest = "changing"
        if self._digest is None:
            places = _evenly(np.arange(len(self.dataset))).tolist()
            self._digest = digest_parts(self.pixels(place) for place in places)
        return self._digest


def _evenly(rows: np.ndarray) -> np.ndarray:
    if len(rows) <= SAMPLED:
        return rows
    return rows[np.linspace(0, len(rows) - 1, SAMPLED).round().astype(np.int64)]


@dataclass
class Columns:
    """How to read the picture of a sample, and the metadata of all samples.

    Attributes:
        columns: label, group, split: one text or None per sample.
        ids: names of samples, None without names.
    """

    picture_of: Callable[[Any], Any]
    columns: dict[str, list[str | None]] = field(default_factory=dict)
    ids: list[str] | None = None
    notes: list[str] = field(default_factory=list)


def columns_of(dataset: Any) -> Columns:
    """The `Columns` of a data set; labels where they can be read without decoding pictures.

    Understands Hugging Face features (an Image column; labels as ClassLabel, text or whole numbers; columns called
    group and split), and torchvision's (picture, label) samples with `targets`, `labels` or `samples`, also through
    Subset and ConcatDataset. Other targets, such as vectors and boxes, give no labels and a note.

    Raises:
        DataError: a data set with features but without pictures.
    """
    features = getattr(dataset, "features", None)
    if isinstance(features, Mapping):
        return _of_features(dataset, features)
    found = Columns(_picture_of_sample)
    targets, classes = _targets(dataset)
    if targets is None:
        found.notes.append("The data set lists no targets, so its pictures have no labels.")
    elif len(targets) != len(dataset):
        found.notes.append(
            f"The data set has {len(dataset)} samples and {len(targets)} targets, so its pictures have no labels."
        )
    else:
        _name(found, targets, classes, "targets")
    return found


def _name(found: Columns, values: Any, names: Any, what: str) -> None:
    """Labels from class numbers or texts, or a note why there are none."""
    try:
        labels, notes = class_names(values, names)
    except (DataError, TypeError, ValueError) as error:
        found.notes.append(f"The {what} of the data set are no labels and were left out: {error}")
        return
    found.columns["label"] = labels
    found.notes += notes


# Hugging Face


def _of_features(dataset: Any, features: Mapping[str, Any]) -> Columns:
    kinds = {name: type(feature).__name__ for name, feature in features.items()}
    by_name = {normal_name(name): name for name in features}
    pictures = [name for name, kind in kinds.items() if kind == "Image"]
    if not pictures:
        pictures = [by_name[name] for name in PICTURES if name in by_name][:1]
    if not pictures:
        raise DataError(
            f"The data set has no Image column; its columns are {kinds}. Cast one: "
            "dataset.cast_column(NAME, datasets.Image())."
        )
    picture = next((by_name[name] for name in PICTURES if by_name.get(name) in pictures), pictures[0])
    found = Columns(lambda sample: sample[picture])
    used = {picture}
    classes = [name for name, kind in kinds.items() if kind == "ClassLabel"]
    named = [by_name[name] for name in LABELS if name in by_name]
    label = next((name for name in named if name in classes), None) or next(iter([*classes, *named]), None)
    if label is not None:
        used.add(label)
        _name(found, dataset[label], getattr(features[label], "names", None), f"column {label!r}")
    for column, spellings in (("group", GROUPS), ("split", SPLITS)):
        name = next((by_name[spelling] for spelling in spellings if spelling in by_name), None)
        if name is not None:
            used.add(name)
            values = getattr(features[name], "names", None)
            texts = class_names(dataset[name], values)[0] if values else column_texts(dataset[name], column)
            if column == "split":
                texts, notes = held_out(texts)
                found.notes += notes
            found.columns[column] = texts
    left = [name for name in kinds if name not in used]
    if left and (label is None or len(classes) > 1 or len(pictures) > 1):
        said = f"label {label!r}" if label is not None else "no label"
        found.notes.append(f"Read from the data set: picture {picture!r}, {said}; not read: {left[:12]}.")
    return found


# torchvision and its relatives


def _targets(dataset: Any) -> tuple[Any, Any]:
    """(targets, names of classes) of a data set, through torch's Subset and ConcatDataset; None where unknown."""
    inner, indices = getattr(dataset, "dataset", None), getattr(dataset, "indices", None)
    if inner is not None and indices is not None:
        targets, classes = _targets(inner)
        return (None if targets is None else _taken(targets, list(indices))), classes
    parts = getattr(dataset, "datasets", None)
    if isinstance(parts, (list, tuple)) and parts and hasattr(dataset, "cumulative_sizes"):
        return _joined_targets(parts)
    for name in TARGETS:
        targets = getattr(dataset, name, None)
        if targets is not None and hasattr(targets, "__len__") and not isinstance(targets, (str, Mapping)):
            return targets, _classes(dataset)
    for name in SAMPLES:
        samples = getattr(dataset, name, None)
        if isinstance(samples, (list, tuple)) and samples:
            pairs = all(isinstance(sample, (list, tuple)) and len(sample) == 2 for sample in samples)
            if pairs:
                return [target for _, target in samples], _classes(dataset)
    tensors = getattr(dataset, "tensors", None)
    if isinstance(tensors, (list, tuple)) and len(tensors) == 2:
        return tensors[1], _classes(dataset)
    return None, None


def _taken(targets: Any, indices: list[int]) -> Any:
    return [targets[int(index)] for index in indices] if max(indices, default=-1) < len(targets) else targets


def _joined_targets(parts: Any) -> tuple[Any, Any]:
    """Targets of data sets that were put together, as names, since each has its own numbers."""
    labels: list[str | None] = []
    for part in parts:
        targets, classes = _targets(part)
        if targets is None or len(targets) != len(part):
            labels += [None] * len(part)
            continue
        try:
            labels += class_names(targets, classes)[0]
        except (DataError, TypeError, ValueError):
            return None, None
    return labels, None


def _classes(dataset: Any) -> Any:
    for name in CLASSES:
        classes = getattr(dataset, name, None)
        if (
            classes is not None
            and hasattr(classes, "__len__")
            and len(classes)
            and not isinstance(classes, str)
        ):
            return classes
    return None


def _picture_of_sample(sample: Any) -> Any:
    if isinstance(sample, (tuple, list)):
        if not sample:
            raise PictureError("the sample is empty")
        return sample[0]
    if isinstance(sample, Mapping) and not {"bytes", "path"} & set(sample):
        by_name = {normal_name(name): name for name in sample}
        for name in PICTURES:
            if name in by_name:
                return sample[by_name[name]]
        raise PictureError(f"the sample has no picture among {few(sorted(map(str, sample)))}")
    return sample
