"""The panels in JupyterLab, as a person uses them: one notebook, one kernel, one panel after the other.

The tests of this module go on where the one before stopped, as a person would; each can fail on its own.
"""

import re

import pytest

pytestmark = pytest.mark.browser

PANEL = ".clipattr-panel"
BARS = f"{PANEL} .clipattr-bars"
ROW = f"{BARS} .clipattr-bar-row"
SCORE = f"{PANEL} .clipattr-score"
TABLE = ".clipattr-table"
ANSWERED = r"s => /change\s+[+−0]/.test(document.querySelector(s).innerText)"


def cells(page):
    return page.page.evaluate("() => jupyterapp.shell.currentWidget.content.model.cells.length")


def score_of(page):
    """The numbers in the score line."""
    return [float(n.replace("−", "-")) for n in re.findall(r"^[+−]?\d+\.\d+", page.text(SCORE), re.M)]


def test_the_explorer_shows_ranked_bars_picture_and_examples(lab_page, screenshots):
    page = lab_page.page
    lab_page.settle()
    assert page.locator(ROW).count() >= 5
    widths = [float(w) for w in page.locator(f"{ROW} .clipattr-fill:not(.clipattr-fill-other)").evaluate_all(
        "bars => bars.slice(0, 5).map(bar => bar.getBoundingClientRect().width)")]  # fmt: skip
    assert widths == sorted(widths, reverse=True) and widths[0] > 20
    zeros = page.locator(f"{ROW} .clipattr-zero").evaluate_all(
        "z => z.map(e => Math.round(e.getBoundingClientRect().x))"
    )
    assert len(set(zeros)) == 1  # all bars start from one line
    assert page.locator(f"{PANEL} .clipattr-overlay img").first.evaluate("image => image.naturalWidth") > 50
    page.locator(PANEL).first.scroll_into_view_if_needed()
    page.screenshot(path=screenshots / "lab-explorer.png")


def test_a_click_on_a_bar_brings_that_latents_examples(lab_page):
    page = lab_page.page
    second = page.locator(ROW).nth(1)
    lab_page.after(f"{PANEL} .clipattr-gallery", second.click)
    page.wait_for_function(
        "s => document.querySelectorAll(s)[1].classList.contains('clipattr-selected')", arg=ROW
    )
    page.wait_for_selector(f"{PANEL} h3.clipattr-title:has-text('latent {second.get_attribute('data-id')}')")


def test_a_latent_switched_off_changes_the_score_by_what_its_bar_says(lab_page):
    page = lab_page.page
    [now] = score_of(lab_page)
    row = page.locator(ROW).first
    said = float(row.locator(".clipattr-number").first.inner_text().replace("−", "-"))
    lab_page.after(BARS, row.locator(".clipattr-switch").click)
    page.wait_for_function(ANSWERED, arg=SCORE)
    before, after, change = score_of(lab_page)
    assert before == now and change == pytest.approx(-said, abs=0.011)
    assert after == pytest.approx(now - said, abs=0.011)


def test_the_keyboard_alone_moves_chooses_scales_switches_and_undoes(lab_page):
    page = lab_page.page
    count = cells(lab_page)
    page.locator(ROW).first.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    third = page.locator(ROW).nth(2)
    assert third.evaluate("row => row === document.activeElement")
    assert third.evaluate("row => parseFloat(getComputedStyle(row).outlineWidth)") >= 2
    lab_page.after(BARS, lambda: page.keyboard.press("Enter"), "selected")
    lab_page.after(BARS, lambda: page.keyboard.press("-"))
    assert "×0.75" in third.inner_text()
    lab_page.after(BARS, lambda: page.keyboard.press("a"))
    assert third.locator(".clipattr-switch").get_attribute("aria-pressed") == "false"
    lab_page.after(BARS, lambda: page.keyboard.press("u"))
    lab_page.after(BARS, lambda: page.keyboard.press("u"))
    assert third.locator(".clipattr-switch").get_attribute("aria-pressed") == "true"
    for key in ("b", "d", "d", "x"):  # Lab's own commands: add, delete and cut cells
        page.keyboard.press(key)
    assert cells(lab_page) == count
    page.keyboard.press("Home")
    assert page.locator(ROW).first.evaluate("row => row === document.activeElement")
    stops = page.evaluate("s => document.querySelectorAll(s + '[tabindex=\"0\"]').length", ROW)
    assert stops == 1


def test_a_new_prompt_is_measured(lab_page):
    page = lab_page.page
    box = page.get_by_label("prompt", exact=True).first
    before = lab_page.text(SCORE)
    box.fill("a photo of a rocket")
    lab_page.after(BARS, lambda: box.press("Enter"))
    page.wait_for_function("([s, old]) => document.querySelector(s).innerText !== old", arg=[SCORE, before])
    assert "a photo of a rocket" in lab_page.text(SCORE)


def test_a_prompt_with_markup_is_text_and_nothing_runs(lab_page):
    page = lab_page.page
    box = page.get_by_label("prompt", exact=True).first
    box.fill('<img src=x onerror="window.hacked=1"> kite')
    lab_page.after(BARS, lambda: box.press("Enter"))
    page.wait_for_function("s => document.querySelector(s).innerText.includes('<img src=x')", arg=SCORE)
    assert page.evaluate("() => window.hacked") is None
    box.fill("rocket")
    lab_page.after(BARS, lambda: box.press("Enter"))


def test_the_dark_theme_is_followed_and_text_stands_out_in_both(lab_page, screenshots, weak_text):
    page = lab_page.page
    assert weak_text(page) == []
    brightness = r"s => getComputedStyle(document.querySelector(s)).backgroundColor.match(/\d+/g).slice(0, 3)"
    assert min(map(int, page.evaluate(brightness, PANEL))) > 200
    page.evaluate("() => jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Dark'})")
    page.wait_for_function("() => document.body.dataset.jpThemeLight === 'false'")
    assert max(map(int, page.evaluate(brightness, PANEL))) < 80
    page.wait_for_selector("#jupyterlab-splash", state="detached")
    assert weak_text(page) == []
    page.screenshot(path=screenshots / "lab-explorer-dark.png")
    page.evaluate("() => jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Light'})")
    page.wait_for_function("() => document.body.dataset.jpThemeLight === 'true'")


def tab(lab_page, name, ready):
    """Bring a panel to the front; `ready` is inside it. Its class tells it from the panel that was there before."""
    lab_page.page.click(f".clipattr-tabs button:has-text('{name}')")
    inside = f"{PANEL} .clipattr-{name.split()[-1].lower()}"
    lab_page.page.wait_for_selector(f"{inside} {ready}")
    lab_page.settle()
    return inside


def test_the_latent_panel_shows_words_neighbours_and_users(lab_page, screenshots):
    inside = tab(lab_page, "Latent", ".clipattr-gallery[data-gen] .clipattr-thumb")
    page = lab_page.page
    page.wait_for_function("s => document.querySelectorAll(s).length >= 3", arg=f"{inside} {TABLE} tbody tr")
    page.wait_for_function(
        "s => document.querySelectorAll(s + ' tbody')[2]?.children.length > 3", arg=f"{inside} {TABLE}"
    )
    page.wait_for_function("s => document.querySelectorAll(s).length > 3", arg=f"{inside} svg rect")
    page.screenshot(path=screenshots / "lab-latent.png")
    nearest = page.locator(f"{inside} {TABLE}").nth(1).locator("tbody tr").first
    lab_page.after(f"{inside} .clipattr-gallery", nearest.click)


def test_the_prompt_panel_shows_what_it_rests_on_and_its_senses(lab_page, screenshots):
    inside = tab(lab_page, "Prompt", ".clipattr-bars[data-gen] .clipattr-bar-row")
    page = lab_page.page
    page.wait_for_selector(f"{inside} .clipattr-senses .clipattr-thumb")
    assert page.locator(f"{inside} .clipattr-switch").first.is_hidden()
    page.screenshot(path=screenshots / "lab-prompt.png")


def test_a_finding_is_chosen_accepted_and_the_table_sorted(lab_page, screenshots, study_folder):
    inside = tab(lab_page, "Findings", f"{TABLE}[data-gen] tbody tr")
    page = lab_page.page
    table = f"{inside} {TABLE}"
    first = page.locator(f"{table} tbody tr").first
    assert "<b>bold</b>" in first.inner_text()
    page.click(f"{inside} button:has-text('accept')")
    page.wait_for_selector(f"{table} tbody tr:first-child:has-text('accepted')")
    assert "accepted" in (study_folder / "verdicts.json").read_text()
    page.screenshot(path=screenshots / "lab-findings.png")
    page.click(f"{table} th button:has-text('causal effect')")
    page.wait_for_selector(f"{table} tbody tr:first-child:has-text('⟨U+202E⟩')")
    assert page.locator(f"{table} th[aria-sort=ascending]").count() == 1


def test_the_map_of_all_latents_is_a_click_away_and_follows_the_dark_theme(lab_page, screenshots, weak_text):
    inside = tab(lab_page, "Map", ".clipattr-scatter[data-gen]")
    page = lab_page.page
    canvas = page.locator(f"{inside} .clipattr-scatter canvas")
    page.wait_for_function(
        "s => document.querySelector(s)?.dataset.ms > 0", arg=f"{inside} .clipattr-scatter"
    )
    canvas.focus()
    count = cells(lab_page)
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    page.wait_for_selector(f"{inside} .clipattr-gallery .clipattr-thumb")
    for key in ("b", "d", "d", "x"):
        page.keyboard.press(key)
    assert cells(lab_page) == count
    page.evaluate("() => jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Dark'})")
    page.wait_for_function("() => document.body.dataset.jpThemeLight === 'false'")
    page.wait_for_selector("#jupyterlab-splash", state="detached")
    assert weak_text(page) == []
    page.screenshot(path=screenshots / "lab-map-dark.png")
    page.evaluate("() => jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Light'})")
    page.wait_for_function("() => document.body.dataset.jpThemeLight === 'true'")
    page.wait_for_selector("#jupyterlab-splash", state="detached")
    page.screenshot(path=screenshots / "lab-map.png")


def test_the_live_world_lays_truth_beside_what_attribution_says(lab_page, screenshots, weak_text):
    inside = tab(lab_page, "Live world", ".clipattr-stage[data-gen] .clipattr-handle")
    page = lab_page.page
    page.wait_for_selector(f"{inside} {TABLE} th:has-text('rendered without it')")
    handle = page.locator(f"{inside} .clipattr-handle").first
    lab_page.after(f"{inside} .clipattr-stage", lambda: handle.press("ArrowUp"))
    assert weak_text(page) == []
    page.screenshot(path=screenshots / "lab-world.png")


def test_a_reload_with_a_live_kernel_keeps_what_was_chosen(lab_page):
    page = lab_page.page
    page.click(".clipattr-tabs button:has-text('Explorer')")
    page.wait_for_selector(f"{PANEL} {PANEL}", state="detached")  # the live world, which has bars as well
    switch = page.locator(f"{ROW} .clipattr-switch").nth(1)
    if switch.get_attribute("aria-pressed") == "true":  # else an earlier step has switched it off
        switch.click()
    off = f"{ROW} >> nth=1 >> .clipattr-switch[aria-pressed=false]"
    page.wait_for_selector(off)
    page.wait_for_function(ANSWERED, arg=SCORE)
    lab_page.settle()
    before = (lab_page.text(SCORE), lab_page.text(BARS))
    page.evaluate("() => jupyterapp.commands.execute('docmanager:save')")
    page.wait_for_function("() => !jupyterapp.shell.currentWidget.context.model.dirty")
    page.reload()
    page.wait_for_selector(off)
    page.wait_for_selector(f"{PANEL} .clipattr-overlay[data-gen]")
    page.wait_for_function(ANSWERED, arg=SCORE)
    lab_page.settle()
    assert (lab_page.text(SCORE), lab_page.text(BARS)) == before
    switch.click()
    page.wait_for_selector(off.replace("false", "true"))  # Python still answers


def test_a_restarted_kernel_is_answered_with_a_message(lab_page, screenshots):
    page = lab_page.page
    page.evaluate("() => jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()")
    page.wait_for_selector(f"{PANEL} .clipattr-pulse:has-text('restarted')")
    page.screenshot(path=screenshots / "lab-restarted.png")


def test_a_notebook_that_is_opened_again_shows_what_the_panel_showed_last(
    lab, notebook, opened, study_folder
):
    cell = "import clipattr_widgets as w\n"
    cell += f"panel = w.ExplorerPanel({str(study_folder)!r}, picture=3, prompt='kite')\npanel"
    page = opened(width=1100, height=900)
    page.open_lab(lab, notebook("again.ipynb", cell))
    page.run_all()
    page.page.wait_for_selector(f"{BARS}[data-gen]")
    still = "[class^=clipattr-still]"
    page.page.wait_for_selector(still, state="attached")
    assert page.page.locator(still).first.is_hidden()  # the live view is enough
    box = page.page.get_by_label("prompt", exact=True).first
    box.fill("a red lantern")
    box.press("Enter")
    page.page.wait_for_function(
        "s => document.querySelector(s).textContent.includes('a red lantern')", arg=still
    )
    page.page.evaluate("() => jupyterapp.commands.execute('docmanager:save')")
    page.page.wait_for_function("() => !jupyterapp.shell.currentWidget.context.model.dirty")
    page.page.evaluate("() => jupyterapp.shell.currentWidget.sessionContext.shutdown()")
    page.page.reload()
    page.page.wait_for_selector(f"{still} >> text=a red lantern")
    assert page.page.locator(f"{still} img").first.is_visible()
