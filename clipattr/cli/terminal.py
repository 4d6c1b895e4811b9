"""Terminal: tables that fit, remarks on stderr, and files that are written whole or not at all.

Owns how the command line puts things out. Ignores what they mean. Start at `print_table`.
"""

import argparse
import json
import os
import re
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TextIO

from clipattr.display.wording import visible
from clipattr.errors import DataError
from clipattr.storage.files import write_text

WIDTH = 100  # columns a table may take


def print_table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], out: Any, *, numbers: Iterable[int] = ()
) -> None:
    """Columns as wide as needed; where they go beyond `WIDTH`, the widest texts are cut until they fit."""
    right = set(numbers)
    widths = [max(_columns(row[i]) for row in (columns, *rows)) for i in range(len(columns))]
    while sum(widths) + 2 * (len(widths) - 1) > WIDTH:
        widest = max((i for i in range(len(widths)) if i not in right), key=widths.__getitem__)
        widths[widest] -= 1
    for number, row in enumerate((columns, *rows)):
        cells = [_fitted(text, widths[i], i in right) for i, text in enumerate(row)]
        print("  ".join(cells).rstrip(), file=out)
        if number == 0:
            print("  ".join("─" * width for width in widths), file=out)


def _columns(text: str) -> int:
    """Columns a text takes on a terminal."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text
    )


def _fitted(text: str, width: int, right: bool) -> str:
    if _columns(text) > width:
        while _columns(text) > width - 1:
            text = text[:-1]
        text += "…"
    gap = " " * (width - _columns(text))
    return gap + text if right else text + gap


def write(text: str, target: str) -> None:
    """Write a file whole or not at all."""
    path = Path(target)
    if path.exists() and not path.is_file():  # /dev/null, a pipe: written to, never replaced
        path.write_text(text, encoding="utf-8")
        return
    write_text(path, text)


def emit(text: str, target: str | None) -> None:
    """Put JSON where it was asked for: a file, stdout for "-", or nowhere."""
    if target == "-":
        encoding = (
            (getattr(sys.stdout, "encoding", None) or "utf-8").lower().replace("-", "").replace("_", "")
        )
        sys.stdout.write(text if encoding == "utf8" else escaped(text))
        sys.stdout.flush()
    elif target:
        write(text, target)


def escaped(text: str) -> str:
    """JSON in ASCII alone, which every terminal shows as it is; what it says stays the same.

    >>> escaped('{"prompt": "caf\u00e9"}')
    '{"prompt": "caf\\\\u00e9"}'
    """
    return re.sub(r"[^\x00-\x7f]", lambda found: json.dumps(found[0])[1:-1], text)


def tell(notes: Iterable[str]) -> None:
    """Notes on stderr, each shortened to what a terminal shows."""
    for note in notes:
        say(f"note: {visible(note, 600)}")


def check_target(target: str | None, option: str) -> None:
    """Refuse a place that cannot be written to before hours of work, not after."""
    if target is None or target == "-":
        if target == "-" and option != "json":
            raise DataError(f"--{option} - : only --json can be written to stdout; name a file.")
        return
    path = Path(target)
    if path.is_dir():
        raise DataError(f"--{option} {target}: this is a folder; name a file in it.")
    if not path.parent.is_dir():
        raise DataError(
            f"--{option} {target}: the folder {str(path.parent)!r} does not exist; create it first."
        )
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise DataError(f"--{option} {target}: this place is not writable.")


def human(arguments: argparse.Namespace) -> TextIO:
    """Where text for people goes: stdout, unless JSON has it."""
    return sys.stderr if arguments.json == "-" else sys.stdout


def say(text: str) -> None:
    print(f"clipattr: {text}", file=sys.stderr)


def show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    say(f"warning: {message}")
