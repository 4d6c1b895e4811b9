"""The map and the live world in Voila: points to click, box and walk; a scene to drag and write in."""

import re

import pytest

pytestmark = pytest.mark.browser

CELLS = (
    "import clipattr as ca, clipattr_widgets as w\nstudy = ca.open_study({path!r})\n"
    "map_ = w.MapPanel(study)\nmap_",
    "world = w.WorldPanel(study, picture=5)\nworld",
)
CANVAS = ".clipattr-scatter canvas"
MAP = ".clipattr-scatter"
STAGE = ".clipattr-stage"
SCORE = ".clipattr-score"


@pytest.fixture(scope="module")
def page(voila, notebook, opened, study_folder):
    cells = [cell.format(path=str(study_folder)) for cell in CELLS]
    made = opened(width=1240, height=1000)
    made.open_voila(voila, notebook("map.ipynb", *cells))
    made.page.wait_for_selector(f"{STAGE}[data-gen] img[src^=blob]")
    made.page.wait_for_selector(f"{MAP}[data-gen]")
    made.page.wait_for_selector(".clipattr-bars[data-gen] .clipattr-bar-row")
    made.page.wait_for_function("() => document.querySelectorAll('.clipattr-table tbody tr').length > 5")
    return made


def chosen(page):
    return int(page.page.locator(MAP).get_attribute("data-selected"))


def walk(page, key):
    """One step by an arrow key and Enter; the latent that is chosen then, once Python has answered."""
    page.page.locator(CANVAS).focus()
    before = chosen(page)
    page.page.keyboard.press(key)
    page.page.keyboard.press("Enter")
    page.page.wait_for_function(
        "([s, old]) => { const d = document.querySelector(s).dataset; "
        "return d.selected !== old && d.answered === d.selected }",
        arg=[MAP, str(before)],
    )
    return chosen(page)


def test_points_are_painted_and_the_map_has_words_for_those_who_do_not_see_it(page, screenshots):
    inked = page.page.locator(CANVAS).evaluate(
        "c => c.getContext('2d').getImageData(0, 0, c.width, c.height).data.filter((v, i) => i % 4 === 3 && v).length"
    )
    assert inked > 500
    assert "map of" in page.page.locator(CANVAS).get_attribute("aria-label")
    assert page.page.locator(f"{MAP} svg text").count() > 6
    page.page.screenshot(path=screenshots / "voila-map.png")


def test_arrow_keys_walk_and_enter_chooses_and_a_click_on_its_place_chooses_it_again(page):
    first = walk(page, "ArrowRight")
    page.page.wait_for_selector(".clipattr-scatter-tip img")  # its strongest pictures
    ring = page.page.locator(".clipattr-scatter-ring")
    x, y = (
        float(n) for n in re.findall(r"translate\(([-\d.]+)px, ([-\d.]+)px\)", ring.get_attribute("style"))[0]
    )
    assert walk(page, "ArrowUp") != first
    page.page.locator(CANVAS).click(position={"x": x, "y": y})
    page.page.wait_for_function(
        "([s, id]) => document.querySelector(s).dataset.answered === id", arg=[MAP, str(first)]
    )
    page.page.wait_for_selector(f"h3.clipattr-title:has-text('latent {first}')")


def drag(page, places, mode=None):
    """Over the canvas, places in shares of its size."""
    if mode:
        page.page.click(f"{MAP} .clipattr-scatter-tools button:text-is('{mode}')")
    box = page.page.locator(CANVAS).bounding_box()
    points = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in places]
    page.page.mouse.move(*points[0])
    page.page.mouse.down()
    for point in points[1:]:
        page.page.mouse.move(*point, steps=4)
    page.page.mouse.up()


def count(page):
    text = (
        page.page.locator(".clipattr-note:has-text('latents')")
        .filter(has_text="chosen on the map")
        .inner_text()
    )
    return int(text.split()[0].replace(",", ""))


def test_a_box_and_a_loop_choose_what_they_hold_and_the_table_lists_it(page, screenshots):
    drag(page, [(0.06, 0.02), (0.98, 0.9)], "box")
    page.page.wait_for_selector(".clipattr-note:has-text('chosen on the map')")
    everything = count(page)
    assert everything > 100
    drag(page, [(0.5, 0.1), (0.95, 0.1), (0.95, 0.85), (0.5, 0.85), (0.5, 0.1)], "lasso")
    page.page.wait_for_function(
        "old => { const t = [...document.querySelectorAll('.clipattr-note')].map(e => e.innerText)"
        ".find(t => t.includes('chosen on the map')); return t && t.split(' ')[0] !== old }",
        arg=f"{everything:,}",
    )
    assert 0 < count(page) < everything
    page.page.screenshot(path=screenshots / "voila-map-lasso.png")
    page.page.locator(CANVAS).focus()
    page.page.keyboard.press("Escape")
    page.page.wait_for_selector(".clipattr-note:has-text('standing out')")


def test_a_word_lights_points_up_and_zoom_keeps_them(page, screenshots):
    box = page.page.get_by_placeholder("highlight: a word")
    box.fill(
        page.page.locator(".clipattr-table tbody tr td bdi").first.inner_text().strip("?").split(" · ")[-1]
    )
    page.after(MAP, lambda: box.press("Enter"))
    page.page.wait_for_selector(".clipattr-note:has-text('lit up')")
    assert "lit up" in page.text(".clipattr-scatter-legend")
    page.page.locator(CANVAS).focus()
    ticks = page.page.locator(f"{MAP} svg").first.text_content()
    page.page.keyboard.press("+")
    page.page.wait_for_function(
        "([s, old]) => document.querySelector(s + ' svg').textContent !== old", arg=[MAP, ticks]
    )
    page.page.screenshot(path=screenshots / "voila-map-lit.png")
    page.page.keyboard.press("0")
    page.settle()


def now(page):
    return page.page.locator(f"{SCORE} b").first.inner_text()


def test_a_dragged_object_moves_and_the_score_follows(page, screenshots):
    page.settle()
    page.page.locator(STAGE).scroll_into_view_if_needed()
    handle = page.page.locator(f"{STAGE} .clipattr-handle").first
    before, place = now(page), handle.bounding_box()
    to = 40 if place["x"] < page.page.locator(STAGE).bounding_box()["x"] + 100 else -60
    page.page.mouse.move(place["x"] + place["width"] / 2, place["y"] + place["height"] / 2)
    page.page.mouse.down()
    page.page.mouse.move(place["x"] + place["width"] / 2 + to, place["y"] + place["height"] / 2 - 8, steps=6)
    page.page.mouse.up()
    page.page.wait_for_function(
        "([s, old]) => document.querySelector(s + ' b').innerText !== old", arg=[SCORE, before]
    )
    page.page.wait_for_function(
        "([s, x]) => Math.abs(document.querySelector(s).getBoundingClientRect().x - x) > 15",
        arg=[f"{STAGE} .clipattr-handle", place["x"]],
    )
    page.page.screenshot(path=screenshots / "voila-world.png")


def test_arrow_keys_move_an_object_and_a_written_word_becomes_a_cause(page, screenshots):
    handle = page.page.locator(f"{STAGE} .clipattr-handle").first
    said = handle.get_attribute("aria-label")
    page.after(STAGE, lambda: handle.press("ArrowLeft") or handle.press("ArrowDown"))
    page.page.wait_for_function(
        "([s, old]) => document.querySelector(s).getAttribute('aria-label') !== old",
        arg=[f"{STAGE} .clipattr-handle", said],
    )
    word = page.page.get_by_label("written", exact=True)
    word.fill("tea")
    word.press("Enter")
    page.page.wait_for_selector(".clipattr-table td:has-text('the word tea')")
    page.settle()
    written = page.page.locator(f"{STAGE} .clipattr-handle[aria-label^='the word tea']")
    place = written.bounding_box()
    page.after(STAGE, lambda: written.press("Shift+ArrowDown" if place["y"] < 300 else "Shift+ArrowUp"))
    assert abs(written.bounding_box()["y"] - place["y"]) > 15
    page.page.screenshot(path=screenshots / "voila-world-word.png")
