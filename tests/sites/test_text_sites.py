"""Sites of the text tower: reading, replacing, continuing, and closed forms, over many kinds of towers."""

import json
import pickle

import open_clip
import pytest
import torch
import torch.nn.functional as F

import clipattr as ca
from clipattr import SiteError
from clipattr.sites import activations, acts_and_context, capture, continue_from, replace

TEXTS = ["kite", "a photo of a red kite", "the bat and the ball"]
VISION = {"image_size": 16, "patch_size": 8, "width": 16, "layers": 1, "head_width": 8}
TEXT = {"context_length": 12, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 3}
PLACES = ("text.-1.eot", "text.0.eot", "text.-1.tokens", "text.1.tokens", "text.embedding")
# open_clip's own towers: what is set beside the plain one, whether it is a CustomTextCLIP, and how it pools.
TOWERS = {
    "plain": ({}, False, "highest id"),
    "causal": ({}, True, "highest id"),
    "bidirectional": ({"no_causal_mask": True}, True, "highest id"),
    "last": ({"pool_type": "last"}, True, "last token"),
    "first": ({"pool_type": "first", "no_causal_mask": True}, True, "first token"),
    "eos": ({"pool_type": "eos", "eos_id": 49407}, True, "highest id"),
    "bias": ({"proj_bias": True}, True, "highest id"),
    "appended": ({"embed_cls": True}, True, "last token"),
    "unprojected": ({"proj_type": "none", "width": 24, "heads": 3}, True, "highest id"),
}


def random_norms(module):
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, torch.nn.LayerNorm):
                part.weight.uniform_(0.5, 1.5)
                part.bias.normal_(std=0.2)
    return module


def made(name):
    extra, custom, _ = TOWERS[name]
    kind = open_clip.model.CustomTextCLIP if custom else open_clip.model.CLIP
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return ca.load_model(random_norms(kind(embed_dim=24, vision_cfg=VISION, text_cfg=TEXT | extra)))


class Tokens:
    """Texts to ids of a fixed length, as open_clip's own tokenizers for towers of transformers."""

    context_length = 12

    def __call__(self, texts, context_length):
        ids = torch.ones(len(texts), context_length, dtype=torch.long)
        for row, text in enumerate(texts):
            count = min(len(text.split()), context_length - 2)
            ids[row, 0] = 0
            ids[row, 1 : count + 1] = torch.tensor([4 + len(word) for word in text.split()[:count]])
            ids[row, count + 1] = 2
        return ids


def encoder_of_transformers(folder, pooler, projection):
    pytest.importorskip("transformers")
    config = {"model_type": "roberta", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
              "intermediate_size": 16, "vocab_size": 32, "max_position_embeddings": 20, "pad_token_id": 1}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    text = {"hf_model_name": str(folder), "hf_model_pretrained": False, "hf_pooler_type": pooler,
            "hf_proj_type": projection}  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        clip = open_clip.model.CustomTextCLIP(embed_dim=8, vision_cfg=VISION, text_cfg=text)
    return ca.load_model(clip, tokenizer=Tokens())


def reaches_the_embedding_from_everywhere(model, texts, places):
    whole = model.encode_text(texts)
    for place in places:
        acts, context = acts_and_context(model, texts, place)
        assert acts.shape[1:] == ca.Site(place).shape(model) or not ca.Site(place).is_single
        torch.testing.assert_close(continue_from(model, place, acts, context), whole, atol=1e-6, rtol=0)
        with capture(model, place) as held:
            model.encode_text(texts)
        assert torch.equal(held[place], acts)
        with replace(model, place, lambda acts: acts):
            assert torch.equal(model.encode_text(texts), whole)
        with replace(model, place, acts.flip(0)):
            other = model.encode_text(texts)
        # Another prompt's activations change the text, and continuing says what replacing does.
        torch.testing.assert_close(
            continue_from(model, place, acts.flip(0), context), other, atol=1e-6, rtol=0
        )
        assert (other - whole).abs().max() > 1e-3


@pytest.mark.parametrize("name", TOWERS)
def test_continuing_from_every_site_of_every_tower_gives_the_embedding(name):
    model = made(name)
    assert TOWERS[name][2] in model.text_tower.pooling
    reaches_the_embedding_from_everywhere(model, TEXTS, PLACES)


@pytest.mark.parametrize(
    ("pooler", "projection", "closed"),
    [("cls_last_hidden_state_pooler", "linear", True), ("cls_last_hidden_state_pooler", "mlp", False),
     ("cls_pooler", "linear", False)],
)  # fmt: skip
def test_text_encoders_of_transformers_are_read_too(pooler, projection, closed, tmp_path):
    model = encoder_of_transformers(tmp_path, pooler, projection)
    assert model.text_tower.pooling == "first token"
    reaches_the_embedding_from_everywhere(model, TEXTS, ("text.-1.eot", "text.0.tokens", "text.embedding"))
    # A dense layer with tanh or an MLP behind the token has no closed form.
    assert (ca.Site("text.-1.eot").tail(model) is not None) == closed


def test_a_mean_over_tokens_has_no_pooled_token(tmp_path):
    model = encoder_of_transformers(tmp_path, "mean_pooler", "linear")
    with pytest.raises(SiteError, match=r"pools several tokens.*text\.-1\.tokens and text\.embedding"):
        activations(model, TEXTS, "text.-1.eot")
    reaches_the_embedding_from_everywhere(model, TEXTS, ("text.-1.tokens", "text.embedding"))


def test_the_pooled_token_is_read_as_a_forward_pass_by_hand_has_it(tiny_model):
    clip, tokens = tiny_model.clip, tiny_model.tokens(TEXTS)
    stream = clip.token_embedding(tokens) + clip.positional_embedding
    for number, block in enumerate(clip.transformer.resblocks):
        stream = block(stream, attn_mask=clip.attn_mask)
        pooled = stream[torch.arange(3), tokens.argmax(1)]
        assert torch.equal(activations(tiny_model, TEXTS, f"text.{number}.eot"), pooled)
    features = clip.ln_final(pooled) @ clip.text_projection
    torch.testing.assert_close(activations(tiny_model, TEXTS, "text.embedding"), features)
    torch.testing.assert_close(tiny_model.encode_text(TEXTS), F.normalize(features, dim=-1))


def test_a_last_block_end_token_has_a_closed_form_and_earlier_ones_have_none(tiny_model):
    assert (
        ca.Site("text.-1.eot").tail(tiny_model).describe() == "LayerNorm, linear map, division by the length"
    )
    assert ca.Site("text.embedding").tail(tiny_model).describe() == "division by the length"
    assert ca.Site("text.-2.eot").tail(tiny_model) is None
    assert ca.Site("text.-1.tokens").tail(tiny_model) is None


def test_continuing_has_the_gradient_of_finite_differences():
    model = made("bidirectional")
    acts, ids = acts_and_context(model, TEXTS, "text.0.eot")
    weights = torch.randn(24, generator=torch.Generator().manual_seed(0))
    direction = torch.randn(acts.shape, generator=torch.Generator().manual_seed(1))
    leaf = acts.clone().requires_grad_()
    (slope,) = torch.autograd.grad((continue_from(model, "text.0.eot", leaf, ids) @ weights).sum(), leaf)
    step = 1e-2
    ahead, behind = (
        (continue_from(model, "text.0.eot", acts + sign * step * direction, ids) @ weights).sum()
        for sign in (1, -1)
    )
    torch.testing.assert_close((slope * direction).sum(), (ahead - behind) / (2 * step), rtol=1e-2, atol=1e-4)


def test_pictures_and_texts_are_not_mixed_up(tiny_model):
    with pytest.raises(SiteError, match=r"takes texts.*got Tensor"):
        activations(tiny_model, torch.zeros(1, 3, 32, 32), "text.-1.eot")
    with pytest.raises(SiteError, match=r"takes prepared pixels.*texts are read at sites of the text tower"):
        activations(tiny_model, TEXTS, "image.-1.cls")
    with pytest.raises(SiteError, match="2 text blocks, 0 to 1"):
        activations(tiny_model, TEXTS, "text.2.eot")
    with pytest.raises(SiteError, match=r"model\.tokens\(texts\)"):
        continue_from(tiny_model, "text.0.eot", torch.zeros(3, 32))


def test_no_hook_is_left_and_the_model_travels(tiny_model):
    with pytest.raises(RuntimeError, match="stop"), replace(tiny_model, "text.0.eot", _stop):
        tiny_model.encode_text(TEXTS)
    parts = [*tiny_model.clip.modules(), tiny_model.text_output]
    assert not any(part._forward_hooks for part in parts)
    sent = pickle.loads(pickle.dumps(made("causal")))
    assert sent.text_tower.pooling == made("causal").text_tower.pooling


def _stop(_acts):
    raise RuntimeError("stop")


def test_a_table_of_texts_says_what_it_lacks():
    table = ca.TextEmbeddings(["kite", "bat"], torch.eye(2, 3).numpy())
    with pytest.raises(SiteError, match="no text tower"):
        activations(table, ["kite"], "text.-1.eot")
