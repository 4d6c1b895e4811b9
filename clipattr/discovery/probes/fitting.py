"""Fitting: linear probes on embeddings and sparse ones on codes, with scikit-learn.

Owns fitting to labelled pictures: regularisation strength by cross-validation, balanced classes, and calibration of the
logits on left-out pictures. Ignores the classifier as a value (`probe.py`). Start at `fit_probe`.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clipattr.discovery.encoded import encoded, names_given
from clipattr.discovery.probes.null_space import remover
from clipattr.discovery.probes.probe import Probe, numbers_in
from clipattr.errors import DataError
from clipattr.images.cells import column_texts
from clipattr.models.surroundings import unaffected

STRENGTHS = tuple(10.0**power for power in range(-2, 5))  # scikit-learn's C; embeddings have unit length
FEWEST = 2  # least pictures of a class


@unaffected
def fit_probe(
    source: Any,
    labels: Any = None,
    *,
    penalty: str = "l2",
    strength: float | None = None,
    balanced: bool = True,
    calibrate: bool = True,
    folds: int = 5,
    weights: Any = None,
    blind_to: Tensor | None = None,
    model_hash: str | None = None,
    seed: int = 0,
) -> Probe:
    """Fit a multinomial logistic regression on embeddings.

    Args:
        source: (pictures, embed) unit-length embeddings, as a tensor, array, list, frame or sparse matrix; or a study,
            of which the pictures that are not held out are used.
        labels: one per picture, as a list, array, tensor, Series or column; default: the study's own. Pictures whose
            label is missing (None, NaN, NA, "") are left out and counted in `about["without_label"]`; 0, False and
            "None" are classes.
        penalty: "l2" or "l1".
        strength: scikit-learn's C, large means weak regularisation; None: the smallest C whose cross-validated log-loss
            is within one standard error of the best.
        balanced: give all classes the same total weight.
        calibrate: divide the logits by the temperature that minimises the loss on left-out pictures.
        folds: of the cross-validation; fewer if a class has fewer pictures.
        weights: weight of each picture.
        blind_to: (embed, n) directions that the probe must not use, from `directions_of`.
        model_hash: hash of the model that made the embeddings, kept with the probe; a study gives its own.
        seed: of the folds of the cross-validation.

    Returns:
        A `Probe` with weights (classes, embed) and bias (classes,), in logits; `about` records strength, temperature
        and cross-validated log-loss.

    Raises:
        DataError: the numbers of labels and pictures differ, there are fewer than two classes, a class has a single
            picture, or embeddings are not finite.

    >>> import torch
    >>> import clipattr as ca
    >>> embeddings = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    >>> embeddings = torch.nn.functional.normalize(embeddings, dim=1)
    >>> labels = ["left" if first < 0 else "right" for first in embeddings[:, 0].tolist()]
    >>> probe = ca.fit_probe(embeddings, labels, strength=1.0)
    >>> probe.names, tuple(probe.weights.shape)
    (('left', 'right'), (2, 4))
    """
    if penalty not in ("l1", "l2"):
        raise DataError(f"the penalty is 'l1' or 'l2'; got {penalty!r}.")
    embeddings, labels, model_hash = _material(source, labels, model_hash)
    kept, names, y = _classes(labels)
    each = _weights(y, None if weights is None else _per_picture(weights, len(labels))[kept], balanced)
    x = embeddings[kept].double().numpy()
    if blind_to is not None:
        if blind_to.ndim != 2 or len(blind_to) != x.shape[1]:
            raise DataError(
                f"blind_to holds directions of embeddings, ({x.shape[1]}, n); got {tuple(blind_to.shape)}."
            )
        x = x @ remover(blind_to).numpy()
    coef, intercept, about = _best(x, y, each, penalty, strength, folds, seed, calibrate)
    if blind_to is not None:  # removes what the solver's tolerance leaves in the null space
        coef = coef @ remover(blind_to).numpy()
    about |= {"kind": "logistic", "balanced": balanced, "without_label": len(labels) - len(kept)}
    about |= {} if blind_to is None else {"blind_to_directions": blind_to.shape[1]}
    weights_, bias = torch.from_numpy(coef).float(), torch.from_numpy(intercept).float()
    return Probe(tuple(names), weights_, bias, model_hash, about)


@dataclass(frozen=True)
class SparseProbe:
    """A linear classifier on codes that uses few latents: `logit_c = Σ_j w_cj a_j + b_c`.

    Attributes:
        names: the classes. weights: (classes, latents) float32, mostly zero. bias: (classes,).
    """

    names: tuple[str, ...]
    weights: Tensor
    bias: Tensor
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def latents(self) -> list[int]:
        """The latents that any class uses."""
        return torch.nonzero((self.weights != 0).any(0)).flatten().tolist()

    def logits(self, codes: Any) -> Tensor:
        """Logits (pictures, classes) of the `SparseCodes` of pictures."""
        return torch.from_numpy(codes.to_scipy() @ self.weights.numpy().T) + self.bias

    def top(self, name: str, n: int = 10) -> list[tuple[int, float]]:
        """Latents with positive weight for a class and their weights, strongest first."""
        row = self.weights[self.names.index(name)]
        best = row.topk(min(n, int((row > 0).sum())))
        return list(zip(best.indices.tolist(), best.values.tolist(), strict=True))


def fit_sparse_probe(
    source: Any,
    labels: Any = None,
    *,
    strength: float | None = None,
    balanced: bool = True,
    folds: int = 5,
    seed: int = 0,
) -> SparseProbe:
    """Fit an L1 logistic regression on codes, to find a few latents that separate the classes.

    Args:
        source: `SparseCodes`, or a study, of which the pictures that are not held out are used.
        labels, strength, balanced, folds, seed: as for `fit_probe`. Codes are scaled by each latent's largest code.

    Returns:
        A `SparseProbe` with weights (classes, n_latents), in logits per unit of scaled code.

    Raises:
        DataError: as `fit_probe`.

    >>> import torch
    >>> import clipattr as ca
    >>> codes = ca.SparseCodes.from_dense(torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]).repeat(10, 1))
    >>> probe = ca.fit_sparse_probe(codes, ["cat", "dog"] * 10, strength=10.0)
    >>> probe.weights[0, 2].item()  # the third latent is never active
    -0.0
    """
    if hasattr(source, "to_scipy"):
        codes, given = source, labels
    else:
        codes = source.codes.rows(torch.from_numpy(source.rows))
        given = (
            [source.images.columns["label"][row] for row in source.rows.tolist()]
            if labels is None
            else labels
        )
    given = [] if given is None else column_texts(given)
    if len(given) != len(codes):
        raise DataError(f"codes of {len(codes)} pictures need as many labels; got {len(given)}.")
    kept, names, y = _classes(given)
    sparse = codes.to_scipy().astype(np.float64)
    largest = np.asarray(abs(sparse).max(0).todense()).ravel()
    scale = 1 / np.where(largest > 0, largest, 1)
    x = sparse[kept].multiply(scale).tocsr()
    x.indices, x.indptr = (
        x.indices.astype(np.int32),
        x.indptr.astype(np.int32),
    )  # scikit-learn requires 32-bit indices
    coef, intercept, about = _best(x, y, _weights(y, None, balanced), "l1", strength, folds, seed, True)
    made = torch.from_numpy(coef * scale).float()
    return SparseProbe(tuple(names), made, torch.from_numpy(intercept).float(), about)


def _classes(labels: Sequence[str | None]) -> tuple[list[int], list[str], np.ndarray]:
    """Which pictures have a label, the classes, and the class number of each of those pictures."""
    kept = [number for number, label in enumerate(labels) if label is not None]
    counts = Counter(str(labels[number]) for number in kept)
    names = sorted(counts)
    if len(names) < 2:
        raise DataError(
            f"a probe needs two classes or more; the labels hold {len(names)} ({', '.join(names) or 'none at all'}). "
            "Add pictures of another class."
        )
    rare = [name for name in names if counts[name] < FEWEST]
    if rare:
        raise DataError(
            f"{len(rare)} class(es) have fewer than {FEWEST} pictures, e.g. {rare[0]!r}. Leave them out (label None) "
            "or add pictures."
        )
    place = {name: number for number, name in enumerate(names)}
    return kept, names, np.array([place[str(labels[number])] for number in kept])


def _per_picture(weights: Any, count: int) -> np.ndarray:
    """The given weight of each picture; DataError unless there is one number of at least 0 per picture."""
    found = numbers_in(weights, "weights").double().numpy().reshape(-1)
    if len(found) != count or not (np.isfinite(found).all() and (found >= 0).all()):
        raise DataError(
            f"weights are one number of at least 0 per picture, {count} in all; got {len(found)}"
            f"{', some of them negative or not finite' * (len(found) == count)}."
        )
    return found


def _weights(y: np.ndarray, given: np.ndarray | None, balanced: bool) -> np.ndarray:
    """Weight of each picture: as given, and on request with equal totals for all classes."""
    each = np.ones(len(y)) if given is None else given
    if not balanced:
        return each
    share = np.bincount(y, weights=each)
    return each * (each.sum() / (len(share) * np.maximum(share, 1e-12)))[y]


def _best(
    x: Any, y: np.ndarray, each: np.ndarray, penalty: str, strength: float | None, folds: int, seed: int,
    calibrate: bool,
) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:  # fmt: skip
    """coef (classes, columns) and intercept (classes,) at the chosen strength, calibrated on left-out pictures."""
    if strength is not None and not calibrate:  # no cross-validation is needed
        about: dict[str, Any] = {
            "penalty": penalty,
            "strength": strength,
            "pictures": len(y),
            "temperature": 1.0,
        }
        return *_fit(x, y, each, penalty, strength), about
    folds = max(2, min(folds, int(np.bincount(y).min())))
    losses: dict[float, float] = {}
    left_out: dict[float, np.ndarray] = {}
    for c in STRENGTHS if strength is None else (strength,):
        left_out[c] = _left_out(x, y, each, penalty, c, folds, seed)
        losses[c] = _log_loss(left_out[c], y, each)
    best = min(losses, key=lambda c: (losses[c], c))
    # One-standard-error rule: on separable pictures the loss decreases with C without limit.
    bound = losses[best] + _standard_error(left_out[best], y, each)
    chosen = min(c for c in losses if losses[c] <= bound)
    coef, intercept = _fit(x, y, each, penalty, chosen)
    sharpness = _sharpness(left_out[chosen], y, each) if calibrate else 1.0
    about = {
        "penalty": penalty, "strength": chosen, "pictures": len(y), "temperature": 1 / sharpness,
        "cross_validated_log_loss": {str(c): loss for c, loss in losses.items()},
    }  # fmt: skip
    return coef * sharpness, intercept * sharpness, about


def _material(
    source: Any, labels: Any, model_hash: str | None
) -> tuple[Tensor, list[str | None], str | None]:
    if hasattr(source, "dictionary") and hasattr(source, "rows"):
        pictures = encoded(source, rows=source.rows)
        given = names_given(labels, pictures, "label")
        if given is None:
            raise DataError("the study's pictures have no labels: give labels, one per picture.")
        embeddings, model_hash = pictures.embeddings, source.model.weights_hash
    else:
        embeddings = numbers_in(source, "embeddings").cpu()
        if labels is None:
            raise DataError("embeddings have no labels of their own: give labels, one per picture.")
        given = column_texts(labels)
    if embeddings.ndim != 2 or len(given) != len(embeddings):
        raise DataError(
            f"embeddings have shape (pictures, embed) with one label per row; got {tuple(embeddings.shape)} and "
            f"{len(given)} labels."
        )
    if not torch.isfinite(embeddings).all():
        raise DataError("some embeddings are NaN or infinite. Leave those pictures out.")
    return embeddings, given, model_hash


def _fit(x: Any, y: np.ndarray, each: np.ndarray, penalty: str, c: float) -> tuple[np.ndarray, np.ndarray]:
    """coef (classes, embed) and intercept (classes,), also for two classes."""
    # lbfgs does not support L1; saga does, and is slower. Since scikit-learn 1.8 l1_ratio selects the penalty.
    from sklearn import __version__ as version
    from sklearn.linear_model import LogisticRegression

    ratio = 1.0 if penalty == "l1" else 0.0
    recent = tuple(int(part) for part in version.split(".")[:2]) >= (1, 8)
    told: dict[str, Any] = {"l1_ratio": ratio} if recent else {"penalty": penalty}
    solver = "saga" if penalty == "l1" else "lbfgs"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # convergence warnings: the cross-validated loss judges the result
        made = LogisticRegression(C=c, solver=solver, max_iter=1000, tol=1e-4, random_state=0, **told)
        made.fit(x, y, sample_weight=each)
    coef, intercept = made.coef_, made.intercept_
    if len(coef) == 1:
        return np.concatenate([-coef / 2, coef / 2]), np.concatenate([-intercept / 2, intercept / 2])
    return coef, intercept


def _left_out(
    x: Any, y: np.ndarray, each: np.ndarray, penalty: str, c: float, folds: int, seed: int
) -> np.ndarray:
    """Logits of every picture by a probe fitted without it, (pictures, classes)."""
    from sklearn.model_selection import StratifiedKFold

    logits = np.zeros((len(y), y.max() + 1))
    for seen, unseen in StratifiedKFold(folds, shuffle=True, random_state=seed).split(y, y):
        coef, intercept = _fit(x[seen], y[seen], each[seen], penalty, c)
        logits[unseen] = x[unseen] @ coef.T + intercept
    return logits


def _log_loss(logits: np.ndarray, y: np.ndarray, each: np.ndarray) -> float:
    return float((_surprisals(logits, y) * each).sum() / each.sum())


def _standard_error(logits: np.ndarray, y: np.ndarray, each: np.ndarray) -> float:
    """Standard error of the log-loss over independent pictures."""
    loss = _surprisals(logits, y)
    return float(np.sqrt((each**2 * (loss - _log_loss(logits, y, each)) ** 2).sum()) / each.sum())


def _surprisals(logits: np.ndarray, y: np.ndarray) -> np.ndarray:
    from scipy.special import log_softmax

    return -log_softmax(logits, axis=1)[np.arange(len(y)), y]


def _sharpness(logits: np.ndarray, y: np.ndarray, each: np.ndarray) -> float:
    """Inverse temperature, at most 1, that minimises the log-loss of left-out logits.

    At most 1, because the loss decreases without limit where every left-out picture is classified correctly.
    """
    from scipy.optimize import minimize_scalar

    found = minimize_scalar(
        lambda power: _log_loss(logits * np.exp(power), y, each), bounds=(-4, 0), method="bounded"
    )
    return float(np.exp(found.x))
