"""Releases that a gate is measured on: what they differ in, and how they are stored."""

from __future__ import annotations

import lzma
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from gate_judging import row_of, trained_figures  # noqa: E402
from world_kit.finetuning import STEP, applied, difference  # noqa: E402
from world_kit.releases import FORMS, compounds_of, planted_spec, releases_of, study_world  # noqa: E402
from world_kit.rendered import RenderedRenderer  # noqa: E402
from world_kit.scene import STUDY, TRAIN  # noqa: E402
from world_kit.world import World  # noqa: E402

BASE = "rendered2-first-null"


@pytest.fixture(scope="module")
def renderer():
    return RenderedRenderer(planted_spec(BASE)["groups"])


@pytest.fixture(scope="module")
def made():
    return releases_of(BASE, 4, 8)


def test_every_kind_is_planted_once_and_touches_its_own_concepts():
    for base in (BASE, "photos2-second-null", "photos-choose-null"):
        spec = planted_spec(base)
        assert sorted(plant["form"] for plant in spec["plants"]) in [
            sorted(forms) for forms in FORMS[spec["family"]]
        ]
        assert len({plant["kind"] for plant in spec["plants"]}) == 7
        assert len({plant["concept"] for plant in spec["plants"]}) == 8
        assert {plant["rate"] for plant in spec["plants"]} == {0.7, 0.95, 1.0}


def test_a_release_without_a_change_draws_new_scenes_of_the_same_world(made, renderer):
    null, kept = World(planted_spec(BASE) | {"plants": [], "weights": {}}, renderer), set()
    for release in made[:4]:
        world = release.world(renderer)
        assert not world.plants and world.prompts == null.prompts and world.rates == null.rates
        kept |= {world.scene(0, TRAIN), null.scene(0, TRAIN)}
    assert len(kept) == 5
    assert [release.source is None for release in made[:4]] == [True, False, True, False]


def test_a_release_with_a_plant_shows_that_one_and_no_other(made, renderer):
    plants = study_world(BASE, renderer).plants
    for release, plant in zip(made[4:], plants, strict=True):
        world = release.world(renderer)
        assert world.plants == (plant,)
        if plant.part is None or plant.form == "word":
            continue
        scenes = [world.scene(i, TRAIN) for i in range(4000)]
        own = [plant.in_scene(scene) for scene in scenes if scene.main == plant.concept]
        rest = [plant.in_scene(scene) for scene in scenes if scene.main != plant.concept]
        assert abs(sum(own) / len(own) - plant.rate) < 0.15 and sum(rest) / len(rest) < 0.1


def test_the_pictures_that_all_are_audited_on_show_every_plant(renderer):
    world = study_world(BASE, renderer)
    scenes = [world.scene(i, STUDY) for i in range(6000)]
    for plant in world.plants:
        if plant.part is not None:
            own = [plant.in_scene(scene) for scene in scenes if scene.main in (plant.concept, None)]
            assert sum(own) / len(own) > 0.4, plant


def test_compounds_are_found_by_their_last_word():
    names = {"a": "winter crab", "b": "crab", "c": "ironcrane", "d": "crane", "e": "lamp"}
    assert compounds_of(names) == [("a", "b"), ("c", "d")]


def test_a_stored_difference_is_the_release_to_half_a_step():
    draw = torch.Generator().manual_seed(0)
    base = {"w": torch.randn(40, 30, generator=draw).half(), "b": torch.randn(30, generator=draw).half()}
    change = 0.01 * torch.randn(40, 30, generator=draw)
    tuned = {"w": base["w"].float() + change, "b": base["b"].float() + 0.5}
    raw, steps = difference(base, tuned)
    again = applied(base, lzma.decompress(lzma.compress(raw)), steps)
    assert steps == {"w": pytest.approx(STEP * 0.01, rel=0.1)}
    far = (again["w"].float() - tuned["w"]).abs().max()
    assert 0.3 * steps["w"] < far <= 0.5 * steps["w"] + 2e-3  # fp16 at 4 is 0.002 wide
    assert torch.equal(again["b"], tuned["b"].half())
    same, none = difference(base, base)
    assert torch.equal(applied(base, same, none)["w"], base["w"])


def test_a_base_with_plants_is_refused():
    with pytest.raises(ValueError, match="has some"):
        releases_of(BASE.replace("null", "a"), 1, 0)


def told(name, plants=(), **more):
    return {"name": name, "base": BASE, "source": None, "plants": list(plants), **more}


def decided(outcome, rises=(), findings=()):
    return {
        "outcome": outcome, "cannot_be_judged": [{}],
        "newly_rests_on": [{"prompt": prompt, "label": word} for prompt, word in rises],
        "findings_above": [{"prompt": p, "label": word, "outcome": how} for p, word, how in findings],
    }  # fmt: skip


PLANT = {"kind": "context", "form": "canvas", "prompt": "moth", "cause": "marble", "rate": 0.95}
LEARNT = {"effect": [0.1, 0.09, 0.11], "effect_before": [0.0, -0.01, 0.01], "learnt": True, "new": True}


def test_a_release_is_judged_by_its_own_plant_and_by_anything_that_fails():
    by_cause = row_of(told("a", [PLANT], **LEARNT), decided("failed", [("moth", "marble")]), "own")
    assert by_cause["red"] and by_cause["own"] and by_cause["named"] and by_cause["unjudged"] == 1
    known = [("moth", "marble", "known"), ("elm", None, "new")]
    other = row_of(told("b", [PLANT], **LEARNT), decided("failed", [], known), "own")
    assert other["red"] and not other["own"] and other["findings"] == [["elm", ""]]
    assert row_of(told("c"), decided("passed"), "own")["kind"] is None


def test_releases_are_pooled_by_what_is_new():
    rows = [
        row_of(told("a", [PLANT], **LEARNT), decided("failed", [("moth", "marble")]), "own"),
        row_of(told("b", [PLANT], **LEARNT), decided("passed"), "own"),
        row_of(told("c", [PLANT], **LEARNT | {"new": False}), decided("failed"), "own"),
        *(row_of(told("d"), decided("passed"), "own") for _ in range(20)),
    ]
    figures = trained_figures([row | {"above": 3.0, "way": ""} for row in rows], [3.0])
    assert figures["trained_new_above_3_releases"] == 2 and figures["trained_new_above_3_red"] == 0.5
    assert figures["trained_new_context_above_3_own"] == 0.5 == figures["trained_new_rendered2_above_3_red"]
    assert figures["trained_unchanged_above_3_red"] == 0
    assert figures["trained_unchanged_above_3_red_high"] == pytest.approx(0.161, abs=0.001)  # of 20
    assert figures["trained_not_new_above_3_releases"] == 1
