"""Arguments: types of option values, options that several verbs share, and exit codes.

Owns the checks of values, which run before anything is loaded. Ignores the verbs (`verbs.py`). Start at `Argument`.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

OK, ABOVE_LIMIT, BAD_INPUT, NOT_JUDGED, INTERNAL, INTERRUPTED = 0, 1, 2, 3, 70, 130
EXITS = (
    "exit: 0 success, 1 above --fail-above, 2 bad input, 3 cannot be judged,\n      70 bug, 130 interrupted"
)
DEMO_STUDY = "picture-world"
DEMO_REPORT = "clipattr-demo.html"
SHELLS = ("bash", "zsh", "tcsh")
FILES = ("FILE", "OUT", "FINDINGS", "PICTURE", "IMAGES")  # metavars that a shell completes with files
FOLDERS = ("DIR", "STUDY", "STORE")


@dataclass(frozen=True)
class Argument:
    """One argument of a verb: its names, and keyword arguments of `argparse`'s `add_argument`."""

    names: tuple[str, ...]
    options: Mapping[str, Any]


def argument(*names: str, **options: Any) -> Argument:
    """Make an `Argument`; takes the same arguments as `add_argument`.

    >>> argument("--top", metavar="N").names
    ('--top',)
    """
    return Argument(names, options)


def picked(arguments: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Options by their names, to hand on as keyword arguments."""
    return {name: getattr(arguments, name) for name in names}


def _number(text: str, kind: type) -> Any:
    try:
        return kind(text)
    except ValueError:
        told = "a whole number" if kind is int else "a number"
        raise argparse.ArgumentTypeError(f"must be {told}; got {text!r}") from None


def port(text: str) -> int:
    number: int = _number(text, int)
    if not 1 <= number <= 65_535:
        raise argparse.ArgumentTypeError(f"a port is a number from 1 to 65535; got {text}")
    return number


def whole(text: str) -> int:
    number: int = _number(text, int)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more; got {text}")
    return number


def points(text: str) -> float:
    number: float = _number(text, float)
    if not math.isfinite(number) or number < 0:
        raise argparse.ArgumentTypeError(f"points (cosine × 100) are 0 or more; got {text}")
    return number


def share(text: str) -> float:
    number: float = _number(text, float)
    if not 0 < number < 1:
        raise argparse.ArgumentTypeError(f"must lie between 0 and 1; got {text}")
    return number


def setting(text: str) -> tuple[str, Any]:
    """Parse NAME=VALUE; the value is parsed as JSON if possible (numbers, true, null), else it is a text.

    >>> setting("k=64"), setting("normalize=layer_norm")
    (('k', 64), ('normalize', 'layer_norm'))
    """
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"settings look like k=64; got {text!r}")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


MODEL_HELP = (
    "NAME:PRETRAINED, NAME:FILE.pt (or FILE.pt@TAG), local-dir:PATH, hf-hub:ID, hf:ORG/NAME (transformers), or a "
    "bundled name"
)
MODEL = argument("model", metavar="MODEL", help=MODEL_HELP)
IMAGES = argument(
    "images", metavar="IMAGES", help="folder, table (.csv with a column path), .tar, or scenes:FILE"
)
STUDY = argument("study", metavar="STUDY", help="folder of a study, or a bundled name")
PROMPT = argument("--prompt", metavar="TEXT", action="append", help="one prompt; may be repeated")
BATCH = argument(
    "--batch", metavar="N", type=whole, default=64, help="pictures per forward pass (default: %(default)s)"
)
# Where the parts of a study are now, if they moved since it was built.
MOVED = (
    argument("--model", metavar="MODEL", help="where the audited model is now; its weights must be the same"),
    argument("--evaluator", metavar="MODEL", help="where the evaluator is now"),
    argument("--images", metavar="IMAGES", help="where the pictures are now"),
)
# Options for the engine of a verb.
ENGINE = (
    argument("--ray", metavar="N", type=whole, help="use N Ray workers; needs clipattr[scale]"),
    argument("--ray-address", metavar="ADDRESS", help="address of a running Ray cluster; auto for this machine's "
             "(default: a new one)"),
    argument("--threads", metavar="N", type=whole, help="threads of this process, or of each worker (default of a "
             "worker: 1); the same number gives the same bytes"),
)  # fmt: skip


def prompts_from(default: str) -> Argument:
    """--prompts FILE; `default`: the prompts without this option."""
    return argument(
        "--prompts",
        metavar="FILE",
        help=f"one prompt per line, or a table with a column word (default: {default})",
    )


def out(what: str) -> Argument:
    """--out DIR."""
    return argument("--out", metavar="DIR", required=True, help=f"folder of the {what}")
