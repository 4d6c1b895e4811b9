"""What analysts come for, done with mouse and keyboard: each task ends in an answer that is compared with the truth.

In a served page, in Voila and in JupyterLab, light and dark, 1,440 and 760 px wide: twelve ways, of which a run takes
three; CLIPATTR_TASKS=all takes all of them.
"""

import json
import os
import re
import time

import pytest

expect = pytest.importorskip("playwright.sync_api").expect
pytestmark = pytest.mark.browser

ROW = ".clipattr-bars .clipattr-bar-row"
SCORE = ".clipattr-panel .clipattr-score"
GRID = ".clipattr-browse .clipattr-grid"
CELL = f"{GRID} .clipattr-cell[data-filled]:not([hidden])"
TOKEN = "a-token-for-tasks"


class Analyst:
    """Mouse and keyboard, counted; `study` is the opened copy of the study on the screen."""

    def __init__(self, made, study):
        self.made, self.page, self.study = made, made.page, study
        self.actions, self.place = 0, ""

    def click(self, what, **how):
        self.actions += 1
        found = self.page.locator(what) if isinstance(what, str) else what
        found.first.click(**how)

    def key(self, name):
        self.actions += 1
        self.page.keyboard.press(name)

    def write(self, box, text):
        self.actions += 1
        box.first.fill(text)
        self.key("Enter")

    def tab(self, name, inside):
        self.click(f".clipattr-tabs button:text-is('{name}')")
        self.page.wait_for_selector(f".clipattr-tabs button:text-is('{name}')[aria-pressed=true]")
        self.page.wait_for_selector(inside)
        self.settle()

    def settle(self):
        self.made.settle()

    def numbers(self, selector):
        text = self.page.locator(selector).first.inner_text().replace("−", "-").replace("+", "")
        return [float(number) for number in re.findall(r"-?\d+\.\d+", text)]


@pytest.fixture(scope="session")
def two_served(two_studies, environment, findings_file):
    """Two studies for visitors who may write: their address, and the folder of the first."""
    from clipattr.cli.serve import serving

    one, two = two_studies("served")
    names = ("OMP_NUM_THREADS", "MPLCONFIGDIR")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update({name: environment[name] for name in names})
    try:
        with serving(one, two, port=free_port(), token=TOKEN, write=True, findings=[findings_file]) as found:
            yield found[0], one
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})


def free_port():
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def ready(made, folder):
    import clipattr

    made.page.click(".clipattr-tabs button:text-is('Explorer')")  # whatever was looked at before
    for part in (f"{ROW} >> nth=1", ".clipattr-overlay[data-gen]", ".clipattr-gallery[data-gen]"):
        made.page.wait_for_selector(part)
    made.settle()
    return Analyst(made, clipattr.open_study(folder))


@pytest.fixture(scope="module")
def in_serve(two_served, kept_open):
    made = kept_open(width=1440, height=1000)
    made.page.goto(two_served[0])
    return ready(made, two_served[1])


@pytest.fixture(scope="module")
def in_voila(explored, study_folder):
    return ready(explored, study_folder)


@pytest.fixture(scope="module")
def in_lab(lab, notebook, kept_open, explore_cell, two_studies):
    made, (one, two) = kept_open(width=1440, height=1000), two_studies("lab")
    made.open_lab(lab, notebook("tasks.ipynb", explore_cell(one, two)))
    made.run_all()
    return ready(made, one)


@pytest.fixture(scope="module")
def seated(request):
    """An analyst in one of the places, in one of its looks (see conftest.py)."""
    place, theme, width = request.param
    made = request.getfixturevalue(f"in_{place}")
    made.place = place
    made.page.set_viewport_size({"width": width, "height": 1000})
    made.made.wear(theme)
    return made


@pytest.fixture
def analyst(seated):
    """The same, at rest and with nothing done yet."""
    seated.settle()
    seated.actions = 0
    return seated


def test_why_a_picture_scores_high_is_found_and_checked(analyst, screenshots, request):
    page = analyst.page
    analyst.tab("Explorer", ROW)
    box = page.get_by_placeholder("find by id or label")
    if box.input_value() != "rocket":  # else an analyst before has looked for one
        analyst.write(box, "rocket")
    analyst.settle()
    number = page.get_by_label("picture", exact=True).first
    first = number.input_value()
    box.focus()
    analyst.key("Enter")  # the next one
    expect(number).not_to_have_value(first, timeout=60_000)
    analyst.write(page.get_by_label("prompt", exact=True), "rocket")
    page.wait_for_selector(".clipattr-overlay:has-text('rocket')")
    page.wait_for_function("s => /rocket/.test(document.querySelector(s).innerText)", arg=SCORE)
    analyst.settle()
    [now] = analyst.numbers(SCORE)
    total = page.locator(".clipattr-check").first.inner_text()
    assert total == f"the rows sum to the score, {now:.2f}"
    top = page.locator(ROW).first
    assert top.get_attribute("class").count("clipattr-bar-part") == 0
    said = float(
        re.search(r"the score falls by ([+−][\d.]+)", top.get_attribute("title"))[1].replace("−", "-")
    )
    analyst.click(top.locator(".clipattr-switch"))
    analyst.settle()
    before, after, change = analyst.numbers(SCORE)
    assert (
        before == now
        and change == pytest.approx(-said, abs=0.011)
        and after == pytest.approx(now - said, abs=0.011)
    )
    page.screenshot(path=screenshots / f"tasks-why-{request.node.callspec.id}.png")
    analyst.click("button:text-is('reset')")
    assert analyst.actions <= 8


def test_three_pictures_that_a_latent_fires_on_wrongly_are_kept(analyst, screenshots, request):
    from clipattr.studies.collected import Collected
    from clipattr.studies.selections import Selections

    page, study = analyst.page, analyst.study
    Selections(study).set("not mushrooms", ())
    analyst.tab("Browse", f"{GRID}[data-waiting='0']")
    if not page.get_by_placeholder("number, name or label").is_visible():  # latents were browsed before
        analyst.click(".clipattr-browse button:text-is('pictures')")
        analyst.settle()
    for name in ("label", "answer", "kept"):
        box = page.locator(f".clipattr-browse .widget-dropdown:has(label:text-is('{name}')) select")
        if box.is_visible() and box.evaluate("box => box.selectedIndex > 0"):
            analyst.actions += 1
            analyst.made.after(GRID, lambda box=box: box.select_option(index=0))
    if page.locator(GRID).get_attribute("data-marked") != "0":
        analyst.click("button:text-is('mark none')")
        analyst.settle()
    latent_box = page.locator(".clipattr-browse .widget-text:has(label:text-is('latent')) input")
    wrong = page.locator(f"{CELL}:not(:has-text('mushroom'))")
    for _ in range(4):  # the first latents of that name may be right in all pictures in sight
        if latent_box.input_value() == "mushroom":
            analyst.write(latent_box, "")
            analyst.settle()
        analyst.made.after(GRID, lambda: analyst.write(latent_box, "mushroom"))
        title = page.locator(f"{GRID} .clipattr-gallery-title").inner_text()
        if wrong.count() >= 3:
            break
    order = sorted(wrong.evaluate_all("all => all.map(c => +c.getAttribute('aria-posinset'))"))[:3]
    for place in order:
        analyst.click(f"{CELL}[aria-posinset='{place}']", modifiers=["Control"])
    page.wait_for_selector(f"{GRID}[data-marked='3']")
    page.screenshot(path=screenshots / f"tasks-wrong-{request.node.callspec.id}.png")
    analyst.write(page.get_by_placeholder("keep marked as"), "not mushrooms")
    page.wait_for_selector(".clipattr-browse option:text-is('not mushrooms')", state="attached")
    analyst.settle()
    kept = Selections(study).of("not mushrooms")
    latent = int(re.search(r"· (\d+)\b", title.split("activation of one latent")[1])[1])
    rows = [study.images.ids.index(name) for name in kept]
    assert len(rows) == 3 and "mushroom" not in {study.images.columns["label"][row] for row in rows}
    assert set(rows) <= set(Collected(study).active_rows(latent)[0].tolist()) and analyst.actions <= 24


def test_ten_findings_are_judged_in_sixty_actions(analyst, screenshots, request):
    page = analyst.page
    analyst.tab("Findings", ".clipattr-findings .clipattr-table tbody tr >> nth=9")
    rows = page.locator(".clipattr-findings .clipattr-table").first.locator("tbody tr")
    kept, said = analyst.study.path / "verdicts.json", []
    analyst.click(rows.first)
    for turn in range(10):
        cells = rows.nth(turn).locator("td").all_inner_texts()
        page.wait_for_selector(
            f".clipattr-findings h3:has-text('{cells[1]}')"
        )  # what is judged has been seen
        said.append(
            "rejected" if "accepted" in cells[0] else "accepted"
        )  # what was said of it before is changed
        analyst.key(said[-1][0])
        page.wait_for_selector(
            f".clipattr-findings .clipattr-table tbody tr >> nth={turn} >> text={said[-1]}"
        )
    page.screenshot(path=screenshots / f"tasks-judge-{request.node.callspec.id}.png")
    choices = [held["choice"] for held in json.loads(kept.read_text())["verdicts"].values()]
    assert sum(choices.count(choice) for choice in set(said)) >= 10 and analyst.actions <= 60


def test_a_latent_is_found_on_the_map_by_a_word(analyst, screenshots, request):
    page = analyst.page
    analyst.tab("Map", ".clipattr-scatter[data-gen]")
    word = page.get_by_placeholder("highlight: a word")
    if word.input_value() != "anchor":
        analyst.write(word, "anchor")
    page.wait_for_selector(".clipattr-note:has-text('lit up')")
    analyst.click(".clipattr-map .clipattr-table tbody tr:has-text('anchor')")
    page.wait_for_selector(".clipattr-map .clipattr-gallery .clipattr-thumb")
    page.screenshot(path=screenshots / f"tasks-map-{request.node.callspec.id}.png")
    analyst.click("button:text-is('latent panel')")
    page.wait_for_selector(".clipattr-latent h3.clipattr-title:has-text('anchor')")
    analyst.tab("Explorer", ROW)
    assert analyst.actions <= 8


def test_two_models_are_compared_on_one_picture(analyst, violations, screenshots, request, record_property):
    page = analyst.page
    analyst.tab("Explorer", ROW)
    begun = time.perf_counter()
    analyst.click(".clipattr-tabs button:text-is('Compare')")
    page.wait_for_function(
        "() => [...document.querySelectorAll('.clipattr-compare .clipattr-score b')]"
        ".filter(b => /\\d/.test(b.innerText)).length === 2"
    )
    record_property(
        "seconds_to_both_scores", time.perf_counter() - begun
    )  # benchmarks/browsing.py measures them
    page.wait_for_selector(".clipattr-dots-row >> nth=2")
    analyst.click(".clipattr-dots-row")
    page.wait_for_selector(".clipattr-compare .clipattr-senses .clipattr-thumb")
    page.screenshot(path=screenshots / f"tasks-compare-{request.node.callspec.id}.png")
    assert violations(page, ".clipattr-panel", "color-contrast") == []
    analyst.tab("Explorer", ROW)
    assert analyst.actions <= 5


def test_an_error_is_seen_and_pushes_nothing_about(analyst, screenshots, request):
    page = analyst.page
    analyst.tab("Explorer", ROW)
    parts = [page.locator(what).first for what in (".clipattr-overlay", ROW)]
    places = [part.bounding_box() for part in parts]
    box = page.get_by_placeholder("find by id or label")
    before = box.input_value()
    analyst.write(box, "zzzz")
    page.wait_for_selector(".clipattr-error:has-text('zzzz')")
    told = page.locator(".clipattr-error").bounding_box()
    page.screenshot(path=screenshots / f"tasks-error-{request.node.callspec.id}.png")
    assert [part.bounding_box() for part in parts] == places
    for covered in page.locator(".clipattr-tabs button, .clipattr-toolbar select").all():
        other = covered.bounding_box()
        assert (
            other is None
            or other["x"] + other["width"] <= told["x"] + 1
            or other["y"] + other["height"] <= told["y"] + 1
            or other["y"] >= told["y"] + told["height"] - 1
        )
    analyst.write(box, "kite" if before != "kite" else "rocket")
    page.wait_for_selector(".clipattr-error", state="detached")


def test_what_was_seen_is_sent_to_a_colleague(analyst, kept_open, screenshots, request, tmp_path):
    """A served page by a link to the same view; a notebook's panel as a page that needs no kernel."""
    page = analyst.page
    analyst.tab("Explorer", ROW)
    analyst.write(page.get_by_label("prompt", exact=True), "kite")
    analyst.settle()
    analyst.click(page.locator(f"{ROW} .clipattr-switch").nth(1))
    analyst.settle()
    picture = page.locator(".clipattr-overlay figcaption").first.inner_text()
    colleague = kept_open(width=760, height=1000, theme="dark")
    if analyst.place == "serve":
        assert "changes=" in page.url
        colleague.page.goto(page.url)
        colleague.page.wait_for_selector(f"{ROW} >> nth=1 >> .clipattr-switch[aria-pressed=false]")
        colleague.settle()
        told = {
            "score": SCORE,
            "picture": ".clipattr-overlay figcaption",
            "bars": ".clipattr-bars-body",
        }
        for what, selector in told.items():
            assert colleague.text(selector) == analyst.made.text(selector), what
    else:
        menu = page.locator("select:has(option:text-is('take away …'))").first
        analyst.actions += 1
        menu.select_option(label="HTML")
        with page.expect_download() as coming:
            analyst.click(".clipattr-download")
        coming.value.save_as(tmp_path / "seen.html")
        menu.select_option(label="take away …")
        colleague.page.goto((tmp_path / "seen.html").as_uri())
        there = colleague.page.locator("body").inner_text().replace("−", "-").replace("+", "")
        seen = [f"{number:.2f}" for number in analyst.numbers(SCORE)]
        assert len(seen) == 3 and [number for number in seen if number not in there] == []
        assert "kite" in there and picture.split(" · ")[0] in there
        assert colleague.page.locator("img").first.evaluate("image => image.naturalWidth") > 50
    colleague.page.screenshot(path=screenshots / f"tasks-sent-{request.node.callspec.id}.png", full_page=True)
    colleague.close()
    analyst.click("button:text-is('reset')")
    assert analyst.actions <= 8
