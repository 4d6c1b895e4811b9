"""The wrapper: what it reads off the modules, and that embeddings are the ones open_clip gives."""

import copy
import json
import warnings

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from torch import nn

from clipattr import DataError, Model, ModelError, SiteError, attribute, load_model
from clipattr.dictionaries import random_sae
from clipattr.sites import activations


@pytest.fixture()
def picture():
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (40, 56, 3), dtype=np.uint8))


def unit(features):
    return features / features.norm(dim=-1, keepdim=True)


def test_layout_is_read_from_the_module(tiny_model):
    assert (tiny_model.image_width, tiny_model.image_blocks, tiny_model.image_tokens) == (64, 3, 17)
    assert tiny_model.grid == (4, 4) and tiny_model.image_size == (32, 32)
    assert tiny_model.embed_dim == 48 and tiny_model.context_length == 16
    assert tiny_model.logit_scale == pytest.approx(1 / 0.07, rel=1e-5)
    assert tiny_model.ln_post is tiny_model.clip.visual.ln_post
    assert tiny_model.image_projection.shape == (64, 48)
    assert tiny_model.tail_is_closed_form


def test_image_embeddings_are_open_clips_at_unit_length(tiny_model):
    pixels = torch.randn(3, 3, 32, 32)
    torch.testing.assert_close(tiny_model.encode_image(pixels), unit(tiny_model.clip.visual(pixels)))


def test_text_embeddings_are_open_clips_at_unit_length(tiny_model):
    tokens = open_clip.SimpleTokenizer(context_length=16)(["a kite", "a bat in the sky"])
    expected = unit(tiny_model.clip.encode_text(tokens))
    torch.testing.assert_close(tiny_model.encode_text(["a kite", "a bat in the sky"]), expected)


def test_text_embeddings_do_not_depend_on_what_else_is_encoded(tiny_model):
    words = [f"word number {i}" for i in range(300)]  # more than one batch
    together = tiny_model.encode_text(words)
    assert together.shape == (300, 48)
    torch.testing.assert_close(together[257], tiny_model.encode_text([words[257]])[0], atol=1e-6, rtol=1e-5)


def test_a_template_ensemble_is_the_renormalised_mean_of_unit_embeddings(tiny_model):
    templates = ["a photo of a {}.", "{} in {braces}", "{}"]
    single = [tiny_model.encode_text([t.replace("{}", p) for t in templates]).mean(0) for p in ("cat", "dog")]
    expected = unit(torch.stack(single))
    torch.testing.assert_close(tiny_model.encode_text(["cat", "dog"], templates), expected)


def test_a_single_string_is_one_prompt_and_none_are_none(tiny_model):
    assert torch.equal(tiny_model.encode_text("kite"), tiny_model.encode_text(["kite"]))
    assert tiny_model.encode_text([]).shape == (0, 48)


def test_a_template_without_a_place_for_the_prompt_is_refused(tiny_model):
    with pytest.raises(ModelError, match=r"needs \{\}"):
        tiny_model.encode_text(["cat"], ["a photo of"])


def test_a_prompt_that_is_no_text_is_refused(tiny_model):
    with pytest.raises(ModelError, match="got 3.5"):
        tiny_model.encode_text(["cat", 3.5])


def test_a_text_that_is_cut_off_gives_a_warning_that_shows_it(tiny_model):
    with pytest.warns(UserWarning, match=r"1 text\(s\) are longer than the 16 tokens.*so very"):
        tiny_model.encode_text(["so very " * 20, "short"])
    exactly_full = " ".join(["a"] * 14)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tiny_model.encode_text([exactly_full])


def test_pixels_of_another_shape_are_refused_with_the_right_one(tiny_model):
    for shape in [(3, 32, 32), (2, 3, 64, 64), (2, 1, 32, 32)]:
        with pytest.raises(ModelError, match=r"\(batch, 3, 32, 32\)"):
            tiny_model.encode_image(torch.zeros(shape))


def test_no_graph_is_recorded_unless_the_pixels_ask_for_one(tiny_model):
    pixels = torch.randn(2, 3, 32, 32)
    assert not tiny_model.encode_image(pixels).requires_grad
    pixels.requires_grad_()
    (gradient,) = torch.autograd.grad(tiny_model.encode_image(pixels)[0, 0], pixels)
    assert gradient[0].abs().sum() > 0 and gradient[1].abs().sum() == 0
    with torch.no_grad():
        assert not tiny_model.encode_image(pixels).requires_grad


def test_pictures_arrays_and_files_prepare_alike(tiny_model, picture, tmp_path):
    file = tmp_path / "picture.png"
    picture.save(file)
    expected = tiny_model.prepare(picture)
    assert expected.shape == (3, 32, 32) and expected.dtype == torch.float32
    assert torch.equal(tiny_model.prepare(np.asarray(picture)), expected)
    assert torch.equal(tiny_model.prepare(file), expected)
    assert torch.equal(tiny_model.prepare(str(file)), expected)


def test_a_picture_of_the_models_own_size_is_only_normalised(tiny_model, picture):
    small = picture.resize((32, 32))
    config = json.loads(tiny_model.preprocess_id)
    colours = torch.tensor(np.asarray(small), dtype=torch.float32).permute(2, 0, 1) / 255
    expected = (colours - torch.tensor(config["mean"])[:, None, None]) / torch.tensor(config["std"])[
        :, None, None
    ]
    torch.testing.assert_close(tiny_model.prepare(small), expected)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "CMYK", "1", "YCbCr"])
def test_pictures_in_other_eight_bit_modes_are_converted_first(tiny_model, picture, mode):
    other = picture.convert("RGBA").convert(mode) if mode == "LA" else picture.convert(mode)
    assert torch.equal(tiny_model.prepare(other), tiny_model.prepare(other.convert("RGB")))


def test_sixteen_bit_pictures_are_scaled_as_in_a_collection(tiny_model):
    deep = Image.fromarray(np.full((32, 32), 40000, dtype=np.uint16))
    scaled = Image.new("RGB", (32, 32), (round(40000 / 65535 * 255),) * 3)
    assert torch.equal(tiny_model.prepare(deep), tiny_model.prepare(scaled))


def test_unreadable_files_and_other_objects_are_refused(tiny_model, tmp_path):
    text = tmp_path / "note.jpg"
    text.write_text("not a picture")
    with pytest.raises(DataError, match="note.jpg: not a readable picture"):
        tiny_model.prepare(text)
    with pytest.raises(DataError, match="absent.png"):
        tiny_model.prepare(tmp_path / "absent.png")
    with pytest.raises(DataError, match=r"finite and within \[0, 1\]"):
        tiny_model.prepare(np.full((32, 32, 3), 255.0))
    with pytest.raises(DataError, match="got int"):
        tiny_model.prepare(7)


def test_a_wrapped_module_is_in_eval_mode_with_gradients_off(tiny_model, config):
    config["vision_cfg"]["patch_dropout"] = 0.5
    clip = open_clip.model.CLIP(**config).train()
    clip.set_grad_checkpointing(True)
    model = load_model(clip)
    assert model.reference == "custom" and model.clip is clip and not clip.training
    assert not any(parameter.requires_grad for parameter in clip.parameters())
    assert not clip.visual.transformer.grad_checkpointing
    pixels = torch.randn(2, 3, 32, 32)  # with patches dropped, twice would differ
    assert torch.equal(model.encode_image(pixels), model.encode_image(pixels))


def test_a_custom_text_clip_encodes_texts_like_open_clip(config):
    clip = open_clip.model.CustomTextCLIP(**config)
    model = load_model(clip)
    tokens = open_clip.SimpleTokenizer(context_length=16)(["a kite"])
    torch.testing.assert_close(model.encode_text(["a kite"]), unit(clip.text(tokens)))
    assert model.context_length == 16 and model.embed_dim == 48


def test_towers_that_return_their_tokens_too_still_give_one_embedding(config):
    plain = open_clip.model.CustomTextCLIP(**config)
    config["vision_cfg"]["output_tokens"] = config["text_cfg"]["output_tokens"] = True
    talkative = open_clip.model.CustomTextCLIP(**config)
    talkative.load_state_dict(plain.state_dict())
    pixels = torch.randn(2, 3, 32, 32)
    one, other = load_model(plain), load_model(talkative)
    assert torch.equal(one.encode_image(pixels), other.encode_image(pixels))
    assert torch.equal(one.encode_text(["kite"]), other.encode_text(["kite"]))


def test_a_foreign_vocabulary_needs_its_tokenizer(config):
    config["text_cfg"]["vocab_size"] = 100
    clip = open_clip.model.CLIP(**config)
    with pytest.raises(ModelError, match=r"vocabulary of 100 tokens.*tokenizer="):
        load_model(clip).encode_text(["kite"])

    def letters(texts, context_length):
        return torch.tensor(
            [[ord(text[i]) % 100 if i < len(text) else 0 for i in range(16)] for text in texts]
        )

    assert load_model(clip, tokenizer=letters).encode_text(["kite", "bat"]).shape == (2, 48)


def test_own_preprocessing_goes_with_a_module(tiny_model, picture):
    model = load_model(tiny_model.clip, preprocess=lambda image: torch.zeros(3, 32, 32))
    assert model.prepare(picture).abs().sum() == 0
    assert model.preprocess_id != tiny_model.preprocess_id


def test_what_is_no_clip_is_refused():
    with pytest.raises(ModelError, match="lacks visual, encode_image"):
        load_model(nn.Linear(2, 2))
    with pytest.raises(ModelError, match="got int"):
        load_model(5)


def test_a_model_comes_back_unchanged_and_a_cast_is_a_copy(tiny_model):
    assert load_model(tiny_model) is tiny_model
    double = load_model(tiny_model, dtype=torch.float64)
    assert isinstance(double, Model) and double.dtype == torch.float64 and tiny_model.dtype == torch.float32
    assert double.weights_hash == tiny_model.weights_hash
    pixels = torch.randn(2, 3, 32, 32)
    assert double.encode_image(pixels).dtype == torch.float64
    torch.testing.assert_close(double.encode_image(pixels).float(), tiny_model.encode_image(pixels))
    torch.testing.assert_close(double.encode_text(["kite"]).float(), tiny_model.encode_text(["kite"]))


def test_half_precision_embeddings_come_out_in_float32(tiny_model):
    half = load_model(tiny_model, dtype=torch.bfloat16)
    pixels = torch.randn(2, 3, 32, 32)
    embeddings = half.encode_image(pixels)
    assert embeddings.dtype == torch.float32
    torch.testing.assert_close(embeddings.norm(dim=-1), torch.ones(2))
    assert (embeddings * tiny_model.encode_image(pixels)).sum(-1).min() > 0.99


def test_a_device_or_dtype_that_is_not_there_is_refused(tiny_model):
    if not torch.cuda.is_available():
        with pytest.raises(ModelError, match="could not be put on cuda"):
            load_model(tiny_model, device="cuda")
    with pytest.raises(ModelError, match="floating point"):
        load_model(tiny_model, dtype=torch.int8)


def test_a_modules_own_precision_is_kept(tiny_model):
    assert load_model(copy.deepcopy(tiny_model.clip).double()).dtype == torch.float64


def test_a_mean_pooling_tower_is_not_closed_form_at_its_class_token(config):
    config["vision_cfg"].update(pool_type="avg", final_ln_after_pool=True)
    assert not load_model(open_clip.model.CLIP(**config)).tail_is_closed_form


def test_norm_after_pooling_is_closed_form_too(config):
    config["vision_cfg"]["final_ln_after_pool"] = True
    assert load_model(open_clip.model.CLIP(**config)).tail_is_closed_form


def test_a_tower_without_projection_says_its_width(config):
    clip = open_clip.model.CLIP(**config)
    clip.visual.proj = None
    model = load_model(clip)
    assert model.image_projection is None and model.embed_dim == 64


def test_towers_of_another_kind_encode_but_say_that_they_have_no_sites(config):
    resnet = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 16}
    clip = open_clip.model.CLIP(**{**config, "vision_cfg": resnet})
    model = load_model(clip)
    assert model.encode_image(torch.randn(2, 3, 32, 32)).shape == (2, 48)
    assert model.embed_dim == 48 and model.image_size == (32, 32) and not model.tail_is_closed_form
    with pytest.raises(
        SiteError, match=r"ModifiedResNet.*image\.<block>\.cls.*image\.embedding.*every model"
    ):
        _ = model.image_width


def test_the_layout_of_a_timm_tower_is_read_from_its_module(config):
    timm = {
        "timm_model_name": "vit_tiny_patch16_224",
        "timm_pool": "avg",
        "timm_proj": "linear",
        "image_size": 224,
    }
    model = load_model(open_clip.model.CustomTextCLIP(**{**config, "vision_cfg": timm}))
    assert (model.image_width, model.image_blocks, model.image_tokens) == (192, 12, 197)
    assert model.grid == (14, 14) and model.embed_dim == 48
    assert model.image_tower.pooled == {"patches"} and model.image_tower.has_class_token
    assert model.ln_post is None and model.image_projection is None and not model.tail_is_closed_form


def test_the_layout_is_read_again_when_a_cast_brings_another_module(config):
    model = load_model(open_clip.model.CLIP(**config))
    first = model.image_tower
    assert model.image_tower is first
    double = load_model(model, dtype=torch.float64)
    assert double.image_tower.visual is double.visual and first.visual is model.visual


def test_an_attention_pooling_tower_has_no_closed_form(config):
    config["vision_cfg"].update(attentional_pool=True, attn_pooler_heads=4, attn_pooler_queries=5)
    model = load_model(open_clip.model.CLIP(**config))
    assert model.encode_image(torch.randn(1, 3, 32, 32)).shape == (1, 48)
    assert model.image_tower.pooled == {"cls", "patches"} and not model.tail_is_closed_form


def test_the_tiny_model_tells_pictures_apart(tiny_model):
    # The fixture's promise: tests on it are about something.
    embeddings = tiny_model.encode_image(torch.randn(8, 3, 32, 32))
    assert (embeddings @ embeddings.T).min() < 0.98


def test_mixed_precision_as_open_clip_makes_it_is_read_at_its_widest(config):
    plain = open_clip.model.CLIP(**config)
    mixed = copy.deepcopy(plain)
    open_clip.model.convert_weights_to_lp(mixed, dtype=torch.bfloat16)
    expected = open_clip.model.CLIP(**config)
    expected.load_state_dict(mixed.state_dict())
    for dtype in (None, "float32"):
        model = load_model(mixed, dtype=dtype)
        pixels = torch.randn(2, 3, 32, 32)
        assert {value.dtype for value in model.clip.parameters()} == {torch.float32} == {model.dtype}
        torch.testing.assert_close(model.encode_image(pixels), load_model(expected).encode_image(pixels))
        torch.testing.assert_close(model.encode_text("kite"), load_model(expected).encode_text("kite"))
    assert mixed.visual.conv1.weight.dtype == torch.bfloat16  # the caller's module is as it was
    assert load_model(mixed, dtype="bf16").encode_image(pixels).shape == (2, 48)


def test_modules_without_values_or_gradients_are_refused_with_the_cause(tiny_model):
    from clipattr.models.modules import require_finite

    quantised = nn.Module()
    quantised.state_dict = lambda *a, **k: {"_packed.dtype": torch.qint8}  # as in torch.ao.nn.quantized
    for module, told in (
        (copy.deepcopy(tiny_model.clip).to("meta"), "meta device, without values"),
        (quantised, "is quantised, without gradients"),
    ):
        with pytest.raises(ModelError, match=told):
            require_finite(module, "it")


def test_hooks_act_in_modules_that_were_compiled_in_place(tiny_model):
    clip = copy.deepcopy(tiny_model.clip)
    for block in clip.visual.transformer.resblocks:
        block.compile(backend="eager")
    model, pixels = load_model(clip), torch.randn(2, 3, 32, 32)
    model.encode_image(pixels)  # compiles, where it is not turned off
    found = activations(model, pixels, "image.1.mlp_out.all")
    torch.testing.assert_close(found, activations(tiny_model, pixels, "image.1.mlp_out.all"))


def test_inference_mode_of_the_caller_changes_nothing(tiny_model, config):
    plain, pixels = copy.deepcopy(tiny_model.clip), torch.randn(2, 3, 32, 32)
    dictionary = random_sae(torch.randn(50, 64), n_latents=8, k=2, site="image.0.all")
    expected = attribute(tiny_model, pixels, "kite", dictionary=dictionary).values
    with torch.inference_mode():
        built = load_model(open_clip.model.CLIP(**config))
        cast = load_model(tiny_model, dtype="float64")
        inside = attribute(tiny_model, pixels, "kite", dictionary=dictionary).values
    torch.testing.assert_close(inside, expected)
    for model in (built, cast, load_model(plain)):
        assert attribute(model, pixels, "kite", dictionary=dictionary).values.abs().max() > 0
