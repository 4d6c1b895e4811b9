"""A model folder in open_clip's format, and a registered architecture small enough to load from a file."""

import copy
import json

import open_clip
import pytest
import torch
from safetensors.torch import save_file

CONFIG = {
    "embed_dim": 48,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 64, "layers": 3, "head_width": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


@pytest.fixture()
def config():
    return copy.deepcopy(CONFIG)


@pytest.fixture()
def folder(tmp_path, tiny_model):
    """The tiny model on disk: open_clip_config.json and float16 safetensors."""
    path = tmp_path / "tiny"
    path.mkdir()
    preprocess = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25], "resize_mode": "squash"}
    content = {"model_cfg": CONFIG, "preprocess_cfg": preprocess}
    (path / "open_clip_config.json").write_text(json.dumps(content))
    save_file(half_weights(tiny_model), path / "open_clip_model.safetensors")
    return path


@pytest.fixture()
def registered(monkeypatch, tmp_path, tiny_model):
    """An architecture `tiny-clip` that open_clip knows, with the tag `half` whose weights lie on disk."""
    file = tmp_path / "half.safetensors"
    save_file(half_weights(tiny_model), file)
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny-clip", copy.deepcopy(CONFIG))
    tag = {"file": str(file), "quick_gelu": True}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny-clip", {"half": tag})
    return file


def half_weights(model) -> dict[str, torch.Tensor]:
    return {key: value.half().contiguous() for key, value in model.clip.state_dict().items()}
