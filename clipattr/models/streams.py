"""Streams: the sites inside a residual block.

Owns where a block computes them and how the rest of the block continues from them. Sites are addressed in `sites.py`.
Start at `STREAMS`.

    resid_pre -> + attn_out -> resid_mid -> + mlp_out -> resid_post          mlp_in = LayerNorm(resid_mid)
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from open_clip.transformer import CustomResidualAttentionBlock, ResidualAttentionBlock
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from clipattr.errors import SiteError

RESIDUAL = "resid_post"
# Streams of a site. resid_post is the block's output, which the written form omits; the stream before block L is the
# output of block L - 1.
STREAMS = (RESIDUAL, "resid_mid", "attn_out", "mlp_in", "mlp_out")
BEFORE = "resid_pre"  # the block's input; not a site of its own


@dataclass(frozen=True)
class Inside:
    """The parts of one block: x = x + attended(attention(x)), then x = x + scaled(mlp(norm(x))).

    Attributes:
        block: the whole. attended, scaled: modules whose outputs are attn_out and mlp_out.
        norm: the LayerNorm before the MLP, whose input is resid_mid. mlp: the MLP.
    """

    block: nn.Module
    attended: nn.Module
    norm: nn.Module
    mlp: nn.Module
    scaled: nn.Module
    between: nn.Module | None = None

    def mlp_out(self, normed: Tensor) -> Tensor:
        """What the block adds for an MLP input (…, width)."""
        hidden = self.mlp(normed)
        return self.scaled(hidden if self.between is None else self.between(hidden))

    def finish(self, mid: Tensor) -> Tensor:
        """The block's output from resid_mid (…, width)."""
        return mid + self.mlp_out(self.norm(mid))


def inside(block: nn.Module, reference: str, site: object) -> Inside:
    """The parts of a block.

    Args:
        reference: the model's name, for errors.
        site: the requested site, for errors.

    Raises:
        SiteError: an unknown kind of block.
    """
    # Exact types, since a subclass may compute something else.
    if type(block) in (ResidualAttentionBlock, CustomResidualAttentionBlock):
        return Inside(block, block.ls_1, block.ln_2, block.mlp, block.ls_2)  # type: ignore[arg-type]
    if type(block) is Block:
        return Inside(block, block.drop_path1, block.norm2, block.mlp, block.drop_path2, block.ls2)
    raise SiteError(
        f"{site}: the blocks of {reference} are {type(block).__name__}s, of which only the output is known; "
        "sites there are written without a stream, e.g. image.-1.cls. Streams inside a block exist for open_clip's own "
        "vision transformers and timm's plain ones."
    )


Pick = Callable[[tuple, Tensor], Tensor]


def tap(parts: Inside | nn.Module, stream: str) -> tuple[nn.Module, Pick]:
    """The module to hook for a stream, and a function that reads the stream from its inputs and output."""
    if isinstance(parts, nn.Module):
        return parts, _output
    if stream in (RESIDUAL, BEFORE):
        return parts.block, _output if stream == RESIDUAL else _first_input
    if stream in ("resid_mid", "mlp_in"):
        return parts.norm, _first_input if stream == "resid_mid" else _output
    return (parts.attended if stream == "attn_out" else parts.scaled), _output


def _output(_inputs: tuple, output: Tensor) -> Tensor:
    return output


def _first_input(inputs: tuple, _output: Tensor) -> Tensor:
    return inputs[0]


def frame_streams(stream: str) -> tuple[str, str]:
    """The streams that make the frame of a site (see `continued`): at its own tokens, and at the others."""
    return {
        "resid_mid": ("resid_mid", "resid_mid"),
        "attn_out": (BEFORE, "resid_mid"),
        "mlp_in": ("resid_mid", RESIDUAL),
        "mlp_out": ("resid_mid", RESIDUAL),
    }[stream]


def continued(parts: Inside, stream: str, acts: Tensor, frame: Tensor, own: slice) -> Tensor:
    """The block's output (batch, tokens, width) with a stream set at some tokens.

    Args:
        acts: (batch, own tokens, width), the stream's values at the tokens `own`.
        frame: (batch, tokens, width), what they are added to at the tokens `own`, and what the other tokens are at
            that point of the block: see `frame_streams`.
    """
    if stream == "mlp_in":
        acts, stream = parts.mlp_out(acts), "mlp_out"
    new = acts if stream == "resid_mid" else frame[:, own] + acts
    stop = frame.shape[1] if own.stop is None else own.stop
    whole = torch.cat([frame[:, : own.start or 0], new, frame[:, stop:]], 1)
    return whole if stream == "mlp_out" else parts.finish(whole)
