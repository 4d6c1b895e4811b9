"""Verdicts by re-rendering, on the bundled model."""

import dataclasses
import json
from collections import Counter

import pytest
import torch

import clipattr as ca
from clipattr.discovery.findings import Finding
from clipattr.statistics import Interval
from clipattr_data import models_dir
from clipattr_data.build import AUDITED, EVALUATOR, NULL
from clipattr_data.effects import contrasts, effect, interval, measure
from clipattr_data.train import zero_shot
from clipattr_data.truth import Truth, judge
from clipattr_data.world import CAUSES, World


@pytest.fixture(scope="module")
def study():
    return ca.open_study("picture-world")


@pytest.fixture(scope="module")
def world():
    return World.open("picture-world-a")


@pytest.fixture(scope="module")
def truth(study, world):
    return Truth(study.model, study.dictionary, world, pictures=2400)


def finding(prompt, latents):
    zero = Interval(0.0, 0.0, 0.0)
    return Finding(prompt, tuple(latents), None, "unknown", 0.5, zero, zero, 0.0, 0.0, 0.0, 0.5)


def shipped(name):
    return json.loads((models_dir() / name / "effects.json").read_text())


@pytest.mark.parametrize("name", AUDITED)
def test_shipped_effects_are_measured_again_within_their_intervals(name):
    world, model = World.open(name), ca.load_model(name)
    stored = {(row["kind"], row["prompt"]): row for row in shipped(name)}
    for row in measure(model, world, 40, world.plants[::8]).to_dict("records"):
        known = stored[row["kind"], row["prompt"]]
        # Two intervals of 95 % around one true effect; a little room, since six are compared.
        assert row["low"] - 0.01 <= known["high"] and known["low"] <= row["high"] + 0.01, row["prompt"]


@pytest.mark.parametrize("name", AUDITED)
def test_at_least_four_plants_of_each_kind_are_learnt(name):
    learnt = Counter(row["kind"] for row in shipped(name) if row["learnt"])
    assert set(learnt) == set(CAUSES) and min(learnt.values()) >= 4


def test_a_hundred_plants_are_learnt_in_all():
    assert sum(row["learnt"] for name in AUDITED for row in shipped(name)) >= 100


@pytest.mark.parametrize(
    ("name", "least"), [(EVALUATOR, 0.8), *[(name, 0.7) for name in AUDITED], (NULL, 0.7)]
)
def test_models_name_unplanted_objects(name, least):
    assert zero_shot(ca.load_model(name).clip, World.open(name), 300)["top1"] >= least


def test_an_effect_is_the_mean_paired_difference(study, world):
    plant = world.plants[-1]
    pairs = plant.scenes(world, 12)
    column = contrasts(study.model, world.vocabulary)[:, world.vocabulary.index(plant.prompt)]
    differences = []
    for pair in pairs:
        scores = [
            (study.model.encode_image(study.model.prepare(scene.picture())[None]) @ column).item()
            for scene in pair
        ]
        differences.append(scores[0] - scores[1])
    assert effect(study.model, column, pairs) == pytest.approx(interval(torch.tensor(differences)), abs=1e-5)


def test_latents_of_the_planted_cause_match_and_others_do_not(truth, world):
    plant = next(p for p in world.plants if p.prompt == "rabbit")
    pairs = plant.scenes(world, 40, first=900)
    codes_with, codes_without = truth._codes([a for a, _ in pairs]), truth._codes([b for _, b in pairs])
    fall = (codes_with - codes_without).sum(0)
    cause = fall.topk(5).indices.tolist()
    own = torch.minimum(codes_with, codes_without).sum(0).topk(3).indices.tolist()
    good, bad = judge(truth, [finding(plant.prompt, cause), finding(plant.prompt, own)], [plant], 40)
    assert good.plant == plant and good.right and good.kept <= 0.5
    assert bad.plant is None


def test_a_prompt_that_rests_on_its_own_object_is_no_finding(truth, world):
    judged = 0
    for plain in world.neutral[:12]:
        there = torch.tensor([plain in contents for contents in truth.contents])
        contrast = truth.codes[there].mean(0) - truth.codes[~there].mean(0)
        (verdict,) = judge(truth, [finding(plain, contrast.topk(1).indices.tolist())], [], 30)
        if verdict.cause == plain:  # else the strongest latent is shared with something else
            assert not verdict.right
            judged += 1
    assert judged >= 4


def test_judging_does_not_look_at_labels(truth, world):
    plant = next(p for p in world.plants if p.kind == "context")
    pairs = plant.scenes(world, 40, first=900)
    fall = (truth._codes([a for a, _ in pairs]) - truth._codes([b for _, b in pairs])).sum(0)
    found = finding(plant.prompt, fall.topk(4).indices.tolist())
    named = dataclasses.replace(found, label="something else", kind="watermark")
    one, two = judge(truth, [found, named], [plant], 40)
    assert (one.plant, one.kept) == (two.plant, two.kept)
