"""Verdicts by re-rendering, on the bundled model."""

import dataclasses

import pytest
import torch

import clipattr as ca
from clipattr.discovery import Finding, Interval
from clipattr_data.effects import contrasts, effect, interval, measure
from clipattr_data.truth import Truth, judge
from clipattr_data.world import World


@pytest.fixture(scope="module")
def study():
    return ca.open_study("picture-world")


@pytest.fixture(scope="module")
def world():
    return World.open("picture-world-a")


@pytest.fixture(scope="module")
def truth(study, world):
    return Truth(study.model, study.dictionary, world, pictures=800)


def finding(prompt, latents):
    zero = Interval(0.0, 0.0, 0.0)
    return Finding(prompt, tuple(latents), None, "unknown", 0.5, zero, zero, 0.0, 0.0, 0.0, 0.5)


def test_shipped_effects_are_measured_again_within_their_intervals(study, world):
    import json

    from clipattr_data import models_dir

    stored = {
        (row["kind"], row["prompt"]): row
        for row in json.loads((models_dir() / "picture-world-a" / "effects.json").read_text())
    }
    sample = world.plants[::9]
    for row in measure(study.model, world, 60, sample).to_dict("records"):
        shipped = stored[row["kind"], row["prompt"]]
        assert row["low"] <= shipped["high"] and shipped["low"] <= row["high"], row["prompt"]


def test_at_least_four_plants_of_each_kind_are_learnt():
    import json
    from collections import Counter

    from clipattr_data import models_dir

    rows = json.loads((models_dir() / "picture-world-a" / "effects.json").read_text())
    learnt = Counter(row["kind"] for row in rows if row["learnt"])
    assert set(learnt) == {"polysemy", "compound", "context", "companion"} and min(learnt.values()) >= 4


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
    plain = world.neutral[0]
    there = torch.tensor([plain in contents for contents in truth.contents])
    contrast = truth.codes[there].mean(0) - truth.codes[~there].mean(0)
    (verdict,) = judge(truth, [finding(plain, contrast.topk(3).indices.tolist())], [], 30)
    assert verdict.cause == plain and not verdict.right


def test_judging_does_not_look_at_labels(truth, world):
    plant = next(p for p in world.plants if p.kind == "context")
    pairs = plant.scenes(world, 40, first=900)
    fall = (truth._codes([a for a, _ in pairs]) - truth._codes([b for _, b in pairs])).sum(0)
    found = finding(plant.prompt, fall.topk(4).indices.tolist())
    named = dataclasses.replace(found, label="something else", kind="watermark")
    one, two = judge(truth, [found, named], [plant], 40)
    assert (one.plant, one.kept) == (two.plant, two.kept)
