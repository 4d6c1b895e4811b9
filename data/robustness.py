"""Reliance of prompts and probes on a shortcut: trained where it correlates with the diagnosis, judged where it does
not.

The same pictures serve every strength: each lesion of a pool is embedded once with the shortcut and once without, and a
training set takes one of the two. So curves over strengths differ in the strength only.
Start at `material`, then `curves`; `summary` and `draw` show them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .lesion_truth import Reliance, embed_lesions, reliance
from .lesion_world import CLASSES, TEMPLATES, LesionWorld, ProbeSet
from .lesions import MALIGNANT
from .world import TRAIN

if TYPE_CHECKING:
    import pandas as pd

    from clipattr.discovery.probes.probe import Probe
    from clipattr.models.loading import Model

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 0.9, 1.0)
POOL = 2_000_000_000  # first index of the lesions that probes are fitted on: no model was trained on them
ENSEMBLE = (*TEMPLATES, "a picture of a {}", "a dermatoscope's view of a {}", "this is a {}")
Fit = Callable[[torch.Tensor, list[str], int], "Probe"]


@dataclass(frozen=True)
class Material:
    """One shortcut's pictures, embedded. `there` and `gone`: (pool, embed), the pool's lesions with it and without."""

    shortcut: str
    names: np.ndarray  # (pool,) classes
    there: torch.Tensor
    gone: torch.Tensor
    pairs: ProbeSet
    judged: torch.Tensor  # (2 n, embed), of the pairs

    def training(self, strength: float, n: int, seed: int) -> tuple[torch.Tensor, list[str]]:
        """`n` pictures of the pool in which the shortcut follows the diagnosis; embeddings (n, embed) and classes."""
        draws = np.random.default_rng([seed, round(1000 * strength)])
        which = draws.permutation(len(self.names))[:n]
        names = self.names[which]
        rate = np.where(names == MALIGNANT, (1 + strength) / 2, (1 - strength) / 2)
        shows = torch.from_numpy(draws.random(n) < rate)[:, None]
        chosen = torch.from_numpy(which)
        return torch.where(shows, self.there[chosen], self.gone[chosen]), names.tolist()

    def judge(self, probe: Probe) -> Reliance:
        """Accuracy, worst group and reliance of a classifier on the pairs."""
        logits = probe.logits(self.judged)
        return reliance(logits[:, probe.index(CLASSES[0])] - logits[:, probe.index(CLASSES[1])], self.pairs)


def material(
    model: Model, world: LesionWorld, shortcut: str, *, pool: int = 1500, judged: int = 500
) -> Material:
    """Draw and embed what a study of one shortcut needs: 2 × (pool + judged) pictures."""
    lesions = [world.scene(POOL + index, TRAIN) for index in range(pool)]
    pairs = world.balanced(shortcut, judged)
    return Material(
        shortcut,
        np.array([lesion.main for lesion in lesions]),
        embed_lesions(model, [lesion.having(shortcut) for lesion in lesions]),
        embed_lesions(model, [lesion.without(shortcut) for lesion in lesions]),
        pairs,
        embed_lesions(model, pairs.lesions),
    )


def _probe(penalty: str, strength: float) -> Fit:
    def fit(embeddings: torch.Tensor, names: list[str], seed: int) -> Probe:
        from clipattr import fit_probe

        return fit_probe(
            embeddings, names, penalty=penalty, strength=strength, calibrate=False, folds=2, seed=seed
        )

    return fit


def _few(shots: int) -> Fit:
    def fit(embeddings: torch.Tensor, names: list[str], seed: int) -> Probe:
        rows = [row for name in CLASSES for row in np.flatnonzero(np.array(names) == name)[:shots].tolist()]
        return _probe("l2", 10.0)(embeddings[rows], [names[row] for row in rows], seed)

    return fit


# scikit-learn's C: a large one is a weak penalty.
FITTED: Mapping[str, Fit] = {
    "probe, strong penalty": _probe("l2", 0.1),
    "probe": _probe("l2", 10.0),
    "probe, weak penalty": _probe("l2", 1000.0),
    "sparse probe": _probe("l1", 10.0),
    "probe, 8 a class": _few(8),
    "probe, 32 a class": _few(32),
}


def prompted(model: Model) -> dict[str, Probe]:
    """Classifiers without a training set: one prompt per class, and an ensemble of templates."""
    from clipattr import Probe

    return {
        "prompts": Probe.of_prompts(model, CLASSES),
        "prompts, 8 templates": Probe.of_prompts(model, CLASSES, ENSEMBLE),
    }


def curves(
    model: Model,
    some: Material,
    *,
    strengths: Sequence[float] = STRENGTHS,
    seeds: int = 5,
    n: int = 1000,
    methods: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Accuracy, worst-group accuracy and reliance for every method, strength and seed.

    Args:
        n: training pictures. methods: some of `FITTED`, default all; prompts are always there.

    Returns:
        one row a method, strength and seed: shortcut, method, strength, seed, accuracy, worst, effect (in diagnoses),
        flipped. Prompts have seed 0.
    """
    import pandas as pd

    rows: list[dict[str, Any]] = []

    def note(method: str, strength: float, seed: int, judged: Reliance) -> None:
        asked = {"shortcut": some.shortcut, "method": method, "strength": strength, "seed": seed}
        told = {name: getattr(judged, name) for name in ("accuracy", "worst", "effect", "flipped")}
        rows.append(asked | told)

    for method, probe in prompted(model).items():
        judged = some.judge(probe)
        for strength in strengths:
            note(method, strength, 0, judged)
    for strength in strengths:
        for seed in range(seeds):
            embeddings, names = some.training(strength, n, seed)
            for method in FITTED if methods is None else methods:
                note(method, strength, seed, some.judge(FITTED[method](embeddings, names, seed)))
    return pd.DataFrame(rows)


def summary(frame: pd.DataFrame, quantity: str) -> pd.DataFrame:
    """Mean and half-width of the 95 % interval by method and strength, over seeds and shortcuts (Student's t)."""
    from scipy.stats import t

    table = frame.groupby(["method", "strength"], sort=False)[quantity].agg(["mean", "std", "count"])
    factor = t.ppf(0.975, np.maximum(table["count"] - 1, 1)) / np.sqrt(table["count"])
    table["half"] = (table["std"].fillna(0.0) * factor).where(table["count"] > 1, 0.0)
    return table[["mean", "half"]]


def draw(
    frame: pd.DataFrame, quantities: Mapping[str, str] | None = None, *, title: str | None = None
) -> Any:
    """Curves over the strength of the shortcut, a band for the interval. The figure says that the data are synthetic.

    Args:
        quantities: column to axis label; default worst group, accuracy and reliance.
    """
    from clipattr.display.plots import BLUE, GREY, INK, ORANGE, Chart

    shown = quantities or {
        "worst": "accuracy in the worst group",
        "accuracy": "accuracy",
        "effect": "reliance, in diagnoses",
    }
    chart = Chart(3.7 * len(shown) + 2.1, 3.6)
    axes = chart.subplots(1, len(shown), squeeze=False)[0]
    looks = ("-", "--", ":", "-.", (0, (5, 1)), (0, (1, 1)))
    for at, (quantity, label) in zip(axes, shown.items(), strict=True):
        table = summary(frame, quantity)
        drawn = {"prompts": 0, "few": 0, "probe": 0}
        for method in table.index.unique(level="method"):
            kind = "prompts" if "prompt" in method else "few" if "a class" in method else "probe"
            colour = {"prompts": BLUE, "few": GREY, "probe": ORANGE}[kind]
            line = table.loc[method]
            mean, half = line["mean"].to_numpy(), line["half"].to_numpy()
            look = looks[drawn[kind] % len(looks)]
            drawn[kind] += 1
            at.plot(line.index, mean, color=colour, linestyle=look, label=method)
            at.fill_between(line.index, mean - half, mean + half, color=colour, alpha=0.12, linewidth=0)
        at.set_xlabel("strength of the shortcut in training", fontsize=9)
        at.set_title(label, fontsize=9.5, loc="left", color=INK)
        at.spines[["top", "right"]].set_visible(False)
        at.tick_params(labelsize=8)
    chart.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper", fontsize=8, frameon=False)
    chart.suptitle(f"{title + ' · ' if title else ''}synthetic lesions", fontsize=10, x=0.01, ha="left")
    return chart
