"""Export: what others read is our forward pass, and what we read back is the same dictionary bit for bit."""

import json

import numpy as np
import pytest
import torch
from publishers import B_DEC, B_ENC, DEC, R_MAG, THETA, D, N, W, X
from safetensors.torch import load_file, save_file

from clipattr import export_sae, load_sae
from clipattr.dictionaries import BatchTopK, Directions, Gated, GroupMax, JumpRelu, Matryoshka, Relu, TopK
from clipattr.errors import DictionaryError

UNIT = DEC / np.linalg.norm(DEC, axis=1, keepdims=True)


def core(gain=False, pre="bias", **more):
    """Constructor arguments; `pre` is the pre-bias: none, the bias, or another."""
    parts = {
        "decoder": torch.from_numpy((DEC if gain else UNIT).astype(np.float32)), "encoder": torch.from_numpy(W),
        "encoder_bias": torch.from_numpy(B_ENC), "bias": torch.from_numpy(B_DEC), "site": "image.-2.patches",
        "model_hash": "abc", "info": {"steps": 5},
    }  # fmt: skip
    if pre != "none":
        parts["pre_bias"] = torch.from_numpy(B_DEC * (1 if pre == "bias" else 0.5))
    return parts | more


def gated(**options):
    gain = torch.from_numpy(np.exp(R_MAG))
    return Gated(mag_gain=gain, mag_bias=torch.from_numpy(B_ENC), **core(**options))


THRESHOLDS = torch.from_numpy(THETA)
KINDS = {
    "relu": lambda **o: Relu(**core(**o)),
    "topk": lambda **o: TopK(k=4, **core(**o)),
    "jumprelu": lambda **o: JumpRelu(threshold=THRESHOLDS, **core(**o)),
    "batchtopk": lambda **o: BatchTopK(threshold=0.8, target_k=4, **core(**o)),
    "matryoshka": lambda **o: Matryoshka(threshold=0.8, target_k=4, prefixes=[8, N], **core(**o)),
    "gated": gated,
}
OTHERS = {
    "signed": lambda **o: TopK(k=4, signed=True, **core(**o)),
    "groupmax": lambda **o: GroupMax(k=4, **core(**o)),
    "directions": lambda **o: Directions(k=4, **core(**o)),
}
OPTIONS = [
    {},
    {"gain": True},
    {"pre": "none"},
    {"pre": "other"},
    {"row_norm": "layer_norm"},
    {"row_norm": "length"},
]


def saelens(folder, x):
    """SAELens's forward pass on a folder, in float64 numpy: codes times direction lengths, and reconstruction."""
    config = json.loads((folder / "cfg.json").read_text())
    a = {
        name: value.double().numpy() for name, value in load_file(folder / "sae_weights.safetensors").items()
    }
    size, shift = 1.0, 0.0
    if config["normalize_activations"] == "layer_norm":
        shift, size = x.mean(1, keepdims=True), x.std(1, ddof=1, keepdims=True)
        x = (x - shift) / (size + 1e-5)
    elif config["normalize_activations"] == "constant_norm_rescale":
        size = np.linalg.norm(x, axis=1, keepdims=True) / np.sqrt(x.shape[1])
        x = x / size
    pre = (x - a["b_dec"] * config["apply_b_dec_to_input"]) @ a["W_enc"]
    kind = config["architecture"]
    if kind == "gated":
        z = np.maximum(np.exp(a["r_mag"]) * pre + a["b_mag"], 0) * (pre + a["b_gate"] > 0)
    else:
        pre = pre + a["b_enc"]
        z = np.maximum(pre, 0)
        if kind == "topk":
            z = z * (pre >= -np.sort(-pre, axis=1)[:, config["k"] - 1 : config["k"]])
        elif kind == "jumprelu":
            z = z * (pre > a["threshold"])
    assert config["d_sae"] == a["W_enc"].shape[1] and config["d_in"] == a["W_enc"].shape[0]
    codes = z * np.linalg.norm(a["W_dec"], axis=1)
    return codes * size, (z @ a["W_dec"] + a["b_dec"]) * size + shift


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_saelens_reads_our_forward_pass_and_we_read_the_same_dictionary(kind, options, tmp_path):
    made = KINDS[kind](**options)
    assert export_sae(made, tmp_path / "out") == tmp_path / "out"
    x = torch.from_numpy(X)
    codes, recon = saelens(tmp_path / "out", X.astype(np.float64))
    ours = made.encode(x)
    assert np.linalg.norm(ours.to_dense().numpy() - codes) < 2e-6 * np.linalg.norm(codes)
    assert np.linalg.norm(made.decode(ours).numpy() - recon) < 2e-6 * np.linalg.norm(recon)
    again = load_sae(tmp_path / "out")
    assert again.hash == made.hash and (again.site, again.model_hash) == (made.site, made.model_hash)
    assert torch.equal(again.reconstruct(x), made.reconstruct(x))


@pytest.mark.parametrize("options", [*OPTIONS, {"softcap": 2.0}], ids=str)
@pytest.mark.parametrize("kind", KINDS | OTHERS)
def test_a_plain_file_holds_every_kind_bit_for_bit(kind, options, tmp_path):
    made = (KINDS | OTHERS)[kind](**options)
    path = export_sae(made, tmp_path / "x" / "sae.safetensors", "safetensors")
    again = load_sae(path)
    assert again.hash == made.hash and type(again) is type(made)
    assert (again.site, again.model_hash, again.info["steps"]) == (made.site, made.model_hash, 5)
    assert load_file(path)["W_enc"].shape == (D, N) and load_file(path)["W_dec"].shape == (N, D)


def test_a_transcoder_survives_a_plain_file(tmp_path):
    made = TopK(k=4, **core(), input_site="image.3.mlp_in.cls", skip=torch.eye(D))
    again = load_sae(export_sae(made, tmp_path / "a.safetensors", "safetensors"))
    assert again.hash == made.hash and again.input_site == made.input_site
    with pytest.raises(DictionaryError, match="SAELens cannot hold this dictionary: it is a transcoder"):
        export_sae(made, tmp_path / "b")


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (OTHERS["signed"](), "this one keeps signs"),
        (OTHERS["groupmax"](), "no kind 'groupmax'"),
        (KINDS["relu"](softcap=2.0), "a soft cap"),
        (KINDS["relu"](decoder=torch.zeros(N, D)), "some decoder rows have length 0"),
    ],
)
def test_what_saelens_has_no_words_for_is_refused_with_the_way_out(made, reason, tmp_path):
    with pytest.raises(DictionaryError, match=f"{reason}.*'safetensors'"):
        export_sae(made, tmp_path / "out")
    with pytest.raises(DictionaryError, match="format is 'saelens' or 'safetensors'; got 'onnx'"):
        export_sae(made, tmp_path / "out", "onnx")


def test_an_export_that_was_changed_is_noticed(tmp_path):
    path = export_sae(KINDS["topk"](), tmp_path / "sae.safetensors", "safetensors")
    tensors = load_file(path)
    note = json.loads(path.read_bytes()[8 : 8 + int.from_bytes(path.read_bytes()[:8], "little")])[
        "__metadata__"
    ]
    tensors["b_enc"] += 1
    save_file(tensors, path, note)
    with pytest.raises(DictionaryError, match="it was changed after it was written"):
        load_sae(path)
    export_sae(KINDS["batchtopk"](), tmp_path / "out")
    weights = tmp_path / "out" / "sae_weights.safetensors"
    tensors = load_file(weights)
    tensors["b_enc"] += 1
    save_file(tensors, weights)
    with pytest.raises(DictionaryError, match="differs from the exact copy"):
        load_sae(tmp_path / "out")
    with pytest.raises(DictionaryError, match="contains all its settings: leave out k"):
        export_sae(KINDS["topk"](), tmp_path / "again")
        load_sae(export_sae(KINDS["topk"](), tmp_path / "a.safetensors", "safetensors"), k=3)
