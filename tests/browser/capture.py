"""Record the panels at work as a short moving picture.

    python tests/browser/capture.py notebooks/pictures/panels.webp [--study picture-world]

Opens the study's panels in Voila and a headless Chromium, clicks through them as a person would, and writes one
animated WebP (or GIF, by the suffix). Start at `scenes`: each step is a function, held for as long as it takes to read.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
from PIL import Image

HARNESS = Path(__file__).with_name("conftest.py")
WIDTH, HEIGHT = 1180, 820
SHOWN = 760  # px, width of the recording
PANEL = ".clipattr-panel"


def tab(page: Any, name: str, ready: str) -> None:
    page.click(f".clipattr-tabs button:has-text('{name}')")
    page.wait_for_selector(ready)
    page.wait_for_timeout(900)


def scenes(page: Any) -> Iterator[int]:
    """Act, then yield how many ms the picture stays."""
    page.wait_for_selector(f"{PANEL} .clipattr-gallery[data-gen] .clipattr-thumb")
    page.wait_for_timeout(800)
    yield 1800
    for place in range(2):
        page.locator(f"{PANEL} .clipattr-bar-row .clipattr-switch").nth(place).click()
        page.wait_for_timeout(700)
        yield 1100
    tab(page, "Map", f"{PANEL} {PANEL} .clipattr-scatter[data-painted]")
    yield 1600
    box = page.locator(f"{PANEL} {PANEL} .clipattr-scatter canvas").bounding_box()
    corners = [(0.1, 0.05), (0.3, 0.3), (0.5, 0.45)]
    page.mouse.move(box["x"] + corners[0][0] * box["width"], box["y"] + corners[0][1] * box["height"])
    page.mouse.down()
    for across, down in corners[1:]:
        page.mouse.move(box["x"] + across * box["width"], box["y"] + down * box["height"], steps=5)
        yield 350
    page.mouse.up()
    page.wait_for_timeout(700)
    yield 1800
    tab(page, "Live world", f"{PANEL} {PANEL} .clipattr-stage[data-gen] .clipattr-handle")
    yield 1500
    stage = page.locator(f"{PANEL} {PANEL} .clipattr-stage")
    place = stage.locator(".clipattr-handle").first.bounding_box()
    x, y = place["x"] + place["width"] / 2, place["y"] + place["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    for step in range(1, 7):
        page.mouse.move(x + 14 * step, y - 6 * step, steps=2)
        page.wait_for_timeout(300)
        yield 220
    page.mouse.up()
    word = page.get_by_label("written", exact=True)
    word.fill("tea")
    word.press("Enter")
    page.wait_for_selector(".clipattr-table td:has-text('the word tea')")
    page.wait_for_timeout(500)
    yield 2400


def record(study: str, path: Path) -> None:
    """Write the recording."""
    from playwright.sync_api import sync_playwright

    spec = importlib.util.spec_from_file_location("harness", HARNESS)
    assert spec is not None and spec.loader is not None
    harness = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(harness)
    browser_path = next((found for name in harness.BROWSERS if (found := shutil.which(name))), None)
    if browser_path is None:
        raise SystemExit("no Chromium on the path")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        cell = nbformat.v4.new_code_cell(f"import clipattr as ca\nca.explore({study!r}, picture=5)")
        book = nbformat.v4.new_notebook(cells=[cell])
        book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(book, Path(folder) / "panels.ipynb")
        environment = {**os.environ, "IPYTHONDIR": folder, "JUPYTER_RUNTIME_DIR": folder}
        server = harness.voila_at(folder, environment)
        root = next(server)
        browser = playwright.chromium.launch(executable_path=browser_path, args=harness.CHROMIUM_FLAGS)
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        page.set_default_timeout(120_000)
        page.goto(f"{root}/voila/render/panels.ipynb")
        frames, times = [], []
        for held in scenes(page):
            shot = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
            frames.append(shot.resize((SHOWN, round(SHOWN * HEIGHT / WIDTH)), Image.Resampling.LANCZOS))
            times.append(held)
        browser.close()
        server.close()
    options: dict[str, Any] = {"quality": 62, "method": 4} if path.suffix == ".webp" else {"optimize": True}
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=times, loop=0, **options)
    print(f"{path}: {len(frames)} frames, {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path)
    parser.add_argument("--study", default="picture-world")
    options = parser.parse_args()
    record(options.study, options.path)
