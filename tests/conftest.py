"""Fixtures that several rooms share: a CLIP small enough to run thousands of times in a test."""

import pytest


def pytest_collection_modifyitems(items):
    """Browser tests come last: the browser's driver keeps an event loop running, which panels elsewhere would use."""
    items.sort(key=lambda item: "browser" in item.path.parts)


@pytest.fixture(scope="session")
def tiny_model():
    """A random CLIP as a `Model`: 32 px, patch 8, width 64, 3 blocks, text width 32, 16 tokens, embed 48.

    LayerNorm gains and biases are drawn at random too, since a forgotten gain or bias goes unseen where they are 1
    and 0; the patch filter is scaled up so that different pictures get clearly different embeddings.
    """
    import open_clip
    import torch

    import clipattr

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        clip = open_clip.model.CLIP(
            embed_dim=48,
            vision_cfg={"image_size": 32, "patch_size": 8, "width": 64, "layers": 3, "head_width": 16},
            text_cfg={"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
        )
        with torch.no_grad():
            clip.visual.conv1.weight.mul_(4)
            for module in clip.modules():
                if isinstance(module, torch.nn.LayerNorm):
                    module.weight.uniform_(0.5, 1.5)
                    module.bias.normal_(std=0.2)
    return clipattr.load_model(clip)
