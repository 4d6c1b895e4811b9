"""The parts of a score against outputs of the model, computed here by hand in float64."""

import numpy as np
import pytest
import torch

import clipattr
from clipattr.attribution import METHODS, attribute, score_parts
from clipattr.errors import TargetError
from clipattr.sites import continue_from

SITES = ["image.-1.cls", "image.-2.patches"]


@pytest.mark.parametrize("method", ["exact", "patching", "integrated_gradients", "shapley"])
def test_the_parts_of_every_method_in_the_targets_unit_add_up_to_the_score(
    exact_model, directions, pictures, method
):
    att = attribute(exact_model, pictures[:2], "a red disc", dictionary=directions, method=method)
    for picture in range(2):
        parts = score_parts(att, picture=picture)
        assert abs(parts.total - float(att.y[picture, 0])) < 1e-10
        assert np.all(np.diff(np.abs(parts.values)) <= 0)
        assert (abs(parts.together) < 2e-3) == METHODS[method].adds_up


def test_bias_and_error_are_outputs_of_the_model_without_any_latent(exact_model, directions, pictures):
    acts = clipattr.activations(exact_model, pictures[:1], "image.-1.cls")
    text = exact_model.encode_text(["a red disc"])[0]
    codes = directions.encode(acts).to_dense()
    error = acts - directions.decode(directions.encode(acts))
    bias = acts - error - codes @ directions.decoder

    def score(x):
        return float(continue_from(exact_model, "image.-1.cls", x)[0] @ text)

    parts = score_parts(attribute(exact_model, pictures[:1], "a red disc", dictionary=directions))
    assert parts.bias == pytest.approx(score(bias), abs=1e-10)
    assert parts.error == pytest.approx(score(bias + error) - score(bias), abs=1e-10)
    assert parts.y == pytest.approx(score(acts), abs=1e-10)


def test_a_saved_attribution_keeps_its_parts(exact_model, directions, pictures, tmp_path):
    att = attribute(exact_model, pictures[:2], "a red disc", dictionary=directions)
    att.save(tmp_path / "one.safetensors")
    again = clipattr.Attribution.load(tmp_path / "one.safetensors")
    assert torch.equal(again.y_bias, att.y_bias) and again.preprocess == att.preprocess
    assert score_parts(again).total == pytest.approx(score_parts(att).total)


def test_values_that_only_rank_have_no_parts(exact_model, directions, pictures):
    att = attribute(exact_model, pictures[:1], "a red disc", dictionary=directions, method="energy")
    with pytest.raises(TargetError, match="rank latents and are in no unit"):
        score_parts(att)
