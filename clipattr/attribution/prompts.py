"""Prompts: from texts or embeddings to unit-length rows, with checks for blank, too long and not finite prompts.

Uses only `encode_text`, `tokenizer`, `context_length` and `embed_dim` of a model. Start at `embed_prompts`.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from clipattr.display.wording import few
from clipattr.errors import TargetError

Prompts = str | Sequence[str] | Tensor


def prompt_names(prompts: Any, names: Sequence[str] | None, kind: str = "embedding") -> list[str]:
    """Names of prompts, after the checks that need no model.

    Raises:
        TargetError: no prompts, a blank one, embeddings of the wrong shape, or another number of names.
    """
    if isinstance(prompts, Tensor):
        rows = torch.atleast_2d(prompts)
        if rows.ndim != 2 or not len(rows):
            raise TargetError(
                f"embeddings of prompts have shape (embed,) or (n, embed), n > 0; got {tuple(prompts.shape)}."
            )
        found = [f"{kind} {number}" for number in range(len(rows))] if len(rows) > 1 else [kind]
    elif isinstance(prompts, str) or (
        isinstance(prompts, Sequence) and all(isinstance(prompt, str) for prompt in prompts)
    ):
        found = [prompts] if isinstance(prompts, str) else list(prompts)
        if not found:
            raise TargetError("got an empty list of prompts. Pass at least one, e.g. 'a photo of a kite'.")
        blank = [number for number, prompt in enumerate(found) if not prompt.strip()]
        if blank:
            raise TargetError(
                f"prompt {blank[0]} is blank ({found[blank[0]]!r}). Write what the picture is compared with; for the "
                "empty prompt's direction pass its embedding."
            )
    else:
        raise TargetError(
            f"prompts are a string, strings, or a tensor of embeddings; got {type(prompts).__name__}."
        )
    if names is None:
        return found
    if len(names) != len(found):
        raise TargetError(
            f"{len(found)} prompts need as many names; got {len(names)}. Name each prompt once."
        )
    return list(names)


def embed_prompts(prompts: Prompts, model: Any, templates: Sequence[str] = ("{}",)) -> Tensor:
    """Embed prompts to unit length: (n, embed), on the model's device and in its dtype.

    With several templates the unit embeddings are averaged and normalised again. Embeddings are only normalised.

    Raises:
        TargetError: a prompt longer than the model's context, a template without `{}`, or embeddings that are zero,
            not finite, or of another width.
    """
    if not isinstance(prompts, Tensor):
        texts = [prompts] if isinstance(prompts, str) else list(prompts)
        if not templates or any("{}" not in template for template in templates):
            raise TargetError(f"every template must contain {{}} for the prompt; got {few(templates)}.")
        for template in templates:
            check_length([template.replace("{}", text) for text in texts], model)
        with torch.no_grad():
            return model.encode_text(texts, templates)
    rows = torch.atleast_2d(prompts.detach()).to(model.device, model.dtype)
    if rows.shape[1] != model.embed_dim:
        raise TargetError(
            f"the prompts' embeddings have {rows.shape[1]} numbers, those of this model {model.embed_dim}. Embed the "
            "prompts with this model."
        )
    length = rows.norm(dim=1, keepdim=True)
    if not torch.isfinite(rows).all() or (length == 0).any():
        raise TargetError(
            "an embedding is zero or holds NaN or infinity: it has no direction. Check where it came from."
        )
    return rows / length


def check_length(texts: Sequence[str], model: Any) -> None:
    """Check that no text is longer than the model's context: a truncated prompt is another prompt.

    Raises:
        TargetError: names the first text that is too long.
    """
    limit = model.context_length
    # A token covers at least one byte, so short texts need no second tokenization.
    suspects = [text for text in texts if len(text.encode()) + 2 > limit]
    if not suspects:
        return
    tokens = torch.as_tensor(model.tokenizer(suspects, context_length=4 * limit))
    padding = torch.as_tensor(model.tokenizer(["a"], context_length=4 * limit))[0, -1]
    too_long = tokens[:, limit] != padding
    for text, bad in zip(suspects, too_long.tolist(), strict=True):
        if bad:
            raise TargetError(
                f"the prompt {text[:60]!r}… needs more than the {limit} tokens this model reads and would be cut "
                "off. Shorten it."
            )
