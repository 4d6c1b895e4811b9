"""Prompts that are read off the picture: how words are written, and what counts as reading."""

import numpy as np
import pytest
from PIL import Image

import clipattr as ca
from clipattr.discovery.expectations import Prompt
from clipattr.discovery.reliance import Reliance
from clipattr.discovery.writing import read_off, written
from clipattr_data.world import World


@pytest.fixture(scope="module")
def study():
    return ca.open_study("picture-world")


@pytest.fixture(scope="module")
def planted():
    return [plant.prompt for plant in World.open("picture-world-a").plants if plant.kind == "typography"]


@pytest.fixture(scope="module")
def readings(study, planted):
    quiet = [name for name in World.open("picture-world-a").neutral if name not in planted][:6]
    prompts = [Prompt(text) for text in [*planted[:3], *quiet]]
    labels = sorted({label for label in study.images.columns["label"] if label})
    reliance = Reliance(study, prompts, study.model.encode_text(labels), [[0]])
    half = reliance.halves(study.evaluator.encode_text([p.text for p in prompts]))[1]
    found = read_off(reliance, half, 24, 0.02, progress=False)
    return reliance, {prompts[reading.prompt].text: reading for reading in found}


def test_the_same_number_writes_the_same_picture_and_words_differ():
    empty = Image.new("RGB", (64, 64), (90, 120, 90))
    one, again = (np.asarray(written(empty, "horse", 5)) for _ in range(2))
    assert (one == again).all() and (np.asarray(written(empty, "ghost", 5)) != one).any()
    changed = [(np.asarray(written(empty, "horse", n)) != np.asarray(empty)).any(-1) for n in range(12)]
    assert all(0.01 < there.mean() < 0.4 for there in changed)
    assert len({there.tobytes() for there in changed}) > 8


def test_a_long_text_stays_inside_the_picture():
    empty = Image.new("RGB", (64, 64), (90, 120, 90))
    there = (np.asarray(written(empty, "umbrella stand", 0)) != np.asarray(empty)).any(-1)
    assert there.any(0).sum() <= 64 and not there[:, -1].any()


def test_planted_words_are_read_and_others_are_not(readings, planted):
    found = readings[1]
    assert set(found) <= set(planted)
    assert len(found) >= 2


def test_the_rise_and_the_effect_are_surely_above_the_bound(readings):
    for reading in readings[1].values():
        assert reading.rise.low >= 0.02 and reading.causal_effect.low >= 0.02
        assert (
            reading.latents and len(set(reading.latents)) == len(reading.latents) and 0 <= reading.share <= 1
        )


def test_without_pictures_nothing_is_asked(readings, study):
    reliance, _ = readings
    half = reliance.halves(study.evaluator.encode_text([p.text for p in reliance.prompts]))[1]
    assert read_off(reliance, half, 0, 0.02, progress=False) == []
