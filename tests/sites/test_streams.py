"""Sites inside a block against a forward pass written by hand, against brute force, and against the tower itself."""

import copy

import open_clip
import pytest
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block

from clipattr import Site, SiteError, activations, capture, continue_from, load_model, replace
from clipattr.models.streams import STREAMS
from clipattr.sites import acts_and_context

INSIDE = [name for name in STREAMS if name != "resid_post"]
PLACES = [
    f"image.{block}.{stream}.{tokens}"
    for block in (0, -2, -1)
    for stream in INSIDE
    for tokens in ("cls", "patches", "all")
    if (block, tokens) != (-1, "patches")
]


@pytest.fixture(scope="module")
def pixels():
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def timm_model():
    """open_clip's wrapper of a plain timm tower with layer scale, whose class token is pooled."""
    torch.manual_seed(0)
    vision = {"timm_model_name": "vit_tiny_patch16_224", "timm_model_pretrained": False, "timm_pool": "token",
              "timm_proj": "linear", "image_size": 224}  # fmt: skip
    text = {"context_length": 8, "vocab_size": 60, "width": 16, "heads": 2, "layers": 1}
    clip = open_clip.model.CustomTextCLIP(embed_dim=48, vision_cfg=vision, text_cfg=text)
    clip.visual.trunk.blocks = clip.visual.trunk.blocks[:3]
    return load_model(clip)


def by_hand(model, pixels):
    """Streams of every block in float64, written out from the weights: {(block, stream): (batch, tokens, width)}."""
    visual = copy.deepcopy(model.visual).double()
    patch = visual.patch_size[0]
    patches = (
        F.unfold(pixels.double(), patch, stride=patch).transpose(1, 2) @ visual.conv1.weight.flatten(1).T
    )
    cls = visual.class_embedding.expand(len(pixels), 1, -1)
    x = visual.ln_pre(torch.cat([cls, patches], 1) + visual.positional_embedding)
    found = {}
    for number, block in enumerate(visual.transformer.resblocks):
        heads = block.attn.num_heads
        q, k, v = F.linear(block.ln_1(x), block.attn.in_proj_weight, block.attn.in_proj_bias).chunk(3, -1)
        q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (q, k, v))
        weights = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
        attended = block.attn.out_proj((weights @ v).transpose(1, 2).flatten(2))
        middle = x + attended
        normed = block.ln_2(middle)
        added = block.mlp(normed)
        x = middle + added
        streams = {
            "attn_out": attended,
            "resid_mid": middle,
            "mlp_in": normed,
            "mlp_out": added,
            "resid_post": x,
        }
        found |= {(number, name): value for name, value in streams.items()}
    return found


@pytest.mark.parametrize("stream", STREAMS)
def test_streams_are_those_of_a_forward_pass_written_by_hand(tiny_model, pixels, stream):
    expected = by_hand(tiny_model, pixels)
    for block in range(3):
        site = Site(f"image.{block}.{stream}.all")
        torch.testing.assert_close(
            activations(tiny_model, pixels, site).double(), expected[block, stream], atol=1e-4, rtol=1e-4
        )
        assert activations(tiny_model, pixels, site).shape[1:] == site.shape(tiny_model)


def test_the_output_of_a_block_needs_no_stream_in_its_name():
    assert (
        Site("image.3.resid_post.cls") == Site("image.3.cls")
        and str(Site("image.3.resid_post.cls")) == "image.3.cls"
    )
    assert str(Site("image.3.mlp_out.all")) == "image.3.mlp_out.all" and Site("image.3.mlp_out.all") != Site(
        "image.3.all"
    )


@pytest.mark.parametrize(
    ("written", "advice"),
    [
        ("image.3.resid_pre.cls", "What comes before a block is the output of the block before it"),
        ("image.3.mlp.cls", "blocks of the image tower have resid_post, resid_mid"),
        ("text.3.mlp_out.eot", "blocks of the image tower"),
    ],
)
def test_what_is_no_stream_is_refused(written, advice):
    with pytest.raises(SiteError, match=advice):
        Site(written)


@pytest.mark.parametrize("written", PLACES)
def test_continuing_gives_the_embedding_and_its_derivatives(tiny_model, pixels, written):
    site = Site(written)
    acts, context = acts_and_context(tiny_model, pixels, site)
    assert torch.equal(acts, activations(tiny_model, pixels, site))
    whole = tiny_model.encode_image(pixels)
    torch.testing.assert_close(continue_from(tiny_model, site, acts, context), whole, atol=1e-5, rtol=1e-5)
    # Another value: continuing agrees with putting it into a forward pass.
    other = acts + 0.3 * torch.randn(acts.shape, generator=torch.Generator().manual_seed(2))
    with replace(tiny_model, site, other), capture(tiny_model, site) as held:
        spliced = tiny_model.encode_image(pixels)
    torch.testing.assert_close(continue_from(tiny_model, site, other, context), spliced, atol=1e-5, rtol=1e-5)
    assert (spliced - whole).abs().max() > 1e-3
    if site.stream != "resid_mid":  # there the LayerNorm has run before the value is exchanged
        torch.testing.assert_close(held[site], other)
    # Derivative along a direction, against a central difference.
    direction = torch.randn(acts.shape, generator=torch.Generator().manual_seed(3))
    leaf = acts.clone().requires_grad_()
    (slope,) = torch.autograd.grad(continue_from(tiny_model, site, leaf, context)[:, 5].sum(), leaf)
    step = 1e-2
    ends = [
        continue_from(tiny_model, site, acts + sign * step * direction, context)[:, 5].sum()
        for sign in (1, -1)
    ]
    assert float((slope * direction).sum()) == pytest.approx(
        float(ends[0] - ends[1]) / (2 * step), rel=0.05, abs=2e-3
    )


@pytest.mark.parametrize("stream", INSIDE)
def test_the_activation_itself_changes_nothing_when_it_is_put_back(tiny_model, pixels, stream):
    site = f"image.1.{stream}.all"
    before = tiny_model.encode_image(pixels)
    with replace(tiny_model, site, lambda old: old):
        assert torch.equal(tiny_model.encode_image(pixels), before)


@pytest.mark.parametrize("stream", INSIDE)
def test_timm_towers_have_the_same_streams(timm_model, stream):
    pixels = torch.randn(2, 3, *timm_model.image_size, generator=torch.Generator().manual_seed(1))
    assert type(timm_model.image_blocks_modules[0]) is Block
    site = Site(f"image.1.{stream}.cls")
    acts, context = acts_and_context(timm_model, pixels, site)
    torch.testing.assert_close(
        continue_from(timm_model, site, acts, context), timm_model.encode_image(pixels), atol=1e-5, rtol=1e-5
    )
    block = {name: activations(timm_model, pixels, f"image.1.{name}.all") for name in STREAMS}
    torch.testing.assert_close(block["resid_mid"] + block["mlp_out"], block["resid_post"])


def test_blocks_of_another_kind_have_no_inside(tiny_model, pixels):
    class Other(torch.nn.Module):
        def forward(self, x, *_args, **_named):
            return x

    blocks = tiny_model.image_tower.blocks
    kept, blocks[1] = blocks[1], Other()
    try:
        with pytest.raises(SiteError, match="blocks of .* are Others, of which only the output is known"):
            activations(tiny_model, pixels, "image.1.mlp_out.cls")
    finally:
        blocks[1] = kept
