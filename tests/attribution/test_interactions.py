"""Groups, pairs and interventions against real ablation through the running model."""

import pytest
import torch

import clipattr
from clipattr.attribution import ProbeLogit, Splice
from clipattr.attribution.compute import read_site
from clipattr.attribution.interactions import group_effects, pairwise
from clipattr.attribution.interventions import ablate, intervene, scale, set_to, transplant
from clipattr.dictionaries.codes import SparseCodes, amounts_of
from clipattr.errors import DictionaryError
from clipattr.sites import Site

SITES = ["image.-1.cls", "image.-2.cls", "image.-2.patches"]


@pytest.fixture(scope="module", params=SITES)
def splice(request, exact_model, directions, pictures, weights):
    acts, context = read_site(exact_model, pictures, Site(request.param))
    return Splice(exact_model, directions, request.param, acts, ProbeLogit(weights.T[:2]), context=context)


def test_a_group_effect_is_the_running_models_change_when_the_group_is_ablated(splice, pictures, directions):
    group = splice.indices[0, :3].tolist()
    effect = group_effects(splice, [group])[:, 0]
    options = {"dictionary": directions, "site": splice.site}
    with ablate(splice.model, group, **options):
        after = splice.read(splice.model.encode_image(pictures))
    assert (effect - (splice.y - after)).abs().max() < 1e-9 and effect.abs().max() > 1e-4


def test_group_effects_at_the_last_block_equal_the_closed_forms(
    exact_model, directions, pictures, weights, acts
):
    splice = Splice(exact_model, directions, "image.-1.cls", acts, ProbeLogit(weights.T[:2]))
    groups = [splice.indices[0, :3].tolist(), [1, 2, 3, 4], []]
    torch.testing.assert_close(
        group_effects(splice, groups), splice.tail.exact_group(acts, splice.codes, groups), atol=1e-12, rtol=0
    )


def test_pairs_beyond_single_effects_are_what_four_outputs_say(splice):
    places = splice.ablated().abs().amax(2).topk(3).indices
    table = pairwise(splice, places)
    assert table.shape == (4, 3, 3, 2) and torch.equal(table, table.transpose(1, 2))
    assert (torch.diagonal(table, dim1=1, dim2=2) == 0).all()

    def without(*chosen):
        amounts = splice.amounts.clone()
        for number in chosen:
            amounts[torch.arange(4), places[:, number]] = 0
        return splice.states(amounts[:, None])[:, 0]

    expected = -splice.y + without(0) + without(2) - without(0, 2)
    torch.testing.assert_close(table[:, 0, 2], expected, atol=1e-12, rtol=0)


def test_two_latents_of_one_direction_are_redundant_in_a_saturated_target(exact_model, directions, acts):
    from clipattr.attribution.targets import FunctionTarget

    splice = Splice(exact_model, directions, "image.-1.cls", acts, FunctionTarget(lambda e: e[:, 0] ** 2))
    assert pairwise(splice).abs().max() > 1e-4


@pytest.mark.parametrize("site", SITES)
def test_a_model_in_which_nothing_changes_gives_its_output_bit_for_bit(
    exact_model, directions, pictures, site
):
    before = exact_model.encode_image(pictures)
    for change in (ablate(exact_model, [], dictionary=directions, site=site),
                   scale(exact_model, range(80), 1.0, dictionary=directions, site=site)):  # fmt: skip
        with change:
            assert torch.equal(exact_model.encode_image(pictures), before)
    assert torch.equal(exact_model.encode_image(pictures), before)


def test_scaling_by_zero_is_ablation_and_setting_reaches_idle_latents(
    exact_model, directions, pictures, acts
):
    codes = directions.encode(acts)
    latents = codes.indices[0, :2].tolist()

    def encoded(context):
        with context:
            return exact_model.encode_image(pictures)

    zero = encoded(scale(exact_model, latents, 0.0, dictionary=directions))
    assert torch.equal(zero, encoded(ablate(exact_model, latents, dictionary=directions)))
    idle = next(latent for latent in range(80) if latent not in codes.indices[0])
    expected = acts + (1.5 - amounts_of(codes, [idle])) * directions.decoder[idle]
    torch.testing.assert_close(
        encoded(set_to(exact_model, [idle], 1.5, dictionary=directions)),
        clipattr.continue_from(exact_model, "image.-1.cls", expected),
        atol=1e-12, rtol=0,
    )  # fmt: skip


def test_transplanting_all_latents_leaves_only_the_pictures_own_error(
    exact_model, directions, pictures, acts
):
    codes = directions.encode(acts)
    with transplant(exact_model, range(80), codes.rows(0), dictionary=directions):
        moved = exact_model.encode_image(pictures)
    expected = directions.decode(codes.rows(0)) + directions.error(acts, codes)
    torch.testing.assert_close(
        moved, clipattr.continue_from(exact_model, "image.-1.cls", expected), atol=1e-12, rtol=0
    )


def test_amounts_of_latents_are_the_columns_of_the_dense_codes(directions, acts):
    codes = directions.encode(acts)
    for layout in (codes, codes.to_csr()):
        assert torch.equal(amounts_of(layout, [5, 79, 51]), codes.to_dense()[:, [5, 79, 51]])


def test_interventions_that_cannot_be_are_refused_and_leave_no_hook(exact_model, directions, pictures):
    before = exact_model.encode_image(pictures)
    with (
        pytest.raises(DictionaryError, match="the call names latents 80 to 80; the dictionary has 80"),
        ablate(exact_model, [80], dictionary=directions),
    ):
        pass
    with (
        pytest.raises(DictionaryError, match=r"finite amounts of shape \(4, 2\)"),
        intervene(exact_model, [1, 2], lambda amounts: amounts[:, :1], dictionary=directions),
    ):
        exact_model.encode_image(pictures)
    with (
        pytest.raises(DictionaryError, match="4 encoded rows need one donor row, or as many; got 3"),
        transplant(exact_model, [1], SparseCodes.from_dense(torch.ones(3, 80)), dictionary=directions),
    ):
        exact_model.encode_image(pictures)
    with pytest.raises(DictionaryError, match="named twice"):
        amounts_of(SparseCodes.from_dense(torch.ones(1, 80)), [1, 1])
    with pytest.raises(DictionaryError, match="group 0 names latents 90 to 90"):
        acts, _ = read_site(exact_model, pictures, Site("image.-1.cls"))
        group_effects(
            Splice(exact_model, directions, "image.-1.cls", acts, ProbeLogit(torch.ones(48))), [[90]]
        )
    assert torch.equal(exact_model.encode_image(pictures), before)
