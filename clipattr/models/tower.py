"""The image tower as sites address it: blocks with one stream of tokens, and the pooling to features.

Owns `Tower` and its forward pass from any block. How a module is read as a `Tower` is in towers.py (open_clip) and
traced.py (timm and transformers). Start at `Tower`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from clipattr.models.tails import MEAN, TOKEN, Tail, read_chain

SITES = "image.<block>.cls, .patches and .all exist for vision transformers, open_clip's own, timm's and transformers'"
EMBEDDING = "image.embedding, the tower's features before they are normalised, exists for every model"


@dataclass(frozen=True)
class Tower:
    """An image tower whose blocks pass one stream of tokens.

    Attributes:
        visual: the module. blocks: its residual blocks, first to last.
        width: of the stream. tokens: in the stream. prefix: number of tokens before the patches.
        has_class_token: whether the first token is one. grid: (rows, columns) of patches.
        batch_first: whether blocks take (batch, tokens, width).
        pooled: tokens on which the embedding depends after the last block: "cls", "patches" or both.
        pooling: the same in words.
        finish: function from the stream after the last block, (batch, tokens, width), to features; where only the class
            token is pooled, (batch, 1, width) is sufficient.
        extras: further arguments of each block (rotary embeddings), equal for all pictures.
        last_matrix: the last matrix before the embedding, None without a projection.
        reading: function of the last block for the class token only: from versions of this token,
            (batch, versions, width), and the other tokens to the output of each version; None where other tokens are
            pooled, or for unknown kinds of blocks.
        chain: the modules after pooling, as `tails.read_chain` takes them; None where unknown.
        norm_first: whether their LayerNorm comes before an average over tokens.
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
    chain: tuple[Any, ...] | None = None
    norm_first: bool = False

    def tail(self, tokens: str) -> Tail | None:
        """The closed-form tail behind the last block's class token or patches, from the current weights; else None.

        Args:
            tokens: "cls", "patches" or "all".
        """
        if tokens == "all" and not self.prefix:
            tokens = "patches"
        if self.chain is None or self.pooled != {tokens}:
            return None
        if tokens == "cls":
            return read_chain(self.chain, self.width, TOKEN)
        return read_chain(self.chain, self.width, MEAN, self.norm_first)

    def reads_next(self, after: int) -> bool:
        """Whether the last block follows block `after` and can be computed for the class token only.

        This requires that no hook is set in the last block, as hooks expect all of its tokens.
        """
        return self._alone() and after == len(self.blocks) - 2

    def _alone(self) -> bool:
        return self.reading is not None and not any(
            part._forward_hooks or part._forward_pre_hooks for part in self.blocks[-1].modules()
        )

    def run(self, stream: Tensor, after: int) -> Tensor:
        """Features from the stream (batch, tokens, width) after block `after`."""
        last = len(self.blocks) - 1
        if after < last and self._alone():
            stream = self._through(stream, after + 1, last)
            return self.read_versions(stream[:, :1], stream)
        return self.finish(self._through(stream, after + 1, last + 1))

    def read_versions(self, own: Tensor, stream: Tensor) -> Tensor:
        """Features of several versions of each picture's class token, through the last block.

        Args:
            own: (batch, versions, width), class tokens at the input of the last block.
            stream: (batch, tokens, width), input of the last block with the other tokens.

        Returns:
            (batch · versions, features), the versions of a picture adjacent.
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
