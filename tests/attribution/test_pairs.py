"""A cosine as a sum over image latents × text latents."""

import copy

import open_clip
import pytest
import torch

import clipattr as ca
from clipattr.attribution.pairs import BIAS, ERROR
from clipattr.dictionaries import TopK
from clipattr.errors import DictionaryError, SiteError, TargetError


def dictionary(width, site, seed, kind=TopK, **options):
    decoder = torch.randn(30, width, generator=torch.Generator().manual_seed(seed))
    return TopK(k=5, decoder=decoder, encoder=decoder, bias=0.2 * torch.ones(width), site=site, **options)


@pytest.fixture(scope="module")
def pixels():
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def mean_pooling(norm_first):
    vision = {"image_size": 32, "patch_size": 8, "width": 64, "layers": 2, "head_width": 16, "pool_type": "avg",
              "final_ln_after_pool": not norm_first}  # fmt: skip
    text = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return ca.load_model(open_clip.model.CLIP(embed_dim=48, vision_cfg=vision, text_cfg=text))


@pytest.mark.parametrize("places", [("image.-1.cls", "text.-1.eot"), ("image.embedding", "text.embedding")])
def test_table_rows_columns_and_total_add_up_to_the_score(places, tiny_model, pixels):
    image, text = places
    sae = dictionary(ca.Site(image).width(tiny_model), image, 1)
    text_sae = dictionary(ca.Site(text).width(tiny_model), text, 2)
    found = ca.pairs(tiny_model, pixels[:1], "a red kite", dictionary=sae, text_dictionary=text_sae)
    true = float(tiny_model.encode_image(pixels[:1]) @ tiny_model.encode_text(["a red kite"])[0])
    sums = [found.values.sum(), found.table().value.sum(), found.rows.value.sum(), found.columns.value.sum()]
    for total in (found.score, *map(float, sums)):
        assert abs(total - true) < 1e-5
    assert found.values.shape == (7, 7)
    assert found.image.latents[-2:].tolist() == [BIAS, ERROR] == found.text.latents[-2:].tolist()
    assert found.table().image_label.isin(["bias", "error", ""]).all()


@pytest.mark.parametrize("norm_first", [True, False])
def test_patches_behind_a_mean_are_summed_by_latent(norm_first, pixels):
    model = mean_pooling(norm_first)
    sae, text_sae = dictionary(64, "image.-1.patches", 1), dictionary(32, "text.-1.eot", 2)
    found = ca.pairs(model, pixels[:1], "kite", dictionary=sae, text_dictionary=text_sae)
    true = float(model.encode_image(pixels[:1]) @ model.encode_text(["kite"])[0])
    assert abs(float(found.values.sum()) - true) < 1e-5
    latents = found.image.latents.tolist()
    assert len(latents) == len(set(latents)) > 7


def test_a_pair_is_the_product_of_its_two_directions_behind_the_tails(tiny_model, pixels):
    # The slow formula: each active latent's direction alone through LayerNorm's scale and the projection.
    sae, text_sae = dictionary(64, "image.-1.cls", 1), dictionary(32, "text.-1.eot", 2)
    found = ca.pairs(tiny_model, pixels[:1], "kite", dictionary=sae, text_dictionary=text_sae)

    def behind(x, codes, decoder, norm, matrix, latent):
        norm, matrix = norm.double(), matrix.double()
        amount = float(codes.to_dense()[0, latent])
        scale = (x.var(unbiased=False) + norm.eps).sqrt()
        direction = amount * decoder[latent].double()
        features = ((direction - direction.mean()) / scale * norm.weight) @ matrix
        return features / (norm(x) @ matrix).norm()

    clip = tiny_model.clip
    acts = ca.activations(tiny_model, pixels[:1], "image.-1.cls")
    text_acts = ca.activations(tiny_model, ["kite"], "text.-1.eot")
    codes, text_codes = sae.encode(acts), text_sae.encode(text_acts)
    image_norm, text_norm = copy.deepcopy(clip.visual.ln_post), copy.deepcopy(clip.ln_final)
    for row in range(5):
        one = behind(
            acts[0].double(), codes, sae.decoder, image_norm, clip.visual.proj, int(found.image.latents[row])
        )
        for column in range(5):
            two = behind(
                text_acts[0].double(), text_codes, text_sae.decoder, text_norm, clip.text_projection,
                int(found.text.latents[column]),
            )  # fmt: skip
            assert abs(float(one @ two) / float(found.values[row, column]) - 1) < 1e-3


def test_many_pictures_and_prompts_are_each_others_pairs(tiny_model, pixels):
    sae, text_sae = dictionary(64, "image.-1.cls", 1), dictionary(32, "text.-1.eot", 2)
    options = {"dictionary": sae, "text_dictionary": text_sae}
    many = list(ca.stream_pairs(tiny_model, pixels, ["kite", "a bat"], **options))
    assert [(found.image.name, found.text.name) for found in many] == [
        (f"picture {number}", prompt) for number in (0, 1) for prompt in ("kite", "a bat")
    ]
    torch.testing.assert_close(
        many[3].values, ca.pairs(tiny_model, pixels[1:], "a bat", **options).values,
        rtol=1e-3, atol=1e-3,  # another batch rounds otherwise, and the parts are far larger than their sum
    )  # fmt: skip


def test_an_ensemble_of_templates_adds_up_too(tiny_model, pixels):
    sae, text_sae = dictionary(64, "image.-1.cls", 1), dictionary(32, "text.-1.eot", 2)
    templates = ("a {}", "a photo of a {}")
    options = {"dictionary": sae, "text_dictionary": text_sae, "templates": templates}
    found = ca.pairs(tiny_model, pixels[:1], "kite", **options)
    true = float(tiny_model.encode_image(pixels[:1]) @ tiny_model.encode_text(["kite"], templates)[0])
    assert abs(float(found.values.sum()) - true) < 1e-5
    assert found.text.latents[-2:].tolist() == [BIAS, ERROR] and found.text.labels[-2:] == ("bias", "error")


def test_what_cannot_be_a_sum_of_pairs_is_refused(tiny_model, pixels):
    sae, text_sae = dictionary(64, "image.-1.cls", 1), dictionary(32, "text.-1.eot", 2)
    with pytest.raises(DictionaryError, match="train_text_sae"):
        ca.pairs(tiny_model, pixels[:1], "kite", dictionary=sae)
    with pytest.raises(SiteError, match=r"text\.0\.eot.*Use image\.embedding"):
        ca.pairs(
            tiny_model, pixels[:1], "kite", dictionary=sae, text_dictionary=dictionary(32, "text.0.eot", 2)
        )
    with pytest.raises(SiteError, match="one of the text tower"):
        ca.pairs(tiny_model, pixels[:1], "kite", dictionary=sae, text_dictionary=sae)
    with pytest.raises(TargetError, match="stream_pairs takes several"):
        ca.pairs(tiny_model, pixels, "kite", dictionary=sae, text_dictionary=text_sae)
    with pytest.raises(TargetError, match="stream_pairs takes several"):
        ca.pairs(tiny_model, pixels[:1], ["kite"], dictionary=sae, text_dictionary=text_sae)


def test_the_figure_keeps_the_sum(tiny_model, pixels):
    sae, text_sae = dictionary(64, "image.-1.cls", 1), dictionary(32, "text.-1.eot", 2)
    found = ca.pairs(tiny_model, pixels[:1], "kite", dictionary=sae, text_dictionary=text_sae)
    axes = found.plot(n=3).axes[0]
    written = {text.get_text() for text in axes.texts}
    from clipattr.display.wording import signed

    assert signed(100 * found.score) in written
    assert [label.get_text() for label in axes.get_yticklabels()][-4:] == ["2 others", "bias", "error", "sum"]
