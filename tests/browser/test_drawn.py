"""What single parts draw, in a browser without a kernel: places and lengths are measured on the page."""

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
