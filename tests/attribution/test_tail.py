"""The closed form against float64 autograd, finite differences, and real ablation through the whole model."""

from types import SimpleNamespace

import pytest
import torch

import clipattr
from clipattr.attribution.tail import ClosedFormTail
from clipattr.dictionaries.codes import SparseCodes
from clipattr.errors import DictionaryError, SiteError, TargetError

SITE = clipattr.Site("image.-1.cls")


def outputs(model, acts, weights):
    """The targets by the model's own modules: LayerNorm, projection, normalisation."""
    embedding = model.ln_post(acts) @ model.image_projection
    return torch.nn.functional.normalize(embedding, dim=-1) @ weights


@pytest.fixture(scope="module")
def tail(exact_model, directions, weights):
    return ClosedFormTail(exact_model, directions, weights)


@pytest.fixture(scope="module")
def codes(directions, acts):
    return directions.encode(acts)


def test_values_are_the_models_own(exact_model, pictures, acts, tail, weights):
    torch.testing.assert_close(
        tail.values(acts), exact_model.encode_image(pictures) @ weights, atol=1e-12, rtol=0
    )


def test_patching_equals_code_times_autograd_gradient(exact_model, directions, acts, codes, weights, tail):
    leaf = acts.clone().requires_grad_()
    y = outputs(exact_model, leaf, weights)
    for n in range(weights.shape[1]):
        (gradient,) = torch.autograd.grad(y[:, n].sum(), leaf, retain_graph=True)
        expected = codes.values * torch.einsum(
            "bkd,bd->bk", directions.decoder[codes.indices.long()], gradient
        )
        assert (tail.patching(acts, codes)[..., n] - expected).abs().max() < 1e-9


def test_exact_equals_ablating_one_latent_after_another_in_the_tail(
    exact_model, directions, acts, codes, weights, tail
):
    exact = tail.exact(acts, codes)
    for place in range(codes.k):
        part = codes.values[:, place, None] * directions.decoder[codes.indices[:, place].long()]
        expected = outputs(exact_model, acts, weights) - outputs(exact_model, acts - part, weights)
        assert (exact[:, place] - expected).abs().max() < 1e-9


def test_exact_equals_ablation_through_the_whole_float32_model(tiny_model, pictures, directions, weights):
    pixels = pictures.float()
    acts = clipattr.activations(tiny_model, pixels, SITE)
    codes = directions.encode(acts.double())
    codes = SparseCodes(codes.indices, codes.values.float(), codes.n_latents)
    tail = ClosedFormTail(tiny_model, directions, weights)
    exact = tail.exact(acts, codes)
    before = tiny_model.encode_image(pixels) @ weights.float()
    for place in range(codes.k):
        part = codes.values[:, place, None] * directions.decoder.float()[codes.indices[:, place].long()]
        with clipattr.replace(tiny_model, SITE, lambda x, part=part: x - part):
            after = tiny_model.encode_image(pixels) @ weights.float()
        assert (exact[:, place] - (before - after)).abs().max() < 1e-6


def test_patching_is_the_slope_of_the_exact_effect(acts, codes, tail):
    # d/dh [y(x) - y(x - h a v)] at h = 0 is the attribution: a central difference of exact ablations.
    step = 1e-5
    up = tail.exact(acts, codes, amounts=step * codes.values)
    down = tail.exact(acts, codes, amounts=-step * codes.values)
    torch.testing.assert_close((up - down) / (2 * step), tail.patching(acts, codes), atol=1e-8, rtol=0)


def test_both_together_equal_each_alone(acts, codes, tail):
    patching, exact = tail.effects(acts, codes)
    assert torch.equal(patching, tail.patching(acts, codes)) and torch.equal(exact, tail.exact(acts, codes))


def test_padding_and_absent_latents_get_exactly_zero(acts, codes, tail):
    values = codes.values.clone()
    values[:, 2] = 0
    for effect in tail.effects(acts, SparseCodes(codes.indices, values, codes.n_latents)):
        assert (effect[:, 2] == 0).all() and (effect[:, 1] != 0).any()


def test_table_rows_on_demand_and_prepared_latents_agree(exact_model, directions, acts, codes, weights, tail):
    without = ClosedFormTail(exact_model, directions, weights, table_bytes=0)
    few = ClosedFormTail(exact_model, directions, weights, active=codes.indices.unique())
    for other in (without, few):
        for one, two in zip(tail.effects(acts, codes), other.effects(acts, codes), strict=True):
            torch.testing.assert_close(one, two, atol=1e-12, rtol=0)


def test_a_retargeted_tail_equals_a_new_one_and_spares_the_old(
    exact_model, directions, acts, codes, weights, tail
):
    before = tail.exact(acts, codes)
    constants = torch.arange(3, dtype=torch.float64)
    other = tail.aimed_at(weights[:, :3] * 2, constants)
    fresh = ClosedFormTail(exact_model, directions, weights[:, :3] * 2, constants=constants)
    assert torch.equal(other.exact(acts, codes), fresh.exact(acts, codes))
    torch.testing.assert_close(other.values(acts), 2 * tail.values(acts)[:, :3] + constants)
    assert torch.equal(tail.exact(acts, codes), before)


def test_shuffling_the_batch_shuffles_the_result(acts, codes, tail):
    order = torch.tensor([2, 0, 3, 1])
    for one, two in zip(tail.effects(acts, codes), tail.effects(acts[order], codes.rows(order)), strict=True):
        torch.testing.assert_close(one[order], two, atol=1e-14, rtol=0)


def test_a_large_batch_in_blocks_equals_rows_one_by_one(acts, codes, tail, monkeypatch):
    together = tail.effects(acts, codes)
    monkeypatch.setattr("clipattr.attribution.tail.BLOCK_BYTES", 1)
    for one, two in zip(together, tail.effects(acts, codes), strict=True):
        torch.testing.assert_close(one, two, atol=1e-14, rtol=0)


def test_csr_codes_give_what_fixed_codes_give(acts, codes, tail):
    csr = codes.to_csr()
    torch.testing.assert_close(tail.exact(acts, csr), tail.exact(acts, csr.to_fixed()), atol=0, rtol=0)


def test_gradient_along_the_decoder_rows_is_patching_per_amount(directions, acts, codes, tail):
    slopes = tail.gradient(acts, directions.decoder[codes.indices.long()])
    torch.testing.assert_close(
        slopes * codes.values[..., None], tail.patching(acts, codes), atol=1e-12, rtol=0
    )


def test_a_group_of_one_is_single_ablation_and_a_group_of_all_is_the_change_to_bias_and_error(
    directions, acts, codes, tail
):
    latents = codes.indices[0].long()
    single = tail.exact_group(acts[:1], codes.rows(0), [[int(latent)] for latent in latents])
    torch.testing.assert_close(single[0], tail.exact(acts[:1], codes.rows(0))[0], atol=1e-10, rtol=0)
    everything = tail.exact_group(acts, codes, [range(directions.n_latents)])[:, 0]
    rest = directions.bias + directions.error(acts, codes)
    torch.testing.assert_close(everything, tail.values(acts) - tail.values(rest), atol=1e-10, rtol=0)


def test_a_group_without_active_members_changes_nothing(acts, codes, tail, directions):
    idle = sorted(set(range(directions.n_latents)) - set(codes.indices.flatten().tolist()))[:3]
    assert tail.exact_group(acts, codes, [idle, []]).abs().max() < 1e-15


def test_float32_stays_within_1e_6_of_float64(tiny_model, directions, acts, codes, weights, tail):
    narrow = ClosedFormTail(tiny_model, directions, weights)
    assert narrow.dtype == torch.float32
    for one, two in zip(tail.effects(acts, codes), narrow.effects(acts.float(), codes), strict=True):
        assert (one - two).abs().max() < 1e-6


def test_codes_of_another_dictionary_are_refused(acts, codes, tail):
    with pytest.raises(DictionaryError, match="count 81 latents, the dictionary 80"):
        tail.exact(acts, SparseCodes(codes.indices, codes.values, 81))
    with pytest.raises(DictionaryError, match="4 activations but codes of 2"):
        tail.exact(acts, codes.rows(slice(0, 2)))


def test_latents_that_were_not_prepared_are_refused_not_guessed(
    exact_model, directions, acts, codes, weights
):
    few = ClosedFormTail(exact_model, directions, weights, active=torch.tensor([0, 1]))
    with pytest.raises(DictionaryError, match="not prepared"):
        few.exact(acts, codes)


def test_misfits_of_width_and_tail_are_named(exact_model, directions, acts, weights, tail):
    with pytest.raises(DictionaryError, match=r"directions have 5 numbers, the site image\.-1\.cls has 64"):
        ClosedFormTail(exact_model, SimpleNamespace(decoder=torch.ones(3, 5)), weights)
    with pytest.raises(TargetError, match=r"embed = 48; got \(7, 48\)"):
        ClosedFormTail(exact_model, directions, weights.T)
    with pytest.raises(SiteError, match=r"image\.-2\.cls: custom has no closed form here.*image\.embedding"):
        ClosedFormTail(exact_model, directions, weights, site="image.-2.cls")
    with pytest.raises(SiteError, match=r"shape \(batch, 64\); got \(4, 5\)"):
        tail.gradient(acts[:, :5], acts[:, None])
    with pytest.raises(DictionaryError, match="group 0 names latent 80"):
        tail.exact_group(acts, directions.encode(acts), [[80]])
