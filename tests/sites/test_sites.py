"""Sites against open_clip's own intermediates, against a hand-written forward pass, and against
abandonment."""

import copy
import gc
import pickle
import threading

import open_clip
import pytest
import torch
import torch.nn.functional as F

from clipattr import ModelError, Site, SiteError, activations, capture, continue_from, load_model, replace

PLACES = [f"image.{block}.{tokens}" for block in (-3, -2, -1) for tokens in ("cls", "patches", "all")]
REACHING = [place for place in PLACES if place != "image.-1.patches"]


@pytest.fixture()
def pixels():
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture()
def small():
    """Builds a random tower with the given vision settings on top of the tiny ones."""

    def build(custom=False, **vision):
        base = {"image_size": 32, "patch_size": 8, "width": 64, "layers": 3, "head_width": 16}
        text = {"context_length": 8, "vocab_size": 60, "width": 16, "heads": 2, "layers": 1}
        kind = open_clip.model.CustomTextCLIP if custom else open_clip.model.CLIP
        return load_model(kind(embed_dim=48, vision_cfg={**base, **vision}, text_cfg=text))

    return build


def hooks(model):
    return sum(len(module._forward_hooks) for module in model.clip.modules())


def blocks_by_hand(model, pixels):
    """Every block's output (batch, tokens, width), written out from the weights in float64."""
    visual = copy.deepcopy(model.visual).double()
    patch = visual.patch_size[0]
    tiles = F.unfold(pixels.double(), patch, stride=patch).transpose(1, 2)  # row by row
    patches = tiles @ visual.conv1.weight.flatten(1).T
    cls = visual.class_embedding.expand(len(pixels), 1, -1)
    x = visual.ln_pre(torch.cat([cls, patches], 1) + visual.positional_embedding)
    found = []
    for block in visual.transformer.resblocks:
        heads = block.attn.num_heads
        q, k, v = F.linear(block.ln_1(x), block.attn.in_proj_weight, block.attn.in_proj_bias).chunk(3, -1)
        q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (q, k, v))
        weights = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
        x = x + block.attn.out_proj((weights @ v).transpose(1, 2).flatten(2))
        x = x + block.mlp(block.ln_2(x))
        found.append(x)
    return found


# the written form


@pytest.mark.parametrize(
    "written", [*PLACES, "image.0.cls", "image.11.patches", "text.-1.eot", "text.0.tokens"]
)
def test_a_site_round_trips_through_its_written_form(written):
    assert str(Site(written)) == written
    assert Site(str(Site(written))) == Site(written) and Site(Site(written)) == Site(written)
    assert {Site(written): 1}[Site(written)] == 1
    assert pickle.loads(pickle.dumps(Site(written))) == Site(written)


def test_a_site_says_its_parts():
    site = Site("image.-2.patches")
    assert (site.tower, site.block, site.tokens) == ("image", -2, "patches")


def test_negative_blocks_stay_as_written_and_count_from_the_end(tiny_model):
    assert Site("image.-1.cls") != Site("image.2.cls")
    assert [Site(f"image.{b}.cls").index(tiny_model) for b in (-3, -1, 0, 2)] == [0, 2, 0, 2]


def test_a_site_cannot_be_changed():
    with pytest.raises(AttributeError):
        Site("image.-1.cls").block = 3


@pytest.mark.parametrize(
    ("written", "advice"),
    [
        ("image.-1", "tower.block.tokens"),
        ("image.last.cls", "tower.block.tokens"),
        ("", "tower.block.tokens"),
        ("image.1.5.cls", "tower.block.tokens"),
        ("image.-1.cls\n", "tower.block.tokens"),
        ("audio.-1.cls", "there are image and text"),
        ("image.-1.eot", "cls, patches, all"),
        ("image.pooled", "image.embedding before it is normalised"),
        ("image.-1.embedding", "image.embedding before"),
        ("audio.embedding", "there are image and text"),
        (None, "tower.block.tokens"),
    ],
)
def test_what_is_no_site_is_refused_with_advice(written, advice):
    with pytest.raises(SiteError, match=advice):
        Site(written)


@pytest.mark.parametrize("written", ["image.3.cls", "image.-4.cls", "image.99.all"])
def test_a_block_that_the_model_lacks_is_refused_with_its_range(tiny_model, pixels, written):
    with pytest.raises(SiteError, match="3 image blocks, 0 to 2 or -3 to -1"):
        activations(tiny_model, pixels, written)
    with pytest.raises(SiteError, match="3 image blocks"), capture(tiny_model, "image.-1.cls", written):
        pass
    assert hooks(tiny_model) == 0


# reading


def test_activations_are_those_of_a_forward_pass_written_by_hand(tiny_model, pixels):
    expected = blocks_by_hand(tiny_model, pixels)
    for block, stream in enumerate(expected):
        found = activations(tiny_model, pixels, f"image.{block}.all")
        torch.testing.assert_close(found.double(), stream, atol=1e-4, rtol=1e-4)


SHAPES = {
    "ViT-B-32": (768, 50, (7, 7)),
    "ViT-B-16": (768, 197, (14, 14)),
    "ViT-L-14": (1024, 257, (16, 16)),
    "ViT-L-14-336": (1024, 577, (24, 24)),
    "ViT-H-14-quickgelu": (1280, 257, (16, 16)),
}


@pytest.mark.parametrize("name", SHAPES)
def test_block_numbers_and_token_layout_agree_with_open_clip(name):
    config = open_clip.get_model_config(name)
    config["vision_cfg"]["layers"] = 12 if name == "ViT-B-32" else 3
    config["text_cfg"] = {"context_length": 8, "vocab_size": 60, "width": 16, "heads": 2, "layers": 1}
    model = load_model(open_clip.model.CLIP(**config))
    width, tokens, grid = SHAPES[name]
    assert (model.image_width, model.image_tokens, model.grid) == (width, tokens, grid)
    assert model.tail_is_closed_form and model.embed_dim == config["embed_dim"]
    pixels = torch.randn(1, 3, *model.image_size)
    theirs = model.visual.forward_intermediates(pixels, output_fmt="NLC", output_extra_tokens=True)
    cls, patches = theirs["image_intermediates_prefix"], theirs["image_intermediates"]
    assert model.image_blocks == len(patches)
    numbers = (0, 1, -2, -1)
    sites = [f"image.{b}.{t}" for b in numbers for t in ("cls", "patches", "all")]
    with capture(model, *sites) as acts:
        embeddings = model.encode_image(pixels)
    for b in numbers:
        assert torch.equal(acts[f"image.{b}.cls"], cls[b][:, 0])
        assert torch.equal(acts[f"image.{b}.patches"], patches[b])
        assert torch.equal(acts[f"image.{b}.all"], torch.cat([cls[b], patches[b]], 1))
    for written in ("image.-1.cls", "image.-2.all"):
        again = continue_from(
            model, written, acts[written] if written in acts else activations(model, pixels, written)
        )
        torch.testing.assert_close(again, embeddings, atol=1e-5, rtol=1e-4)


def test_capture_and_activations_agree(tiny_model, pixels):
    with capture(tiny_model, *PLACES) as acts:
        tiny_model.encode_image(pixels)
    for place in PLACES:
        assert torch.equal(acts[place], activations(tiny_model, pixels, place))
        assert acts[Site(place)] is acts[place]
        assert acts[place].shape == (3, *Site(place).shape(tiny_model))


def test_later_blocks_are_not_computed(tiny_model, pixels):
    ran = []
    modules = tiny_model.image_blocks_modules
    handles = [m.register_forward_hook(lambda *_, i=i: ran.append(i)) for i, m in enumerate(modules)]
    activations(tiny_model, pixels, "image.0.cls")
    [handle.remove() for handle in handles]
    assert ran == [0]


def test_a_captured_class_token_does_not_keep_all_tokens_alive(tiny_model, pixels):
    acts = activations(tiny_model, pixels, "image.-1.cls")
    assert acts.untyped_storage().nbytes() == acts.numel() * 4


def test_activations_are_differentiable_in_the_pixels(tiny_model, pixels):
    pixels.requires_grad_()
    (gradient,) = torch.autograd.grad(activations(tiny_model, pixels, "image.-1.cls").sum(), pixels)
    assert gradient.abs().sum() > 0


def test_capture_holds_the_latest_pass(tiny_model, pixels):
    with capture(tiny_model, "image.-1.cls") as acts:
        tiny_model.encode_image(pixels)
        first = acts["image.-1.cls"]
        tiny_model.encode_image(pixels[1:])
    assert torch.equal(acts["image.-1.cls"], activations(tiny_model, pixels[1:], "image.-1.cls"))
    assert len(first) == 3


def test_activations_that_were_not_captured_are_an_error_that_says_why(tiny_model, pixels):
    with (
        capture(tiny_model, "image.-1.cls") as acts,
        pytest.raises(SiteError, match="no picture was encoded"),
    ):
        _ = acts["image.-1.cls"]
    with capture(tiny_model, "image.-1.cls") as acts:
        tiny_model.encode_image(pixels)
    assert "image.-1.cls" in acts and "image.-2.cls" not in acts
    with pytest.raises(SiteError, match=r"captured are image\.-1\.cls"):
        _ = acts["image.-2.cls"]


def test_wrong_pixels_are_refused_and_leave_no_hook(tiny_model):
    with pytest.raises(ModelError, match="takes pixels of shape"):
        activations(tiny_model, torch.zeros(3, 32, 32), "image.-1.cls")
    assert hooks(tiny_model) == 0


# replacing


@pytest.mark.parametrize("place", PLACES)
def test_replacing_by_the_same_tensor_leaves_the_output_bit_identical(tiny_model, pixels, place):
    expected = tiny_model.encode_image(pixels)
    same = activations(tiny_model, pixels, place)
    with replace(tiny_model, place, same):
        assert torch.equal(tiny_model.encode_image(pixels), expected)
    with replace(tiny_model, place, lambda acts: acts):
        assert torch.equal(tiny_model.encode_image(pixels), expected)
    assert torch.equal(tiny_model.encode_image(pixels), expected)


def test_replacing_by_another_pictures_class_token_gives_its_embedding(tiny_model, pixels):
    # After the last block the class token is all that counts.
    expected = tiny_model.encode_image(pixels)
    swapped = activations(tiny_model, pixels, "image.-1.cls").flip(0)
    with replace(tiny_model, "image.-1.cls", swapped):
        assert torch.equal(tiny_model.encode_image(pixels), expected.flip(0))


def test_a_replaced_token_reaches_only_its_own_picture(tiny_model, pixels):
    expected = tiny_model.encode_image(pixels)

    def zero_first(acts):
        return acts * torch.tensor([0.0, 1.0, 1.0])[:, None, None]

    with replace(tiny_model, "image.-2.patches", zero_first):
        changed = tiny_model.encode_image(pixels)
    assert (changed[0] - expected[0]).abs().max() > 1e-3
    torch.testing.assert_close(changed[1:], expected[1:])


def test_capture_sees_what_an_outer_replace_put_in(tiny_model, pixels):
    zeros = torch.zeros(3, 64)
    with replace(tiny_model, "image.-1.cls", zeros), capture(tiny_model, "image.-1.cls") as inside:
        tiny_model.encode_image(pixels)
    with capture(tiny_model, "image.-1.cls") as outside, replace(tiny_model, "image.-1.cls", zeros):
        tiny_model.encode_image(pixels)
    assert torch.equal(inside["image.-1.cls"], zeros)
    assert torch.equal(outside["image.-1.cls"], activations(tiny_model, pixels, "image.-1.cls"))


def test_what_is_put_in_can_get_a_gradient(tiny_model, pixels):
    acts = activations(tiny_model, pixels, "image.-2.all").requires_grad_()
    with replace(tiny_model, "image.-2.all", acts):
        value = tiny_model.encode_image(pixels)[:, 0].sum()
    (gradient,) = torch.autograd.grad(value, acts)
    assert gradient.shape == acts.shape and gradient.abs().sum() > 0


@pytest.mark.parametrize("shape", [(64,), (1, 64), (3, 65), (3, 17, 64), (2, 64)])
def test_a_replacement_of_another_shape_is_refused(tiny_model, pixels, shape):
    with (
        pytest.raises(SiteError, match=r"must have shape \(3, 64\)"),
        replace(tiny_model, "image.-1.cls", torch.zeros(shape)),
    ):
        tiny_model.encode_image(pixels)
    assert hooks(tiny_model) == 0


def test_a_replacement_that_is_no_tensor_is_refused(tiny_model, pixels):
    with (
        pytest.raises(SiteError, match="got NoneType"),
        replace(tiny_model, "image.-1.cls", lambda acts: None),
    ):
        tiny_model.encode_image(pixels)


def test_a_replacement_in_another_precision_is_cast(tiny_model, pixels):
    acts = activations(tiny_model, pixels, "image.-1.cls")
    with replace(tiny_model, "image.-1.cls", acts.double()):
        assert torch.equal(tiny_model.encode_image(pixels), tiny_model.encode_image(pixels))


# no hook is left


def test_no_hook_is_left_after_success(tiny_model, pixels):
    with capture(tiny_model, *PLACES), replace(tiny_model, "image.-2.cls", lambda acts: acts):
        assert hooks(tiny_model) == len(PLACES) + 1
        tiny_model.encode_image(pixels)
    activations(tiny_model, pixels, "image.-2.all")
    assert hooks(tiny_model) == 0


def test_no_hook_is_left_after_an_exception(tiny_model, pixels):
    def fails(acts):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), replace(tiny_model, "image.0.cls", fails):
        tiny_model.encode_image(pixels)
    with pytest.raises(KeyError), capture(tiny_model, "image.0.cls"):
        raise KeyError
    assert hooks(tiny_model) == 0


def test_no_hook_is_left_when_a_generator_is_abandoned(tiny_model, pixels):
    def batches():
        with capture(tiny_model, "image.-1.cls") as acts, replace(tiny_model, "image.-2.cls", lambda a: a):
            for picture in pixels:
                tiny_model.encode_image(picture[None])
                yield acts["image.-1.cls"]

    generator = batches()
    next(generator)
    assert hooks(tiny_model) == 2
    del generator
    gc.collect()
    assert hooks(tiny_model) == 0


def test_no_hook_is_left_when_a_context_is_entered_by_hand_and_dropped(tiny_model):
    context = capture(tiny_model, "image.-1.cls")
    context.__enter__()
    assert hooks(tiny_model) == 1
    del context
    gc.collect()
    assert hooks(tiny_model) == 0


def test_a_context_that_is_never_entered_sets_no_hook(tiny_model):
    context = capture(tiny_model, "image.-1.cls")
    assert hooks(tiny_model) == 0
    del context


def test_reading_in_one_thread_does_not_stop_the_forward_pass_of_another(tiny_model, pixels):
    expected, found, failures = tiny_model.encode_image(pixels), [], []
    stop = threading.Event()

    def read():
        while not stop.is_set():
            activations(tiny_model, pixels, "image.0.cls")

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for _ in range(30):
            try:
                found.append(tiny_model.encode_image(pixels))
            except Exception as error:  # the point is that none comes
                failures.append(error)
    finally:
        stop.set()
        reader.join()
    assert not failures and all(torch.equal(each, expected) for each in found)


# continuing


@pytest.mark.parametrize("place", REACHING)
def test_continuing_from_a_site_gives_the_embedding(tiny_model, pixels, place):
    acts = activations(tiny_model, pixels, place)
    context = activations(tiny_model, pixels, place.rsplit(".", 1)[0] + ".all")
    found = continue_from(tiny_model, place, acts, context)
    torch.testing.assert_close(found, tiny_model.encode_image(pixels))


@pytest.mark.parametrize(
    "vision",
    [
        {"final_ln_after_pool": True},
        {"pool_type": "avg"},
        {"pool_type": "avg", "final_ln_after_pool": True},
        {"no_ln_pre": True},
        {"ls_init_value": 0.3},
        {"qk_norm": True},
        {"patch_dropout": 0.5},
        {"output_tokens": True},
        {"image_size": [32, 48], "patch_size": [8, 16]},
        {"attentional_pool": True, "attn_pooler_heads": 4, "attn_pooler_queries": 5},
        {"attentional_pool": True, "attn_pooler_heads": 4, "attn_pooler_queries": 5, "pool_type": "avg"},
    ],
    ids=str,
)
@pytest.mark.parametrize("custom", [False, True])
def test_continuing_follows_every_kind_of_tower(small, vision, custom):
    model = small(custom, **vision)
    torch.nn.init.normal_(model.visual.ln_post.bias)  # order of norm and mean shows
    pixels = torch.randn(2, 3, *model.image_size)
    expected = model.encode_image(pixels)
    for place in PLACES:
        if not Site(place).reaches_embedding(model):
            continue
        acts = activations(model, pixels, place)
        context = activations(model, pixels, place.rsplit(".", 1)[0] + ".all")
        torch.testing.assert_close(continue_from(model, place, acts, context), expected)
        with replace(model, place, acts):
            assert torch.equal(model.encode_image(pixels), expected)


def test_what_continues_is_what_replacing_gives(tiny_model, pixels):
    acts = torch.randn(3, 64)
    context = activations(tiny_model, pixels, "image.-2.all")
    with replace(tiny_model, "image.-2.cls", acts):
        expected = tiny_model.encode_image(pixels)
    torch.testing.assert_close(continue_from(tiny_model, "image.-2.cls", acts, context), expected)


def test_continuing_has_the_gradient_of_finite_differences(tiny_model, pixels):
    model = load_model(tiny_model, dtype=torch.float64)
    for place in ("image.-1.cls", "image.-2.cls", "image.-3.patches"):
        context = activations(model, pixels[:1], place.rsplit(".", 1)[0] + ".all")
        acts = activations(model, pixels[:1], place).requires_grad_()
        (gradient,) = torch.autograd.grad(continue_from(model, place, acts, context)[0, 5], acts)
        direction = torch.randn(acts.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
        with torch.no_grad():
            up, down = (
                continue_from(model, place, acts + s * direction, context)[0, 5] for s in (1e-5, -1e-5)
            )
        torch.testing.assert_close((gradient * direction).sum(), (up - down) / 2e-5, rtol=1e-5, atol=1e-9)


def test_the_context_is_needed_only_where_later_blocks_mix_tokens(tiny_model, pixels):
    acts = activations(tiny_model, pixels, "image.-2.cls")
    with pytest.raises(SiteError, match=r"1 block\(s\) follow.*image\.-2\.all"):
        continue_from(tiny_model, "image.-2.cls", acts)
    with pytest.raises(SiteError, match=r"context must have shape \(3, 17, 64\)"):
        continue_from(tiny_model, "image.-2.cls", acts, torch.zeros(1, 17, 64))


def test_attention_pooling_needs_the_context_at_the_last_block_too(small, pixels):
    model = small(attentional_pool=True, attn_pooler_heads=4, attn_pooler_queries=5)
    acts = activations(model, pixels, "image.-1.cls")
    with pytest.raises(SiteError, match=r"0 block\(s\) follow, then pooling by attention.*image\.-1\.all"):
        continue_from(model, "image.-1.cls", acts)
    assert all(Site(place).reaches_embedding(model) for place in PLACES)


def test_last_block_patches_are_refused_with_the_site_to_use(tiny_model, pixels):
    acts = activations(tiny_model, pixels, "image.-1.patches")  # reading them is fine
    with pytest.raises(
        SiteError, match=r"only the class token reaches.*Use image\.-1\.cls.*image\.-2\.patches"
    ):
        continue_from(tiny_model, "image.-1.patches", acts)


def test_the_refused_site_has_indeed_no_effect(tiny_model, pixels):
    assert not Site("image.-1.patches").reaches_embedding(tiny_model)
    expected = tiny_model.encode_image(pixels)
    with replace(tiny_model, "image.-1.patches", torch.randn(3, 16, 64)):
        assert torch.equal(tiny_model.encode_image(pixels), expected)


def test_a_mean_pooling_tower_refuses_its_last_class_token_instead(small):
    model = small(pool_type="avg")
    with pytest.raises(SiteError, match="only the mean over patches reaches"):
        continue_from(model, "image.-1.cls", torch.zeros(1, 64))


def test_acts_of_another_shape_are_refused(tiny_model):
    for acts in (torch.zeros(64), torch.zeros(2, 17, 64), torch.tensor(1.0)):
        with pytest.raises(SiteError, match="acts must have shape"):
            continue_from(tiny_model, "image.-1.cls", acts)


def test_a_tower_that_runs_its_tokens_first_is_read_the_same(tiny_model, pixels):
    # Transformers may run (tokens, batch, width) inside; sites stay (batch, tokens, width).
    other = load_model(copy.deepcopy(tiny_model.clip))
    other.visual.transformer.batch_first = False
    for block in other.image_blocks_modules:
        block.attn.batch_first = False
    expected = tiny_model.encode_image(pixels)
    torch.testing.assert_close(other.encode_image(pixels), expected)
    for place in REACHING:
        acts = activations(tiny_model, pixels, place)
        context = activations(tiny_model, pixels, place.rsplit(".", 1)[0] + ".all")
        torch.testing.assert_close(activations(other, pixels, place), acts, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(continue_from(other, place, acts, context), expected, atol=1e-5, rtol=1e-4)
        with replace(other, place, lambda old: old):
            torch.testing.assert_close(other.encode_image(pixels), expected)


# the embedding, and two spellings of one place


def test_the_embedding_is_what_the_tower_puts_out_before_it_is_normalised(tiny_model, pixels):
    features = tiny_model.clip.encode_image(pixels)
    assert not torch.allclose(features.norm(dim=1), torch.ones(3), atol=0.1)
    acts = activations(tiny_model, pixels, "image.embedding")
    assert torch.equal(acts, features)
    torch.testing.assert_close(
        continue_from(tiny_model, "image.embedding", acts), tiny_model.encode_image(pixels)
    )
    with (
        capture(tiny_model, "image.embedding") as held,
        replace(tiny_model, "image.embedding", lambda x: 2 * x + 1),
    ):
        changed = tiny_model.encode_image(pixels)
    torch.testing.assert_close(held["image.embedding"], features)
    torch.testing.assert_close(changed, F.normalize(2 * features + 1, dim=-1))
    assert hooks(tiny_model) == 0


def test_a_generative_models_features_are_replaced_beside_its_tokens(pixels):
    text = {"context_length": 8, "vocab_size": 60, "width": 16, "heads": 2, "layers": 1}
    text |= {"embed_cls": True, "output_tokens": True}
    decoder = open_clip.coca_model.MultimodalCfg(context_length=8, vocab_size=60, width=16, heads=2, layers=1)
    vision = {"image_size": 32, "patch_size": 8, "width": 64, "layers": 2, "head_width": 16, "output_tokens": True,
              "attentional_pool": True, "attn_pooler_heads": 4, "attn_pooler_queries": 5}  # fmt: skip
    coca = open_clip.coca_model.CoCa(embed_dim=48, multimodal_cfg=decoder, text_cfg=text, vision_cfg=vision)
    model = load_model(coca)
    acts = activations(model, pixels, "image.embedding")
    assert not torch.allclose(acts.norm(dim=1), torch.ones(3), atol=0.1)  # CoCa itself normalises
    with replace(model, "image.embedding", acts.flip(0)):
        torch.testing.assert_close(model.encode_image(pixels), F.normalize(acts, dim=-1).flip(0))


def test_the_embeddings_site_has_the_shape_and_tail_of_the_joint_space(tiny_model):
    site = Site("image.embedding")
    assert site.shape(tiny_model) == (48,) and site.width(tiny_model) == 48 and site.is_single
    assert site.reaches_embedding(tiny_model) and not site.needs_context(tiny_model)
    assert site.tail(tiny_model).describe() == "division by the length"
    with pytest.raises(SiteError, match="belongs to no block"):
        site.index(tiny_model)


def test_two_spellings_of_one_place_are_one_site(tiny_model, pixels):
    assert Site("image.2.cls").canonical(tiny_model) == Site("image.-1.cls")
    assert Site("image.0.patches").is_same("image.-3.patches", tiny_model)
    assert not Site("image.0.patches").is_same("image.-3.all", tiny_model)
    assert not Site("image.0.cls").is_same("image.9.cls", tiny_model)
    with capture(tiny_model, "image.2.cls") as held:
        tiny_model.encode_image(pixels)
    assert "image.-1.cls" in held and torch.equal(held["image.-1.cls"], held["image.2.cls"])
    assert "image.1.cls" not in held and "image.embedding" not in held


RESNET = {"layers": [1, 1, 1, 1], "width": 16}


@pytest.mark.parametrize(
    ("vision", "site"),
    (({}, "image.-1.cls"), ({"pool_type": "avg"}, "image.embedding"), (RESNET, "image.embedding")),
)
def test_a_study_is_built_where_its_effects_have_a_closed_form(vision, site, small):
    from clipattr.models.places import default_site

    assert str(default_site(small(**vision))) == site
