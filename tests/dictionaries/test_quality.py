"""The check after loading: accepted where the dictionary belongs, refused with the likely reason elsewhere."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from clipattr import Contrast, Site, activations, attribute, check_sae, load_sae, train_sae
from clipattr.dictionaries import Relu, TopK
from clipattr.errors import DictionaryError
from clipattr.images.collection import Images
from clipattr.sites import acts_and_context, continue_from


@pytest.fixture(scope="module")
def pictures():
    """Coloured stripes and noise: on them a random tower's activations vary in few directions and some noise."""
    rng = np.random.default_rng(0)
    made = []
    for _ in range(96):
        rows = np.repeat(rng.integers(0, 255, (4, 1, 3)), 8, 0).repeat(32, 1)
        noise = rng.integers(-20, 20, (32, 32, 3))
        made.append(Image.fromarray((rows + noise).clip(0, 255).astype(np.uint8)))
    return Images.open(made)


@pytest.fixture(scope="module")
def pixels(tiny_model, pictures):
    return torch.stack([tiny_model.prepare(record.load()) for record in pictures])


@pytest.fixture(scope="module")
def trained(tiny_model, pixels):
    """A dictionary of block 1's class tokens, and its FVU on them."""
    acts = activations(tiny_model, pixels, "image.1.cls").float()
    made = train_sae(acts, n_latents=96, k=8, steps=400, batch=64, progress=False, site="image.1.cls")
    return made, made.check(acts)["as loaded"]


def test_figures_are_those_of_plain_formulas(tiny_model, pictures, pixels, trained):
    made, _ = trained
    check = check_sae(made, tiny_model, pictures)
    acts, context = acts_and_context(tiny_model, pixels, "image.1.cls")
    recon = made.reconstruct(acts)
    fvu = float((acts - recon).double().square().sum() / (acts - acts.mean(0)).double().square().sum())
    assert check.figures["fvu"] == pytest.approx(fvu, rel=1e-4)
    assert check.figures["l0"] == pytest.approx(float(made.encode(acts).counts().float().mean()))
    seen = (made.encode(acts).to_dense() != 0).any(0).float().mean()
    assert check.figures["unseen"] == pytest.approx(1 - float(seen))
    spliced = continue_from(tiny_model, "image.1.cls", recon, context)
    cosines = (spliced * tiny_model.encode_image(pixels)).sum(-1)
    assert check.figures["spliced_cosine"] == pytest.approx(float(cosines[:64].mean()), abs=1e-4)
    assert (check.pictures, check.rows, check.agrees) == (96, 96, True)
    assert "nothing is promised" in str(check) and math.isnan(check.to_frame()["promised"]["fvu"])


def test_a_promise_that_is_kept_binds_the_dictionary_to_the_model(tiny_model, pictures, trained):
    made, fvu = trained
    made.model_hash = None
    promise = {"explained_variance": 1 - fvu, "l0": 8.0}
    check = check_sae(made, tiny_model, pictures, promise=promise)
    assert check.agrees and made.model_hash == tiny_model.weights_hash
    check.raise_if_wrong()


@pytest.mark.parametrize("block", [0, 2])
def test_another_layer_is_refused_and_the_right_one_named(tiny_model, pictures, trained, block):
    made = trained[0]._rebuilt(trained[0]._all_tensors())
    made.site, made.model_hash = f"image.{block}.cls", None
    check = check_sae(made, tiny_model, pictures, promise={"explained_variance": 1 - trained[1], "l0": 8.0})
    assert not check.agrees and made.model_hash is None
    assert check.reasons[0].startswith("most likely its site: at image.1.cls it leaves")
    with pytest.raises(DictionaryError, match="does not reach its published figures(.|\n)*at image.1.cls"):
        check.raise_if_wrong()


def test_a_forgotten_normalisation_is_refused_and_named(tiny_model, pictures, pixels):
    acts = activations(tiny_model, pixels, "image.1.cls").float()
    rows = (acts - acts.mean(1, keepdim=True)) / (acts.std(1, keepdim=True) + 1e-5)
    plain = train_sae(rows, n_latents=96, k=8, steps=400, batch=64, progress=False, site="image.1.cls")
    right = plain._rebuilt(plain._all_tensors(), row_norm="layer_norm")
    promise = {"explained_variance": 1 - right.check(acts)["as loaded"]}
    assert check_sae(right, tiny_model, pictures, promise=promise).agrees
    check = check_sae(plain, tiny_model, pictures, promise=promise)
    assert check.reasons[0].startswith(
        "most likely its normalisation or pre-bias: with row normalisation it leaves"
    )


def test_another_model_is_named(tiny_model, pictures, trained):
    parts = trained[0]._all_tensors()
    noise = torch.randn(parts["encoder"].shape, generator=torch.Generator().manual_seed(0))
    made = trained[0]._rebuilt(
        {**parts, "encoder": parts["encoder"] + noise}, info={"model": "ViT-B-32:other"}
    )
    check = check_sae(made, tiny_model, pictures, promise={"explained_variance": 0.95, "l0": 30.0})
    assert any("its card names the model ViT-B-32:other" in reason for reason in check.reasons)
    assert any("8.0 latents are active per token; 30.0 are promised" in reason for reason in check.reasons)
    narrow = Relu(decoder=torch.eye(8), encoder=torch.eye(8), site="image.1.cls")
    with pytest.raises(DictionaryError, match="for activations of width 8, image.1.cls of .* has 64"):
        check_sae(narrow, tiny_model, pictures)
    narrow.site = None
    with pytest.raises(DictionaryError, match="does not state its site"):
        check_sae(narrow, tiny_model, pictures)


def test_load_sae_checks_where_images_are_given(tiny_model, pictures, trained, tmp_path):
    made = trained[0]._rebuilt(trained[0]._all_tensors())
    made.card = {"figures": {"explained_variance": 1 - trained[1], "l0": 8.0}}
    made.save(tmp_path / "right")
    assert (
        load_sae(tmp_path / "right", model=tiny_model, images=pictures).model_hash == tiny_model.weights_hash
    )
    with pytest.raises(DictionaryError, match="does not reach its published figures"):
        load_sae(tmp_path / "right", site="image.0.cls", model=tiny_model, images=pictures)
    with pytest.raises(DictionaryError, match="needs the model that it belongs to: pass model="):
        load_sae(tmp_path / "right", images=pictures)


@pytest.mark.parametrize("site", ["image.1.mlp_out.cls", "image.1.attn_out.all", "image.2.resid_mid.cls"])
def test_attribution_inside_a_block_equals_brute_force(tiny_model, pixels, site):
    few = pixels[:2]
    acts, context = acts_and_context(tiny_model, few, site)
    flat = acts.reshape(-1, acts.shape[-1])
    generator = torch.Generator().manual_seed(0)
    decoder = torch.nn.functional.normalize(torch.randn(20, flat.shape[1], generator=generator), dim=1)
    made = TopK(
        k=3, decoder=decoder, encoder=decoder.clone(), bias=flat.mean(0), pre_bias=flat.mean(0), site=site
    )
    target = Contrast("kite", "bat")
    found = attribute(tiny_model, few, target, dictionary=made, method="exact")
    weights = tiny_model.encode_text(["kite", "bat"])
    y = tiny_model.encode_image(few) @ (weights[0] - weights[1])
    torch.testing.assert_close(found.y[:, 0].float(), y, atol=1e-5, rtol=1e-4)
    codes = made.encode(flat)
    values = found.values.reshape(len(flat), 3)
    for row in range(0, len(flat), max(1, len(flat) // 5)):
        for place in range(3):
            changed = flat.clone()
            changed[row] -= codes.values[row, place] * decoder[codes.indices[row, place].long()]
            lost = y - continue_from(tiny_model, site, changed.view_as(acts), context) @ (
                weights[0] - weights[1]
            )
            picture = row // (len(flat) // 2)
            assert float(values[row, place]) == pytest.approx(float(lost[picture]), abs=2e-6)


def test_a_transcoders_latents_are_attributed_at_its_output(tiny_model, pixels):
    few, source, site = pixels[:2], "image.1.mlp_in.cls", "image.1.mlp_out.cls"
    inputs = activations(tiny_model, few, source)
    outputs, context = acts_and_context(tiny_model, few, site)
    generator = torch.Generator().manual_seed(0)
    decoder = torch.nn.functional.normalize(torch.randn(30, 64, generator=generator), dim=1)
    encoder = torch.randn(30, 64, generator=generator)
    made = TopK(k=4, decoder=decoder, encoder=encoder, site=site, input_site=source, skip=0.1 * torch.eye(64))
    codes = made.encode(inputs)
    found = attribute(tiny_model, few, "kite", dictionary=made, method="exact")
    assert found.site == site and torch.equal(found.codes.indices, codes.indices)
    text = tiny_model.encode_text(["kite"])[0]
    y = tiny_model.encode_image(few) @ text
    for place in range(4):
        changed = outputs - codes.values[:, place, None] * decoder[codes.indices[:, place].long()]
        lost = y - continue_from(tiny_model, site, changed, context) @ text
        torch.testing.assert_close(found.values[:, place, 0].float(), lost, atol=2e-6, rtol=1e-3)
    wrong = made._rebuilt(made._all_tensors(), site="image.1.mlp_out.all")
    with pytest.raises(DictionaryError, match="which have different tokens"):
        attribute(tiny_model, few, "kite", dictionary=wrong)


def test_a_transcoder_is_judged_by_what_it_predicts(tiny_model, pictures, pixels):
    source, site = Site("image.1.mlp_in.cls"), Site("image.1.mlp_out.cls")
    inputs, outputs = (activations(tiny_model, pixels, place).double() for place in (source, site))
    rows = torch.cat([inputs, torch.ones(len(inputs), 1)], 1)
    fit = torch.linalg.lstsq(rows, outputs).solution  # a linear map, put into the skip path
    made = Relu(decoder=torch.eye(64), encoder=torch.zeros(64, 64), encoder_bias=-torch.ones(64), bias=fit[-1].float(),
                skip=fit[:-1].T.float(), site=str(site), input_site=str(source))  # fmt: skip
    share = float((outputs - rows @ fit).square().sum() / (outputs - outputs.mean(0)).square().sum())
    assert check_sae(made, tiny_model, pictures).figures["fvu"] == pytest.approx(share, abs=1e-3)


def test_a_dictionary_without_a_site_is_not_attributed_at_a_guess(tiny_model, pixels):
    made = Relu(decoder=torch.eye(64), encoder=torch.eye(64))
    with pytest.raises(DictionaryError, match="does not say where its activations were read. Pass site="):
        attribute(tiny_model, pixels[:1], "kite", dictionary=made)
    assert (
        attribute(tiny_model, pixels[:1], "kite", dictionary=made, site="image.-1.cls").site == "image.-1.cls"
    )
