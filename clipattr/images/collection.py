"""Images: an ordered collection of pictures with ids, labels, groups and splits.

Owns the list of pictures, their order and names. Ignores how a file is decoded (`decoding.py`) and how pixels are used.
Start at `Images.open`.
"""

import csv
import json
import operator
import os
import random
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, overload

import numpy as np
from PIL import Image

from clipattr.display.wording import be, capital, counted
from clipattr.errors import DataError
from clipattr.images.decoding import PictureError, shrink
from clipattr.images.folders import readable_name
from clipattr.images.opening import COLUMNS, opened
from clipattr.images.sources import Source
from clipattr.storage.files import digest_parts
from clipattr.storage.paths import user_path

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from clipattr.models.loading import Model

T = TypeVar("T")


@dataclass(frozen=True)
class ImageRecord:
    """One picture of a collection, which is decoded by `load`.

    Attributes:
        index: its index in the collection. id: unique in the collection, also after `select`.
        label, group, split: of the picture, None where unknown. path: its file, None without one.

    >>> import clipattr as ca
    >>> record = ca.Images.open(np.zeros((2, 8, 8, 3), dtype=np.uint8))[1]
    >>> record.id, record.load().size
    ('picture-000001', (8, 8))
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
        """The picture, upright RGB; `draft` as for `decoding.read_picture`.

        Raises:
            PictureError: the picture cannot be read; the message is the reason.
        """
        return self._source.read(self._row, draft)

    def thumbnail(self, side: int = 112) -> Image.Image:
        """The picture within side × side pixels; PictureError as for `load`."""
        return shrink(self.load(draft=2 * side), side)

    @property
    def scene(self) -> Any:
        """The scene from which this picture is rendered; DataError for pictures that are not rendered."""
        return self._source.scene(self._row)


class Images(Sequence[ImageRecord]):
    """A collection of pictures, which are decoded on access; see `Images.open`.

    Attributes:
        ids: unique id of each picture.
        columns: {"label", "group", "split": one text or None per picture}.
        notes: sentences on what opening changed or left out.

    Raises:
        DataError: an id that names two pictures, or a column with another number of values than pictures.

    >>> import clipattr as ca
    >>> images = ca.Images.open({"path": [np.zeros((8, 8, 3), np.uint8)] * 2, "label": ["a", "b"], "id": ["x", "y"]})
    >>> len(images), images["y"].label
    (2, 'b')
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
                raise DataError(f"{len(self.ids)} pictures need as many {name}s; got {len(values)}.")
        if len(set(self.ids)) != len(self.ids):
            repeated, _ = Counter(self.ids).most_common(1)[0]
            raise DataError(f"The id {repeated!r} names more than one picture; give each its own.")

    @classmethod
    def open(cls, source: Any, *, root: str | Path | None = None) -> "Images":
        """Open a collection.

        Args:
            source: a folder (the name of a picture's folder below the top is its label; folders named train, val,
                test, ... are splits; a metadata.csv in it is read); one picture; a list of paths, or of
                (path, label) pairs; a table (a frame, a dictionary of lists, .csv, .tsv, .parquet or .jsonl) with a
                column `path` and, optionally, `id`, `label`, `group`, `split`; a list of PIL pictures or uint8 arrays;
                an array (n, h, w, 3); "scenes:FILE.jsonl"; webdataset shards ("FILE.tar", "{000..009}.tar" or a
                list); a torchvision or Hugging Face data set, or a dictionary of them by split; or an `Images`.
            root: folder of relative paths (default: the table's folder, else the current one).

        Returns:
            The collection; its `notes` are sentences on what was left out or changed. Pictures of the splits test, val,
            validation, ... are held out: their split is "holdout".

        Raises:
            DataError: no such source, or no readable picture in it; the message has the first reasons.

        >>> Images.open(np.zeros((2, 8, 8, 3), dtype=np.uint8)).ids
        ['picture-000000', 'picture-000001']
        """
        if isinstance(source, Images):
            return source
        try:
            found = opened(source, None if root is None else user_path(root))
            images = cls(found.source, found.ids, found.columns, notes=found.notes)
        except (OSError, UnicodeError, csv.Error, RecursionError) as error:
            raise DataError(f"Pictures cannot be opened from {_name(source)[:300]}: {error}.") from error
        if not len(images):
            raise DataError(f"{capital(_name(source))} holds no pictures. Give at least one.")
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
        place = self.index_of(key) if isinstance(key, str) else operator.index(key)
        if not -len(self) <= place < len(self):
            raise IndexError(f"picture {place} of {len(self)}")
        index = place % len(self)
        row = int(self.rows[index])
        label, group, split = (self.columns[name][index] for name in COLUMNS)
        return ImageRecord(
            index, self.ids[index], self.source.path(row), label, group, split, self.source, row
        )

    def __repr__(self) -> str:
        return f"<Images: {len(self)} from {self.source.kind}, {len(self._skipped)} skipped>"

    def index_of(self, id: str) -> int:
        """Index of the picture with this id; DataError if there is none."""
        if self._places is None:
            self._places = {unicodedata.normalize("NFC", name): place for place, name in enumerate(self.ids)}
            self._places |= {name: place for place, name in enumerate(self.ids)}
        if id not in self._places and (plain := unicodedata.normalize("NFC", id)) in self._places:
            return self._places[plain]
        if id not in self._places:
            raise DataError(
                f"No picture with the id {id!r}; ids look like {self.ids[0]!r}."
                if self.ids
                else f"No picture with the id {id!r}: the collection is empty."
            )
        return self._places[id]

    def select(self, which: Any) -> "Images":
        """The pictures at indices (n,) or where a mask (pictures,) is True; DataError for a mask of another length."""
        places = np.asarray(which)
        if places.dtype == bool:
            if places.shape != (len(self),):
                raise DataError(f"A mask has one value per picture, ({len(self)},); got {places.shape}.")
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
        """Record that a picture could not be read."""
        self._skipped[id] = reason

    @property
    def left_out(self) -> list[str]:
        """`notes`, and one sentence with count and first reasons of the pictures that could not be read so far."""
        skipped = self.skipped
        some = "; ".join(f"{name}: {reason}" for name, reason in skipped[:3])
        told = f"{counted(len(skipped), 'picture')} could not be read and {be(len(skipped), True)} left out"
        return [*self.notes, *([f"{told}, first {some}."] if skipped else [])]

    @property
    def frame(self) -> "pd.DataFrame":
        """One row per picture: id, path (bytes of a name that are not UTF-8 as \\xNN), label, group, split."""
        import pandas as pd

        paths = [(path := self.source.path(int(row))) and readable_name(path) for row in self.rows]
        return pd.DataFrame({"id": self.ids, "path": paths, **self.columns})

    @property
    def fingerprint(self) -> str:
        """16 hex digits over ids, labels, groups, splits, sizes of files and samples of bytes or pixels.

        Other pictures with the same names have another fingerprint, a copy has the same. `content_hash` reads all.
        """

        def parts() -> Iterator[str]:
            for place, name in enumerate(self.ids):
                size = self.source.weight(int(self.rows[place]))
                yield json.dumps((name, *(self.columns[column][place] for column in COLUMNS), size))
            chosen = self.source.sampled(self.rows).tolist()
            with ThreadPoolExecutor(8 if self.source.threads else 1) as pool:
                for start in range(0, len(chosen), 4096):
                    yield from pool.map(self.source.content, chosen[start : start + 4096])

        return digest_parts(parts())

    def content_hash(self) -> str:
        """16 hex digits over the decoded pixels of every picture, in order, and their ids. Reads all pictures.

        >>> one, other = (Images.open(np.full((1, 4, 4, 3), grey, dtype=np.uint8)) for grey in (1, 2))
        >>> one.content_hash() == other.content_hash()
        False
        """
        rows = zip(self.ids, self.rows.tolist(), strict=True)
        return digest_parts(f"{name}\n{self.source.pixels(row)}\n" for name, row in rows)

    def signature(self, index: int) -> str:
        """Hash that detects changes of a picture: size, time and sampled bytes of a file, or the content in memory."""
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
            (index, prepared picture), or (index, PictureError) for a picture that cannot be read, which is then also in
            `skipped`. Memory does not depend on the number of pictures.
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
            models, batch: one or several `Model`; pictures per batch. workers: threads; None chooses their number.
            places: (n,) indices, None for all. draft: decode large JPEGs at twice the size that the models need.

        Yields:
            indices (b,) int64 and, per model, pixels (b, 3, h, w). Pictures that cannot be read are left out and
            listed in `skipped`; b is smaller than `batch` only at the end.
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
        raise DataError(f"The fraction to hold out must lie between 0 and 1; got {share}.")
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
