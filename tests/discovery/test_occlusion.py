"""Occlusion pictures: against what is left of latents when the thing is truly taken out and the picture drawn again."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import clipattr as ca
from clipattr.discovery.audit.occlusion import Occlusion, windows
from clipattr.discovery.audit.presence import gap, ways
from clipattr_data.world import World


def test_each_window_is_filled_with_the_mean_colour_and_all_are_covered_once_at_least():
    pixels = np.random.default_rng(0).integers(0, 255, (50, 30, 3), dtype=np.uint8)
    whole, *covered = (np.asarray(picture) for picture in windows(Image.fromarray(pixels)))
    np.testing.assert_array_equal(whole, pixels)
    changed = np.stack([(version != pixels).any(2) for version in covered])
    assert len(covered) == 9 and changed.any(0).mean() > 0.99
    mean = pixels.reshape(-1, 3).mean(0).round()
    assert (covered[0][:22, :13] == mean).all() and (covered[-1][-22:, -13:] == mean).all()
    assert all(mask.sum() == pytest.approx(22 * 13, abs=3) for mask in changed)


def test_a_picture_of_one_pixel_can_be_covered():
    assert len(windows(Image.new("L", (1, 1)))) == 10


@pytest.fixture(scope="module")
def study():
    return ca.open_study("picture-world")


def covered(study, prompt, word):
    """What covering `word` does to eight of the prompt's pictures that show it."""
    rows = study.rows[[study.images.columns["label"][row] == prompt for row in study.rows]]
    rows = np.concatenate([rows, study.rows[:1500]])  # the collection, for averages
    seen = study.seen(rows)
    prompt_meaning = study.evaluator.encode_text([prompt])[0]
    meaning = study.vocabulary_embeddings[study.vocabulary.words.index(word)].float()
    way = ways(seen, torch.stack([meaning]))[:, 0]
    own = torch.tensor([study.images.columns["label"][row] == prompt for row in rows])
    shows = own & (way > gap(way[:, None])[0])
    return Occlusion(study, rows, seen, 8).occlude(shows, way, prompt_meaning.float(), meaning)


def test_what_covering_leaves_is_what_drawing_again_without_the_thing_leaves(study):
    world = World.open("picture-world-a")
    plants = [plant for plant in world.plants if plant.kind == "companion"]
    estimated, true = [], []
    for plant in plants:
        without = covered(study, plant.prompt, plant.cause)
        assert without is not None, plant
        pairs = plant.scenes(world, 16, first=700_000)
        codes = []
        for side in zip(*pairs, strict=True):
            pixels = torch.stack([study.model.prepare(scene.picture()) for scene in side])
            codes.append(
                study.dictionary.encode(ca.activations(study.model, pixels, study.site)).to_dense().sum(0)
            )
        strong = codes[0] > 0.25 * codes[0].max()
        estimated += np.nan_to_num(without.left(), nan=1.0)[strong.numpy()].tolist()
        true += (codes[1] / codes[0])[strong].tolist()
    agree = np.mean((np.array(estimated) <= 0.5) == (np.array(true) <= 0.5))
    assert len(true) >= 10 and agree >= 0.75, list(zip(estimated, true, strict=True))
    assert np.corrcoef(estimated, np.clip(true, 0, 1.5))[0, 1] > 0.7


def test_what_is_all_over_the_picture_has_no_place_to_cover(study):
    world = World.open("picture-world-a")
    for plant in world.plants:
        if plant.kind == "context":
            assert covered(study, plant.prompt, plant.cause) is None, plant


def test_pictures_are_seen_once_by_one_covering():
    asked = []

    def encode(pixels):
        asked.append(len(pixels))
        return torch.nn.functional.normalize(pixels.flatten(1)[:, :4] + 0.1, dim=1)

    evaluator = SimpleNamespace(
        image_size=(8, 8),
        prepare=lambda picture: torch.from_numpy(np.asarray(picture) / 255).float(),
        encode_image=encode,
    )
    pictures = [SimpleNamespace(load=lambda: Image.new("RGB", (8, 8), (200, 10, 10)))] * 5
    study = SimpleNamespace(images=pictures, evaluator=evaluator, model=evaluator)
    covering, another = (Occlusion(study, np.arange(5), torch.eye(5)[:, :4], 5) for _ in range(2))
    everywhere, clearly = torch.ones(5, dtype=torch.bool), torch.arange(5.0)
    for _ in range(2):
        assert (
            covering.occlude(everywhere, clearly, torch.eye(4)[0], torch.eye(4)[1]) is None
        )  # nothing changes when covered
    assert asked == [27]
    another.occlude(everywhere, clearly, torch.eye(4)[0], torch.eye(4)[1])
    assert asked == [27, 27]
