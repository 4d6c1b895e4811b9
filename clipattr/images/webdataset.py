"""Webdataset shards: pictures and labels in plain tar files, read in place.

Owns how members make up samples, ids of several shards, and what is left out. Ignores pixels. Start at `TarSource`.

A sample's key is the path up to the first dot of the file's name, as in the webdataset format. Where one key has
several pictures and none with a single ending ("photo.001.jpg", "photo.002.jpg"), each is a sample of its own; where
there is one ("001.jpg" beside "001.seg.png"), the others belong to it and are left out.
"""

import os
import re
import tarfile
from collections import Counter, defaultdict
from collections.abc import Sequence
from glob import glob
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from clipattr.errors import DataError
from clipattr.images.cells import cell_text, first, plain
from clipattr.images.decoding import NETWORK, SUFFIXES, PictureError, read_picture
from clipattr.images.folders import SYSTEM_FOLDERS, is_companion, readable_name
from clipattr.images.sources import Source, file_sample
from clipattr.images.splits import split_name
from clipattr.storage.documents import parse_json

LABEL_ENDINGS = ("cls", "class", "label", "json", "txt")  # the first that a sample has is its label
JSON_KEYS = ("label", "cls", "class", "class_name", "target")
LARGEST_LABEL = 1_000_000  # bytes
NOT_READ = " Nothing is read from the network: download it first."
_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")


class TarSource(Source):
    """Webdataset shards; a sample's .cls, .json["label"] or .txt is its label, and -1 in a .cls none.

    Attributes:
        names, labels, splits: one per picture; splits where the shards lie in folders named after them.
        notes: what was left out.
    """

    kind = "tar shards"

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = list(files)
        self.places: list[tuple[int, int, int]] = []  # shard, offset, size
        self.names: list[str] = []
        self.labels: list[str | None] = []
        self.notes: list[str] = []
        self._left_out: dict[str, Counter[str]] = defaultdict(Counter)
        shard_of: list[int] = []
        prefixes = _prefixes(self.files)
        for shard, file in enumerate(self.files):
            before = len(self.names)
            self._index(shard, file, prefixes[shard])
            shard_of += [shard] * (len(self.names) - before)
        sides = [split_name(file.parent.name) for file in self.files]
        self.splits: list[str | None] = [None] * len(self.names)
        if len({*sides}) > 1 and None not in sides:
            self.splits = [sides[shard] for shard in shard_of]
            told = sorted(
                {f"{file.parent.name} as {side}" for file, side in zip(self.files, sides, strict=True)}
            )
            self.notes.append(f"Folders of shards named after splits give the split: {', '.join(told)}.")
        for why, counts in self._left_out.items():
            self.notes.append(f"{counts.total()} {why}: {first(counts)}.")

    def _index(self, shard: int, file: Path, prefix: str) -> None:
        members: dict[str, tarfile.TarInfo] = {}
        labels: dict[str, tuple[int, str | None]] = {}  # by path up to the last dot
        of_samples: dict[str, tuple[int, str | None]] = {}  # by path up to the first dot
        try:
            length = file.stat().st_size
            with tarfile.open(file, "r:") as tar:
                for member in tar:
                    name = member.name.removeprefix("./")
                    base = PurePosixPath(name).name
                    ending = base.rpartition(".")[2].lower() if "." in base else "no ending"
                    if member.isdir() or self._is_companion(name, base):
                        continue
                    if not member.isfile() or member.sparse is not None:
                        self._left_out["members that are links or no plain files were left out"][ending] += 1
                        continue
                    if not 0 <= member.size <= length - member.offset_data:
                        raise tarfile.ReadError(f"{member.name[:80]!r} claims {member.size:,} bytes")
                    if f".{ending}" in SUFFIXES:
                        if name in members:
                            self._left_out["members were replaced by later ones of their name"][ending] += 1
                        members[name] = member
                    elif ending in LABEL_ENDINGS and member.size < LARGEST_LABEL:
                        data = tar.extractfile(member)
                        text = _label(ending, data.read() if data else b"")
                        rank = LABEL_ENDINGS.index(ending)
                        for table, key in ((labels, _stem(name)), (of_samples, _key(name))):
                            if text is not None and (key not in table or rank <= table[key][0]):
                                table[key] = (rank, text[0])
                    else:
                        self._left_out["members that are no pictures or labels were left out"][ending] += 1
                end = tar.offset
            if length - end < tarfile.BLOCKSIZE or any(_block(file, end)):
                self.notes.append(
                    f"{readable_name(file.name)} ends after {len(members)} pictures without the block that closes a "
                    "tar: it may have been cut short."
                )
        except (OSError, tarfile.TarError, ValueError, OverflowError, MemoryError, RecursionError) as error:
            advice = (
                " It is compressed: unpack it first, shards are read in place."
                if _block(file, 0)[:2] == b"\x1f\x8b"
                else ""
            )
            raise DataError(f"{str(file)!r} cannot be read as a tar of pictures: {error}.{advice}") from error
        plain_keys = {_key(name) for name in members if _key(name) == _stem(name)}
        for name, member in members.items():
            key, stem = _key(name), _stem(name)
            if key != stem and key in plain_keys:
                ending = PurePosixPath(name).name.partition(".")[2].lower()
                self._left_out["further pictures of samples that have one were left out"][ending] += 1
                continue
            self.places.append((shard, member.offset_data, member.size))
            self.names.append(prefix + readable_name(name))
            # "001.meta.json" describes "001.jpg", but "img.001.cls" does not describe "img.002.jpg".
            own = labels.get(stem) or labels.get(key) or (of_samples.get(key) if key == stem else None)
            self.labels.append(own[1] if own else None)

    @staticmethod
    def _is_companion(name: str, base: str) -> bool:
        return is_companion(base) or any(part.casefold() in SYSTEM_FOLDERS for part in name.split("/")[:-1])

    def read(self, row: int, draft: int | None = None) -> Image.Image:
        return read_picture(self._bytes(row), draft=draft)

    def _bytes(self, row: int) -> bytes:
        shard, offset, size = self.places[row]
        try:
            with self.files[shard].open("rb") as file:
                file.seek(offset)
                data = file.read(size)
        except OSError as error:
            raise PictureError(f"its shard cannot be read: {error.strerror or error}") from error
        if len(data) != size:
            raise PictureError("its shard has been cut short")
        return data

    def weight(self, row: int) -> int:
        return self.places[row][2]

    def content(self, row: int) -> str:
        shard, offset, size = self.places[row]
        return file_sample(self.files[shard], offset, size)

    def signature(self, row: int) -> str:
        shard, offset, size = self.places[row]
        try:
            changed = self.files[shard].stat().st_mtime_ns
        except OSError:
            return "gone"
        return f"{offset}-{size}-{changed}-{self.content(row)}"


def shards_named(text: str) -> list[Path] | None:
    """Files that a name with braces or wildcards stands for ("data-{000..009}.tar", "data-*.tar"); None for a plain
    name.

    Raises:
        DataError: the name stands for no file, or braces for one that is missing.
    """
    text = os.path.expanduser(text)
    if Path(text).exists():
        return None
    if _BRACES.search(text):
        names = [text]
        while any(_BRACES.search(name) for name in names):
            names = [part for name in names for part in _unfolded(name)]
        missing = [name for name in names if not Path(name).is_file()]
        if missing:
            raise DataError(
                f"{len(missing)} of the {len(names)} shards that {text!r} names do not exist, first {missing[0]!r}."
                f"{NOT_READ if NETWORK.search(text) else ''}"
            )
        return [Path(name) for name in names]
    if any(mark in text for mark in "*?["):
        names = sorted(name for name in glob(text) if not is_companion(Path(name).name))
        if not names:
            raise DataError(f"No file matches {text!r}. Check the path and the pattern.")
        return [Path(name) for name in names]
    return None


def _block(file: Path, offset: int) -> bytes:
    """One block of a tar, shorter or empty where the file ends or cannot be read."""
    try:
        with file.open("rb") as opened:
            opened.seek(offset)
            return opened.read(tarfile.BLOCKSIZE)
    except OSError:
        return b""


def _unfolded(name: str) -> list[str]:
    match = _BRACES.search(name)
    if match is None:
        return [name]
    low, high = match.groups()
    if int(high) < int(low) or int(high) - int(low) > 1_000_000:
        raise DataError(f"{name!r} names no shards: {match[0]} must count upwards, to a million at most.")
    return [
        f"{name[: match.start()]}{number:0{len(low)}d}{name[match.end() :]}"
        for number in range(int(low), int(high) + 1)
    ]


def _prefixes(files: Sequence[Path]) -> list[str]:
    """Prefixes that make names of several shards unique: "" for one shard, else their names, with folders if needed.

    Raises:
        DataError: a shard that is given twice.
    """
    if len(files) == 1:
        return [""]
    paths = [Path(os.path.abspath(file)) for file in files]
    if len(set(paths)) < len(paths):
        twice, _ = Counter(paths).most_common(1)[0]
        raise DataError(f"The shard {str(twice)!r} is given twice; give each once.")
    deepest = max(len(path.parts) for path in paths)
    for parts in range(1, deepest + 1):
        made = ["/".join([*path.parts[-parts:-1], path.stem]) + "/" for path in paths]
        if len(set(made)) == len(made):
            return [readable_name(name).lstrip("/") for name in made]
    return [f"{number}/{path.stem}/" for number, path in enumerate(paths)]


def _key(name: str) -> str:
    folder, _, base = name.rpartition("/")
    return f"{folder}/{base.partition('.')[0]}"


def _stem(name: str) -> str:
    folder, _, base = name.rpartition("/")
    return f"{folder}/{base.rpartition('.')[0]}"


def _label(ending: str, data: bytes) -> tuple[str | None] | None:
    """The label that a member holds, (None,) where it says that there is none, None where it says nothing."""
    if ending != "json":
        text = cell_text(data.decode("utf-8-sig", "replace"))
        return None if text is None else (None if text == "-1" and ending != "txt" else text,)
    try:
        entry: Any = parse_json(data)
    except ValueError:
        return None
    if not isinstance(entry, dict):
        return None
    value = next((entry[key] for key in JSON_KEYS if entry.get(key) is not None), None)
    value = plain(value)
    return None if value is None or isinstance(value, (dict, list)) else (cell_text(value),)
