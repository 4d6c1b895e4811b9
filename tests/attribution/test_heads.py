"""What heads write to the class token, against the module's own attention and against changed weights, in float64."""

import copy

import pytest
import torch

import clipattr as ca
from clipattr import head_writes, replace_heads
from clipattr.errors import SiteError


def test_the_heads_and_the_bias_add_up_to_what_attention_writes(exact_model, pictures):
    writes = head_writes(exact_model, pictures)
    for block in range(exact_model.image_blocks):
        part = exact_model.image_blocks_modules[block]
        bias = part.ls_1(part.attn.out_proj.bias)
        whole = ca.activations(exact_model, pictures, f"image.{block}.attn_out.cls")
        torch.testing.assert_close(writes[:, block].sum(1) + bias, whole, atol=1e-5, rtol=0)
        assert writes[:, block].std(1).max() > 1e-4  # heads differ


def test_one_head_is_what_attention_writes_without_the_others(exact_model, pictures):
    part = exact_model.image_blocks_modules[1]
    width = part.attn.head_dim
    kept = copy.deepcopy(part.attn.out_proj.weight.detach())
    found = head_writes(exact_model, pictures, [1])[:, 0]
    try:
        for head in range(part.attn.num_heads):
            with torch.no_grad():
                part.attn.out_proj.weight.zero_()
                own = slice(head * width, (head + 1) * width)
                part.attn.out_proj.weight[:, own] = kept[:, own]
            alone = ca.activations(exact_model, pictures, "image.1.attn_out.cls")
            torch.testing.assert_close(
                found[:, head], alone - part.ls_1(part.attn.out_proj.bias), atol=1e-5, rtol=0
            )
    finally:
        with torch.no_grad():
            part.attn.out_proj.weight.copy_(kept)


def test_replaced_heads_change_the_class_token_alone(exact_model, pictures):
    writes = head_writes(exact_model, pictures)
    given = {(0, 1): writes[:, 0, 1].mean(0), (1, 0): torch.zeros(writes.shape[-1], dtype=torch.float64)}
    with torch.no_grad(), replace_heads(exact_model, given):
        found = exact_model.encode_image(pictures)
    # By hand: the site of the class token, one block after another; block 1 reads what block 0 has become.
    first = ca.activations(exact_model, pictures, "image.0.attn_out.cls") - writes[:, 0, 1] + given[0, 1]
    with torch.no_grad(), ca.replace(exact_model, "image.0.attn_out.cls", first):
        second = ca.activations(exact_model, pictures, "image.1.attn_out.cls")
        second = second - head_writes(exact_model, pictures, [1])[:, 0, 0]
        with ca.replace(exact_model, "image.1.attn_out.cls", second):
            wanted = exact_model.encode_image(pictures)
    torch.testing.assert_close(found, wanted, atol=1e-10, rtol=0)
    plain = exact_model.encode_image(pictures)
    assert (found - plain).norm() > 1e-4
    with torch.no_grad(), replace_heads(exact_model, {}):
        assert torch.equal(exact_model.encode_image(pictures), plain)


def test_unknown_heads_and_towers_without_heads_are_refused(exact_model, pictures):
    with (
        pytest.raises(SiteError, match="has no head 99 in block 0"),
        replace_heads(exact_model, {(0, 99): 0}),
    ):
        pass
    block = exact_model.image_blocks_modules[0]
    attention, block.attn = block.attn, torch.nn.Identity()
    try:
        with pytest.raises(SiteError, match="whose heads are not known"):
            head_writes(exact_model, pictures)
    finally:
        block.attn = attention
