"""What a prompt is expected to rest on: the part of a surprise that is about meaning.

Owns prompts and the expected share of a latent for each of them, by the evaluator alone; ignores how much the audited
model relies on anything. Start at `expected_share`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from clipattr.errors import TargetError
from clipattr.images.cells import cell_text
from clipattr.meaning import alignment

if TYPE_CHECKING:
    from clipattr.studies.study import Study


@dataclass(frozen=True)
class Prompt:
    """A prompt and, where its words could be read in two ways, what it is meant to say.

    `text` goes to the audited model. `means` goes to the evaluator in its place: `Prompt("bat", means="a flying
    animal")` makes every reliance on cricket unexpected.

    >>> import clipattr as ca
    >>> ca.Prompt("bat", means="a flying animal").text
    'bat'
    """

    text: str
    means: str | None = None


def read_prompts(prompts: Iterable[str | Prompt] | None, study: Study) -> list[Prompt]:
    """The prompts to audit: the given ones; else the pictures' labels; else the whole vocabulary.

    Raises:
        TargetError: none at all, an empty one, or one text with two meanings.
    """
    if prompts is None:
        labels = sorted({label for label in study.images.columns["label"] if label})
        prompts = labels or study.vocabulary.words
    elif isinstance(prompts, str | Prompt):
        prompts = [prompts]
    elif isinstance(prompts, bytes | os.PathLike) or not isinstance(prompts, Iterable):
        raise TargetError(
            f"Prompts to audit are texts; got {type(prompts).__name__} {prompts!r:.80}. "
            "Vocabulary.open(FILE).words reads them from a file."
        )
    read: dict[str, Prompt] = {}
    for item in prompts:
        prompt = item if isinstance(item, Prompt) else Prompt(_text_of(item))
        # "cat\n", a line of a file, is the prompt "cat"; the tokenizers see no difference.
        prompt = replace(prompt, text=" ".join(prompt.text.split()))
        if not prompt.text:
            raise TargetError("A prompt to audit is blank. Leave it out, or give its text.")
        known = read.setdefault(prompt.text, prompt)
        if known.means != prompt.means:
            raise TargetError(
                f"{prompt.text!r} is given two meanings, {known.means!r} and {prompt.means!r}. Audit one at a time."
            )
    if not read:
        raise TargetError(
            "There is no prompt to audit: give a list of texts, or build the study with a vocabulary."
        )
    return list(read.values())


def _text_of(item: object) -> str:
    """One prompt as text; a number is the name of a class."""
    if isinstance(item, str):
        text = item.strip()
    elif isinstance(item, bytes | os.PathLike) or (found := cell_text(item)) is None:
        raise TargetError(
            f"A prompt to audit is a text; got {type(item).__name__} {item!r:.80}. Leave it out."
        )
    else:
        text = found
    if text.endswith((".txt", ".csv", ".tsv", ".json", ".jsonl")) and os.path.isfile(text):
        raise TargetError(
            f"{text!r} is a file, not a prompt: Vocabulary.open({text!r}).words are the prompts in it."
        )
    return text


def family_means(study: Study, families: Sequence[Sequence[int]]) -> Tensor:
    """Mean evaluator embedding of each family's examples, (families, embed).

    Latents count by their mean top activation: the strongest say most about what the family stands for.
    """
    weights = study.examples.values.float().sum(1)
    means = study.labels.mean_embedding.float()
    rows = []
    for family in families:
        index = torch.as_tensor(list(family))
        weight = weights[index].clamp_min(1e-12)
        rows.append((means[index] * weight[:, None]).sum(0) / weight.sum())
    return torch.stack(rows) if rows else means.new_zeros(0, means.shape[1])


def expected_share(
    means: Tensor, prompts: Tensor, vocabulary: Tensor, empty: Tensor
) -> tuple[Tensor, Tensor]:
    """How well each prompt describes each family, against the word that describes it best.

    Args:
        means: (families, embed), mean evaluator embedding of the examples.
        prompts: (prompts, embed), vocabulary: (words, embed), the evaluator's; empty: (embed,) its empty prompt.

    Returns:
        share: (families, prompts). 1: no word of the vocabulary fits better than the prompt. Near 0 or below: the
            prompt says nothing about the family, so that relying on it is a surprise.
        aligned: (families, prompts), the alignment `s(t)` itself in raw cosine.
    """
    aligned = alignment(means, prompts, empty)
    best = torch.maximum(alignment(means, vocabulary, empty).amax(1, keepdim=True), aligned)
    return aligned / best.clamp_min(1e-3), aligned


def most_like(pictures: Tensor, prompts: Tensor, n: int) -> list[Tensor]:
    """For each prompt the pictures that the evaluator would call by it, most fitting first.

    Args:
        pictures: (pictures, embed), prompts: (prompts, embed), both the evaluator's, unit length.
        n: at most so many for each prompt.

    Returns:
        picture numbers, only those that fit the prompt better than they fit the other prompts on average by two
        standard deviations of that difference.
    """
    similar = F.normalize(pictures.float(), dim=-1) @ prompts.T
    similar = similar - similar.mean(1, keepdim=True)
    chosen = []
    for column in similar.T:
        best = column.topk(min(n, len(column))).indices
        chosen.append(best[column[best] > column.mean() + 2 * column.std()])
    return chosen
