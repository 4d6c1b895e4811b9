"""Images: an ordered collection of pictures with ids, labels and splits, wherever they are kept.

Owns which pictures there are, in which order, under which names. Ignores how one file is decoded
(`decoding.py`) and what is done with the pixels. Start at `Images.open`.
"""

import csv
import hashlib
import json
import os
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, overload

import numpy as np
from PIL import Image

from clipattr.errors import DataError
from clipattr.images.decoding import PictureError, shrink
from clipattr.images.sources import (
    DatasetSource,
    FileSource,
    MemorySource,
    SceneSource,
    Source,
    TarSource,
    columns_of_dataset,
    find_pictures,
    readable_name,
)

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from clipattr.models.loading import Model

T = TypeVar("T")
COLUMNS = ("label", "group", "split")


@dataclass(frozen=True)
class ImageRecord:
    """One picture of a collection: its names, and the way to its pixels.

    `index` is its place in the collection it was taken from; `id` is unique there and survives selecting.
    """

    index: int
    id: str
    path: str | None
    label: str | None
    group: str | None
    split: str | None
    _source: Source
    _row: int

    def load(self, draft: int | None = None) -> Image.Image:
        """The picture, upright RGB. `draft`: see `pictures.read_picture`. Raises PictureError with the
        reason."""
        return self._source.read(self._row, draft)

    def thumbnail(self, side: int = 112) -> Image.Image:
        """The picture within side × side pixels."""
        return shrink(self.load(draft=2 * side), side)

    @property
    def scene(self) -> Any:
        """The editable scene this picture is rendered from; DataError for pictures that are not rendered."""
        return self._source.scene(self._row)


class Images(Sequence[ImageRecord]):
    """A collection of pictures. Nothing is decoded before it is asked for.

    `skipped` lists (id, reason) of the pictures that could not be read so far. `notes` tells what opening
    changed or left out.
    """

    def __init__(
        self,
        source: Source,
        ids: Sequence[str],
        columns: Mapping[str, Sequence[str | None]] | None = None,
        *,
        rows: np.ndarray | None = None,
        notes: Iterable[str] = (),
    ) -> None:
        self.source = source
        self.ids = list(ids)
        given = columns or {}
        self.columns = {name: list(given.get(name, [None] * len(self.ids))) for name in COLUMNS}
        self.rows = np.arange(len(self.ids)) if rows is None else np.asarray(rows, dtype=np.int64)
        self.notes = list(notes)
        self._skipped: dict[str, str] = {}
        self._places: dict[str, int] | None = None
        for name, values in self.columns.items():
            if len(values) != len(self.ids):
                raise DataError(f"{len(self.ids)} pictures but {len(values)} values of {name!r}.")
        if len(set(self.ids)) != len(self.ids):
            repeated = next(name for name in self.ids if self.ids.count(name) > 1)
            raise DataError(f"The id {repeated!r} names more than one picture; ids must be unique.")

    @classmethod
    def open(cls, source: Any, *, root: str | Path | None = None) -> "Images":
        """Open a collection.

        Args:
            source: a folder (nested or flat; the name of a picture's own folder, if it is not the top, is its
                label); one picture; a list of paths; a table (pandas frame or .csv) with a column `path` and,
                optionally, `id`, `label`, `group`, `split`; a list of PIL pictures or uint8 arrays; an array
                (n, h, w, 3); "scenes:FILE.jsonl"; webdataset shards ("FILE.tar" or a list of them); a
                torchvision or Hugging Face data set; or an `Images`.
            root: folder that relative paths start from (default: the table's folder, else the current one).

        Raises:
            DataError: nothing there, or not one readable picture in it; the first reasons are named.
        """
        if isinstance(source, Images):
            return source
        try:
            images = _open(source, None if root is None else Path(root))
        except (OSError, UnicodeError, csv.Error, RecursionError) as error:
            raise DataError(f"Pictures cannot be opened from {_name(source)[:300]}: {error}.") from error
        if not len(images):
            raise DataError(f"No pictures in {_name(source)}.")
        images._require_one_readable(_name(source))
        return images

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, key: int | str) -> ImageRecord: ...
    @overload
    def __getitem__(self, key: slice) -> "Images": ...
    def __getitem__(self, key: int | str | slice) -> "ImageRecord | Images":
        if isinstance(key, slice):
            return self.select(np.arange(len(self))[key])
        index = self.index_of(key) if isinstance(key, str) else int(key)
        if not -len(self) <= index < len(self):
            raise IndexError(f"picture {index} of {len(self)}")
        index %= len(self)
        row = int(self.rows[index])
        label, group, split = (self.columns[name][index] for name in COLUMNS)
        return ImageRecord(
            index, self.ids[index], self.source.path(row), label, group, split, self.source, row
        )

    def __repr__(self) -> str:
        return f"<Images: {len(self)} from {self.source.kind}, {len(self._skipped)} skipped>"

    def index_of(self, id: str) -> int:
        """Place of the picture with this id; DataError if there is none."""
        if self._places is None:
            self._places = {name: place for place, name in enumerate(self.ids)}
        if id not in self._places:
            raise DataError(
                f"No picture with the id {id!r}; ids look like {self.ids[0]!r}."
                if self.ids
                else f"No picture with the id {id!r}: the collection is empty."
            )
        return self._places[id]

    def select(self, which: Any) -> "Images":
        """The pictures at these places (integers), or where this mask is True, as a collection of its own."""
        places = np.asarray(which)
        if places.dtype == bool:
            if places.shape != (len(self),):
                raise DataError(
                    f"The mask must have one value per picture ({len(self)}); got {places.shape}."
                )
            places = np.flatnonzero(places)
        chosen = places.astype(np.int64).ravel().tolist()
        columns = {name: [values[place] for place in chosen] for name, values in self.columns.items()}
        return Images(
            self.source, [self.ids[p] for p in chosen], columns, rows=self.rows[chosen], notes=self.notes
        )

    @property
    def skipped(self) -> list[tuple[str, str]]:
        """(id, reason) of every picture that could not be read so far, in the order of the collection."""
        return [(name, self._skipped[name]) for name in self.ids if name in self._skipped]

    def skip(self, id: str, reason: str) -> None:
        """Note that a picture could not be read."""
        self._skipped[id] = reason

    @property
    def frame(self) -> "pd.DataFrame":
        """One row per picture: id, path, label, group, split."""
        import pandas as pd

        paths = [self.source.path(int(row)) for row in self.rows]
        return pd.DataFrame({"id": self.ids, "path": paths, **self.columns})

    @property
    def fingerprint(self) -> str:
        """16 hex digits over ids, labels, groups, splits and file sizes: another collection, another
        fingerprint."""
        digest = hashlib.blake2b(digest_size=8)
        for place, name in enumerate(self.ids):
            size = self.source.weight(int(self.rows[place]))
            row = (name, *(self.columns[column][place] for column in COLUMNS), size)
            digest.update(json.dumps(row).encode())
        return digest.hexdigest()

    def signature(self, index: int) -> str:
        """Changes when the picture's file changes (size and time of change; content for pictures in
        memory)."""
        return self.source.signature(int(self.rows[index]))

    def stream(
        self,
        prepare: Callable[[Image.Image], T],
        places: Sequence[int] | np.ndarray | None = None,
        *,
        workers: int | None = None,
        draft: int | None = None,
        ahead: int = 64,
    ) -> Iterator[tuple[int, T | PictureError]]:
        """Decode and prepare pictures in threads, in order, at most `ahead` in advance.

        Yields:
            (place, prepared picture), or (place, PictureError) for one that cannot be read, which is then
            also in `skipped`. Memory does not depend on the number of pictures.
        """
        chosen = range(len(self)) if places is None else [int(place) for place in places]
        source, rows = self.source, self.rows

        def one(place: int) -> T | PictureError:
            try:
                return prepare(source.read(int(rows[place]), draft))
            except PictureError as error:
                return error

        workers = max(1, min(8, os.cpu_count() or 1)) if workers is None else max(1, workers)
        if not source.threads:
            workers = 1
        with ThreadPoolExecutor(workers, thread_name_prefix="pictures") as pool:
            left = iter(chosen)
            waiting: list[tuple[int, Future[T | PictureError]]] = []
            try:
                while True:
                    for place in islice(left, max(1, ahead) - len(waiting)):
                        waiting.append((place, pool.submit(one, place)))
                    if not waiting:
                        return
                    place, future = waiting.pop(0)
                    value = future.result()
                    if isinstance(value, PictureError):
                        self.skip(self.ids[place], str(value))
                    yield place, value
            finally:
                for _, future in waiting:
                    future.cancel()

    def batches(
        self,
        models: "Model | Sequence[Model]",
        batch: int = 64,
        *,
        places: Sequence[int] | np.ndarray | None = None,
        workers: int | None = None,
        draft: bool = False,
    ) -> "Iterator[tuple[np.ndarray, list[torch.Tensor]]]":
        """Pixels for one or several models, each picture decoded once.

        Args:
            draft: decode large JPEGs at the smallest size that is still twice what the models need.

        Yields:
            places (b,) int64 and, per model, pixels (b, 3, h, w). Pictures that cannot be read are left out
            and listed in `skipped`, so b may be smaller than `batch` only at the end.
        """
        import torch

        wanted: list[Model] = list(models) if isinstance(models, Sequence) else [models]
        prepare = preparer(wanted)
        side = 2 * max(max(model.image_size) for model in wanted) if draft else None
        kept: list[int] = []
        pixels: list[list[torch.Tensor]] = []
        for place, value in self.stream(prepare, places, workers=workers, draft=side, ahead=2 * batch):
            if isinstance(value, PictureError):
                continue
            kept.append(place)
            pixels.append(value)
            if len(kept) == batch:
                yield np.asarray(kept), [torch.stack(each) for each in zip(*pixels, strict=True)]
                kept, pixels = [], []
        if kept:
            yield np.asarray(kept), [torch.stack(each) for each in zip(*pixels, strict=True)]

    def _require_one_readable(self, name: str) -> None:
        reasons = []
        for record in self:
            try:
                record.load(draft=64)
                return
            except PictureError as error:
                self.skip(record.id, str(error))
                reasons.append(f"{record.id}: {error}")
        shown = "; ".join(reasons[:3])
        raise DataError(f"None of the {len(self)} pictures in {name} can be read. First reasons: {shown}.")


def preparer(models: "Sequence[Model]") -> "Callable[[Image.Image], list[torch.Tensor]]":
    """A function from a picture to one tensor per model; models with equal preprocessing share the work."""

    def prepare(picture: Image.Image) -> "list[torch.Tensor]":
        done: dict[str, torch.Tensor] = {}
        for model in models:
            if model.preprocess_id not in done:
                done[model.preprocess_id] = model.prepare(picture)
        return [done[model.preprocess_id] for model in models]

    return prepare


def hold_out(images: Images, share: float, seed: int = 0) -> Images:
    """The same pictures with a random `share` of them in the split "holdout" (existing holdouts are kept)."""
    if not 0 < share < 1:
        raise DataError(f"The share to hold out must lie between 0 and 1; got {share}.")
    order = sorted(images.ids)
    random.Random(seed).shuffle(order)
    held = set(order[: round(share * len(order))])
    columns: dict[str, Sequence[str | None]] = dict(images.columns)
    columns["split"] = [
        "holdout" if name in held else split
        for name, split in zip(images.ids, images.columns["split"], strict=True)
    ]
    return Images(images.source, images.ids, columns, rows=images.rows, notes=images.notes)


def _name(source: Any) -> str:
    if isinstance(source, (str, Path)):
        return repr(str(source))
    return f"the {type(source).__name__} given"


def _open(source: Any, root: Path | None) -> Images:
    if isinstance(source, (str, Path)):
        text = os.fspath(source)
        if text.startswith("scenes:"):
            return _from_scenes(Path(text.removeprefix("scenes:")))
        return _from_path(Path(text), root)
    if hasattr(source, "columns") and hasattr(source, "iloc"):
        return _from_table({str(name): list(source[name]) for name in source.columns}, root)
    if isinstance(source, np.ndarray):
        if source.ndim != 4:
            raise DataError(f"An array of pictures must be (n, h, w, 3); got {source.shape}.")
        return _from_items(list(source))
    if isinstance(source, (list, tuple)):
        if source and all(isinstance(item, (str, Path)) for item in source):
            if all(str(item).endswith(".tar") for item in source):
                return _from_tars([Path(item) for item in source])
            return _from_paths(list(source), root)
        return _from_items(list(source))
    if hasattr(source, "__getitem__") and hasattr(source, "__len__"):
        read, columns, notes = columns_of_dataset(source)
        ids = [f"{index:07d}" for index in range(len(source))]
        return Images(DatasetSource(source, read), ids, columns, notes=notes)
    raise DataError(
        f"Cannot read pictures from a {type(source).__name__}; see Images.open for what can be given."
    )


def _from_path(path: Path, root: Path | None) -> Images:
    if not path.exists():
        raise DataError(
            f"{str(path)!r} does not exist. Give a folder of pictures, a .csv, a .tar or 'scenes:FILE'."
        )
    if path.is_dir():
        found, others = find_pictures(path)
        if not found:
            raise DataError(f"No pictures in the folder {str(path)!r} ({others} other files in it).")
        names = [name for name, _ in found]
        labels: list[str | None] = [name.split("/")[-2] if "/" in name else None for name in names]
        notes = [f"{others} files that are not pictures were left out."] if others else []
        return Images(FileSource([file for _, file in found]), names, {"label": labels}, notes=notes)
    suffix = path.suffix.lower()
    if suffix == ".jsonl":
        return _from_scenes(path)
    if suffix == ".tar":
        return _from_tars([path])
    if suffix in (".csv", ".tsv"):
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t" if suffix == ".tsv" else ","))
        columns = {key: [row[key] for row in rows] for key in (rows[0] if rows else {"path": ""}) if key}
        return _from_table(columns, root or path.parent)
    return _from_paths([path], root)


def _from_paths(paths: Sequence[str | Path], root: Path | None) -> Images:
    names = [readable_name(path) for path in paths]
    files = [path if root is None else root / path for path in map(Path, paths)]
    return Images(FileSource(files), names)


def _from_table(table: dict[str, list[Any]], root: Path | None) -> Images:
    if "path" not in table:
        raise DataError(f"A table of pictures needs a column 'path'; this one has {sorted(table)}.")
    missing = [
        i for i, path in enumerate(table["path"]) if not isinstance(path, (str, Path)) or not str(path)
    ]
    if missing:
        raise DataError(
            f"{len(missing)} rows have no path, first row {missing[0]}. Fill them in or drop them."
        )
    images = _from_paths(table["path"], root)
    ids = [str(name) for name in table["id"]] if "id" in table else images.ids
    columns = {name: [_text(value) for value in table[name]] for name in COLUMNS if name in table}
    return Images(images.source, ids, columns)


def _text(value: Any) -> str | None:
    """A table's cell as text; None for what pandas and csv call missing."""
    return None if value is None or value != value or value == "" else str(value)


def _from_items(items: list[Any]) -> Images:
    if any(isinstance(item, (str, Path)) for item in items):
        raise DataError("A list of pictures must hold either paths or pictures, not both.")
    return Images(MemorySource(items), [f"picture-{index:06d}" for index in range(len(items))])


def _from_scenes(path: Path) -> Images:
    source = SceneSource(path)
    return Images(source, source.names, source.columns)


def _from_tars(paths: list[Path]) -> Images:
    source = TarSource(paths)
    return Images(source, source.names, {"label": source.labels}, notes=source.notes)
