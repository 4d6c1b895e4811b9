"""Heads: what each attention head of an open_clip image tower writes to the class token, and the model without it.

The output of attention is linear in the heads: each mixes its values by its own weights and maps them by its own slice
of the output projection. So the heads' writes and the projection's bias add up to `image.<block>.attn_out.cls` exactly.
Owns the decomposition, and a context in which some heads write something else. Ignores which heads to choose. Start at
`head_writes`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor, nn
from torch.nn import functional as F

from clipattr.errors import SiteError
from clipattr.models.hooks import hooked
from clipattr.models.image_places import batch_first
from clipattr.models.loading import Model

Head = tuple[int, int]  # block and number of a head, both from 0


def head_blocks(model: Model) -> list[Any]:
    """The blocks of the image tower, if their heads can be distinguished.

    Raises:
        SiteError: no class token, or blocks other than open_clip's plain ones with PyTorch's attention.
    """
    tower = model.image_tower
    if not tower.has_class_token:
        raise SiteError(
            f"the image tower of {model.reference} has no class token, so that no head writes to it. Heads are known "
            "of open_clip's vision transformers with a class token."
        )
    for number, block in enumerate(tower.blocks):
        # Exact types, since a subclass may compute something else.
        attention = getattr(block, "attn", None)
        plain = type(block) is ResidualAttentionBlock and type(attention) is nn.MultiheadAttention
        if not plain or attention.in_proj_weight is None or attention.bias_k is not None:  # type: ignore[union-attr]
            raise SiteError(
                f"heads: block {number} of the image tower of {model.reference} is a {type(block).__name__} with a "
                f"{type(attention).__name__}, whose heads are not known. They are of open_clip's plain blocks "
                "(ResidualAttentionBlock with nn.MultiheadAttention)."
            )
    return list(tower.blocks)


def head_writes(model: Model, pixels: Tensor, blocks: Sequence[int] | None = None) -> Tensor:
    """What each head writes to the class token.

    Args:
        model: a `Model`.
        pixels: (batch, 3, H, W), as for `encode_image`.
        blocks: numbers of the blocks, from 0; default all.

    Returns:
        (batch, blocks, heads, width), in the unit of the residual stream. Over heads, and with the bias of the output
        projection, they sum to the activations at `image.<block>.attn_out.cls`.

    Raises:
        SiteError: the tower has no class token, or blocks other than open_clip's plain ones.

    Source: Elhage et al. 2021 (heads add to the residual stream); Gandelsman et al. 2024, arXiv:2310.05916 (CLIP).

    >>> import clipattr as ca
    >>> model = ca.load_model("picture-world-a")
    >>> ca.head_writes(model, torch.zeros(2, *model.pixel_shape), [3]).shape
    torch.Size([2, 1, 6, 192])
    """
    parts = head_blocks(model)
    chosen = range(len(parts)) if blocks is None else blocks
    found: dict[int, Tensor] = {}

    def reader(number: int) -> Any:
        def read(_module: nn.Module, _inputs: Any, normed: Tensor) -> None:
            found[number] = writes_of(parts[number], batch_first(normed, model.image_tower))

        return read

    with torch.no_grad(), hooked([(parts[number].ln_1, reader(number)) for number in chosen]):
        model.encode_image(pixels)
    return torch.stack([found[number] for number in chosen], 1)


def writes_of(block: Any, normed: Tensor) -> Tensor:
    """(batch, heads, width): writes to the first token, from the input of attention (batch, tokens, width)."""
    attention = block.attn
    weights = attention.in_proj_weight.chunk(3)
    biases = [None] * 3 if attention.in_proj_bias is None else attention.in_proj_bias.chunk(3)

    def heads(tokens: Tensor, which: int) -> Tensor:
        mapped = F.linear(tokens, weights[which], biases[which])
        return mapped.unflatten(2, (attention.num_heads, -1)).transpose(1, 2)

    query = heads(normed[:, :1], 0)
    share = (query @ heads(normed, 1).mT * query.shape[-1] ** -0.5).softmax(-1)
    mixed = (share @ heads(normed, 2))[:, :, 0]
    out = attention.out_proj.weight.unflatten(1, (attention.num_heads, -1))
    # Not called as a module, which would set off hooks.
    return block.ls_1.forward(torch.einsum("bhd,whd->bhw", mixed, out))


@contextmanager
def replace_heads(model: Model, writes: Mapping[Head, Tensor]) -> Iterator[None]:
    """Context in which some heads write something else to the class token; what they write to other tokens stays.

    Args:
        model: a `Model`.
        writes: {(block, head): replacement (width,)}, both numbers from 0. The head's mean over pictures is the usual
            choice (mean ablation). Later blocks see the change.

    Returns:
        A context manager; its hooks are removed on exit, also after errors.

    Raises:
        SiteError: no class token, unknown blocks (as for `head_writes`), or the model has no such head.

    >>> import clipattr as ca
    >>> model = ca.load_model("picture-world-a")
    >>> pixels = torch.rand(2, *model.pixel_shape)
    >>> mean = ca.head_writes(model, pixels)[:, 3, 1].mean(0)
    >>> with ca.replace_heads(model, {(3, 1): mean}):
    ...     changed = model.encode_image(pixels)
    >>> bool((changed - model.encode_image(pixels)).norm() > 0)
    True
    """
    parts, tower = head_blocks(model), model.image_tower
    by_block: dict[int, dict[int, Tensor]] = {}
    for (block, head), value in writes.items():
        if not (0 <= block < len(parts) and 0 <= head < parts[block].attn.num_heads):
            raise SiteError(
                f"{model.reference} has no head {head} in block {block}: its image tower has {len(parts)} blocks, from "
                f"0, of {parts[0].attn.num_heads} heads each."
            )
        by_block.setdefault(block, {})[head] = value
    held: dict[int, Tensor] = {}

    def both(number: int) -> list[tuple[nn.Module, Any]]:
        part, values = parts[number], by_block[number]

        def read(_module: nn.Module, _inputs: Any, normed: Tensor) -> None:
            held[number] = writes_of(part, batch_first(normed, tower))

        def write(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
            stream = batch_first(output, tower)
            change = sum(value.to(stream) - held[number][:, head] for head, value in values.items())
            new = torch.cat([stream[:, :1] + change[:, None], stream[:, 1:]], 1)  # type: ignore[index]
            return batch_first(new, tower)

        return [(part.ln_1, read), (part.ls_1, write)]

    with hooked([hook for number in by_block for hook in both(number)]):
        yield
