"""Lesion study: shortcuts in classifiers of skin lesions, how much they amplify them, and what a repair restores.

Owns the experiment `lesions` on the bundled synthetic lesions, whose parts can be drawn or left out. Start at
`LESIONS`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from clipattr.reproduction.experiment import Conclusion, Experiment, Values, decide, shown, together
from clipattr.reproduction.figures import estimates
from clipattr.statistics import Interval, t_interval

if TYPE_CHECKING:
    from clipattr.reproduction.plan import Rates
    from clipattr.reproduction.run import Run

SYNTHETIC = "lesions"  # name of the bundled study
LED = 0.95  # correlation of the shortcut with the diagnosis in the training set that is repaired
ASIDE = ("artefact", "skin")  # groups of its vocabulary on which no diagnosis should rest


def _units(run: Run) -> list[str]:
    if run.inputs.lesions != SYNTHETIC:
        return []
    from clipattr_data.lesions import SHORTCUTS

    return list(SHORTCUTS)


def _measure(run: Run, unit: str) -> dict[str, Any]:
    from clipattr.discovery.probes.audit import audit_probe
    from clipattr.discovery.probes.fitting import fit_probe
    from clipattr.discovery.probes.null_space import directions_of
    from clipattr.studies.study import open_study
    from clipattr_data.lesion_world import LesionWorld
    from clipattr_data.robustness import curves, material, prompted

    sizes = run.sizes
    study, world = open_study(SYNTHETIC), LesionWorld.open("lesions-evaluator")
    model, n = study.model, sizes.lesion_training
    some = material(model, world, unit, pool=sizes.lesion_pool, judged=sizes.lesion_judged)
    frame = curves(model, some, seeds=sizes.lesion_seeds, n=n)
    repairs = []
    for seed in range(sizes.lesion_seeds):
        training = some.training(LED, n, 100 + seed)
        led = fit_probe(*training, folds=3, model_hash=model.weights_hash)
        findings = [f for f in audit_probe(study, probe=led).findings() if f.evidence["group"] in ASIDE]
        before = after = some.judge(led)
        if findings:
            after = some.judge(fit_probe(*training, folds=3, blind_to=directions_of(study, findings)))
        repairs.append(
            {
                "seed": seed,
                "found": [f.label for f in findings],
                "worst_before": before.worst,
                "worst_after": after.worst,
                "accuracy_before": before.accuracy,
                "accuracy_after": after.accuracy,
            }
        )
    effects = {
        name: some.judge(probe)
        for name, probe in {"prompts": prompted(model)["prompts"], "probe": led}.items()
    }
    reliance = {
        name: {"value": each.effect, "low": each.low, "high": each.high} for name, each in effects.items()
    }
    return {"curves": frame.to_dict("records"), "repairs": repairs, "reliance": reliance}


def _rows(values: Values) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for shortcut, value in values.items():
        rows += [{"table": "curves", **row} for row in value["curves"]]
        for name, each in value["reliance"].items():
            rows.append({"table": "reliance", "shortcut": shortcut, "method": name, "strength": LED, **each})
        for row in value["repairs"]:
            rows.append(
                {
                    "table": "repair",
                    "shortcut": shortcut,
                    **row,
                    "found": "; ".join(label or "–" for label in row["found"]),
                }
            )
    return rows


def at(values: Values, method: str, strength: float, quantity: str) -> float:
    """Mean of a quantity of a method at one strength of the shortcuts, over shortcuts and seeds."""
    found = [
        row[quantity]
        for value in values.values()
        for row in value["curves"]
        if row["method"] == method and row["strength"] == strength
    ]
    return float(np.mean(found))


def amplified(values: Values) -> Interval:
    """Reliance of a misled probe minus that of the prompts, in diagnoses, over shortcuts."""
    differences = [
        value["reliance"]["probe"]["value"] - value["reliance"]["prompts"]["value"]
        for value in values.values()
    ]
    return t_interval(torch.tensor(differences))


def gained(values: Values) -> Interval:
    """Accuracy in the worst group after the repair minus before, over shortcuts, averaged over seeds."""
    gains = [
        float(np.mean([row["worst_after"] - row["worst_before"] for row in value["repairs"]]))
        for value in values.values()
    ]
    return t_interval(torch.tensor(gains))


def _conclude(values: Values) -> Conclusion:
    more, gain = amplified(values), gained(values)
    gap = {
        name: at(values, name, 1.0, "accuracy") - at(values, name, 1.0, "worst")
        for name in ("probe", "prompts")
    }
    sentence = (
        f"A probe fitted where a shortcut goes with the diagnosis relies on it by {shown(more)} diagnoses more "
        f"than the prompts do; where the correlation is total its worst group falls {100 * gap['probe']:.1f} "
        f"percentage points behind its mean, that of prompts {100 * gap['prompts']:.1f}. Refitting it blind to what "
        f"the audit found restores {shown(gain, 100, 1)} percentage points in the worst group."
    )
    figures = {"reliance_probe_over_prompts": more, "repair_gain_worst_group": gain}
    return Conclusion(together([decide(more), decide(gain)]), sentence, figures)


def _draw(values: Values) -> Any:
    series = {
        name: [(shortcut, Interval(**value["reliance"][name])) for shortcut, value in values.items()]
        for name in ("probe", "prompts")
    }
    return estimates(series, "reliance on the shortcut, in diagnoses")


def _seconds(run: Run, rates: Rates) -> float:
    sizes = run.sizes
    drawn = 2 * (sizes.lesion_pool + sizes.lesion_judged)
    return drawn * rates.lesion + sizes.lesion_seeds * rates.lesion_probes


LESIONS = Experiment(
    name="lesions",
    title="Lesion study",
    claim="Classifiers of skin lesions can amplify hidden shortcuts, and remedies restore the worst group.",
    of_paper=True,
    units=_units,
    measure=_measure,
    rows=_rows,
    conclude=_conclude,
    draw=_draw,
    seconds=_seconds,
    assumes="lesions are drawn and embedded at the measured rate; some forty probes are fitted per draw",
    lacking="no lesions were given; --lesions lesions takes the bundled synthetic ones",
    deviations=(
        "the paper names neither its data set nor its probe; synthetic lesions, whose parts can be drawn and left out, "
        "and their own small CLIP stand in for them",
        "the remedy is a refit blind to the directions of what an audit found; the paper's remedies are not published",
    ),
)
