"""Paths: from the text that a user writes to a path.

Owns "~" for the home folder and "file://". Ignores whether the path exists. Start at `user_path`.
"""

import os
from pathlib import Path
from urllib.parse import unquote, urlparse


def user_path(text: str | os.PathLike[str]) -> Path:
    """The path that a user means: "~" is the home folder, and "file://" is removed. A relative path stays relative.

    >>> user_path("photos/cat.png").as_posix(), user_path("file:///data/my%20photos").as_posix()
    ('photos/cat.png', '/data/my photos')
    """
    written = os.fspath(text)
    if isinstance(written, str) and written.startswith("file://"):
        return Path(unquote(urlparse(written).path))
    path = Path(written)
    try:
        # A folder named "~" can be reached as "./~".
        return path.expanduser()
    except RuntimeError:  # no home folder is known
        return path


def full_path(text: str | os.PathLike[str]) -> Path:
    """`user_path` as an absolute path without "." and "..", so that its last part is the folder's name."""
    return Path(os.path.abspath(user_path(text)))
