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
    with pytest.raises(DictionaryError, match="4 activations need as many rows of codes; got 2"):
        tail.exact(acts, codes.rows(slice(0, 2)))


def test_latents_that_were_not_prepared_are_refused_not_guessed(
    exact_model, directions, acts, codes, weights
):
    few = ClosedFormTail(exact_model, directions, weights, active=torch.tensor([0, 1]))
    with pytest.raises(DictionaryError, match="not in `active`"):
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
    with pytest.raises(DictionaryError, match="group 0 names latents 80 to 80"):
        tail.exact_group(acts, directions.encode(acts), [[80]])


# tails of other shapes, against autograd and brute force


def model_with(**vision):
    """A float64 model with random LayerNorm gains and shifts, and three pictures."""
    import open_clip

    torch.manual_seed(0)
    base = {"image_size": 32, "patch_size": 8, "width": 64, "layers": 2, "head_width": 16}
    text = {"context_length": 8, "vocab_size": 60, "width": 16, "heads": 2, "layers": 1}
    clip = open_clip.model.CLIP(embed_dim=48, vision_cfg=base | vision, text_cfg=text)
    with torch.no_grad():
        for module in clip.modules():
            if isinstance(module, torch.nn.LayerNorm):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(std=0.3)
    generator = torch.Generator().manual_seed(3)
    pixels = torch.randn(3, 3, 32, 32, generator=generator, dtype=torch.float64)
    return clipattr.load_model(clip.double()), pixels


SHAPES = {
    "embedding": ({}, "image.embedding"),
    "embedding of a resnet": ({"layers": [1, 1, 1, 1], "width": 16}, "image.embedding"),
    "mean, then norm": ({"pool_type": "avg", "final_ln_after_pool": True}, "image.-1.patches"),
    "norm, then mean": ({"pool_type": "avg"}, "image.-1.patches"),
}


@pytest.fixture(scope="module", params=SHAPES)
def shaped(request):
    """Model, activations, codes, tail and targets at one place of another shape."""
    vision, site = SHAPES[request.param]
    model, pixels = model_with(**vision)
    acts = clipattr.activations(model, pixels, site)
    generator = torch.Generator().manual_seed(4)
    directions = torch.nn.functional.normalize(
        torch.randn(50, acts.shape[-1], generator=generator, dtype=torch.float64), dim=1
    )
    rows = acts.reshape(-1, acts.shape[-1])
    values, indices = (rows @ directions.T).abs().topk(5, dim=-1)
    codes = SparseCodes(indices.int(), values, 50)
    weights = torch.randn(model.embed_dim, 4, generator=generator, dtype=torch.float64)
    dictionary = SimpleNamespace(decoder=directions, site=site)
    return model, site, acts, codes, directions, ClosedFormTail(model, dictionary, weights), weights


def test_values_at_any_tail_are_the_models_own(shaped):
    model, site, acts, _, _, tail, weights = shaped
    torch.testing.assert_close(
        tail.values(acts), clipattr.continue_from(model, site, acts) @ weights, atol=1e-12, rtol=0
    )


def test_exact_at_any_tail_equals_ablating_one_part_after_another(shaped):
    model, site, acts, codes, directions, tail, weights = shaped
    exact, before = tail.exact(acts, codes), tail.values(acts)
    tokens = 1 if acts.ndim == 2 else acts.shape[1]
    for part in range(exact.shape[1]):
        token, place = divmod(part, codes.k)
        rows = torch.arange(len(acts)) * tokens + token
        moved = codes.values[rows, place, None] * directions[codes.indices[rows, place].long()]
        changed = acts.clone()
        if acts.ndim == 2:
            changed -= moved
        else:
            changed[:, token] -= moved
        after = clipattr.continue_from(model, site, changed) @ weights
        assert (exact[:, part] - (before - after)).abs().max() < 1e-9


def test_patching_at_any_tail_equals_code_times_autograd_gradient(shaped):
    model, site, acts, codes, directions, tail, weights = shaped
    leaf = acts.clone().requires_grad_()
    y = clipattr.continue_from(model, site, leaf) @ weights
    found = tail.patching(acts, codes)
    for n in range(weights.shape[1]):
        (gradient,) = torch.autograd.grad(y[:, n].sum(), leaf, retain_graph=True)
        rows = gradient.reshape(-1, gradient.shape[-1])
        expected = codes.values * torch.einsum("bkd,bd->bk", directions[codes.indices.long()], rows)
        assert (found[..., n] - expected.reshape(len(acts), -1)).abs().max() < 1e-9
    slopes = tail.gradient(acts, torch.stack([acts, 2 * acts.flip(0)], 1))
    (gradient,) = torch.autograd.grad(y[:, 0].sum(), leaf)
    expected = (gradient * 2 * acts.flip(0)).flatten(1).sum(1)
    torch.testing.assert_close(slopes[:, 1, 0], expected, atol=1e-9, rtol=0)


def test_a_family_at_any_tail_is_ablated_at_every_token(shaped):
    model, site, acts, codes, directions, tail, weights = shaped
    family = codes.indices[:2].flatten().unique().long()
    inside = torch.where(torch.isin(codes.indices.long(), family), codes.values, 0.0)
    moved = torch.einsum("bk,bkd->bd", inside, directions[codes.indices.long()]).view_as(acts)
    after = clipattr.continue_from(model, site, acts - moved) @ weights
    found = tail.exact_group(acts, codes, [family, []])
    torch.testing.assert_close(found[:, 0], tail.values(acts) - after, atol=1e-10, rtol=0)
    assert found[:, 1].abs().max() < 1e-15


@pytest.mark.parametrize("place", ("image.-1.cls", "image.embedding"))
def test_summed_effects_equal_the_sum_of_group_effects(place, exact_model, pictures, weights):
    from clipattr.attribution.tail_sums import summed_exact

    acts = clipattr.activations(exact_model, pictures, place)
    generator = torch.Generator().manual_seed(4)
    directions = torch.randn(50, acts.shape[1], generator=generator, dtype=torch.float64)
    values, indices = (acts @ directions.T).topk(6, dim=-1)
    codes = SparseCodes(indices.int(), values, 50)
    tail = ClosedFormTail(exact_model, SimpleNamespace(decoder=directions, site=place), weights)
    first = codes.indices[0].tolist()
    groups = [first[:3], first[2:5], [], list(range(50))]  # the third latent is in three of them
    factors = torch.tensor([1.0, 0.5, 0.0, 2.0], dtype=torch.float64)
    expected = (tail.exact_group(acts, codes, groups) * factors[:, None, None]).sum(0)
    torch.testing.assert_close(
        summed_exact(tail, acts, codes, groups, weights=factors), expected, atol=1e-12, rtol=0
    )
    single = torch.zeros(50, weights.shape[1], dtype=torch.float64)
    single.index_add_(0, codes.indices.flatten().long(), tail.exact(acts, codes).flatten(0, 1))
    torch.testing.assert_close(summed_exact(tail, acts, codes), single, atol=1e-10, rtol=0)


@pytest.mark.parametrize("place", ("image.-1.cls", "image.embedding"))
def test_mean_effects_of_stored_rows_equal_ablation_row_by_row(
    place, exact_model, pictures, weights, monkeypatch
):
    acts = clipattr.activations(exact_model, pictures, place)
    generator = torch.Generator().manual_seed(5)
    directions = torch.randn(30, acts.shape[1], generator=generator, dtype=torch.float64)

    class Relu:
        decoder, site, n_latents = directions, place, 30

        def encode(self, rows):
            return SparseCodes.from_dense((rows @ directions.T).clamp_min(0))

    groups = [[0, 3, 7], [], [5]]
    target = clipattr.Similarity(weights.T)
    found = clipattr.mean_effects(exact_model, Relu(), acts, target, groups, batch=3, progress=False)
    columns = torch.nn.functional.normalize(weights, dim=0)
    dense = (acts @ directions.T).clamp_min(0)
    expected = torch.zeros(3, weights.shape[1], dtype=torch.float64)
    for row, own in zip(acts, dense, strict=True):
        for number, group in enumerate(groups):
            moved = own[group] @ directions[group]
            before, after = (
                clipattr.continue_from(exact_model, place, x[None]) @ columns for x in (row, row - moved)
            )
            expected[number] += (before - after)[0] / len(acts)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


def test_mean_effects_refuse_what_they_cannot_give(exact_model, directions, acts):
    with pytest.raises(TargetError, match="linear"):
        clipattr.mean_effects(
            exact_model, directions, acts, lambda unit: unit.square().sum(1), progress=False
        )
    with pytest.raises(TargetError, match="at least one row"):
        clipattr.mean_effects(exact_model, directions, acts[:0], "a kite", progress=False)
