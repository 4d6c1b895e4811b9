"""Places in a text tower: reading and replacing activations, for which the token ids of the texts are needed.

Owns the hook on token ids, from which the place of the pooled token follows. Sites are asked for in `sites.py`; what a
text tower consists of is in text_tower.py. Start at `TextPlace`.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from clipattr.errors import SiteError
from clipattr.models.hooks import Reached, hooked
from clipattr.models.places import Site
from clipattr.models.text_tower import TextTower

if TYPE_CHECKING:
    from clipattr.models.loading import Model


class TextPlace:
    """A site of the text tower in one model, which records the token ids of the texts that are encoded."""

    def __init__(self, model: "Model", site: Site) -> None:
        self.model, self.site = model, site
        self.before: list[tuple[nn.Module, Callable]] = []
        self._ids: Tensor | None = None
        self._tower: TextTower | None = None
        if site.is_embedding:
            self.module: nn.Module = model.text_output
            return
        self._tower = model.text_tower
        self.module = self._tower.blocks[site.index(model)]
        self.before = [(self._tower.lookup, self._keep)]

    def _keep(self, _module: nn.Module, inputs: Any, _output: Any) -> None:
        self._ids = inputs[0]

    def _rows(self, stream: Tensor) -> tuple[Tensor, Tensor]:
        """The pooled token of every text, as an index into the stream."""
        assert self._tower is not None and self._ids is not None
        ids = self._ids.reshape(len(stream), -1)
        return torch.arange(len(stream), device=stream.device), self._tower.positions(ids, stream.shape[1])

    def read(self, _inputs: Any, output: Any) -> Tensor:
        """The activations, (batch, width) or (batch, tokens, width)."""
        if self._tower is None:
            return output
        stream = self._tower.stream(output)
        return stream[self._rows(stream)] if self.site.tokens == "eot" else stream

    def write(self, _inputs: Any, output: Any, acts: Tensor) -> Any:
        """The stream or features with other activations in place."""
        if self._tower is None:
            return acts
        if self.site.tokens == "eot":
            stream = self._tower.stream(output)
            acts = stream.index_put(self._rows(stream), acts)
        return self._tower.put(output, acts)


def text_acts(model: "Model", ids: Tensor, site: Site) -> Tensor:
    """Activations of one batch of texts, from a pass that ends at the site."""
    place = TextPlace(model, site)
    found: list[Tensor] = []

    def hook(_module: nn.Module, inputs: Any, output: Any) -> None:
        found.append(place.read(inputs, output).clone())
        raise Reached

    with hooked([*place.before, (place.module, hook)]), suppress(Reached):
        model.text_features(ids)
    return found[0]


def text_ids(model: "Model", inputs: Any, site: Site) -> Tensor:
    """Token ids of texts, or the ids themselves; SiteError for anything else."""
    if isinstance(inputs, Tensor) and not inputs.is_floating_point():
        return inputs
    texts = [inputs] if isinstance(inputs, str) else inputs
    if isinstance(texts, Tensor) or not all(isinstance(text, str) for text in texts) or not len(texts):
        raise SiteError(
            f"{site} takes texts, at least one, or their token ids from model.tokens(texts); got "
            f"{type(inputs).__name__}. Pictures are read at sites of the image tower, e.g. image.embedding."
        )
    if not site.is_embedding:
        site.index(model)  # says what is missing before a tokenizer is asked for
    return model.tokens(texts)
