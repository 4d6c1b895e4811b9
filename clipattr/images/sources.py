"""Sources: where the pictures of a collection are kept, behind one small interface.

Owns folders, tar shards, scenes files, data sets and pictures in memory. Ignores ids and labels beyond
reading them. Start at `Source`; a new kind of storage is a subclass and one line in `images._open`.
"""

import hashlib
import json
import os
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from clipattr.errors import DataError
from clipattr.images.decoding import SUFFIXES, PictureError, read_picture, to_picture
from clipattr.storage.documents import parse_json

MAX_LINE = 10_000_000  # characters of a line that describes a scene


class Source:
    """Pictures by row number. `threads`: whether `read` may be called from several threads at once."""

    kind = "nowhere"
    threads = True

    def read(self, row: int, draft: int | None = None) -> Image.Image:
        """The picture, upright RGB; PictureError with the reason if it cannot be read."""
        raise PictureError("this source holds no pictures")

    def path(self, row: int) -> str | None:
        """The picture's file, if it has one of its own."""
        return None

    def weight(self, row: int) -> int:
        """Something cheap that goes into the collection's fingerprint: the size in bytes where known."""
        return 0

    def signature(self, row: int) -> str:
        """Changes when the picture changes."""
        return ""

    def scene(self, row: int) -> Any:
        """The scene a picture is rendered from."""
        raise DataError(f"Pictures from {self.kind} have no scene; only rendered ones can be edited.")


class FileSource(Source):
    """One file per picture."""

    kind = "files"

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = list(files)

    def read(self, row: int, draft: int | None = None) -> Image.Image:
        return read_picture(self.files[row], draft=draft)

    def path(self, row: int) -> str:
        return str(self.files[row])

    def weight(self, row: int) -> int:
        try:
            return self.files[row].stat().st_size
        except OSError:
            return -1

    def signature(self, row: int) -> str:
        try:
            stat = self.files[row].stat()
        except OSError:
            return "gone"
        return f"{stat.st_size}-{stat.st_mtime_ns}"


class MemorySource(Source):
    """Pictures or arrays the caller holds."""

    kind = "memory"

    def __init__(self, items: Sequence[Any]) -> None:
        self.items = list(items)

    def read(self, row: int, draft: int | None = None) -> Image.Image:
        return to_picture(self.items[row])

    def signature(self, row: int) -> str:
        try:
            picture = self.read(row)
        except PictureError as error:
            return str(error)
        return hashlib.blake2b(picture.tobytes() + repr(picture.size).encode(), digest_size=8).hexdigest()

    def weight(self, row: int) -> int:
        return int.from_bytes(hashlib.blake2b(self.signature(row).encode(), digest_size=6).digest(), "big")


class SceneSource(Source):
    """A file with one scene per line, rendered when read. Lines: {"id", "label", "group", "split",
    "scene"}."""

    kind = "scenes"

    def __init__(self, file: Path) -> None:
        if not file.is_file():
            raise DataError(f"The scenes file {str(file)!r} does not exist.")
        self.file = file
        self.scenes: list[str] = []
        self.names: list[str] = []
        self.columns: dict[str, list[str | None]] = {"label": [], "group": [], "split": []}
        number = 0
        try:
            with file.open(encoding="utf-8") as lines:
                while line := lines.readline(MAX_LINE + 1):
                    number += 1
                    if len(line) > MAX_LINE:
                        raise ValueError(f"more than {MAX_LINE:,} characters")
                    if line.strip():
                        self._add(number, line)
        except DataError:
            raise
        except (OSError, ValueError) as error:
            raise DataError(f"{str(file)!r} cannot be read after line {number}: {error}.") from error

    def _add(self, number: int, line: str) -> None:
        try:
            entry = parse_json(line)
            scene = json.dumps(entry["scene"], sort_keys=True)
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{str(self.file)!r} line {number} is not a scene, an object with a field 'scene': {error}."
            ) from error
        self.scenes.append(scene)
        self.names.append(str(entry.get("id", f"{len(self.names):06d}")))
        for name, values in self.columns.items():
            values.append(None if entry.get(name) is None else str(entry[name]))

    def read(self, row: int, draft: int | None = None) -> Image.Image:
        try:
            return Image.fromarray(self.scene(row).render())
        except Exception as error:  # a line of a file can say anything
            raise PictureError(f"the scene cannot be drawn: {type(error).__name__}: {error}") from error

    def scene(self, row: int) -> Any:
        from clipattr_data import read_scene

        return read_scene(self.scenes[row])

    def signature(self, row: int) -> str:
        return hashlib.blake2b(self.scenes[row].encode(), digest_size=8).hexdigest()

    def weight(self, row: int) -> int:
        return int(self.signature(row)[:12], 16)


class TarSource(Source):
    """Webdataset shards: plain tar files read in place; a sample's .cls, .txt or .json["label"] is its
    label."""

    kind = "tar shards"

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = list(files)
        self.places: list[tuple[int, int, int]] = []  # shard, offset, size
        self.names: list[str] = []
        self.labels: list[str | None] = []
        self.notes: list[str] = []
        for shard, file in enumerate(self.files):
            self._index(shard, file)

    def _index(self, shard: int, file: Path) -> None:
        pictures: list[tuple[str, tarfile.TarInfo]] = []
        labels: dict[str, tuple[int, str]] = {}
        try:
            length = file.stat().st_size
            with tarfile.open(file, "r:") as tar:
                for member in tar:
                    if not member.isfile() or member.sparse is not None:
                        continue
                    if not 0 <= member.size <= length - member.offset_data:
                        raise tarfile.ReadError(f"{member.name[:80]!r} claims {member.size:,} bytes")
                    folder, _, base = member.name.rpartition("/")
                    stem, _, extension = base.partition(".")
                    key = f"{folder}/{stem}"
                    if PurePosixPath(member.name).suffix.lower() in SUFFIXES:
                        pictures.append((key, member))
                    elif extension in ("cls", "txt", "json") and member.size < 1_000_000:
                        data = tar.extractfile(member)
                        text = _tar_label(extension, data.read() if data else b"")
                        rank = ("cls", "json", "txt").index(extension)
                        if text is not None and (key not in labels or rank < labels[key][0]):
                            labels[key] = (rank, text)
        except (OSError, tarfile.TarError, ValueError, OverflowError, MemoryError, RecursionError) as error:
            raise DataError(f"{str(file)!r} cannot be read as a tar of pictures: {error}.") from error
        prefix = f"{file.stem}/" if len(self.files) > 1 else ""
        for key, member in pictures:
            self.places.append((shard, member.offset_data, member.size))
            self.names.append(prefix + readable_name(member.name))
            self.labels.append(labels[key][1] if key in labels else None)

    def read(self, row: int, draft: int | None = None) -> Image.Image:
        shard, offset, size = self.places[row]
        try:
            with self.files[shard].open("rb") as file:
                file.seek(offset)
                data = file.read(size)
        except OSError as error:
            raise PictureError(f"its shard cannot be read: {error.strerror or error}") from error
        if len(data) != size:
            raise PictureError("its shard has been cut short")
        return read_picture(data, draft=draft)

    def weight(self, row: int) -> int:
        return self.places[row][2]

    def signature(self, row: int) -> str:
        shard, offset, size = self.places[row]
        try:
            return f"{offset}-{size}-{self.files[shard].stat().st_mtime_ns}"
        except OSError:
            return "gone"


class DatasetSource(Source):
    """A torchvision or Hugging Face data set: `read` picks the picture out of one sample."""

    kind = "a data set"
    threads = False

    def __init__(self, dataset: Any, picture_of: Callable[[Any], Any]) -> None:
        self.dataset = dataset
        self.picture_of = picture_of

    def read(self, row: int, draft: int | None = None) -> Image.Image:
        try:
            item = self.picture_of(self.dataset[row])
        except PictureError:
            raise
        except Exception as error:  # whatever the data set's own code raises on a broken sample
            raise PictureError(f"the data set failed: {type(error).__name__}: {error}") from error
        return to_picture(item)


def columns_of_dataset(
    dataset: Any,
) -> tuple[Callable[[Any], Any], dict[str, list[str | None]], list[str]]:
    """How to get the picture out of a data set's samples, and its labels where they can be read without
    decoding.

    Understands Hugging Face features (an Image column, a ClassLabel column) and torchvision's (picture,
    label) samples with `targets` and `classes`.
    """
    features = getattr(dataset, "features", None)
    if isinstance(features, dict):
        kinds = {name: type(feature).__name__ for name, feature in features.items()}
        picture = next((name for name, kind in kinds.items() if kind == "Image"), None)
        if picture is None:
            raise DataError(f"The data set has no Image column; its columns are {kinds}.")
        label = next((name for name, kind in kinds.items() if kind == "ClassLabel"), None)
        labels: list[str | None] = [None] * len(dataset)
        if label is not None:
            names = features[label].names
            labels = [names[value] if value is not None and value >= 0 else None for value in dataset[label]]
        return (lambda sample: sample[picture]), {"label": labels}, []
    targets = getattr(dataset, "targets", None)
    classes = getattr(dataset, "classes", None)
    found: dict[str, list[str | None]] = {}
    notes: list[str] = []
    if targets is not None and len(targets) == len(dataset):
        found["label"] = [str(classes[int(t)]) if classes is not None else str(int(t)) for t in targets]
    else:
        notes.append("The data set lists no targets, so its pictures have no labels.")
    return (lambda sample: sample[0] if isinstance(sample, (tuple, list)) else sample), found, notes


def find_pictures(folder: Path) -> tuple[list[tuple[str, Path]], int]:
    """(readable relative name, file) of every picture below a folder, sorted by name, and how many other
    files.

    Hidden files and folders are passed over; links to folders are not followed, so a circle of links ends.
    """
    found: list[tuple[str, Path]] = []
    others = 0
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in files:
            if name.startswith("."):
                continue
            path = Path(parent) / name
            if path.suffix.lower() in SUFFIXES:
                found.append((readable_name(path.relative_to(folder).as_posix()), path))
            else:
                others += 1
    return sorted(found, key=lambda pair: pair[0]), others


def readable_name(path: str | Path) -> str:
    """A path as text that can be written as UTF-8 (undecodable bytes of a file name become \\xNN)."""
    return (
        os.fspath(path)
        .replace(os.sep, "/")
        .encode("utf-8", "surrogateescape")
        .decode("utf-8", "backslashreplace")
    )


def _tar_label(extension: str, data: bytes) -> str | None:
    if extension == "json":
        try:
            entry = parse_json(data)
        except ValueError:
            return None
        value = entry.get("label") if isinstance(entry, dict) else None
        return None if value is None else str(value)
    return data.decode("utf-8", "replace").strip() or None
