"""Edits of prepared pictures: filling, control regions, pasting, colour."""

import pytest
import torch

from clipattr.discovery.pixels.edits import (
    Cast,
    Region,
    Surroundings,
    border,
    elsewhere,
    filled,
    largest,
    matched,
    overlay_mask,
)
from clipattr.discovery.pixels.measure import window_masks

SIZE = (24, 24)


def box(top, left, side, n=1):
    mask = torch.zeros(n, *SIZE, dtype=torch.bool)
    mask[:, top : top + side, left : left + side] = True
    return mask


@pytest.fixture()
def strong():
    return torch.rand(6, 3, *SIZE, generator=torch.Generator().manual_seed(0))


@pytest.fixture()
def weak():
    return torch.rand(8, 3, *SIZE, generator=torch.Generator().manual_seed(1))


def test_what_is_known_stays_and_what_is_filled_lies_between_its_surroundings(strong):
    mask = box(6, 9, 7).float()
    result = filled(strong, mask)
    outside = ~mask.bool()[0]
    torch.testing.assert_close(result[:, :, outside], strong[:, :, outside])
    inside = result[:, :, ~outside]
    assert inside.amin() >= strong.amin() - 1e-5
    assert inside.amax() <= strong.amax() + 1e-5


def test_a_linear_ramp_is_filled_nearly_linearly():
    ramp = torch.linspace(0, 1, SIZE[1]).expand(1, 3, *SIZE).clone()
    hidden = ramp.clone()
    mask = box(8, 8, 8)
    hidden[:, :, mask[0]] = 50.0
    assert (filled(hidden, mask.float()) - ramp)[:, :, mask[0]].abs().max() < 0.15


def test_a_picture_that_is_all_masked_becomes_finite(strong):
    assert filled(strong, torch.ones(1, *SIZE)).isfinite().all()


def test_a_control_region_has_the_same_area_and_does_not_overlap():
    mask = box(2, 3, 8).float()
    moved = elsewhere(mask)
    assert moved.sum() == mask.sum()
    assert (moved * mask).sum() == 0


def test_the_largest_part_of_a_map_has_the_asked_area():
    maps = torch.rand(3, 5, 5, generator=torch.Generator().manual_seed(2))
    mask = largest(maps, 0.2, SIZE)
    assert mask.shape == (3, *SIZE)
    assert mask.flatten(1).sum(1).tolist() == [round(0.2 * 24 * 24)] * 3


def test_windows_cover_every_pixel_and_centre_on_their_cell():
    masks = window_masks(SIZE, 4, 0.3)
    assert masks.shape == (16, *SIZE)
    assert (masks.sum(0) >= 1).all()
    assert masks[5, 9, 9] == 1  # centre of the second row's second cell


def test_a_region_is_exchanged_and_pasted_where_it_is(strong, weak):
    edit = Region(box(4, 4, 8, n=6))
    without, control = edit.remove(strong, weak)
    torch.testing.assert_close(without[2, :, 6:10, 6:10], weak[2, :, 6:10, 6:10])
    torch.testing.assert_close(without[2, :, 16:, 16:], strong[2, :, 16:, 16:])
    torch.testing.assert_close(control[2, :, 6:10, 6:10], strong[2, :, 6:10, 6:10])
    assert (control - strong).abs().amax(1).gt(1e-6).any()
    pasted, beside = edit.transplant(strong, weak)
    torch.testing.assert_close(pasted[0, :, 6:10, 6:10], strong[0, :, 6:10, 6:10])
    torch.testing.assert_close(pasted[7, :, 6:10, 6:10], strong[1, :, 6:10, 6:10])
    torch.testing.assert_close(pasted[0, :, 18:, 18:], weak[0, :, 18:, 18:])
    torch.testing.assert_close(beside[1, :, 6:10, 6:10], weak[0, :, 6:10, 6:10])
    torch.testing.assert_close(beside[1, :, 18:, 18:], weak[1, :, 18:, 18:])


def test_surroundings_are_exchanged_and_the_kept_part_stays(strong, weak):
    edit = Surroundings(box(8, 8, 8, n=6))
    without, control = edit.remove(strong, weak)
    for altered in (without, control):
        torch.testing.assert_close(altered[:, :, 10:14, 10:14], strong[:, :, 10:14, 10:14])
    torch.testing.assert_close(without[0, :, :4], weak[0, :, :4])
    torch.testing.assert_close(control[1, :, :4], strong[0, :, :4])


def test_a_colour_cast_is_estimated_and_undone():
    generator = torch.Generator().manual_seed(3)
    weak = torch.rand(40, 3, *SIZE, generator=generator)
    shift, scale = torch.tensor([0.3, -0.1, 0.0]), torch.tensor([1.5, 1.0, 0.7])
    strong = torch.rand(40, 3, *SIZE, generator=generator) * scale[:, None, None] + shift[:, None, None]
    edit = Cast.between(strong, weak)
    torch.testing.assert_close(edit.shift, shift, atol=0.03, rtol=0)
    torch.testing.assert_close(edit.scale, scale, atol=0.03, rtol=0)
    without, control = edit.remove(strong, weak)
    torch.testing.assert_close(without.mean((0, 2, 3)), torch.full((3,), 0.5), atol=0.03, rtol=0)
    assert (control.mean((0, 2, 3)) - 0.5).abs().max() > 0.1
    cast, _ = edit.transplant(strong, weak)
    torch.testing.assert_close(cast.mean((0, 2, 3)), strong.mean((0, 2, 3)), atol=0.03, rtol=0)


def test_an_overlay_is_where_strong_pictures_agree(weak):
    mark = torch.rand(3, 6, 6, generator=torch.Generator().manual_seed(4))
    strong = torch.rand(12, 3, *SIZE, generator=torch.Generator().manual_seed(5))
    strong[:, :, 15:21, 2:8] = mark
    mask = overlay_mask(strong, weak)
    assert mask is not None
    assert mask[0, 16:20, 3:7].all()
    assert not mask[0, :10].any()
    assert overlay_mask(weak, weak.flip(0)) is None


def test_a_border_is_as_wide_as_asked_and_its_control_lies_inside_it():
    frame, ring = border((20, 30), 0.1)
    assert frame[0, :2].all() and frame[0, :, :2].all() and not frame[0, 2:-2, 2:-2].any()
    assert ring[0, 2:4, 2:-2].all() and ring[0, 2:-2, 2:4].all()
    assert not ring[0, 4:-4, 4:-4].any() and not (ring & frame).any()


def test_a_region_s_own_control_is_used(strong, weak):
    edit = Region(box(2, 2, 6), "border", box(14, 14, 6))
    changed = (edit.remove(strong, weak)[1] - strong).abs().amax(1) > 1e-6
    assert changed[:, 15:19, 15:19].any() and not changed[:, :12, :12].any()


def test_rows_are_taken_in_turn():
    assert matched(torch.arange(3), 7).tolist() == [0, 1, 2, 0, 1, 2, 0]
