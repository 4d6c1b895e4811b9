"""Studies of vectors: the arrays of a study from given embeddings, without encoding pictures.

Owns copying vectors into a study's arrays, fingerprints for near-duplicates, and the checks that rows, pictures and
text embeddings belong together. Ignores latents. Start at `gather_vectors`.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clipattr.errors import DataError, ModelError
from clipattr.images.collection import Images
from clipattr.images.embeddings import Embeddings
from clipattr.models.loading import Model
from clipattr.models.textonly import FILE, TextEmbeddings
from clipattr.statistics import wilson
from clipattr.studies.format import ArrayWriter

BLOCK = 8192  # rows per block
LARGEST = 65_504.0  # largest float16
SAMPLE = 4096  # rows in checks
WORDS = 512  # words of the vocabulary in checks
LOOKED_AT = 8  # pictures encoded again to check that rows and pictures belong together
# Leading directions of text embeddings whose share of the pictures' variance is compared with chance.
SUBSPACE = 32


@dataclass(frozen=True)
class VectorInput:
    """Vectors from which a study is built.

    Attributes:
        embeddings: of the audited model.
        evaluator: the evaluator's embeddings of the same rows; None where the evaluator encodes the pictures or is the
            audited model itself.
        notes: notes of the checks before the build.
    """

    embeddings: Embeddings
    evaluator: Embeddings | None = None
    notes: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> list[str | None]:
        """Hashes of the vectors, for the study's plan."""
        return [self.embeddings.fingerprint, self.evaluator.fingerprint if self.evaluator else None]


def gather_vectors(
    given: VectorInput, images: Images, model: Model, evaluator: Model, work: Path, *, batch: int = 64
) -> Images:
    """Write activations.npy, evaluator.npy and fingerprints.npy of a study below `work`.

    Args:
        images: the rows with their ids, labels and splits: `given.embeddings.images`, possibly with held-out rows.

    Returns:
        The rows in the arrays, with notes of the checks. Pictures that the evaluator must encode and that cannot be
        read are left out, and are in `images.skipped`.

    Raises:
        DataError: vectors of another width than the model's, NaN, zero rows, values beyond float16, or an evaluator
            that would need pictures where there are none.
    """
    rows = given.embeddings
    require_width(rows, model)
    seen, places = _seen(given, images, model, evaluator, batch)
    arrays = {
        "activations": ArrayWriter(work / "activations.npy", len(places), np.float16),
        "evaluator": ArrayWriter(work / "evaluator.npy", len(places), np.float16),
        "fingerprints": ArrayWriter(work / "fingerprints.npy", len(places), np.uint64),
    }
    hashing: _SignHash | None = None
    kept = np.zeros(len(rows), dtype=bool)
    kept[places] = True
    done = 0
    for start, block in rows.blocks(BLOCK):
        block = block[kept[start : start + len(block)]]
        if not len(block):
            continue
        if np.abs(block).max() > LARGEST:
            raise DataError(
                f"The embeddings reach {np.abs(block).max():.3g}, beyond the float16 range ({LARGEST:,.0f}). Divide "
                "all of them by one number, which changes no cosine."
            )
        hashing = hashing or _SignHash(block)
        arrays["activations"].add(block)
        arrays["evaluator"].add(_unit(block) if seen is None else seen[done : done + len(block)])
        arrays["fingerprints"].add(hashing(block))
        done += len(block)
    for array in arrays.values():
        array.close()
    if isinstance(model, TextEmbeddings):
        model.save(work / FILE)
    found = images.select(places)
    found.notes = [*images.notes, f"Built from embeddings ({rows.state}), not from pictures."]
    found.notes += _recomputed(rows, images, model)
    return found


def require_width(rows: Embeddings, model: Model) -> None:
    """Raise DataError unless vectors have the width of the model's embeddings."""
    if rows.width != model.embed_dim:
        raise DataError(
            f"The embeddings have {rows.width} numbers per row, those of {model.reference} {model.embed_dim}. Pass the "
            "model that computed them."
        )


def space_notes(given: VectorInput, images: Images, model: Model, words: Sequence[str]) -> list[str]:
    """Notes on whether vectors and texts come from one model; warns where they seem not to.

    Args:
        words: words of the vocabulary, of which a sample is embedded.
    """
    chosen = list(words)[:: max(1, len(words) // WORDS)][:WORDS]
    if len(chosen) < 2:
        return []
    check = _space_of(given, images, model, model.encode_text(chosen))
    if not check.is_plausible:
        warnings.warn(
            f"The embeddings and the texts of {model.reference} may come from different models, though their widths "
            f"agree. {check}",
            stacklevel=2,
        )
    return [str(check)]


def _seen(
    given: VectorInput, images: Images, model: Model, evaluator: Model, batch: int
) -> tuple[np.ndarray | None, np.ndarray]:
    """The evaluator's embeddings of the available rows, float16, and the indices of these rows.

    None where the evaluator is the audited model.
    """
    everything = np.arange(len(given.embeddings))
    if given.evaluator is not None:
        if given.evaluator.width != evaluator.embed_dim:
            raise DataError(
                f"The evaluator's embeddings have {given.evaluator.width} numbers per row, those of "
                f"{evaluator.reference} {evaluator.embed_dim}. Pass evaluator= the model that computed them."
            )
        seen = np.empty((len(everything), evaluator.embed_dim), np.float16)
        for start, block in given.evaluator.blocks(BLOCK):
            seen[start : start + len(block)] = _unit(block)
        return seen, everything
    if evaluator.weights_hash == model.weights_hash and evaluator.facts == model.facts:
        return None, everything
    if not pictures_there(images).any():
        raise DataError(
            f"The evaluator {evaluator.reference} needs to encode the pictures, but no picture has a path to a file "
            "that exists. Pass evaluator_embeddings= of the same rows, paths=, or no evaluator."
        )
    parts, places = [], []
    with torch.no_grad():
        for found, (pixels,) in images.batches([evaluator], batch):
            parts.append(evaluator.encode_image(pixels).half().cpu().numpy())
            places.append(found)
    if not parts:
        raise DataError(f"None of the {len(images)} pictures could be read; images.skipped says why.")
    return np.concatenate(parts), np.concatenate(places)


def pictures_there(images: Images) -> np.ndarray:
    """(pictures,) bool: whether a picture's file exists or it can be rendered; files are not opened."""
    kind = images.source.kind
    if kind == "elsewhere":
        return np.zeros(len(images), dtype=bool)
    if kind not in ("files", "vectors"):
        return np.ones(len(images), dtype=bool)
    paths = (images.source.path(int(row)) for row in images.rows)
    return np.array([bool(path) and Path(str(path)).is_file() for path in paths])


def pictures_had(images: Images, there: np.ndarray) -> np.ndarray:
    """(pictures,) bool: whether a picture's file exists, or is missing by now; False where there never was one.

    Args:
        there: of `pictures_there`.
    """
    had = there.copy()
    if images.source.kind in ("files", "vectors"):
        for place in np.flatnonzero(~there).tolist():
            path = images.source.path(int(images.rows[place]))
            had[place] = (
                bool(path) and not Path(str(path)).is_dir()
            )  # no path is stored as the study's folder
    return had


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


class _SignHash:
    """Locality-sensitive hash: 64 signs of random projections per row, as one integer.

    Rows are centred on the first block's mean, since embeddings of pictures lie in a narrow cone.
    """

    def __init__(self, first: np.ndarray) -> None:
        self.mean = _unit(first).mean(0)
        self.directions = np.random.default_rng(0).standard_normal((first.shape[1], 64)).astype(np.float32)

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        positive = (_unit(rows) - self.mean) @ self.directions > 0
        return (positive.astype(np.uint64) << np.arange(64, dtype=np.uint64)).sum(1, dtype=np.uint64)


def _recomputed(rows: Embeddings, images: Images, model: Model) -> list[str]:
    """Notes on how well a few rows agree with embeddings of their pictures; none without pictures or image tower."""
    if isinstance(model, TextEmbeddings):
        return []
    there = np.flatnonzero(pictures_there(images))
    if not len(there):
        return []
    chosen = there[:: max(1, len(there) // LOOKED_AT)][:LOOKED_AT]
    with torch.no_grad():
        found = list(images.batches([model], LOOKED_AT, places=chosen))
        if not found:
            return []
        again = torch.cat([model.encode_image(pixels) for _, (pixels,) in found]).float().cpu().numpy()
    places = np.concatenate([some for some, _ in found])
    # Rows of other pictures are the reference: embeddings of one model are close together for any content.
    others = np.setdiff1d(np.linspace(0, len(rows) - 1, 8 * LOOKED_AT).astype(int), places)
    kept = _unit(np.concatenate([rows.read(int(row), int(row) + 1) for row in (*places, *others)]))
    cosines = again @ kept.T
    own = np.diagonal(cosines)
    nearest = int((cosines.argmax(1) == np.arange(len(places))).sum())
    told = (
        f"{len(own)} pictures encoded again agree with their rows to a cosine of {np.median(own):.3f} (median), and "
        f"{nearest} of them are nearest to their own row."
    )
    if 2 * nearest < len(own):
        told += " Rows are out of step with the paths, or come from another model or preprocessing."
        warnings.warn(told, stacklevel=2)
    return [told]


@dataclass(frozen=True)
class SpaceCheck:
    """Evidence on whether vectors of pictures and of texts come from one model.

    Attributes:
        accuracy, low: zero-shot accuracy for the pictures' labels, and its lower 95 % bound (Wilson); NaN without
            labels. chance: share of the largest class.
        overlap: share of the pictures' variance along the leading directions of the texts. expected: the share along
            random directions. deviations: their difference in standard deviations.
    """

    accuracy: float
    low: float
    chance: float
    overlap: float
    expected: float
    deviations: float

    @property
    def is_plausible(self) -> bool:
        """Whether accuracy exceeds chance, or without labels, overlap exceeds that of random directions."""
        return self.low > self.chance if self.accuracy == self.accuracy else self.deviations > 2

    def __str__(self) -> str:
        shown = f"{self.overlap:.0%} of the pictures' variance lies along the texts' (random: {self.expected:.0%})"
        if self.accuracy == self.accuracy:
            shown = f"zero-shot accuracy on the labels {self.accuracy:.0%} (largest class {self.chance:.0%}); {shown}"
        return f"Do vectors and texts share one space? {shown}."


def check_space(vectors: Any, texts: Tensor, labels: Any = None, classes: Tensor | None = None) -> SpaceCheck:
    """Check whether pictures and texts were embedded by one model.

    Args:
        vectors: (pictures, embed).
        texts: (words, embed) of a vocabulary.
        labels: class number of each picture, −1 for none.
        classes: (classes, embed) embeddings of the classes' names.
    """
    pictures = torch.nn.functional.normalize(torch.as_tensor(np.asarray(vectors, np.float32)), dim=-1)
    texts = torch.nn.functional.normalize(texts.float().cpu(), dim=-1)
    accuracy = low = chance = float("nan")
    if labels is not None and classes is not None and len(classes) > 1:
        truth = torch.as_tensor(labels)
        known = truth >= 0
        right = (pictures[known] @ classes.float().cpu().T).argmax(1) == truth[known]
        accuracy, low = float(right.float().mean()), wilson(int(right.sum()), len(right))[0]
        chance = float(truth[known].bincount().max() / max(len(right), 1))
    rank = max(1, min(SUBSPACE, len(texts) - 1, texts.shape[1] // 4))
    centred = pictures - pictures.mean(0)
    total = centred.square().sum().clamp_min(1e-12)
    leading = torch.linalg.svd(texts - texts.mean(0), full_matrices=False).Vh[:rank]
    overlap = float((centred @ leading.T).square().sum() / total)
    generator = torch.Generator().manual_seed(0)
    drawn = []
    for _ in range(40):
        basis = torch.linalg.qr(torch.randn(texts.shape[1], rank, generator=generator)).Q
        drawn.append(float((centred @ basis).square().sum() / total))
    deviations = (overlap - float(np.mean(drawn))) / max(float(np.std(drawn)), 1e-9)
    return SpaceCheck(accuracy, low, chance, overlap, float(np.mean(drawn)), deviations)


def _space_of(given: VectorInput, images: Images, model: Model, words: Tensor) -> SpaceCheck:
    """`check_space` of a study's vectors against its model's embeddings of the vocabulary and of the labels."""
    rows = given.embeddings
    step = max(1, len(rows) // SAMPLE)
    chosen = list(range(0, len(rows), step))[:SAMPLE]
    vectors = rows.read(0, len(rows)) if step == 1 else np.concatenate([rows.read(r, r + 1) for r in chosen])
    named = [images.columns["label"][row] for row in chosen]
    names = sorted({name for name in named if name})
    if len(names) < 2:
        return check_space(vectors, words)
    try:
        classes = model.encode_text(names)
    except ModelError:  # the table of texts does not contain the labels
        return check_space(vectors, words)
    return check_space(vectors, words, [names.index(name) if name else -1 for name in named], classes)
