"""Scrolling of the picture browser: 50,000 cells in headless Chromium, and the memory of the page.

    python benchmarks/browsing.py [--quick]

The order is the bundled study's 9,000 pictures, repeated to 50,000; thumbnails are JPEGs of 112 px in one file, as a
study keeps them. The page scrolls at a steady speed; in every frame cells in sight without their picture are counted.
`blank_frames_*`: share of frames with at least one such cell; `blank_cells_*`: share of cells in sight;
`frames_per_s_*`: frames drawn; `frames_ratio_*`: these over what the same page draws of a plain, unvirtualised list of
5,200 such cells, scrolled at the same speed afterwards: it depends less on how busy the machine is; `jump_ms`: from
a jump to a far place until every cell there has its picture; `heap_MB`: the page's JavaScript heap after the scrolling;
`page_MB`: resident memory of the renderer process, pictures included.
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import statistics
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from results import write_results

HARNESS = Path(__file__).parents[1] / "tests" / "browser" / "conftest.py"
CELLS, DIFFERENT = 50_000, 9_000
SPEEDS = {"reading": 600, "skimming": 2400, "flinging": 8000}  # px a second
CELL = f"""
import io
import clipattr
from pathlib import Path
from types import SimpleNamespace
import numpy as np
from PIL import Image
from clipattr.studies.browsing import Browser
from clipattr_widgets import BrowsePanel, BrowseState

folder = Path({{folder!r}})
random, parts = np.random.default_rng(0), []
for n in range({DIFFERENT}):
    small = Image.fromarray(random.integers(0, 256, (14, 14, 3), dtype=np.uint8)).resize((112, 112), 3)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=82)
    parts.append(buffer.getvalue())
(folder / "thumbnails.bin").write_bytes(b"".join(parts))
np.save(folder / "thumbnails.npy", np.cumsum([0, *map(len, parts)]))

class Repeated(BrowseState):
    def _set_rows(self, answer):
        rows, values = answer
        super()._set_rows((np.resize(rows, {CELLS}), np.resize(values, {CELLS})))

state = Repeated(clipattr.open_study("picture-world"))
kept = Browser(SimpleNamespace(study=SimpleNamespace(path=folder)))
state.browser.thumbnail = kept.thumbnail
BrowsePanel(state=state)
"""
PLAIN_CELLS = 5200
PLAIN = """async (count) => {
  const model = document.querySelector(".clipattr-grid-view");
  const copies = await Promise.all([...model.querySelectorAll("img")].slice(0, 40).map(async (image) => {
    const canvas = new OffscreenCanvas(112, 112);
    canvas.getContext("2d").drawImage(image, 0, 0, 112, 112);
    return URL.createObjectURL(await canvas.convertToBlob({ type: "image/jpeg" }));
  }));
  const view = document.createElement("div");
  view.className = "plain clipattr-grid-view";
  view.style.cssText = `height:${model.clientHeight}px;width:${model.clientWidth}px;overflow-y:scroll`;
  for (let i = 0; i < count; i++) {
    const cell = document.createElement("div");
    cell.className = "clipattr-cell";
    cell.style.cssText = "position:static;float:left;width:96px;height:126px;margin-right:4px";
    const image = new Image(92, 92);
    image.src = copies[i % copies.length];
    cell.append(image, String(i));
    view.append(cell);
  }
  model.closest(".clipattr-grid").after(view);
  await Promise.all([...view.querySelectorAll("img")].map((image) => image.decode()));
}"""
SCROLL = """async ([speed, seconds, which]) => {
  const view = document.querySelector(which);
  const box = view.getBoundingClientRect();
  let [frames, blankFrames, cells, blank] = [0, 0, 0, 0];
  const begun = performance.now();
  const from = view.scrollTop;
  let now = begun;
  while (now - begun < 1000 * seconds) {
    view.scrollTop = from + (speed * (now - begun)) / 1000;
    now = await new Promise((done) => requestAnimationFrame(done));
    let lacking = 0;
    for (const cell of view.querySelectorAll(".clipattr-cell:not([hidden])")) {
      const at = cell.getBoundingClientRect();
      if (at.bottom <= box.top || at.top >= box.bottom) continue;
      cells++;
      const image = cell.querySelector("img");
      if (!image || !image.complete) lacking++;
    }
    blank += lacking;
    frames++;
    if (lacking) blankFrames++;
  }
  return { frames, fps: frames / seconds, blankFrames: blankFrames / frames, blank: blank / cells };
}"""
JUMP = """async (to) => {
  const view = document.querySelector(".clipattr-grid-view");
  const root = document.querySelector(".clipattr-grid");
  const begun = performance.now();
  view.scrollTop = to * view.scrollHeight;
  const frame = () => new Promise((done) => requestAnimationFrame(done));
  await frame();
  while (root.dataset.waiting !== "0") await frame();
  await frame();
  return performance.now() - begun;
}"""


def resident_of(browser_processes: list[Any]) -> float:
    """MB of the largest renderer among these processes."""
    sizes = [p.memory_info().rss for p in browser_processes if "--type=renderer" in " ".join(p.cmdline())]
    return max(sizes, default=0) / 1e6


def measure(seconds: float) -> dict[str, float]:
    import os

    import psutil
    from playwright.sync_api import sync_playwright

    spec = importlib.util.spec_from_file_location("harness", HARNESS)
    assert spec is not None and spec.loader is not None
    harness = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(harness)
    path = next((found for name in harness.BROWSERS if (found := shutil.which(name))), None)
    if path is None:
        raise SystemExit("no Chromium on the path")
    figures: dict[str, float] = {"cells": CELLS}
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL.format(folder=folder))])
        book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(book, Path(folder) / "browsing.ipynb")
        environment = {**os.environ, "IPYTHONDIR": folder, "JUPYTER_RUNTIME_DIR": folder}
        server = harness.voila_at(folder, environment)
        try:
            browser = playwright.chromium.launch(executable_path=path, args=harness.CHROMIUM_FLAGS)
            page = browser.new_page(viewport={"width": 1240, "height": 900})
            page.set_default_timeout(100_000)
            page.goto(f"{next(server)}/voila/render/browsing.ipynb")
            page.wait_for_selector(".clipattr-grid[data-waiting='0'] .clipattr-cell img")
            page.wait_for_timeout(1500)
            for name, speed in SPEEDS.items():
                found = page.evaluate(SCROLL, [speed, seconds, ".clipattr-grid-view"])
                figures |= {
                    f"blank_frames_{name}": found["blankFrames"],
                    f"blank_cells_{name}": found["blank"],
                    f"frames_per_s_{name}": found["fps"],
                }
            figures["jump_ms"] = statistics.median(
                page.evaluate(JUMP, n / 13) for n in (2, 11, 5, 9, 1, 7, 12)
            )
            figures["elements"] = page.evaluate("() => document.querySelectorAll('.clipattr-cell').length")
            page.request_gc()
            figures["heap_MB"] = page.evaluate("() => performance.memory.usedJSHeapSize") / 1e6
            figures["page_MB"] = resident_of(psutil.Process().children(recursive=True))
            page.evaluate(PLAIN, PLAIN_CELLS)  # after the memory was read, which it would fill
            for name, speed in SPEEDS.items():
                page.evaluate("() => { document.querySelector('.plain').scrollTop = 0; }")
                plain = page.evaluate(SCROLL, [speed, seconds, ".plain"])
                figures[f"frames_ratio_{name}"] = figures[f"frames_per_s_{name}"] / plain["fps"]
            browser.close()
        finally:
            server.close()
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="scroll for two seconds at each speed")
    options = parser.parse_args()
    figures = measure(2.0 if options.quick else 8.0)
    for name, value in figures.items():
        print(f"{name:28}{value:12.3f}")
    print(write_results("browsing", figures, [], quick=options.quick))


if __name__ == "__main__":
    main()
