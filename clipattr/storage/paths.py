"""Paths: what users write for a file or folder, as a path.

Owns the home folder's "~" and "file://". Ignores whether something is there. Start at `user_path`.
"""

import os
from pathlib import Path
from urllib.parse import unquote, urlparse


def user_path(text: str | os.PathLike[str]) -> Path:
    """The path that a user means: "~" is the home folder, "file://" is taken off. A relative path stays relative.

    >>> user_path("photos/cat.png").as_posix(), user_path("file:///data/my%20photos").as_posix()
    ('photos/cat.png', '/data/my photos')
    """
    written = os.fspath(text)
    if isinstance(written, str) and written.startswith("file://"):
        return Path(unquote(urlparse(written).path))
    path = Path(written)
    try:
        # A folder that is really called "~" is reached as "./~".
        return path.expanduser()
    except RuntimeError:  # no home folder is known
        return path


def full_path(text: str | os.PathLike[str]) -> Path:
    """The same as an absolute path without "." and "..", so that its name is that of the folder."""
    return Path(os.path.abspath(user_path(text)))
