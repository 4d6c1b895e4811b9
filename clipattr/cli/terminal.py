"""Terminal: tables that fit the width, remarks on stderr, and atomically written files.

Owns the output of the command line. Ignores its meaning. Start at `print_table`.
"""

import argparse
import contextlib
import json
import os
import re
import signal
import sys
import threading
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from clipattr.cli.arguments import OK
from clipattr.display.wording import visible
from clipattr.errors import DataError
from clipattr.storage.documents import json_text
from clipattr.storage.files import write_text
from clipattr.storage.paths import user_path

WIDTH = 100  # most columns of a table


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[Any]], out: Any, *, numbers: Iterable[int] = ()
) -> None:
    """Print a table; if it is wider than `WIDTH`, the widest text columns are cut until it fits."""
    right = set(numbers)
    rows = [
        [
            cell if isinstance(cell, str) else "–" if cell is None or cell != cell else str(cell)
            for cell in row
        ]
        for row in rows
    ]
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
    """Number of terminal columns of a text."""
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
    """Write a file atomically; DataError if that fails."""
    path = Path(target)
    if path.exists() and not path.is_file():  # /dev/null or a pipe must not be replaced
        path.write_text(text, encoding="utf-8")
        return
    try:
        write_text(path, text)
    except OSError as error:
        raise DataError(f"{target} could not be written ({error}).") from error


def emit(text: str, target: str | None) -> None:
    """Write JSON to the requested target: a file, stdout for "-", or nowhere for None."""
    if target == "-":
        encoding = (
            (getattr(sys.stdout, "encoding", None) or "utf-8").lower().replace("-", "").replace("_", "")
        )
        sys.stdout.write(text if encoding == "utf8" else escaped(text))
        sys.stdout.flush()
    elif target:
        write(text, target)


def answer(arguments: argparse.Namespace, record: Any, text: str) -> int:
    """Write a verb's record as JSON, if asked for, and its text for people; 0, the status of success."""
    emit(json_text(record, indent=2) + "\n", arguments.json)
    print(text, file=human(arguments))
    return OK


def escaped(text: str) -> str:
    """Equivalent JSON in ASCII, which every terminal can show.

    >>> escaped('{"prompt": "caf\u00e9"}')
    '{"prompt": "caf\\\\u00e9"}'
    """
    return re.sub(r"[^\x00-\x7f]", lambda found: json.dumps(found[0])[1:-1], text)


def tell(notes: Iterable[str]) -> None:
    """Print notes to stderr, each shortened."""
    for note in notes:
        say(f"note: {visible(note, 600)}")


def check_target(target: str | None, option: str) -> str | None:
    """The output path with "~" as the home folder; refuses one that cannot be written before the work starts."""
    if target is None or target == "-":
        if target == "-" and option != "json":
            raise DataError(f"--{option} - : only --json can be written to stdout; name a file.")
        return target
    path = user_path(target)
    if path.is_dir():
        raise DataError(f"--{option} {target}: this is a folder; name a file in it.")
    if not path.parent.is_dir():
        raise DataError(
            f"--{option} {target}: the folder {str(path.parent)!r} does not exist; create it first."
        )
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise DataError(f"--{option} {target}: this folder is not writable; choose another.")
    if option == "plot" and path.suffix:
        from matplotlib.backend_bases import FigureCanvasBase

        known = sorted(FigureCanvasBase.get_supported_filetypes())
        if path.suffix[1:].lower() not in known:
            raise DataError(
                f"--plot {target}: no picture format; the ending must be one of {', '.join(known)}."
            )
    return str(path)


@contextlib.contextmanager
def on_termination(end: Callable[[int, Any], Any]) -> Iterator[None]:
    """Call `end` on SIGTERM, which schedulers and `kill` send; only the main thread can receive it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def human(arguments: argparse.Namespace) -> TextIO:
    """The stream for readable text: stdout, or stderr if stdout has the JSON."""
    return sys.stderr if arguments.json == "-" else sys.stdout


def say(text: str) -> None:
    print(f"clipattr: {text}", file=sys.stderr)


def show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    say(f"warning: {message}")
