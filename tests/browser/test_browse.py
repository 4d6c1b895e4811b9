"""The browser of pictures and latents in Voila: a grid to scroll, sort, filter, mark, and open from."""

import pytest

pytestmark = pytest.mark.browser

GRID = ".clipattr-browse .clipattr-grid"
VIEW = f"{GRID} .clipattr-grid-view"
CELL = f"{GRID} .clipattr-cell[data-filled]:not([hidden])"  # rows ahead may be on their way


@pytest.fixture(scope="module")
def page(explored):
    explored.page.click(".clipattr-tabs button:has-text('Browse')")
    filled(explored)
    return explored


def filled(page):
    """Wait until all is at rest and every cell in sight has its pictures."""
    page.settle()
    page.page.wait_for_selector(f"{GRID}[data-waiting='0'] .clipattr-cell[data-filled]:not([hidden])")


def choose(page, description, option):
    box = page.page.locator(f".clipattr-browse .widget-dropdown:has(label:text-is('{description}')) select")
    page.after(GRID, lambda: box.select_option(label=option))
    filled(page)


def numbers(page):
    """The numbers below the cells in sight, in order."""
    cells = page.page.locator(CELL).evaluate_all(
        "all => all.map(c => [+c.getAttribute('aria-posinset'), c.querySelector('.clipattr-cell-number').innerText])"
    )
    return [float(said.split("·")[-1].replace("−", "-").strip(" %")) for _, said in sorted(cells)]


def test_nine_thousand_pictures_scroll_with_few_elements_and_the_last_is_reached_by_key(page, screenshots):
    assert int(page.page.locator(CELL).first.get_attribute("aria-setsize")) == 9000
    page.page.screenshot(path=screenshots / "browse.png")
    page.page.locator(VIEW).focus()
    page.page.keyboard.press("End")
    page.page.wait_for_selector(f"{CELL}[aria-posinset='9000']")
    filled(page)
    assert page.page.locator(f"{GRID} .clipattr-cell").count() < 150
    active = page.page.locator(VIEW).get_attribute("aria-activedescendant")
    assert page.page.locator(f"#{active}").get_attribute("aria-posinset") == "9000"
    page.page.keyboard.press("Home")
    page.page.wait_for_selector(f"{CELL}[aria-posinset='1']")


def test_pictures_are_sorted_by_score_and_filtered_by_label_and_answer(page, screenshots):
    choose(page, "sort by", "score")
    scores = numbers(page)
    assert scores == sorted(scores, reverse=True) and scores[0] > scores[-1]
    choose(page, "label", "kite")
    choose(page, "answer", "another label")
    labels = page.page.locator(f"{CELL} .clipattr-cell-caption").all_inner_texts()
    assert labels and {label.strip("✓\xa0 ") for label in labels} == {"kite"}
    page.page.screenshot(path=screenshots / "browse-errors.png")


def test_marked_pictures_are_kept_as_a_selection_with_the_study(page, study_folder):
    from clipattr import open_study
    from clipattr.studies.selections import Selections

    page.page.click("button:text-is('mark none')")
    page.settle()
    page.page.locator(VIEW).focus()
    page.page.keyboard.press("Space")
    page.page.wait_for_selector(f"{GRID}[data-marked='1']")
    page.page.keyboard.press("Shift+ArrowRight")
    page.page.wait_for_selector(f"{GRID}[data-marked='2']")
    name = page.page.get_by_placeholder("keep marked as")
    name.fill("odd kites")
    name.press("Enter")
    page.page.wait_for_selector(".clipattr-browse option:text-is('odd kites')", state="attached")
    assert len(Selections(open_study(study_folder)).of("odd kites")) == 2
    for filter_ in ("label", "answer"):
        choose(page, filter_, "any")
    choose(page, "kept", "odd kites")
    assert page.page.locator(CELL).count() == 2


def test_a_click_opens_the_picture_in_the_explorer_with_its_prompt(page):
    told = page.page.locator(CELL).first.get_attribute("aria-label")
    page.page.locator(CELL).first.click()
    page.page.wait_for_selector(
        f".clipattr-overlay:has-text('{told.split(',')[0].removeprefix('picture ')}')"
    )
    page.page.click(".clipattr-tabs button:has-text('Browse')")


def test_latents_are_browsed_alike_and_a_click_opens_the_page_of_one(page, screenshots):
    page.after(GRID, lambda: page.page.click(".clipattr-browse button:text-is('latents')"))
    filled(page)
    assert page.page.locator(CELL).first.locator("canvas").count() == 4
    choose(page, "sort by", "frequency")
    shares = numbers(page)
    assert shares == sorted(shares, reverse=True)
    page.page.screenshot(path=screenshots / "browse-latents.png")
    number = page.page.locator(f"{CELL} .clipattr-cell-number").first.inner_text().split()[0]
    page.page.locator(CELL).first.click()
    page.page.wait_for_selector(f".clipattr-latent h3.clipattr-title:has-text('latent {number}')")


INSIDE = {
    "Explorer": ".clipattr-overlay[data-gen]",
    "Browse": ".clipattr-browse .clipattr-grid[data-waiting='0'] [data-filled]",
    "Latent": ".clipattr-latent .clipattr-gallery[data-gen] .clipattr-thumb",
    "Prompt": ".clipattr-prompt .clipattr-gallery[data-gen] .clipattr-thumb",
    "Findings": ".clipattr-findings .clipattr-table[data-gen] tbody tr",
    "Map": ".clipattr-map .clipattr-scatter[data-painted]",
    "Live world": ".clipattr-world .clipattr-stage[data-gen] .clipattr-handle",
    "Compare": ".clipattr-compare .clipattr-dots-row",
}


def test_axe_finds_nothing_in_any_panel(page, violations, theme, width):
    page.page.set_viewport_size({"width": width, "height": 1000})
    page.wear(theme)
    only = "color-contrast" if theme == "dark" else None  # a theme changes nothing else
    found = {}
    for name, ready in INSIDE.items():
        page.page.click(f".clipattr-tabs button:has-text('{name}')")
        page.page.wait_for_selector(f"{ready} >> visible=true")
        page.settle()
        if broken := violations(page.page, ".clipattr-panel", only):
            found[name] = broken
    assert found == {}
