"""Pages that are derived: the reference, the command line, the course of notebooks.

Owns three folders that nobody edits (`reference/`, `course/`, `cli/`, ignored by git). Files are written only where
they change, so that a second build is quick. Start at `write`.
"""

import argparse
import importlib
import json
import os
from pathlib import Path
from typing import Any

import clipattr
from clipattr.cli.parser import parser

ROOT = Path(__file__).parents[1]
REPRODUCTION = "_static/reproduction/index.html"

# Room of the reference, its heading. Rooms that are not listed come last, under their own name.
ROOMS = {
    "models": "Models",
    "sites": "Sites",
    "images": "Pictures and their tables",
    "storage": "Activations on disk",
    "execution": "Several machines",
    "dictionaries": "Parts: dictionaries",
    "attribution": "Reliance: attribution",
    "meaning": "Meaning: examples, labels, scores",
    "studies": "Studies, cards, plans, presets",
    "discovery": "Surprise: audits and repair",
    "reporting": "Panels and reports",
    "reproduction": "Reproducing a published study",
    "errors": "Errors",
}


def write(folder: Path) -> None:
    """Write all derived pages below the folder of the sources."""
    made = {
        **reference(),
        **towers(),
        **verification(),
        **estimate(),
        **command_line(),
        **course(),
        **reproduction(),
    }
    for name, text in made.items():
        put(folder / name, text)
    for kind in ("reference", "cli", "course"):
        for file in (folder / kind).rglob("*"):
            if file.is_file() and file.relative_to(folder).as_posix() not in made:
                file.unlink()


def put(file: Path, text: str) -> None:
    if not file.exists() or file.read_text("utf-8") != text:
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_name(file.name + ".part")
        part.write_text(text, "utf-8")
        os.replace(part, file)


def reference() -> dict[str, str]:
    """One page per room with every public name, and a page that lists them."""
    rooms: dict[str, list[str]] = {}
    for name, module in clipattr.CONTENTS.items():
        rooms.setdefault(module.split(".")[0], []).append(name)
    order = sorted(rooms, key=lambda room: (list(ROOMS).index(room) if room in ROOMS else len(ROOMS), room))
    pages = {f"reference/{room}.rst": page(room, rooms[room]) for room in order}
    listed = "\n".join(f"   {room}" for room in [*order, "towers", "pixels", "reproduction_estimate"])
    pages["reference/index.rst"] = (
        "Reference\n=========\n\nEvery public name of ``import clipattr as ca``, from the docstrings. "
        f"Names are imported on first use.\n\n.. toctree::\n   :maxdepth: 2\n\n{listed}\n"
    )
    return pages


def towers() -> dict[str, str]:
    """What was measured for every architecture of open_clip, from the benchmark's own file."""
    file = ROOT / "benchmarks" / "results" / "towers.json"
    text = "# Every tower\n\n"
    if not file.exists():
        return {
            "reference/towers.md": text + "`python benchmarks/towers.py` writes the numbers of this page.\n"
        }
    found = json.loads(file.read_text("utf-8"))
    figures, versions = found["figures"], found["versions"]
    text += (
        f"All {figures['configs']} architectures of open_clip {versions['open_clip_torch']}, built at reduced depth "
        f"with random weights: {figures['audited']} are audited, {figures['attributed']} are attributed inside the "
        f"tower, and {figures['closed_form_inside']} have a closed form there. Exact ablation in closed form differs "
        f"from replacing the activation and encoding again by at most {figures['largest_error']:.1g}.\n\n"
        "| architecture | tower | pooling | closed form at | audited at | largest error |\n|---|---|---|---|---|---|\n"
    )
    for row in found["rows"]:
        if "failed" in row:
            text += f"| {row['name']} | failed: {row['failed']} | | | | |\n"
            continue
        places = ", ".join(f"`{place}`" for place in row["closed_form"])
        text += (
            f"| {row['name']} | {row['tower']} | {row['pooling']} | {places} | `{row['audited']}` | "
            f"{row['ablation_error']:.1g} |\n"
        )
    return {"reference/towers.md": text}


def verification() -> dict[str, str]:
    """How often verdicts by editing pictures agree with exact truth, from the benchmark's own file."""
    file = ROOT / "benchmarks" / "results" / "pixels.json"
    text = "# Verdicts in pixels against exact truth\n\n"
    if not file.exists():
        return {
            "reference/pixels.md": text + "`python benchmarks/pixels.py` writes the numbers of this page.\n"
        }
    found = json.loads(file.read_text("utf-8"))
    figures = found["figures"]
    worlds = ", ".join(sorted({row["world"] for row in found["rows"]}))
    text += (
        f"Findings verified in pictures of worlds on which no choice was made ({worlds}), against pictures drawn "
        "without the cause. *Agreement*: share of the testable findings whose verdict is right. *Testable*: share of "
        "the true findings with a verdict. *False confirmed*: share of findings that were planted false and were "
        f"confirmed. {_correlations(figures)}\n\n"
        "| findings | true | false | agreement | testable | false confirmed |\n|---|---|---|---|---|---|\n"
    )
    kinds = sorted({row["kind"] for row in found["rows"]})
    groups = [("all", "", ""), ("on photographs", "photos_", "")] + [(kind, "", f"_{kind}") for kind in kinds]
    for name, before, after in groups:
        row = {key: figures.get(before + key + after, float("nan")) for key in
               ("findings", "true", "agreement", "testable", "false_confirmed")}  # fmt: skip
        shares = (f"{row[key]:.0%}" if row[key] == row[key] else "" for key in list(row)[2:])
        text += (
            f"| {name} | {row['true']:.0f} | {row['findings'] - row['true']:.0f} | {' | '.join(shares)} |\n"
        )
    return {"reference/pixels.md": text + _rounds(found)}


def _correlations(figures: dict[str, float]) -> str:
    """The rank correlations of measured and exact effects, in a sentence."""
    if "removal_correlation" not in figures:  # a round that knew the effect of leaving out only
        return (
            "Rank correlation of the transplant's effect with the exact effect of leaving the cause out: "
            f"{figures['transplant_correlation']:.2f}."
        )
    return (
        "Rank correlation of the transplant's effect with the exact one, of drawing the cause into pictures that show "
        f"neither it nor the prompt: {figures['transplant_correlation']:.2f}; of the removal's effect with that of "
        f"leaving the cause out: {figures['removal_correlation']:.2f}."
    )


def _rounds(found: dict[str, Any]) -> str:
    """The figures of every round of a result, as a table."""
    if not found.get("rounds"):
        return ""
    names = ("findings", "agreement", "testable", "false_confirmed", "transplant_correlation")
    lines = [
        "",
        "## Rounds",
        "",
        "| round | findings | agreement | testable | false confirmed | rank correlation |",
    ]
    lines.append("|---|---|---|---|---|---|")
    for one in found["rounds"]:
        count, *shares, correlation = (one["figures"].get(name, float("nan")) for name in names)
        told = " | ".join(f"{share:.0%}" for share in shares)
        lines.append(f"| {one['title']} | {count:.0f} | {told} | {correlation:.2f} |")
    return "\n".join(lines) + "\n"


def estimate() -> dict[str, str]:
    """What a reproduction took beside its plan, from the benchmark's own file."""
    name = "reference/reproduction_estimate.md"
    file = ROOT / "benchmarks" / "results" / "reproduction.json"
    text = "# Planned and measured times of a reproduction\n\n"
    if not file.exists():
        return {name: text + "`python benchmarks/reproduction.py` writes the numbers of this page.\n"}
    found = json.loads(file.read_text("utf-8"))
    figures, rows = found["figures"], found["rows"]
    cases = list(dict.fromkeys(row["case"] for row in rows))
    totals = ", ".join(f"{figures[f'measured_over_planned_{case}']:.2f} ({case})" for case in cases)
    shares = ", ".join(f"{figures[f'pilot_share_{case}']:.0%} ({case})" for case in cases)
    text += (
        "Seconds of processor time of each experiment in the quick form, planned by `clipattr reproduce --plan` and "
        "measured, once each, on two cores on which other programs ran. The plan's constants were chosen on the case "
        f"`{cases[0]}`. Measured over planned, in total: {totals}. Of the single experiments of the other cases "
        f"{figures['experiments_within_1.5']:.0%} lie within a factor of 1.5 and "
        f"{figures['experiments_within_2']:.0%} within 2; those within 1.5 are {figures['time_within_1.5']:.0%} of the "
        "time. By the wall clock, corrected by the pace of the experiments before it, "
        f"{figures['updated_within_1.5']:.0%} lie within 1.5. The pilot took {shares} of the run's processor time. "
        "`truth` and `pixels` depend on the number of findings, which no pilot knows. "
        f"A small reproduction that was killed at {figures['kills']} random moments "
        f"ended with {figures['files_that_differ']} files that differ from an undisturbed run.\n\n"
        "| pictures | experiment | units | planned | measured | measured / planned |\n|---|---|---|---|---|---|\n"
    )
    for row in rows:
        ratio = row["processor_measured_over_planned"]
        text += (
            f"| {row['case']} | `{row['experiment']}` | {row['units']} | {row['processor_planned']:.1f} | "
            f"{row['processor_measured']:.1f} | {'–' if ratio is None else f'{ratio:.2f}'} |\n"
        )
    return {name: text}


def page(room: str, names: list[str]) -> str:
    title = ROOMS.get(room, room.capitalize())
    module = importlib.import_module(f"clipattr.{room}")
    about = " ".join((module.__doc__ or "").split("\n\n")[0].split())
    about = about.replace("*", r"\*").replace("|", r"\|")
    text = f"{title}\n{'=' * len(title)}\n\n``clipattr.{room}``: {about}\n"
    if room == "studies":
        text += "\n.. autodata:: clipattr.studies.presets.paper\n   :no-value:\n"
        text += "\n.. autoclass:: clipattr.studies.presets.Protocol\n   :members:\n"
    for name in names:
        value = getattr(clipattr, name)
        if isinstance(value, type):
            directive, options = "autoclass", ":members:"
        elif callable(value):
            directive, options = "autofunction", ""
        else:
            directive, options = "data", ""
        text += f"\n.. {directive}:: clipattr.{name}\n"
        text += f"   {options}\n" if options else ""
        if directive == "data":
            text += f"\n   {about_value(name)}\n"
    more = [
        name for name in getattr(module, "__all__", ()) if name not in clipattr.CONTENTS and name[0].islower()
    ]
    for name in more:
        if callable(getattr(module, name)):
            text += f"\n.. autofunction:: clipattr.{room}.{name}\n"
    return text


def about_value(name: str) -> str:
    """What a table of the package is, in words of its type and keys."""
    value = getattr(clipattr, name)
    keys = ", ".join(f"``{key}``" for key in value) if hasattr(value, "__iter__") else repr(value)
    return f"``{type(value).__name__}`` in ``clipattr.{clipattr.CONTENTS[name]}``, with {keys}."


def command_line() -> dict[str, str]:
    """The help of the program and of every verb, as it is printed."""
    os.environ["COLUMNS"] = "100"
    main = parser()
    (verbs,) = (action for action in main._actions if isinstance(action, argparse._SubParsersAction))
    text = "# Every verb\n\nAs `clipattr VERB --help` prints it.\n\n```text\n" + main.format_help() + "```\n"
    for name, verb in verbs.choices.items():
        text += f"\n## `clipattr {name}`\n\n```text\n{verb.format_help()}```\n"
    return {"cli/verbs.md": text}


def reproduction() -> dict[str, str]:
    """The page of the reproduction whose values are in `docs/reproduction`."""
    from clipattr.reproduction.page import page
    from clipattr.reproduction.reopen import reopened

    return {REPRODUCTION: page(*reopened(ROOT / "docs" / "reproduction"))}


def course() -> dict[str, str]:
    """The executed notebooks, and a page that orders them."""
    notebooks = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
    listed = "\n".join(file.stem for file in notebooks)
    index = (
        "# The course\n\nExecuted notebooks, in the order in which to read them. `make lab` opens them to be run; "
        f"all of them run on what comes with the package.\n\n```{{toctree}}\n:maxdepth: 1\n\n{listed}\n```\n"
    )
    return {
        "course/index.md": index,
        **{f"course/{file.name}": file.read_text("utf-8") for file in notebooks},
    }
