"""Notebooks and panels run wherever they are started: another folder, no development tools, no display, no network."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.py"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OURS = {"clipattr", "clipattr_widgets", "clipattr_data"}
# They come with what is asked for: torchvision, timm, huggingface_hub (with yaml) with open_clip; joblib with
# scikit-learn; traitlets with ipywidgets.
BROUGHT = {
    "torchvision",
    "timm",
    "huggingface_hub",
    "transformers",
    "traitlets",
    "IPython",
    "scipy",
    "joblib",
    "markupsafe",
    "yaml",
}
# Asked for by name where they are used, with a sentence that says how to install them; or there in Jupyter alone.
GUARDED = {
    "ray",
    "datasets",
    "google",
    "voila",
    "captum",
    "rapidocr_onnxruntime",
    "psutil",
    "ipykernel",
    "jupyter_server",
    "jupyter_core",
    "pydicom",
    "tokenizers",
    "pyarrow",
}


def imported(file):
    """Names of top-level packages that a file imports from elsewhere."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found - set(sys.stdlib_module_names) - OURS


def required():
    """Import names of the dependencies, without any extra."""
    asked = {re.match(r"[\w.-]+", line)[0].lower().replace("_", "-") for line in PROJECT["dependencies"]}
    return {
        module
        for module, distributions in packages_distributions().items()
        if asked & {name.lower().replace("_", "-") for name in distributions}
    }


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_a_notebook_needs_nothing_but_the_dependencies(file):
    assert imported(file) <= required() | BROUGHT


@pytest.mark.parametrize("folder", ["clipattr", "widgets", "data"])
def test_the_packages_need_nothing_but_the_dependencies(folder):
    used = set().union(*(imported(file) for file in (ROOT / folder).rglob("*.py")))
    assert used <= required() | BROUGHT | GUARDED, used - required() - BROUGHT - GUARDED


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_a_notebook_opens_nothing_by_a_place_relative_to_itself(file):
    text = "\n".join(line for line in file.read_text("utf-8").splitlines() if not line.startswith("#"))
    assert not re.search(r"""["'](?:\.{1,2}/|notebooks/|data/|tests/)""", text)


def test_another_folder_no_display_and_no_network_change_nothing(tmp_path):
    code = (
        "import clipattr as ca; from clipattr import plots\n"
        "study = ca.open_study('picture-world')\n"
        "figure = plots.gallery([study.images[0].load()], ['one'])\n"
        "figure.savefig('one.png')\n"
        "print(ca.attribute(study, study.images[0], 'kite').explain())\n"
    )
    clean = {
        name: value
        for name, value in os.environ.items()
        if name not in ("DISPLAY", "WAYLAND_DISPLAY", "MPLBACKEND")
    }
    offline = {"HF_HUB_OFFLINE": "1", "http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=clean | offline, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "kite" in done.stdout and (tmp_path / "one.png").stat().st_size > 500


def test_offline_a_model_that_is_not_here_is_a_sentence_with_advice(tmp_path):
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "https_proxy": "http://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, "-m", "clipattr.cli", "encode", "ViT-B-32:datacomp_xl_s13b_b90k", ".", "--out", "x"],
        cwd=tmp_path, env=os.environ | offline, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "nor could they be downloaded" in done.stderr and "use a bundled model" in done.stderr


def test_on_a_read_only_place_the_command_line_says_where_it_cannot_write(tmp_path, monkeypatch, capsys):
    import clipattr.cli.terminal
    from clipattr.cli.main import main

    monkeypatch.setattr(clipattr.cli.terminal.os, "access", lambda path, mode: False)
    monkeypatch.chdir(tmp_path)
    assert main(["demo"]) == 2
    assert "is not writable" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_an_old_or_newer_study_is_refused_with_what_to_do(tmp_path):
    import json

    import clipattr

    for schema, advice in ((0, "Make it again: clipattr study"), (99, "update clipattr")):
        folder = tmp_path / f"schema-{schema}"
        folder.mkdir()
        (folder / "study.json").write_text(json.dumps({"schema": schema, "files": {}}))
        with pytest.raises(clipattr.StudyError, match=advice):
            clipattr.open_study(folder)
