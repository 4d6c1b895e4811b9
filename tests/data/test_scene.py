"""Scenes: causal edits leave everything else in place, and the bytes never change."""

import hashlib

import numpy as np
import pytest

from clipattr_data.drawing import fits, names
from clipattr_data.scene import Scene, SceneError, render

FULL = Scene("camel", ("banana", "book"), "desert", "hat", "stamp", seed=11)


def test_the_same_scene_has_the_same_bytes_on_every_machine():
    scenes = [
        Scene(name, (names()[-1 - i],), names("contexts")[i % 10], seed=i)
        for i, name in enumerate(names()[:40])
    ]
    scenes += [FULL, FULL.with_word("tea pot"), FULL.with_watermark("grid"), FULL.with_watermark("stripes")]
    digest = hashlib.sha256(render(scenes).tobytes()).hexdigest()
    assert digest == "b53db7aa2c256d3ff5af3314c5ff548bc1a47375b33cb7a311ff9eb3be983a16"


@pytest.mark.parametrize("part", ["main", "banana", "book", "word"])
def test_removing_an_object_changes_only_the_pixels_it_covered(part):
    before, after = FULL.render(), FULL.without(part).render()
    placed = {o.name: o for o in FULL.truth().objects} | {"main": FULL.truth().objects[0]}
    changed = np.argwhere((before != after).any(-1))
    assert len(changed) > 20
    if part != "word":
        left, top, right, bottom = placed[part].box
        rows, columns = changed.T
        assert rows.min() >= top and rows.max() < bottom and columns.min() >= left and columns.max() < right


def test_swapping_the_main_object_keeps_its_box_and_everything_else():
    before, after = FULL.truth(), FULL.with_main("owl").truth()
    assert [o.box for o in before.objects] == [o.box for o in after.objects]
    assert (before.word_mask == after.word_mask).all()


def test_another_context_keeps_opaque_object_pixels():
    scene = Scene("trophy", context="desert", seed=3)
    a, b = scene.render().astype(int), scene.with_context("snow").render().astype(int)
    assert (a != b).any(-1).mean() > 0.6
    mask = scene.truth().objects[0].mask
    assert np.abs(a - b)[mask].max(-1).mean() < 10


def test_masks_lie_inside_their_boxes_and_do_not_overlap():
    objects = FULL.truth().objects
    total = np.zeros((64, 64), int)
    for item in objects:
        left, top, right, bottom = item.box
        outside = item.mask.copy()
        outside[top:bottom, left:right] = False
        assert item.mask.any() and not outside.any()
        total += item.mask
    assert total.max() == 1


def test_json_round_trips_and_drops_what_is_absent():
    for scene in (Scene(), Scene("owl", seed=5), FULL, FULL.without("banana")):
        assert Scene.from_json(scene.to_json()) == scene
    assert Scene("owl").to_json() == '{"main":"owl","seed":0}'


@pytest.mark.parametrize(
    ("scene", "message"),
    [
        (Scene("camle"), "did you mean 'camel'"),
        (Scene("owl", context="dessert"), "did you mean 'desert'"),
        (Scene("owl", watermark="logo"), "no watermark is called 'logo'"),
        (Scene("owl", word="naïve"), "faces have no"),
        (Scene("owl", word="incomprehensibilities"), "does not fit"),
    ],
)
def test_what_cannot_be_drawn_is_refused_with_advice(scene, message):
    with pytest.raises(SceneError, match=message):
        scene.render()


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"mian": "owl"}', '{"main": 3}', '{"companions": "owl"}', '{"seed": "x"}']
)
def test_a_broken_description_is_refused(text):
    with pytest.raises(SceneError):
        Scene.from_json(text)


def test_removing_what_is_not_there_names_what_is():
    with pytest.raises(SceneError, match="holds .*camel"):
        FULL.without("owl")


def test_words_that_fit_are_those_that_can_be_drawn():
    for word in ["hat", "computer pointer", "bell pepper", "incomprehensibilities", "é", " "]:
        try:
            Scene(word=word).render()
            drawn = True
        except SceneError:
            drawn = False
        assert drawn == fits(word)


def test_a_moved_word_changes_nothing_but_what_it_left_and_covers_and_is_kept_inside():
    scene = Scene(main="kite", word="tea", seed=5)
    moved = Scene.from_json(scene.word_moved(2, 900).to_json())
    before, after = scene.truth(), moved.truth()
    left, top, right, bottom = after.word_box
    assert (left, bottom) == (2, 64) and (right - left, bottom - top) == (
        before.word_box[2] - before.word_box[0], before.word_box[3] - before.word_box[1]
    )  # fmt: skip
    changed = (scene.render() != moved.render()).any(-1)
    either = np.zeros((64, 64), bool)
    for x0, y0, x1, y1 in (before.word_box, after.word_box):
        either[y0:y1, x0:x1] = True
    assert changed.any() and not changed[~either].any()
    assert after.word_mask.sum() == before.word_mask.sum()


@pytest.mark.parametrize(("number", "size", "flipped"), [(0, 14, False), (60, 27, True), (150, 40, False)])
def test_an_object_is_scaled_as_by_whole_numbers_pixel_by_pixel(number, size, flipped):
    from clipattr_data.drawing import _assets, _sprite

    source = _assets().sprites[number].astype(int)
    source = source[:, ::-1] if flipped else source
    side = len(source)
    colour, through, _ = _sprite(number, size, flipped)
    for row, column in ((0, 0), (size // 2, size // 3), (size - 1, size // 2), (size // 2, size // 2)):
        down, across = [
            [max(0, min((at + 1) * side, (k + 1) * size) - max(at * side, k * size)) for k in range(side)]
            for at in (row, column)
        ]
        alpha, sums = 0, [0, 0, 0]
        for y in (y for y in range(side) if down[y]):
            for x in (x for x in range(side) if across[x]):
                share = down[y] * across[x]
                red, green, blue, opaque = (int(value) for value in source[y, x])
                alpha += share * opaque
                sums = [
                    one + share * opaque * value for one, value in zip(sums, (red, green, blue), strict=True)
                ]
        assert int(through[row, column, 0]) == 255 - (alpha + side * side // 2) // (side * side)
        assert colour[row, column].tolist() == [
            (one + 255 * side * side // 2) // (255 * side * side) for one in sums
        ]
