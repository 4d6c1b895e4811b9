"""Text towers of transformers inside open_clip take as many tokens as their tokenizer makes."""

import json

import open_clip
import pytest
import torch

import clipattr as ca

pytest.importorskip("transformers")


class Tokens:
    """Texts to ids of a fixed length, as open_clip's own tokenizers for such towers."""

    context_length = 12

    def __call__(self, texts, context_length):
        ids = torch.ones(len(texts), context_length, dtype=torch.long)
        for row, text in enumerate(texts):
            ids[row, : len(text.split()) + 1] = torch.arange(2, len(text.split()) + 3)
        return ids


@pytest.mark.parametrize(
    "config",
    (
        # More positions than texts may be long, since its position numbers begin behind the padding mark.
        {"model_type": "roberta", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
         "intermediate_size": 16, "vocab_size": 32, "max_position_embeddings": 20, "pad_token_id": 1},
        # No positions at all.
        {"model_type": "mt5", "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2, "vocab_size": 32},
    ),
)  # fmt: skip
def test_its_length_is_the_tokenizers(config, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config))
    text = {"hf_model_name": str(tmp_path), "hf_model_pretrained": False, "hf_pooler_type": "mean_pooler"}
    vision = {"image_size": 16, "patch_size": 8, "width": 16, "layers": 1, "head_width": 8}
    clip = open_clip.model.CustomTextCLIP(embed_dim=8, vision_cfg=vision, text_cfg=text)
    model = ca.load_model(clip, tokenizer=Tokens())
    assert model.context_length == 12
    units = model.encode_text(["a kite", "bat"])
    assert units.shape == (2, 8) and torch.isfinite(units).all()
    assert not units.requires_grad  # such towers ask for gradients of their inputs when checkpointing is on
