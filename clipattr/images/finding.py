"""Finding files: from the name of a picture in a table to its file.

Owns spellings: slashes and backslashes, case, Unicode normal forms, "./", "~", "file://", a missing ending, and a bare
name of a file in a folder below. Ignores what is in the files. Start at `FileFinder`.
"""

import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlparse

from clipattr.errors import DataError
from clipattr.images.decoding import SUFFIXES
from clipattr.images.folders import walk

SHOWN = 3  # files in a message


class FileFinder:
    """Finds the files that names in a table stand for.

    The name as it stands is tried first, then its other spellings, then pictures of that file name at any depth below
    the root.

    Args:
        root: the folder that relative names start from.
        inside: nothing outside the root is found.
        deep: look for bare names at any depth.

    Attributes:
        respelled: names that were found in another spelling only.
    """

    def __init__(self, root: Path, *, inside: bool = False, deep: bool = True) -> None:
        self.root = root
        self.inside = inside
        self.deep = deep
        self.respelled: list[str] = []
        self._listings: dict[str, dict[str, list[str]]] = {}
        self._index: dict[str, list[Path]] | None = None

    def find(self, name: str | os.PathLike[str]) -> Path | None:
        """The file that a name stands for, None where there is none.

        Raises:
            DataError: several different files are called so.
        """
        text = os.fspath(name)
        if not text or "\0" in text:
            return None
        for number, spelling in enumerate(_spellings(text)):
            path = self._exact(spelling)
            if path is not None:
                return self._said(text, path, number > 0)
        for spelling in _spellings(text):
            path = self._alike(spelling)
            if path is not None:
                return self._said(text, path, True)
        return self._below(text) if self.deep else None

    @property
    def notes(self) -> list[str]:
        """How many names were found in another spelling, with an example."""
        if not self.respelled:
            return []
        return [
            f"{len(self.respelled)} names of files were found in another spelling (slashes, case, normal form or "
            f"ending), first {self.respelled[0]!r}."
        ]

    def _said(self, text: str, path: Path, other: bool) -> Path:
        if other:
            self.respelled.append(text)
        return path

    def _exact(self, spelling: str) -> Path | None:
        path = self.root / spelling
        if self.inside and not self._is_inside(spelling):
            return None
        try:
            return path if path.is_file() else None
        except (OSError, ValueError):
            return None

    @staticmethod
    def _is_inside(spelling: str) -> bool:
        return not os.path.isabs(spelling) and ".." not in spelling.replace("\\", "/").split("/")

    def _alike(self, spelling: str) -> Path | None:
        """The file whose name equals the spelling but for case, normal form and, where it has none, its ending."""
        if self.inside and not self._is_inside(spelling):
            return None
        path = self.root / spelling
        parts = path.parts
        start = len(self.root.parts) if parts[: len(self.root.parts)] == self.root.parts else 1
        here = Path(*parts[:start]) if start else Path(".")
        for place, part in enumerate(parts[start:], start):
            if part == "..":
                here = here / part
                continue
            listing = self._listing(str(here))
            names = listing.get(_folded(part), [])
            last = place == len(parts) - 1
            if last and not names and Path(part).suffix.lower() not in SUFFIXES:
                names = listing.get(_folded(part) + "\0", [])
            if len(names) != 1:
                if part in names:
                    names = [part]
                else:
                    return None
            here = here / names[0]
        return here if here.is_file() else None

    def _listing(self, folder: str) -> dict[str, list[str]]:
        """Names in a folder by their folded form; those of pictures also without ending, marked by a zero."""
        if folder not in self._listings:
            found: dict[str, list[str]] = defaultdict(list)
            try:
                for entry in os.scandir(folder):
                    found[_folded(entry.name)].append(entry.name)
                    stem, suffix = os.path.splitext(entry.name)
                    if suffix.lower() in SUFFIXES and not entry.name.startswith("."):
                        found[_folded(stem) + "\0"].append(entry.name)
            except OSError:
                pass
            self._listings[folder] = dict(found)
        return self._listings[folder]

    def _below(self, text: str) -> Path | None:
        if self._index is None:
            index: dict[str, list[Path]] = defaultdict(list)
            for name, path in walk(self.root).pictures:
                for key in {_folded(name), _folded(path.name), _folded(path.stem)}:
                    index[key].append(path)
            self._index = dict(index)
        plain = text.replace("\\", "/").removeprefix("./")
        files = self._index.get(_folded(plain), [])
        if len(files) > 1:
            exact = [path for path in files if plain in (path.name, path.stem)]
            files = exact or files
        if len({path.stat().st_size for path in files}) > 1:
            raise DataError(
                f"{len(files)} different files below {str(self.root)!r} are called {text!r}: "
                f"{', '.join(str(path.relative_to(self.root)) for path in files[:SHOWN])}. Keep one, or name paths."
            )
        return files[0] if files else None


def clean_name(text: str) -> str:
    """A name of a file as it is shown: slashes, no "./" in front.

    >>> clean_name("./sub\\\\photo.png")
    'sub/photo.png'
    """
    slashed = text.replace("\\", "/") if "\\" in text and "/" not in text.replace("./", "") else text
    while slashed.startswith("./") and len(slashed) > 2:
        slashed = slashed[2:]
    return slashed


def _spellings(text: str) -> Iterator[str]:
    """The name as it stands, then each other way to write it, without repetition."""
    seen = {text}
    yield text
    base = [text]
    if text.startswith("file:"):
        base.append(unquote(urlparse(text).path))
    if text.startswith("~"):
        base.append(os.path.expanduser(text))
    base += [one.replace("\\", "/") for one in base if "\\" in one]
    base += [one.strip() for one in base if one != one.strip()]
    for one in base:
        for form in (one, unicodedata.normalize("NFC", one), unicodedata.normalize("NFD", one)):
            if form not in seen:
                seen.add(form)
                yield form


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
