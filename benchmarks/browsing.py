"""Panels on a study of 30,000 latents and 50,000 pictures: time to paint, scrolling, and the memory of the page.

    python benchmarks/browsing.py [--quick]

The study: the bundled model, a random dictionary, 1,000 pictures of the picture world with all that a study holds of
them, written out 50 times; thumbnails are JPEGs of 112 px in one file. One page of Voila in headless Chromium goes
through prompts, the picture grid, the latent grid and the map, as an analyst would, and its memory is read at the end.

`prompt_painted_ms`: from a new prompt until two frames after the new bars are in the page; `map_word_ms`: on the map of
all latents, from Enter on a word until its latents are lit and listed; `map_examples_ms`: from a click on one of them
until its pictures are there; `compare_ms`: from a click on *Compare* until the scores that two models give one picture
are there, the second model opened for it.

The picture grid scrolls at a steady speed; in every frame cells in sight without their picture are counted.
`blank_frames_*`: share of frames with at least one cell that shows nothing; `blank_cells_*`: share of such cells in
sight; `coarse_cells_*`: share of cells in sight that show the preview of their picture, of 8 × 8 pixels; `previews_s`:
time until the previews of all pictures are in the page, which are fetched while nobody scrolls; the scrolls follow.
`frames_per_s_*`: frames drawn; `frames_ratio_*`: these over what the page draws of a plain, unvirtualised list of 5,200
such cells, scrolled at the same speed afterwards: it depends less on how busy the machine is; `jump_ms`: from a jump to
a far place until every cell there has its picture.

`heap_MB`: the page's JavaScript heap after all that; `page_MB`: resident memory of the renderer process, with decoded
pictures and with what it shares with the other processes of Chromium; `own_MB`: what would be free if the page were
closed; `start_MB`, `start_own_MB`: the same when the page had just opened.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import io
import json
import math
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
from panels import LATENTS, PAINTED, wide_study
from results import write_results

from clipattr_widgets.previews import CHUNK

HARNESS = Path(__file__).parents[1] / "tests" / "browser" / "conftest.py"
PICTURES, DIFFERENT = 50_000, 1_000
SPEEDS = {"reading": 600, "skimming": 2400, "flinging": 8000}  # px a second
CELL = """
import clipattr as ca
ca.explore([ca.open_study({folder!r}), ca.open_study("picture-world-b")], picture=5, prompt="kite")
"""
PLAIN_CELLS = 5200
PLAIN = """async (count) => {
  const model = document.querySelector(".clipattr-grid-view");
  const copies = await Promise.all([...model.querySelectorAll("canvas")].slice(0, 40).map(async (image) => {
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
  let [frames, blankFrames, cells, blank, coarse] = [0, 0, 0, 0, 0];
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
      if (cell.dataset.filled !== undefined || cell.querySelector("img")?.complete) continue;
      if (cell.dataset.preview === undefined) lacking++;
      else coarse++;
    }
    blank += lacking;
    frames++;
    if (lacking) blankFrames++;
  }
  return {
    frames, fps: frames / seconds, blankFrames: blankFrames / frames, blank: blank / cells, coarse: coarse / cells,
  };
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


WORD_LIT = """async (word) => {
  const box = document.querySelector("input[placeholder='light up: a word']");
  const lit = () => [...document.querySelectorAll(".clipattr-note")].some((note) => /lit up/.test(note.innerText));
  const root = document.querySelector(".clipattr-scatter");
  const frame = () => new Promise((done) => requestAnimationFrame(done));
  const before = root.dataset.gen;
  const begun = performance.now();
  box.value = word;
  box.dispatchEvent(new Event("input", { bubbles: true }));
  box.dispatchEvent(new Event("change", { bubbles: true }));
  while (root.dataset.gen === before || !lit()) await frame();
  await frame();
  return performance.now() - begun;
}"""
COMPARED = """async () => {
  const scores = () => [...document.querySelectorAll(".clipattr-compare .clipattr-score b")];
  const begun = performance.now();
  [...document.querySelectorAll(".clipattr-tabs button")].find((one) => one.innerText === "Compare").click();
  const frame = () => new Promise((done) => requestAnimationFrame(done));
  while (scores().filter((one) => /[0-9]/.test(one.innerText)).length < 2) await frame();
  await frame();
  return performance.now() - begun;
}"""
EXAMPLES_SHOWN = """async (place) => {
  const row = document.querySelectorAll(".clipattr-map .clipattr-table tbody tr")[place];
  const gallery = document.querySelector(".clipattr-map .clipattr-gallery");
  const frame = () => new Promise((done) => requestAnimationFrame(done));
  const before = gallery.dataset.gen;
  const begun = performance.now();
  row.click();
  while (gallery.dataset.gen === before || !gallery.querySelector(".clipattr-thumb")) await frame();
  await frame();
  return performance.now() - begun;
}"""


def tiled(folder: Path, pictures: int) -> None:
    """Write the pictures of the study in a folder out again and again, under new names, until there are so many; add
    thumbnails, which studies of files have and this one, of rendered scenes, does not need."""
    from clipattr.studies.format import MANIFEST, all_files, read_codes
    from clipattr.studies.study import open_study
    from clipattr_widgets.sprites import fit

    study = open_study(folder)
    rows = np.resize(np.arange(len(study.images)), pictures)
    small = []
    for number in range(len(study.images)):
        buffer = io.BytesIO()
        fit(study.images[number].load(), 112).save(buffer, "JPEG", quality=82)
        small.append(buffer.getvalue())
    n_latents = study.dictionary.n_latents
    assert read_codes(folder, n_latents).k is not None
    del study
    (folder / "thumbnails.bin").write_bytes(b"".join(small[row] for row in rows))
    np.save(folder / "thumbnails.npy", np.cumsum([0, *(len(small[row]) for row in rows)]))
    for name in ("activations", "evaluator", "codes-indices", "codes-values", "fingerprints", "repeats"):
        np.save(folder / f"{name}.npy", np.load(folder / f"{name}.npy")[rows])
    names = [f"{number:06d}" for number in range(pictures)]
    with (folder / "pictures.csv").open(encoding="utf-8", newline="") as file:
        head, *lines = list(csv.reader(file))
    with (folder / "pictures.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(
            [head, *([name, *lines[row][1:]] for name, row in zip(names, rows, strict=True))]
        )
    scenes = [json.loads(line) for line in (folder / "scenes.jsonl").read_text(encoding="utf-8").splitlines()]
    told = [json.dumps({**scenes[row], "id": name}) for name, row in zip(names, rows, strict=True)]
    (folder / "scenes.jsonl").write_text("\n".join(told) + "\n", encoding="utf-8")
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    manifest["counts"]["pictures"] = pictures
    manifest["files"] = all_files(folder)
    (folder / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")


def memory_of(page: Any) -> tuple[float, float]:
    """MB of the largest renderer: resident, and its own alone, after a collection of garbage."""
    import psutil

    page.request_gc()
    page.wait_for_timeout(1000)
    renderers = [
        p for p in psutil.Process().children(recursive=True) if "--type=renderer" in " ".join(p.cmdline())
    ]
    largest = max(renderers, key=lambda p: p.memory_info().rss)
    return largest.memory_info().rss / 1e6, largest.memory_full_info().uss / 1e6


def measure(study: Path, seconds: float, rounds: int) -> dict[str, float]:
    import os

    from playwright.sync_api import sync_playwright

    spec = importlib.util.spec_from_file_location("harness", HARNESS)
    assert spec is not None and spec.loader is not None
    harness = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(harness)
    path = next((found for name in harness.BROWSERS if (found := shutil.which(name))), None)
    if path is None:
        raise SystemExit("no Chromium on the path")
    figures: dict[str, float] = {"latents": LATENTS, "cells": PICTURES}
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL.format(folder=str(study)))])
        book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(book, Path(folder) / "browsing.ipynb")
        environment = {**os.environ, "IPYTHONDIR": folder, "JUPYTER_RUNTIME_DIR": folder}
        server = harness.voila_at(folder, environment)
        try:
            browser = playwright.chromium.launch(executable_path=path, args=harness.CHROMIUM_FLAGS)
            page = browser.new_page(viewport={"width": 1240, "height": 900})
            page.set_default_timeout(200_000)
            page.goto(f"{next(server)}/voila/render/browsing.ipynb")
            page.wait_for_selector(".clipattr-gallery[data-gen] .clipattr-thumb")
            page.wait_for_function(harness.SETTLED)
            figures["start_MB"], figures["start_own_MB"] = memory_of(page)
            painted = []
            for number in range(rounds + 1):
                painted.append(page.evaluate(PAINTED, [".clipattr-bars", "prompt", f"a photo {number}"]))
                page.wait_for_timeout(400)  # the score's place among the pictures follows the bars
            figures["prompt_painted_ms"] = statistics.median(painted[1:])
            grids(page, figures, seconds)
            the_map(page, figures, rounds)
            page.click(".clipattr-tabs button:text-is('Browse')")
            page.wait_for_selector(".clipattr-grid[data-waiting='0'] .clipattr-cell[data-filled]")
            figures["heap_MB"] = page.evaluate("() => performance.memory.usedJSHeapSize") / 1e6
            figures["page_MB"], figures["own_MB"] = memory_of(page)
            page.evaluate(PLAIN, PLAIN_CELLS)  # after the memory was read, which it would fill
            for name, speed in SPEEDS.items():
                page.evaluate("() => { document.querySelector('.plain').scrollTop = 0; }")
                plain = page.evaluate(SCROLL, [speed, seconds, ".plain"])
                figures[f"frames_ratio_{name}"] = figures[f"frames_per_s_{name}"] / plain["fps"]
            page.evaluate("() => document.querySelector('.plain').remove()")
            figures["compare_ms"] = page.evaluate(COMPARED)
            browser.close()
        finally:
            server.close()
    return figures


def grids(page: Any, figures: dict[str, float], seconds: float) -> None:
    """Scroll latents, then pictures; into `figures` goes what was seen of the pictures."""
    page.click(".clipattr-tabs button:text-is('Browse')")
    ready = ".clipattr-grid[data-waiting='0'] .clipattr-cell[data-filled]"
    page.wait_for_selector(ready)
    page.click(".clipattr-browse button:text-is('latents')")
    page.wait_for_selector(".clipattr-grid[data-waiting='0'] .clipattr-gallery-title:has-text('latents')")
    found = page.evaluate(SCROLL, [SPEEDS["skimming"], seconds, ".clipattr-grid-view"])
    figures["blank_frames_latents"] = found["blankFrames"]
    page.click(".clipattr-browse button:text-is('pictures')")
    page.wait_for_selector(".clipattr-grid[data-waiting='0'] .clipattr-gallery-title:has-text('pictures')")
    page.wait_for_timeout(1500)
    page.evaluate("() => { document.querySelector('.clipattr-grid-view').scrollTop = 100; }")
    begun = time.perf_counter()
    sheets = math.ceil(PICTURES / CHUNK)
    page.wait_for_selector(f".clipattr-browse .clipattr-grid[data-previews='{sheets}']")
    figures["previews_s"] = time.perf_counter() - begun
    for name, speed in SPEEDS.items():
        found = page.evaluate(SCROLL, [speed, seconds, ".clipattr-grid-view"])
        figures |= {
            f"blank_frames_{name}": found["blankFrames"],
            f"blank_cells_{name}": found["blank"],
            f"coarse_cells_{name}": found["coarse"],
            f"frames_per_s_{name}": found["fps"],
        }
    figures["jump_ms"] = statistics.median(page.evaluate(JUMP, n / 13) for n in (2, 11, 5, 9, 1, 7, 12))
    figures["elements"] = page.evaluate("() => document.querySelectorAll('.clipattr-cell').length")


def the_map(page: Any, figures: dict[str, float], rounds: int) -> None:
    """Find latents by word on the map, and look at their pictures."""
    page.click(".clipattr-tabs button:text-is('Map')")
    page.click(".clipattr-map button:text-is('clarity × frequency')")
    page.wait_for_selector(".clipattr-scatter[data-gen]")
    page.wait_for_timeout(1500)
    words = ["kite", "guitar", "rocket", "tractor", "mushroom", "anchor", "rose", "house"]
    times = [page.evaluate(WORD_LIT, words[number % len(words)]) for number in range(rounds)]
    figures["map_word_ms"] = statistics.median(times)
    figures["map_examples_ms"] = statistics.median(page.evaluate(EXAMPLES_SHOWN, n) for n in (0, 1, 2, 0, 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="scroll for two seconds at each speed")
    parser.add_argument(
        "--study", type=Path, help="keep the study in this folder, and use the one that is there"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        study = (options.study or Path(scratch) / "wide").resolve()
        if not study.exists():
            import clipattr

            wide_study(clipattr.open_study("picture-world"), study, DIFFERENT)
            tiled(study, PICTURES)
        figures = measure(study, *((2.0, 6) if options.quick else (8.0, 15)))
    for name, value in figures.items():
        print(f"{name:28}{value:12.3f}")
    print(write_results("browsing", figures, [], quick=options.quick))


if __name__ == "__main__":
    main()
