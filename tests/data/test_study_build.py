"""What bundled files are rounded to: as precise as said, and smaller when compressed."""

import gzip
import math

import pytest
import torch
from safetensors.torch import load_file, save_file

from clipattr_data.lesion_build import DIGITS, compact, scenes
from clipattr_data.lesion_world import LesionWorld
from clipattr_data.study_build import rounded, shortened


@pytest.mark.parametrize("digits", [7, 11, 15])
def test_a_number_keeps_so_many_binary_digits(digits):
    values = torch.cat([torch.randn(200), torch.tensor([0.0, 1.0, -0.75, 1e-30])])
    for value, short in zip(values.tolist(), rounded(values, digits).tolist(), strict=True):
        if value == 0:
            assert short == 0
            continue
        unit = 2.0 ** (math.floor(math.log2(abs(value))) + 1 - digits)  # the last digit kept
        assert abs(short - value) <= unit / 2 * (1 + 1e-6) and (short / unit) == round(short / unit)


def test_nothing_is_rounded_to_minus_zero():
    assert not torch.signbit(rounded(torch.tensor([-0.0, 0.0]), 7)).any()


@pytest.mark.parametrize("width", [4, 64, 192])
def test_shortened_directions_keep_their_length(width):
    rows = torch.nn.functional.normalize(torch.randn(500, width), dim=1)
    lengths = shortened(rows).double().norm(dim=1)
    assert (lengths - 1).abs().max() < 1e-4, "what a dictionary takes for unit length"


def test_a_compact_model_has_the_same_weights_in_fewer_bytes(tmp_path):
    file = tmp_path / "model.safetensors"
    weights = {"matrix": torch.randn(200, 200).half(), "unused": 0 * torch.randn(3000, 32).half()}
    save_file({**weights, "scale": torch.tensor(2.6593).half()}, file)
    before = len(gzip.compress(file.read_bytes()))
    compact(file)
    after = load_file(file)
    assert len(gzip.compress(file.read_bytes())) < 0.8 * before
    assert torch.allclose(after["matrix"].float(), weights["matrix"].float(), rtol=2.0**-DIGITS)
    assert after["scale"].dtype == torch.float16 and after["scale"].item() == pytest.approx(2.66, rel=0.01)


def test_the_lesion_study_holds_each_class_on_every_skin_on_both_sides():
    rows = [row for row in scenes(LesionWorld.open("lesions-evaluator")) if int(row.id[-5:]) < 200]
    for split in ("train", "holdout"):
        some = [row for row in rows if row.split == split]
        assert len({row.group for row in some}) == 6 and len(some) == 200
        assert all(row.group.startswith(row.label) for row in some)
    assert len({row.scene for row in rows}) == len(rows), "no lesion is on both sides"
