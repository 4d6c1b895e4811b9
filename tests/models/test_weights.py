"""Where weights come from, and that nothing unsafe, missing or damaged gets through."""

import copy
import json
import os
import pickle
import re

import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file

import clipattr
from clipattr import ModelError, load_model
from clipattr.models.forward import other_facts
from clipattr.models.weights import hash_weights


def rewrite(folder, change):
    """Change the folder's configuration in place."""
    file = folder / "open_clip_config.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def test_a_folder_loads_by_its_path_and_its_reference_loads_it_again(folder):
    model = load_model(f"local-dir:{folder}")
    again = load_model(model.reference)
    pixels = torch.randn(2, 3, 32, 32)
    assert model.reference == f"local-dir:{folder}"
    assert torch.equal(model.encode_image(pixels), again.encode_image(pixels))


def test_a_relative_folder_is_remembered_by_its_full_path(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    assert load_model("local-dir:tiny").reference == f"local-dir:{folder}"


def test_the_folders_own_preprocessing_is_used(folder):
    preprocess = json.loads(load_model(f"local-dir:{folder}").preprocess_id)
    assert preprocess["resize_mode"] == "squash"
    assert preprocess["mean"] == [0.5, 0.5, 0.5]
    assert preprocess["size"] == [32, 32]


def test_weights_kept_as_float16_hash_like_the_same_weights_in_float32(folder):
    model = load_model(f"local-dir:{folder}")
    file = folder / "open_clip_model.safetensors"
    save_file({key: value.float() for key, value in load_file(file).items()}, file)
    assert load_model(f"local-dir:{folder}").weights_hash == model.weights_hash


def test_one_changed_weight_changes_the_hash(folder):
    model = load_model(f"local-dir:{folder}")
    assert len(model.weights_hash) == 16
    with torch.no_grad():
        model.clip.visual.proj[3, 4] += 1e-3
    assert hash_weights(model.clip) != model.weights_hash


def test_the_hash_is_of_the_weights_before_a_cast(folder):
    full = load_model(f"local-dir:{folder}")
    cast = load_model(f"local-dir:{folder}", dtype=torch.bfloat16)
    assert cast.dtype == torch.bfloat16
    assert cast.weights_hash == full.weights_hash
    assert hash_weights(cast.clip) != full.weights_hash  # the cast did lose digits


def test_loading_leaves_the_random_stream_alone(folder):
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    load_model(f"local-dir:{folder}")
    assert torch.equal(torch.rand(4), expected)


def test_a_bundled_model_loads_by_its_bare_name(folder, monkeypatch):
    import clipattr_data

    monkeypatch.setattr(clipattr_data, "models_dir", lambda: folder.parent)
    model = load_model("tiny")
    assert model.reference == "tiny"
    listed = clipattr.list_models()
    assert listed.loc[listed.kind == "bundled", "name"].tolist() == ["tiny"]


def test_the_list_of_models_names_the_papers_eight_variants_once():
    listed = clipattr.list_models()
    assert (listed.kind == "paper").sum() == 8
    assert not listed.duplicated(["name", "pretrained"]).any()
    every = {tuple(pair) for pair in open_clip.list_pretrained()}
    assert every <= set(zip(listed.name, listed.pretrained, strict=True))
    assert {tuple(row) for row in listed.loc[listed.kind == "paper", ["name", "pretrained"]].values} <= every


@pytest.mark.parametrize(
    "written", ["ViT-B-23:openai", "vitb32:openai", "vit-b-32:openai", "ViT-B/33:openai"]
)
def test_a_typo_in_a_name_gets_the_nearest_names(written):
    with pytest.raises(ModelError, match=r"Nearest: .*ViT-B-32"):
        load_model(written)


def test_a_name_with_a_slash_is_the_name_with_a_dash(registered):
    assert load_model("tiny/clip:half").reference == "tiny-clip:half"


def test_an_unknown_tag_gets_the_nearest_and_all_tags():
    with pytest.raises(ModelError, match=r"Nearest: .*datacomp_xl.* Its tags: .*laion2b_s34b_b79k"):
        load_model("ViT-B-32", pretrained="datacomp_xl_s13b")


def test_a_name_without_weights_is_refused_and_its_tags_are_listed():
    with pytest.raises(ModelError, match=r"needs weights.*laion400m_e32"):
        load_model("ViT-B-32")


def test_a_folder_given_without_its_prefix_is_recognised_in_the_error(folder):
    with pytest.raises(ModelError, match="write local-dir:"):
        load_model(str(folder))


def test_weights_that_cannot_be_downloaded_are_an_error_that_says_what_to_do(monkeypatch):
    def offline(*_args, **_options):
        raise OSError("Network is unreachable")

    monkeypatch.setattr(open_clip, "download_pretrained", offline)
    with pytest.raises(ModelError, match=r"Network is unreachable.*Offline: copy the file"):
        load_model("ViT-B-32:datacomp_xl_s13b_b90k")


def test_a_hub_repository_that_cannot_be_reached_is_an_error(monkeypatch):
    def offline(*_args, **_options):
        raise FileNotFoundError("Failed to download file")

    monkeypatch.setattr(open_clip.factory, "download_pretrained_from_hf", offline)
    with pytest.raises(ModelError, match=r"could not be read from the hub.*local-dir:PATH"):
        load_model("hf-hub:somebody/some-clip")


def test_a_hub_repository_without_weights_is_never_left_at_random(monkeypatch, folder):
    def only_config(_name, filename=None, **_options):
        if filename == "open_clip_config.json":
            return str(folder / filename)
        raise FileNotFoundError("no weights there")

    monkeypatch.setattr(open_clip.factory, "download_pretrained_from_hf", only_config)
    with pytest.raises(ModelError, match="hf-hub:somebody/some-clip"):
        load_model("hf-hub:somebody/some-clip")


def test_a_tag_brings_the_activation_that_its_weights_were_trained_with(registered):
    # The architecture's own configuration says GELU, the tag says QuickGELU.
    by_tag = load_model("tiny-clip:half")
    by_file = load_model("tiny-clip", pretrained=str(registered))
    otherwise = load_model("tiny-clip", pretrained=str(registered), like="gelu")
    assert type(by_tag.image_blocks_modules[0].mlp.gelu).__name__ == "QuickGELU"
    assert type(by_file.image_blocks_modules[0].mlp.gelu).__name__ == "QuickGELU"
    assert type(otherwise.image_blocks_modules[0].mlp.gelu).__name__ == "GELU"
    assert by_tag.weights_hash == by_file.weights_hash


def test_a_schema_and_a_tag_together_are_refused(folder):
    with pytest.raises(ModelError, match="leave out pretrained='openai'"):
        load_model(f"local-dir:{folder}", pretrained="openai")


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(ModelError, match="nowhere is not a folder"):
        load_model(f"local-dir:{tmp_path / 'nowhere'}")


def test_a_folder_without_configuration_is_refused(folder):
    (folder / "open_clip_config.json").unlink()
    with pytest.raises(ModelError, match="has no open_clip_config.json"):
        load_model(f"local-dir:{folder}")


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", '{"model_cfg": 3}', "{}"])
def test_a_broken_configuration_is_refused(folder, text):
    (folder / "open_clip_config.json").write_text(text)
    with pytest.raises(ModelError, match=r"not readable JSON|has no model_cfg"):
        load_model(f"local-dir:{folder}")


def test_a_configuration_in_another_encoding_is_refused(folder):
    (folder / "open_clip_config.json").write_bytes(b"\xff\xfe{\x00}\x00")
    with pytest.raises(ModelError, match="not readable JSON"):
        load_model(f"local-dir:{folder}")


def test_a_configuration_without_a_text_tower_is_refused(folder):
    rewrite(folder, lambda content: content["model_cfg"].pop("text_cfg"))
    with pytest.raises(ModelError, match="text_cfg must be dict; got None"):
        load_model(f"local-dir:{folder}")


def test_a_configuration_that_does_not_fit_its_weights_is_refused(folder):
    rewrite(folder, lambda content: content["model_cfg"]["vision_cfg"].update(width=128))
    with pytest.raises(ModelError, match="belong to another configuration"):
        load_model(f"local-dir:{folder}")


def test_a_configuration_that_asks_for_foreign_code_is_refused(folder):
    options = {"hf_tokenizer_name": "some/tokenizer", "tokenizer_kwargs": {"trust_remote_code": True}}
    rewrite(folder, lambda content: content["model_cfg"]["text_cfg"].update(options))
    with pytest.raises(ModelError, match="asks to run code"):
        load_model(f"local-dir:{folder}")


def test_a_folder_without_weights_is_never_left_at_random(folder):
    (folder / "open_clip_model.safetensors").unlink()
    with pytest.raises(ModelError, match="holds no weights"):
        load_model(f"local-dir:{folder}")


@pytest.mark.parametrize("keep", [0, 7, 100, 5000])
def test_truncated_safetensors_are_refused(folder, keep):
    file = folder / "open_clip_model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ModelError, match="damaged"):
        load_model(f"local-dir:{folder}")


def test_weights_that_lack_a_tensor_are_refused(folder):
    file = folder / "open_clip_model.safetensors"
    weights = load_file(file)
    del weights["visual.proj"]
    save_file(weights, file)
    with pytest.raises(ModelError, match="damaged or belong"):
        load_model(f"local-dir:{folder}")


class Bomb:
    """Unpickling it runs a command."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("writer", ["torch", "pickle"])
def test_pickled_code_among_the_weights_is_refused_and_never_run(folder, writer):
    marker = folder.parent / "exploded"
    (folder / "open_clip_model.safetensors").unlink()
    file = folder / "open_clip_pytorch_model.bin"
    if writer == "torch":
        torch.save({"state_dict": Bomb(marker)}, file)
    else:
        file.write_bytes(pickle.dumps(Bomb(marker)))
    with pytest.raises(ModelError, match="more than tensors, or are damaged"):
        load_model(f"local-dir:{folder}")
    assert not marker.exists()


def test_plain_tensors_in_torchs_own_format_load(folder):
    file = folder / "open_clip_model.safetensors"
    expected = load_model(f"local-dir:{folder}").weights_hash
    torch.save(load_file(file), folder / "open_clip_pytorch_model.bin")
    file.unlink()
    assert load_model(f"local-dir:{folder}").weights_hash == expected


def test_a_truncated_file_in_torchs_own_format_is_refused(folder):
    weights = load_file(folder / "open_clip_model.safetensors")
    (folder / "open_clip_model.safetensors").unlink()
    file = folder / "open_clip_pytorch_model.bin"
    torch.save(weights, file)
    file.write_bytes(file.read_bytes()[:4000])
    with pytest.raises(ModelError, match="damaged"):
        load_model(f"local-dir:{folder}")


def test_every_weight_and_every_name_counts_in_the_hash():
    def hash_of(**tensors):
        module = torch.nn.Module()
        for name, tensor in tensors.items():
            module.register_buffer(name, tensor)
        return hash_weights(module)

    first, second = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([5, 6])
    variants = [
        hash_of(a=first, b=second),
        hash_of(a=first + 1e-6, b=second),
        hash_of(a=first, b=second + 1),
        hash_of(a=first, c=second),
        hash_of(a=first.flatten(), b=second),
        hash_of(a=first, b=second.int()),
        hash_of(a=first),
    ]
    assert len(set(variants)) == len(variants)
    assert hash_of(b=second, a=first.double()) == variants[0]  # neither order nor precision counts


def test_a_bare_file_of_weights_is_answered_with_what_to_write(tmp_path):
    file = tmp_path / "tuned.pt"
    file.write_bytes(b"")
    with pytest.raises(ModelError, match=rf"is a file.*ViT-B-32:{file}@openai"):
        load_model(str(file))


def test_equal_weights_with_another_forward_pass_have_other_facts(config, tmp_path):
    plain = open_clip.model.CLIP(**config)
    base = load_model(plain)
    assert base.facts["image activation"] == base.facts["text activation"] == ["gelu"]
    assert base.facts["mean"] == pytest.approx([0.48145, 0.45783, 0.40821], abs=1e-4)
    pixels, tokens = torch.randn(2, 3, 32, 32), base.tokens(["kite"])

    def other(change, **options):
        asked = copy.deepcopy(config)
        change(asked)
        clip = open_clip.model.CLIP(**asked, **options)
        clip.load_state_dict(plain.state_dict())
        return load_model(clip)

    for change, options, told in (
        (lambda c: None, {"quick_gelu": True}, r"image activation \['gelu'\] there, \['quick_gelu'\] here"),
        (lambda c: c["vision_cfg"].update(head_width=32), {}, r"image heads \[4\] there, \[2\] here"),
        (lambda c: c["vision_cfg"].update(pool_type="avg"), {}, r"image pooling \['tok'\] there"),
        (lambda c: c["text_cfg"].update(no_causal_mask=True), {}, r"text causal mask \[True\] there"),
        (lambda c: c["text_cfg"].update(norm_kwargs={"eps": 1e-3}), {}, r"text epsilon \[1e-05\] there"),
    ):
        found = other(change, **options)
        assert found.weights_hash == base.weights_hash
        assert re.search(told, other_facts(base.facts, found.facts)), other_facts(base.facts, found.facts)
        same = [
            torch.equal(base.encode_image(pixels), found.encode_image(pixels)),
            torch.equal(base.text_features(tokens), found.text_features(tokens)),
        ]
        assert not all(same)  # it does compute something else
    scaled = load_model(plain, preprocess=lambda picture: 2 * base.preprocess(picture))
    assert "std" in other_facts(base.facts, scaled.facts) and "heads" not in other_facts(
        base.facts, scaled.facts
    )
    assert not other_facts(base.facts, load_model(plain, dtype="bfloat16").facts)
    assert not other_facts(None, scaled.facts) and not other_facts({"image heads": [4]}, scaled.facts)
    assert not other_facts(json.loads(json.dumps(base.facts)), base.facts)
