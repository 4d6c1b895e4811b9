"""What analysts come for, done with mouse and keyboard: each task ends in an answer that is compared with the truth.

In a served page, in Voila and in JupyterLab; light and dark, wide and narrow.
"""

import json
import os
import re
import shutil
import time
from types import SimpleNamespace

import numpy as np
import pytest

pytestmark = pytest.mark.browser

ROW = ".clipattr-bars .clipattr-bar-row"
SCORE = ".clipattr-panel .clipattr-score"
GRID = ".clipattr-browse .clipattr-grid"
CELL = f"{GRID} .clipattr-cell:not([hidden]):has(img)"
SETTLED = "() => !document.querySelector('.clipattr-busy')"
TOKEN = "a-token-for-tasks"


class Analyst:
    """Mouse and keyboard, counted; `study` is the opened copy of the study on the screen."""

    def __init__(self, made, study):
        self.made, self.page, self.study = made, made.page, study
        self.actions = 0

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
        self.page.wait_for_selector(inside)

    def settle(self):
        self.page.wait_for_function(SETTLED)

    def numbers(self, selector):
        text = self.page.locator(selector).first.inner_text().replace("−", "-").replace("+", "")
        return [float(number) for number in re.findall(r"-?\d+\.\d+", text)]


@pytest.fixture(scope="session")
def pair(study_folder, tmp_path_factory):
    """The study and another model's, to write to."""
    import clipattr
    import clipattr_data
    from clipattr.discovery.partners import LEAST_HASH

    folder = tmp_path_factory.mktemp("pair")
    shutil.copytree(study_folder, folder / "one")
    shutil.copytree(clipattr_data.studies_dir() / "picture-world-b", folder / "two")
    for name in ("verdicts.json", "selections.json", "names.json"):
        (folder / "one" / name).unlink(missing_ok=True)
    one, two = (clipattr.open_study(folder / name) for name in ("one", "two"))
    # Pairs made up: finding them takes half a minute, and is tested elsewhere.
    name = f"partners-{one.hash[:LEAST_HASH]}-{two.hash[:LEAST_HASH]}.npz"
    few = np.arange(40)
    np.savez_compressed(folder / "one" / name, latent=few, other=few, correlation=few / 40.0)
    return folder


@pytest.fixture(scope="session")
def served(pair, environment, findings_file):
    """Two studies for visitors who may write."""
    from clipattr.cli.serve import serving

    names = ("OMP_NUM_THREADS", "MPLCONFIGDIR")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update({name: environment[name] for name in names})
    try:
        with serving(pair / "one", pair / "two", port=free_port(), token=TOKEN, write=True,
                     findings=[findings_file]) as (address, _):  # fmt: skip
            yield address
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})


def free_port():
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def in_serve(served, kept_open, pair):
    import clipattr

    made = kept_open(width=1440, height=1000, theme="light")
    made.page.goto(served)
    made.page.wait_for_selector(f"{ROW} >> nth=1")
    return Analyst(made, clipattr.open_study(pair / "one"))


@pytest.fixture(scope="module")
def in_voila(explored, study_folder):
    import clipattr

    explored.page.set_viewport_size({"width": 760, "height": 1000})
    return Analyst(explored, clipattr.open_study(study_folder))


@pytest.fixture(scope="module")
def in_lab(lab_page, study_folder):
    import clipattr

    page = lab_page.page
    page.evaluate("() => jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Dark'})")
    lab_page.run_all()
    page.wait_for_selector(f"{ROW} >> nth=1")
    page.wait_for_function("() => !document.querySelector('.clipattr-gone')")
    return Analyst(lab_page, clipattr.open_study(study_folder))


@pytest.fixture(params=["serve", "voila", "lab"])
def analyst(request):
    made = request.getfixturevalue(f"in_{request.param}")
    made.actions = 0
    return made


def test_why_a_picture_scores_high_is_found_and_checked(analyst, screenshots, request):
    page = analyst.page
    analyst.tab("Explorer", ROW)
    analyst.write(page.get_by_placeholder("find by id or label"), "rocket")
    page.wait_for_selector(".clipattr-overlay:has-text('rocket')")
    analyst.write(page.get_by_label("prompt", exact=True), "rocket")
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
    page.wait_for_function(r"s => /change\s+[+−0]/.test(document.querySelector(s).innerText)", arg=SCORE)
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
    analyst.tab("Browse", f"{GRID}[data-waiting='0'] img")
    if not page.get_by_placeholder("number, name or label").is_visible():  # latents were browsed before
        analyst.click(".clipattr-browse button:text-is('pictures')")
        page.wait_for_selector(f"{GRID}[data-waiting='0'] .clipattr-gallery-title:has-text('pictures')")
    for name in ("label", "answer", "kept"):
        box = page.locator(f".clipattr-browse .widget-dropdown:has(label:text-is('{name}')) select")
        if box.is_visible() and box.evaluate("box => box.selectedIndex > 0"):
            analyst.actions += 1
            analyst.made.after(GRID, lambda box=box: box.select_option(index=0))
    if page.locator(GRID).get_attribute("data-marked") != "0":
        analyst.click("button:text-is('mark none')")
        page.wait_for_selector(f"{GRID}[data-marked='0']")
    latent_box = page.locator(".clipattr-browse .widget-text:has(label:text-is('latent')) input")
    analyst.made.after(GRID, lambda: analyst.write(latent_box, "mushroom"))
    ordered = f"{GRID}[data-waiting='0']:has(.clipattr-gallery-title:text('activation of one latent'))"
    page.wait_for_selector(f"{ordered} {CELL.removeprefix(GRID)}")
    wrong = page.locator(f"{CELL}:not(:has-text('mushroom'))")
    order = sorted(wrong.evaluate_all("all => all.map(c => +c.getAttribute('aria-posinset'))"))[:3]
    for place in order:
        analyst.click(f"{CELL}[aria-posinset='{place}']", modifiers=["Control"])
    page.wait_for_selector(f"{GRID}[data-marked='3']")
    page.screenshot(path=screenshots / f"tasks-wrong-{request.node.callspec.id}.png")
    analyst.write(page.get_by_placeholder("keep marked as"), "not mushrooms")
    page.wait_for_selector(".clipattr-browse option:text-is('not mushrooms')", state="attached")
    kept = Selections(study).of("not mushrooms")
    title = page.locator(f"{GRID} .clipattr-gallery-title").inner_text()
    latent = int(re.search(r"· (\d+)\b", title.split("activation of one latent")[1])[1])
    rows = [study.images.ids.index(name) for name in kept]
    assert len(rows) == 3 and "mushroom" not in {study.images.columns["label"][row] for row in rows}
    assert set(rows) <= set(Collected(study).active_rows(latent)[0].tolist()) and analyst.actions <= 12


def test_ten_findings_are_judged_in_sixty_actions(analyst, screenshots, request, findings):
    page = analyst.page
    analyst.tab("Findings", ".clipattr-findings .clipattr-table tbody tr >> nth=1")
    rows = page.locator(".clipattr-findings .clipattr-table").first.locator("tbody tr")
    many = min(10, rows.count())
    kept = analyst.study.path / "verdicts.json"
    analyst.click(rows.first)
    for turn in range(many):
        prompt = rows.nth(turn).locator("td").nth(1).inner_text()
        page.wait_for_selector(f".clipattr-findings h3:has-text('{prompt}')")  # what is judged has been seen
        analyst.key("a" if turn % 3 else "r")
        page.wait_for_selector(
            f".clipattr-findings .clipattr-table tbody tr >> nth={turn} >> text=/accepted|rejected/"
        )
    page.screenshot(path=screenshots / f"tasks-judge-{request.node.callspec.id}.png")
    assert len(json.loads(kept.read_text())["verdicts"]) >= many
    assert analyst.actions <= 6 * many


def test_a_latent_is_found_on_the_map_by_a_word(analyst, screenshots, request):
    page = analyst.page
    analyst.tab("Map", ".clipattr-scatter[data-gen]")
    analyst.write(page.get_by_placeholder("light up: a word"), "anchor")
    page.wait_for_selector(".clipattr-note:has-text('lit up')")
    analyst.click(".clipattr-map .clipattr-table tbody tr:has-text('anchor')")
    page.wait_for_selector(".clipattr-map .clipattr-gallery .clipattr-thumb")
    page.screenshot(path=screenshots / f"tasks-map-{request.node.callspec.id}.png")
    analyst.click("button:text-is('latent panel')")
    page.wait_for_selector(".clipattr-latent h3.clipattr-title:has-text('anchor')")
    analyst.tab("Explorer", ROW)


def test_two_models_are_compared_on_one_picture(in_serve, violations, screenshots, record_property):
    page = in_serve.page
    in_serve.actions = 0
    in_serve.tab("Explorer", ROW)
    begun = time.perf_counter()
    in_serve.tab("Compare", ".clipattr-compare .clipattr-score b")
    page.wait_for_function(
        "() => [...document.querySelectorAll('.clipattr-compare .clipattr-score b')]"
        ".filter(b => /\\d/.test(b.innerText)).length === 2"
    )
    record_property("seconds_to_both_scores", time.perf_counter() - begun)
    page.wait_for_selector(".clipattr-dots-row >> nth=2")
    in_serve.click(".clipattr-dots-row")
    page.wait_for_selector(".clipattr-compare .clipattr-senses .clipattr-thumb")
    page.screenshot(path=screenshots / "tasks-compare.png")
    for theme in ("dark", "light"):
        page.emulate_media(color_scheme=theme)
        assert violations(page, ".clipattr-panel", "color-contrast" if theme == "dark" else None) == []
    in_serve.tab("Explorer", ROW)
    assert in_serve.actions <= 5


def test_an_error_is_seen_and_pushes_nothing_about(in_serve):
    page = in_serve.page
    in_serve.tab("Explorer", ROW)
    in_serve.settle()
    places = [page.locator(what).first.bounding_box() for what in (".clipattr-overlay", ROW)]
    in_serve.write(page.get_by_placeholder("find by id or label"), "zzzz")
    page.wait_for_selector(".clipattr-error:has-text('zzzz')")
    box = page.locator(".clipattr-error").bounding_box()
    assert 0 < box["y"] < box["y"] + box["height"] < 250
    assert [page.locator(what).first.bounding_box() for what in (".clipattr-overlay", ROW)] == places
    for tab in page.locator(".clipattr-tabs button").all():
        last = tab.bounding_box()
        assert last["x"] + last["width"] <= box["x"] + 1
    in_serve.write(page.get_by_placeholder("find by id or label"), "kite")
    page.wait_for_selector(".clipattr-error", state="detached")


def test_a_link_leads_a_colleague_to_the_same_view(in_serve, kept_open, screenshots):
    page = in_serve.page
    in_serve.tab("Explorer", ROW)
    in_serve.write(page.get_by_label("prompt", exact=True), "kite")
    page.wait_for_function("s => /kite/.test(document.querySelector(s).innerText)", arg=SCORE)
    in_serve.settle()
    in_serve.click(page.locator(f"{ROW} .clipattr-switch").nth(1))
    page.wait_for_function("() => location.search.includes('changes=')")
    in_serve.settle()
    colleague = kept_open(width=760, height=1000, theme="dark")
    colleague.page.goto(page.url)
    colleague.page.wait_for_selector(f"{ROW} >> nth=1 >> .clipattr-switch[aria-pressed=false]")
    colleague.page.wait_for_function(SETTLED)
    told = SimpleNamespace(score=SCORE, picture=".clipattr-overlay figcaption", bars=".clipattr-bars-body")
    for what, selector in vars(told).items():
        assert colleague.text(selector) == in_serve.made.text(selector), what
    colleague.page.screenshot(path=screenshots / "tasks-link.png", full_page=True)
    in_serve.click("button:text-is('reset')")
