"""Every notebook is a pair in step, executed, clean and small. That it still runs is checked by nbval (`make test`)."""

import re
from pathlib import Path

import jupytext
import nbformat
import pytest

FOLDER = Path(__file__).parents[2] / "notebooks"
NAMES = sorted({path.stem for path in (*FOLDER.glob("*.py"), *FOLDER.glob("*.ipynb"))})
LARGEST = 2_000_000  # bytes
# A path of one machine: POSIX homes and temporary folders, Windows drives.
MACHINE = re.compile(
    r"(?<![\w/:.])/(?:home|Users|root|tmp|work|private|mnt|opt|usr)/[\w.-]|\b[A-Z]:\\\\?[\w]"
)


def cells(name, suffix):
    return [(cell.cell_type, cell.source) for cell in jupytext.read(FOLDER / f"{name}{suffix}").cells]


def executed(name):
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def outputs(name):
    return [(n, out) for n, cell in enumerate(executed(name).cells) for out in cell.get("outputs", ())]


def words(out):
    """The text of an output, without pictures."""
    parts = [out.get("text", "")]
    parts += [str(value) for mime, value in out.get("data", {}).items() if mime.startswith("text/")]
    return re.sub(r"data:image/[^\"')]+", "", "\n".join(parts))


def test_the_quickstart_is_there():
    assert "00_quickstart" in NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_and_its_script_are_in_step(name):
    assert cells(name, ".py") == cells(name, ".ipynb")


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_was_run_from_top_to_bottom(name):
    counts = [c.execution_count for c in executed(name).cells if c.cell_type == "code" and c.source.strip()]
    assert counts == list(range(1, len(counts) + 1))


@pytest.mark.parametrize("name", NAMES)
def test_stored_outputs_hold_no_error_warning_or_remark(name):
    for number, out in outputs(name):
        assert out.output_type != "error", f"cell {number}: {out.get('ename')}"
        assert not (out.output_type == "stream" and out.name == "stderr"), f"cell {number}: {out.text:.200}"
        assert not re.search(r"\b\w*Warning:", words(out)), f"cell {number}: {words(out):.200}"


@pytest.mark.parametrize("name", NAMES)
def test_nothing_names_a_place_on_one_machine(name):
    for number, out in outputs(name):
        found = MACHINE.search(words(out))
        assert not found, f"cell {number}: …{words(out)[max(found.start() - 40, 0) : found.end() + 40]}…"
    for number, cell in enumerate(executed(name).cells):
        assert not MACHINE.search(cell.source), f"cell {number}"


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_small_and_portable(name):
    notebook = executed(name)
    assert (FOLDER / f"{name}.ipynb").stat().st_size < LARGEST
    assert "widgets" not in notebook.metadata, (
        "run with store_widget_state=False: saved state needs a network to show"
    )
    assert notebook.metadata.kernelspec.name == "python3"


@pytest.mark.parametrize("name", NAMES)
def test_every_panel_has_something_to_show_without_a_kernel(name):
    kinds = {}
    for number, out in outputs(name):
        kinds.setdefault(number, set()).update(out.get("data", {}))
    for number, found in kinds.items():
        if "application/vnd.jupyter.widget-view+json" in found:  # the still view may be an output of its own
            assert {"text/html", "image/png"} & found, f"cell {number}: end with panel.snapshot()"


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_begins_with_what_it_is_about(name):
    first = executed(name).cells[0]
    assert first.cell_type == "markdown" and first.source.startswith("# ")


def test_the_check_for_machine_paths_sees_them_and_spares_links():
    for bad in ("in /home/ann/x.py", "'/tmp/a.html'", r"C:\\Users\\ann"):
        assert MACHINE.search(bad), bad
    for good in ("https://arxiv.org/tmp/x", "a/b", "image/png", "notebooks/00_quickstart.ipynb"):
        assert not MACHINE.search(good), good
