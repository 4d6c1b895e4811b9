"""Command line, for long jobs and continuous integration.

Owns exit codes and the display of errors. Computes nothing: every verb calls the functions that notebooks call. Results
go to stdout (with `--json -` only JSON), progress and remarks to stderr. Verbs import heavy modules when they run, so
that `--help` is quick. Start at `main`; the table of verbs is in `verbs.py`.
"""

from __future__ import annotations

import argparse
import errno
import os
import sys
import warnings
from collections.abc import Sequence
from typing import NoReturn

from clipattr.cli.arguments import BAD_INPUT, INTERNAL, INTERRUPTED, OK
from clipattr.cli.parser import parser
from clipattr.cli.terminal import check_target, on_termination, say, show_warning
from clipattr.cli.verbs import RUN
from clipattr.errors import ClipattrError, DataError
from clipattr.execution.engine import is_out_of_memory

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # errors of a disk, or of a share of one, that is full
KEPT = "The same command goes on with an unfinished study, training or audit."


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: arguments without the program's name; default: those of the process.

    Returns:
        The exit status: 0 success, 1 findings above the limit, 2 bad input, 3 prompts that cannot be judged (with a
        limit), 70 internal error, 130 interrupted.
    """
    for name in ("stdout", "stderr"):  # closed by cron, a service or `>&-`
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # replace characters that the terminal cannot show
    try:
        arguments = parser().parse_args(argv)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else BAD_INPUT
    except BrokenPipeError:
        return _reader_gone()
    if arguments.debug:
        return _run(arguments)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = show_warning
            return _run(arguments)
    except KeyboardInterrupt:
        say("interrupted; the same command continues an unfinished study or audit")
        return INTERRUPTED
    except BrokenPipeError:
        return _reader_gone()
    except (ClipattrError, OSError) as error:
        advice = _advice(error)
        say(f"error: {error}{'.' if advice and not str(error).endswith('.') else ''}{advice}")
        return BAD_INPUT
    except Exception as error:
        if is_out_of_memory(error):
            say(f"error: out of memory ({str(error)[:200] or type(error).__name__}). {KEPT}")
            return BAD_INPUT
        say(
            f"internal error of clipattr: {type(error).__name__}: {error}. Run again with --debug and report the output"
        )
        return INTERNAL


def _advice(error: BaseException) -> str:
    """What to do about a full disk, as the end of a message; "" for another error, or where the message says so."""
    cause: BaseException | None = error
    while cause is not None and getattr(cause, "errno", None) not in FULL:
        cause = cause.__cause__
    return "" if cause is None or "make room" in str(error) else f" The disk is full: make room. {KEPT}"


def _reader_gone() -> int:
    """The reader closed the pipe: stop without an error."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return OK


def _run(arguments: argparse.Namespace) -> int:
    written: dict[str, str] = {}
    for name in ("json", "csv", "html", "markdown", "plot", "junit", "sarif", "statement"):
        if hasattr(arguments, name):
            target = check_target(getattr(arguments, name), name)
            if (
                target
                and target != os.devnull
                and (other := written.setdefault(os.path.abspath(target), name)) != name
            ):
                raise DataError(
                    f"--{other} and --{name} name one file, {target}; the second would replace the first."
                )
            setattr(arguments, name, target)
    with on_termination(_interrupt):  # as on Ctrl-C
        status = RUN[arguments.verb](arguments)
    sys.stdout.flush()  # inside the handler of BrokenPipeError
    return status


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt
