"""House rules that a program can check: the order of the rooms, headers, sizes, lint and types."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import clipattr

ROOT = Path(__file__).parents[1]
PACKAGES = ("clipattr", "widgets", "data")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
LONGEST = 450

# A room imports only rooms on an earlier line, or of its own line.
ROOMS = """
errors wording documents arrays tasks
plots
weights towers models
sites
pictures sources images splits tables
shards store collecting
dictionaries
attribution
meaning
cards
study building workplace encoding study_files
presets
discovery gate
report_pictures report_values
report scale plan
terminal arguments
jobs serve
cli
"""
# What users write as methods: `findings.report(path)`.
BRIDGES = {("discovery", "report")}
RANK = {room: rank for rank, line in enumerate(ROOMS.split("\n")) for room in line.split()}


def imports(path):
    """(line, dotted name) of each import, also inside functions; imports for type checkers do not count."""
    tree = ast.parse(path.read_text())
    guards = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
    ]
    idle = {id(inner) for guard in guards for inner in ast.walk(guard)}
    for node in ast.walk(tree):
        if id(node) in idle:
            continue
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == "clipattr":
            for alias in node.names:
                yield node.lineno, f"clipattr.{clipattr.CONTENTS.get(alias.name, alias.name)}"
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, node.module or ""


def imported_rooms(path):
    """(line, room) for each import of a room."""
    return [(line, name.split(".")[1]) for line, name in imports(path) if name.startswith("clipattr.")]


def test_every_room_has_its_place():
    found = {path.stem for path in (ROOT / "clipattr").glob("*.py")} - {"__init__"}
    found |= {path.parent.name for path in (ROOT / "clipattr").glob("*/*.py")}
    assert found <= set(RANK), f"give {sorted(found - set(RANK))} a line in ROOMS"


def test_a_room_imports_only_rooms_before_it():
    wrong = []
    for path in sorted((ROOT / "clipattr").rglob("*.py")):
        room = path.relative_to(ROOT / "clipattr").parts[0].removesuffix(".py")
        if room == "__init__":
            continue
        for line, other in imported_rooms(path):
            if RANK.get(other, 0) > RANK.get(room, 0) and (room, other) not in BRIDGES:
                wrong.append(f"{path.relative_to(ROOT)}:{line}: {room} imports {other}")
    assert not wrong, "\n".join(wrong)


def test_only_the_bridge_of_discovery_and_the_command_line_know_the_panels():
    users = set()
    for path in (ROOT / "clipattr").rglob("*.py"):
        if any(name.startswith("clipattr_widgets") for _, name in imports(path)):
            users.add(path.relative_to(ROOT / "clipattr").parts[0])
    assert users <= {"discovery", "cli.py"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_says_what_it_owns_and_stays_readable(path):
    text = path.read_text()
    assert ast.get_docstring(ast.parse(text)), (
        "a module starts with what it owns, what it ignores, where to start"
    )
    assert text.count("\n") < LONGEST, "one noun, one file: this one holds several"
    assert path.stem != "utils", "a small function lives beside its only caller"


def test_ruff_finds_nothing():
    check(sys.executable, "-m", "ruff", "check", "--output-format", "concise", ".")


def test_mypy_finds_nothing():
    check(sys.executable, "-m", "mypy")


def check(*command):
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
