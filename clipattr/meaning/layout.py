"""Layout: two-dimensional positions of latents on a map, by similarity.

Owns the projection. Ignores the meaning of vectors and drawing. Start at `layout`.
"""

from collections.abc import Callable

import numpy as np
from torch import Tensor

LANDMARKS = 2000  # rows that t-SNE places; it takes seconds
NEIGHBOURS = 3  # landmarks between which every other row is placed
CHUNK = 4096  # rows per block
ROUND = 250  # steps of t-SNE after which progress is told: the fewest that it takes
ROUNDS = 4  # 1,000 steps in all, t-SNE's usual number
# A round begins with a momentum of 0.5 where steps after the first 250 would have 0.8; a constant gradient moves a
# point by rate / (1 - momentum), so that the rate of later rounds makes up for it.
LATER = (1 - 0.5) / (1 - 0.8)
EXAGGERATION = 12.0  # of affinities in the first round
SHARPNESS = 20.0  # exponent of the landmarks' weights, per unit of cosine


def layout(
    vectors: Tensor,
    *,
    landmarks: int = LANDMARKS,
    seed: int = 0,
    on_round: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Positions in the plane such that rows of high cosine are close together.

    t-SNE of at most `landmarks` rows; every other row is placed between its nearest landmarks. Distances between
    remote groups are not meaningful.

    Args:
        vectors: (n, d), any length.
        landmarks: rows that t-SNE places.
        seed: of the choice of landmarks; equal input gives an equal map.
        on_round: called with rounds done and rounds in all; what it raises ends the work.

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
    placed = _tsne(unit[some], seed, on_round or (lambda done, of: None))
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


def _tsne(unit: np.ndarray, seed: int, on_round: Callable[[int, int], None]) -> np.ndarray:
    """t-SNE of unit rows (m, d), (m, 2); positions on a line for fewer than 5 rows."""
    if len(unit) < 5:
        return np.stack([np.arange(len(unit)), np.zeros(len(unit))], 1).astype(np.float32)
    from sklearn.manifold import TSNE

    rate = max(len(unit) / EXAGGERATION / 4, 50.0)  # the library's own choice for the first round
    common = {
        "perplexity": min(30.0, (len(unit) - 1) / 3), "metric": "cosine", "random_state": seed, "n_jobs": 1,
        "max_iter": ROUND,
    }  # fmt: skip
    on_round(0, ROUNDS)
    placed = TSNE(init="random", early_exaggeration=EXAGGERATION, learning_rate=rate, **common).fit_transform(
        unit
    )
    for done in range(1, ROUNDS):
        on_round(done, ROUNDS)
        made = TSNE(init=placed, early_exaggeration=1.0, learning_rate=rate * LATER, **common)
        placed = made.fit_transform(unit)
    on_round(ROUNDS, ROUNDS)
    return placed.astype(np.float32)
