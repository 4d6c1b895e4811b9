"""Methods at every kind of site against slow formulas: autograd in float64, one ablation after another, captum."""

import importlib
import itertools

import pytest
import torch

import clipattr
from clipattr.attribution import (
    METHODS,
    Contrast,
    LogOdds,
    ProbeLogit,
    Splice,
    attribute,
    explain_splice,
    integrate,
    mean_codes,
    register_method,
    shapley_values,
)
from clipattr.attribution.compute import read_site
from clipattr.attribution.targets import FunctionTarget, as_target
from clipattr.dictionaries.codes import SparseCodes
from clipattr.errors import DictionaryError, SiteError, TargetError
from clipattr.sites import Site, continue_from

SITES = ["image.-1.cls", "image.-2.cls", "image.-2.patches", "image.0.all"]


def crooked(embeddings):
    """A target that is not linear in the embedding."""
    return torch.stack([embeddings[:, 0] ** 2 + embeddings[:, 1], (3 * embeddings[:, 2:9]).logsumexp(1)], 1)


@pytest.fixture(scope="module")
def linear(weights):
    return ProbeLogit(weights.T[:3], torch.tensor([0.5, 0.0, -1.0]))


@pytest.fixture(scope="module")
def curved():
    return FunctionTarget(crooked, names=["square", "soft maximum"])


def taken_apart(model, directions, pictures, site, target, **more):
    site = Site(site)
    acts, context = read_site(model, pictures, site)
    return Splice(model, directions, site, acts, target, context=context, **more)


def slow_outputs(splice, amounts):
    """Targets with codes `amounts` (batch, parts) put in, written out with dense sums; differentiable."""
    rows = splice.decoder[splice.indices]
    change = (amounts - splice.amounts)[..., None] * rows
    change = change.view(splice.batch, splice.tokens, splice.places, -1).sum(2)
    acts = splice.acts + change.view_as(splice.acts)
    return splice.target.values(continue_from(splice.model, splice.site, acts, splice.context), splice.model)


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("kind", ["linear", "curved"])
def test_patching_is_code_times_autograd_gradient_of_the_codes(
    exact_model, directions, pictures, site, kind, request
):
    splice = taken_apart(exact_model, directions, pictures, site, request.getfixturevalue(kind))
    leaf = splice.amounts.clone().requires_grad_()
    y = slow_outputs(splice, leaf)
    values = METHODS["patching"](splice)
    for n in range(splice.n_targets):
        (gradient,) = torch.autograd.grad(y[:, n].sum(), leaf, retain_graph=True)
        assert (values[..., n] - splice.amounts * gradient).abs().max() < 1e-9


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("kind", ["linear", "curved"])
def test_exact_is_one_ablation_after_another(exact_model, directions, pictures, site, kind, request):
    splice = taken_apart(exact_model, directions, pictures[:2], site, request.getfixturevalue(kind))
    values = METHODS["exact"](splice)
    before = slow_outputs(splice, splice.amounts)
    for part in (0, 3, splice.parts - 1):
        amounts = splice.amounts.clone()
        amounts[:, part] = 0
        assert (values[:, part] - (before - slow_outputs(splice, amounts))).abs().max() < 1e-9


def test_many_targets_through_the_embedding_equal_few_one_by_one(exact_model, directions, pictures):
    rows = torch.randn(
        60, exact_model.embed_dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    many = taken_apart(exact_model, directions, pictures, "image.-2.cls", ProbeLogit(rows)).slopes()
    few = taken_apart(exact_model, directions, pictures, "image.-2.cls", ProbeLogit(rows[:5])).slopes()
    torch.testing.assert_close(many[..., :5], few, atol=1e-12, rtol=0)


def test_many_curved_targets_through_the_embedding_equal_few(exact_model, directions, pictures):
    rows = torch.randn(
        60, exact_model.embed_dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    many = FunctionTarget(lambda e: (e @ rows.T).tanh(), names=[str(n) for n in range(60)])
    few = FunctionTarget(lambda e: (e @ rows[:5].T).tanh(), names=[str(n) for n in range(5)])
    one = taken_apart(exact_model, directions, pictures, "image.-2.cls", many).slopes()
    torch.testing.assert_close(
        one[..., :5],
        taken_apart(exact_model, directions, pictures, "image.-2.cls", few).slopes(),
        atol=1e-12,
        rtol=0,
    )


@pytest.mark.parametrize("site", SITES)
def test_integrated_gradients_add_up_to_the_change_of_all_codes(
    exact_model, directions, pictures, linear, site
):
    splice = taken_apart(exact_model, directions, pictures, site, linear)
    values = METHODS["integrated_gradients"](splice)
    full = slow_outputs(splice, splice.amounts) - slow_outputs(splice, torch.zeros_like(splice.amounts))
    assert (values.sum(1) - full).abs().max() < 1e-3


def test_a_path_that_cannot_be_integrated_is_flagged(exact_model, directions, pictures):
    # A step in the embedding has no slope where it jumps: no number of places finds it.
    step = FunctionTarget(lambda e: (e[:, 0] * 1e5).sigmoid() + 0 * e[:, 1], names=["step"])
    result = explain_splice(
        taken_apart(exact_model, directions, pictures, "image.-1.cls", step), "integrated_gradients"
    )
    jumped = (result.y - result.y_baseline).abs() > 0.5
    assert (
        jumped.any()
        and torch.equal(result.flagged, result.gap.abs() >= 1e-3)
        and result.flagged[jumped].all()
    )
    picture = int(jumped.nonzero()[0, 0])
    with pytest.raises(TargetError, match="do not add up to the target here"):
        result.waterfall(picture=picture)
    assert "ill-conditioned" in result.explain(picture=picture)


def test_shapley_values_of_few_parts_equal_the_average_over_all_orders(
    exact_model, directions, pictures, linear
):
    acts, _ = read_site(exact_model, pictures[:1], Site("image.-1.cls"))
    codes = directions.encode(acts)
    codes = SparseCodes(codes.indices[:, :3], codes.values[:, :3], codes.n_latents)
    splice = Splice(exact_model, directions, "image.-1.cls", acts, linear, codes=codes)
    expected = torch.zeros(3, 3, dtype=torch.float64)
    for order in itertools.permutations(range(3)):
        amounts = torch.zeros(1, 3, dtype=torch.float64)
        for part in order:
            before = slow_outputs(splice, amounts)
            amounts = amounts.clone()
            amounts[0, part] = splice.amounts[0, part]
            expected[part] += (slow_outputs(splice, amounts) - before)[0] / 6
    sampled = shapley_values(splice, 400)[0]
    assert (sampled - expected).abs().max() < 0.05 * expected.abs().max()
    full = splice.y - splice.y_reference
    torch.testing.assert_close(shapley_values(splice, 1).sum(1), full, atol=1e-12, rtol=0)


def test_captums_layer_gradient_times_activation_agrees_at_the_same_site(
    exact_model, directions, pictures, weights
):
    captum = pytest.importorskip("captum.attr")
    block = exact_model.image_blocks_modules[-1]
    target = ProbeLogit(weights.T[:1])
    splice = taken_apart(exact_model, directions, pictures, "image.-1.cls", target)
    # Patching over the neurons themselves, as an identity dictionary, is gradient × activation of the CLS token.
    explainer = captum.LayerGradientXActivation(lambda x: exact_model.encode_image(x) @ weights[:, 0], block)
    theirs = explainer.attribute(pictures.clone().requires_grad_())
    ours = splice.gradients()[:, 0] * splice.acts
    torch.testing.assert_close(ours, theirs[:, 0].detach(), atol=1e-9, rtol=0)


def test_captums_integrated_gradients_agree_on_the_function_of_the_codes(
    exact_model, directions, pictures, linear
):
    captum = pytest.importorskip("captum.attr")
    splice = taken_apart(exact_model, directions, pictures, "image.-1.cls", linear)
    explainer = captum.IntegratedGradients(lambda amounts: one_row_each(splice, amounts)[:, 1])
    theirs = explainer.attribute(splice.amounts, n_steps=16, method="gausslegendre")
    torch.testing.assert_close(integrate(splice, 16)[..., 1], theirs, atol=1e-9, rtol=0)


def one_row_each(splice, amounts):
    """`slow_outputs` for captum, which stacks its steps along the batch: steps × pictures, pictures fastest."""
    steps = len(amounts) // splice.batch
    pictures = torch.arange(splice.batch).repeat(steps)
    rows = splice.decoder[splice.indices[pictures]]
    change = ((amounts - splice.amounts[pictures])[..., None] * rows).sum(1)
    return splice.target.values(
        continue_from(splice.model, splice.site, splice.acts[pictures] + change, None), splice.model
    )


def test_contrast_attribution_is_the_difference_of_similarity_attributions(exact_model, directions, pictures):
    for site, method in itertools.product(
        ["image.-1.cls", "image.-2.cls"], ["patching", "exact", "logit_lens"]
    ):
        options = {"dictionary": directions, "site": site, "method": method}
        both = attribute(exact_model, pictures, ["kite", "bat"], **options).values
        contrast = attribute(exact_model, pictures, Contrast("kite", "bat"), **options).values
        torch.testing.assert_close(contrast[..., 0], both[..., 0] - both[..., 1], atol=1e-12, rtol=0)


def test_log_odds_of_two_prompts_are_the_scaled_contrast(exact_model, directions, pictures):
    odds = attribute(exact_model, pictures, LogOdds("kite", ["bat"]), dictionary=directions)
    contrast = attribute(exact_model, pictures, Contrast("kite", "bat"), dictionary=directions)
    torch.testing.assert_close(odds.values, exact_model.logit_scale * contrast.values, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("method", [name for name in METHODS if name not in ("shapley", "random")])
def test_shuffling_the_batch_shuffles_every_method(exact_model, directions, pictures, method):
    order = torch.tensor([2, 0, 3, 1])
    one = attribute(exact_model, pictures, "kite", dictionary=directions, method=method)
    two = attribute(exact_model, pictures[order], "kite", dictionary=directions, method=method)
    torch.testing.assert_close(one.values[order], two.values, atol=1e-9, rtol=0)


def test_a_batch_of_one_and_pieces_of_a_batch_give_what_the_batch_gives(exact_model, directions, pictures):
    whole = attribute(exact_model, pictures, "kite", dictionary=directions)
    pieces = attribute(exact_model, pictures, "kite", dictionary=directions, batch=3)
    alone = attribute(exact_model, pictures[1], "kite", dictionary=directions)
    torch.testing.assert_close(whole.values, pieces.values, atol=1e-9, rtol=0)
    torch.testing.assert_close(whole.values[1:2], alone.values, atol=1e-9, rtol=0)
    assert pieces.pictures == whole.pictures and len(alone) == 1


def test_a_picture_as_baseline_credits_what_the_other_lacks_and_adds_up(exact_model, directions, pictures):
    options = {"dictionary": directions, "method": "integrated_gradients"}
    result = attribute(exact_model, pictures[:1], "kite", baseline=pictures[1], **options)
    acts, _ = read_site(exact_model, pictures[:2], Site("image.-1.cls"))
    codes = directions.encode(acts)
    error = directions.error(acts, codes)
    moved = directions.decode(codes)[1] + error[0]
    weights, _ = as_target("kite").linear(exact_model)
    y = continue_from(exact_model, "image.-1.cls", torch.stack([acts[0], moved])) @ weights
    torch.testing.assert_close(result.values.sum(), (y[0] - y[1]).sum(), atol=1e-3, rtol=0)
    torch.testing.assert_close(result.y_baseline[0], y[1], atol=1e-9, rtol=0)
    only_in_the_other = set(codes.indices[1].tolist()) - set(codes.indices[0].tolist())
    assert only_in_the_other <= set(result.codes.indices[0].tolist())


def test_a_picture_is_nothing_new_against_itself(exact_model, directions, pictures):
    result = attribute(exact_model, pictures[:1], "kite", dictionary=directions, baseline=pictures[0])
    assert result.values.abs().max() < 1e-12


def test_the_mean_baseline_moves_every_code_to_the_mean(exact_model, directions, pictures, linear):
    acts, _ = read_site(exact_model, pictures, Site("image.-1.cls"))
    codes = directions.encode(acts)
    mean = mean_codes(codes, keep=80)
    torch.testing.assert_close(mean.to_dense()[0], codes.to_dense().mean(0).float())
    splice = Splice(exact_model, directions, "image.-1.cls", acts, linear, codes=codes, reference=mean)
    slow = directions.bias + mean.to_dense().double() @ directions.decoder + directions.error(acts, codes)
    torch.testing.assert_close(
        splice.y_reference, linear.values(continue_from(exact_model, "image.-1.cls", slow), exact_model)
    )
    assert len(mean_codes(codes, keep=3).indices[0]) == 3


def test_bias_and_error_are_taken_out_exactly_and_to_first_order(exact_model, directions, pictures, linear):
    splice = taken_apart(exact_model, directions, pictures, "image.-1.cls", linear)
    error = directions.error(splice.acts, splice.codes)
    exact = explain_splice(splice, "exact")
    without = linear.values(continue_from(exact_model, "image.-1.cls", splice.acts - error), exact_model)
    torch.testing.assert_close(exact.error, splice.y - without, atol=1e-10, rtol=0)
    first = explain_splice(splice, "patching")
    gradients = splice.gradients()
    torch.testing.assert_close(first.error, torch.einsum("bnd,bd->bn", gradients, error), atol=1e-10, rtol=0)
    bias = directions.bias.expand_as(error)
    torch.testing.assert_close(first.bias, torch.einsum("bnd,bd->bn", gradients, bias), atol=1e-10, rtol=0)
    full = splice.y - splice.y_reference
    torch.testing.assert_close(first.gap, full - first.values.sum(1), atol=1e-12, rtol=0)


def test_the_default_is_exact_in_closed_form_and_patching_elsewhere(exact_model, directions, pictures):
    assert attribute(exact_model, pictures[:1], "kite", dictionary=directions).method == "exact"
    early = attribute(exact_model, pictures[:1], "kite", dictionary=directions, site="image.-2.cls")
    assert early.method == "patching"


def test_a_method_of_ones_own_takes_five_lines_and_is_found_by_name(exact_model, directions, pictures):
    @register_method("halved")
    def halved(splice):
        return 0.5 * splice.changes[..., None] * splice.slopes()

    try:
        mine = attribute(exact_model, pictures, "kite", dictionary=directions, method="halved")
        theirs = attribute(exact_model, pictures, "kite", dictionary=directions, method="patching")
        torch.testing.assert_close(2 * mine.values, theirs.values)
    finally:
        del METHODS["halved"]
    by_function = attribute(exact_model, pictures, "kite", dictionary=directions, method=halved)
    assert torch.equal(by_function.values, mine.values) and by_function.method == "halved"


def test_rank_only_methods_say_so(exact_model, directions, pictures):
    result = attribute(exact_model, pictures, "kite", dictionary=directions, method="energy")
    assert result.unit == "rank only" and "not in the target's unit" in result.explain()


def test_the_logit_lens_reads_each_direction_alone(exact_model, directions, pictures):
    result = attribute(exact_model, pictures[:1], "kite", dictionary=directions, method="logit_lens")
    rows = (
        exact_model.ln_post(directions.decoder[result.codes.indices[0].long()]) @ exact_model.image_projection
    )
    text = exact_model.encode_text(["kite"])[0]
    torch.testing.assert_close(result.values[0, :, 0], torch.cosine_similarity(rows, text[None], dim=1))


def test_a_picture_without_active_latents_gets_zeros_and_no_gap(exact_model, directions, pictures, linear):
    acts, _ = read_site(exact_model, pictures[:2], Site("image.-1.cls"))
    idle = SparseCodes.from_dense(torch.zeros(2, 80, dtype=torch.float64))
    for method in METHODS:
        splice = Splice(exact_model, directions, "image.-1.cls", acts, linear, codes=idle)
        result = explain_splice(splice, method)
        assert (result.values == 0).all() and result.gap.abs().max() < 1e-12
        assert len(result.top(3)) == 0 and "no latent is active" in result.explain()


def test_no_hook_is_left_behind(exact_model, directions, pictures):
    def hooks():
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in exact_model.clip.modules())

    before = hooks()
    attribute(exact_model, pictures[:1], "kite", dictionary=directions, site="image.-2.patches")
    with pytest.raises(TargetError):
        attribute(exact_model, pictures[:1], lambda e: e, dictionary=directions, site="image.-2.cls")
    assert hooks() == before


def test_last_block_patches_are_refused_with_advice(exact_model, directions, pictures):
    with pytest.raises(SiteError, match="exactly zero. Use image.-1.cls, or patches of an earlier block"):
        attribute(exact_model, pictures, "kite", dictionary=directions, site="image.-1.patches")


def test_wrong_arguments_are_named(exact_model, directions, pictures, linear):
    acts, _ = read_site(exact_model, pictures, Site("image.-1.cls"))
    with pytest.raises(DictionaryError, match="needs a dictionary"):
        attribute(exact_model, pictures, "kite")
    with pytest.raises(DictionaryError, match=r"codes have shape \(4, 81\)"):
        codes = directions.encode(acts)
        other = SparseCodes(codes.indices, codes.values, 81)
        Splice(exact_model, directions, "image.-1.cls", acts, linear, codes=other)
    with pytest.raises(DictionaryError, match="baseline codes have shape"):
        reference = directions.encode(acts).rows(slice(0, 3))
        Splice(exact_model, directions, "image.-1.cls", acts, linear, reference=reference)
    with pytest.raises(DictionaryError, match="a baseline is None"):
        attribute(exact_model, pictures, "kite", dictionary=directions, baseline=3.0)
    with pytest.raises(TargetError, match="there is no method 'ig'; there are patching, exact"):
        attribute(exact_model, pictures, "kite", dictionary=directions, method="ig")
    with pytest.raises(TargetError, match=r"must return \(batch, parts, targets\)"):
        attribute(exact_model, pictures, "kite", dictionary=directions, method=lambda splice: splice.y)
    with pytest.raises(TargetError, match="not differentiable"):
        attribute(
            exact_model,
            pictures,
            lambda e: e[:, 0].round().detach(),
            dictionary=directions,
            method="patching",
        )


def test_bad_pictures_are_refused_before_anything_is_computed(exact_model, directions, pictures):
    broken = pictures.clone()
    broken[2, 0, 0, 0] = float("nan")
    for images, advice in [
        (broken, "pixels of picture 2 hold NaN"),
        (pictures[:0], "empty batch"),
        ([], "empty list of pictures"),
        (torch.zeros(2, 4, 32, 32), r"got \(2, 4, 32, 32\)"),
    ]:
        with pytest.raises(clipattr.DataError, match=advice):
            attribute(exact_model, images, "kite", dictionary=directions)


def test_a_dictionary_of_another_model_is_refused_with_both_hashes(
    exact_model, directions, pictures, monkeypatch
):
    monkeypatch.setattr(directions, "model_hash", "f" * 16)
    with pytest.raises(
        DictionaryError, match=f"made from model {'f' * 16}, this is model {exact_model.weights_hash}"
    ):
        attribute(exact_model, pictures, "kite", dictionary=directions)


def test_many_pictures_share_one_table_and_one_embedding_of_the_prompts(
    exact_model, directions, pictures, monkeypatch
):
    few = attribute(exact_model, pictures, "kite", dictionary=directions)
    embedded = []
    plain = type(exact_model).encode_text
    # The function shares the module's name, so the module is looked up by path.
    monkeypatch.setattr(importlib.import_module("clipattr.attribution.compute"), "_MANY", 2)
    monkeypatch.setattr(type(exact_model), "encode_text", lambda *given: embedded.append(1) or plain(*given))
    many = attribute(exact_model, pictures, "kite", dictionary=directions, batch=1)
    torch.testing.assert_close(few.values, many.values, atol=1e-9, rtol=0)
    attribute(exact_model, pictures, LogOdds("kite", ["bat"]), dictionary=directions, batch=1)
    assert len(embedded) == 2


def test_one_baseline_per_picture_stays_with_its_picture(exact_model, directions, pictures, acts):
    reference = directions.encode(acts.flip(0))
    options = {"dictionary": directions, "method": "patching"}
    together = attribute(exact_model, pictures, "kite", baseline=reference, batch=3, **options)
    for number in range(4):
        alone = attribute(exact_model, pictures[number], "kite", baseline=reference.rows(number), **options)
        _, _, values = alone.latents(0)
        torch.testing.assert_close(together.latents(number)[2], values, atol=1e-9, rtol=0)
    with pytest.raises(DictionaryError, match="the baseline has 3 rows of codes; 1 for all"):
        attribute(exact_model, pictures, "kite", baseline=reference.rows(slice(0, 3)), **options)


def test_the_route_is_named(exact_model, directions, pictures):
    assert attribute(exact_model, pictures[:1], "kite", dictionary=directions).route == "closed form"
    early = attribute(exact_model, pictures[:1], "kite", dictionary=directions, site="image.-2.cls")
    assert early.route == "autograd from the site onward"


def test_the_logit_lens_turns_a_direction_round_where_its_code_is_negative(
    exact_model, directions, acts, linear
):
    codes = directions.encode(acts)
    flipped = SparseCodes(codes.indices, -codes.values, codes.n_latents)
    one, two = (
        METHODS["logit_lens"](Splice(exact_model, directions, "image.-1.cls", acts, linear, codes=given))
        for given in (codes, flipped)
    )
    assert torch.equal(one, -two) and one.abs().max() > 0
