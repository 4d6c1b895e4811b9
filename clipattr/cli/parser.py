"""Parser: an argparse parser made from the table of verbs.

Owns the program's own options, the layout of help, and shell completion. Ignores the verbs and their functions
(`verbs.py`). Start at `parser`.
"""

from __future__ import annotations

import argparse
from typing import Any, NoReturn

from clipattr import __version__
from clipattr.cli.arguments import BAD_INPUT, EXITS, FILES, FOLDERS, OK, SHELLS, Argument
from clipattr.cli.verbs import VERBS, Verb


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Print one line and a pointer to --help instead of the whole usage."""
        self.exit(BAD_INPUT, f"{self.prog}: error: {message}\n  see {self.prog} --help\n")


class _Overview(argparse.RawDescriptionHelpFormatter):
    """Help of the program without a heading line above the verbs, so that it fits a screen."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=22)

    def _format_action(self, action: argparse.Action) -> str:
        text = super()._format_action(action)
        return text.partition("\n")[2] if isinstance(action, argparse._SubParsersAction) else text


class _Completion(argparse.Action):
    """Print the script with which a shell completes verbs, options and file names, and exit."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: Any = None
    ) -> NoReturn:
        import shtab

        _tell_files(parser, shtab.FILE, shtab.DIRECTORY)
        print(shtab.complete(parser, shell=values))
        parser.exit(OK)


def _tell_files(parser: argparse.ArgumentParser, file: Any, folder: Any) -> None:
    """Mark every argument of all verbs whose metavar means a file or a folder."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for verb in action.choices.values():
                _tell_files(verb, file, folder)
        elif action.metavar in FILES:
            action.complete = file  # type: ignore[attr-defined]
        elif action.metavar in FOLDERS:
            action.complete = folder  # type: ignore[attr-defined]


def parser() -> argparse.ArgumentParser:
    """The parser of `clipattr VERB …`; its namespace has `verb`, the verb's name."""
    common = _Parser(add_help=False)
    common.add_argument(
        "--json", metavar="OUT", help="write the result as JSON; - prints only the JSON to stdout"
    )
    common.add_argument("--quiet", action="store_true", help="no progress")
    common.add_argument("--debug", action="store_true", help="show the traceback of an error")
    main = _Parser(
        prog="clipattr",
        description="Find what a CLIP model's scores rely on, and which reliances are unexpected.",
        usage="clipattr [--version] [--completion SHELL] VERB [options] ...",
        epilog=EXITS,
        formatter_class=_Overview,
        add_help=False,
    )
    # Hidden, so that the overview fits 30 lines.
    main.add_argument("-h", "--help", action="help", help=argparse.SUPPRESS)
    main.add_argument(
        "--version", action="version", version=f"clipattr {__version__}", help=argparse.SUPPRESS
    )
    main.add_argument(
        "--completion",
        metavar="SHELL",
        choices=SHELLS,
        action=_Completion,
        help="print its completion script: " + ", ".join(SHELLS),
    )
    verbs = main.add_subparsers(
        title="verbs (clipattr VERB --help has an example of each)",
        prog="clipattr",
        metavar="VERB [options]",
        dest="verb",
        required=True,
        parser_class=_Parser,
    )
    for verb in VERBS:
        _add(verbs, verb, common)
    return main


def _add(verbs: Any, verb: Verb, common: argparse.ArgumentParser) -> None:
    made = verbs.add_parser(
        verb.name,
        help=verb.about,
        description=verb.about[0].upper() + verb.about[1:] + ".",
        epilog=f"example:\n  {verb.example}\n\n{EXITS}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[common],
    )
    made.set_defaults(verb=verb.name)
    for entry in verb.arguments:
        if isinstance(entry, Argument):
            made.add_argument(*entry.names, **entry.options)
        else:
            group = made.add_mutually_exclusive_group()
            for one in entry:
                group.add_argument(*one.names, **one.options)
