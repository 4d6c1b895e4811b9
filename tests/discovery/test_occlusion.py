"""Occlusion: what it leaves of latents is what remains when the object is removed and the picture rendered again."""

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.sparse import csr_array

import clipattr as ca
from clipattr.discovery.audit.base import Base
from clipattr.discovery.audit.candidates import Route, Tables, candidates_of
from clipattr.discovery.audit.expectations import Prompt
from clipattr.discovery.audit.occlusion import PRICE, Looked, look, lost_of, silent, windows
from clipattr.discovery.audit.settings import Settings
from clipattr.discovery.audit.subject import Subject
from clipattr_data.world import World


def test_each_window_is_filled_with_the_mean_colour_and_all_are_occluded_once_at_least():
    pixels = np.random.default_rng(0).integers(0, 255, (50, 30, 3), dtype=np.uint8)
    whole, *occluded = (np.asarray(picture) for picture in windows(Image.fromarray(pixels)))
    np.testing.assert_array_equal(whole, pixels)
    changed = np.stack([(version != pixels).any(2) for version in occluded])
    assert len(occluded) == 9 and changed.any(0).mean() > 0.99
    mean = pixels.reshape(-1, 3).mean(0).round()
    assert (occluded[0][:22, :13] == mean).all() and (occluded[-1][-22:, -13:] == mean).all()
    assert all(mask.sum() == pytest.approx(22 * 13, abs=3) for mask in changed)


def test_a_picture_of_one_pixel_can_be_occluded():
    assert len(windows(Image.new("L", (1, 1)))) == 10


def looked(codes, stays):
    """Two pictures of ten rows each, asked for the windows that `stays` knows."""
    stays = torch.tensor(stays)
    return Looked(
        torch.arange(2),
        csr_array(np.array(codes, dtype=np.float32)),
        torch.zeros(2, 9),
        stays,
        torch.zeros(2, 9, 3),
        0,
    )


def test_a_window_must_hide_the_concept_and_leave_the_prompt():
    unknown = [float("nan")] * 6
    some = looked(np.zeros((20, 1)), [[1.0, 0.2, 0.9, *unknown], [0.3, 0.1, 0.2, *unknown]])
    lost = torch.tensor([[0.5, 0.9, 0.6, *unknown], [0.9, 0.9, 0.9, *unknown]])
    assert some.places(lost, Settings()) == [2, None]


def test_latents_that_raise_the_prompt_and_become_inactive_by_hand():
    codes = np.zeros((20, 4))
    codes[[0, 10]] = [4.0, 2.0, 6.0, 1.0]  # both unaltered
    codes[1 + 2], codes[11 + 5] = [1.0, 2.0, 0.0, 0.0], [1.0, 2.0, 2.0, 0.0]  # the windows that were chosen
    some = looked(codes, np.ones((2, 9)).tolist())
    carried = torch.tensor([0.1, 0.5, 0.3, -0.2])
    kept, left = silent(some, [2, 5], carried, 0.5)
    assert kept == (2, 0) and left == pytest.approx((1 + 1 + 0 + 2) / 20)
    assert silent(some, [None, None], carried, 0.5) == ((), 1.0)
    assert some.left([2, None], [0]) == (pytest.approx(5 / 8), 2)
    assert some.focus([0]) == pytest.approx(1.0) and np.isnan(
        looked(np.zeros((20, 1)), np.ones((2, 9)).tolist()).focus([0])
    )


@pytest.fixture(scope="module")
def base():
    return Base.of(ca.open_study("picture-world-b"))


def test_what_occlusion_leaves_is_what_rendering_without_the_object_leaves(base):
    world, study = World.open("picture-world-b"), base.study
    tables, estimated, true = Tables.of(base), [], []
    for plant in [plant for plant in world.plants if plant.kind == "companion"]:
        subject = Subject.of(base, Prompt(plant.prompt))
        named = [
            c
            for c in candidates_of(base, subject, tables)
            if c.route is Route.WORD and c.label == plant.cause
        ]
        if not named:
            continue
        clearly = base.along(base.finding, base.concepts.words[named[0].word])
        some = look(base, subject, named[0].there[0], clearly, 4)
        assert some is not None and some.spent == 4 * PRICE
        places = some.places(lost_of(base, some, named[0].word), base.settings)
        codes = []
        for side in zip(*plant.scenes(world, 12, first=700_000), strict=True):
            pixels = torch.stack([study.model.prepare(scene.picture()) for scene in side])
            codes.append(
                study.dictionary.encode(ca.activations(study.model, pixels, study.site)).to_dense().sum(0)
            )
        for latent in torch.nonzero(codes[0] > 0.25 * codes[0].max()).flatten().tolist():
            if some.left(places, [latent])[1] >= 2:
                estimated.append(some.left(places, [latent])[0])
                true.append(float(codes[1][latent] / codes[0][latent]))
    silent_there = (
        np.array(estimated) <= 0.5
    )  # a picture without a window counts as keeping all: it errs that way
    told = list(zip(estimated, true, strict=True))
    assert silent_there.sum() >= 3 and (np.array(true)[silent_there] <= 0.5).mean() >= 0.75, told
    assert np.corrcoef(estimated, np.clip(true, 0, 1.5))[0, 1] > 0.4, told


def test_too_few_pictures_are_not_occluded(base):
    subject = Subject.of(base, Prompt("trumpet"))
    nowhere = torch.zeros(len(base.finding), dtype=torch.bool)
    assert look(base, subject, nowhere, torch.zeros(len(nowhere)), 4) is None
    assert look(base, subject, ~nowhere, torch.zeros(len(nowhere)), 1) is None
