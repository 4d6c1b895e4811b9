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
# Timm towers by what they stand for; SigLIP pools by attention, EVA by its class token.
TIMM = {
    "SigLIP": {"timm_model_name": "vit_base_patch16_siglip_224", "timm_pool": "map", "timm_proj": "none"},
    "EVA": {"timm_model_name": "eva02_tiny_patch14_224", "timm_pool": "token", "timm_proj": "linear"},
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


def test_mean_pooling_falls_back_to_autograd_at_its_patches_and_says_so(build):
    model = build(SMALL | {"pool_type": "avg"})
    assert check(model, "image.-1.patches", AUTOGRAD).tokens == 16
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


@pytest.mark.parametrize("kind", TIMM)
def test_timm_towers_are_refused_with_the_sites_that_exist(kind, build):
    model = build(TIMM[kind] | {"image_size": 224}, embed_dim=768 if kind == "SigLIP" else 48, custom=True)
    refused(model, r"TimmModel \(\w+ from timm\)")


def test_a_modified_resnet_is_refused_with_the_sites_that_exist(build):
    refused(build({"image_size": 32, "layers": [1, 1, 1, 1], "width": 16}), "ModifiedResNet")


def test_attention_pooling_is_refused_with_the_sites_that_exist(build):
    pooling = {"attentional_pool": True, "attn_pooler_heads": 4, "attn_pooler_queries": 5}
    refused(build(SMALL | pooling), "pools by attention")


def refused(model, kind):
    dictionary = random_sae(torch.randn(64, 32), 64, 4, site="image.-1.cls", model_hash=model.weights_hash)
    pixels = torch.randn(1, 3, *model.image_size)
    with pytest.raises(SiteError, match=rf"{kind}.*image\.<block>\.cls, \.patches and \.all exist for"):
        attribute(model, pixels, target_for(model), dictionary=dictionary)
