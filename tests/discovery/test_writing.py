"""Words written on pictures: how they are written, and what that does to a prompt."""

import numpy as np
import pytest
import torch
from PIL import Image

import clipattr as ca
from clipattr.discovery.expectations import Prompt
from clipattr.discovery.reliance import Reliance
from clipattr.discovery.writing import rises, written
from clipattr_data.world import World


@pytest.fixture(scope="module")
def setting():
    """A planted word and three prompts without plants, on the bundled study."""
    study, world = ca.open_study("picture-world"), World.open("picture-world-a")
    planted = next(
        plant.prompt for plant in world.plants if plant.kind == "typography" and plant.prompt == "camera"
    )
    prompts = [Prompt(text) for text in (planted, *world.neutral[:3])]
    reliance = Reliance(study, prompts, study.model.encode_text(sorted(world.vocabulary)), [[0]])
    return reliance, reliance.halves(study.evaluator.encode_text([p.text for p in prompts]))[1]


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
    assert there.any() and not there[:, -1].any()


def test_writing_a_planted_word_lifts_it_and_writing_another_prompt_does_not(setting):
    found = rises(*setting, [0, 1, 2, 3], 32)
    assert found[0].written.low > 0.01
    assert np.mean([found[number].written.value for number in (1, 2, 3)]) < found[0].written.value / 2


def test_the_rise_is_the_mean_difference_through_the_model(setting):
    reliance, half = setting
    study = reliance.study
    numbers = np.setdiff1d(np.arange(len(half.rows)), half.own[1].numpy())
    rows = half.rows[numbers[np.linspace(0, len(numbers) - 1, 5).astype(int)]]
    pictures = [study.images[int(row)].load() for row in rows]

    def contrast(versions):
        pixels = torch.stack([study.model.prepare(version) for version in versions])
        return study.model.encode_image(pixels) @ reliance.columns[:, 1]

    text = reliance.prompts[1].text
    slow = contrast([written(p, text, n) for n, p in enumerate(pictures)]) - contrast(pictures)
    assert rises(reliance, half, [1], 5)[1].written.value == pytest.approx(slow.mean().item(), abs=1e-5)


def test_no_pictures_or_no_prompts_ask_nothing(setting):
    assert rises(*setting, [0], 0) == {} and rises(*setting, [], 8) == {}
