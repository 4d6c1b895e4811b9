"""What single parts draw, in a browser without a kernel: places and lengths are measured on the page."""

import base64
import io

import pytest
from PIL import Image, ImageDraw

pytestmark = pytest.mark.browser


def box(page, selector):
    """left, top, right, bottom of the first element of this kind, in CSS pixels."""
    found = page.page.locator(selector).first.bounding_box()
    return found["x"], found["y"], found["x"] + found["width"], found["y"] + found["height"]


def wide(number):
    """A 3:1 picture: a disc in the middle of a grey strip."""
    page = Image.new("RGB", (180, 60), (150, 150, 150))
    draw = ImageDraw.Draw(page)
    draw.ellipse((70, 10, 110, 50), fill=[(220, 40, 40), (40, 180, 60), (50, 80, 220)][number % 3])
    draw.text((8 + number % 5, 20), "left", fill=(120, 120, 120))
    return page


@pytest.fixture(scope="module")
def wide_study(tiny_model, tmp_path_factory):
    """3:1 pictures and a model that takes the shortest side and crops the centre."""
    import clipattr

    assert '"resize_mode":"shortest"' in tiny_model.preprocess_id.replace(" ", "")
    folder = tmp_path_factory.mktemp("wide")
    for number in range(24):
        wide(number).save(folder / f"{number:02}.png")
    return clipattr.build_study(
        tiny_model, folder, path=tmp_path_factory.mktemp("study") / "wide", vocabulary=["disc", "strip", "grey"],
        evaluator=tiny_model, n_latents=16, k=4, examples=6, progress=False, training={"steps": 30},
    )  # fmt: skip


@pytest.fixture(scope="module")
def wide_panel(wide_study):
    import clipattr_widgets

    panel = clipattr_widgets.ExplorerPanel(wide_study, picture=3, prompt="disc")
    panel.state.settle()
    yield panel
    panel.close()


def test_heat_lies_in_the_crop_that_the_model_sees_and_the_rest_is_dimmed(wide_panel, draw, screenshots):
    page = draw(wide_panel.overlay)
    left, top, right, bottom = box(page, ".clipattr-overlay-stage")
    third = (right - left) / 3
    heat = box(page, "canvas.clipattr-heat")
    assert heat == pytest.approx((left + third, top, right - third, bottom), abs=2)
    assert box(page, ".clipattr-crop") == pytest.approx(heat, abs=1)
    assert "what the model sees" in page.text(".clipattr-overlay")
    page.page.screenshot(path=screenshots / "wide-overlay.png")
    with Image.open(screenshots / "wide-overlay.png") as shot:
        beside = shot.convert("L").getpixel((int(left + third / 4), int((top + bottom) / 2)))
    assert beside < 140  # the strip is 150 where it is not dimmed


def test_heat_on_thumbnails_lies_in_the_crop_and_not_on_the_letterbox(wide_study, draw, screenshots):
    import clipattr_widgets

    panel = clipattr_widgets.LatentPanel(
        wide_study, latent=int(wide_study.codes.rows(3).indices[0, 0]), heat=True
    )
    panel.state.settle()
    page = draw(panel.gallery)
    page.page.screenshot(path=screenshots / "wide-gallery.png")
    left, top, right, bottom = box(page, ".clipattr-thumb-picture")
    third = (right - left) / 3
    expected = (left + third, top + third, right - third, bottom - third)
    assert box(page, "canvas.clipattr-heat") == pytest.approx(expected, abs=2)
    panel.close()


def rows_on_the_axis(page):
    """For each row: number shown, left and right end of its bar in the axis' own unit, whether it is marked as broken.

    The unit is read off the ticks as a person would.
    """
    return page.page.evaluate(
        """() => {
          const value = (text) => Number(text.replace("≠", "").replace("+", "").replace("−", "-"));
          const ticks = [...document.querySelectorAll(".clipattr-tick")].map((tick) => {
            const box = tick.getBoundingClientRect();
            return { value: value(tick.innerText), x: (box.left + box.right) / 2 };
          });
          const [a, b] = [ticks[0], ticks.at(-1)];
          const unit = (x) => a.value + ((x - a.x) * (b.value - a.value)) / (b.x - a.x);
          return [...document.querySelectorAll(".clipattr-bars-body .clipattr-bar-row")].map((row) => {
            const bar = row.querySelector(".clipattr-fill").getBoundingClientRect();
            return {
              label: row.querySelector(".clipattr-bar-label").innerText,
              value: value(row.querySelector(".clipattr-number").innerText),
              left: unit(bar.left), right: unit(bar.right), pixel: (b.value - a.value) / (b.x - a.x),
              broken: !row.querySelector(".clipattr-break").hidden,
            };
          });
        }"""
    )


@pytest.fixture(scope="module")
def tractor():
    """The explorer on a picture of the bundled study, without a kernel."""
    import clipattr

    panel = clipattr.explore(clipattr.open_study("picture-world"), picture=15)
    panel.state.settle()
    yield panel
    panel.close()


@pytest.mark.parametrize("method", ["", "exact"])
@pytest.mark.parametrize("waterfall", [False, True])
def test_every_bar_is_as_long_as_its_number_or_marked_as_broken(
    tractor, draw, screenshots, method, waterfall
):
    state = tractor.state
    state.method, state.waterfall = method, waterfall
    state.settle()
    page = draw(tractor.bars)
    rows = rows_on_the_axis(page)
    *parts, score = rows
    assert score["label"] == "score" and score["value"] == pytest.approx(100 * state.now, abs=0.01)
    assert sum(row["value"] for row in parts) == pytest.approx(
        score["value"], abs=0.06
    )  # 0.005 each of the rows
    at = 0.0
    for row in rows:
        start = at if waterfall and row is not score else 0.0
        low, high = sorted((start, start + row["value"]))
        slack = 2.5 * row["pixel"]
        if row["broken"]:
            assert not waterfall and high - low > row["right"] - row["left"] + slack
        else:
            assert (row["left"], row["right"]) == pytest.approx((low, high), abs=slack)
        at += row["value"]
    if method == "exact":
        assert any(row["label"] == "several latents together" for row in rows)
    page.page.screenshot(
        path=screenshots / f"bars-{method or 'default'}-{'waterfall' if waterfall else 'plain'}.png"
    )


def test_a_long_list_scrolls_by_itself_and_its_axis_stays_true(tractor, draw):
    state = tractor.state
    state.method, state.waterfall, state.n_rows = "", False, 200
    state.settle()
    rows = [row | {"id": 1000 + i} for i in range(8) for row in state.rows if row["part"] == "latent"]
    kept, tractor.bars.rows = tractor.bars.rows, [*rows, *(r for r in state.rows if r["part"] != "latent")]
    page = draw(tractor.bars)
    top, bottom = box(page, ".clipattr-bars")[1::2]
    assert len(tractor.bars.rows) > 40 and bottom - top < 720
    for row in rows_on_the_axis(page)[:6]:
        low, high = sorted((0.0, row["value"]))
        assert (row["left"], row["right"]) == pytest.approx((low, high), abs=2.5 * row["pixel"])
    page.page.locator(".clipattr-bar-row").first.focus()
    page.page.keyboard.press("End")
    assert page.page.evaluate("() => document.querySelector('.clipattr-bars-body').scrollTop") > 100
    tractor.bars.rows = kept


def test_a_row_that_would_flatten_all_latents_is_broken_off_and_said_to_be(draw):
    from clipattr_widgets import BarList

    def row(number, value, part="latent"):
        return {
            "id": number,
            "part": part,
            "label": str(number),
            "value": value,
            "text": f"{value:+.2f}",
            "scale": 1,
        }

    bars = BarList()
    bars.show(
        [row(1, 0.86), row(2, -0.4), row(-3, 71.6, "part"), row(-4, -15.9, "part")],
        columns={"value": "points"},
    )
    page = draw(bars)
    rows = rows_on_the_axis(page)
    assert [row["broken"] for row in rows] == [False, False, True, True]
    assert "longer than drawn" in page.text(".clipattr-axis")
    assert rows[0]["right"] == pytest.approx(0.86, abs=3 * rows[0]["pixel"])
    assert rows[2]["right"] - rows[2]["left"] > rows[0]["right"] - rows[0]["left"]


@pytest.fixture(scope="module")
def map_panel():
    """The map of the bundled study with findings of two prompts, one of them in view."""
    import clipattr
    from clipattr.discovery.findings import Finding
    from clipattr.statistics import Interval
    from clipattr_widgets import MapPanel

    def finding(prompt, latents):
        span = Interval(0.05, 0.04, 0.06)
        return Finding(prompt, latents, "x", "context", 0.8, span, span, 0.4, 0.1, 0.6, 0.9, (), {})

    found = [finding("tractor", (3, 9)), finding("mouse", (200,))]
    panel = MapPanel(clipattr.open_study("picture-world"), prompt="tractor", findings=found)
    panel.state.settle()
    yield panel
    panel.close()


def test_what_is_chosen_on_the_map_stays_marked_and_counted_and_outliers_have_names(
    map_panel, draw, screenshots
):
    page = draw(map_panel.scatter)
    names = page.page.locator("text.clipattr-scatter-label")
    boxes = names.evaluate_all(
        "all => all.map((one) => { const b = one.getBBox(); return [b.x, b.y, b.width, b.height]; })"
    )
    assert len(boxes) >= 8
    for i, (x, y, w, h) in enumerate(boxes):  # no name covers another
        for u, v, a, b in boxes[i + 1 :]:
            assert x + w <= u + 1 or u + a <= x + 1 or y + h <= v + 3 or v + b <= y + 3
    legend = page.text(".clipattr-scatter-legend")
    assert "in a finding of this prompt" in legend and "in a finding of another prompt" in legend
    left, top, right, bottom = box(page, ".clipattr-scatter-stage canvas")
    page.page.mouse.move(left + 60, top + 20)
    page.page.mouse.down()
    page.page.mouse.move((left + right) / 2, bottom - 60, steps=4)
    page.page.mouse.up()
    gen = page.page.evaluate("() => window.sent.length")
    assert gen >= 0
    map_panel.state.chosen = tuple(range(40))
    page = draw(map_panel.scatter)
    assert page.page.locator(".clipattr-scatter").get_attribute("data-chosen") == "40"
    assert page.text(".clipattr-scatter-tally").startswith("40 chosen")
    page.page.screenshot(path=screenshots / "map-chosen.png")
    map_panel.state.chosen = ()
    page = draw(map_panel.scatter)
    page.page.screenshot(path=screenshots / "map.png")


def test_what_was_in_view_on_the_map_is_in_view_when_it_comes_back(map_panel, draw):
    scatter = map_panel.scatter
    page = draw(scatter)
    ink = page.page.locator(".clipattr-scatter svg").first
    whole = ink.text_content()
    page.page.click(".clipattr-scatter-tools button:text-is('lasso')")
    page.page.locator(".clipattr-scatter canvas").first.focus()
    page.page.keyboard.press("+")
    page.page.wait_for_function(
        "whole => document.querySelector('.clipattr-scatter svg').textContent !== whole", arg=whole
    )
    closer = ink.text_content()
    page.page.wait_for_function("() => window.model.get('window').length === 5")
    kept = page.page.evaluate("() => [window.model.get('window'), window.model.get('tool')]")
    scatter.window, scatter.tool = kept
    page = draw(scatter)
    assert (
        page.page.locator(".clipattr-scatter svg").first.text_content() == closer != whole
        and kept[1] == "lasso"
    )
    assert page.page.locator(".clipattr-scatter-tools button[aria-pressed=true]").inner_text() == "lasso"
    scatter.window, scatter.tool = [], "box"


def test_the_grid_keeps_rows_and_asks_for_pages_ahead_in_the_direction_of_scrolling(draw):
    from clipattr_widgets.grid import Grid

    grid = Grid()
    grid.show(50_000, title="pictures", gen=1)
    page = draw(grid)
    look = """async (to) => {
      const view = document.querySelector(".clipattr-grid-view");
      await new Promise((done) => setTimeout(done, 400)); // no fling
      window.sent.length = 0;
      view.scrollTop = to;
      const frame = () => new Promise((done) => requestAnimationFrame(done));
      await frame();
      await frame();
      const box = view.getBoundingClientRect();
      const cells = [...view.querySelectorAll(".clipattr-cell:not([hidden])")].map((c) => c.getBoundingClientRect());
      const tall = 126;
      const above = new Set(cells.filter((c) => c.bottom <= box.top).map((c) => Math.round(c.top)));
      const below = new Set(cells.filter((c) => c.top >= box.bottom).map((c) => Math.round(c.top)));
      const per = cells.filter((c) => Math.round(c.top) === Math.round(cells[0].top)).length;
      const first = Math.floor((Math.floor(to / tall) * per) / 48);
      const asked = window.sent.filter((m) => m.kind === "need").flatMap((m) => m.pages);
      const [least, most] = [Math.min(...asked), Math.max(...asked)];
      return { above: above.size, below: below.size, ahead: most - first, behind: first - least };
    }"""
    down = page.page.evaluate(look, 40_000)
    assert down["below"] >= 3 and down["above"] <= 1 and down["ahead"] >= 4
    up = page.page.evaluate(look, 39_000)
    assert up["above"] >= 3 and up["below"] <= 1 and up["behind"] >= 4


def test_an_upright_picture_is_drawn_small_enough_for_what_stands_below_it(wide_panel, draw):
    from clipattr_widgets import Overlay

    upright = wide(1).rotate(90, expand=True)
    overlay = Overlay()
    overlay.show(upright, alt="upright", frame=wide_panel.state.table.frame(upright.size))
    page = draw(overlay)
    left, top, right, bottom = box(page, ".clipattr-overlay-stage")
    assert bottom - top < 1.45 * 256 and (bottom - top) / (right - left) == pytest.approx(3, abs=0.1)
    third = (bottom - top) / 3
    assert box(page, ".clipattr-crop") == pytest.approx((left, top + third, right, bottom - third), abs=2)


def test_marks_of_a_comparison_stand_on_an_axis_with_ticks(draw):
    from clipattr_widgets import DotList

    values = [(37.8, 3.0), (-6.1, 30.0), (None, 12.5)]
    rows = [
        {"id": i, "label": f"row {i}", "values": list(pair), "texts": [str(v) for v in pair], "own": "", "owner": -1,
         "spoken": ""}
        for i, pair in enumerate(values)
    ]  # fmt: skip
    dots = DotList()
    dots.show(rows, names=["one", "two"], axis="points")
    page = draw(dots)
    places = page.page.evaluate(
        """() => {
          const middle = (node) => { const b = node.getBoundingClientRect(); return (b.left + b.right) / 2; };
          const ticks = [...document.querySelectorAll(".clipattr-tick")];
          const [a, b] = [ticks[0], ticks.at(-1)];
          const number = (tick) => Number(tick.innerText.replace("−", "-"));
          const unit = (x) => number(a) + ((x - middle(a)) * (number(b) - number(a))) / (middle(b) - middle(a));
          return [...document.querySelectorAll(".clipattr-dots-row")].map((row) =>
            [...row.querySelectorAll(".clipattr-track .clipattr-dot")].map((dot) => unit(middle(dot))));
        }"""
    )
    assert places == [pytest.approx([v for v in pair if v is not None], abs=0.3) for pair in values]


def test_a_fast_scroll_asks_for_previews_alone_and_shows_them_until_the_pictures_come(draw):
    from clipattr_widgets.grid import Grid
    from clipattr_widgets.previews import Previews

    grid = Grid()
    grid.show(50_000, title="pictures", gen=1)
    page = draw(grid)
    fling = """async () => {
      const view = document.querySelector(".clipattr-grid-view");
      const frame = () => new Promise((done) => requestAnimationFrame(done));
      window.sent.length = 0;
      for (let i = 0; i < 12; i++) {
        view.scrollTop += 400;
        await frame();
      }
      return window.sent.map((message) => message.kind);
    }"""
    kinds = page.page.evaluate(fling)
    assert "previews" in kinds and "need" not in kinds
    root = page.page.locator(".clipattr-grid")
    assert int(root.get_attribute("data-blank")) > 0
    chunks = page.page.evaluate("() => [...new Set(window.sent.flatMap((message) => message.chunks ?? []))]")
    assert chunks == sorted(chunks)
    red = io.BytesIO()
    Image.new("RGB", (112, 112), (200, 30, 30)).save(red, "JPEG")
    previews = Previews(lambda row: red.getvalue())
    sheet = base64.b64encode(previews.sheet([previews.tile(0)] * grid.chunk)).decode()
    page.page.evaluate(
        """async ([chunks, text]) => {
          const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
          const told = [new DataView(bytes.buffer)];
          for (const chunk of chunks) await window.tell({ kind: "previews", chunk, gen: 1 }, told);
        }""",
        [chunks, sheet],
    )
    page.page.wait_for_selector(".clipattr-grid[data-blank='0']")
    colours = page.page.locator(".clipattr-cell[data-preview]:not([hidden]) canvas").evaluate_all(
        "all => all.map((one) => [...one.getContext('2d').getImageData(40, 40, 1, 1).data])"
    )
    assert len(colours) > 10 and all(r > 170 and g < 60 and b < 60 for r, g, b, _ in colours)
    page.page.wait_for_function(
        "() => window.sent.some((message) => message.kind === 'need')"
    )  # at rest again


def test_a_table_asks_for_more_rows_once_near_its_end(draw):
    from clipattr_widgets import DataTable

    table = DataTable(more=True)
    table.show(
        [{"id": i, "cells": [f"row {i}"]} for i in range(60)], columns=[{"key": "name", "label": "name"}]
    )
    page = draw(table)
    asked = "() => window.sent.filter((message) => message.kind === 'more').length"
    assert page.page.evaluate(asked) == 0
    page.page.evaluate("() => { document.querySelector('.clipattr-table').scrollTop = 1e6; }")
    page.page.wait_for_function(f"({asked})() === 1")
    page.page.locator("tbody tr").first.focus()
    page.page.keyboard.press("End")
    assert page.page.evaluate(asked) == 1


def test_previews_of_all_cells_are_fetched_once_a_scroll_has_come_to_rest(draw):
    from clipattr_widgets.grid import Grid

    grid = Grid(preload=True)
    grid.show(300, title="pictures", gen=1)
    page = draw(grid)
    page.page.evaluate(
        """async ([size, count]) => {
          const item = (i) => ({ caption: "", number: String(i), alt: `picture ${i}`, first: 0, sizes: [] });
          for (let page = 0; page * size < count; page++) {
            const items = Array.from({ length: Math.min(size, count - page * size) }, (_, i) => item(page * size + i));
            const nothing = [new DataView(new ArrayBuffer(0))];
            await window.tell({ kind: "page", page, gen: 1, items, px: 112, columns: 8 }, nothing);
          }
        }""",
        [grid.page, 300],
    )
    page.page.wait_for_selector(".clipattr-grid[data-waiting='0']")
    asked = (
        "() => window.sent.filter((message) => message.kind === 'previews').map((message) => message.chunks)"
    )
    assert page.page.evaluate(asked) == []  # nobody has scrolled
    page.page.evaluate("() => { document.querySelector('.clipattr-grid-view').scrollTop = 40; }")
    page.page.wait_for_function(f"({asked})().length === 1")
    assert page.page.evaluate(asked) == [[0, 1, 2]]  # the nearest first
