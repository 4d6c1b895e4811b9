"""Towers: what an image tower consists of, so that sites can address it.

Owns the reading of open_clip's own vision transformers and of those that open_clip takes from timm: their blocks, how
many tokens come before the patches, what the pooling reads, and how the stream becomes features. Ignores weights,
texts and what is done at a site. Start at `read_tower`.

timm's towers are read by what they have (`blocks`, `norm`, `forward_head`), and what was read is tried on one picture
against the tower's own output before it is trusted: a tower that keeps something beside its stream is refused.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from clipattr.errors import SiteError

SITES = "image.<block>.cls, .patches and .all exist for vision transformers, open_clip's own and timm's"
_NEEDED = ("blocks", "norm", "forward_head", "num_prefix_tokens", "embed_dim")


@dataclass(frozen=True)
class Tower:
    """An image tower whose blocks hand one stream of tokens on.

    Attributes:
        visual: the module. blocks: its residual blocks, first to last.
        width: of the stream. tokens: in the stream. prefix: how many of them come before the patches.
        has_class_token: whether the first token is one. grid: (rows, columns) of patches.
        batch_first: whether blocks take (batch, tokens, width).
        pooled: which tokens the embedding depends on after the last block: "cls", "patches" or both.
        pooling: the same in words.
        finish: (batch, tokens, width) after the last block to features; where only the class token is pooled, that
            token alone, (batch, 1, width), will do.
        extras: further arguments of each block (rotary embeddings), the same for all pictures.
        last_matrix: the last matrix before the embedding, None where a plain tower has no projection.
        reading: the last block for the class token alone: from versions of that token, (batch, versions, width), and
            the other tokens to what becomes of each version; None where more is pooled, or where the block is of a
            kind that is not known from inside.
    """

    visual: nn.Module
    blocks: list[nn.Module]
    width: int
    tokens: int
    prefix: int
    has_class_token: bool
    grid: tuple[int, int]
    batch_first: bool
    pooled: frozenset[str]
    pooling: str
    finish: Callable[[Tensor], Tensor]
    extras: Sequence[tuple[tuple, dict[str, Any]]]
    last_matrix: Tensor | None
    reading: Callable[[Tensor, Tensor], Tensor] | None = None

    def reads_next(self, after: int) -> bool:
        """Whether the last block comes right behind `after` and may be computed for the class token alone.

        No hook may sit in that block: whoever watches or changes it expects all of its tokens.
        """
        return self._alone() and after == len(self.blocks) - 2

    def _alone(self) -> bool:
        return self.reading is not None and not any(
            part._forward_hooks or part._forward_pre_hooks for part in self.blocks[-1].modules()
        )

    def run(self, stream: Tensor, after: int) -> Tensor:
        """The rest of the tower from the stream (batch, tokens, width) behind block `after` to its features."""
        last = len(self.blocks) - 1
        if after < last and self._alone():
            stream = self._through(stream, after + 1, last)
            return self.read_versions(stream[:, :1], stream)
        return self.finish(self._through(stream, after + 1, last + 1))

    def read_versions(self, own: Tensor, stream: Tensor) -> Tensor:
        """Features of several class tokens per picture, each as if it were the picture's, through the last block.

        Args:
            own: (batch, versions, width), the class tokens that the last block is given.
            stream: (batch, tokens, width), whose other tokens it is given.

        Returns:
            (batch · versions, features), the versions of a picture one behind the other.
        """
        assert self.reading is not None
        return self.finish(self.reading(own, stream[:, 1:]).flatten(0, 1)[:, None])

    def _through(self, stream: Tensor, start: int, stop: int) -> Tensor:
        if start >= stop:
            return stream
        stream = stream if self.batch_first else stream.transpose(0, 1)
        for block, (arguments, named) in zip(self.blocks[start:stop], self.extras[start:stop], strict=True):
            stream = block(stream, *arguments, **named)
        return stream if self.batch_first else stream.transpose(0, 1)


def read_tower(visual: nn.Module, reference: str) -> Tower:
    """What an image tower consists of.

    Args:
        reference: the model's name, for errors.

    Raises:
        SiteError: the tower has no stream of tokens that sites can address, or gives no single embedding.
    """
    if isinstance(visual, VisionTransformer):
        return _own(visual, reference)
    trunk = getattr(visual, "trunk", None)
    if trunk is not None and all(hasattr(trunk, name) for name in _NEEDED):
        return _timm(visual, trunk, reference)
    kind = type(visual).__name__ + (f" ({type(trunk).__name__} from timm)" if trunk is not None else "")
    raise SiteError(
        f"{reference}: its image tower is a {kind}, which has no sites here: {SITES}. "
        "It still encodes pictures and texts, for instance as an evaluator."
    )


def _own(visual: VisionTransformer, reference: str) -> Tower:
    attends = visual.attn_pool is not None
    if visual.pool_type not in ("tok", "avg") or getattr(visual, "attn_pool_contrastive", None) is not None:
        raise SiteError(
            f"{reference}: its image tower does not pool its tokens to one embedding, so there is nothing to "
            f"attribute: {SITES} that pool by class token, by mean or by attention."
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
    )


def _reading(block: nn.Module) -> Callable[[Tensor, Tensor], Tensor] | None:
    """A residual block of open_clip's plain kind for versions of its first token; None for other kinds.

    Only keys and values of the other tokens are needed, once for all versions, and no gradient passes through them.
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
        # A version sees itself and the other tokens, not the other versions. Scores of half precision are summed up in
        # float32, as fused attention does.
        wide = torch.promote_types(query.dtype, torch.float32)
        apart = (query.to(wide) * key.to(wide)).sum(-1, keepdim=True)
        scores = torch.cat([apart, query.to(wide) @ heads(rest, 1).mT.to(wide)], dim=-1)
        share = (scores * query.shape[-1] ** -0.5).softmax(-1).to(query.dtype)
        mixed = share[..., :1] * value + share[..., 1:] @ heads(rest, 2)
        stream = own + block.ls_1(attention.out_proj(mixed.transpose(1, 2).flatten(2)))
        return stream + block.ls_2(block.mlp(block.ln_2(stream)))

    return read


def _timm(visual: nn.Module, trunk: Any, reference: str) -> Tower:
    blocks: list[nn.Module] = list(trunk.blocks)

    def finish(stream: Tensor) -> Tensor:
        return visual.head(trunk.forward_head(trunk.norm(stream)))  # type: ignore[operator]

    own, first, last, extras = _watched(visual, blocks)
    prefix = int(trunk.num_prefix_tokens)
    matrices = [
        parameter
        for module in (getattr(trunk, "attn_pool", None), getattr(trunk, "head", None), visual.head)
        if isinstance(module, nn.Module)
        for parameter in module.parameters()
        if parameter.ndim == 2
    ]
    grid = tuple(getattr(trunk.patch_embed, "grid_size", None) or ())
    fits = (
        last is not None
        and first is not None
        and last.ndim == 3
        and isinstance(own, Tensor)
        and own.ndim == 2
        and len(extras) == len(blocks)
        and len(grid) == 2
        and last.shape[1] == prefix + grid[0] * grid[1]
    )
    if fits:
        assert first is not None and last is not None
        with torch.no_grad():
            again = first
            for block, (arguments, named) in zip(blocks, extras, strict=True):
                again = block(again, *arguments, **named)
            fits = _same(again, last) and _same(finish(last), own)
    if not fits:
        raise SiteError(
            f"{reference}: its image tower is a {type(trunk).__name__} from timm that does more than hand one stream "
            f"of tokens through its blocks to its pooling, which sites do not follow: {SITES}. It still encodes "
            "pictures and texts, for instance as an evaluator."
        )
    assert last is not None
    pooled, pooling = _pooled(finish, last, prefix)
    return Tower(
        visual=visual,
        blocks=blocks,
        width=last.shape[2],
        tokens=last.shape[1],
        prefix=prefix,
        has_class_token=getattr(trunk, "cls_token", None) is not None,
        grid=(int(grid[0]), int(grid[1])),
        batch_first=True,
        pooled=pooled,
        pooling=pooling,
        finish=finish,
        extras=extras,
        last_matrix=matrices[-1] if matrices else None,
    )


def _watched(
    visual: nn.Module, blocks: list[nn.Module]
) -> tuple[Any, Tensor | None, Tensor | None, list[tuple[tuple, dict[str, Any]]]]:
    """One picture of noise through the tower: its features, the first block's input, the last block's output, and
    what else each block was called with."""
    extras: list[tuple[tuple, dict[str, Any]]] = []
    ends: list[Any] = []
    owner = threading.get_ident()

    def before(_module: nn.Module, given: tuple, named: dict[str, Any]) -> None:
        if threading.get_ident() == owner:
            if not extras:
                ends.append(given[0])
            extras.append((given[1:], dict(named)))

    def behind(_module: nn.Module, _given: Any, output: Any) -> None:
        if threading.get_ident() == owner:
            ends.append(output)

    handles = [block.register_forward_pre_hook(before, with_kwargs=True) for block in blocks]
    handles.append(blocks[-1].register_forward_hook(behind))
    parameter = next(visual.parameters())
    noise = torch.randn(1, 3, *visual.image_size, generator=torch.Generator().manual_seed(0))  # type: ignore[misc]
    try:
        with torch.no_grad():
            features = visual(noise.to(parameter.device, parameter.dtype))
    finally:
        for handle in handles:
            handle.remove()
    tensors = [end if isinstance(end, Tensor) else None for end in ends]
    return features, tensors[0] if tensors else None, tensors[-1] if len(tensors) > 1 else None, extras


def _same(found: Any, own: Tensor) -> bool:
    if not isinstance(found, Tensor) or found.shape != own.shape:
        return False
    tolerance = 1e-3 if own.dtype in (torch.float32, torch.float64) else 5e-2
    return bool((found - own).norm() <= tolerance * own.norm())


def _pooled(finish: Callable[[Tensor], Tensor], stream: Tensor, prefix: int) -> tuple[frozenset[str], str]:
    """Which tokens the features depend on, by their gradients, which are exactly zero for the others."""
    with torch.enable_grad():
        leaf = stream.detach().requires_grad_()
        (slopes,) = torch.autograd.grad(finish(leaf).square().sum(), leaf)
    moving = slopes[0].abs().amax(1) > 0
    if moving[prefix:].any():
        if moving[:prefix].any():
            return frozenset({"cls", "patches"}), "pooling over all tokens"
        # Without a class token the patches are all there is, and they are pooled by mean or by attention.
        return frozenset({"patches"}), "pooling over patches"
    with torch.no_grad():
        alone = moving[0] and not moving[1:].any() and _same(finish(stream[:, :1]), finish(stream))
    return (frozenset({"cls"}), "class token") if alone else (frozenset({"cls", "patches"}), "prefix tokens")
