"""Layout: where latents lie on a map on which those that look alike are near each other.

Owns two dimensions out of many. Ignores what the vectors are and how the map is drawn. Start at `layout`.
"""

import numpy as np
from torch import Tensor

LANDMARKS = 2000
NEIGHBOURS = 3
CHUNK = 4096
SHARPNESS = 20.0  # of the weights of neighbours, per unit of cosine


def layout(vectors: Tensor, *, landmarks: int = LANDMARKS, seed: int = 0) -> np.ndarray:
    """Places in the plane such that rows of high cosine lie close together.

    t-SNE on at most `landmarks` rows; every other row is put between its nearest landmarks, so that tens of thousands
    take seconds. Distances between far groups mean nothing.

    Args:
        vectors: (n, d), any length; a zero row has no place.
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
    # A little noise, or all rows with the same three neighbours would hide each other.
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
    """(m, 2) for (m, d) unit rows; on a line where there are too few for a map."""
    if len(unit) < 5:
        return np.stack([np.arange(len(unit)), np.zeros(len(unit))], 1).astype(np.float32)
    from sklearn.manifold import TSNE

    made = TSNE(
        perplexity=min(30.0, (len(unit) - 1) / 3), metric="cosine", init="random", random_state=seed, n_jobs=1
    )
    return made.fit_transform(unit).astype(np.float32)
