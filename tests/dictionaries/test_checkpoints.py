"""Files of other projects load as their formulas say: each against ten lines of numpy, codes and reconstruction."""

import collections
import gzip
import io
import json
import os
import pickle
import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from clipattr.dictionaries import convert, load_dictionary, load_sae
from clipattr.dictionaries.checkpoints.reading import read_torch
from clipattr.errors import DictionaryError

D, N, K = 10, 28, 4


def draw(*shape, seed=0, scale=1.0):
    return (scale * np.random.default_rng([seed, *shape]).normal(size=shape)).astype(np.float32)


X = draw(40, D, seed=99) * 2 + 1.5
# Large biases and decoder rows of unequal length: a forgotten pre-bias, transpose, length or ReLU shows.
W = draw(N, D, seed=1)
DEC = draw(N, D, seed=2) * (0.5 + np.arange(N, dtype=np.float32)[:, None] / N)
B_ENC, B_DEC = draw(N, seed=3) * 0.7, draw(D, seed=4)
R_MAG, B_MAG, B_GATE = draw(N, seed=5) * 0.5, draw(N, seed=6), draw(N, seed=7)
THETA = np.abs(draw(N, seed=8)) + 0.3


def relu(z):
    return np.maximum(z, 0)


def topk(z, k=K):
    cut = -np.sort(-z, axis=1)[:, k - 1 : k]
    return z * (z >= cut)


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def layer_norm(x):
    mean, deviation = x.mean(1, keepdims=True), x.std(1, ddof=1, keepdims=True) + 1e-5
    return (x - mean) / deviation, mean, deviation


def t(**arrays):
    return {name.replace("__", "."): torch.from_numpy(np.ascontiguousarray(a)) for name, a in arrays.items()}


def sl(**more):
    return t(W_enc=W.T, W_dec=DEC, b_dec=B_DEC, **more)


def write(folder, weights, tensors, config=None, config_name="cfg.json", header=None):
    folder.mkdir(exist_ok=True)
    file = folder / weights
    if weights.endswith(".safetensors"):
        save_file(tensors, file)
    else:
        buffer = io.BytesIO()
        torch.save(tensors, buffer)
        start = b"" if header is None else json.dumps(header).encode() + b"\n"
        file.write_bytes(start + buffer.getvalue())
    if config is not None:
        (folder / config_name).write_text(json.dumps(config))
    return file


def gated(pre_no_bias):
    return relu(np.exp(R_MAG) * pre_no_bias + B_MAG) * (pre_no_bias + B_GATE > 0)


CASES = {}


def case(name):
    return lambda build: CASES.setdefault(name, build)


@case("attributing-clip")
def _(f):
    g = np.abs(draw(N, 1, seed=11)) + 0.5
    sd = t(encoder__0__weight_g=g, encoder__0__weight_v=W, encoder__0__bias=B_ENC,
           decoder__weight_g=np.ones((1, N), np.float32), decoder__weight_v=DEC.T)  # fmt: skip
    write(f, "last.ckpt", {"state_dict": sd, "epoch": 3})
    z = topk(X @ (g * unit(W)).T + B_ENC)
    return f, {"k": K}, z, unit(DEC), z @ unit(DEC)


@case("attributing-clip, new keys, k and site from its yaml")
def _(f):
    key = "parametrizations.weight.original"
    sd = {f"encoder.0.{key}0": torch.ones(N, 1), f"encoder.0.{key}1": torch.from_numpy(W),
          "encoder.0.bias": torch.from_numpy(B_ENC), f"decoder.{key}0": torch.ones(1, N),
          f"decoder.{key}1": torch.from_numpy(DEC.T.copy())}  # fmt: skip
    file = write(f, "last.ckpt", {"state_dict": sd})
    (f / "run.yaml").write_text(f"sae_k: {K}\nsae_layer_idx: -2\nsae_token: spatial\n")
    z = topk(X @ unit(W).T + B_ENC)
    return file, {"config": f / "run.yaml"}, z, unit(DEC), z @ unit(DEC)


@case("hugofry")
def _(f):
    write(f, "sae.pt", {"cfg": {"block_layer": -2, "class_token": True}, "state_dict": sl(b_enc=B_ENC)})
    z = relu((X - B_DEC) @ W.T + B_ENC)
    return f, {}, z, DEC, z @ DEC + B_DEC


@case("hugofry, gated")
def _(f):
    sd = sl(b_enc=B_GATE, r_mag=R_MAG, b_mag=B_MAG)
    write(f, "sae.pt", {"config": {"block_layer": 11, "gated_sae": True}, "state_dict": sd})
    z = gated((X - B_DEC) @ W.T)
    return f, {}, z, DEC, z @ DEC + B_DEC


@case("prisma, topk, layer norm")
def _(f):
    config = {"architecture": "standard", "activation_fn_str": "topk", "activation_fn_kwargs": {"k": K},
              "normalize_activations": "layer_norm", "hook_point_layer": 11, "cls_token_only": True}  # fmt: skip
    write(f, "weights.pt", sl(b_enc=B_ENC), config, "config.json")
    x, mean, deviation = layer_norm(X)
    z = relu(topk((x - B_DEC) @ W.T + B_ENC))
    return f, {}, z * deviation, DEC, (z @ DEC + B_DEC) * deviation + mean


@case("prisma, relu, constant norm")
def _(f):
    config = {
        "activation_fn_str": "relu",
        "normalize_activations": "constant_norm_rescale",
        "hook_point_layer": 3,
    }
    write(f, "weights.pt", sl(b_enc=B_ENC), config, "config.json")
    size = np.linalg.norm(X, axis=1, keepdims=True) / np.sqrt(D)
    z = relu((X / size - B_DEC) @ W.T + B_ENC)
    return f, {}, z * size, DEC, (z @ DEC + B_DEC) * size


@case("prisma, gated and tanh")
def _(f):
    config = {
        "architecture": "gated",
        "activation_fn_str": "relu",
        "normalize_activations": "none",
        "layer_subtype": 1,
    }
    write(
        f,
        "weights.pt",
        {"cfg": config, "state_dict": sl(b_enc=B_ENC, r_mag=R_MAG, b_mag=B_MAG, b_gate=B_GATE)},
    )
    z = gated((X - B_DEC) @ W.T)
    return f, {}, z, DEC, z @ DEC + B_DEC


def msae(f, name, z_of, extra=None, **keywords):
    mean, scale = draw(D, seed=12), 0.37
    sd = t(encoder=W.T, decoder=DEC, pre_bias=B_DEC, latent_bias=B_ENC) | (extra or {})
    write(
        f,
        name,
        {"model": sd, "mean_center": torch.from_numpy(mean), "scaling_factor": scale, "target_norm": 1.0},
    )
    z = z_of((((X - mean) * scale) - B_DEC) @ W.T + B_ENC)
    return f, keywords, z / scale, DEC, (z @ DEC + B_DEC) / scale + mean


@case("msae, topk from its name")
def _(f):
    return msae(f, f"{N}_{D}_TopKReLU_{K}_RW_False_False_0.0_cc3m.pth", lambda pre: relu(topk(pre)))


@case("msae, soft cap")
def _(f):
    return msae(f, f"{N}_{D}_ReLU_False_False_2.0_cc3m.pth", lambda pre: 2 * np.tanh(relu(pre) / 2))


@case("msae, jumprelu by keyword")
def _(f):
    extra = {"activation.log_threshold": torch.from_numpy(np.log(THETA))}
    keywords = {"activation": "JumpReLU", "softcap": 0, "normalize": False}
    return msae(f, "model.pth", lambda pre: pre * (pre > THETA), extra, **keywords)


@case("dn-cbm")
def _(f):
    sd = {"tied_bias": B_DEC[None], "encoder._weight": W[None], "encoder._bias": B_ENC[None],
          "decoder._weight": DEC.T[None]}  # fmt: skip
    write(f, "sparse_autoencoder_final.pt", {name: torch.from_numpy(a.copy()) for name, a in sd.items()})
    z = relu((X - B_DEC) @ W.T + B_ENC)
    return f, {}, z, DEC, z @ DEC + B_DEC


@case("clipscope")
def _(f):
    sd = t(pre_b=B_DEC, enc=W.T, dec=DEC)
    write(f, "1000.pt", {"n_features": N, "d_in": D, "k": K, "model_state_dict": sd})
    z = topk((X - B_DEC) @ W.T)
    return f, {}, z, DEC, z @ DEC + B_DEC


def saev(f, activation, z_of, extra=None):
    header = {
        "schema": 5,
        "cfg": {"d_model": D, "d_sae": N, "activation": activation},
        "commit": "x",
        "lib": "0.1",
    }
    write(f, "sae.pt", sl(b_enc=B_ENC) | (extra or {}), header=header)
    z = z_of(X @ W.T + B_ENC)
    return f, {}, z, DEC, z @ DEC + B_DEC


@case("saev, relu")
def _(f):
    return saev(f, {"cls": "Relu", "params": {}}, relu)


@case("saev, topk with signs")
def _(f):
    return saev(f, {"cls": "TopK", "params": {"top_k": K}}, topk)


@case("saev, batch topk")
def _(f):
    extra = {"activation.threshold": torch.tensor(1.1)}
    return saev(f, {"cls": "BatchTopK", "params": {"top_k": K}}, lambda pre: pre * (pre > 1.1), extra)


@case("saev0")
def _(f):
    write(f, "sae.pt", sl(b_enc=B_ENC), header={"d_vit": D, "exp_factor": 2, "n_reinit_samples": 1})
    mean, scalar = draw(D, seed=13), 2.6
    z = relu(((X - mean) / scalar - B_DEC) @ W.T + B_ENC)
    keywords = {"mean": torch.from_numpy(mean), "scalar": scalar}
    return f, keywords, z * scalar, DEC, (z @ DEC + B_DEC) * scalar + mean


def saelens(f, config, tensors):
    base = {"d_in": D, "d_sae": N, "apply_b_dec_to_input": True, "normalize_activations": "none",
            "reshape_activations": "none", "metadata": {"sae_lens_version": "6.18.0"}}  # fmt: skip
    write(f, "sae_weights.safetensors", tensors, base | config)


@case("saelens 6, standard without pre-bias")
def _(f):
    saelens(f, {"architecture": "standard", "apply_b_dec_to_input": False}, sl(b_enc=B_ENC))
    z = relu(X @ W.T + B_ENC)
    return f, {}, z, DEC, z @ DEC + B_DEC


@case("saelens 6, topk by decoder norm")
def _(f):
    saelens(f, {"architecture": "topk", "k": K, "rescale_acts_by_decoder_norm": True}, sl(b_enc=B_ENC))
    z = relu(topk(((X - B_DEC) @ W.T + B_ENC) * np.linalg.norm(DEC, axis=1)))
    return f, {}, z, unit(DEC), z @ unit(DEC) + B_DEC


@case("saelens 6, jumprelu, layer norm")
def _(f):
    config = {"architecture": "jumprelu", "normalize_activations": "layer_norm"}
    saelens(f, config, sl(b_enc=B_ENC, threshold=THETA))
    x, mean, deviation = layer_norm(X)
    pre = (x - B_DEC) @ W.T + B_ENC
    z = pre * (pre > THETA)
    return f, {}, z * deviation, DEC, (z @ DEC + B_DEC) * deviation + mean


@case("saelens 6, gated")
def _(f):
    saelens(f, {"architecture": "gated"}, sl(b_gate=B_GATE, b_mag=B_MAG, r_mag=R_MAG))
    z = gated((X - B_DEC) @ W.T)
    return f, {}, z, DEC, z @ DEC + B_DEC


@case("saelens 6, training checkpoint with a scaler and a threshold")
def _(f):
    config = {"architecture": "batchtopk", "k": K, "normalize_activations": "expected_average_only_in"}
    saelens(f, config, sl(b_enc=B_ENC, topk_threshold=np.array(0.9, np.float64)))
    (f / "activation_scaler.json").write_text('{"scaling_factor": 0.6}')
    pre = (0.6 * X - B_DEC) @ W.T + B_ENC
    z = pre * (pre > 0.9)
    return f, {}, z / 0.6, DEC, (z @ DEC + B_DEC) / 0.6


@case("saelens before 6, topk by its activation")
def _(f):
    config = {
        "d_in": D,
        "d_sae": N,
        "activation_fn_str": "topk",
        "activation_fn_kwargs": {"k": K},
        "hook_point": "x",
    }
    write(f, "sae_weights.safetensors", sl(b_enc=B_ENC, scaling_factor=THETA), config)
    z = relu(topk((X - B_DEC) @ W.T + B_ENC)) * THETA
    return f, {}, z, DEC, z @ DEC + B_DEC


def dl(f, dict_class, tensors, **config):
    write(f, "ae.pt", tensors, {"trainer": {"dict_class": dict_class, **config}}, "config.json")


@case("dictionary_learning, standard")
def _(f):
    dl(f, "AutoEncoder", t(bias=B_DEC, encoder__weight=W, encoder__bias=B_ENC, decoder__weight=DEC.T))
    z = relu((X - B_DEC) @ W.T + B_ENC)
    return f, {}, z, DEC, z @ DEC + B_DEC


@case("dictionary_learning, new standard without pre-bias, nested backup")
def _(f):
    sd = t(encoder__weight=W, encoder__bias=B_ENC, decoder__weight=DEC.T, decoder__bias=B_DEC)
    dl(f, "AutoEncoderNew", {"step": 5, "ae": sd})
    z = relu(X @ W.T + B_ENC)
    return f, {}, z, DEC, z @ DEC + B_DEC


def dl_topk(f, dict_class, threshold=0.8):
    sd = t(encoder__weight=W, encoder__bias=B_ENC, decoder__weight=DEC.T, b_dec=B_DEC)
    dl(f, dict_class, sd | {"k": torch.tensor(K, dtype=torch.int32), "threshold": torch.tensor(threshold)})
    return (X - B_DEC) @ W.T + B_ENC


@case("dictionary_learning, topk")
def _(f):
    z = relu(topk(dl_topk(f, "AutoEncoderTopK")))
    return f, {}, z, DEC, z @ DEC + B_DEC


@case("dictionary_learning, batch topk")
def _(f):
    pre = dl_topk(f, "BatchTopKSAE")
    z = pre * (pre > 0.8)
    return f, {}, z, DEC, z @ DEC + B_DEC


@case("sae-for-vlm, matryoshka below a folder of checkpoints")
def _(f):
    more = {"k": torch.tensor(K), "threshold": torch.tensor(0.8), "group_sizes": torch.tensor([8, 20])}
    (f / "checkpoints").mkdir()
    write(f / "checkpoints", "ae_100.pt", sl(b_enc=B_ENC) | more)
    (f / "config.json").write_text(
        json.dumps({"trainer": {"dict_class": "MatryoshkaBatchTopKSAE", "norm_factor": 3}})
    )
    pre = (X - B_DEC) @ W.T + B_ENC
    z = pre * (pre > 0.8)
    return f / "checkpoints" / "ae_100.pt", {}, z, DEC, z @ DEC + B_DEC


@case("dictionary_learning, jumprelu, pre-bias by keyword")
def _(f):
    dl(f, "JumpReluAutoEncoder", sl(b_enc=B_ENC, threshold=THETA))
    pre = X @ W.T + B_ENC
    z = pre * (pre > THETA)
    return f, {"pre_bias": False}, z, DEC, z @ DEC + B_DEC


@case("dictionary_learning, gated")
def _(f):
    sd = t(
        decoder_bias=B_DEC,
        encoder__weight=W,
        r_mag=R_MAG,
        gate_bias=B_GATE,
        mag_bias=B_MAG,
        decoder__weight=DEC.T,
    )
    dl(f, "GatedAutoEncoder", sd)
    z = gated((X - B_DEC) @ W.T)
    return f, {}, z, DEC, z @ DEC + B_DEC


def sparsify(f, **config):
    sd = t(encoder__weight=W, encoder__bias=B_ENC, W_dec=DEC, b_dec=B_DEC)
    write(f, "sae.safetensors", sd, {"num_latents": N, "d_in": D, "k": K, **config})
    return (X - B_DEC) @ W.T + B_ENC


@case("sparsify")
def _(f):
    z = topk(relu(sparsify(f, activation="topk")))
    return f, {}, z, DEC, z @ DEC + B_DEC


@case("sparsify, group max")
def _(f):
    pre = relu(sparsify(f, activation="groupmax", num_latents=0)).reshape(len(X), K, -1)
    z = (pre * (pre == pre.max(-1, keepdims=True))).reshape(len(X), N)
    return f, {}, z, DEC, z @ DEC + B_DEC


def openai(f, **plain):
    sd = t(
        pre_bias=B_DEC, encoder__weight=W, latent_bias=B_ENC, decoder__weight=DEC.T, stats_last_nonzero=B_ENC
    )
    write(f, "sae.pt", {**sd, **plain})


@case("openai, topk with layer norm")
def _(f):
    openai(f, activation="TopK", activation_state_dict={"k": K, "postact_fn": "ReLU"})
    x, mean, deviation = layer_norm(X)
    z = relu(topk((x - B_DEC) @ W.T + B_ENC))
    return f, {}, z * deviation, DEC, (z @ DEC + B_DEC) * deviation + mean


@case("openai, relu without layer norm")
def _(f):
    openai(f, activation="ReLU")
    z = relu((X - B_DEC) @ W.T + B_ENC)
    return f, {}, z, DEC, z @ DEC + B_DEC


@case("overcomplete, jump thresholds in logarithms")
def _(f):
    sd = {"encoder.final_block.0.weight": W, "encoder.final_block.0.bias": B_ENC, "dictionary._weights": DEC,
          "dictionary.multiplier": np.array(0.4, np.float32), "thresholds": np.log(THETA)}  # fmt: skip
    write(f, "sae.pt", {name: torch.from_numpy(np.array(a)) for name, a in sd.items()})
    pre = X @ W.T + B_ENC
    z, directions = pre * (pre > THETA), unit(DEC) * np.exp(0.4)
    return f, {"activation": "jumprelu"}, z, directions, z @ directions


@pytest.mark.parametrize("name", CASES)
def test_codes_and_reconstruction_follow_the_projects_own_formula(name, tmp_path):
    path, keywords, z, directions, recon = CASES[name](tmp_path)
    made = load_sae(path, **keywords)
    assert made.info["format"].split("-")[0].rstrip("0") in name.replace("_", "-").replace(
        "sae-for-vlm", "dictionary"
    )
    x = torch.from_numpy(X)
    codes = made.encode(x)
    expected = z * np.linalg.norm(directions, axis=1)
    assert (z != 0).any(1).mean() > 0.9
    np.testing.assert_allclose(codes.to_dense().numpy(), expected, rtol=1e-3, atol=2e-4)
    np.testing.assert_allclose(made.decode(codes).numpy(), recon, rtol=1e-3, atol=1e-3)
    # and in the own format
    convert(path, tmp_path / "own", **keywords)
    own = load_dictionary(tmp_path / "own")
    assert torch.equal(own.reconstruct(x), made.reconstruct(x))
    assert load_sae(tmp_path / "own").hash == made.hash


def test_sites_are_read_where_the_file_tells(tmp_path):
    expected = {"hugofry": "image.-2.cls", "prisma, topk, layer norm": "image.11.cls",
                "attributing-clip, new keys, k and site from its yaml": "image.-2.patches"}  # fmt: skip
    for number, (name, site) in enumerate(expected.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        path, keywords, *_ = CASES[name](folder)
        assert load_sae(path, **keywords).site == site


@pytest.mark.parametrize(
    ("name", "keywords", "message"),
    [
        ("attributing-clip", {"k": None}, "does not say k .*k=..."),
        ("dictionary_learning, jumprelu, pre-bias by keyword", {"pre_bias": None}, "pre_bias=True or False"),
        ("saev0", {"mean": None}, "does not say mean"),
        ("saev0", {"scalar": None}, "does not say scalar"),
        ("msae, jumprelu by keyword", {"softcap": None}, "softcap=0 for none"),
        ("overcomplete, jump thresholds in logarithms", {"activation": None}, "does not say activation"),
    ],
)
def test_what_a_file_does_not_say_is_asked_for_by_keyword(name, keywords, message, tmp_path):
    path, given, *_ = CASES[name](tmp_path)
    with pytest.raises(DictionaryError, match=message):
        load_sae(path, **{**given, **keywords})


def rewritten(tmp_path, name, change):
    path, keywords, *_ = CASES[name](tmp_path)
    file = next(f for f in tmp_path.rglob("*.json"))
    file.write_text(json.dumps(change(json.loads(file.read_text()))))
    return path, keywords


def test_missing_config_fields_are_named(tmp_path):
    def without(field):
        return lambda config: {name: value for name, value in config.items() if name != field}

    path, _ = rewritten(tmp_path, "prisma, topk, layer norm", without("normalize_activations"))
    with pytest.raises(DictionaryError, match="does not say normalize_activations"):
        load_sae(path)
    (tmp_path / "b").mkdir()
    path, _ = rewritten(tmp_path / "b", "saelens 6, topk by decoder norm", without("k"))
    with pytest.raises(DictionaryError, match="does not say k"):
        load_sae(path)
    (tmp_path / "c").mkdir()
    path, _ = rewritten(tmp_path / "c", "dictionary_learning, batch topk", lambda config: {"trainer": {}})
    with pytest.raises(DictionaryError, match="dict_class='AutoEncoderTopK' or 'BatchTopKSAE'"):
        load_sae(path)
    (tmp_path / "d").mkdir()
    path, _ = rewritten(
        tmp_path / "d",
        "saelens 6, gated",
        lambda c: c | {"normalize_activations": "expected_average_only_in"},
    )
    with pytest.raises(DictionaryError, match="scale=that constant"):
        load_sae(path)
    assert load_sae(path, scale=2.0).n_latents == N


def test_an_uncalibrated_batch_topk_is_refused(tmp_path):
    dl_topk(tmp_path, "BatchTopKSAE", threshold=-1.0)
    with pytest.raises(DictionaryError, match="never calibrated"):
        load_sae(tmp_path)
    assert load_sae(tmp_path, dict_class="AutoEncoderTopK").kind == "topk"


def test_square_shapes_need_an_orientation_and_swapped_ones_are_refused(tmp_path):
    square = draw(D, D, seed=20)
    sd = t(W_enc=square, b_enc=B_ENC[:D], W_dec=draw(D, D, seed=21), b_dec=B_DEC)
    write(tmp_path, "sae.pt", {"cfg": {"block_layer": 1}, "state_dict": sd})
    with pytest.raises(DictionaryError, match="orientation='as_format' or 'transposed'"):
        load_sae(tmp_path)
    plain, turned = load_sae(tmp_path, orientation="as_format"), load_sae(tmp_path, orientation="transposed")
    assert torch.equal(plain.encoder, torch.from_numpy(square.T.copy()))
    assert torch.equal(turned.encoder, torch.from_numpy(square))
    write(tmp_path, "sae.pt", {"cfg": {"block_layer": 1}, "state_dict": sl(b_enc=B_ENC) | t(W_dec=DEC.T)})
    with pytest.raises(DictionaryError, match="one of them is transposed"):
        load_sae(tmp_path)
    swapped = t(W_enc=W, W_dec=DEC.T, b_enc=B_ENC, b_dec=B_DEC)
    write(tmp_path, "sae.pt", {"cfg": {"block_layer": 1}, "state_dict": swapped})
    with pytest.raises(DictionaryError, match=r"has shape \(10,\); this format has \(28\)"):
        load_sae(tmp_path)


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.complex64])
def test_weights_that_are_no_real_numbers_are_refused_and_narrower_ones_widened(dtype, tmp_path):
    def file(of):
        sd = {"W_enc": torch.from_numpy(W.T.copy()).to(of)} | t(b_enc=B_ENC, W_dec=DEC, b_dec=B_DEC)
        return write(tmp_path, "sae.pt", {"cfg": {"block_layer": 1}, "state_dict": sd})

    with pytest.raises(DictionaryError, match=f"'W_enc' .* holds {dtype}, weights are real"):
        load_sae(file(dtype))
    half = load_sae(file(torch.float16)).encoder
    assert half.dtype == torch.float32 and torch.equal(
        half, load_sae(file(torch.float64)).encoder.half().float()
    )


def test_check_prints_the_readings_and_refuses_what_does_not_reconstruct(tmp_path, capsys):
    basis = np.linalg.qr(draw(D, D, seed=30))[0].astype(np.float32)
    both = np.concatenate([basis, -basis])  # exact with a ReLU, if the pre-bias is taken off first
    shift = draw(D, seed=31) * 30
    sd = t(W_enc=both.T, b_enc=np.zeros(2 * D, np.float32), W_dec=both, b_dec=shift)
    write(tmp_path, "sae.pt", {"cfg": {"block_layer": 1}, "state_dict": sd})
    acts = torch.from_numpy(draw(200, D, seed=32) + shift)
    shares = load_sae(tmp_path).check(acts)
    assert shares["as loaded"] < 1e-6 < 1 < shares["without pre-bias"]
    assert "without pre-bias" in capsys.readouterr().out
    write(tmp_path, "sae.pt", sd, header={"schema": 5, "cfg": {"activation": {"cls": "Relu"}}})
    with pytest.raises(DictionaryError, match="the best reading is 'with pre-bias'"):
        load_sae(tmp_path).check(acts)


class Config:
    """A settings class that the reader has never heard of."""

    def __init__(self):
        self.block_layer, self.class_token, self.gated_sae = -2, True, False


@pytest.mark.parametrize("packing", ["torch", "pickle", "gzip"])
def test_unknown_settings_classes_are_read_as_plain_data(packing, tmp_path, monkeypatch):
    content = {"cfg": Config(), "state_dict": collections.OrderedDict(sl(b_enc=B_ENC))}
    monkeypatch.setattr(Config, "__module__", "sae_training_config")
    import sys
    import types

    module = types.ModuleType("sae_training_config")
    module.Config = Config
    monkeypatch.setitem(sys.modules, "sae_training_config", module)
    file = tmp_path / "sae.pkl"
    if packing == "torch":
        torch.save(content, file)
    else:
        data = pickle.dumps(content)
        file = file if packing == "pickle" else tmp_path / "sae.pkl.gz"
        file.write_bytes(data if packing == "pickle" else gzip.compress(data))
    monkeypatch.delitem(sys.modules, "sae_training_config")
    made = load_sae(file)
    assert made.kind == "relu" and made.site == "image.-2.cls"


class Evil:
    def __init__(self, call, *args):
        self.call, self.args = call, args

    def __reduce__(self):
        return self.call, self.args


def make_marker(path):
    open(path, "w").close()


@pytest.mark.parametrize("packing", ["zip", "legacy", "pickle"])
@pytest.mark.parametrize("call", [os.system, eval, getattr, make_marker, torch.load, type, os.popen])
def test_nothing_in_a_file_is_ever_executed(packing, call, tmp_path):
    marker = tmp_path / "ran"
    arguments = {os.system: (f"touch {marker}",), eval: (f"open({str(marker)!r}, 'w')",), getattr: ("abc", "upper"),
                 type: ("X", (), {}), os.popen: (f"touch {marker}",)}  # fmt: skip
    content = {"state_dict": sl(), "cfg": Evil(call, *arguments.get(call, (str(marker),)))}
    file = tmp_path / "sae.pt"
    if packing == "pickle":
        file.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, file, _use_new_zipfile_serialization=packing == "zip")
    with pytest.raises(DictionaryError, match=rf"{call.__name__}.*refused, nothing\s+was run"):
        load_sae(file)
    assert not marker.exists()


def test_a_program_in_disguise_and_hidden_storages_are_refused(tmp_path):
    warnings.simplefilter("ignore")
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(tmp_path / "sae.pt"))
    with pytest.raises(DictionaryError, match="TorchScript"):
        load_sae(tmp_path)
    inner = pickle.dumps(Evil(os.system, f"touch {tmp_path / 'ran'}"))
    outer = pickle.dumps(Evil(torch.storage._load_from_bytes, inner))
    with pytest.raises(DictionaryError):
        read_torch(outer, "file")
    assert not (tmp_path / "ran").exists()


def test_unreadable_unknown_and_ambiguous_files_say_what_was_seen(tmp_path):
    with pytest.raises(DictionaryError, match="no file or folder"):
        load_sae(tmp_path / "nowhere")
    with pytest.raises(DictionaryError, match="holds 0 files"):
        load_sae(tmp_path)
    file = write(tmp_path, "a.pt", {"something": torch.zeros(2)})
    with pytest.raises(DictionaryError, match=r"no known format.*\['something'\]"):
        load_sae(file)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(DictionaryError, match="cut short"):
        load_sae(file)
    write(tmp_path, "b.pt", {"something": torch.zeros(2)})
    with pytest.raises(DictionaryError, match=r"2 files .*a\.pt, b\.pt.*name one"):
        load_sae(tmp_path)
    (tmp_path / "c.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    with pytest.raises(DictionaryError, match="damaged or cut short"):
        load_sae(tmp_path / "c.safetensors")
    with pytest.raises(DictionaryError, match="does not know K; it takes activation"):
        load_sae(file, K=3)
    with pytest.raises(
        DictionaryError, match="'prismatic' is not known; known: auto, clipattr, attributing-clip"
    ):
        load_sae(file, "prismatic")
