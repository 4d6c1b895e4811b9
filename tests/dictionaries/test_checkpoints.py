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
from publishers import B_DEC, B_ENC, CASES, DEC, D, K, N, W, X, draw, sl, t
from safetensors.torch import save_file

from clipattr.dictionaries import convert, load_dictionary, load_sae
from clipattr.dictionaries.checkpoints.reading import read_torch
from clipattr.dictionaries.placing import place_of
from clipattr.errors import DataError, DictionaryError, SiteError
from clipattr.storage.checkpoints import read_state

TOLERANCE = 1e-5  # relative, of codes and reconstructions in float32 against float64


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


def apart(found, expected):
    """Largest relative difference, as a share of the expected values' length."""
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize("name", CASES)
def test_codes_reconstruction_and_site_follow_the_publishers_formula(name, tmp_path):
    case = CASES[name]
    z, recon, site = case.truth()
    path = case.write(tmp_path / "theirs")
    made = load_sae(path, **case.keywords)
    x = torch.from_numpy(X)
    codes = made.encode(x)
    assert (z != 0).any(1).mean() > 0.9
    assert made.info["format"] == case.format and made.site == site
    assert apart(codes.to_dense().numpy(), z) < TOLERANCE
    assert apart(made.decode(codes).numpy(), recon) < TOLERANCE
    # and in the own format
    convert(path, tmp_path / "own", **case.keywords)
    own = load_dictionary(tmp_path / "own")
    assert torch.equal(own.reconstruct(x), made.reconstruct(x))
    assert load_sae(tmp_path / "own").hash == made.hash


@pytest.mark.parametrize("name", CASES)
def test_a_tensor_or_keyword_that_is_not_used_is_an_error_that_names_it(name, tmp_path):
    case = CASES[name]
    more = case.tensors | {"input_offset": torch.ones(D)}
    with pytest.raises(DictionaryError, match="does not use: .*input_offset"):
        load_sae(case.write(tmp_path / "a", more), **case.keywords)
    made = load_sae(case.write(tmp_path / "b", more), ignore=["input_*"], **case.keywords)
    assert apart(made.reconstruct(torch.from_numpy(X)).numpy(), case.truth()[1]) < TOLERANCE
    idle = next(word for word in ("softcap", "scalar") if word not in case.keywords)
    with pytest.raises(DictionaryError, match=f"has no use for {idle}=2"):
        load_sae(case.write(tmp_path / "c"), **{**case.keywords, idle: 2})


@pytest.mark.parametrize("name", CASES)
def test_a_tensor_that_is_dropped_is_an_error(name, tmp_path):
    case = CASES[name]
    for number, dropped in enumerate(set(case.tensors) - set(case.buffers)):
        rest = {name: value for name, value in case.tensors.items() if name != dropped}
        path = case.write(tmp_path / str(number), rest)
        if "bias_reference" in dropped or dropped in ("tied_bias", "dictionary.multiplier", "threshold"):
            continue  # stored twice, a buffer that is 0 without, or one that TopK does not need: see the fuzz
        with pytest.raises(DictionaryError):
            load_sae(path, **case.keywords)


@pytest.mark.parametrize("name", ["prisma, topk, layer norm", "sparsify", "saelens 6, gated", "hugofry"])
def test_a_setting_that_may_belong_to_the_forward_pass_is_an_error_that_names_it(name, tmp_path):
    case = CASES[name]
    path = case.write(tmp_path / "a", config=case.config | {"input_scale": 3.0, "seed": 5})
    with pytest.raises(DictionaryError, match=r"does not know: input_scale\. .*ignore=\['input_scale'\]"):
        load_sae(path, **case.keywords)
    assert load_sae(path, ignore=["input_scale"], **case.keywords).n_latents == N


def test_a_site_that_cannot_be_told_is_asked_for_and_one_that_is_told_is_kept(tmp_path):
    case = CASES["clipscope"]
    path = case.write(tmp_path / "a")
    with pytest.warns(UserWarning, match="does not say where its activations were read .*site="):
        unplaced = load_sae(path)
    assert unplaced.site is None
    with pytest.raises(DictionaryError, match="does not say where its activations were read. Pass site="):
        place_of(unplaced)
    with pytest.raises(SiteError, match="image.last.cls"):
        load_sae(path, site="image.last.cls")
    assert load_sae(path, site="image.embedding").site == "image.embedding"
    case = CASES["prisma, topk, layer norm"]
    for number, (changed, site) in enumerate(
        {
            ("hook_resid_mid", 3): "image.3.resid_mid.cls",
            ("hook_resid_pre", 3): "image.2.cls",
            ("ln2.hook_normalized", 3): "image.3.mlp_in.cls",
            ("hook_mlp_out", 0): "image.0.mlp_out.cls",
            ("attn.hook_z", 3): None,
            ("hook_resid_pre", 0): None,
        }.items()
    ):
        config = case.config | {"layer_subtype": changed[0], "hook_point_layer": changed[1]}
        path = case.write(tmp_path / f"b{number}", config=config)
        if site is None:
            with pytest.warns(UserWarning, match="does not say where"):
                load_sae(path)
        else:
            assert load_sae(path).site == site


def test_prisma_hook_names_that_disagree_are_refused(tmp_path):
    case = CASES["prisma, topk, layer norm"]
    config = case.config | {"hook_point": "blocks.5.hook_mlp_out"}
    with pytest.raises(DictionaryError, match="they disagree"):
        load_sae(case.write(tmp_path / "a", config=config))
    agreed = {"hook_point": "blocks.3.hook_resid_post"}
    assert load_sae(case.write(tmp_path / "b", config=case.config | agreed)).site == "image.3.cls"


def test_attributing_clip_reads_the_new_spelling_of_weight_norm(tmp_path):
    old = CASES["attributing-clip"]
    renamed = {
        "encoder.0.weight_g": "encoder.0.parametrizations.weight.original0",
        "encoder.0.weight_v": "encoder.0.parametrizations.weight.original1",
        "decoder.weight_g": "decoder.parametrizations.weight.original0",
        "decoder.weight_v": "decoder.parametrizations.weight.original1",
    }
    tensors = {renamed.get(name, name): value for name, value in old.tensors.items()}
    file = write(tmp_path, "last.ckpt", {"state_dict": tensors})
    (tmp_path / "run.yaml").write_text(f"sae_k: {K}\nsae_layer_idx: -2\nsae_token: spatial\n")
    made = load_sae(file, config=tmp_path / "run.yaml")
    assert apart(made.reconstruct(torch.from_numpy(X)).numpy(), old.truth()[1]) < TOLERANCE
    assert made.site == "image.-2.patches"


def test_names_with_a_wrappers_prefix_are_read_without_it(tmp_path):
    case = CASES["dictionary_learning, standard"]
    wrapped = {f"module.{name}": value for name, value in case.tensors.items()}
    made = load_sae(case.write(tmp_path, wrapped), **case.keywords)
    assert apart(made.reconstruct(torch.from_numpy(X)).numpy(), case.truth()[1]) < TOLERANCE


def test_what_no_kind_reproduces_is_refused(tmp_path):
    msae = CASES["msae, soft cap"]
    for number, activation in enumerate(
        ["TopKabs", "TopKabsReLU", "BatchTopK", "BatchTopKabsReLU", "Identity"]
    ):
        with pytest.raises(DictionaryError, match=f"uses the activation '{activation}'"):
            load_sae(msae.write(tmp_path / f"m{number}"), **msae.keywords | {"activation": activation})
    with pytest.raises(DictionaryError, match="normalises rows after centring"):
        load_sae(tmp_path / "m0", **msae.keywords | {"normalize": True})
    case = CASES["overcomplete, rows as they are"]
    block = "encoder.final_block"
    norm = {f"{block}.1.weight": torch.ones(N), f"{block}.1.bias": torch.ones(N)}
    with pytest.raises(DictionaryError, match="normalises its pre-activations across latents"):
        load_sae(case.write(tmp_path / "ln", case.tensors | norm), **case.keywords)
    deeper = {"encoder.mlp_blocks.0.0.weight": torch.ones(D, D), "encoder.mlp_blocks.0.0.bias": torch.ones(D)}
    with pytest.raises(DictionaryError, match="encoder of several blocks"):
        load_sae(case.write(tmp_path / "deep", case.tensors | deeper), **case.keywords)


def test_the_name_of_an_msae_file_says_what_the_file_does_not(tmp_path):
    case = CASES["msae, topk with a ReLU, tied"]
    path = case.write(tmp_path)
    named = path.rename(tmp_path / f"{N}_{D}_TopKReLU_{K}_RW_True_False_0.0_cc3m.pth")
    made = load_sae(named, site="image.embedding")
    assert apart(made.reconstruct(torch.from_numpy(X)).numpy(), case.truth()[1]) < TOLERANCE


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("norm", ["layer_norm", "none"])
def test_prisma_transcoders_predict_one_site_from_another(skip, norm, tmp_path):
    out = 7
    down, bias, through = draw(N, out, seed=40), draw(out, seed=41), draw(out, D, seed=42)
    config = CASES["prisma, topk, layer norm"].config | {
        "is_transcoder": True, "layer_subtype": "ln2.hook_normalized", "layer_out_subtype": "hook_mlp_out",
        "out_hook_point_layer": 3, "d_out": out, "transcoder_with_skip_connection": skip, "normalize_activations": norm,
    }  # fmt: skip
    tensors = t(W_enc=W.T, b_enc=B_ENC, b_dec=B_DEC, W_dec=down, b_dec_out=bias)
    tensors |= t(W_skip=through) if skip else {}
    write(tmp_path, "weights.pt", tensors, config, "config.json")
    made = load_sae(tmp_path)
    assert (made.input_site, made.site) == ("image.3.mlp_in.cls", "image.3.mlp_out.cls")
    x = X.astype(np.float64)
    mean, deviation = (
        (x.mean(1, keepdims=True), x.std(1, ddof=1, keepdims=True)) if norm != "none" else (0.0, 1.0)
    )
    pre = ((x - mean) / (deviation + 1e-5 * (norm != "none")) - B_DEC) @ W.T + B_ENC
    z = np.maximum(pre * (pre >= -np.sort(-pre, axis=1)[:, K - 1 : K]), 0)
    y = (z @ down + bias + (x @ through.T if skip else 0)) * deviation + mean
    assert apart(made.reconstruct(torch.from_numpy(X)).numpy(), y) < TOLERANCE
    codes = made.encode(torch.from_numpy(X))
    np.testing.assert_allclose(
        codes.to_dense().numpy(), z * np.linalg.norm(down, axis=1) * deviation, rtol=1e-4, atol=1e-4
    )
    made.save(tmp_path / "own")
    again = load_dictionary(tmp_path / "own")
    assert again.hash == made.hash and again.input_site == made.input_site
    outputs = torch.from_numpy(y.astype(np.float32))
    assert made.check(torch.from_numpy(X), outputs)["as loaded"] < 1e-9
    with pytest.raises(DictionaryError, match="pass outputs="):
        made.check(torch.from_numpy(X))


def test_sparsify_transcoders_ask_for_both_sites(tmp_path):
    case, square = CASES["sparsify"], draw(D, D, seed=43)
    config = case.config | {"transcode": True, "skip_connection": True}
    folder = tmp_path / "layers.3.mlp"
    path = case.write(folder, case.tensors | t(W_skip=square), config)
    with pytest.raises(DictionaryError, match=r"input_site='image\.3\.mlp_in\.all'"):
        load_sae(path, site="image.3.mlp_out.all")
    made = load_sae(path, site="image.3.mlp_out.all", input_site="image.3.mlp_in.all")
    x = X.astype(np.float64)
    pre = np.maximum(x @ W.T + B_ENC, 0)
    z = pre * (pre >= -np.sort(-pre, axis=1)[:, K - 1 : K])
    assert apart(made.reconstruct(torch.from_numpy(X)).numpy(), z @ DEC + B_DEC + x @ square.T) < TOLERANCE


@pytest.mark.parametrize(
    ("name", "dropped", "message"),
    [
        ("dictionary_learning, jumprelu", "pre_bias", "pre_bias=True or False"),
        ("saev0", "mean", "does not state mean"),
        ("saev0", "scalar", "does not state scalar"),
        ("msae, jumprelu", "softcap", "softcap=0 for none"),
        ("msae, jumprelu", "tied", "tied=True or False"),
        ("overcomplete, mlp_bn_1", "activation", "does not state activation"),
        ("overcomplete, mlp_bn_1", "normalize", "normalize= one of 'l2', 'max_l2'"),
        ("openai, topk with layer norm", "normalize", "normalize=True or False"),
    ],
)
def test_what_a_file_does_not_say_is_asked_for_by_keyword(name, dropped, message, tmp_path):
    case = CASES[name]
    with pytest.raises(DictionaryError, match=message):
        load_sae(case.write(tmp_path), **{k: v for k, v in case.keywords.items() if k != dropped})


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("prisma, topk, layer norm", {"normalize_activations": None}, "does not state normalize_activations"),
        ("prisma, topk, layer norm", {"cls_token_only": "False"}, "should be true or false; got 'False'"),
        (
            "prisma, topk, layer norm",
            {"d_in": D + 1},
            "says d_in = 11, its tensors have 28 latents of width 10",
        ),
        ("saelens 6, topk by decoder norm", {"k": None}, "does not state k"),
        ("saelens 6, topk by decoder norm", {"k": 0}, "whole number of at least 1; got 0"),
        ("saelens 6, gated", {"normalize_activations": "expected_average_only_in"}, "scale=that constant"),
        (
            "saelens before 6, topk, fine-tuned factors",
            {"finetuning_scaling_factor": False},
            "does not turn on",
        ),
        (
            "dictionary_learning, batch topk",
            {"trainer": {}},
            "dict_class='AutoEncoderTopK' or 'BatchTopKSAE'",
        ),
        ("dictionary_learning, topk", {"trainer": {"dict_class": "AutoEncoder"}}, "should hold"),
        ("attributing-clip", {"sae_k": None}, "does not state k .*k=..."),
    ],
)
def test_settings_that_are_missing_or_wrong_are_named(name, change, message, tmp_path):
    case = CASES[name]
    with pytest.raises(DictionaryError, match=message):
        load_sae(case.write(tmp_path, config=case.config | change), **case.keywords)


def test_an_uncalibrated_batch_topk_is_refused(tmp_path):
    case = CASES["dictionary_learning, batch topk"]
    path = case.write(tmp_path, case.tensors | {"threshold": torch.tensor(-1.0)})
    with pytest.raises(DictionaryError, match="never calibrated"):
        load_sae(path, **case.keywords)
    assert load_sae(path, dict_class="AutoEncoderTopK", **case.keywords).kind == "topk"


def test_square_shapes_need_an_orientation_and_swapped_ones_are_refused(tmp_path):
    square = draw(D, D, seed=20)
    sd = t(W_enc=square, b_enc=B_ENC[:D], W_dec=draw(D, D, seed=21), b_dec=B_DEC)
    write(tmp_path, "sae.pt", {"cfg": {"block_layer": 1, "class_token": True}, "state_dict": sd})
    with pytest.raises(DictionaryError, match="orientation='as_format' or 'transposed'"):
        load_sae(tmp_path)
    plain, turned = load_sae(tmp_path, orientation="as_format"), load_sae(tmp_path, orientation="transposed")
    assert torch.equal(plain.encoder, torch.from_numpy(square.T.copy()))
    assert torch.equal(turned.encoder, torch.from_numpy(square))
    write(
        tmp_path,
        "sae.pt",
        {"cfg": {"block_layer": 1, "class_token": True}, "state_dict": sl(b_enc=B_ENC) | t(W_dec=DEC.T)},
    )
    with pytest.raises(DictionaryError, match="one of them is transposed"):
        load_sae(tmp_path)
    swapped = t(W_enc=W, W_dec=DEC.T, b_enc=B_ENC, b_dec=B_DEC)
    write(tmp_path, "sae.pt", {"cfg": {"block_layer": 1, "class_token": True}, "state_dict": swapped})
    with pytest.raises(DictionaryError, match=r"has shape \(10,\); this format has \(28\)"):
        load_sae(tmp_path)


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.complex64])
def test_weights_that_are_no_real_numbers_are_refused_and_narrower_ones_widened(dtype, tmp_path):
    def file(of):
        sd = {"W_enc": torch.from_numpy(W.T.copy()).to(of)} | t(b_enc=B_ENC, W_dec=DEC, b_dec=B_DEC)
        return write(tmp_path, "sae.pt", {"cfg": {"block_layer": 1, "class_token": True}, "state_dict": sd})

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
    write(tmp_path, "sae.pt", {"cfg": {"block_layer": 1, "class_token": True}, "state_dict": sd})
    acts = torch.from_numpy(draw(200, D, seed=32) + shift)
    shares = load_sae(tmp_path).check(acts)
    assert shares["as loaded"] < 1e-6 < 1 < shares["without pre-bias"]
    assert "without pre-bias" in capsys.readouterr().out
    write(tmp_path, "sae.pt", sd, header={"schema": 5, "cfg": {"activation": {"cls": "Relu"}}})
    with pytest.raises(DictionaryError, match="The best reading is 'with pre-bias'"):
        load_sae(tmp_path, site="image.-1.cls").check(acts)


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
    with pytest.raises(DictionaryError, match=r"no known format. Its tensors: something"):
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
        DictionaryError, match="no format 'prismatic'; there are auto, clipattr, attributing-clip"
    ):
        load_sae(file, "prismatic")


@pytest.mark.parametrize("ending", [".safetensors", ".pt"])
@pytest.mark.parametrize(
    ("start", "told"),
    [
        (b"version https://git-lfs.github.com/spec/v1\nsize 9\n", "git lfs pull"),
        (b"<!DOCTYPE html>", "download"),
    ],
)
def test_what_lies_in_place_of_weights_is_named_for_dictionaries_and_models(tmp_path, ending, start, told):
    file = tmp_path / f"w{ending}"
    file.write_bytes(start)
    with pytest.raises(DictionaryError, match=told):
        load_sae(file)
    with pytest.raises(DataError, match=told):
        read_state(file)


def test_shards_and_prefixes_of_wrappers_are_the_same_dictionary(tmp_path):
    weights = sl(b_enc=B_ENC)
    config = {"architecture": "standard", "apply_b_dec_to_input": True, "normalize_activations": "none"}
    write(tmp_path / "one", "sae_weights.safetensors", weights, config)
    parts = tmp_path / "shards"
    for number, name in enumerate(weights):
        write(parts, f"part-{number}.safetensors", {f"sae.{name}": weights[name]}, config)
    places = {f"sae.{name}": f"part-{number}.safetensors" for number, name in enumerate(weights)}
    (parts / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    one, other = (load_sae(tmp_path / name, site="image.-1.cls") for name in ("one", "shards"))
    assert one.hash == other.hash


@pytest.mark.parametrize("source", [None, 3, {"W_enc": torch.ones(2)}])
def test_what_is_no_name_of_a_dictionary_is_refused(source):
    with pytest.raises(DictionaryError, match="opened from a path"):
        load_sae(source)
