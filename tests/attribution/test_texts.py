"""Attribution to latents of the text tower, and to the words of a prompt."""

import pytest
import torch

import clipattr as ca
from clipattr.attribution.words import word_tokens
from clipattr.dictionaries import TopK
from clipattr.errors import TargetError
from clipattr.sites import acts_and_context, continue_from

TEXTS = ["kite", "a photo of a red kite", "the bat and the ball"]


def dictionary(width, site, model):
    generator = torch.Generator().manual_seed(0)
    decoder = torch.randn(20, width, generator=generator)
    return TopK(
        k=4, decoder=decoder, encoder=decoder, bias=0.1 * torch.ones(width), site=site,
        model_hash=model.weights_hash, info={"words": [f"word {j}" for j in range(20)]},
    )  # fmt: skip


@pytest.mark.parametrize("site", ["text.-1.eot", "text.0.eot", "text.0.tokens", "text.embedding"])
def test_ablation_of_a_text_latent_is_what_taking_it_out_by_hand_does(site, tiny_model):
    texts = TEXTS[:1] if site.endswith("tokens") else TEXTS
    acts, context = acts_and_context(tiny_model, texts, site)
    sae = dictionary(acts.shape[-1], site, tiny_model)
    image = torch.nn.functional.normalize(torch.randn(48, generator=torch.Generator().manual_seed(1)), dim=0)
    found = ca.attribute(tiny_model, texts, image, dictionary=sae, method="exact")
    assert found.labels[int(found.codes.indices.flatten()[0])].startswith("word")
    torch.testing.assert_close(found.y[:, 0], tiny_model.encode_text(texts) @ image, atol=1e-6, rtol=0)
    codes = sae.encode(acts.reshape(-1, acts.shape[-1])).to_fixed()
    indices, values = (part.view(len(texts), -1, 4) for part in (codes.indices.long(), codes.values))
    for text in range(len(texts)):
        for token in range(indices.shape[1]):
            for place in range(4):
                changed = acts.clone()
                row = changed[text] if changed.ndim == 2 else changed[text, token]
                row -= values[text, token, place] * sae.decoder[indices[text, token, place]]
                y = continue_from(tiny_model, site, changed, context)[text] @ image
                got = found.values.view(len(texts), -1, 4)[text, token, place]
                assert abs(float(got - (found.y[text, 0] - y))) < 1e-5


def test_methods_that_add_up_do_so_for_texts(tiny_model):
    sae = dictionary(32, "text.0.eot", tiny_model)
    found = ca.attribute(tiny_model, TEXTS, "a red bat", dictionary=sae, method="integrated_gradients")
    assert found.adds_up and found.gap.abs().max() < 1e-3 and found.values.abs().max() > 1e-4


def test_a_text_may_be_the_baseline_and_pictures_the_target(tiny_model):
    sae = dictionary(32, "text.-1.eot", tiny_model)
    pictures = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    target = ca.Similarity(tiny_model.encode_image(pictures), names=["one", "two"])
    found = ca.attribute(tiny_model, "a red kite", target, dictionary=sae, baseline="a kite")
    assert found.names == ["one", "two"] and found.pictures == ["a red kite"]
    with pytest.raises(TargetError, match=r"takes texts.*pictures go into the target"):
        ca.attribute(tiny_model, pictures, "kite", dictionary=sae)


def test_interventions_act_on_texts(tiny_model):
    sae = dictionary(32, "text.-1.eot", tiny_model)
    image = tiny_model.encode_text(["ball"])[0]
    found = ca.attribute(tiny_model, "kite", image, dictionary=sae, method="exact")
    latent, fall = int(found.codes.indices[0, 0]), float(found.values[0, 0, 0])
    with ca.ablate(tiny_model, [latent], dictionary=sae):
        after = tiny_model.encode_text(["kite"])[0] @ image
    assert abs(float(found.y[0, 0] - after) - fall) < 1e-5


def test_a_text_dictionary_is_trained_and_named_by_its_texts(tiny_model):
    texts = ["kite", "bat", "dog", "red ball"]
    sae = ca.train_text_sae(tiny_model, texts, n_latents=16, k=2, steps=60, progress=False)
    assert (sae.site, sae.model_hash) == ("text.-1.eot", tiny_model.weights_hash)
    named = {name for names in sae.info["words"] for name in names.split(", ") if name}
    assert named <= set(texts) and len(named) >= 3
    with pytest.raises(ca.DataError, match="at least two"):
        ca.train_text_sae(tiny_model, ["kite"])
    with pytest.raises(ca.DataError, match=r"texts=\[…\]"):
        ca.train_text_sae(tiny_model)


# words


def test_pieces_of_a_word_stay_together(tiny_model):
    words = ["an", "armadillolike", "kité,", "flies"]
    places = word_tokens(tiny_model, words)
    ids = tiny_model.tokens([" ".join(words)])[0]
    assert [place for some in places for place in some] == list(range(1, int(ids.argmax())))
    for word, place in zip(words, places, strict=True):
        assert tiny_model.tokenizer.decode(ids[list(place)].tolist()).replace(" ", "") == word


def test_leaving_a_word_out_is_the_prompt_without_it(tiny_model):
    found = ca.word_attribution(tiny_model, "a red kite", ["ball", "bat"])
    rows = tiny_model.encode_text(["a red kite", "red kite", "a kite", "a red", ""])
    y = rows @ tiny_model.encode_text(["ball", "bat"]).T
    torch.testing.assert_close(found.values, y[0] - y[1:4])
    torch.testing.assert_close(found.gap, y[0] - y[4] - found.values.sum(0))
    assert found.table().columns.tolist() == ["word", "ball", "bat"]


def test_integrated_gradients_of_words_add_up(tiny_model):
    image = tiny_model.encode_text(["ball"])[0]
    found = ca.word_attribution(tiny_model, "a red kite", image, method="integrated_gradients")
    assert found.values.shape == (3, 1) and found.gap.abs().max() < 1e-3
    torch.testing.assert_close(found.y, tiny_model.encode_text(["a red kite"]) @ image)
    # The end of the path by hand: word embeddings at zero, everything else kept.
    clip, ids = tiny_model.clip, tiny_model.tokens(["a red kite"])
    rows = clip.token_embedding(ids)
    rows[:, 1:4] = 0
    stream = rows + clip.positional_embedding
    for block in clip.transformer.resblocks:
        stream = block(stream, attn_mask=clip.attn_mask)
    features = clip.ln_final(stream)[0, int(ids.argmax())] @ clip.text_projection
    torch.testing.assert_close(found.y_baseline[0], tiny_model.unit(features[None])[0] @ image)


def test_a_blank_prompt_and_an_unknown_method_are_refused(tiny_model):
    with pytest.raises(TargetError, match="at least one word"):
        ca.word_attribution(tiny_model, " ", "kite")
    with pytest.raises(TargetError, match="leave_one_out, integrated_gradients"):
        ca.word_attribution(tiny_model, "kite", "bat", method="lime")
