"""Words: what each word of a prompt adds to a target.

Owns the joining of tokens to words and two methods: leaving one word out and encoding the rest (exact), and integrated
gradients along the token embeddings (adds up). Latents of a text are the business of `attribute` at a site of the text
tower. Start at `word_attribution`.
Source of integrated gradients: Sundararajan et al. 2017, arXiv:1703.01365.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from clipattr.attribution.prompts import check_length
from clipattr.attribution.target import Target
from clipattr.attribution.targets import as_target
from clipattr.errors import TargetError
from clipattr.models.hooks import hooked

if TYPE_CHECKING:
    import pandas as pd

WORD_METHODS = ("leave_one_out", "integrated_gradients")
STEPS = 32  # midpoints on the path at first; doubled until the gap is small, up to MAX_STEPS
MAX_STEPS = 512
TOLERATED = 1e-3  # gap of the sum, as a fraction of the change in the target (at least of 0.1)
CONTINUED = " a"  # what is written behind a prompt to see where its own tokens end


@dataclass(frozen=True)
class WordAttribution:
    """What each word of a prompt adds to each target.

    Attributes:
        prompt: the text. words: its words, in order.
        tokens: per word the positions of its tokens in the text tower.
        values: (words, targets), in the unit of the targets, signed; positive where the word raises the target.
        y: (targets,) of the prompt. y_baseline: (targets,) of the prompt without any word.
        gap: (targets,) `y - y_baseline` minus the sum of the values. Near 0 for integrated gradients; leaving one word
            out does not add up where words act together.
        names: of the targets. unit: of the targets. method: "leave_one_out" or "integrated_gradients".

    >>> import clipattr as ca
    >>> found = ca.word_attribution(ca.load_model("picture-world-a"), "red rose", "rose")
    >>> found.table().columns.tolist()
    ['word', 'rose']
    """

    prompt: str
    words: tuple[str, ...]
    tokens: tuple[tuple[int, ...], ...]
    values: Tensor
    y: Tensor
    y_baseline: Tensor
    gap: Tensor
    names: tuple[str, ...]
    unit: str
    method: str

    def table(self) -> pd.DataFrame:
        """One row per word: the word and its value for every target."""
        import pandas as pd

        values = {name: self.values[:, number].tolist() for number, name in enumerate(self.names)}
        return pd.DataFrame({"word": list(self.words), **values})


def word_attribution(
    source: Any, prompt: str, target: Any, *, method: str = "leave_one_out"
) -> WordAttribution:
    """Attribute targets of a text to its words.

    Args:
        source: a model, or a study with one.
        prompt: the text; words are what white space separates.
        target: as for `attribute`: an image embedding (embed,), `ImageSimilarity(pictures)`, another text, a contrast.
        method: "leave_one_out": the target minus the target of the prompt without the word, encoded again; exact, one
            forward pass a word. "integrated_gradients": along the straight path that scales the token embeddings of all
            words from 0 to what they are, marks, padding and positions kept; adds up to the change in the target.

    Returns:
        `WordAttribution` with values (words, targets), signed, in the unit of the target. Positive: the word raises the
        target.

    Raises:
        TargetError: the prompt is blank or too long, there is no such method, or its tokens cannot be assigned to
            words. SiteError: integrated gradients need a text tower that is known from inside.

    Source: Sundararajan et al. 2017, arXiv:1703.01365 (integrated gradients).

    >>> import clipattr as ca
    >>> found = ca.word_attribution(ca.load_model("picture-world-a"), "palm tree", "cactus")
    >>> found.words, tuple(found.values.shape)
    (('palm', 'tree'), (2, 1))
    """
    model = source.model if hasattr(source, "dictionary") else source
    wanted = as_target(target)
    words = prompt.split() if isinstance(prompt, str) else []
    if not words:
        raise TargetError(f"word attribution needs a prompt with at least one word; got {prompt!r}.")
    if method not in WORD_METHODS:
        raise TargetError(f"method is one of {', '.join(WORD_METHODS)}; got {method!r}.")
    check_length([prompt], model)
    places = word_tokens(model, words)
    run = _left_out if method == "leave_one_out" else _integrated
    values, y, y_baseline = run(model, words, places, wanted)
    return WordAttribution(
        prompt,
        tuple(words),
        tuple(places),
        values,
        y,
        y_baseline,
        y - y_baseline - values.sum(0),
        tuple(wanted.names),
        wanted.unit,
        method,
    )


def word_tokens(model: Any, words: Sequence[str]) -> list[tuple[int, ...]]:
    """Positions of each word's tokens among the text's token ids.

    Where a word ends is read off the tokenizer: the ids of the first words alone and of the whole text agree up to
    there. So pieces of a word, and bytes of a letter, stay together, whatever the tokenizer is.

    Raises:
        TargetError: the tokenizer joins words, so that they have no tokens of their own.
    """
    starts = [" ".join(words[:count]) for count in range(len(words) + 1)]
    whole = _ids(model, [starts[-1]])[0]
    ends = [_agreement(_ids(model, [start])[0], whole) for start in starts[:-1]]
    ends.append(_agreement(_ids(model, [starts[-1] + CONTINUED])[0], whole))
    places = [tuple(range(one, other)) for one, other in zip(ends, ends[1:], strict=False)]
    if not all(places):
        empty = words[[bool(place) for place in places].index(False)]
        raise TargetError(
            f"the tokenizer of {model.reference} gives {empty!r} in {starts[-1][:60]!r} no tokens of its own, so that "
            "words cannot be distinguished. Leave the word out, or write it apart from its neighbours."
        )
    return places


def _ids(model: Any, texts: list[str]) -> Tensor:
    tokens = model.tokens(texts)
    return tokens[:, 0] if tokens.ndim == 3 else tokens


def _agreement(one: Tensor, other: Tensor) -> int:
    """Length of the common beginning."""
    length = min(len(one), len(other))
    differs = (one[:length] != other[:length]).nonzero()
    return int(differs[0]) if len(differs) else length


def _left_out(
    model: Any, words: Sequence[str], _places: Any, target: Target
) -> tuple[Tensor, Tensor, Tensor]:
    """Values (words, n), the targets, and the targets of the empty text."""
    texts = [" ".join(words), *(" ".join([*words[:i], *words[i + 1 :]]) for i in range(len(words))), ""]
    with torch.no_grad():
        found = target.values(model.encode_text(texts), model).float().cpu()
    return found[0] - found[1:-1], found[0], found[-1]


def _integrated(
    model: Any, words: Sequence[str], places: Sequence[tuple[int, ...]], target: Target
) -> tuple[Tensor, Tensor, Tensor]:
    """Values (words, n), the targets, and the targets with the words' token embeddings at zero."""
    tokens = model.tokens([" ".join(words)]).to(model.device)
    lookup = model.text_tower.lookup
    own = torch.tensor([position for place in places for position in place], device=model.device)

    def along(shares: Tensor) -> tuple[Tensor, Tensor]:
        """Targets (shares, n) on the path, and per word the slope in the share, (shares, words, n)."""
        with torch.enable_grad():
            scaled = shares[:, None].expand(-1, len(own)).clone().requires_grad_()
            with hooked([(lookup, _scaling(own, scaled))]):
                features = model.text_features(tokens.expand(len(shares), *tokens.shape[1:]))
            values = target.values(model.unit(features), model)
            slopes = [
                torch.autograd.grad(values[:, n].sum(), scaled, retain_graph=n < values.shape[1] - 1)[0]
                for n in range(values.shape[1])
            ]
        sizes = [len(place) for place in places]
        joined = torch.stack([part.sum(1) for part in torch.stack(slopes, 2).split(sizes, dim=1)], 1)
        return values.detach().float(), joined.float()

    ends, _ = along(torch.tensor([0.0, 1.0], device=model.device))
    y_baseline, y = ends
    steps = STEPS
    while True:
        middle = (torch.arange(steps, device=model.device) + 0.5) / steps
        values = torch.cat([along(part)[1] for part in middle.split(64)]).mean(0)
        gap = (y - y_baseline - values.sum(0)).abs()
        if steps >= MAX_STEPS or (gap < TOLERATED * (y - y_baseline).abs().clamp_min(0.1)).all():
            return values.cpu(), y.cpu(), y_baseline.cpu()
        steps *= 2


def _scaling(own: Tensor, scaled: Tensor) -> Callable[[nn.Module, Any, Tensor], Tensor]:
    """A hook that multiplies the embeddings of some tokens, (texts, tokens, width), by factors (texts, own)."""

    def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        factors = output.new_ones(output.shape[:2])
        factors = factors.index_put(
            (torch.arange(len(output), device=output.device)[:, None], own[None]), scaled.to(output)
        )
        return output * factors[..., None]

    return hook
