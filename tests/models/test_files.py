"""Files of weights as trainers, hubs and wrappers leave them; models in other processes and under other defaults."""

import argparse
import json
import multiprocessing
import pickle

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import save_file

from clipattr import ModelError, load_model
from clipattr.errors import DataError
from clipattr.models.modules import template_texts
from clipattr.models.origins import origin_of
from clipattr.storage.checkpoints import read_state, state_of, unwrapped


@pytest.fixture
def state(registered, tiny_model):
    return {key: value.clone() for key, value in tiny_model.clip.state_dict().items()}


class Averaged(torch.nn.Module):
    def __init__(self, module):
        super().__init__()
        self.module, self.n_averaged = module, torch.tensor(3)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"state_dict": {f"_orig_mod.{k}": v for k, v in s.items()}},
        lambda s: {"model": {f"module._orig_mod.{k}": v for k, v in s.items()}, "optimizer": {"state": {}}},
        lambda s: {
            "state_dict": {f"model.{k}": v for k, v in s.items()},
            "epoch": np.int64(3),
            "best": np.float64(0.5),
        },
        lambda s: {"args": argparse.Namespace(model="tiny-clip", lr=1e-3), "state_dict": s},
        lambda s: {"model_state_dict": {k.replace("visual.", "visual._orig_mod."): v for k, v in s.items()}},
        lambda s: {"state_dict_ema": s, "step": 4},
        lambda s: {"n_averaged": torch.tensor(2), **{f"module.{k}": v for k, v in s.items()}},
        lambda s: {
            "hyper_parameters": {"lr": np.float32(1)},
            "state_dict": {f"net.{k}": v for k, v in s.items()},
        },
    ],
)
def test_every_wrapping_of_a_checkpoint_loads_the_same_model(tmp_path, state, tiny_model, wrap):
    torch.save(wrap(state), tmp_path / "w.pt")
    assert load_model("tiny-clip", pretrained=str(tmp_path / "w.pt")).weights_hash == tiny_model.weights_hash


def test_a_whole_module_is_read_without_running_it(tmp_path, registered, tiny_model):
    torch.save({"model": torch.nn.DataParallel(tiny_model.clip.visual.ln_post)}, tmp_path / "w.pt")
    found = read_state(tmp_path / "w.pt")
    assert set(found.tensors) == {"weight", "bias"}


def test_averaged_weights_beside_others_are_mentioned(tmp_path, state):
    torch.save({"state_dict": state, "state_dict_ema": state}, tmp_path / "w.pt")
    with pytest.warns(UserWarning, match="averaged weights"):
        load_model("tiny-clip", pretrained=str(tmp_path / "w.pt"))


def test_shards_are_joined_by_their_index_and_missed_without(folder, state, tiny_model):
    (folder / "open_clip_model.safetensors").unlink()
    names = sorted(state)
    shards = [f"model-{i:05d}-of-00003.safetensors" for i in range(3)]
    for i, shard in enumerate(shards):
        save_file({name: state[name].contiguous() for name in names[i::3]}, folder / shard)
    with pytest.raises(ModelError, match=r"several files of weights.*index"):
        load_model(f"local-dir:{folder}")
    index = {"weight_map": {name: shards[names.index(name) % 3] for name in names}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert load_model(f"local-dir:{folder}").weights_hash == tiny_model.weights_hash
    (folder / shards[1]).unlink()
    with pytest.raises(ModelError, match="1 of the 3 shards"):
        load_model(f"local-dir:{folder}")


def test_a_configuration_may_begin_with_a_byte_order_mark(folder):
    before = load_model(f"local-dir:{folder}")
    file = folder / "open_clip_config.json"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    after = load_model(f"local-dir:{folder}")
    assert (after.weights_hash, after.preprocess_id) == (before.weights_hash, before.preprocess_id)


def test_prefixes_come_off_only_where_every_name_has_them():
    one = torch.ones(1)
    assert set(unwrapped({"model.a": one, "b": one})) == {"model.a", "b"}
    assert set(unwrapped({"a._orig_mod.b": one, "a.b": one})) == {"a._orig_mod.b", "a.b"}
    for content in (3, {}, {"a": 1}, {"state_dict": {"a": "x"}}):
        with pytest.raises(DataError):
            state_of(content, "w.pt")


@pytest.mark.parametrize(
    ("name", "file", "about", "keys", "like", "quick"),
    [
        ("ViT-B-32", "openai.pt", {}, set(), None, True),
        ("ViT-B-32", "vit_b_32-quickgelu-laion400m_e32-46683a32.pt", {}, set(), None, True),
        ("ViT-B-32", "laion2b_s34b_b79k.bin", {}, set(), None, False),
        (
            "ViT-B-32",
            "models--laion--CLIP-ViT-B-32-laion2B-s34B-b79K/snapshots/x/w.safetensors",
            {},
            set(),
            None,
            False,
        ),
        ("ViT-B-32", "models--timm--vit_base_patch32_clip_224.openai/x/w.safetensors", {}, set(), None, True),
        ("ViT-B-32", "w.pt", {}, {"input_resolution", "context_length", "vocab_size"}, None, True),
        ("ViT-B-32", "w.pt", {"args": {"force_quick_gelu": True}}, set(), None, True),
        ("ViT-B-32", "w.pt", {"args": {"model": "ViT-B-32", "pretrained": "openai"}}, set(), None, True),
        ("ViT-B-32", "w.pt", {"name": 1}, set(), "datacomp_xl_s13b_b90k", False),
        ("ViT-B-32", "w.pt", {}, set(), "quickgelu", True),
        ("ViT-L-14-336", "w.pt", {}, set(), None, True),
    ],
)
def test_the_activation_is_that_of_the_tag_a_file_comes_from(tmp_path, name, file, about, keys, like, quick):
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"weights")
    assert origin_of(name, path, about, keys, like).quick_gelu is quick


def test_where_nothing_states_the_activation_it_is_asked_for(tmp_path):
    (tmp_path / "mine.pt").write_bytes(b"weights")
    with pytest.raises(ModelError, match=r"(?s)which activation.*QuickGELU \(openai.*GELU \(.*like='openai'"):
        origin_of("ViT-B-32", tmp_path / "mine.pt", {}, set())
    with pytest.raises(ModelError, match="like='opnai': ViT-B-32 has no such tag"):
        origin_of("ViT-B-32", tmp_path / "mine.pt", {}, set(), "opnai")


def test_siglips_normalisation_comes_with_its_weights(tmp_path):
    (tmp_path / "mine.pt").write_bytes(b"weights")
    assert origin_of("ViT-B-16-SigLIP", tmp_path / "mine.pt", {}, set()).preprocessing["mean"] == (
        0.5,
        0.5,
        0.5,
    )


def test_the_reference_of_a_file_loads_the_same_model_again(tmp_path, registered, monkeypatch):
    monkeypatch.chdir(registered.parent)
    model = load_model("tiny-clip:half.safetensors")
    assert model.reference == f"tiny-clip:{registered}@half"
    again = load_model(model.reference)
    pixels = torch.randn(1, 3, 32, 32)
    assert torch.equal(model.encode_image(pixels), again.encode_image(pixels))


# surroundings


def _embed(sent):
    model, pixels = pickle.loads(sent)
    return model.encode_image(pixels).detach().numpy(), model.weights_hash


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_model_goes_to_a_spawned_process(folder):
    model = load_model(f"local-dir:{folder}")
    pixels = torch.randn(2, 3, 32, 32)
    _ = model.image_tower, model.tokenizer
    sent = pickle.dumps((model, pixels))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        embedded, weights = pool.apply(_embed, (sent,))
    assert weights == model.weights_hash
    np.testing.assert_allclose(embedded, model.encode_image(pixels).detach().numpy(), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_default_dtype_does_not_round_weights(folder, dtype):
    before = load_model(f"local-dir:{folder}")
    torch.set_default_dtype(dtype)
    try:
        model = load_model(f"local-dir:{folder}")
    finally:
        torch.set_default_dtype(torch.float32)
    assert model.dtype == torch.float32 and model.weights_hash == before.weights_hash


def test_inference_mode_and_default_device_do_not_stick_to_a_model(folder):
    with torch.inference_mode(), torch.device("meta"):
        model = load_model(f"local-dir:{folder}")
    assert model.device.type == "cpu" and not next(model.clip.parameters()).is_inference()


@pytest.mark.parametrize("device", ["gpu:x", "graphics", "cuda:one"])
def test_unknown_devices_are_refused_in_a_sentence(folder, device):
    with pytest.raises(ModelError, match="torch has no device"):
        load_model(f"local-dir:{folder}", device=device)


def test_gpu_means_cuda(folder):
    if torch.cuda.is_available():
        assert load_model(f"local-dir:{folder}", device="gpu").device.type == "cuda"
    else:
        with pytest.raises(ModelError, match="could not be put on cuda"):
            load_model(f"local-dir:{folder}", device="gpu")


def test_wrapped_and_compiled_modules_are_models(tiny_model):
    for wrapped in (torch.nn.DataParallel(tiny_model.clip), torch.compile(tiny_model.clip)):
        assert load_model(wrapped).weights_hash == tiny_model.weights_hash


def test_templates_may_be_functions_as_open_clip_has_them(tiny_model):
    functions = open_clip.OPENAI_IMAGENET_TEMPLATES[:3]
    texts = template_texts(functions)
    assert all("{}" in text for text in texts)
    torch.testing.assert_close(
        tiny_model.encode_text(["cat"], functions), tiny_model.encode_text(["cat"], texts)
    )
    with pytest.raises(ModelError, match="failed"):
        template_texts([lambda: "x"])


def test_a_function_has_one_name_in_every_process(tiny_model):
    def prepare(picture):
        return torch.zeros(3, 32, 32)

    ids = {load_model(tiny_model.clip, preprocess=prepare).preprocess_id for _ in range(2)}
    assert len(ids) == 1
    assert (
        load_model(tiny_model.clip, preprocess=lambda picture: torch.ones(3, 32, 32)).preprocess_id not in ids
    )


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda s: s.pop("ln_final.weight"), "missing: ln_final.weight"),
        (lambda s: s.update({"head.weight": torch.ones(2, 3)}), "not of this model: head.weight"),
        (
            lambda s: s.update({"visual.proj": s["visual.proj"].T}),
            r"visual.proj is \[48, 64\] in the file and \[64, 48\]",
        ),
        (lambda s: s.update({"visual.lora_A.weight": torch.ones(2, 3)}), "LoRA adapters: merge them"),
        (
            lambda s: s.update({"visual.proj": s["visual.proj"] * torch.inf}),
            "NaN or infinity, first 'visual.proj'",
        ),
    ],
)
def test_weights_that_do_not_fit_are_named(folder, state, change, told):
    change(state)
    save_file({k: v.contiguous() for k, v in state.items()}, folder / "open_clip_model.safetensors")
    with pytest.raises(ModelError, match=told):
        load_model(f"local-dir:{folder}")


def test_a_clip_trained_by_the_sigmoid_loss_keeps_its_bias(tmp_path, folder, state, tiny_model):
    state["logit_bias"] = torch.tensor(-9.5)
    save_file(state, folder / "open_clip_model.safetensors")
    torch.save({"module." + k: v for k, v in state.items()}, tmp_path / "w.pt")
    for model in (load_model(f"local-dir:{folder}"), load_model("tiny-clip", str(tmp_path / "w.pt"))):
        assert float(model.clip.logit_bias) == -9.5
        assert torch.equal(model.clip.visual.proj, tiny_model.clip.visual.proj)


@pytest.mark.parametrize("name", ["float16", "fp16", "half", "torch.float16"])
def test_dtypes_have_names(tiny_model, name):
    assert load_model(tiny_model, dtype=name).dtype == torch.float16
    with pytest.raises(ModelError, match="floating point dtype"):
        load_model(tiny_model, dtype="int8")


def test_a_name_of_the_hub_is_pointed_to_its_prefix():
    with pytest.raises(ModelError, match="hf:openai/clip-vit-base-patch32"):
        load_model("openai/clip-vit-base-patch32")
    assert load_model(" picture-world-a ").reference == "picture-world-a"


def test_the_callers_settings_of_torch_and_numpy_change_no_result(request):
    import clipattr as ca
    from clipattr.models.surroundings import usual_surroundings

    study = ca.open_study("picture-world")

    def results():
        top = ca.attribute(study, study.images[3], "kite", method="patching").top(3)
        return [*top["attribution"], *top["alignment"]]

    expected = results()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert results() == expected
    with np.errstate(all="raise"), usual_surroundings():
        assert np.array([1e-30]).astype(np.float16) == 0
    request.addfinalizer(lambda: torch.set_default_device(None))
    torch.set_default_device("meta")  # stands for a GPU: tensors made without a device land elsewhere
    assert results() == pytest.approx(expected, abs=1e-6)
