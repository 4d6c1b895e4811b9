"""Words written on pictures: how they are written, and what that does to a prompt."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import clipattr as ca
from clipattr.discovery.audit.expectations import Prompt
from clipattr.discovery.audit.reliance import Reliance
from clipattr.discovery.audit.text_insertion import Writing, reading_families, writing_words, written
from clipattr.discovery.encoded import activations_of
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
    return reliance, *reliance.halves(study.evaluator.encode_text([p.text for p in prompts]))


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
    reliance, _, half = setting
    writing = Writing(reliance, half, 48)
    found = [writing.rise(number, [0]) for number in range(4)]
    assert found[0].written.low > 0.01
    assert np.mean([rise.written.value for rise in found[1:]]) < found[0].written.value / 2


def test_the_rise_is_the_mean_difference_through_the_model(setting):
    reliance, _, half = setting
    study, writing = reliance.study, Writing(reliance, half, 5)
    pictures = [study.images[int(row)].load() for row in half.rows[writing.numbers(1)]]

    def contrast(versions):
        pixels = torch.stack([study.model.prepare(version) for version in versions])
        return study.model.encode_image(pixels) @ reliance.columns[:, 1]

    text = reliance.prompts[1].text
    level = contrast([written(p, text, n) for n, p in enumerate(pictures)])
    slow = level - contrast(pictures)
    # The study keeps its pictures' activations in half precision.
    assert writing.rise(1, [0]).written.value == pytest.approx(slow.mean().item(), abs=5e-4)
    others = [prompt.text for prompt in reliance.prompts if prompt.text != text]
    instead = contrast([written(pictures[n], others[n % 3], n) for n in (0, 3)])
    assert writing.specific(1).value == pytest.approx((level[[0, 3]] - instead).mean().item(), abs=1e-5)


def test_words_are_written_where_none_stands_and_not_on_the_prompts_own_pictures(setting):
    reliance, _, half = setting
    study, writing = reliance.study, Writing(reliance, half, 400)
    numbers = writing.numbers(0)
    assert len(numbers) == len(set(numbers.tolist())) == 400
    assert not set(numbers.tolist()) & set(half.own[0].tolist())
    assert [study.vocabulary.words[word] for word in writing_words(study)] == ["a written word"]
    words = [study.images[int(row)].scene.word for row in half.rows]
    among = np.mean([words[n] is not None for n in numbers])
    assert np.mean([word is not None for word in words]) > 0.05 > 10 * among


def test_readers_wake_when_the_prompt_is_written_and_carry_what_single_ablation_says(setting):
    reliance, half, held_back = setting
    study, writing = reliance.study, Writing(reliance, half, 384)
    latents, carried = writing.readers(0)
    assert latents and carried > 0
    rows = half.rows[writing.numbers(0)]
    pictures = [study.images[int(row)].load() for row in rows]
    acts = activations_of(study, [written(p, reliance.prompts[0].text, n) for n, p in enumerate(pictures)])
    after = study.dictionary.encode(acts).to_dense()[:, latents]
    before = study.codes.rows(torch.from_numpy(rows)).to_dense()[:, latents]
    assert (before.sum(0) <= 0.5 * after.sum(0)).all() and ((after > 0).float().mean(0) >= 0.02).all()
    whole = reliance.tail.values(acts)[:, 0]
    single = [
        (whole - reliance.tail.values(acts - after[:, [n]] * study.dictionary.decoder[j])[:, 0]).mean().item()
        for n, j in enumerate(latents)
    ]
    assert sum(single) == pytest.approx(carried, rel=1e-3) and single == sorted(single, reverse=True)
    (family,) = reading_families(reliance, half, [(0, 7)], 192)
    assert (family.prompt, family.word, family.reason) == (0, 7, "written") and family.latents == latents
    # What was chosen on one half holds on the other.
    assert Writing(reliance, held_back, 192).rise(0, latents).before < 0.5


def test_with_nothing_to_write_on_nothing_is_said(setting):
    reliance, half, _ = setting
    writing = Writing(reliance, half, 2)
    assert writing.rise(0, [0]) is None and writing.readers(0) == ([], 0.0)
    assert reading_families(reliance, half, [(0, 7)], 1) == []


def test_an_empty_place_of_a_code_carries_nothing(setting, monkeypatch):
    reliance, _, _ = setting
    latent = torch.tensor([[0, -1], [5, 0], [-1, -1]])
    effect = torch.tensor([[0.2, 9.0], [0.1, 0.4], [9.0, 9.0]])[..., None]
    monkeypatch.setattr(reliance, "effects", lambda half, some, prompts: (latent[some], effect[some]))
    half = SimpleNamespace(own=[torch.arange(3)])
    carried = reliance.carried(half, 0, torch.ones(3, 1, dtype=torch.bool))[0]
    assert carried[[0, 5]].tolist() == pytest.approx([0.6 / 3, 0.1 / 3])
    assert carried.sum().item() == pytest.approx(0.7 / 3)
