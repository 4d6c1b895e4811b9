"""Locks: keep a second process out of a folder while one writes it.

A lock belongs to a process and ends with it, however the process ends. Start at `locked`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from clipattr.errors import ClipattrError


@contextlib.contextmanager
def locked(file: Path, doing: str, error: type[ClipattrError]) -> Iterator[None]:
    """Hold a lock file for the duration of the block, and remove it afterwards.

    Args:
        file: the lock file; its folder is made where it is missing.
        doing: what the holder does, as in "building 'photos.study'".
        error: what is raised.

    Raises:
        error: another process holds the lock; the message gives its number.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.is_dir():
        raise error(f"{str(file)!r} should be a file and is a folder; delete {str(file)!r}.")
    lock = FileLock(file, timeout=0)
    while True:
        file.touch()
        try:
            before = file.stat().st_ino
            lock.acquire()
        except FileNotFoundError:  # its holder removed it in this moment
            continue
        except Timeout as refused:
            raise error(
                f"Another process is {doing} (process {_holder(file)}): wait for it, or choose another path."
            ) from refused
        # The holder before us may have removed the file after we had opened it: such a lock locks nothing.
        with contextlib.suppress(OSError):
            if file.stat().st_ino == before:
                break
        lock.release()
    try:
        with contextlib.suppress(OSError):  # a full disk is reported where it matters
            file.write_text(str(os.getpid()))
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows keeps an open file
            file.unlink()
        lock.release()


def _holder(file: Path) -> str:
    with contextlib.suppress(OSError, ValueError):
        return str(int(file.read_text()[:20]))
    return "unknown"
