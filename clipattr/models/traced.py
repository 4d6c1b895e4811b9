"""Traced towers: vision transformers of timm and transformers, whose structure is verified on a trial picture.

The arguments of each block are recorded on one picture of noise, and the structure that was read must reproduce the
tower's output on it. A tower with state other than its stream is refused; `image.embedding` remains available. Start at
`read_timm` and `read_described`.
"""

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from clipattr.errors import SiteError
from clipattr.models.tails import MEAN, TOKEN, read_chain
from clipattr.models.tower import EMBEDDING, SITES, Tower

# Required attributes of a trunk of timm, and of a tower that describes itself.
TIMM = ("blocks", "norm", "forward_head", "num_prefix_tokens", "embed_dim")
DESCRIBED = ("layers", "finish", "prefix", "grid", "chain", "kind")


def read_timm(visual: nn.Module, trunk: Any, reference: str) -> Tower:
    """A vision transformer of timm inside open_clip; SiteError where it has state other than its stream."""
    blocks: list[nn.Module] = list(trunk.blocks)

    def finish(stream: Tensor) -> Tensor:
        return visual.head(trunk.forward_head(trunk.norm(stream)))  # type: ignore[operator]

    prefix = int(trunk.num_prefix_tokens)
    grid = tuple(getattr(trunk.patch_embed, "grid_size", None) or ())
    last, extras = _tried(
        visual, blocks, finish, prefix, grid, f"a {type(trunk).__name__} from timm", reference
    )
    matrices = [
        parameter
        for module in (getattr(trunk, "attn_pool", None), getattr(trunk, "head", None), visual.head)
        if isinstance(module, nn.Module)
        for parameter in module.parameters()
        if parameter.ndim == 2
    ]
    pooled = _pooled(finish, last, prefix)
    chain, norm_first = _timm_chain(visual, trunk, finish, last, prefix, pooled[0])
    tower = _tower(visual, blocks, prefix, grid, finish, last, extras, pooled, chain)
    return replace(
        tower,
        has_class_token=getattr(trunk, "cls_token", None) is not None,
        last_matrix=matrices[-1] if matrices else None,
        norm_first=norm_first,
    )


def read_described(visual: Any, reference: str) -> Tower:
    """A tower that describes its structure (`layers`, `finish`, `prefix`, `grid`, `chain`), which is verified."""
    blocks, prefix, grid = list(visual.layers), int(visual.prefix), tuple(visual.grid)
    last, extras = _tried(visual, blocks, visual.finish, prefix, grid, f"a {visual.kind}", reference)
    pooled = _pooled(visual.finish, last, prefix)
    chain = tuple(visual.chain) if pooled[0] == {"cls"} else None
    if chain is not None:
        tail = read_chain(chain, last.shape[2])
        with torch.no_grad():
            chain = chain if tail and same(tail.features(last[:, 0]), visual.finish(last)) else None
    tower = _tower(visual, blocks, prefix, grid, visual.finish, last, extras, pooled, chain)
    return replace(tower, last_matrix=visual.last_matrix)


def _tower(
    visual: Any,
    blocks: list[nn.Module],
    prefix: int,
    grid: tuple[Any, ...],
    finish: Callable[[Tensor], Tensor],
    last: Tensor,
    extras: list[tuple[tuple[Any, ...], dict[str, Any]]],
    pooled: tuple[frozenset[str], str],
    chain: Any,
) -> Tower:
    """A tower whose last block puts out `last` for one picture; a first token, if any, counts as a class token."""
    return Tower(
        visual=visual,
        blocks=blocks,
        width=last.shape[2],
        tokens=last.shape[1],
        prefix=prefix,
        has_class_token=prefix > 0,
        grid=(int(grid[0]), int(grid[1])),
        batch_first=True,
        pooled=pooled[0],
        pooling=pooled[1],
        finish=finish,
        extras=extras,
        last_matrix=None,
        chain=chain,
    )


def _tried(
    visual: nn.Module,
    blocks: list[nn.Module],
    finish: Callable[[Tensor], Tensor],
    prefix: int,
    grid: tuple[int, ...],
    kind: str,
    reference: str,
) -> tuple[Tensor, list[tuple[tuple, dict[str, Any]]]]:
    """The last block's output for one picture of noise, and the further arguments of each block.

    Raises:
        SiteError: the blocks in sequence, followed by `finish`, do not reproduce the tower's output.
    """
    own, first, last, extras = _watched(visual, blocks)
    if (
        last is not None
        and first is not None
        and last.ndim == 3
        and isinstance(own, Tensor)
        and own.ndim == 2
        and len(extras) == len(blocks)
        and len(grid) == 2
        and last.shape[1] == prefix + grid[0] * grid[1]
    ):
        with torch.no_grad():
            again = first
            for block, (arguments, named) in zip(blocks, extras, strict=True):
                again = block(again, *arguments, **named)
            if same(again, last) and same(finish(last), own):
                return last, extras
    raise SiteError(
        f"{reference}: its image tower is {kind} that does more than pass one stream of tokens through its blocks to "
        f"its pooling, which sites do not support: {SITES}. {EMBEDDING}: attribute and audit there."
    )


def _timm_chain(
    visual: nn.Module,
    trunk: Any,
    finish: Callable[[Tensor], Tensor],
    last: Tensor,
    prefix: int,
    pooled: frozenset[str],
) -> tuple[tuple[Any, ...] | None, bool]:
    """The modules after timm's pooling, and whether the LayerNorm comes before it; None where verification fails.

    The modules are read by name, and must reproduce the tower's output on the stream of one picture.
    """
    if pooled not in ({"cls"}, {"patches"}):
        return None, False
    first, second = trunk.norm, getattr(trunk, "fc_norm", None)
    rest = (second, getattr(trunk, "head", None), visual.head)
    tokens, pooling = (last[:, 0], TOKEN) if pooled == {"cls"} else (last[:, prefix:], MEAN)
    norm_first = isinstance(first, nn.LayerNorm)
    tail = read_chain((first, *rest), last.shape[2], pooling, norm_first)
    if tail is None:
        return None, False
    with torch.no_grad():
        fits = same(tail.features(tokens), finish(last))
    return ((first, *rest), norm_first) if fits else (None, False)


def _watched(
    visual: nn.Module, blocks: list[nn.Module]
) -> tuple[Any, Tensor | None, Tensor | None, list[tuple[tuple, dict[str, Any]]]]:
    """Forward pass of one picture of noise: features, first block's input, last block's output, and the further
    arguments of each block."""
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


def same(found: Any, own: Tensor) -> bool:
    """Whether a result equals the tower's own output within rounding."""
    if not isinstance(found, Tensor) or found.shape != own.shape:
        return False
    tolerance = 1e-3 if own.dtype in (torch.float32, torch.float64) else 5e-2
    return bool((found - own).norm() <= tolerance * own.norm())


def _pooled(finish: Callable[[Tensor], Tensor], stream: Tensor, prefix: int) -> tuple[frozenset[str], str]:
    """The tokens on which the features depend: those with a gradient that is not exactly zero."""
    with torch.enable_grad():
        leaf = stream.detach().requires_grad_()
        (slopes,) = torch.autograd.grad(finish(leaf).square().sum(), leaf)
    moving = slopes[0].abs().amax(1) > 0
    if moving[prefix:].any():
        if moving[:prefix].any():
            return frozenset({"cls", "patches"}), "pooling over all tokens"
        # Without a class token, patches are pooled by mean or by attention.
        return frozenset({"patches"}), "pooling over patches"
    with torch.no_grad():
        alone = moving[0] and not moving[1:].any() and same(finish(stream[:, :1]), finish(stream))
    return (frozenset({"cls"}), "class token") if alone else (frozenset({"cls", "patches"}), "prefix tokens")
