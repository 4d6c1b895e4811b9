"""Pictures as a study's model sees them: activations, codes and embeddings, from the study's arrays where it has them.

Owns where these come from: stored rows cost nothing, other pictures are encoded once; and the sums over them that
several modules need. Ignores what is done with them.
Start at `encoded`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clipattr.dictionaries import SparseCodes
from clipattr.errors import DataError, SiteError
from clipattr.execution.engine import in_pieces
from clipattr.images.cells import column_texts
from clipattr.images.collection import Images
from clipattr.sites import activations, capture, continue_from

if TYPE_CHECKING:
    from clipattr.attribution import ClosedFormTail
    from clipattr.studies.study import Study

BLOCK = 2048  # rows per step
BATCH = 64  # pictures encoded at a time
ALTERED = 128  # pictures that are no file's, encoded at a time
ABLATED = 512  # pictures ablated at a time


@dataclass(frozen=True)
class Encoded:
    """Pictures; row i of every array is the same picture.

    Attributes:
        images: the pictures that could be read. rows: their rows in the study's arrays, None for other pictures.
        acts: (pictures, width) float32 at the study's site. codes: (pictures, latents).
        embeddings: (pictures, embed) float32, unit length, the audited model's.
        places: (pictures,) int64, where they stood among the `asked` pictures that were asked for.
    """

    images: Images
    rows: np.ndarray | None
    acts: Tensor
    codes: SparseCodes
    embeddings: Tensor
    places: np.ndarray
    asked: int

    def __len__(self) -> int:
        return len(self.embeddings)

    def seen(self, study: Study) -> Tensor:
        """(pictures, embed) float32, unit length: as the study's evaluator embeds them; other pictures are encoded."""
        if self.rows is not None:
            return study.seen(self.rows)
        parts = [
            in_pieces(study.evaluator.encode_image, pixels[0])
            for _, pixels in self.images.batches(study.evaluator)
        ]
        return torch.cat(parts).float().cpu()

    def classes(self) -> tuple[Tensor, list[str]]:
        """Number of each picture's label, (pictures,), and the labels in order; no label is one of its own, ""."""
        labels = [label or "" for label in self.images.columns["label"]]
        names = sorted(set(labels))
        place = {name: number for number, name in enumerate(names)}
        return torch.tensor([place[label] for label in labels]), names


def activations_of(study: Study, pictures: Iterable[Image.Image]) -> Tensor:
    """(pictures, width) float32 at the study's site, of pictures that are no file's: covered or written on."""
    source, parts = iter(pictures), []
    while some := [study.model.prepare(picture) for picture in islice(source, ALTERED)]:
        parts.append(
            in_pieces(lambda part: activations(study.model, part, study.site), torch.stack(some)).float()
        )
    return torch.cat(parts)


def embedded(study: Study, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Embeddings (pictures, embed) and activations at the study's site (pictures, width), float32 on the CPU.

    Both are from one forward pass, which is halved where memory does not suffice.
    """
    model, site = study.model, study.site
    with torch.no_grad(), capture(model, site) as held:

        def both(some: Tensor) -> Tensor:
            embeddings = model.encode_image(some).float().cpu()
            return torch.cat([embeddings, held[site].float().cpu()], 1)

        made = in_pieces(both, pixels)
        embed = made.shape[1] - held[site].shape[1]
    return made[:, :embed], made[:, embed:]


def exact_sums(tail: ClosedFormTail, acts: Tensor, codes: SparseCodes) -> tuple[Tensor, Tensor]:
    """Exact single-latent ablations summed over pictures, and their squares, each (latents, targets) float64."""
    total = torch.zeros(tail.n_latents, tail.n_targets, dtype=torch.float64)
    square = torch.zeros_like(total)
    for some in torch.arange(len(acts)).split(ABLATED):
        fixed = codes.rows(some).to_fixed()
        # Unused places are exactly zero.
        effect = tail.exact(acts[some], fixed).double().flatten(0, 1).cpu()
        index = fixed.indices.long().flatten()
        total.index_add_(0, index, effect)
        square.index_add_(0, index, effect.square())
    return total, square


def encoded(
    study: Study,
    images: Any = None,
    *,
    rows: np.ndarray | None = None,
    on_pictures: Callable[[int], None] | None = None,
) -> Encoded:
    """Activations, codes and embeddings of some pictures.

    Args:
        images: anything `Images.open` takes; pictures of the study are recognised and not encoded again. None: rows.
        rows: of the study; None with no images: the held-out ones, or all if nothing is held out.
        on_pictures: called after each batch that had to be encoded with the place after its last picture; what it
            raises ends the work.

    Raises:
        SiteError: the study's site holds several tokens per picture. DataError: not one picture can be read.
    """
    if not study.site.is_single:
        raise SiteError(
            f"this needs one activation per picture; the study was built at {study.site}, which has one per token. "
            f"Build a study at image.{study.site.block}.cls or image.embedding."
        )
    if images is not None:
        opened = Images.open(images)
        rows = _rows_of(study, opened)
        if rows is None:
            return _encode(study, opened, on_pictures=on_pictures)
        places = np.arange(len(opened))
    else:
        if rows is None:
            rows = study.holdout_rows if len(study.holdout_rows) else np.arange(len(study.images))
        rows = np.asarray(rows, dtype=np.int64)
        opened, places = study.images.select(rows), np.arange(len(rows))
    if not len(rows):
        raise DataError("the selection is empty: there is no picture to encode. Select at least one.")
    if study.site.tail(study.model) is None:
        # Behind an earlier block the other tokens take part, and the study does not keep them.
        return _encode(study, opened, rows, on_pictures)
    acts = torch.from_numpy(np.asarray(study.activations[rows], dtype=np.float32))
    with torch.no_grad():
        embeddings = torch.cat([continue_from(study.model, study.site, some) for some in acts.split(BLOCK)])
    codes = study.codes.rows(torch.from_numpy(rows))
    return Encoded(opened, rows, acts, codes, embeddings.float().cpu(), places, len(rows))


def _rows_of(study: Study, images: Images) -> np.ndarray | None:
    """Rows of these pictures if they are the study's own, opened from where the study has them."""
    if images.source is not study.images.source or not set(images.ids) <= set(study.images.ids):
        return None
    return np.array([study.images.index_of(name) for name in images.ids], dtype=np.int64)


def _encode(
    study: Study,
    images: Images,
    rows: np.ndarray | None = None,
    on_pictures: Callable[[int], None] | None = None,
) -> Encoded:
    kept: list[np.ndarray] = []
    parts = []
    for places, pixels in images.batches(study.model, BATCH):
        parts.append(embedded(study, pixels[0]))
        kept.append(places)
        if on_pictures is not None:
            on_pictures(int(places[-1]) + 1)
    if not kept:
        raise DataError(f"None of the {len(images)} pictures could be read; images.skipped says why.")
    read = np.concatenate(kept)
    embeddings, joined = (torch.cat(each) for each in zip(*parts, strict=True))
    return Encoded(
        images if len(read) == len(images) else images.select(read),
        None if rows is None else rows[read],
        joined,
        study.dictionary.encode(joined),
        embeddings,
        read,
        len(images),
    )


def summed_codes(codes: SparseCodes, latents: Any) -> Tensor:
    """(pictures,) how strongly each picture shows a family: its codes summed."""
    chosen = codes.for_latents(latents)
    total = torch.zeros(len(codes), dtype=torch.float32)
    return total.index_add_(0, chosen.row_of_entries(), chosen.values.reshape(-1).float())


def family_directions(dictionary: Any, codes: SparseCodes, latents: Any) -> Tensor:
    """(pictures, width): what a family adds to the activation, its codes times its directions."""
    fixed = codes.to_fixed()
    wanted = torch.isin(fixed.indices.long(), torch.as_tensor(latents, dtype=torch.long))
    amounts = torch.where(wanted, fixed.values, torch.zeros_like(fixed.values)).float()
    decoder = torch.as_tensor(dictionary.decoder).float()
    parts = [
        torch.bmm(some[:, None], decoder[index.long()])[:, 0]
        for some, index in zip(amounts.split(BLOCK), fixed.indices.split(BLOCK), strict=True)
    ]
    return torch.cat(parts)


def names_given(given: Any, pictures: Encoded, column: str) -> list[str | None] | None:
    """Labels or groups of some pictures: the given ones, else the collection's column; None if there are none.

    Raises:
        DataError: another number of them than pictures were asked for.
    """
    if given is None:
        known = pictures.images.columns[column]
        return list(known) if any(known) else None
    values = column_texts(given, column)
    if len(values) != pictures.asked:
        raise DataError(
            f"{pictures.asked} pictures need as many {column}s; got {len(values)}. Give one per picture, None without."
        )
    return [values[place] for place in pictures.places.tolist()]
