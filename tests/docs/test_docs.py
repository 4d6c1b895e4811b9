"""The documentation is true: its code runs, its links lead somewhere, its quotations are what the code says."""

import ast
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import clipattr
from clipattr.cli.arguments import EXITS
from clipattr.cli.parser import parser

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
sys.path.insert(0, str(DOCS))
import pages  # noqa: E402

DERIVED = ("reference", "cli", "course", "_build")
PAGES = sorted(path for path in DOCS.rglob("*.md") if path.relative_to(DOCS).parts[0] not in DERIVED)
NAMES = [path.relative_to(DOCS).as_posix() for path in PAGES]


def blocks(text, language):
    """Contents of the fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)


def read(name):
    return (DOCS / name).read_text("utf-8")


def squeezed(text):
    return " ".join(text.split())


@pytest.mark.parametrize("name", [name for name in NAMES if blocks(read(name), "python")])
def test_the_code_of_a_page_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    space = {"__name__": "page"}
    for number, block in enumerate(blocks(read(name), "python")):
        exec(compile(block, f"{name}, block {number}", "exec"), space)


def test_code_of_the_pages_is_written_like_the_code_of_the_package(tmp_path):
    for name in NAMES:
        for number, block in enumerate(blocks(read(name), "python")):
            (tmp_path / f"{name.replace('/', '-')[:-3]}_{number}.py").write_text(block)
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--isolated", "--line-length", "110", "--select", "E,F,I,B", "--ignore",
         "F821,E402,E703,F811,I001", tmp_path], capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_to_pages_that_are_there(name):
    derived = set(pages.command_line()) | set(pages.course()) | set(pages.reference()) | set(pages.towers())
    derived |= set(pages.estimate())
    derived.add(pages.REPRODUCTION)
    planned = {f"course/{file.stem}.ipynb" for file in (ROOT / "notebooks").glob("[0-9]*.py")}
    for link in re.findall(r"\]\(([^)\s]+)\)", read(name)):
        if link.startswith("https://"):
            continue
        target = os.path.normpath((DOCS / name).parent / link.partition("#")[0])
        relative = Path(target).relative_to(DOCS).as_posix()
        assert Path(target).is_file() or relative in derived | planned, link


@pytest.mark.parametrize("name", NAMES)
def test_every_page_is_in_a_table_of_contents(name):
    if name in ("index.md", "README.md"):
        return
    listed = set()
    for page in PAGES:
        for tree in re.findall(r"```\{toctree\}\n(.*?)```", page.read_text("utf-8"), re.S):
            folder = page.parent.relative_to(DOCS)
            listed |= {(folder / line.strip()).as_posix() for line in tree.splitlines() if line.strip()}
            if ":glob:" in tree:
                listed |= {
                    found.relative_to(DOCS).with_suffix("").as_posix()
                    for line in tree.splitlines()
                    if "*" in line
                    for found in (DOCS / folder).glob(f"{line.strip()}.md")
                }
    assert name.removesuffix(".md") in listed


@pytest.mark.parametrize("name", NAMES)
def test_commands_are_ones_that_the_parser_takes(name):
    lines = [line for block in blocks(read(name), "") for line in block.replace("\\\n", " ").splitlines()]
    lines += re.findall(r"`(clipattr [a-z][^`]*)`", read(name))
    for line in lines:
        if not line.startswith("clipattr ") or "VERB" in line or "--completion" in line:
            continue
        words = shlex.split(line)
        if len(words) > 2:
            assert parser().parse_args(words[1:]).verb == words[1], line
        else:
            assert f" {words[1]} " in parser().format_help(), line


@pytest.mark.parametrize("name", NAMES)
def test_public_names_exist(name):
    named = set(re.findall(r"\bca\.(\w+)", read(name)))
    assert named <= {*clipattr.CONTENTS, "presets"}, named - set(clipattr.CONTENTS)


def templates():
    """Every text in the code, with a mark where a value is put in."""
    found = set()
    for package in ("clipattr", "widgets", "data"):
        for file in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text("utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    parts = [part.value if isinstance(part, ast.Constant) else "\0" for part in node.values]
                    found.add(squeezed("".join(str(part) for part in parts)))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.add(squeezed(node.value))
    return found


def is_quoted_from(message, known):
    parts = [part.strip() for part in squeezed(message).split("…") if part.strip(" .,:'\"()")]
    for template in known:
        at = 0
        for part in parts:
            at = template.find(part, at)
            if at < 0:
                break
            at += len(part)
        else:
            return True
    return False


def test_every_quoted_message_is_one_of_the_code():
    known = {text.replace("{MANIFEST}", "study.json") for text in templates()}
    known |= {text.replace("there is no \0 in it.", "there is no study.json in it.") for text in known}
    wrong = [
        message
        for message in blocks(read("troubleshooting.md"), "text")
        if not is_quoted_from(message, known)
    ]
    assert not wrong, "\n".join(wrong)


def test_a_message_that_nobody_gives_is_noticed():
    known = templates()
    assert is_quoted_from("there is no method …; there are …", known)
    assert not is_quoted_from("there is no method …; try …", known)


def test_the_message_of_make_is_quoted_as_it_is():
    message = "clipattr needs Python 3.11 or later on the path (or PYTHON=...)"
    assert message in read("troubleshooting.md") and message in (ROOT / "Makefile").read_text()


def test_the_exit_codes_are_those_of_the_program():
    listed = dict(re.findall(r"^\| (\d+) \| (.+) \|$", read("command_line.md"), re.M))
    assert set(listed) == set(re.findall(r"\b(\d+) [a-z]", EXITS))


def test_the_kinds_and_files_of_the_pages_are_those_of_the_code():
    from clipattr.discovery.findings import KINDS

    assert set(
        re.findall(r"`(\w+)`", read("glossary.md").split("\nkind\n")[1].split("\nlatent\n")[0])
    ) == set(KINDS)
    study = clipattr.open_study("picture-world")
    files = {path.name for path in study.path.iterdir()}
    told = set(re.findall(r"`([\w-]+\.(?:json|npy|csv|safetensors|jsonl|bin))`", read("formats.md")))
    assert files - {"dictionary"} <= told


def test_the_reference_has_every_public_name_once():
    text = "\n".join(text for name, text in pages.reference().items() if name != "reference/index.rst")
    listed = re.findall(r"^\.\. \w+:: clipattr\.(\w+)$", text, re.M)
    assert sorted(listed) == sorted(clipattr.CONTENTS)


def test_public_names_say_what_they_are():
    silent = [
        name
        for name in clipattr.CONTENTS
        if callable(getattr(clipattr, name)) and not getattr(clipattr, name).__doc__
    ]
    assert not silent, silent


def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("sphinx", reason="needs the [docs] extra")
    pytest.importorskip("myst_nb", reason="needs the [docs] extra")
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-d", tmp_path / "trees", DOCS, tmp_path / "site"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    page = (tmp_path / "site" / "formulas.html").read_text("utf-8")
    assert "<math" in page and "$$" not in page
    for file in (tmp_path / "site").glob("*.html"):
        assert not re.search(r'<(script|link)[^>]+(src|href)="https?:', file.read_text("utf-8")), file.name
