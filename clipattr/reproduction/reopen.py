"""Reopen: a finished reproduction from the files in its folder.

Owns reading them back. Verdicts, tables and figures are computed again from the measured values, so they are those of
this version. Start at `reopened`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clipattr.errors import DataError
from clipattr.reproduction.run import Reproduction, Result, result_of
from clipattr.storage.documents import read_json, write_json


def reopened(folder: Path) -> tuple[Reproduction, dict[str, Any]]:
    """A reproduction from its `about.json` and `experiments/*.json`, and what `about.json` holds.

    Raises:
        DataError: no such files, or damaged ones.
    """
    from clipattr.reproduction.experiments import EXPERIMENTS

    try:
        about = read_json(folder / "about.json")
        found: list[Result] = []
        for experiment in EXPERIMENTS:
            file = folder / "experiments" / f"{experiment.name}.json"
            if file.exists():
                found.append(result_of(experiment, read_json(file)["values"]))
        return Reproduction(folder, tuple(found), tuple(about["deviations"])), about
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{str(folder)!r} holds no finished reproduction: {error}.") from error


def pack(folder: Path, out: Path) -> None:
    """Copy what `reopened` needs, without the tables and figures that it computes again."""
    made, about = reopened(folder)
    for result in made.results:
        name = f"{result.experiment.name}.json"
        (out / "experiments").mkdir(parents=True, exist_ok=True)
        values = read_json(folder / "experiments" / name)["values"]
        write_json(out / "experiments" / name, {"values": values}, indent=None)
    write_json(out / "about.json", about)
