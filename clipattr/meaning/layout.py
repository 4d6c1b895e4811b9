"""Layout: two-dimensional positions of latents on a map, by similarity.

Owns the projection. Ignores the meaning of vectors and drawing. Start at `layout`.
"""

import numpy as np
from torch import Tensor

LANDMARKS = 2000  # rows that t-SNE places; it takes seconds
NEIGHBOURS = 3  # landmarks between which every other row is placed
CHUNK = 4096  # rows per block
SHARPNESS = 20.0  # exponent of the landmarks' weights, per unit of cosine


def layout(vectors: Tensor, *, landmarks: int = LANDMARKS, seed: int = 0) -> np.ndarray:
    """Positions in the plane such that rows of high cosine are close together.

    t-SNE of at most `landmarks` rows; every other row is placed between its nearest landmarks. Distances between
    remote groups are not meaningful.

    Args:
        vectors: (n, d), any length.
        landmarks: rows that t-SNE places.
        seed: of the choice of landmarks; equal input gives an equal map.

    Returns:
        (n, 2) float32, NaN for zero rows.

    Source: van der Maaten and Hinton, Visualizing Data using t-SNE, JMLR 2008.
    """
    rows = np.asarray(vectors.detach().float().cpu(), np.float32)
    length = np.linalg.norm(rows, axis=1)
    there = np.flatnonzero(np.isfinite(length) & (length > 0))
    found = np.full((len(rows), 2), np.nan, np.float32)
    if not len(there):
        return found
    unit = rows[there] / length[there, None]
    rng = np.random.default_rng(seed)
    some = np.sort(rng.permutation(len(unit))[:landmarks])
    placed = _tsne(unit[some], seed)
    plane = np.empty((len(unit), 2), np.float32)
    plane[some] = placed
    others = np.setdiff1d(np.arange(len(unit)), some)
    # Noise separates rows that have the same three neighbours.
    spread = rng.normal(0, 0.006 * (np.ptp(placed) or 1.0), (len(others), 2)).astype(np.float32)
    for start in range(0, len(others), CHUNK):
        part = others[start : start + CHUNK]
        cosine = unit[part] @ unit[some].T
        near = np.argpartition(-cosine, min(NEIGHBOURS, len(some)) - 1, axis=1)[:, :NEIGHBOURS]
        weights = np.exp(SHARPNESS * (np.take_along_axis(cosine, near, 1) - cosine.max(1, keepdims=True)))
        weights /= weights.sum(1, keepdims=True)
        plane[part] = (placed[near] * weights[..., None]).sum(1) + spread[start : start + CHUNK]
    found[there] = plane
    return found


def _tsne(unit: np.ndarray, seed: int) -> np.ndarray:
    """t-SNE of unit rows (m, d), (m, 2); positions on a line for fewer than 5 rows."""
    if len(unit) < 5:
        return np.stack([np.arange(len(unit)), np.zeros(len(unit))], 1).astype(np.float32)
    from sklearn.manifold import TSNE

    made = TSNE(
        perplexity=min(30.0, (len(unit) - 1) / 3), metric="cosine", init="random", random_state=seed, n_jobs=1
    )
    return made.fit_transform(unit).astype(np.float32)
