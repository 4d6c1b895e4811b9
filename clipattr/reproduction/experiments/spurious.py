"""Prompts against linear probes where a mark goes with the classes in training.

Owns the experiment `spurious`: one of four marks is put on pictures of the collection, at every strength of its
correlation with the classes, and classifiers are judged where it says nothing. Works on any labelled pictures. Start at
`SPURIOUS`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from clipattr.discovery.audit.text_insertion import written
from clipattr.discovery.probes.fitting import fit_probe
from clipattr.discovery.probes.probe import Probe
from clipattr.errors import DataError
from clipattr.images.decoding import PictureError
from clipattr.reproduction.baselines import class_means
from clipattr.reproduction.experiment import Conclusion, Experiment, Values, decide, shown
from clipattr.reproduction.figures import estimates
from clipattr.reproduction.inputs import evenly
from clipattr.statistics import Interval, t_interval

if TYPE_CHECKING:
    from clipattr.images.collection import Images
    from clipattr.models.loading import Model
    from clipattr.reproduction.pilot import Pilot
    from clipattr.reproduction.run import Run
    from clipattr.reproduction.times import Spent

STRENGTHS = (0.0, 0.5, 0.75, 0.9, 1.0)
TAG = "no. 4071"  # a text that names no class
PATCH = (214, 64, 160)  # a colour that is rare in photographs
SIDE = 5  # the patch's side is a fifth of the picture's shorter side
FRAME = 14  # the frame's width is a fourteenth of the picture's shorter side
CAST, CAST_SHARE = (255, 160, 60), 0.3  # colour of warm light, and its share of every pixel
FEWEST = 4  # least pictures of a class on either side of the split
STRENGTH = 10.0  # scikit-learn's C of the probe
PROBE, PROMPTS, MEANS = "probe", "prompts", "class means"


def _tag(picture: Image.Image) -> Image.Image:
    return written(picture, TAG, 0)


def _patch(picture: Image.Image) -> Image.Image:
    copy = picture.convert("RGB")
    side = max(2, min(copy.size) // SIDE)
    ImageDraw.Draw(copy).rectangle((0, 0, side, side), fill=PATCH)
    return copy


def _frame(picture: Image.Image) -> Image.Image:
    copy = picture.convert("RGB")
    width = max(1, min(copy.size) // FRAME)
    ImageDraw.Draw(copy).rectangle((0, 0, copy.width - 1, copy.height - 1), outline=(0, 0, 0), width=width)
    return copy


def _cast(picture: Image.Image) -> Image.Image:
    copy = picture.convert("RGB")
    return Image.blend(copy, Image.new("RGB", copy.size, CAST), CAST_SHARE)


MARKS: Mapping[str, Callable[[Image.Image], Image.Image]] = {
    "text": _tag, "patch": _patch, "frame": _frame, "colour cast": _cast,
}  # fmt: skip


def spread(positive: np.ndarray, strength: float, draws: np.random.Generator) -> np.ndarray:
    """Whether each picture shows the mark, (n,) bool: (1 + strength) / 2 of the positive, the other share of the rest.

    >>> spread(np.array([True, False]), 1.0, np.random.default_rng(0)).tolist()
    [True, False]
    """
    return draws.random(len(positive)) < np.where(positive, (1 + strength) / 2, (1 - strength) / 2)


def embedded_with_marks(
    model: Model, images: Images, marks: Iterable[Callable[[Image.Image], Image.Image]], batch: int = 128
) -> tuple[Tensor, np.ndarray]:
    """Unit embeddings of pictures without a mark and with each, (n, 1 + marks, embed), and the places of the readable
    ones."""
    listed = list(marks)

    def prepare(picture: Image.Image) -> Tensor:
        return torch.stack([model.prepare(picture), *(model.prepare(mark(picture)) for mark in listed)])

    parts, places, waiting = [], [], []
    for place, pixels in images.stream(prepare):
        if not isinstance(pixels, PictureError):
            places.append(place)
            waiting.append(pixels)
        if len(waiting) * (1 + len(listed)) >= batch:
            parts.append(_embedded(model, waiting))
            waiting = []
    if waiting:
        parts.append(_embedded(model, waiting))
    return torch.cat(parts), np.array(places)


def _embedded(model: Model, pixels: list[Tensor]) -> Tensor:
    flat = torch.cat(pixels).to(model.device)
    with torch.no_grad():
        return model.encode_image(flat).float().cpu().view(len(pixels), len(pixels[0]), -1)


def _units(run: Run) -> list[str]:
    try:
        classes_of(run)
    except DataError:
        return []
    return run.inputs.variants


def _sides(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """Rows to fit on and to judge on: the study's own split."""
    study = run.inputs.study(run.inputs.variants[0])
    return study.rows, study.holdout_rows


def classes_of(run: Run) -> list[str]:
    """The commonest labels, at most as many as asked, an even number so that halves are equal."""
    counts = Counter(label for label in run.inputs.images.columns["label"] if label)
    names = [name for name, count in counts.items() if count >= 4 * FEWEST]
    names = sorted(names, key=lambda name: (-counts[name], name))[: run.sizes.spurious_classes]
    names = sorted(names)[: len(names) // 2 * 2]
    if len(names) < 2:
        raise DataError(f"Two classes with {4 * FEWEST} pictures each are needed; {len(names)} have as many.")
    return names


def _measure(run: Run, unit: str) -> dict[str, Any]:
    model, names, sizes = run.inputs.model(unit), classes_of(run), run.sizes
    labels = np.array([label or "" for label in run.inputs.images.columns["label"]])
    fitting, judging = _sides(run)
    sides = []
    for rows, most in ((fitting, sizes.spurious_pictures), (judging, sizes.spurious_pictures // 2)):
        chosen = np.array([row for row in rows.tolist() if labels[row] in names])
        chosen = chosen[evenly(len(chosen), most)]
        embedded, places = embedded_with_marks(model, run.inputs.images.select(chosen), MARKS.values())
        sides.append((embedded, labels[chosen[places]]))
    listed: list[dict[str, Any]] = []
    for number, mark in enumerate(MARKS, 1):
        fitted, tested = [(embedded[:, 0], embedded[:, number], named) for embedded, named in sides]
        found = curves(model, names, fitted, tested, seeds=sizes.spurious_seeds)
        listed += [{"mark": mark, **row} for row in found]
    return {"classes": names, "rows": listed}


def curves(
    model: Model,
    names: list[str],
    fitting: tuple[Tensor, Tensor, np.ndarray],
    judging: tuple[Tensor, Tensor, np.ndarray],
    *,
    seeds: int,
) -> list[dict[str, Any]]:
    """Accuracy overall and in the worst group, by method, strength and seed.

    Args:
        names: classes; the mark goes with the first half of them. fitting, judging: embeddings without and with the
            mark, and the class of each picture.
    """
    first = set(names[: len(names) // 2])
    rows = []
    prompts = judged(Probe.of_prompts(model, names), judging, first)
    for strength in STRENGTHS:
        rows.append({"method": "prompts", "strength": strength, "seed": 0, **prompts})
        for seed in range(seeds):
            gone, there, labels = fitting
            draws = np.random.default_rng([seed, round(1000 * strength)])
            positive = np.array([label in first for label in labels])
            shows = torch.from_numpy(spread(positive, strength, draws))[:, None]
            shown = torch.where(shows, there, gone)
            trained = {
                PROBE: fit_probe(
                    shown, labels.tolist(), strength=STRENGTH, calibrate=False, folds=2, seed=seed
                ),
                MEANS: class_means(shown, labels.tolist()),
            }
            for method, probe in trained.items():
                rows.append(
                    {"method": method, "strength": strength, "seed": seed, **judged(probe, judging, first)}
                )
    return rows


def judged(probe: Probe, judging: tuple[Tensor, Tensor, np.ndarray], first: set[str]) -> dict[str, float]:
    """Accuracy on pictures that are each there without and with the mark, and the lowest accuracy of the four groups
    (half of the classes × mark)."""
    gone, there, labels = judging
    half = np.array([label in first for label in labels])
    groups, right = [], []
    for embeddings in (gone, there):
        correct = np.array(probe.predict(embeddings)) == labels
        right.append(correct)
        groups += [correct[side].mean() for side in (half, ~half) if side.any()]
    return {"accuracy": float(np.mean(right)), "worst": float(min(groups))}


def _rows(values: Values) -> list[dict[str, Any]]:
    return [{"model": variant, **row} for variant, value in values.items() for row in value["rows"]]


def gaps(values: Values, strength: float) -> dict[str, Tensor]:
    """Overall accuracy minus that of the worst group, one value per model and mark, by method.

    The value of a trained classifier is the mean over seeds, whose training sets are of the same pictures and so not
    independent. Values of earlier versions have no class means.
    """
    there = {row["method"] for value in values.values() for row in value["rows"]}
    found: dict[str, list[float]] = {name: [] for name in (PROBE, PROMPTS, MEANS) if name in there}
    for value in values.values():
        here = [row for row in value["rows"] if row["strength"] == strength]
        for mark in dict.fromkeys(row["mark"] for row in here):
            for method, each in found.items():
                rows = [row for row in here if row["mark"] == mark and row["method"] == method]
                each.append(float(np.mean([row["accuracy"] - row["worst"] for row in rows])))
    return {name: torch.tensor(each) for name, each in found.items()}


def _difference(values: Values, strength: float) -> Interval:
    found = gaps(values, strength)
    return t_interval(found["probe"] - found["prompts"])


def _conclude(values: Values) -> Conclusion:
    none, total = _difference(values, 0.0), _difference(values, 1.0)
    means = {name: float(each.mean()) for name, each in gaps(values, 1.0).items()}
    # Prompts are judged on the same pictures at every strength, so only the probe's gap can rise.
    rise = t_interval(gaps(values, 1.0)["probe"] - gaps(values, 0.0)["probe"])
    beside = f"; that of nearest class means {100 * means[MEANS]:.1f}" if MEANS in means else ""
    pairs = len(gaps(values, 1.0)[PROBE])
    sentence = (
        f"With a mark that coincides with the classes in all training pictures, the worst group of a probe falls "
        f"{100 * means['probe']:.1f} percentage points behind its mean, that of prompts {100 * means['prompts']:.1f}"
        f"{beside}; difference {shown(total, 100, 1)} over {pairs} pairs of model and mark (without a "
        f"correlation {shown(none, 100, 1)}). The correlation adds {shown(rise, 100, 1)} to the probe's gap."
    )
    figures = {
        "gap_probe_over_prompts_at_total": total,
        "gap_probe_over_prompts_at_none": none,
        "rise_probe": rise,
    }
    return Conclusion(decide(total), sentence, figures)


def _draw(values: Values) -> Any:
    series = {
        name: [(f"strength {strength:g}", t_interval(gaps(values, strength)[name])) for strength in STRENGTHS]
        for name in gaps(values, 0.0)
    }
    return estimates(series, "accuracy lost in the worst group, percentage points", scale=100)


def _cost(run: Run, unit: str, pilot: Pilot) -> Spent:
    names, sizes = set(classes_of(run)), run.sizes
    there = sum(label in names for label in run.inputs.images.columns["label"])
    fitted = min(sizes.spurious_pictures, (1 - sizes.holdout) * there)
    pictures = fitted + min(sizes.spurious_pictures // 2, sizes.holdout * there)
    return pictures * pilot.of(unit).marked + len(MARKS) * sizes.spurious_seeds * pilot.of(unit).curves


SPURIOUS = Experiment(
    name="spurious",
    title="Prompts and probes under spurious correlation",
    claim="Text embeddings are more robust to spurious correlations than linear classifiers trained on image "
    "embeddings.",
    of_paper=True,
    units=_units,
    measure=_measure,
    rows=_rows,
    conclude=_conclude,
    draw=_draw,
    cost=_cost,
    assumes="each picture is prepared and encoded once without and once with each mark; the classifiers of all "
    "strengths are fitted once per mark and seed",
    lacking="it takes labelled pictures, at least two classes of 16",
    deviations=(
        "the paper's data and probe recipe are not published; a mark (a text, a coloured patch, a frame, a colour "
        "cast) is put on the given pictures, and the probe is a logistic regression with C = 10",
    ),
)
