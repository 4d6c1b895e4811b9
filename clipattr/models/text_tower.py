"""The text tower as sites address it: blocks that hand one stream of tokens on, and the token that is pooled.

Owns the reading of text towers of open_clip and transformers. The pooled token is found by trial: on a few texts, the
gradient of the features at the last block's output shows which tokens count, and a rule that names these tokens is
kept. What follows is tried on the same texts before it is used as a closed form. Ignores hooks that stay.
Start at `read_text_tower`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipattr.errors import SiteError
from clipattr.models.hooks import hooked
from clipattr.models.tails import Tail, read_chain

if TYPE_CHECKING:
    from clipattr.models.loading import Model

# Texts of different lengths, so that the first, the last and the end token are distinguished.
TRIAL = ("a", "a cat", "a photo of a dog and a cat")
NO_SITES = "text.<block>.eot and .tokens exist for transformers of open_clip and of the library transformers"
# Share of the largest gradient below which a token counts as not pooled; rounding leaves about 1e-7.
NOT_POOLED = 1e-5
AGREES = 1e-4  # largest difference of unit-length embeddings between the tower and its closed form, float32


@dataclass(frozen=True)
class TextTower:
    """A text tower whose blocks hand one stream of tokens on.

    Attributes:
        clip: the whole module. blocks: its residual blocks, first to last.
        lookup: the embedding of token ids; its input says which texts a forward pass is about.
        width: of the stream. batch_first: whether blocks put out (texts, tokens, width).
        rule: token ids (texts, tokens) and the length of the stream to the position of the pooled token, (texts,); None
            where several tokens are pooled. pooling: the same in words.
        chain: what follows the pooled token after the last block; None where that has no closed form.
    """

    clip: nn.Module
    blocks: list[nn.Module]
    lookup: nn.Module
    width: int
    batch_first: bool
    rule: Callable[[Tensor, int], Tensor] | None
    pooling: str
    chain: tuple[Any, ...] | None

    def tail(self) -> Tail | None:
        """What follows the last block's pooled token, if it has a closed form; read from the weights now."""
        return None if self.chain is None or self.rule is None else read_chain(self.chain, self.width)

    def stream(self, output: Any) -> Tensor:
        """A block's output as (texts, tokens, width)."""
        found = output[0] if isinstance(output, tuple) else output
        return found if self.batch_first else found.transpose(0, 1)

    def put(self, output: Any, stream: Tensor) -> Any:
        """A block's output with another stream in it."""
        changed = stream if self.batch_first else stream.transpose(0, 1)
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    def positions(self, ids: Tensor, length: int) -> Tensor:
        """(texts,) position of the pooled token in a stream of `length` tokens."""
        assert self.rule is not None
        return self.rule(ids, length)


def read_text_tower(model: "Model") -> TextTower:
    """What a model's text tower consists of.

    Raises:
        SiteError: it is of a kind that is not known; texts can still be encoded, and `text.embedding` is a site.
    """
    parts = _parts(model.clip)
    if parts is None:
        raise SiteError(
            f"{model.reference}: its text tower has no blocks that are known: {NO_SITES}. text.embedding, the tower's "
            "features before they are normalised, exists for every model."
        )
    blocks, lookups, chains = parts
    lookup, ids, output, stream, features, gradient = _tried(model, blocks, lookups)
    length = stream.shape[1]
    rule, pooling = _rule(ids, gradient, length)
    chain = None
    if rule is not None:
        pooled = stream[torch.arange(len(stream)), rule(ids, length)]
        chain = next((some for some in chains if _follows(some, pooled, features)), None)
    return TextTower(
        model.clip, blocks, lookup, stream.shape[2], len(output) == len(ids), rule, pooling, chain
    )


def _parts(clip: nn.Module) -> tuple[list[nn.Module], list[nn.Module], list[tuple[Any, ...]]] | None:
    """Blocks, the embeddings of ids, and the modules that may follow the pooled token."""
    text: Any = getattr(clip, "text", None)
    inner: Any = getattr(getattr(clip, "visual", None), "model", None)
    chains: list[tuple[Any, ...]]
    lookups: list[nn.Module]
    if inner is not None and hasattr(inner, "text_model"):  # transformers
        text = inner.text_model
        last = getattr(inner, "text_projection", None)
        norm = getattr(text, "final_layer_norm", None)
        chains = [
            (norm, last),
            (norm, getattr(text, "head", None)),
            (getattr(text, "pre_LN", None), getattr(text, "transformation", None), last),
        ]
    elif text is not None and hasattr(text, "proj") and hasattr(text, "pooler"):  # HFTextEncoder of open_clip
        chains, text = [(text.proj,)], text.transformer
    else:
        text = clip if text is None else text
        chains = [(getattr(text, "ln_final", None), getattr(text, "text_projection", None))]
        if not hasattr(text, "transformer") or not hasattr(text, "token_embedding"):
            return None
        return list(text.transformer.resblocks), [text.token_embedding], chains
    blocks = next(
        (list(some) for some in text.modules() if isinstance(some, nn.ModuleList) and len(some)), []
    )
    lookups = [some for some in text.modules() if isinstance(some, nn.Embedding)]
    return (blocks, lookups, chains) if blocks and lookups else None


def _tried(
    model: "Model", blocks: Sequence[nn.Module], lookups: Sequence[nn.Module]
) -> tuple[nn.Module, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The embedding that is given the texts' ids, these ids, the last block's raw output, its stream, the features, and
    the size of their gradient at every token."""
    held: dict[str, Any] = {}
    tokens = model.tokens(list(TRIAL)).to(model.device)
    own = tokens[:, 0] if tokens.ndim == 3 else tokens  # else ids and attention mask

    def keep_ids(module: nn.Module, inputs: Any, _output: Any) -> None:
        if inputs[0].numel() == own.numel() and torch.equal(inputs[0].reshape(own.shape), own):
            held.setdefault("lookup", module)

    def keep(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        held["leaf"] = (output[0] if isinstance(output, tuple) else output).detach().requires_grad_()
        return (held["leaf"], *output[1:]) if isinstance(output, tuple) else held["leaf"]

    with torch.enable_grad(), hooked([*((some, keep_ids) for some in lookups), (blocks[-1], keep)]):
        features = model.text_features(tokens)
    if "lookup" not in held or "leaf" not in held:
        raise SiteError(
            f"{model.reference}: its text tower does not run the blocks that it holds: {NO_SITES}."
        )
    leaf = held["leaf"]
    # A fixed random direction: a sum of features can be constant behind a LayerNorm.
    direction = torch.randn(features.shape, generator=torch.Generator().manual_seed(0)).to(features)
    (gradient,) = torch.autograd.grad(features, leaf, direction)
    first = leaf.shape[0] == len(tokens)
    stream, gradient = (part if first else part.transpose(0, 1) for part in (leaf.detach(), gradient))
    return held["lookup"], own, leaf, stream, features.detach(), gradient.float().norm(dim=-1)


def _rule(ids: Tensor, gradient: Tensor, length: int) -> tuple[Callable[[Tensor, int], Tensor] | None, str]:
    """The rule that names the pooled token of every trial text, and its name; None where several are pooled."""
    counts = gradient > NOT_POOLED * gradient.amax(1, keepdim=True)
    if not (counts.sum(1) == 1).all():
        return None, "several tokens"
    found = counts.int().argmax(1)
    at_end = ids[torch.arange(len(ids)), found.clamp_max(ids.shape[1] - 1)]
    mark = int(at_end[0])
    rules: tuple[tuple[str, Callable[[Tensor, int], Tensor]], ...] = (
        ("first token", lambda ids, length: torch.zeros_like(ids[:, 0])),
        ("last token", lambda ids, length: torch.full_like(ids[:, 0], length - 1)),
        ("token of the highest id", lambda ids, length: ids.argmax(1)),
        (f"first token with the id {mark}", lambda ids, length: (ids == mark).int().argmax(1)),
    )
    for name, rule in rules:
        if torch.equal(rule(ids, length), found):
            return rule, name
    return None, "a token that no known rule names"


def _follows(chain: tuple[Any, ...], pooled: Tensor, features: Tensor) -> bool:
    """Whether these modules lead from the pooled token to the features, up to their length."""
    tail = read_chain(chain, pooled.shape[1])
    if tail is None:
        return False
    try:
        with torch.no_grad():
            made = tail.features(pooled)
    except RuntimeError:  # shapes that do not fit
        return False
    if made.shape != features.shape:
        return False
    half = 1 if features.dtype in (torch.float32, torch.float64) else 100  # half precision rounds earlier
    gap = (F.normalize(made.float(), dim=-1) - F.normalize(features.float(), dim=-1)).abs().max()
    return bool(gap < AGREES * half)
