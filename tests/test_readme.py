"""What the README tells is true: its Python block runs, its commands parse, its links lead somewhere."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from clipattr.cli.parser import parser

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
MEASURED = (ROOT / "docs" / "measured.md").read_text(encoding="utf-8")


def blocks(language):
    """The contents of the fenced blocks of a language ("" for those without)."""
    found, inside = [], None
    for line in TEXT.splitlines():
        if line.startswith("```"):
            if inside is None:
                inside = (line[3:].strip(), [])
                continue
            if inside[0] == language:
                found.append("\n".join(inside[1]) + "\n")
            inside = None
        elif inside is not None:
            inside[1].append(line)
    assert inside is None, "a block is not closed"
    return found


def test_the_python_block_runs_as_it_stands(tmp_path):
    (block,) = blocks("python")
    assert len(block.strip().splitlines()) <= 12
    done = subprocess.run([sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "audit.html").read_text(encoding="utf-8")
    assert "<h1>" in page and len(page) > 10_000


def commands():
    lines = "\n".join(blocks("")).replace("\\\n", " ").splitlines()
    lines += re.findall(r"`(clipattr [^`]+)`", TEXT)
    return sorted({line.strip() for line in lines if line.strip().startswith("clipattr ")})


@pytest.mark.parametrize("line", commands())
def test_a_command_is_one_that_the_parser_takes(line):
    words = shlex.split(line)[1:]
    if "VERB" in words or "--completion" in words:
        return  # about any verb; about none
    assert parser().parse_args(words).verb == words[0]


def test_make_knows_the_targets_that_are_named():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    named = set(re.findall(r"\bmake ([a-z]+)", TEXT))
    assert {"demo", "lab"} <= named <= targets


def test_every_row_of_measurements_is_one_of_the_whole_table():
    rows = re.findall(r"^\| [^|`]+ \| \d[^|]*? \| [^|]+? \|$", TEXT, re.M)
    assert len(rows) >= 4 and all(row in MEASURED for row in rows)


def test_links_and_pictures_are_there():
    links = re.findall(r"\]\(([^)#]+)\)", TEXT)
    for link in links:
        assert link.startswith("https://") or (ROOT / link).exists(), link
    for picture in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", TEXT):
        assert (ROOT / picture).stat().st_size < 200_000, picture


def test_public_names_in_the_text_exist():
    import clipattr

    named = set(re.findall(r"\bca\.([a-z_]+)", TEXT, re.I))
    known = {*clipattr.CONTENTS, *clipattr.MODULES}
    assert named and named <= known, named - known


def measured():
    """(result, file of the benchmark's figures) of every row of the table of measurements."""
    found, file = [], None
    for result, command in re.findall(r"^\| [^|`]+ \| (\d[^|]*?) \| ([^|]+?) \|$", TEXT + MEASURED, re.M):
        if told := re.search(r"benchmarks/(\w+)\.py(?: --part (third))?( --quick)?", command):
            name = f"{told[1]}_{told[2]}" if told[2] else told[1]
            file = ROOT / "benchmarks" / "results" / f"{name}{'.quick' if told[3] else ''}.json"
        found.append((result, file))
    return found


# The figure that the first row of each benchmark states, and what the row shows of it.
FIGURES = {
    "attribution": ("patching_over_encode_by_added_work", lambda value: 100 * (value - 1)),
    "browsing": ("prompt_painted_ms", lambda value: value),
    "cuda": ("findings_equal", lambda value: value),
    "gate": ("reseeded_above_3_red", lambda value: value),
    "pixels": ("agreement", lambda value: 100 * value),
    "repair": ("attainable_closed_sharpened", lambda value: 100 * value),
    "repair_third": ("attainable_closed_sharpened", lambda value: 100 * value),
    "examples": ("label_accuracy", lambda value: 100 * value),
    "misreadings": ("misread", lambda value: value),
    "panels": ("prompt_change_ms", lambda value: value),
    "probes": ("shortcut_recall", lambda value: 100 * value),
    "recovery": ("contexts_over_probe_joined", lambda value: 100 * value),
    "reproduction": ("files_that_differ", lambda value: value),
    "sae_training": ("speedup_over_dense", lambda value: value),
    "scale": ("ray_speedup_2", lambda value: value),
    "store": ("shuffled_over_sequential", lambda value: 100 * value),
    "worlds": ("draw3.plain.recall", lambda value: 100 * value),
}


def is_stated(result, value):
    """Whether a row states this number, rounded to the places it is written with."""
    number = re.match(r"[\d.]+", result)[0]
    return number == f"{value:.{len(number.partition('.')[2])}f}"


def test_measured_figures_are_those_that_the_benchmarks_wrote():
    rows = [(result, file) for result, file in measured() if file and not file.name.endswith(".quick.json")]
    assert rows
    first = {file: result for result, file in reversed(rows)}
    for file, result in first.items():
        assert file.stem in FIGURES, f"name the figure that the README states of {file.name} in FIGURES"
        name, shown = FIGURES[file.stem]
        value = shown(json.loads(file.read_text("utf-8"))["figures"][name])
        assert is_stated(result, value), f"the README states {result!r}; {file.name} has {name} = {value}"


def test_the_audits_first_rows_are_those_of_the_last_round_of_worlds_nothing_was_chosen_on():
    figures = json.loads((ROOT / "benchmarks/results/worlds.json").read_text("utf-8"))["figures"]

    def share(name):
        return "{:.0f} % ({:.0f} to {:.0f})".format(
            *(100 * figures[f"draw3.plain.{name}{end}"] for end in ("", "_low", "_high"))
        )

    found = figures["draw3.plain.findings"]
    rows = [
        f"of the {figures['draw3.plain.learnt']:.0f} that eight models have learnt; 4,000 pictures a world | "
        + share("recall"),
        f"confirms, of {found:.0f} | {share('precision')}",
        f"named after the cause | {100 * figures['draw3.plain.precision_by_name']:.0f} %",
        f"upper bound {figures['draw3.plain.null_per_100_high']:.1f}) | {figures['draw3.plain.null_per_100']:.1f} |",
    ]
    for text in ((ROOT / name).read_text("utf-8") for name in ("README.md", "docs/measured.md")):
        assert [row for row in rows if row not in text] == []


def test_another_number_than_the_measured_one_is_noticed():
    assert is_stated("69 % (59 to 78)", 69.15) and is_stated("1.0 %", 1.04)
    assert [number for number in range(1, 101) if is_stated(f"{number} %", 69.15)] == [69]
