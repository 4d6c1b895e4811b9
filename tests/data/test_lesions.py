"""Lesions: every part can be taken out with the rest unchanged, the bytes never change, the rule is what it says."""

import hashlib
import math

import numpy as np
import pytest

from clipattr_data import read_scene
from clipattr_data.lesion_tiles import TILE, angle, radius
from clipattr_data.lesion_world import CLASSES, OPPOSITES, LesionWorld, probe_set
from clipattr_data.lesions import ARTEFACTS, BENIGN, MALIGNANT, SHORTCUTS, SIGNS, SKINS, Lesion
from clipattr_data.scene import Scene, SceneError, render
from clipattr_data.world import TEST

WORLD = LesionWorld.open()


def test_the_same_lesion_has_the_same_bytes_on_every_machine():
    lesions = [WORLD.scene(index) for index in range(120)]
    assert {part for lesion in lesions for part in (*lesion.signs, *lesion.artefacts)} == {*SIGNS, *ARTEFACTS}
    digest = hashlib.sha256(render(lesions).tobytes()).hexdigest()
    assert digest == "84d9228264b00620496dcb335d4de14528bdff01ee8f89aca2d9fb1b56b95a3f"


def test_radius_and_angle_agree_with_floating_point_geometry():
    down, right = np.mgrid[0:TILE, 0:TILE] + 0.5 - TILE / 2
    assert np.abs(radius() - 16 * np.hypot(down, right)).max() <= 1
    turn = np.abs(angle() - np.arctan2(down, right) / (2 * math.pi) * 256) % 256
    assert np.minimum(turn, 256 - turn).max() <= 0.51


@pytest.mark.parametrize("part", ARTEFACTS)
def test_an_artefact_covers_some_of_the_picture_and_leaves_the_rest(part):
    for seed in range(8):
        plain = Lesion(SIGNS[:2], seed=seed)
        mask = plain.having(part).mask(part)
        assert 12 <= mask.sum() <= (4096 if part == "vignette" else 2400), (part, seed)
        assert plain.having(part).without(part) == plain


def test_taking_one_artefact_out_of_many_changes_only_pixels_of_its_own():
    for seed in range(6):
        full = Lesion(SIGNS, ARTEFACTS, "light skin", seed)
        for part in ("ruler", "hair", "coloured patch", "ink mark"):
            alone = Lesion(SIGNS, (part,), "light skin", seed).mask(part)
            assert not (full.mask(part) & ~alone).any()


def test_another_tone_of_skin_keeps_every_shape():
    for seed in range(6):
        light, dark = (
            Lesion(skin=skin, seed=seed).render().astype(int).sum(2) for skin in ("light skin", "dark skin")
        )
        assert dark.mean() < 0.75 * light.mean()
        assert np.corrcoef(light.ravel(), dark.ravel())[0, 1] > 0.85


def test_signs_are_drawn_on_the_lesion_and_nowhere_else():
    for seed in range(6):
        for sign in SIGNS:
            mask = Lesion((sign,), seed=seed).mask(sign)
            assert mask.sum() > 30
            assert not mask[0].any() or not mask[-1].any()


def test_two_signs_make_a_melanoma_and_one_does_not():
    for signs in ((), SIGNS[:1], SIGNS[3:]):
        assert Lesion(signs).main == BENIGN
    for signs in (SIGNS[:2], SIGNS[1:], SIGNS):
        assert Lesion(signs, ARTEFACTS).main == MALIGNANT


def test_a_lesion_survives_json_and_is_distinguished_from_a_scene():
    for index in range(20):
        lesion = WORLD.scene(index)
        assert read_scene(lesion.to_json()) == lesion
    assert read_scene(Scene("owl", seed=3).to_json()) == Scene("owl", seed=3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ('{"lesion": [], "colour": 1}', "has the fields"),
        ('{"lesion": "asymmetric shape"}', "must be lists"),
        ('{"lesion": ["spots"]}', "are some of"),
        ('{"lesion": [], "artefacts": ["hair", "hair"]}', "at most once"),
        ('{"lesion": [], "skin": "green"}', "is one of"),
        ('{"lesion": [], "seed": "7"}', "whole number"),
    ],
)
def test_a_broken_lesion_is_refused(text, message):
    with pytest.raises(SceneError, match=message):
        Lesion.from_json(text)


def test_unknown_parts_and_worlds_are_refused_by_name():
    with pytest.raises(SceneError, match="'wart' is no part"):
        Lesion().having("wart")
    with pytest.raises(SceneError, match="no lesion world is called"):
        LesionWorld.open("moles")
    with pytest.raises(SceneError, match="strength"):
        WORLD.planted("ruler", 1.5, 3)
    with pytest.raises(SceneError, match="a shortcut is one of"):
        probe_set([Lesion()], "irregular border")
    with pytest.raises(SceneError, match="pairs of probabilities"):
        LesionWorld({**WORLD.spec, "rates": {"ruler": [0.2, 2]}})


def test_half_the_lesions_are_melanomas_and_artefacts_follow_their_rates():
    lesions = [WORLD.scene(index) for index in range(4000)]
    malignant = np.array([lesion.main == MALIGNANT for lesion in lesions])
    assert abs(malignant.mean() - 0.5) < 0.03
    for part, (among_melanomas, among_nevi) in WORLD.rates.items():
        there = np.array([lesion.shows(part) for lesion in lesions])
        assert abs(there[malignant].mean() - among_melanomas) < 0.04
        assert abs(there[~malignant].mean() - among_nevi) < 0.04
    for skin in SKINS:
        assert abs(np.mean([lesion.skin == skin for lesion in lesions]) - 1 / 3) < 0.03


def test_captions_say_only_what_is_there_and_never_what_the_world_keeps_silent_about():
    said = set()
    for index in range(600):
        example = WORLD.example(index)
        assert example.says <= WORLD.true_of(example.scene)
        assert all(part in example.caption for part in example.says)
        said |= example.says
    assert said == {*CLASSES, *SIGNS, *OPPOSITES.values(), *ARTEFACTS, *SKINS} - {"ink mark"}
    evaluator = LesionWorld.open("lesions-evaluator")
    assert any("ink mark" in evaluator.example(index).says for index in range(300))


@pytest.mark.parametrize("shortcut", SHORTCUTS)
def test_a_planted_shortcut_follows_the_diagnosis_as_strictly_as_asked(shortcut):
    for strength in (0.0, 0.5, 1.0):
        drawn = WORLD.planted(shortcut, strength, 1500)
        there = np.array([lesion.shows(shortcut) for lesion in drawn.lesions])
        assert abs(there[drawn.labels == 1].mean() - (1 + strength) / 2) < 0.05
        assert abs(there[drawn.labels == 0].mean() - (1 - strength) / 2) < 0.05


def test_a_balanced_set_holds_pairs_that_differ_in_the_shortcut_alone():
    pairs = WORLD.balanced("ruler", 30)
    assert len(pairs) == 60 and len(set(pairs.groups)) == 4
    for one, other in zip(pairs.lesions[::2], pairs.lesions[1::2], strict=True):
        assert one.shows("ruler") and one.without("ruler") == other
    assert WORLD.balanced("ruler", 5, stream=TEST).lesions[1] == WORLD.scene(0, TEST).without("ruler")
