"""Towers: the structure of an image tower, by which sites address it.

Owns the choice of a reader for a module and the reading of open_clip's own vision transformers: blocks, pooling and
final layers. Other vision transformers are read in traced.py. Ignores weights and texts. Start at `read_tower`.
"""

from collections.abc import Callable

import torch
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from clipattr.errors import SiteError
from clipattr.models.tower import EMBEDDING, SITES, Tower
from clipattr.models.traced import DESCRIBED, TIMM, read_described, read_timm


def read_tower(visual: nn.Module, reference: str) -> Tower:
    """The structure of an image tower.

    Args:
        visual: the module.
        reference: the model's name, for errors.

    Raises:
        SiteError: a tower without one stream of tokens, or without a single embedding.
    """
    if isinstance(visual, VisionTransformer):
        return _own(visual, reference)
    trunk = getattr(visual, "trunk", None)
    if trunk is not None and all(hasattr(trunk, name) for name in TIMM):
        return read_timm(visual, trunk, reference)
    if all(hasattr(visual, name) for name in DESCRIBED):
        return read_described(visual, reference)
    kind = type(visual).__name__ + (f" ({type(trunk).__name__} from timm)" if trunk is not None else "")
    raise SiteError(
        f"{reference}: its image tower is a {kind}, which has no blocks that hand on one stream of tokens: {SITES}. "
        f"{EMBEDDING}: attribute and audit there."
    )


def _own(visual: VisionTransformer, reference: str) -> Tower:
    attends = visual.attn_pool is not None
    if visual.pool_type not in ("tok", "avg") or getattr(visual, "attn_pool_contrastive", None) is not None:
        raise SiteError(
            f"{reference}: its image tower does not pool its tokens to one embedding, so there is nothing to "
            f"attribute: {SITES} that pool by class token, by mean or by attention. {EMBEDDING}."
        )

    def features(pooled: Tensor) -> Tensor:
        return pooled if visual.proj is None else pooled @ visual.proj

    def pool(stream: Tensor) -> Tensor:
        return stream[:, 0] if visual.pool_type == "tok" else stream[:, 1:].mean(1)

    def by_attention(stream: Tensor) -> Tensor:
        return features(pool(visual.ln_post(visual.attn_pool(stream))))

    def plainly(stream: Tensor) -> Tensor:
        if visual.pool_type == "tok" or visual.final_ln_after_pool:
            return features(visual.ln_post(pool(stream)))
        return features(visual.ln_post(stream[:, 1:]).mean(1))

    if attends:
        pooled, pooling = frozenset({"cls", "patches"}), "attention over all tokens"
    elif visual.pool_type == "tok":
        pooled, pooling = frozenset({"cls"}), "class token"
    else:
        pooled, pooling = frozenset({"patches"}), "mean over patches"
    blocks = list(visual.transformer.resblocks)
    rows, columns = visual.grid_size
    return Tower(
        visual=visual,
        blocks=blocks,
        width=visual.conv1.out_channels,
        tokens=visual.positional_embedding.shape[0],
        prefix=1,
        has_class_token=True,
        grid=(int(rows), int(columns)),
        batch_first=bool(getattr(visual.transformer, "batch_first", True)),
        pooled=pooled,
        pooling=pooling,
        finish=by_attention if attends else plainly,
        extras=[((), {})] * len(blocks),
        last_matrix=visual.proj,
        reading=_reading(blocks[-1]) if pooled == {"cls"} else None,
        chain=None if attends else (visual.ln_post, visual.proj),
        norm_first=not visual.final_ln_after_pool,
    )


def _reading(block: nn.Module) -> Callable[[Tensor, Tensor], Tensor] | None:
    """A function of open_clip's plain residual block for versions of its first token; None for other kinds.

    Keys and values of the other tokens are computed once for all versions; no gradient passes through them.
    """
    attention = getattr(block, "attn", None)
    if not isinstance(block, ResidualAttentionBlock) or not isinstance(attention, nn.MultiheadAttention):
        return None
    # A subclass may do more.
    if type(block) is not ResidualAttentionBlock or type(attention) is not nn.MultiheadAttention:
        return None
    if hasattr(block, "ln_1_kv") or attention.in_proj_weight is None or attention.bias_k is not None:
        return None
    if attention.add_zero_attn or attention.dropout:
        return None

    def read(own: Tensor, others: Tensor) -> Tensor:
        weights = attention.in_proj_weight.chunk(3)
        biases = [None] * 3 if attention.in_proj_bias is None else attention.in_proj_bias.chunk(3)

        def heads(tokens: Tensor, which: int) -> Tensor:
            """Queries, keys or values, (batch, heads, tokens, width of a head)."""
            mapped = functional.linear(tokens, weights[which], biases[which])
            return mapped.unflatten(2, (attention.num_heads, -1)).transpose(1, 2)

        first, rest = block.ln_1(own), block.ln_1(others)
        query, key, value = (heads(first, which) for which in range(3))
        # A version attends to itself and the other tokens, not to other versions. As in fused attention, scores of half
        # precision are summed in float32.
        wide = torch.promote_types(query.dtype, torch.float32)
        apart = (query.to(wide) * key.to(wide)).sum(-1, keepdim=True)
        scores = torch.cat([apart, query.to(wide) @ heads(rest, 1).mT.to(wide)], dim=-1)
        share = (scores * query.shape[-1] ** -0.5).softmax(-1).to(query.dtype)
        mixed = share[..., :1] * value + share[..., 1:] @ heads(rest, 2)
        stream = own + block.ls_1(attention.out_proj(mixed.transpose(1, 2).flatten(2)))
        return stream + block.ls_2(block.mlp(block.ln_2(stream)))

    return read
