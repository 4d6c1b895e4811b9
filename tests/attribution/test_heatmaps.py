"""Maps over the picture against finite differences, by hand, and on a picture with one bright patch."""

import numpy as np
import pytest
import torch
from PIL import Image

import clipattr
from clipattr.attribution import attribute
from clipattr.attribution.heatmaps import firing_map, occlusion_map
from clipattr.attribution.maps import attribution_map, code_map, mass_inside, points_inside
from clipattr.display.plots import overlay
from clipattr.errors import DataError, SiteError
from clipattr.sites import Site, continue_from


def cls_after(model, block, patches, context):
    with clipattr.capture(model, "image.-1.cls") as held:
        continue_from(model, f"image.{block}.patches", patches, context)
    return held["image.-1.cls"]


def test_the_firing_map_is_the_slope_of_the_latents_reading_towards_the_mean_patch(
    exact_model, directions, pictures
):
    maps = firing_map(exact_model, pictures[:2], [3, 9], dictionary=directions, block=0)
    assert maps.shape == (2, 2, 4, 4)
    context = clipattr.activations(exact_model, pictures[:2], "image.0.all")
    step, place = 1e-6, 5
    away = context[:, 1 + place] - context[:, 1:].mean(1)
    ends = []
    for sign in (1, -1):
        patches = context[:, 1:].clone()
        patches[:, place] += sign * step * away
        ends.append(cls_after(exact_model, 0, patches, context) @ directions.decoder[[3, 9]].T)
    slope = (ends[0] - ends[1]) / (2 * step)
    torch.testing.assert_close(maps.flatten(2)[..., place], slope, atol=1e-7, rtol=1e-5)


def test_occlusion_is_the_fall_of_the_code_when_a_patch_is_painted_over(exact_model, directions, pictures):
    acts = clipattr.activations(exact_model, pictures[:1], "image.-1.cls")
    latent = int(directions.encode(acts).indices[0, 0])
    maps = occlusion_map(exact_model, pictures[:1], [latent], dictionary=directions, batch=5)
    covered = pictures[:1].clone()
    covered[0, :, 8:16, 16:24] = pictures[0].mean((1, 2))[:, None, None]
    after = directions.encode(clipattr.activations(exact_model, covered, "image.-1.cls")).to_dense()[
        0, latent
    ]
    before = directions.encode(acts).to_dense()[0, latent]
    torch.testing.assert_close(maps[0, 0, 1, 2], before - after, atol=1e-12, rtol=0)
    wide = occlusion_map(exact_model, pictures[:1], [latent], dictionary=directions, reach=9)
    assert wide.std() < 1e-12  # everything is painted over, wherever the centre is


def test_code_maps_lay_patch_codes_out_row_by_row(exact_model, directions, pictures):
    acts = clipattr.activations(exact_model, pictures, "image.-2.patches")
    codes = directions.encode(acts.flatten(0, 1))
    maps = code_map(codes, [7, 50], exact_model.grid)
    dense = codes.to_dense().view(4, 4, 4, 80)
    assert torch.equal(maps[:, 1], dense[..., 50])
    with pytest.raises(DataError, match="do not fill grids of 5 × 5"):
        code_map(codes, [7], (5, 5))


def test_attribution_maps_sum_to_the_latents_attribution(exact_model, directions, pictures):
    result = attribute(exact_model, pictures, "kite", dictionary=directions, site="image.-2.patches")
    latents, _, values = result.latents(2)
    latent = int(latents[values.abs().argmax()])
    maps = attribution_map(result, latent=latent)
    torch.testing.assert_close(maps[2].sum(), values[values.abs().argmax()])
    torch.testing.assert_close(attribution_map(result)[2].sum(), values.sum())
    with pytest.raises(SiteError, match="have no position in the picture"):
        attribution_map(attribute(exact_model, pictures, "kite", dictionary=directions))


def test_mass_and_pointing_are_measured_against_the_mask_by_hand():
    heat = torch.tensor([[[1.0, -5.0], [3.0, 0.0]], [[-1.0, -1], [-1, -2]]])
    masks = np.zeros((2, 8, 8), dtype=bool)
    masks[:, 4:, :4] = True
    assert mass_inside(heat, masks)[0] == pytest.approx(0.75) and mass_inside(heat, masks)[1].isnan()
    assert points_inside(heat, masks).tolist() == [1.0, 0.0]
    with pytest.raises(DataError, match="2 maps need as many masks"):
        mass_inside(heat, masks[0])


def test_an_overlay_leaves_the_picture_clear_where_the_map_is_zero():
    grey = Image.fromarray(np.full((16, 16, 3), 128, dtype=np.uint8))
    assert np.array_equal(np.asarray(overlay(grey, np.zeros((2, 2)))), np.asarray(grey))
    painted = np.asarray(overlay(grey, np.array([[1.0, 1], [-1, -1]])))
    assert painted[0, 0, 0] > painted[0, 0, 2] and painted[-1, 0, 2] > painted[-1, 0, 0]


def test_maps_that_make_no_sense_are_refused_with_the_way_out(exact_model, directions, pictures):
    with pytest.raises(SiteError, match=r"Use code_map"):
        firing_map(exact_model, pictures, [1], dictionary=directions, site="image.-2.patches")
    with pytest.raises(SiteError, match="a block before image.-1.cls"):
        firing_map(exact_model, pictures, [1], dictionary=directions, block=2)
    assert Site("image.-1.cls").index(exact_model) == 2
