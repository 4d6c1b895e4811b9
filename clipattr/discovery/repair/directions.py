"""Directions: the embedding direction of the concept that a family of latents represents, estimated from a study.

Owns the pictures used for estimation, the presence of the concept in each picture, and its direction. Ignores the
erasure from a classifier (`erasure.py`). Start at `factors_of`; `sharpened` betters some of the directions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from clipattr.attribution import ablate
from clipattr.discovery.audit.expectations import most_like
from clipattr.discovery.audit.presence import shown
from clipattr.discovery.audit.text_insertion import moved_by_writing, writing_words
from clipattr.discovery.encoded import Encoded, encoded, family_directions, summed_codes
from clipattr.discovery.repair.erasure import FEW, Factors, direction, standardised
from clipattr.discovery.repair.removals import Removal
from clipattr.sites import continue_from

if TYPE_CHECKING:
    from clipattr.studies.study import Study

PICTURES = 20_000  # most pictures of the study that a direction is estimated from
OWN = 100  # pictures that the evaluator chooses for a class without labelled pictures
BLOCK = 2048  # rows per step
SHARPENED = ("watermark", "coarse_label", "context", "unknown", None)  # kinds that are no objects or words


def learning_pictures(study: Study) -> Encoded:
    rows = study.rows if len(study.rows) else np.arange(len(study.images))
    return encoded(study, rows=rows[:: -(-len(rows) // PICTURES)])


def own_pictures(study: Study, pictures: Encoded, names: Sequence[str]) -> tuple[Tensor, Tensor]:
    """The class of each picture, and the pictures that belong to each class.

    Returns:
        numbers: (pictures,) class number, by the label or else by the evaluator. own: (pictures, classes) bool.
    """
    labels = pictures.images.columns["label"]
    place = {name.casefold(): number for number, name in enumerate(names)}
    numbers = torch.tensor([place.get((label or "").casefold(), -1) for label in labels])
    own = F.one_hot(numbers.clamp_min(0), len(names)).bool() & (numbers >= 0)[:, None]
    unknown, missing = numbers < 0, torch.nonzero(~own.any(0)).flatten().tolist()
    if missing or unknown.any():
        seen = pictures.seen(study)
        text = study.evaluator.encode_text(list(names)).float()
        similar = seen @ text.T
        numbers = torch.where(unknown, (similar - similar.mean(0)).argmax(1), numbers)
        for number, chosen in enumerate(most_like(seen, text, OWN)):
            if number in missing:
                own[chosen, number] = True
    return numbers, own


def _presence(study: Study, pictures: Encoded, removal: Removal, among: Tensor) -> Tensor:
    """Presence of a family's concept in each picture, (pictures,): standardised codes plus evaluator similarity.

    Codes measure what the model uses, but also respond to other concepts. The evaluator measures the concept, but not
    the model's use of it. Their sum has less variance than either.
    """
    strength = summed_codes(pictures.codes, list(removal.latents))
    seen = pictures.seen(study)
    words = study.vocabulary.words
    if removal.label in words:
        meaning = study.vocabulary_embeddings[words.index(removal.label)]
    else:
        index = torch.as_tensor(removal.latents)
        weight = study.examples.values.float().sum(1)[index].clamp_min(1e-12)
        meaning = (study.labels.mean_embedding.float()[index] * weight[:, None]).sum(0)
        meaning = meaning / meaning.norm().clamp_min(1e-12) - F.normalize(seen.mean(0), dim=0)
    fits = seen @ F.normalize(meaning.float(), dim=0)
    return standardised(strength, among) + standardised(fits, among)


def factors_of(
    study: Study,
    pictures: Encoded,
    removals: Sequence[Removal],
    own: Tensor,
    numbers: Tensor,
    names: Sequence[str],
) -> Factors:
    """Directions and presence levels of several families.

    Args:
        own: (pictures,) bool, pictures of the class whose weights are changed. numbers, names: class of every picture.
    """
    found = [
        _writing(study, pictures, removal, own) or _taught(study, pictures, removal, own, numbers, names)
        for removal in removals
    ]
    directions, presences, lows, highs = zip(*found, strict=True)
    return Factors(
        torch.stack(directions, 1), torch.stack(presences, 1), torch.stack(lows), torch.stack(highs)
    )


def sharpened(
    factors: Factors,
    kinds: Sequence[str | None],
    added: Tensor,
    embeddings: Tensor,
    classes: Tensor,
    among: Tensor,
) -> Factors:
    """Factors with better directions for concepts that are no objects: marks, looks, contexts and unknown ones.

    For these the evaluator's similarity is a weak measure of presence, and a few pictures show the concept strongly.
    The direction is then the mean of three, each of unit length: the slope on the presence, the slope on its squared
    positive part, and what the family adds to embeddings. Its length stays. Objects keep theirs, which the evaluator
    recognises, and so do written words.

    Args:
        kinds: (factors,) of the findings. added: (embed, factors). embeddings: (pictures, embed). classes: (pictures,)
            numbers. among: (pictures,) bool, pictures of other classes.
    """
    directions = factors.directions.clone()
    for column, kind in enumerate(kinds):
        if kind not in SHARPENED:
            continue
        slope, strong = factors.directions[:, column], factors.presence[:, column].clamp_min(0).square()
        three = [slope, direction(embeddings, strong, classes, among), added[:, column]]
        mean = F.normalize(sum((F.normalize(one, dim=0) for one in three), torch.zeros_like(slope)), dim=0)
        directions[:, column] = mean * slope.norm()
    return replace(factors, directions=directions)


def _taught(
    study: Study, pictures: Encoded, removal: Removal, own: Tensor, numbers: Tensor, names: Sequence[str]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Direction, presence and its two levels for a family, from pictures of other classes if there are enough."""
    active = summed_codes(pictures.codes, list(removal.latents)) > 0
    among = ~own
    if removal.label is not None:
        labelled = [n for n, name in enumerate(names) if name.casefold() == removal.label.casefold()]
        among = among & ~torch.isin(numbers, torch.tensor(labelled, dtype=numbers.dtype))
    if int((among & active).sum()) >= FEW:
        presence = _presence(study, pictures, removal, among)
        found = direction(pictures.embeddings, presence, numbers.clamp_min(0), among)
    else:
        # Only pictures of the class show the concept: the family's latents alone separate the concept from the class.
        presence = _presence(study, pictures, removal, torch.ones_like(own))
        without = embeddings_without(study, pictures, removal.latents)
        moved = (pictures.embeddings - without)[active]
        level = (presence[active].mean() - presence[~active].mean()) if (~active).any() else torch.tensor(1.0)
        found = moved.mean(0) / level.clamp_min(1e-3) if len(moved) else torch.zeros(moved.shape[1])
    outside = presence[~own] if (~own).any() else presence
    inside = presence[own & active]
    high = torch.maximum(inside.median() if len(inside) else outside.max(), outside.quantile(0.95))
    return found, presence, outside.median(), high


def _writing(
    study: Study, pictures: Encoded, removal: Removal, own: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor] | None:
    """Direction, presence and its two levels for a written prompt; None for any other concept.

    Text can be inserted into any picture, so no other factor changes with it.
    """
    words = [number for number in writing_words(study) if study.vocabulary.words[number] == removal.label]
    if not words or removal.prompt is None:
        return None
    seen, text = pictures.seen(study), study.vocabulary_embeddings[words].float()
    there = shown(seen, text)[:, 0]
    if int((~there & ~own).sum()) < FEW or int(there.sum()) < FEW:
        return None
    presence = standardised((seen @ text.T)[:, 0], ~own)
    low, high = presence[~there].median(), presence[there].median()
    moved = moved_by_writing(study, pictures, removal.prompt, ~there & ~own)
    return moved / (high - low).clamp_min(1e-3), presence, low, high


def embeddings_without(study: Study, pictures: Encoded, latents: Sequence[int]) -> Tensor:
    """(pictures, embed) unit length: exact embeddings with some latents ablated."""
    model, site = study.model, study.site
    with torch.no_grad():
        if site.is_single and site.tail(model) is not None:
            acts = pictures.acts - family_directions(study.dictionary, pictures.codes, list(latents))
            return torch.cat([continue_from(model, site, some).float().cpu() for some in acts.split(BLOCK)])
        with ablate(study, list(latents)):
            return torch.cat(
                [model.encode_image(pixels[0]).float().cpu() for _, pixels in pictures.images.batches(model)]
            )
