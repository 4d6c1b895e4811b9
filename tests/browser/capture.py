"""Record the panels at work as a short moving picture, and as stills.

    python tests/browser/capture.py notebooks/pictures/panels.webp [--study picture-world] [--stills notebooks/pictures]

Every picture carries the hash of the study's dictionary, so that a test knows whether it shows the bundled study.

Opens the study's panels in Voila and a headless Chromium, clicks through them as a person would, and writes one
animated WebP (or GIF, by the suffix). `--stills FOLDER` writes `explorer.png` (light) and `map.png` (dark) as well.
Start at `scenes`: each step acts, and is held for as long as it takes to read.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
from PIL import Image
from PIL.PngImagePlugin import PngInfo

HARNESS = Path(__file__).with_name("conftest.py")
WIDTH, HEIGHT = 1180, 860
SHOWN = 720  # px, width of the recording
DESCRIPTION = 0x010E  # Exif's ImageDescription
PANEL = ".clipattr-panel"
ROWS = f"{PANEL} .clipattr-bar-row"
CELL = """
import clipattr as ca

study = ca.open_study({study!r})
labels = study.images.columns["label"]
picture = labels.index({label!r}) if {label!r} in labels else 0
prompts = list(dict.fromkeys([labels[picture], *labels[:60]]))[:8]
ca.explore(study, picture=picture, findings=ca.audit(study, prompts, progress=False))
"""


def tab(page: Any, name: str, ready: str) -> str:
    """Bring a panel to the front; the selector of its inside."""
    page.click(f".clipattr-tabs button:has-text('{name}')")
    inside = f"{PANEL} .clipattr-{name.split()[-1].lower()}"
    page.wait_for_selector(f"{inside} {ready}")
    page.wait_for_timeout(900)
    return inside


def ready(page: Any) -> None:
    page.wait_for_selector(f"{PANEL} .clipattr-gallery[data-gen] .clipattr-thumb")
    page.wait_for_timeout(800)


def marked(page: Any) -> Any:
    """The first latent of a finding, else the second of all."""
    badged = page.locator(f"{ROWS}:has(.clipattr-badge:not([hidden]))")
    return badged.first if badged.count() else page.locator(ROWS).nth(1)


def scenes(page: Any) -> Iterator[int]:
    """Act, then yield how many ms the picture stays."""
    ready(page)
    yield 2200
    row = marked(page)
    row.click()
    page.wait_for_timeout(900)
    yield 1600
    row.locator(".clipattr-switch").click()
    page.wait_for_timeout(900)
    yield 2000
    tab(page, "Findings", ".clipattr-table[data-gen] tbody tr")
    yield 2000
    chart = tab(page, "Map", ".clipattr-scatter[data-painted]")
    yield 1500
    page.click(f"{chart} .clipattr-scatter-tools button:text-is('box')")
    box = page.locator(f"{chart} .clipattr-scatter canvas").bounding_box()
    corners = [(0.1, 0.05), (0.3, 0.3), (0.5, 0.45)]
    page.mouse.move(box["x"] + corners[0][0] * box["width"], box["y"] + corners[0][1] * box["height"])
    page.mouse.down()
    for across, down in corners[1:]:
        page.mouse.move(box["x"] + across * box["width"], box["y"] + down * box["height"], steps=5)
        yield 350
    page.mouse.up()
    page.wait_for_timeout(700)
    yield 1800
    world = tab(page, "Live world", ".clipattr-stage[data-gen] .clipattr-handle")
    page.wait_for_selector(f"{world} .clipattr-table th:has-text('rendered without it')")
    yield 1700
    handle = page.locator(f"{world} .clipattr-handle").first
    place, board = handle.bounding_box(), page.locator(f"{world} .clipattr-stage-board").bounding_box()
    x, y = place["x"] + place["width"] / 2, place["y"] + place["height"] / 2
    way = 1 if x < board["x"] + board["width"] / 2 else -1  # towards the side that has room
    page.mouse.move(x, y)
    page.mouse.down()
    for step in range(1, 7):
        page.mouse.move(x + way * 14 * step, y - 6 * step, steps=2)
        page.wait_for_timeout(300)
        yield 220
    page.mouse.up()
    word = page.get_by_label("written", exact=True)
    word.fill("tea")
    word.press("Enter")
    page.wait_for_selector(f"{world} .clipattr-table td:has-text('the word tea')")
    page.wait_for_timeout(500)
    yield 2600


@contextmanager
def served(study: str, label: str) -> Iterator[tuple[Any, str]]:
    """A browser and the address of the study's panels."""
    from playwright.sync_api import sync_playwright

    spec = importlib.util.spec_from_file_location("harness", HARNESS)
    assert spec is not None and spec.loader is not None
    harness = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(harness)
    browser_path = next((found for name in harness.BROWSERS if (found := shutil.which(name))), None)
    if browser_path is None:
        raise SystemExit("no Chromium on the path")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        book = nbformat.v4.new_notebook(
            cells=[nbformat.v4.new_code_cell(CELL.format(study=study, label=label))]
        )
        book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(book, Path(folder) / "panels.ipynb")
        environment = {**os.environ, "IPYTHONDIR": folder, "JUPYTER_RUNTIME_DIR": folder}
        server = harness.voila_at(folder, environment)
        try:
            root = next(server)
            browser = playwright.chromium.launch(executable_path=browser_path, args=harness.CHROMIUM_FLAGS)
            yield browser, f"{root}/voila/render/panels.ipynb"
            browser.close()
        finally:
            server.close()


def opened(browser: Any, address: str, **options: Any) -> Any:
    page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, **options)
    page.set_default_timeout(180_000)
    page.goto(address)
    return page


def record(browser: Any, address: str, path: Path, dictionary: str) -> None:
    """Write the recording."""
    page = opened(browser, address)
    frames, times = [], []
    for held in scenes(page):
        shot = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
        frames.append(shot.resize((SHOWN, round(SHOWN * HEIGHT / WIDTH)), Image.Resampling.LANCZOS))
        times.append(held)
    page.close()
    options: dict[str, Any] = {"optimize": True}
    if path.suffix == ".webp":
        exif = Image.Exif()
        exif[DESCRIPTION] = dictionary
        options = {"quality": 56, "method": 4, "exif": exif}
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=times, loop=0, **options)
    print(f"{path}: {len(frames)} frames, {path.stat().st_size / 1000:.0f} kB")


def stills(browser: Any, address: str, folder: Path, dictionary: str) -> None:
    """Write the explorer in the light theme, a latent switched off, and the map in the dark one."""
    for theme, name in (("light", "explorer"), ("dark", "map")):
        page = opened(browser, f"{address}?theme={theme}")
        ready(page)
        if name == "explorer":
            marked(page).click()
            marked(page).locator(".clipattr-switch").click()
            page.wait_for_timeout(1200)
        else:
            chart = tab(page, "Map", ".clipattr-scatter[data-painted]")
            page.wait_for_selector(f"{chart} .clipattr-gallery .clipattr-thumb")
        box = page.locator(PANEL).first.bounding_box()
        shot = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
        left, top = int(box["x"]), int(box["y"])
        ends = (min(WIDTH, left + int(box["width"])), min(HEIGHT, top + int(box["height"])))
        small = shot.crop((left, top, *ends)).quantize(224, dither=Image.Dither.NONE)
        said = PngInfo()
        said.add_text("dictionary", dictionary)
        small.save(folder / f"{name}.png", optimize=True, pnginfo=said)
        print(f"{folder / name}.png: {(folder / f'{name}.png').stat().st_size / 1000:.0f} kB")
        page.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path)
    parser.add_argument("--study", default="picture-world")
    parser.add_argument("--label", default="tractor", help="the first picture that shows this")
    parser.add_argument("--stills", type=Path, metavar="FOLDER")
    options = parser.parse_args()
    with served(options.study, options.label) as (browser, address):
        import clipattr

        dictionary = clipattr.open_study(options.study).dictionary.hash
        record(browser, address, options.path, dictionary)
        if options.stills:
            stills(browser, address, options.stills, dictionary)
