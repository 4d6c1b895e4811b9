"""The image tower as sites address it: blocks that hand one stream of tokens on, and what turns it into features.

Owns `Tower` and how the rest of it runs from any block. How a module is read as a `Tower` is in towers.py (open_clip's
own) and traced.py (timm's and transformers'). Start at `Tower`.
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
        chain: what follows the pooling, as `tails.read_chain` takes it; None where that is not known. norm_first: its
            LayerNorm comes before an average over tokens.
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
        """What follows the last block's class token or patches, if it has a closed form; read from the weights now.

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
