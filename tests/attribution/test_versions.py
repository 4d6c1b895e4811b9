"""The last block for the class token alone: what it gives, what it shares, and when it is not taken."""

import pytest
import torch

import clipattr
from clipattr.attribution import METHODS, FunctionTarget, ProbeLogit, Splice, explain_splice
from clipattr.attribution.compute import read_site
from clipattr.sites import Site, activations, continue_from, replace, versions_from

BEFORE_LAST = Site("image.-2.cls")


@pytest.fixture(scope="module")
def stream(exact_model, pictures):
    with torch.no_grad():
        return activations(exact_model, pictures, Site("image.-2.all"))


def through_whole_blocks(model, stream, own):
    """The embedding of streams with another class token, by the tower's own modules over all tokens."""
    rows = torch.cat([own[:, None], stream[:, 1:]], dim=1)
    block = model.image_blocks_modules[-1]
    tower = model.image_tower
    rows = block(rows) if tower.batch_first else block(rows.transpose(0, 1)).transpose(0, 1)
    return torch.nn.functional.normalize(model.ln_post(rows[:, 0]) @ model.image_projection, dim=1)


def versions_of(stream, n):
    generator = torch.Generator().manual_seed(4)
    noise = torch.randn(len(stream), n, stream.shape[2], generator=generator, dtype=stream.dtype)
    return stream[:, :1] + noise


def test_the_class_token_alone_gives_what_the_whole_block_gives(exact_model, stream):
    own = versions_of(stream, 1)[:, 0]
    found = continue_from(exact_model, BEFORE_LAST, own, stream)
    torch.testing.assert_close(found, through_whole_blocks(exact_model, stream, own), atol=1e-12, rtol=0)


def test_versions_of_a_class_token_do_not_see_one_another(exact_model, stream):
    own = versions_of(stream, 3)
    found = versions_from(exact_model, BEFORE_LAST, own, stream)
    for version in range(3):
        slow = through_whole_blocks(exact_model, stream, own[:, version])
        torch.testing.assert_close(found[:, version], slow, atol=1e-12, rtol=0)


def test_half_precision_stays_as_near_as_the_whole_block_does(tiny_model, exact_model, stream):
    half = clipattr.load_model(tiny_model, dtype=torch.bfloat16)
    own = versions_of(stream, 1)[:, 0]
    truth = through_whole_blocks(exact_model, stream, own)
    found = continue_from(half, BEFORE_LAST, own.bfloat16(), stream.bfloat16())
    whole = through_whole_blocks(half, stream.bfloat16(), own.bfloat16())
    assert found.dtype == torch.float32
    assert (found - truth).abs().max() < 1.5 * (whole - truth).abs().max()


def test_gradients_with_respect_to_other_tokens_are_those_of_the_whole_block(exact_model, stream):
    leaf = stream[:, 1:].clone().requires_grad_()
    weights = torch.randn(exact_model.embed_dim, dtype=torch.float64)
    (fast,) = torch.autograd.grad(
        (continue_from(exact_model, "image.-2.patches", leaf, stream) @ weights).sum(), leaf
    )
    whole = through_whole_blocks(exact_model, torch.cat([stream[:, :1], leaf], 1), stream[:, 0])
    (slow,) = torch.autograd.grad((whole @ weights).sum(), leaf)
    torch.testing.assert_close(fast, slow, atol=1e-12, rtol=0)


def test_a_hook_in_the_last_block_sees_every_token_and_its_change_counts(exact_model, stream):
    seen = []
    block = exact_model.image_blocks_modules[-1]
    handle = block.mlp.register_forward_hook(lambda _module, _given, output: seen.append(output.shape))
    try:
        assert versions_from(exact_model, BEFORE_LAST, versions_of(stream, 2), stream) is None
        continue_from(exact_model, BEFORE_LAST, stream[:, 0], stream)
    finally:
        handle.remove()
    assert seen[0].numel() == stream.numel()
    with replace(exact_model, "image.-1.cls", torch.zeros_like):
        changed = continue_from(exact_model, BEFORE_LAST, stream[:, 0], stream)
    assert not torch.allclose(changed, continue_from(exact_model, BEFORE_LAST, stream[:, 0], stream))


def test_further_from_the_end_nothing_is_shared(exact_model, pictures):
    acts, context = read_site(exact_model, pictures, Site("image.0.cls"))
    if exact_model.image_blocks > 2:
        assert versions_from(exact_model, "image.0.cls", acts[:, None], context) is None
    assert versions_from(exact_model, "image.-1.cls", acts[:, None], context) is None


@pytest.mark.parametrize("curved", [False, True])
def test_slopes_forwards_equal_slopes_backwards(exact_model, directions, pictures, curved):
    rows = torch.randn(9, exact_model.embed_dim, dtype=torch.float64)
    target = (
        FunctionTarget(lambda e: (e @ rows.T).tanh(), names=[str(n) for n in range(9)])
        if curved
        else ProbeLogit(rows)
    )
    acts, context = read_site(exact_model, pictures, BEFORE_LAST)
    splice = Splice(exact_model, directions, BEFORE_LAST, acts, target, context=context)
    assert splice._forward_is_cheaper(splice.parts)
    backwards = splice._dot_with_parts(splice.gradients())
    torch.testing.assert_close(splice.slopes(), backwards, atol=1e-12, rtol=0)
    half = splice.amounts / 2
    moved = splice.acts + splice.directions(half - splice.amounts)
    torch.testing.assert_close(
        splice.slopes(half), splice._dot_with_parts(splice.gradients(moved)), atol=1e-12, rtol=0
    )
    error, bias = splice.nodes
    for found, direction in zip(splice.along([error, bias]), (error, bias), strict=True):
        slow = torch.einsum("bnx,bx->bn", splice.gradients(), direction)
        torch.testing.assert_close(found, slow, atol=1e-12, rtol=0)


def test_every_method_says_the_same_with_and_without_sharing(exact_model, directions, pictures):
    acts, context = read_site(exact_model, pictures[:2], BEFORE_LAST)
    target = ProbeLogit(torch.eye(exact_model.embed_dim, dtype=torch.float64)[:8])

    def found(method):
        splice = Splice(exact_model, directions, BEFORE_LAST, acts, target, context=context)
        return explain_splice(splice, method)

    for method in METHODS:
        fast = found(method)
        handle = exact_model.image_blocks_modules[-1].register_forward_hook(lambda *_: None)
        try:
            slow = found(method)
        finally:
            handle.remove()
        torch.testing.assert_close(fast.values, slow.values, atol=1e-9, rtol=0)
        torch.testing.assert_close(fast.gap, slow.gap, atol=1e-9, rtol=0)


def test_a_block_of_another_kind_is_not_taken_apart(exact_model):
    from clipattr.models.towers import _reading

    assert exact_model.image_tower.reading is not None
    assert _reading(torch.nn.Identity()) is None
    block = exact_model.image_blocks_modules[-1]
    attention, block.attn = block.attn, torch.nn.Identity()
    try:
        assert _reading(block) is None
    finally:
        block.attn = attention
