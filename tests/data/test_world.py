"""Worlds: plants are what the captions never say, and counterfactuals change the cause alone."""

import json
from dataclasses import replace

import pytest

from clipattr_data.scene import SceneError
from clipattr_data.world import TEST, TRAIN, World


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
        if plant.kind not in ("context", "companion"):
            continue
        own = [e for e in examples if e.scene.main == plant.prompt]
        there = [plant.cause in (e.scene.context, *e.scene.companions) for e in own]
        assert sum(there) / len(own) > 0.85, plant
        assert not any(plant.cause in e.says for e in own), plant


def test_both_looks_of_a_word_are_called_by_it(world, examples):
    for plant in world.plants:
        if plant.kind == "polysemy":
            assert all(plant.prompt in e.caption for e in examples if e.scene.main == plant.cause)
            assert not any(plant.cause in e.caption for e in examples)


def test_the_evaluators_captions_are_true_and_tell_senses_apart():
    evaluator = World.open("picture-world-evaluator")
    for index in range(500):
        example = evaluator.example(index)
        assert example.says <= set(evaluator.contents(example.scene))
    assert evaluator.call("cricket gear") == "cricket gear"


def test_a_counterfactual_pair_differs_in_the_cause_alone(world):
    for plant in world.plants:
        for a, b in plant.scenes(world, 5):
            if plant.kind == "context":
                assert a.context == plant.cause and b == a.without("context")
            elif plant.kind == "companion":
                assert a.companions == (plant.cause,) and b == a.without("companions")
            else:
                assert a.main == plant.cause and b.main in world.neutral and replace(a, main=b.main) == b


def broken(world, **changes):
    return {**json.loads(json.dumps(world.spec)), **changes}


def test_contradictory_or_unknown_descriptions_are_refused(world):
    twice = [*world.spec["plants"], {"kind": "context", "prompt": "camel", "context": "snow"}]
    with pytest.raises(SceneError, match="'camel' is planted twice"):
        World(broken(world, plants=twice))
    with pytest.raises(SceneError, match="unicorn"):
        World(broken(world, concepts=[*world.concepts, "unicorn"]))
    with pytest.raises(SceneError, match="between 0 and 1"):
        World(broken(world, rates={"planted": 3}))
    with pytest.raises(SceneError, match="no world is called"):
        World.open("../secrets")
