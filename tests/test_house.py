"""House rules that a program can check: no circle of imports, the order of the rooms, headers, sizes, lint, types."""

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import clipattr

ROOT = Path(__file__).parents[1]
PACKAGES = {"clipattr": "clipattr", "widgets": "clipattr_widgets", "data": "clipattr_data"}
FILES = {folder: sorted((ROOT / folder).rglob("*.py")) for folder in PACKAGES}
MODULES = sorted(path for files in FILES.values() for path in files)
LONGEST = 400  # lines of a module

# A room imports only rooms on an earlier line.
ROOMS = """
errors statistics
display
storage
images
models
sites
execution
dictionaries
attribution
meaning
studies
discovery
reporting
reproduction
cli
"""
RANK = {room: rank for rank, line in enumerate(ROOMS.split("\n")) for room in line.split()}
# What users write on results, `findings.report(path)` and `ca.explore(study)`: imported when called.
BRIDGES = {
    ("clipattr.discovery.findings", "clipattr.reporting.page"),
    ("clipattr.reporting.panels", "clipattr_widgets"),
}


def name_of(path):
    """Dotted name of a module, e.g. clipattr.storage.files; a package goes by its folder's name."""
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    parts[0] = PACKAGES[parts[0]]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {name_of(path): path for path in MODULES}


@cache
def imports(path):
    """{dotted module: line} of each import of our own modules, also inside functions; not those for type checkers."""
    tree = ast.parse(path.read_text())
    guards = [n for n in ast.walk(tree) if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.unparse(n.test)]
    idle = {id(inner) for guard in guards for inner in ast.walk(guard)}
    found = {}
    for node in ast.walk(tree):
        if id(node) in idle:
            continue
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "clipattr":
            names = [
                f"clipattr.{clipattr.CONTENTS.get(a.name, clipattr.MODULES.get(a.name, a.name))}"
                for a in node.names
            ]
        elif isinstance(node, ast.ImportFrom) and node.module:
            # `from package import module` is an import of the module
            names = [
                f"{node.module}.{a.name}" if f"{node.module}.{a.name}" in NAMES else node.module
                for a in node.names
            ]
        else:
            continue
        found |= {name: node.lineno for name in names if name in NAMES}
    return found


def room_of(name):
    return name.split(".")[1] if name.startswith("clipattr.") else name


@pytest.mark.parametrize("folder", PACKAGES)
def test_no_module_imports_itself_in_a_circle(folder):
    graph = {name_of(path): set(imports(path)) for path in FILES[folder]}
    for one, other in BRIDGES:
        graph.get(one, set()).discard(other)
    assert not (found := circle(graph)), " -> ".join(found)


def circle(graph):
    """The modules of one circle in import order, [] if there is none (depth-first search)."""
    done = set()

    def visit(name, trail):
        if name in trail:
            return [*trail[trail.index(name) :], name]
        if name in done or name not in graph:
            return []
        for other in sorted(graph[name]):
            if found := visit(other, [*trail, name]):
                return found
        done.add(name)
        return []

    return next((found for name in sorted(graph) if (found := visit(name, []))), [])


def test_a_circle_is_found():
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_every_room_has_its_place_and_the_top_stays_empty():
    top = {path.stem for path in (ROOT / "clipattr").glob("*.py")}
    assert len(top) <= 5, sorted(top)
    found = (top - {"__init__"}) | {path.parent.name for path in (ROOT / "clipattr").glob("*/*.py")}
    assert found <= set(RANK), f"give {sorted(found - set(RANK))} a line in ROOMS"


def test_a_room_imports_only_rooms_before_it():
    wrong = []
    for path in FILES["clipattr"]:
        name = name_of(path)
        if name == "clipattr":
            continue
        for other, line in imports(path).items():
            if (
                not other.startswith("clipattr.")
                or (name, other) in BRIDGES
                or room_of(other) == room_of(name)
            ):
                continue
            if RANK[room_of(other)] >= RANK[room_of(name)]:
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {other}")
    assert not wrong, "\n".join(wrong)


def test_only_the_bridge_and_the_command_line_know_the_panels():
    users = {
        name_of(path)
        for path in FILES["clipattr"]
        if any(other.startswith("clipattr_widgets") for other in imports(path))
    }
    assert {room_of(user) for user in users} <= {"reporting", "cli"}, users


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_says_what_it_owns_and_stays_readable(path):
    text = path.read_text()
    assert ast.get_docstring(ast.parse(text)), (
        "a module starts with what it owns, what it ignores, where to start"
    )
    assert text.count("\n") <= LONGEST, "one noun, one file: this one holds several"
    assert path.stem != "utils", "a small function lives beside its only caller"


def long_lists(tree):
    """Lines of errors that put a whole sorted collection, list or array into their message."""
    raised = [node.exc for node in ast.walk(tree) if isinstance(node, ast.Raise) and node.exc is not None]
    put_in = [part.value for exc in raised for part in ast.walk(exc) if isinstance(part, ast.FormattedValue)]
    return [
        f"line {value.lineno}: {ast.unparse(value)}"
        for value in put_in
        if isinstance(value, ast.Call)
        and re.fullmatch(r"(sorted|list|\w+\.tolist|\w+\.keys)", ast.unparse(value.func))
    ]


@pytest.mark.parametrize(
    "path", [*FILES["clipattr"], *FILES["widgets"]], ids=lambda path: str(path.relative_to(ROOT))
)
def test_an_error_lists_a_few_items_and_counts_the_rest(path):
    found = long_lists(ast.parse(path.read_text()))
    assert not found, f"write few(…) of clipattr.display.wording: {found}"


def test_a_long_list_in_an_error_is_noticed():
    text = "raise E(f'{sorted(names)} {x.tolist()} {few(names)} {names[:5]} {tuple(shape)}')"
    assert len(long_lists(ast.parse(text))) == 2


def test_ruff_finds_nothing():
    check(sys.executable, "-m", "ruff", "check", "--output-format", "concise", ".")


def test_mypy_finds_nothing():
    check(sys.executable, "-m", "mypy")


def test_codespell_finds_nothing():
    check(sys.executable, "-m", "codespell_lib")


def test_the_tour_of_contributing_names_every_module_once():
    listed = re.findall(r"^\| `([\w/]+\.py)` \|", (ROOT / "CONTRIBUTING.md").read_text("utf-8"), re.M)
    there = {
        str(path.relative_to(ROOT / "clipattr")) for path in FILES["clipattr"] if path.stem != "__init__"
    }
    assert not (lacking := there - set(listed)), f"give a line in CONTRIBUTING.md to {sorted(lacking)}"
    assert not (stale := set(listed) - there), (
        f"CONTRIBUTING.md names modules that do not exist: {sorted(stale)}"
    )
    assert len(listed) == len(set(listed))


def test_the_changes_of_contributing_name_files_that_exist():
    table = (ROOT / "CONTRIBUTING.md").read_text("utf-8").split("## 20 usual changes")[1].split("\n## ")[0]
    rows = re.findall(r"^\| an? (.+)$", table, re.M)
    assert len(rows) == 20
    for name in re.findall(r"`([\w/]+(?:\.\w+|/))`", "\n".join(rows)):
        if "NAME" not in name:
            assert (ROOT / "clipattr" / name).exists() or (ROOT / name).exists(), name


def check(*command):
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
