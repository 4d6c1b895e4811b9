"""Paths: from the text that a user writes to a path.

Owns "~" for the home folder and "file://". Ignores whether the path exists. Start at `user_path`.
"""

import os
from pathlib import Path
from urllib.parse import unquote, urlparse

from clipattr.errors import DataError

LONGEST_NAME = 255  # bytes of one part of a path, in every usual file system


def user_path(text: str | os.PathLike[str]) -> Path:
    """The path that a user means: "~" is the home folder, and "file://" is removed. A relative path stays relative.

    Raises:
        DataError: no text and no path, an empty text (which would mean the current folder), or a part that is longer
            than a name can be.

    >>> user_path("photos/cat.png").as_posix(), user_path("file:///data/my%20photos").as_posix()
    ('photos/cat.png', '/data/my photos')
    """
    if not isinstance(text, (str, os.PathLike)) or isinstance(written := os.fspath(text), bytes):
        raise DataError(f"A path is a text or a pathlib.Path; got {type(text).__name__} {text!r:.80}.")
    if not written.strip():
        raise DataError(
            f"The path given is empty ({written!r}). Name the file or folder; '.' is the current folder."
        )
    if written.startswith("file://"):
        return Path(unquote(urlparse(written).path))
    if len(written) > LONGEST_NAME and any(
        len(os.fsencode(part)) > LONGEST_NAME for part in written.split("/")
    ):
        raise DataError(f"No file can have a name of {len(written):,} characters: {written[:60]!r}…")
    path = Path(written)
    try:
        # A folder named "~" can be reached as "./~".
        return path.expanduser()
    except RuntimeError:  # no home folder is known
        return path


def full_path(text: str | os.PathLike[str]) -> Path:
    """`user_path` as an absolute path without "." and "..", so that its last part is the folder's name."""
    return Path(os.path.abspath(user_path(text)))
