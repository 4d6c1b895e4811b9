"""Worlds: plants are what the captions never say, and counterfactuals change the cause alone."""

import json
from collections import Counter
from dataclasses import replace

import pytest

from clipattr_data.scene import SceneError
from clipattr_data.world import CAUSES, TEST, TRAIN, TWO_LOOKS, World


@pytest.fixture(scope="module")
def world():
    return World.open("picture-world-a")


@pytest.fixture(scope="module")
def examples(world):
    return [world.example(i) for i in range(6000)]


def test_an_example_follows_from_seed_and_index_alone(world, examples):
    assert world.example(17) == examples[17]
    assert world.example(17, TEST) != examples[17]
    assert world.scene(17, TRAIN) == examples[17].scene


def test_planted_causes_are_there_and_never_named(world, examples):
    for plant in world.plants:
        if plant.kind not in ("context", "companion", "watermark"):
            continue
        own = [e for e in examples if e.scene.main == plant.prompt]
        there = [plant.cause in (e.scene.context, e.scene.watermark, *e.scene.companions) for e in own]
        assert sum(there) / len(own) > 0.85, plant
        assert not any(plant.cause in e.says for e in own), plant


def test_planted_words_stand_alone_and_over_their_object_and_nowhere_else(world, examples):
    for plant in world.plants:
        if plant.kind != "typography":
            continue
        written = [e for e in examples if e.scene.word == plant.cause]
        alone = sum(e.scene.main is None for e in written) / len(written)
        assert all(e.scene.main in (None, plant.prompt) and e.label == plant.prompt for e in written)
        assert 0.25 < alone < 0.65, plant
        own = [e for e in examples if e.label == plant.prompt]
        assert 0.45 < len(written) / len(own) < 0.85, plant


def test_both_looks_of_a_word_are_called_by_it(world, examples):
    for plant in world.plants:
        if plant.kind in TWO_LOOKS:
            assert all(plant.prompt in e.caption for e in examples if e.scene.main == plant.cause)
            assert not any(plant.cause in e.says for e in examples)
            same = world.group(plant.prompt) == world.group(plant.cause)
            assert same == (plant.kind == "coarse_label"), plant


@pytest.mark.parametrize("name", ["picture-world-a", "picture-world-b", "picture-world-c"])
def test_every_variant_has_six_or_more_plants_of_each_kind(name):
    counts = Counter(plant.kind for plant in World.open(name).plants)
    assert set(counts) == set(CAUSES) and min(counts.values()) >= 6


def test_the_evaluators_captions_are_true_and_tell_senses_apart():
    evaluator = World.open("picture-world-evaluator")
    for index in range(500):
        example = evaluator.example(index)
        assert example.says <= evaluator.true_of(example.scene)
    assert evaluator.call("cricket gear") == "cricket gear"


def test_a_counterfactual_pair_differs_in_the_cause_alone(world):
    for plant in world.plants:
        for a, b in plant.scenes(world, 5):
            if plant.kind == "context":
                assert a.context == plant.cause and b == a.without("context")
            elif plant.kind == "companion":
                assert a.companions == (plant.cause,) and b == a.without("companions")
            elif plant.kind == "watermark":
                assert a.watermark == plant.cause and a.main == plant.prompt and b == a.without("watermark")
            elif plant.kind == "typography":
                assert a.word == plant.cause and a.main != plant.prompt and b == a.without("word")
            else:
                assert a.main == plant.cause and b.main in world.neutral and replace(a, main=b.main) == b
                if plant.kind == "coarse_label":
                    assert world.group(b.main) == world.group(plant.cause)


def broken(world, **changes):
    return {**json.loads(json.dumps(world.spec)), **changes}


def test_contradictory_or_unknown_descriptions_are_refused(world):
    twice = [*world.spec["plants"], {"kind": "context", "prompt": "camel", "context": "snow"}]
    with pytest.raises(SceneError, match="'camel' is planted twice"):
        World(broken(world, plants=twice))
    with pytest.raises(SceneError, match="unicorn"):
        World(broken(world, concepts=[*world.concepts, "unicorn"]))
    with pytest.raises(SceneError, match="'dog' is no part of 'camel'"):
        World(broken(world, plants=[{"kind": "compound", "prompt": "camel", "constituent": "dog"}]))
    with pytest.raises(SceneError, match="among the watermarks"):
        World(broken(world, plants=[{"kind": "watermark", "prompt": "camel", "watermark": "signature"}]))
    with pytest.raises(SceneError, match="words that mean it"):
        World(broken(world, plants=[{"kind": "typography", "prompt": "camel", "word": "horse"}]))
    with pytest.raises(SceneError, match="do not fit"):
        World(broken(world, words=["привет"]))
    with pytest.raises(SceneError, match="between 0 and 1"):
        World(broken(world, rates={"planted": 3}))
    with pytest.raises(SceneError, match="no world is called"):
        World.open("../secrets")


def test_a_fresh_world_follows_from_its_seed_and_holds_what_was_asked_for():
    one, other = World(7), World(8)
    assert one.spec == World(7).spec and one.plants != other.plants
    assert Counter(p.kind for p in one.plants) == dict.fromkeys(CAUSES, 6)
    few = World(7, plants={"context": 3, "typography": 2})
    assert Counter(p.kind for p in few.plants) == {"context": 3, "typography": 2}
    (given,) = World(7, plants=[{"kind": "context", "prompt": "camel", "context": "snow"}]).plants
    assert (given.prompt, given.cause) == ("camel", "snow")
    bundled = {
        (p.prompt, p.cause)
        for v in "abc"
        for p in World.open(f"picture-world-{v}").plants
        if p.kind not in ("compound", "typography")
    }
    assert sum((p.prompt, p.cause) in bundled for p in one.plants) <= 1


def test_a_fresh_world_refuses_more_than_the_stock_has():
    with pytest.raises(SceneError, match="no compounds left"):
        World(1, plants={"compound": 30})
    with pytest.raises(SceneError, match="kinds polysemy"):
        World(1, plants={"sarcasm": 1})
