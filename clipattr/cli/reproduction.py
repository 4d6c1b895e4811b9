"""Reproduction: the verb that tests a published study's claims.

Owns `reproduce`. It computes nothing itself: it calls `ca.reproduce` and prints the verdicts. The table of verbs is in
`verbs.py`. Start at `reproduce`.
"""

from __future__ import annotations

import argparse
import json
import shlex
from typing import Any

from clipattr.cli.arguments import OK, picked
from clipattr.cli.jobs import engine_of
from clipattr.cli.terminal import emit, human, print_table, say
from clipattr.display.wording import visible
from clipattr.errors import DataError
from clipattr.storage.documents import json_text, read_json
from clipattr.storage.paths import user_path

GIVEN = (
    "models", "images", "table", "evaluator", "vocabulary", "prompts", "lesions", "lesions-table", "strata",
)  # fmt: skip


def reproduce(arguments: argparse.Namespace) -> int:
    """Test the claims of a published study."""
    from clipattr.meaning import Vocabulary
    from clipattr.reproduction.run import reproduce as run

    if arguments.quick and arguments.small:
        raise DataError("--quick and --small are two forms: give one of them.")
    prompts = Vocabulary.open(arguments.prompts).words if arguments.prompts else None
    images, lesions = _read(arguments)
    if arguments.plan:
        say("measuring rates on this machine")
    with engine_of(arguments) as engine:
        made = run(
            arguments.protocol,
            images=images,
            prompts=prompts,
            lesions=lesions,
            truth=_truths(arguments.truth),
            form="quick" if arguments.quick else "small" if arguments.small else "paper",
            sizes=dict(arguments.set),
            # A null context gives None: then everything runs here.
            engine=engine,
            progress=not arguments.quiet,
            command=_command(arguments),
            **picked(arguments, "models", "out", "evaluator", "vocabulary", "only", "plan"),
        )
    return _planned(arguments, made) if arguments.plan else _told(arguments, made)


def _command(arguments: argparse.Namespace) -> str:
    """The command that gives the same results; where they are written, and by how many workers, is left out."""
    words = ["clipattr", "reproduce", arguments.protocol]
    for name in GIVEN:
        value = getattr(arguments, name.replace("-", "_"))
        words += [] if value is None else [f"--{name}", str(value)]
    for value in arguments.truth:
        words += ["--truth", value]
    words += [f"--{name}" for name in ("quick", "small") if getattr(arguments, name)]
    for name, value in arguments.set:
        words += ["--set", f"{name}={value}"]
    for name in arguments.only or ():
        words += ["--only", name]
    return shlex.join(words)


def _read(arguments: argparse.Namespace) -> tuple[Any, Any]:
    """The pictures and the lesions, with their tables where such are given."""
    from clipattr.images.tables import open_table
    from clipattr.reproduction.classes import lesion_table

    images, lesions = arguments.images, arguments.lesions
    if arguments.table is not None:
        images = open_table(images, arguments.table)
    if arguments.lesions_table is None and arguments.strata is None:
        return images, lesions
    if lesions is None:
        raise DataError(
            "--lesions-table and --strata go with --lesions: give the folder of lesions, or leave them out."
        )
    return images, lesion_table(lesions, arguments.lesions_table, arguments.strata)


def _truths(given: list[str]) -> Any:
    """Planted reliances: a list for all models, or by model; None without any.

    Raises:
        DataError: a file for all models beside files for single ones; two files for one model.
    """
    if not given:
        return None
    # A path may hold an equals sign, so a file that exists is one.
    named = [("", text) if user_path(text).exists() else text.partition("=")[::2] for text in given]
    names = [name for name, _ in named]
    if len(set(names)) < len(names) or ("" in names and len(names) > 1):
        raise DataError("Give --truth FILE once, or --truth MODEL=FILE once for each model.")
    found = {name: _truth(file) for name, file in named}
    return found.get("", found)


def _truth(file: str) -> list[dict[str, Any]]:
    """A list of planted reliances; DataError unless every entry has a prompt and a cause."""
    try:
        rows = read_json(user_path(file))
        good = isinstance(rows, list) and all({"prompt", "cause"} <= set(row) for row in rows)
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"--truth {file} cannot be read: {error}.") from error
    if not good:
        raise DataError(f"--truth {file} must be a JSON list of objects with prompt and cause (and kind).")
    return [row for row in rows if row.get("learnt", True)]


def _planned(arguments: argparse.Namespace, made: Any) -> int:
    emit(json.dumps(made.to_dict(), indent=2) + "\n", arguments.json)
    out = human(arguments)
    rows = [(row.experiment, str(row.units), span(row.spent.wall), row.assumes) for row in made.rows]
    total = ("all", "", span(made.seconds), "")
    print_table(("experiment", "units", "time", "assumes"), [*rows, total], out, numbers=(1, 2))
    print("\nAssumptions:", file=out)
    for told in made.assumptions:
        print(f"  - {told}", file=out)
    return OK


def span(seconds: float) -> str:
    """A time for people.

    >>> span(0.04), span(43), span(150), span(90_000)
    ('0 s', '43 s', '2.5 min', '25.0 h')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:,.1f} h"


def _told(arguments: argparse.Namespace, made: Any) -> int:
    record = {
        "page": str(made.page),
        "claims": made.frame.to_dict("records"),
        "deviations": list(made.deviations),
    }
    emit(json_text(record, indent=2) + "\n", arguments.json)
    out = human(arguments)
    for result in made.results:
        added = "" if result.experiment.of_paper else " (added)"
        print(f"{result.experiment.title}{added}: {result.conclusion.outcome}", file=out)
        print(f"  {visible(result.conclusion.sentence, 600)}", file=out)
    print(
        f"\n{len(made.deviations)} deviations from the protocol are listed on the page: {made.page}", file=out
    )
    return OK
