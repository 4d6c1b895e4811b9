"""Faithfulness of eight attribution methods by deletion and insertion, per class and pooled.

Owns the experiment `faithfulness`: which pictures and classes are measured, and the verdict on the logit lens. The
measures are those of `attribution/faithfulness.py`. Start at `FAITHFULNESS`.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from clipattr.attribution import Similarity
from clipattr.attribution.faithfulness import faithfulness
from clipattr.reproduction.experiment import UNDECIDED, Conclusion, Experiment, Values, decide, joint, shown
from clipattr.reproduction.figures import estimates
from clipattr.reproduction.inputs import evenly
from clipattr.statistics import Interval, bootstrap

if TYPE_CHECKING:
    from clipattr.reproduction.run import Run
    from clipattr.studies.study import Study

METHODS = (
    "patching", "integrated_gradients", "exact", "shapley", "act_logit_lens", "logit_lens", "energy", "random",
)  # fmt: skip
AREAS = ("deletion", "insertion", "deletion_by_size", "deletion_per_class")
OTHERS = ("rank_correlation", "group_effects")
CLAIMED = ("deletion", "insertion")  # areas on which the logit lens is compared with patching
RIVAL = "logit_lens"


def chosen(study: Study, prompts: list[str], pictures: int, classes: int) -> tuple[np.ndarray, list[str]]:
    """Rows of held-out pictures and the classes they are of: the commonest among the prompts, evenly many of each.

    Without labels: evenly spread pictures, and evenly spread prompts.
    """
    rows = study.holdout_rows if len(study.holdout_rows) else study.rows
    labels = [study.images.columns["label"][row] for row in rows]
    counts = Counter(label for label in labels if label in set(prompts))
    if not counts:
        return rows[evenly(len(rows), pictures)], [
            prompts[number] for number in evenly(len(prompts), classes)
        ]
    names = sorted(counts, key=lambda name: (-counts[name], name))[:classes]
    each = max(2, pictures // len(names))
    picked = [
        row
        for name in names
        for row in [row for row, label in zip(rows.tolist(), labels, strict=True) if label == name][:each]
    ]
    return np.array(picked), names


def _measure(run: Run, unit: str) -> dict[str, Any]:
    sizes, study = run.sizes, run.inputs.study(unit)
    rows, names = chosen(study, run.inputs.prompts, sizes.faithful_pictures, sizes.faithful_prompts)
    pictures = study.images.select(rows)
    labels = pictures.columns["label"]
    labelled = all(label in names for label in labels)
    report = faithfulness(
        study,
        pictures,
        Similarity(names, templates=run.inputs.protocol.templates),
        methods=METHODS,
        classes=labels if labelled else None,
        masks=sizes.faithful_masks,
    )
    # Each picture is judged on its own class; without labels on the mean over the prompts.
    own = [names.index(str(label)) for label in labels] if labelled else None
    scores: dict[str, dict[str, list[float]]] = {}
    for (method, measure), values in report.scores.items():
        mine = values.mean(1) if own is None else values[np.arange(len(values)), own]
        scores.setdefault(method, {})[measure] = mine.tolist()
    return {"classes": list(labels) if labelled else None, "scores": scores, "unit": report.unit}


def _numbers(values: Any) -> np.ndarray:
    return np.array([np.nan if number is None else number for number in values], dtype=np.float64)


def _rows(values: Values) -> list[dict[str, Any]]:
    rows = []
    for variant, value in values.items():
        classes = value["classes"]
        for method in METHODS:
            for measure in (*AREAS, *OTHERS):
                if measure not in value["scores"][method]:
                    continue
                scores = _numbers(value["scores"][method][measure])
                parts = {"all": np.ones(len(scores), bool)}
                for name in dict.fromkeys(classes or ()):
                    parts[name] = np.array([label == name for label in classes])
                for name, mask in parts.items():
                    found = bootstrap(scores[mask][:, None])
                    rows.append({
                        "model": variant, "class": name, "measure": measure, "method": method, "mean": found.value,
                        "low": found.low, "high": found.high, "pictures": int(mask.sum()),
                    })  # fmt: skip
    return rows


def pooled(values: Values, method: str, measure: str) -> np.ndarray:
    """A method's values over the pictures of all models."""
    return np.concatenate([_numbers(value["scores"][method][measure]) for value in values.values()])


def _difference(values: Values, measure: str, rival: str) -> Interval:
    """Patching minus another method, paired by picture."""
    return bootstrap((pooled(values, "patching", measure) - pooled(values, rival, measure))[:, None])


def _conclude(values: Values) -> Conclusion:
    differences = {measure: _difference(values, measure, RIVAL) for measure in CLAIMED}
    if not all(np.isfinite(each.value) for each in differences.values()):
        return Conclusion(UNDECIDED, "No picture has latents to delete.", differences)
    scaled = {measure: _difference(values, measure, "act_logit_lens") for measure in CLAIMED}
    told = " and ".join(f"{shown(each, 100)} points of {name}" for name, each in differences.items())
    beside = " and ".join(f"{shown(each, 100)} points of {name}" for name, each in scaled.items())
    sentence = (
        f"Area of attribution patching minus that of the logit lens: {told}; minus that of activation × logit lens: "
        f"{beside} (mean change of the cosine per step, paired by picture; above 0 patching is more faithful)."
    )
    figures = {f"patching_over_logit_lens_{name}": each for name, each in differences.items()}
    figures |= {f"patching_over_act_logit_lens_{name}": each for name, each in scaled.items()}
    return Conclusion(joint([decide(each) for each in differences.values()]), sentence, figures)


def _draw(values: Values) -> Any:
    series = {
        measure: [
            (method.replace("_", " "), bootstrap(pooled(values, method, measure)[:, None]))
            for method in METHODS
        ]
        for measure in CLAIMED
    }
    return estimates(series, "area: mean change of the cosine per step, points", scale=100)


FAITHFULNESS = Experiment(
    name="faithfulness",
    title="Faithfulness",
    claim="The logit lens is not faithful: latents deleted or inserted in its order change the score less than in the "
    "order of attribution patching.",
    of_paper=True,
    units=lambda run: run.inputs.variants,
    measure=_measure,
    rows=_rows,
    conclude=_conclude,
    draw=_draw,
    cost=lambda run, unit, pilot: pilot.of(unit).faithfulness(run.sizes.faithful_pictures),
    assumes="all methods and classes on 4 and on 12 pictures, with random directions of the same number and sparsity",
    deviations=(
        "eight methods: exact single-latent ablation and Shapley sampling are added; integrated gradients run over the "
        "codes with bias and error held fixed",
        "the error node stays in place while latents are deleted; the reference code drops it",
        "areas are means over the steps of one curve, in cosine; the paper does not publish its areas",
    ),
)
