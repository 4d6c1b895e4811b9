"""Training: the loss is what it says, and an interrupted training ends with the same weights."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from clipattr_data import train as training
from clipattr_data.train import Recipe, contrastive_loss, positives, rate_at, train
from clipattr_data.world import World

SMALL = Recipe(
    steps=6,
    horizon=8,
    cooldown_from=3,
    batch=8,
    warmup=2,
    width=32,
    layers=1,
    patch=16,
    text_width=16,
    text_layers=1,
    embed=16,
)


@pytest.fixture(scope="module")
def world():
    return World.open("picture-world-a")


def test_the_loss_with_one_positive_each_is_the_usual_cross_entropy():
    torch.manual_seed(0)
    similar = torch.randn(5, 5)
    own = torch.arange(5)
    usual = 0.5 * (
        torch.nn.functional.cross_entropy(similar, own) + torch.nn.functional.cross_entropy(similar.T, own)
    )
    torch.testing.assert_close(contrastive_loss(similar, torch.eye(5, dtype=torch.bool)), usual)


def test_the_loss_by_hand_when_two_captions_are_the_same():
    # All similarities equal: every way to spread the weight costs log 2.
    assert contrastive_loss(torch.zeros(2, 2), torch.ones(2, 2, dtype=torch.bool)).item() == pytest.approx(
        0.6931, abs=1e-4
    )


def test_a_caption_counts_for_every_picture_it_is_true_of():
    world = World.open("picture-world-evaluator")
    _, captions, true = positives(world, 0, 64)
    contents = [world.true_of(world.example(i).scene) for i in range(64)]
    says = [world.example(i).says for i in range(64)]
    assert true.diagonal().all() and len(captions) == 64
    assert all(bool(true[i, j]) == (says[j] <= contents[i]) for i in range(64) for j in range(64))


def test_moving_the_end_leaves_the_beginning_of_the_schedule():
    long = Recipe(steps=2000)
    assert all(rate_at(step, long) == rate_at(step, Recipe()) for step in range(1001))
    assert rate_at(0, long) < rate_at(149, long) and rate_at(1999, long) < 2e-6


def test_an_interrupted_training_ends_with_the_same_weights(world, tmp_path, monkeypatch):
    whole = train(world, tmp_path / "whole", SMALL, progress=False)
    checkpoint = tmp_path / "half.pt"
    real = training.positives

    def stop_at_the_fourth(world, first, n):
        if first == 4 * SMALL.batch:
            raise KeyboardInterrupt
        return real(world, first, n)

    monkeypatch.setattr(training, "positives", stop_at_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        train(world, tmp_path / "half", SMALL, checkpoint=checkpoint, checkpoint_every=2, progress=False)
    assert checkpoint.exists() and not (tmp_path / "half").exists()
    monkeypatch.setattr(training, "positives", real)
    half = train(world, tmp_path / "half", SMALL, checkpoint=checkpoint, checkpoint_every=2, progress=False)
    assert not checkpoint.exists()
    one, two = (load_file(Path(folder) / "open_clip_model.safetensors") for folder in (whole, half))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_checkpoint_of_another_training_is_refused(world, tmp_path):
    checkpoint = tmp_path / "c.pt"
    torch.save({"identity": json.dumps({"world": {}, "recipe": {}, "seed": 0})}, checkpoint)
    with pytest.raises(ValueError, match="another training"):
        train(world, tmp_path / "out", SMALL, checkpoint=checkpoint, progress=False)


def test_a_trained_folder_opens_as_any_other_model(world, tmp_path):
    from clipattr import load_model

    folder = train(world, tmp_path / "model", SMALL, progress=False)
    model = load_model(f"local-dir:{folder}")
    picture = world.scene(0).picture()
    assert model.encode_image(model.prepare(picture)[None]).norm().item() == pytest.approx(1, abs=1e-5)
    # The model's own preprocessing is the training's.
    torch.testing.assert_close(model.prepare(picture), training.to_pixels(world.scene(0).render()[None])[0])
