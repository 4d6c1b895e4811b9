"""Places: the written form of a site, where activations are read or replaced.

Owns `Site`: its grammar, equality of spellings, whether a site reaches the embedding, and its tail. Ignores how
activations are read (`clipattr/sites.py`). Start at `Site`.
"""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from clipattr.errors import SiteError
from clipattr.models.streams import RESIDUAL, STREAMS
from clipattr.models.tails import Tail

if TYPE_CHECKING:
    from clipattr.models.loading import Model

TOKENS = {"image": ("cls", "patches", "all"), "text": ("eot", "tokens")}
EMBEDDING = "embedding"


@dataclass(frozen=True, init=False)
class Site:
    """A place where activations are read or replaced, written `tower.block.tokens` or `tower.embedding`.

    `image.-1.cls` is the residual stream after the last image block at the class token; `.patches` are the patch tokens
    row by row, `.all` the class token followed by them. A place inside the block is written
    `tower.block.stream.tokens`, with the stream `attn_out` or `mlp_out` (what attention or MLP adds), `resid_mid` (the
    stream between the two) or `mlp_in` (its LayerNorm, the MLP's input), e.g. `image.3.mlp_out.all`. `image.embedding`
    is what the tower puts out before it is divided by its length; every model has it. Negative blocks count from the
    end and stay as written: `image.-1.cls` and `image.11.cls` are two spellings of one place in a model of twelve
    blocks (see `canonical`). In the text tower `text.-1.eot` is the stream at the token that is pooled (the end mark of
    most models), `text.-1.tokens` the stream at all tokens, begin and end marks and padding included, and
    `text.embedding` the features of a text. Sites of the text tower are read with texts in place of pictures.

    Attributes:
        tower: "image" or "text". block: None at the embedding. tokens: "cls", "patches", "all", "eot", "tokens" or
            "embedding".
        stream: "resid_post" at a block's output, which is not written, and at the embedding.

    Raises:
        SiteError: the text is not a site.

    >>> Site("image.-1.cls").block, str(Site("image.embedding"))
    (-1, 'image.embedding')
    """

    tower: str
    block: int | None
    tokens: str
    stream: str

    def __init__(self, written: "str | Site"):
        text = str(written)
        parts = re.fullmatch(r"(\w+)\.(?:(-?\d+)\.(?:([a-z_]+)\.)?)?(\w+)", text)
        if parts is None or (parts[2] is None) != (parts[4] == EMBEDDING):
            advice = "a site is written tower.block.tokens, e.g. image.-1.cls, or image.embedding"
            if text.endswith((".pooled", f".{EMBEDDING}")):
                advice = (
                    "what comes out of a tower is image.embedding before it is normalised, and model.encode_image or "
                    "model.encode_text at unit length"
                )
            raise SiteError(f"{written!r} is not a site: {advice}.")
        tower, block, tokens = parts[1], None if parts[2] is None else int(parts[2]), parts[4]
        stream = parts[3] or RESIDUAL
        if tower not in TOKENS:
            raise SiteError(f"{written!r} names the tower {tower!r}; there are {' and '.join(TOKENS)}.")
        if tokens not in (*TOKENS[tower], EMBEDDING):
            raise SiteError(
                f"{written!r} names the tokens {tokens!r}; the {tower} tower has {', '.join(TOKENS[tower])}."
            )
        if stream not in STREAMS or (stream != RESIDUAL and tower != "image"):
            before = " What comes before a block is the output of the block before it." * (
                stream == "resid_pre"
            )
            raise SiteError(
                f"{written!r} names the stream {stream!r}; blocks of the image tower have {', '.join(STREAMS)}.{before}"
            )
        object.__setattr__(self, "tower", tower)
        object.__setattr__(self, "block", block)
        object.__setattr__(self, "tokens", tokens)
        object.__setattr__(self, "stream", stream)

    def __str__(self) -> str:
        if self.block is None:
            return f"{self.tower}.{self.tokens}"
        stream = "" if self.stream == RESIDUAL else f"{self.stream}."
        return f"{self.tower}.{self.block}.{stream}{self.tokens}"

    def __repr__(self) -> str:
        return f"Site({str(self)!r})"

    @property
    def is_embedding(self) -> bool:
        """Whether this is a tower's output before normalisation."""
        return self.block is None

    @property
    def is_text(self) -> bool:
        """Whether this is a site of the text tower, which is read with texts."""
        return self.tower == "text"

    @property
    def is_inside(self) -> bool:
        """Whether the site is inside a block, not at its output."""
        return self.stream != RESIDUAL

    @property
    def is_single(self) -> bool:
        """Whether a picture or text has one vector (width,) here, not several tokens."""
        return self.tokens in ("cls", "eot", EMBEDDING)

    def index(self, model: "Model") -> int:
        """Index of the block in a model, counted from 0.

        Raises:
            SiteError: the model has no such block, no class token or no single pooled token, no sites in that tower,
                or the site is the embedding, which belongs to no block.
        """
        if self.block is None:
            raise SiteError(f"{self} is the output of the tower and belongs to no block.")
        if self.is_text:
            return self._text_index(model, self.block)
        n = model.image_blocks
        if self.tokens == "cls" and not model.image_tower.has_class_token:
            raise SiteError(
                f"{self}: the image tower of {model.reference} has no class token. Its sites are "
                f"image.{self.block}.patches, image.{self.block}.all and image.embedding."
            )
        if not -n <= self.block < n:
            raise SiteError(f"{self}: {model.reference} has {n} image blocks, 0 to {n - 1} or -{n} to -1.")
        return self.block % n

    def _text_index(self, model: "Model", block: int) -> int:
        tower = model.text_tower
        if self.tokens == "eot" and tower.rule is None:
            raise SiteError(
                f"{self}: the text tower of {model.reference} pools {tower.pooling}, so no single token represents the "
                f"text. Its sites are text.{block}.tokens and text.embedding."
            )
        n = len(tower.blocks)
        if not -n <= block < n:
            raise SiteError(f"{self}: {model.reference} has {n} text blocks, 0 to {n - 1} or -{n} to -1.")
        return block % n

    def canonical(self, model: "Model") -> "Site":
        """The canonical spelling of this site, with the block counted from the end.

        Raises:
            SiteError: as for `index`.
        """
        if self.is_embedding:
            return self
        if self.is_text:
            return Site(f"text.{self.index(model) - len(model.text_tower.blocks)}.{self.tokens}")
        tokens = "patches" if self.tokens == "all" and not model.image_tower.prefix else self.tokens
        stream = f".{self.stream}" if self.is_inside else ""
        return Site(f"{self.tower}.{self.index(model) - model.image_blocks}{stream}.{tokens}")

    def is_same(self, other: "str | Site", model: "Model") -> bool:
        """Whether two spellings name one site of a model; False where it lacks one of them (no SiteError)."""
        try:
            return self.canonical(model) == Site(other).canonical(model)
        except SiteError:
            return False

    def tail(self, model: "Model") -> Tail | None:
        """The tail behind this site where effects have a closed form, else None.

        Every model has a tail at `image.embedding` (division by the length). After the last block, pooled tokens have
        one if pooling takes the class token or a mean, followed only by a LayerNorm and a linear map.

        Raises:
            SiteError: as for `index`.
        """
        if self.is_embedding:
            return Tail(model.embed_dim)
        if self.is_text:
            last = self.index(model) == len(model.text_tower.blocks) - 1
            return model.text_tower.tail() if last and self.tokens == "eot" else None
        if self.is_inside or self.index(model) < model.image_blocks - 1:
            return None
        return model.image_tower.tail(self.tokens)

    def shape(self, model: "Model") -> tuple[int, ...]:
        """Shape of one picture's or text's activation here: (width,) where `is_single`, else (tokens, width).

        Texts may be padded to the longest of a batch, so that they have fewer tokens than this says.

        Raises:
            SiteError: the tower's blocks are unknown; in the text tower also as for `index`.
        """
        if self.is_embedding:
            return (model.embed_dim,)
        if self.is_text:
            self.index(model)
            width = model.text_tower.width
            return (width,) if self.tokens == "eot" else (model.context_length, width)
        if self.tokens == "cls":
            return (model.image_width,)
        before = model.image_tower.prefix if self.tokens == "patches" else 0
        return (model.image_tokens - before, model.image_width)

    def width(self, model: "Model") -> int:
        """Length of one activation vector here: of the residual stream, or of the embedding.

        Raises:
            SiteError: as for `shape`.
        """
        return self.shape(model)[-1]

    def reaches_embedding(self, model: "Model") -> bool:
        """Whether the embedding depends on the activation here; after the last block only pooled tokens do.

        Raises:
            SiteError: as for `index`.
        """
        if self.is_embedding or self.is_text:
            return True
        if self.index(model) < model.image_blocks - 1 or self.tokens == "all":
            return True
        return self.tokens in model.image_tower.pooled

    def require_reach(self, model: "Model") -> None:
        """Check that the activation here affects the embedding.

        Raises:
            SiteError: it has no effect (the message names sites that have one), or as for `index`.
        """
        if self.reaches_embedding(model):
            return
        tower = model.image_tower
        other = "cls" if "cls" in tower.pooled else "patches"
        raise SiteError(
            f"{self}: after the last block only the {tower.pooling} reaches the embedding of {model.reference}, so "
            f"nothing here has any effect and every attribution would be exactly zero. Use image.{self.block}.{other}, "
            f"or {self.tokens} of an earlier block, e.g. image.-2.{self.tokens}."
        )

    def needs_context(self, model: "Model") -> bool:
        """Whether the rest of the model depends on more than the activation here.

        It may depend on other tokens; inside a block, on the stream that the activation is added to; in the text tower,
        on the token ids.

        Raises:
            SiteError: as for `index`.
        """
        if self.is_text:
            return self.tail(model) is None
        if self.is_inside:
            return self.reaches_embedding(model)
        if self.is_embedding or self.tokens == "all" or not self.reaches_embedding(model):
            return False
        return self.index(model) < model.image_blocks - 1 or model.image_tower.pooled != {self.tokens}

    def read(self, stream: Tensor, model: "Model") -> Tensor:
        """The site's tokens from all tokens of its block.

        Args:
            stream: (batch, tokens, width), all tokens of the block.
            model: a `Model`.

        Returns:
            (batch, width) at `cls`, else (batch, tokens of the site, width); a view.
        """
        if self.tokens == "cls":
            return stream[:, 0]
        return stream[:, model.image_tower.prefix :] if self.tokens == "patches" else stream


def default_site(model: "Model") -> Site:
    """Default site of a study: the class token after the last block where it has a closed-form tail, else the
    embedding."""
    site = Site("image.-1.cls")
    try:
        return site if site.tail(model) is not None else Site("image.embedding")
    except SiteError:
        return Site("image.embedding")
