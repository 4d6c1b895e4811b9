"""Places in an image tower: reading and replacing activations at the outputs of modules.

Owns the order of dimensions and the selection of tokens. Sites are used through `sites.py`; the structure of a tower is
in tower.py. Start at `ImagePlace`.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from clipattr.models.places import Site
from clipattr.models.streams import Inside, inside, tap
from clipattr.models.tower import Tower

if TYPE_CHECKING:
    from clipattr.models.loading import Model


class ImagePlace:
    """A site in one model: the module with its activations, and functions to read and write them."""

    def __init__(self, model: "Model", site: Site) -> None:
        self.model, self.site = model, site
        self.tower: Tower | None = None
        self.before: list[tuple[nn.Module, Callable]] = []
        if site.is_embedding:
            self.module: nn.Module = model.visual
            return
        self.parts = block_parts(model, site)
        self.module, self._pick = tap(self.parts, site.stream)
        self.tower = model.image_tower

    def read(self, inputs: Any, output: Any) -> Tensor:
        """The activations, (batch, width) or (batch, tokens, width)."""
        if self.tower is None:
            # Towers of generative models return (features, tokens).
            return output[0] if isinstance(output, tuple) else output
        return self.site.read(batch_first(self._pick(inputs, output), self.tower), self.model)

    def write(self, inputs: Any, output: Any, acts: Tensor) -> Any:
        """The output with other activations."""
        if self.tower is None:
            return (acts, *output[1:]) if isinstance(output, tuple) else acts
        stream = batch_first(self._pick(inputs, output), self.tower)
        return batch_first(written(stream, self.site, acts, self.tower), self.tower)


def block_parts(model: "Model", site: Site) -> nn.Module | Inside:
    """The block of a site, or its parts for sites inside it."""
    block = model.image_blocks_modules[site.index(model)]
    return inside(block, model.reference, site) if site.is_inside else block


def own_tokens(site: Site, tower: Tower) -> slice:
    """The site's tokens among all tokens."""
    return {"cls": slice(0, 1), "patches": slice(tower.prefix, None), "all": slice(0, None)}[site.tokens]


def batch_first(stream: Tensor, tower: Tower) -> Tensor:
    """Transpose between the tower's order and (batch, tokens, width), in either direction."""
    return stream if tower.batch_first else stream.transpose(0, 1)


def written(stream: Tensor, site: Site, acts: Tensor, tower: Tower) -> Tensor:
    """A copy of the stream (batch, tokens, width) with other activations at the site's tokens."""
    if site.tokens == "cls":
        return torch.cat([acts[:, None], stream[:, 1:]], dim=1)
    return torch.cat([stream[:, : tower.prefix], acts], dim=1) if site.tokens == "patches" else acts
