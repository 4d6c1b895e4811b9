"""Locks: prevent two processes from writing one folder.

The operating system releases a lock when its process ends, however the process ends. Start at `locked`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from clipattr.errors import ClipattrError

NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # network file systems mounted without locks


@contextlib.contextmanager
def locked(file: Path, doing: str, error: type[ClipattrError]) -> Iterator[None]:
    """Hold a lock file while the block runs, and remove it afterwards.

    Args:
        file: the lock file; its folder is created if it is missing.
        doing: activity of the holder for the message, e.g. "building 'photos.study'".
        error: class of the error.

    Raises:
        error: another process holds the lock; the message gives its process number.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    except OSError as refused:
        if not file.is_dir():
            raise error(f"{str(file)!r} could not be written ({refused}).") from refused
    if file.is_dir():
        raise error(f"{str(file)!r} should be a file and is a folder; delete {str(file)!r}.")
    lock = FileLock(file, timeout=0)
    while True:
        file.touch()
        try:
            before = file.stat().st_ino
            lock.acquire()
        except FileNotFoundError:  # its holder removed it between the two calls
            continue
        except Timeout as refused:
            raise error(
                f"Another process is {doing} (process {_holder(file)}): wait for it, or choose another path."
            ) from refused
        except (NotImplementedError, OSError) as refused:
            if isinstance(refused, OSError) and refused.errno not in NO_LOCKS:
                raise error(f"{str(file)!r} could not be locked ({refused}).") from refused
            warnings.warn(
                f"The file system of {str(file.parent)!r} has no locks ({refused}): nothing stops a second process "
                f"from {doing} at the same time. Run one only.",
                stacklevel=4,
            )
            break
        # The previous holder may have removed the file after we opened it; such a lock protects nothing.
        with contextlib.suppress(OSError):
            if file.stat().st_ino == before:
                break
        lock.release()
    try:
        with contextlib.suppress(OSError):  # a full disk is reported by the caller's own writes
            file.write_text(str(os.getpid()))
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows cannot remove an open file
            file.unlink()
        lock.release()


def _holder(file: Path) -> str:
    with contextlib.suppress(OSError, ValueError):
        return str(int(file.read_text()[:20]))
    return "unknown"
