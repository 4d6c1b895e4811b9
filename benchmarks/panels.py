"""Speed of the panels: from a change until messages are sent and until they are painted; and leaks of widgets.

    python benchmarks/panels.py [--quick] [--no-browser]

On the bundled study, and on one of 30,000 latents (a random frozen dictionary over the same model). Python time runs
from the change until the last message of the explorer has been handed to the wire, everything computed in the calling
thread; `_bars_` figures stop at the message that brings the new bars. Painted time runs in headless Chromium with
Voila: from the key or click until two frames after the new bars are in the page, kernel and sockets included.

The map holds 30,000 random points: `map_painted_ms` runs from the arrival of the message in the browser until two
frames after it is drawn, `map_click_ms` from a click until Python's answer is back. The live world is dragged in the
browser: `world_updates_per_s` counts scenes rendered, measured and painted, with re-rendered truth for all causes.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ipywidgets
import numpy as np
from ipywidgets.widgets.widget import _instances
from results import write_results

import clipattr
from clipattr_widgets import BarList, ExplorerPanel, MapPanel, WorldPanel

LATENTS, K = 30_000, 64
HARNESS = Path(__file__).parents[1] / "tests" / "browser" / "conftest.py"


class Wire:
    """What the widgets of this process send: times, sizes and senders."""

    def __init__(self) -> None:
        self.sent: list[tuple[float, int, type]] = []

    def heard(self, widget: Any, message: Any, buffers: Any) -> None:
        size = len(repr(message)) + sum(len(buffer) for buffer in buffers or ())
        self.sent.append((time.perf_counter(), size, type(widget)))

    @contextmanager
    def listening(self) -> Iterator[None]:
        original = ipywidgets.Widget._send

        def send(widget: Any, message: Any, buffers: Any = None) -> None:
            self.heard(widget, message, buffers)
            original(widget, message, buffers)

        ipywidgets.Widget._send = send
        try:
            yield
        finally:
            ipywidgets.Widget._send = original

    def of(self, change: Callable[[], None]) -> dict[str, float]:
        """ms until all is sent, ms until the bars are, messages, kB."""
        self.sent.clear()
        start = time.perf_counter()
        change()
        if not self.sent:
            raise SystemExit("a change sent nothing; the panel is broken")
        bars = [at for at, _, kind in self.sent if kind is BarList]
        return {
            "ms": 1000 * (self.sent[-1][0] - start),
            "bars_ms": 1000 * ((bars[-1] if bars else self.sent[-1][0]) - start),
            "messages": len(self.sent),
            "kB": sum(size for _, size, _ in self.sent) / 1000,
        }


def python_times(study: Any, name: str, rounds: int) -> list[dict[str, Any]]:
    """Medians of each kind of change on one study."""
    words = [str(word) for word in study.vocabulary.words[:40]]
    panel = ExplorerPanel(study, picture=0, prompt=words[0])
    state, wire, rows = panel.state, Wire(), []

    def click(number: int) -> None:
        panel.bars.set_state({"selected": panel.bars.rows[1 + number % 8]["id"]})

    def switch(number: int) -> None:
        panel.bars._handle_custom_msg(
            {"kind": "scale", "id": panel.bars.rows[0]["id"], "factor": number % 2}, []
        )

    changes: dict[str, Callable[[int], None]] = {
        "prompt_change": lambda n: setattr(state, "prompt", f"{words[n % len(words)]} {n}"),
        "picture_change": lambda n: setattr(state, "picture", 1 + n),
        "latent_click": click,
        "latent_switch": switch,
    }
    with wire.listening():
        for change, act in changes.items():
            act(-1)
            measured = [wire.of(lambda n=n, act=act: act(n)) for n in range(rounds)]
            medians = {key: statistics.median(one[key] for one in measured) for key in measured[0]}
            rows.append({"study": name, "change": change, **medians})
    panel.close()
    return rows


def leaked(study: Any, changes: int) -> int:
    """Number of widgets left over after this many changes of explorer, map and live world."""
    explorer, chart, world = ExplorerPanel(study, picture=0), MapPanel(study), WorldPanel(study, picture=0)
    before = len(_instances)
    for number in range(changes):
        explorer.state.picture = number % 50
        explorer.state.toggle(explorer.bars.rows[0]["id"])
        explorer.state.latent = explorer.bars.rows[number % 5]["id"]
        chart.state.latent = number % 100
        chart.state.chosen = tuple(range(number % 30))
        world.state.move(0, number % 30, 5)
    after = len(_instances)
    for panel in (explorer, chart, world):
        panel.close()
    return after - before


def world_times(study: Any, rounds: int) -> dict[str, float]:
    """Scenes per second that are rendered, measured and handed to the wire, truth of every cause included."""
    panel = WorldPanel(study, picture=0)
    panel.state.put("watermark", panel.parts["watermark"].options[1][1])
    times = []
    for number in range(rounds + 2):
        start = time.perf_counter()
        panel.state.move(0, number % 30, 10 + number % 7)
        times.append(time.perf_counter() - start)
    causes = len(panel.state.causes)
    panel.close()
    return {"world_python_updates_per_s": 1 / statistics.median(times[2:]), "world_causes": causes}


def wide_study(study: Any, path: Path, pictures: int = 400) -> Any:
    """The same model with a random dictionary of 30,000 latents, over a few hundred pictures, at a path."""
    from clipattr.dictionaries import random_sae

    dictionary = random_sae(
        np.asarray(study.activations[:2000], np.float32), LATENTS, K, site=str(study.site),
        model_hash=study.model.weights_hash,
    )  # fmt: skip
    return clipattr.build_study(
        study.model, study.images.select(np.arange(pictures)), path=path, evaluator=study.evaluator,
        vocabulary=list(study.vocabulary.words), dictionary=dictionary, site=str(study.site), progress=False,
    )  # fmt: skip


PAINTED = """async ([selector, act, value]) => {
  const root = document.querySelector(selector);
  const before = root.dataset.gen;
  const start = performance.now();
  if (act === 'switch') root.querySelector('.clipattr-switch').click();
  else {
    const box = document.querySelector('.clipattr-panel input[list], .clipattr-panel .widget-combobox input');
    box.value = value;
    box.dispatchEvent(new Event('input', {bubbles: true}));
    box.dispatchEvent(new Event('change', {bubbles: true}));
  }
  while (root.dataset.gen === before) await new Promise(done => setTimeout(done, 1));
  await new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)));
  return performance.now() - start;
}"""


MAP_PAINTED = """async () => {
  const root = document.querySelector('.clipattr-scatter');
  const before = root.dataset.painted;
  [...document.querySelectorAll('button')].find(b => b.textContent === 'other points').click();
  while (root.dataset.painted === before) await new Promise(done => setTimeout(done, 1));
  return Number(root.dataset.painted.split(' ')[1]);
}"""
MAP_CLICKED = """async ([x, y]) => {
  const root = document.querySelector('.clipattr-scatter'), canvas = root.querySelector('canvas');
  const box = canvas.getBoundingClientRect();
  const at = {clientX: box.x + x * box.width, clientY: box.y + y * box.height, bubbles: true, pointerId: 1, button: 0};
  const before = root.dataset.selected;
  canvas.setPointerCapture = () => {};
  const start = performance.now();
  for (const kind of ['pointerdown', 'pointerup']) canvas.dispatchEvent(new PointerEvent(kind, at));
  if (root.dataset.selected === before) return null;
  while (root.dataset.answered !== root.dataset.selected) await new Promise(done => setTimeout(done, 1));
  return performance.now() - start;
}"""
WORLD_DRAGGED = """async (rounds) => {
  const root = document.querySelector('.clipattr-stage'), handle = root.querySelector('.clipattr-handle');
  handle.setPointerCapture = () => {};
  const send = (kind, x, y) => handle.dispatchEvent(
    new PointerEvent(kind, {clientX: x, clientY: y, bubbles: true, pointerId: 1, button: 0}));
  send('pointerdown', 100, 100);
  const start = performance.now();
  for (let i = 1; i <= rounds; i++) {
    const before = root.dataset.gen;
    send('pointermove', 100 + 9 * (i % 12), 100 - 5 * (i % 7));
    while (root.dataset.gen === before) await new Promise(requestAnimationFrame);
  }
  send('pointerup', 100, 100);
  return 1000 * rounds / (performance.now() - start);
}"""
POINTS = f"""
import ipywidgets as W
import numpy as np
from clipattr_widgets import Scatter, WorldPanel
rng = np.random.default_rng(0)
scatter = Scatter(title="random points")
names = [f"word {{i % 900}}" for i in range({LATENTS})]
scatter.observe(lambda change: setattr(scatter, "answered", change["new"]), "selected")
def show(_=None):
    scatter.show(rng.normal(size=({LATENTS}, 2)), groups=(rng.random({LATENTS}) < 0.01), names=names,
                 meta={{"x": "x", "y": "y", "alt": "points", "legend": ["latent", "lit up"]}})
show()
other = W.Button(description="other points")
other.on_click(show)
world = WorldPanel("picture-world", picture=0)
"""


def map_and_world_times(page: Any, rounds: int) -> dict[str, float]:
    """Of a page with the map of random points and the live world, in ms and updates per second."""
    painted = [page.evaluate(MAP_PAINTED) for _ in range(rounds)]
    page.wait_for_timeout(500)
    clicks = [page.evaluate(MAP_CLICKED, [0.3 + 0.4 * n / rounds, 0.5]) for n in range(rounds)]
    clicks = [time for time in clicks if time is not None]
    return {
        "map_painted_ms": statistics.median(painted),
        "map_click_ms": statistics.median(clicks),
        "world_updates_per_s": page.evaluate(WORLD_DRAGGED, rounds),
    }


def painted_times(rounds: int) -> dict[str, float] | None:
    """Medians in ms in a real browser, or None where there is none."""
    import os
    import shutil

    import nbformat

    path = next((found for name in ("chromium", "google-chrome") if (found := shutil.which(name))), None)
    if path is None:
        return None
    from playwright.sync_api import sync_playwright

    spec = importlib.util.spec_from_file_location("harness", HARNESS)
    assert spec is not None and spec.loader is not None
    harness = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(harness)
    with tempfile.TemporaryDirectory() as folder:
        cell = "import clipattr as ca\nfrom clipattr_widgets import ExplorerPanel\n"
        cell += "panel = ExplorerPanel('picture-world', picture=3)\npanel"
        book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)])
        book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(book, Path(folder) / "painted.ipynb")
        book.cells = [nbformat.v4.new_code_cell(POINTS + "W.VBox([scatter, other])")]
        book.cells.append(nbformat.v4.new_code_cell("world"))
        nbformat.write(book, Path(folder) / "map.ipynb")
        environment = {**os.environ, "IPYTHONDIR": folder, "JUPYTER_RUNTIME_DIR": folder}
        server = harness.voila_at(folder, environment)
        root = next(server)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=path, args=harness.CHROMIUM_FLAGS)
            page = browser.new_page()
            page.goto(f"{root}/voila/render/painted.ipynb")
            page.wait_for_selector(".clipattr-gallery[data-gen] .clipattr-thumb", timeout=120_000)
            page.wait_for_timeout(1000)
            found = {}
            for act in ("switch", "prompt"):
                times = [
                    page.evaluate(PAINTED, [".clipattr-bars", act, f"a photo {n}"]) for n in range(rounds)
                ]
                found[act] = statistics.median(times[1:])
            page.goto(f"{root}/voila/render/map.ipynb")
            page.wait_for_selector(".clipattr-stage[data-gen] .clipattr-handle", timeout=120_000)
            page.wait_for_selector(".clipattr-scatter[data-gen]")
            page.wait_for_timeout(1000)
            found |= map_and_world_times(page, rounds)
            browser.close()
        server.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds and changes")
    parser.add_argument("--no-browser", action="store_true", help="leave out painted times")
    options = parser.parse_args()
    rounds = 8 if options.quick else 30
    study = clipattr.open_study("picture-world")
    rows = python_times(study, "picture-world", rounds)
    with tempfile.TemporaryDirectory() as folder:
        rows += python_times(wide_study(study, Path(folder) / "wide"), "30,000 latents", rounds)
    named = {(row["study"], row["change"]): row for row in rows}
    figures: dict[str, float] = {}
    for change in ("prompt_change", "picture_change", "latent_click", "latent_switch"):
        row = named["picture-world", change]
        figures |= {f"{change}_ms": row["ms"], f"{change}_bars_ms": row["bars_ms"]}
        figures |= {f"{change}_messages": row["messages"], f"{change}_kB": row["kB"]}
        figures[f"{change}_30k_ms"] = named["30,000 latents", change]["ms"]
    figures |= world_times(study, rounds)
    figures["widgets_leaked"] = leaked(study, 40 if options.quick else 200)
    painted = None if options.no_browser else painted_times(6 if options.quick else 15)
    if painted:
        figures |= {"painted_ms": painted.pop("switch"), "painted_prompt_ms": painted.pop("prompt")} | painted
    print(f"{'study':16}{'change':16}{'ms':>9}{'bars ms':>9}{'messages':>10}{'kB':>8}")
    for row in rows:
        print(
            f"{row['study']:16}{row['change']:16}{row['ms']:9.1f}{row['bars_ms']:9.1f}{row['messages']:10.0f}{row['kB']:8.0f}"
        )
    for name, value in figures.items():
        if name.startswith(("painted", "map", "world", "widgets")):
            print(f"{name}: {value:.1f}")
    print(write_results("panels", figures, rows, quick=options.quick))


if __name__ == "__main__":
    main()
