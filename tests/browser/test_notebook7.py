"""The panels in Notebook 7, the other notebook that people open.

CLIPATTR_NOTEBOOK7 may name the Python of another environment with Notebook 7 in it (the kernel is this one's); without
it, this Python's is used, which comes with the `dev` extra.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.browser

PANEL = ".clipattr-panel"
ROW = f"{PANEL} .clipattr-bar-row"


@pytest.fixture(scope="module")
def notebook7(notebooks, environment, serve_command):
    python = os.environ.get("CLIPATTR_NOTEBOOK7", sys.executable)
    told = subprocess.run([python, "-m", "notebook", "--version"], capture_output=True, text=True)
    version = told.stdout.strip()
    if told.returncode or int(version.split(".")[0] or 0) < 7:
        missing = "Notebook 7 is not installed; CLIPATTR_NOTEBOOK7 may name a Python that has it"
        pytest.fail(missing) if os.environ.get("CI") == "true" else pytest.skip(missing)
    spec = Path(environment["JUPYTER_DATA_DIR"]) / "kernels" / "clipattr"
    spec.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (spec / "kernel.json").write_text(
        json.dumps({"argv": command, "display_name": "clipattr", "language": "python"})
    )
    shared = {"JUPYTER_PATH": str(Path(sys.prefix) / "share" / "jupyter")}
    arguments = ["--allow-root", "--no-browser", "--ServerApp.port_retries=0", "--IdentityProvider.token=",
                 "--JupyterNotebookApp.expose_app_in_browser=True", f"--ServerApp.root_dir={notebooks}"]  # fmt: skip
    yield from serve_command([python, "-m", "notebook", *arguments], {**environment, **shared}, "/api/status")


def test_the_explorer_works_in_notebook_7(notebook7, notebook, opened, study_folder, screenshots):
    cell = f"import clipattr as ca\npanel = ca.explore({str(study_folder)!r}, picture=5)\npanel"
    name = notebook("seven.ipynb", cell, kernel="clipattr")
    page = opened(width=1280, height=1000)
    page.page.goto(f"{notebook7}/notebooks/{name}")
    page.page.wait_for_function(
        "() => window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'"
    )
    before = len(page.errors)
    page.run_all()
    page.page.wait_for_selector(f"{PANEL} .clipattr-gallery[data-gen] .clipattr-thumb")
    row = page.page.locator(ROW).first
    row.locator(".clipattr-switch").click()
    page.page.wait_for_selector(f"{ROW} >> nth=0 >> .clipattr-switch[aria-pressed=false]")
    row.focus()
    page.page.keyboard.press("u")
    page.page.wait_for_selector(f"{ROW} >> nth=0 >> .clipattr-switch[aria-pressed=true]")
    page.page.locator(PANEL).first.scroll_into_view_if_needed()
    page.page.screenshot(path=screenshots / "notebook7.png")
    assert page.errors[before:] == []
