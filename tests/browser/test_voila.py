"""The panels in Voila: each alone on a page, at the narrowest width, with an upload and hostile names."""

import pytest

pytestmark = pytest.mark.browser

OPEN = "import clipattr as ca, clipattr_widgets as w\nstudy = ca.open_study({path!r})\n"
HOSTILE = "<img src=x onerror=window.hacked=1>\\u202e" + "x" * 3000
CELLS = (
    OPEN + f"study.rename(0, {HOSTILE!r}.encode().decode('unicode_escape'))\n"
    "explorer = w.ExplorerPanel(study, picture=3, latent=0)\nexplorer",
    "latent = w.LatentPanel(study, latent=0, heat=True, order='bands')\nlatent",
)


@pytest.fixture(scope="module")
def page(voila, notebook, opened, study_folder):
    cells = [cell.format(path=str(study_folder)) for cell in CELLS]
    made = opened(width=820, height=1000)
    made.open_voila(voila, notebook("alone.ipynb", *cells))
    made.page.wait_for_selector(".clipattr-gallery[data-gen] .clipattr-thumb")
    made.page.wait_for_function("() => document.querySelectorAll('.clipattr-gallery[data-gen]').length === 2")
    made.page.wait_for_function(
        "() => [...document.querySelectorAll('h3.clipattr-title')].filter(h => h.innerText.includes('<img')).length > 1"
    )
    made.page.wait_for_selector(".clipattr-latent .clipattr-gallery .clipattr-thumb canvas >> visible=true")
    return made


def test_hostile_names_are_text_in_every_panel(page, screenshots):
    assert page.page.evaluate("() => window.hacked") is None
    headings = page.page.locator(".clipattr-panel h3.clipattr-title").all_inner_texts()
    assert sum("<img src=x" in heading for heading in headings) == 2
    assert all("\u202e" not in heading and len(heading) < 200 for heading in headings)
    page.page.screenshot(path=screenshots / "voila-800.png", full_page=True)


def test_nothing_is_wider_than_the_page_at_800_pixels(page):
    wide = page.page.evaluate(
        "() => [...document.querySelectorAll('.clipattr-panel *')].filter(e => e.getBoundingClientRect().right > "
        "document.querySelector('.clipattr-panel').getBoundingClientRect().right + 1 && e.getClientRects().length)"
        ".map(e => e.className)"
    )
    assert wide == []


def test_an_upload_is_looked_at_and_a_broken_one_is_refused_in_words(page, study_folder, tmp_path):
    import clipattr

    clipattr.open_study(study_folder).images[7].load().save(tmp_path / "mine.png")
    (tmp_path / "not.png").write_text("<script>window.hacked=1</script>")

    def choose(name):
        with page.page.expect_file_chooser() as chooser:
            page.page.locator(".clipattr-panel button:has-text('upload')").click()
        chooser.value.set_files(tmp_path / name)

    page.after(".clipattr-overlay", lambda: choose("mine.png"))
    page.page.wait_for_function(
        "() => document.querySelector('.clipattr-overlay').innerText.includes('mine.png')"
    )
    choose("not.png")
    page.page.wait_for_selector(".clipattr-error:has-text('cannot be used')")
    assert page.page.evaluate("() => window.hacked") is None


def test_heat_maps_lie_over_the_examples_and_the_slider_needs_no_kernel(page):
    canvases = page.page.locator(".clipattr-gallery >> nth=1 >> canvas:visible")
    assert canvases.count() > 3
    drawn = canvases.first.evaluate(
        "c => c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some(value => value > 0)"
    )
    assert drawn
    slider = page.page.locator(".clipattr-gallery input[type=range]:visible").first
    slider.evaluate("s => { s.value = 0; s.dispatchEvent(new Event('input')); }")
    assert canvases.first.evaluate("c => getComputedStyle(c).opacity") == "0"


def test_the_gallery_is_walked_with_arrow_keys_and_every_picture_has_words(page):
    thumbs = page.page.locator(".clipattr-gallery >> nth=0 >> .clipattr-thumb")
    names = thumbs.evaluate_all("all => all.map(one => one.getAttribute('aria-label'))")
    assert len(names) > 3 and all("picture" in name for name in names)
    thumbs.first.focus()
    page.page.keyboard.press("ArrowRight")
    assert thumbs.nth(1).evaluate("one => one === document.activeElement")
    page.page.keyboard.press("End")
    assert thumbs.last.evaluate("one => one === document.activeElement")
    page.page.keyboard.press("Home")
    page.after(".clipattr-overlay", lambda: page.page.keyboard.press("Enter"))


# What anywidget allows a part from its birth to its first drawing (two seconds) is over before it begins.
SLOW = "const limit = AbortSignal.timeout; AbortSignal.timeout = () => limit.call(AbortSignal, 0);"


def test_a_page_that_is_slow_to_draw_still_hears_what_python_says(voila, notebook, opened, study_folder):
    cell = f"import clipattr_widgets as w\npanel = w.ExplorerPanel({str(study_folder)!r}, picture=3)\npanel"
    slow = opened(width=900, height=900)
    given_up = []
    slow.page.on("pageerror", lambda error: given_up.append(str(error)))
    slow.page.add_init_script(SLOW)
    slow.open_voila(voila, notebook("slow.ipynb", cell))
    row = slow.page.locator(".clipattr-bar-row").first
    row.wait_for()
    before = len(slow.errors)
    row.locator(".clipattr-switch").click()
    slow.page.wait_for_selector(".clipattr-bar-row >> nth=0 >> .clipattr-switch[aria-pressed=false]")
    row.focus()
    slow.page.keyboard.press("u")
    slow.page.wait_for_selector(".clipattr-bar-row >> nth=0 >> .clipattr-switch[aria-pressed=true]")
    assert any("Failed to initialize" in error for error in given_up)
    assert slow.errors[before:] == []
