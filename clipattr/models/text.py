"""Texts: from prompts and templates to unit-length text embeddings.

Owns the checks of prompts, averaging over templates, batches, and the warning about truncated texts. Ignores how the
text tower works. Start at `embed_texts`; users call `Model.encode_text`.
"""

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor

from clipattr.display.wording import few
from clipattr.errors import ModelError
from clipattr.models.modules import template_texts
from clipattr.models.surroundings import unaffected

if TYPE_CHECKING:
    from clipattr.models.loading import Model

TEXT_BATCH = 256  # texts per forward pass


@unaffected
def embed_texts(model: "Model", prompts: Sequence[str], templates: Any) -> Tensor:
    """Unit-length embeddings (n, embed) of prompts, each put into every template; see `Model.encode_text`."""
    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    templates = template_texts(templates)
    for text in prompts:
        if not isinstance(text, str):
            raise ModelError(f"Prompts and templates are strings; got {text!r} ({type(text).__name__}).")
    if not templates or any("{}" not in template for template in templates):
        raise ModelError(f"Every template needs {{}} where the prompt goes; got {few(templates)}.")
    if not prompts:
        return torch.zeros(0, model.embed_dim, device=model.device)
    texts = [template.replace("{}", prompt) for prompt in prompts for template in templates]
    tokens = tokenized(model, texts)
    units = torch.cat([model.unit(model.text_features(part)) for part in tokens.split(TEXT_BATCH)])
    if len(templates) == 1:
        return units
    return F.normalize(units.reshape(len(prompts), len(templates), -1).mean(1), dim=-1)


def tokenized(model: "Model", texts: list[str]) -> Tensor:
    """Token ids of texts, (n, tokens); warns where a text is truncated."""
    tokens = model.tokenizer(texts, context_length=model.context_length)
    _warn_of_cut_texts(model, texts, tokens)
    return tokens


def _warn_of_cut_texts(model: "Model", texts: list[str], tokens: Tensor) -> None:
    """Warn about texts that the tokenizer has truncated, as tokenizers do not."""
    if not isinstance(model.tokenizer, open_clip.SimpleTokenizer):
        return
    full = (tokens[:, -1] != 0).nonzero().flatten().tolist()
    cut = [texts[i] for i in full if len(model.tokenizer.encode(texts[i])) + 2 > model.context_length]
    if cut:
        warnings.warn(
            f"{len(cut)} text(s) are longer than the {model.context_length} tokens that {model.reference} "
            f"takes and were cut, e.g. {cut[0][:80]!r}.",
            stacklevel=5,
        )
