"""Documents: JSON from files that anyone may have written, with limits on size and depth.

Owns the reading and its limits. Ignores what the values mean; whoever reads checks them. Start at `read_json`.
"""

import json
import stat
from pathlib import Path
from typing import Any

LARGEST = 256 * 2**20  # bytes of a file; the largest that this package writes itself is a few megabytes


def read_json(path: Path, largest: int = LARGEST) -> Any:
    """What a JSON file holds.

    Raises:
        OSError: it cannot be read. ValueError: not a file of its own, larger than `largest` bytes, not UTF-8, not
            JSON, or nested too deeply. Callers name the file and say what it should have been.
    """
    about = path.stat()
    if not stat.S_ISREG(about.st_mode):
        raise ValueError("it is no plain file")
    if about.st_size > largest:
        raise ValueError(f"it has {about.st_size:,} bytes, at most {largest:,} are read")
    return parse_json(path.read_text(encoding="utf-8"))


def parse_json(text: str | bytes) -> Any:
    """What a JSON text holds; ValueError whatever is wrong with it."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("its values are nested too deeply") from error
