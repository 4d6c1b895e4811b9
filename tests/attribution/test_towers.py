"""Attribution on the towers that open_clip builds: it works and is right, or the error says which sites exist."""

import open_clip
import pytest
import torch
from torch.nn import functional

import clipattr
from clipattr.attribution import ProbeLogit, attribute
from clipattr.dictionaries import random_sae
from clipattr.errors import SiteError

TEXT = {"context_length": 8, "vocab_size": 60, "width": 16, "heads": 2, "layers": 1}
SMALL = {"image_size": 32, "patch_size": 8, "width": 64, "layers": 3, "head_width": 16}
CLOSED, AUTOGRAD = "closed form", "autograd from the site onward"
# timm's towers by what they stand for: SigLIP pools by attention and has no class token, EVA turns its queries by
# position and pools by its class token, DINO's kind puts register tokens between, the plain one pools by mean.
TIMM = {
    "SigLIP": (
        {"timm_model_name": "vit_base_patch16_siglip_224", "timm_pool": "map", "timm_proj": "none"},
        {},
    ),
    "EVA": (
        {"timm_model_name": "eva02_base_patch16_clip_224", "timm_pool": "token"},
        {"swiglu_mlp": True, "scale_mlp": True},
    ),
    "mean": ({"timm_model_name": "vit_tiny_patch16_224", "timm_pool": "avg", "timm_proj": "linear"}, {}),
    "registers": (
        {"timm_model_name": "vit_small_patch16_dinov3", "timm_pool": "avg", "timm_proj": "linear"},
        {"num_reg_tokens": 2},
    ),
}


@pytest.fixture
def build():
    """Makes a model with random weights of the given vision settings; `custom` for CustomTextCLIP."""

    def make(vision, embed_dim=48, custom=False, **rest):
        torch.manual_seed(0)
        kind = open_clip.model.CustomTextCLIP if custom else open_clip.model.CLIP
        return clipattr.load_model(kind(embed_dim=embed_dim, vision_cfg=vision, text_cfg=dict(TEXT), **rest))

    return make


def dictionary_for(model, site):
    """Random frozen directions on the activations of a few random pictures, and two of these pictures."""
    pixels = torch.randn(6, 3, *model.image_size, generator=torch.Generator().manual_seed(1))
    acts = clipattr.activations(model, pixels, site).flatten(0, -2)
    return random_sae(acts, 128, 6, site=site, model_hash=model.weights_hash), pixels[:2]


def target_for(model):
    weights = torch.randn(2, model.embed_dim, generator=torch.Generator().manual_seed(2))
    return ProbeLogit(functional.normalize(weights, dim=1))


def check(model, site, route, method=None):
    """Attributes, and compares the largest value with an ablation (or slope) through the whole model."""
    dictionary, pixels = dictionary_for(model, site)
    target = target_for(model)
    found = attribute(model, pixels, target, dictionary=dictionary, site=site, method=method)
    assert found.route == route and torch.isfinite(found.values).all()
    values = found.values_of(0)[..., 1]
    token, place = divmod(int(values.abs().argmax()), values.shape[1])
    code = found.codes.values[token, place]
    direction = code * torch.as_tensor(dictionary.decoder)[int(found.codes.indices[token, place])]
    step = 1.0 if found.method == "exact" else 1e-2
    ends = []
    for sign in (0.0, -1.0) if found.method == "exact" else (1.0, -1.0):

        def moved(acts, sign=sign):
            acts = acts.clone()
            row = acts[0] if acts.ndim == 2 else acts[0, token]
            row += sign * step * direction
            return acts

        with clipattr.replace(model, site, moved):
            ends.append(target.values(model.encode_image(pixels), model)[0, 1])
    change = (ends[0] - ends[1]) / (step if found.method == "exact" else 2 * step)
    torch.testing.assert_close(values[token, place], change, atol=3e-5, rtol=2e-2)
    assert values[token, place].abs() > 1e-4
    return found


@pytest.mark.parametrize("name", ("ViT-B-16", "ViT-L-14", "ViT-H-14-quickgelu"))
def test_named_shapes_are_attributed_in_closed_form_and_deeper_by_autograd(name, build):
    config = open_clip.get_model_config(name)
    vision = config["vision_cfg"] | {"layers": 2, "image_size": 3 * config["vision_cfg"]["patch_size"]}
    model = build(vision, config["embed_dim"], quick_gelu=config.get("quick_gelu", False))
    assert check(model, "image.-1.cls", CLOSED).method == "exact"
    assert check(model, "image.-2.cls", AUTOGRAD).method == "patching"
    assert check(model, "image.-2.patches", AUTOGRAD).tokens == 9


def test_a_custom_text_clip_is_attributed_like_any_other(build):
    check(build(SMALL, custom=True), "image.-1.cls", CLOSED)


def test_a_tower_without_projection_is_attributed_in_closed_form(build):
    model = build(SMALL, embed_dim=64)
    model.visual.proj = None
    check(clipattr.load_model(model.clip), "image.-1.cls", CLOSED)


@pytest.mark.parametrize("norm_last", (False, True))
def test_mean_pooling_has_a_closed_form_at_its_patches_and_says_so(norm_last, build):
    model = build(SMALL | {"pool_type": "avg", "final_ln_after_pool": norm_last})
    assert model.tail("image.-1.patches").norm_first is not norm_last
    assert check(model, "image.-1.patches", CLOSED).tokens == 16
    check(model, "image.-1.patches", CLOSED, method="patching")
    dictionary, pixels = dictionary_for(model, "image.-1.cls")
    with pytest.raises(
        SiteError, match=r"only the mean over patches reaches.*image\.-1\.patches.*image\.-2\.cls"
    ):
        attribute(model, pixels, target_for(model), dictionary=dictionary)
    check(model, "image.-2.cls", AUTOGRAD)


def test_last_patches_of_a_class_token_tower_are_refused_with_the_sites_that_exist(build):
    model = build(SMALL)
    dictionary, pixels = dictionary_for(model, "image.-1.patches")
    with pytest.raises(SiteError, match=r"only the class token reaches.*image\.-1\.cls.*image\.-2\.patches"):
        attribute(model, pixels, target_for(model), dictionary=dictionary)


@pytest.fixture
def build_timm(build, monkeypatch):
    """Makes timm's architectures with three narrow blocks and 4 × 4 patches."""
    import timm

    plain = timm.create_model

    def make(kind):
        vision, shape = TIMM[kind]
        small = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 3, "num_heads": 4, **shape}
        monkeypatch.setattr(timm, "create_model", lambda *given, **named: plain(*given, **named, **small))
        model = build(vision | {"image_size": 32}, embed_dim=64 if kind == "SigLIP" else 48, custom=True)
        with torch.no_grad():  # fresh towers hardly mix their tokens; trained ones do
            for name, weight in model.visual.trunk.blocks.named_parameters():
                if "gamma" in name:
                    weight.fill_(1)
                elif weight.ndim == 2:
                    weight.mul_(4)
        return model

    return make


@pytest.mark.parametrize(
    ("kind", "sites", "closed"),
    (
        ("SigLIP", ("image.-1.patches", "image.-2.all"), None),
        ("EVA", ("image.-2.cls", "image.-3.patches"), "image.-1.cls"),
        ("mean", ("image.-2.cls", "image.-2.all"), "image.-1.patches"),
        ("registers", ("image.-2.cls", "image.-2.patches"), "image.-1.patches"),
    ),
)
def test_timm_towers_are_attributed_and_say_by_which_route(kind, sites, closed, build_timm):
    model = build_timm(kind)
    for site in sites:
        found = check(model, site, AUTOGRAD)
        assert found.tokens in (1, 16) or site.endswith("all")
    if closed:
        check(model, closed, CLOSED)
        check(model, closed, CLOSED, method="patching")
    else:
        assert model.tail("image.-1.patches") is None


def test_every_tower_is_attributed_in_closed_form_at_its_embedding(build, build_timm):
    resnet = build({"image_size": 32, "layers": [1, 1, 1, 1], "width": 16})
    for model in (resnet, build(SMALL | ATTENTION), build_timm("SigLIP"), build(SMALL)):
        check(model, "image.embedding", CLOSED)
        check(model, "image.embedding", CLOSED, method="patching")


def test_methods_and_checks_follow_pooling_by_attention_too(build_timm):
    from clipattr.attribution import firing_map
    from clipattr.attribution.faithfulness import faithfulness, randomised

    model = build_timm("SigLIP")
    dictionary, pixels = dictionary_for(model, "image.-2.patches")
    found = faithfulness(
        model,
        pixels,
        target_for(model),
        dictionary=dictionary,
        methods=("exact", "patching", "logit_lens"),
        masks=4,
    )
    assert found.summary("exact", "rank_correlation").value == pytest.approx(1)
    assert found.summary("patching", "rank_correlation").value > 0.5
    other = randomised(model)
    assert not torch.allclose(other.encode_image(pixels), model.encode_image(pixels))
    assert torch.equal(
        clipattr.activations(other, pixels, "image.-1.all"),
        clipattr.activations(model, pixels, "image.-1.all"),
    )
    eva = build_timm("registers")
    at_cls, pixels = dictionary_for(eva, "image.-1.cls")
    assert firing_map(eva, pixels, [0, 1], dictionary=at_cls).shape == (2, 2, 4, 4)


def test_a_tower_without_class_token_names_the_sites_it_has(build_timm):
    model = build_timm("SigLIP")
    dictionary, pixels = dictionary_for(model, "image.-1.patches")
    with pytest.raises(
        SiteError, match=r"no class token.*image\.-1\.patches, image\.-1\.all and image\.embedding"
    ):
        attribute(model, pixels, target_for(model), dictionary=dictionary, site="image.-1.cls")


def test_a_timm_tower_that_is_no_stream_of_tokens_is_refused_with_the_sites_that_exist(build):
    vision = {"timm_model_name": "convnext_atto", "timm_pool": "avg", "timm_proj": "linear", "image_size": 64}
    refused(build(vision, custom=True), r"ConvNeXt from timm")


def test_a_timm_tower_that_keeps_more_than_its_stream_is_refused(build):
    # Its class token joins after the blocks, so what the blocks hand on is not all there is.
    vision = {
        "timm_model_name": "cait_xxs24_224",
        "timm_pool": "token",
        "timm_proj": "linear",
        "image_size": 224,
    }
    model = build(vision, custom=True)
    with pytest.raises(
        SiteError, match=r"Cait from timm.*image\.<block>\.cls, \.patches and \.all exist for"
    ):
        _ = model.image_tower


def test_a_modified_resnet_is_refused_with_the_sites_that_exist(build):
    refused(build({"image_size": 32, "layers": [1, 1, 1, 1], "width": 16}), "ModifiedResNet")


ATTENTION = {"attentional_pool": True, "attn_pooler_heads": 4, "attn_pooler_queries": 5}


def test_coca_is_attributed_by_autograd_through_its_attention_pooling(build):
    # CoCa's image tower; after the last block every token still reaches the embedding.
    model = build(SMALL | ATTENTION)
    for site in ("image.-1.cls", "image.-1.patches", "image.-2.cls", "image.-2.patches", "image.-1.all"):
        found = check(model, site, AUTOGRAD)
        assert found.method == "patching"
        if site == "image.-1.cls":
            check(model, site, AUTOGRAD, method="exact")
    assert model.tail("image.-1.cls") is None and model.ln_post is None


def test_attention_pooling_before_a_mean_is_followed(build):
    check(build(SMALL | ATTENTION | {"pool_type": "avg"}), "image.-1.patches", AUTOGRAD)


def test_a_whole_coca_is_attributed(build):
    torch.manual_seed(0)
    text = TEXT | {"embed_cls": True, "output_tokens": True, "pad_id": 0}
    decoder = {"context_length": 8, "vocab_size": 60, "width": 16, "heads": 2, "layers": 1, "mlp_ratio": 2}
    vision = SMALL | ATTENTION | {"output_tokens": True}
    coca = open_clip.coca_model.CoCa(
        embed_dim=48,
        multimodal_cfg=open_clip.coca_model.MultimodalCfg(**decoder),
        text_cfg=text,
        vision_cfg=vision,
    )
    model = clipattr.load_model(coca)
    check(model, "image.-1.cls", AUTOGRAD)
    check(model, "image.-2.patches", AUTOGRAD)


@pytest.mark.parametrize("pool", ({"attentional_pool": "cascade"}, {"pool_type": "none"}))
def test_a_tower_that_gives_no_single_embedding_is_refused(pool, build):
    refused(build(SMALL | ATTENTION | pool), "does not pool its tokens to one embedding")


def test_a_missing_pre_pool_norm_still_has_a_closed_form(build):
    model = build(SMALL)
    model.visual.ln_post = torch.nn.Identity()
    model = clipattr.load_model(model.clip)
    assert model.tail("image.-1.cls").describe() == "linear map, division by the length"
    check(model, "image.-1.cls", CLOSED)


def test_another_norm_before_pooling_falls_back_to_autograd_and_says_so(build):
    model = build(SMALL)
    model.visual.ln_post = torch.nn.RMSNorm(64)
    model = clipattr.load_model(model.clip)
    assert model.tail("image.-1.cls") is None
    assert check(model, "image.-1.cls", AUTOGRAD).method == "patching"
    check(model, "image.-1.cls", AUTOGRAD, method="exact")


def refused(model, kind):
    dictionary = random_sae(torch.randn(64, 32), 64, 4, site="image.-1.cls", model_hash=model.weights_hash)
    pixels = torch.randn(1, 3, *model.image_size)
    with pytest.raises(SiteError, match=rf"{kind}.*image\.<block>\.cls, \.patches and \.all exist for"):
        attribute(model, pixels, target_for(model), dictionary=dictionary)
