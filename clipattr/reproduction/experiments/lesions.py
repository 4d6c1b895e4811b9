"""Lesion study: shortcuts in classifiers of skin lesions, how much they amplify them, and what a repair restores.

Owns the experiment `lesions`, and its form on the bundled synthetic lesions, whose parts can be drawn or left out.
Photographs are measured in `lesion_folder.py`. Start at `LESIONS`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from clipattr.images.tables import Table
from clipattr.reproduction.baselines import chance_directions
from clipattr.reproduction.experiment import (
    SUPPORTED,
    UNDECIDED,
    Conclusion,
    Experiment,
    Values,
    decide,
    interval_of,
    joint,
    shown,
)
from clipattr.reproduction.experiments.lesion_folder import PHOTOGRAPHS, measured
from clipattr.reproduction.figures import estimates
from clipattr.reproduction.inputs import SYNTHETIC
from clipattr.statistics import Interval, simultaneous, t_interval

if TYPE_CHECKING:
    from clipattr.discovery.probes.probe import Probe
    from clipattr.reproduction.pilot import Pilot
    from clipattr.reproduction.run import Run
    from clipattr.reproduction.sizes import Sizes
    from clipattr.reproduction.times import Spent
    from clipattr.studies.study import Study
    from clipattr_data.robustness import Material

LED = 0.95  # correlation of the shortcut with the diagnosis in the training set that is repaired
ASIDE = ("artefact", "skin")  # groups of its vocabulary on which no diagnosis should rest


def _units(run: Run) -> list[str]:
    if run.inputs.lesions is None:
        return []
    if run.inputs.lesions != SYNTHETIC:
        return run.inputs.variants
    from clipattr_data.lesions import SHORTCUTS

    return list(SHORTCUTS)


def _measure(run: Run, unit: str) -> dict[str, Any]:
    return measured(run, unit) if run.inputs.lesions != SYNTHETIC else _synthetic(run, unit)


def _synthetic(run: Run, unit: str) -> dict[str, Any]:
    from clipattr.studies.study import open_study
    from clipattr_data.lesion_world import LesionWorld
    from clipattr_data.robustness import material

    sizes, study = run.sizes, open_study(SYNTHETIC)
    world = LesionWorld.open("lesions-evaluator")
    some = material(study.model, world, unit, pool=sizes.lesion_pool, judged=sizes.lesion_judged)
    return judged_probes(study, some, sizes)


def judged_probes(study: Study, some: Material, sizes: Sizes) -> dict[str, Any]:
    """Curves, repairs and reliance of probes on one shortcut of the synthetic lesions.

    Args:
        study: of the synthetic lesions. some: the shortcut's pictures, embedded.
    """
    from clipattr_data.robustness import curves, prompted

    model, n = study.model, sizes.lesion_training
    frame = curves(model, some, seeds=sizes.lesion_seeds, n=n)
    made = [repaired(study, some, sizes, seed) for seed in range(sizes.lesion_seeds)]
    effects = {
        name: some.judge(probe)
        for name, probe in {"prompts": prompted(model)["prompts"], "probe": made[-1][0]}.items()
    }
    reliance = {
        name: {"value": each.effect, "low": each.low, "high": each.high} for name, each in effects.items()
    }
    return {
        "how": "synthetic lesions",
        "curves": frame.to_dict("records"),
        "repairs": [row for _, row in made],
        "reliance": {some.shortcut: reliance},
    }


def repaired(study: Study, some: Material, sizes: Sizes, seed: int) -> tuple[Probe, dict[str, Any]]:
    """A probe that follows the shortcut, and its accuracy before and after a refit blind to what its audit finds."""
    from clipattr.discovery.probes.audit import audit_probe
    from clipattr.discovery.probes.fitting import fit_probe
    from clipattr.discovery.probes.null_space import directions_of

    training = some.training(LED, sizes.lesion_training, 100 + seed)
    led = fit_probe(*training, folds=3, model_hash=study.model.weights_hash)
    findings = [f for f in audit_probe(study, probe=led).findings() if f.evidence["group"] in ASIDE]
    before = after = control = some.judge(led)
    if findings:
        after = some.judge(fit_probe(*training, folds=3, blind_to=directions_of(study, findings)))
        random = chance_directions(training[0], len(findings), seed)
        control = some.judge(fit_probe(*training, folds=3, blind_to=random))
    return led, {
        "seed": seed,
        "found": [f.label for f in findings],
        "worst_before": before.worst,
        "worst_after": after.worst,
        "worst_random": control.worst,
        "accuracy_before": before.accuracy,
        "accuracy_after": after.accuracy,
    }


def _rows(values: Values) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for unit, value in values.items():
        rows += [{"table": "curves", "unit": unit, **row} for row in value["curves"]]
        for shortcut, methods in value["reliance"].items():
            for name, each in methods.items():
                rows.append({"table": "reliance", "unit": unit, "shortcut": shortcut, "method": name, **each})
        for row in value["repairs"]:
            kept = {name: each for name, each in row.items() if not name.startswith("gain")}
            kept["found"] = "; ".join(label or "–" for label in row["found"])
            rows.append({"table": "repair", "unit": unit, **kept})
        rows += [{"table": "strata", "unit": unit, **row} for row in value.get("strata", ())]
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


def gaps(values: Values, method: str) -> Interval:
    """Mean accuracy minus that of the worst group where the correlation is total, over shortcuts."""
    each = [
        at({unit: value}, method, 1.0, "accuracy") - at({unit: value}, method, 1.0, "worst")
        for unit, value in values.items()
        if value["curves"]
    ]
    return t_interval(torch.tensor(each))


def compared(values: Values) -> dict[str, Interval]:
    """Size of the probe's reliance minus that of the prompts', by unit and shortcut; only those that can be judged.

    The interval is the widest that the two intervals allow, so it needs no assumption on how they depend.
    """
    found = {}
    for unit, value in values.items():
        for shortcut, methods in value["reliance"].items():
            spans = [interval_of(methods[name]) for name in ("probe", "prompts")]
            if not np.isfinite([list(vars(span).values()) for span in spans]).all():
                continue
            probe, prompts = map(_size, spans)
            found[f"{unit}: {shortcut}"] = Interval(
                probe.value - prompts.value, probe.low - prompts.high, probe.high - prompts.low
            )
    return found


def _size(span: Interval) -> Interval:
    low, high = sorted((abs(span.low), abs(span.high)))
    return Interval(abs(span.value), 0.0 if span.low <= 0 <= span.high else low, high)


def amplified(values: Values) -> Interval:
    """Size of the probe's reliance on a shortcut minus that of the prompts', mean over shortcuts and models."""
    return t_interval(torch.tensor([each.value for each in compared(values).values()]))


def gained(values: Values, after: str = "worst_after") -> Interval:
    """Accuracy in the worst group after the repair minus before.

    Over units, averaged over draws; for a single unit of photographs, over its pictures.

    Args:
        after: "worst_random" for the control, which is blind to as many random directions.
    """
    units, gain = list(values.values()), "gain" if after == "worst_after" else "gain_random"
    if len(units) == 1 and gain in units[0]["repairs"][0]:
        return interval_of(units[0]["repairs"][0][gain])
    gains = [
        float(np.mean([row[after] - row["worst_before"] for row in value["repairs"]]))
        for value in units
        if all(after in row for row in value["repairs"])
    ]
    return t_interval(torch.tensor(gains)) if gains else Interval(*[float("nan")] * 3)


def _beside(values: Values) -> tuple[str, dict[str, Interval]]:
    """The control of the repair in words and as a figure; empty for values of earlier versions."""
    control = gained(values, "worst_random")
    if not control.known:
        return "", {}
    return f" (blind to as many random directions {shown(control, 100, 1)})", {"repair_gain_random": control}


def _conclude(values: Values) -> Conclusion:
    if next(iter(values.values()))["how"] == PHOTOGRAPHS:
        return _photographs_conclusion(values)
    more, gain = amplified(values), gained(values)
    beside, control = _beside(values)
    figures = {"reliance_probe_over_prompts": more, "repair_gain_worst_group": gain, **control}
    gap = {}
    for name in ("probe", "prompts"):
        gap[name] = at(values, name, 1.0, "accuracy") - at(values, name, 1.0, "worst")
        figures[f"worst_group_gap_{name}"] = gaps(values, name)
    sentence = (
        f"On synthetic lesions, the decision of a probe moves with a shortcut by {shown(more)} class gaps more than "
        f"that of prompts (mean of {len(values)} shortcuts). Where the correlation is total, the probe's worst group "
        f"falls {100 * gap['probe']:.1f} percentage points behind its mean accuracy, that of prompts "
        f"{100 * gap['prompts']:.1f}. Refitting the probe blind to what the audit found changes its worst group by "
        f"{shown(gain, 100, 1)} percentage points{beside}."
    )
    return Conclusion(joint([decide(more), decide(gain)]), sentence, figures)


def _photographs_conclusion(values: Values) -> Conclusion:
    """Whether any bias is amplified, by intervals that hold for all of them together; and whether the repair helps."""
    each, gain = compared(values), gained(values)
    figures = {f"reliance_probe_over_prompts, {name}": span for name, span in each.items()}
    beside, control = _beside(values)
    figures |= {"repair_gain_worst_group": gain, **control}
    outcomes = [decide(simultaneous(span, len(each))) for span in each.values()]
    more = SUPPORTED if SUPPORTED in outcomes else joint(outcomes) if len(set(outcomes)) == 1 else UNDECIDED
    biases = sum(len(value["reliance"]) for value in values.values())
    told = "; ".join(f"{name} {shown(span)}" for name, span in each.items()) or "none"
    found = sorted(
        {label or "–" for value in values.values() for row in value["repairs"] for label in row["found"]}
    )
    repair = (
        f"Refitting the probe blind to {', '.join(found)} changes its worst group by {shown(gain, 100, 1)} percentage "
        f"points{beside}."
        if found
        else "The audit of the probe found no artefact, so there was nothing to repair."
    )
    sentence = (
        f"On photographs, reliance of a probe on a bias minus that of prompts, in class gaps, for the {len(each)} of "
        f"{biases} biases that enough pictures show: {told}. {repair}"
    )
    return Conclusion(joint([more, decide(gain) if found else UNDECIDED]), sentence, figures)


def _draw(values: Values) -> Any:
    several = len(values) > 1 and any(len(value["reliance"]) > 1 for value in values.values())
    series: dict[str, list[tuple[str, Interval]]] = {"probe": [], "prompts": []}
    for unit, value in values.items():
        for shortcut, methods in value["reliance"].items():
            for name, pairs in series.items():
                pairs.append((f"{unit}: {shortcut}" if several else shortcut, interval_of(methods[name])))
    return estimates(series, "reliance on the shortcut, in class gaps")


def _cost(run: Run, unit: str, pilot: Pilot) -> Spent:
    sizes = run.sizes
    if run.inputs.lesions != SYNTHETIC:
        pictures = len(run.inputs.lesions.images) if isinstance(run.inputs.lesions, Table) else 0
        return pilot.of(unit).encode(pictures) + pilot.of(unit).trained(run, pictures)
    from clipattr_data.robustness import STRENGTHS

    drawn = 2 * (sizes.lesion_pool + sizes.lesion_judged)
    return drawn * pilot.lesion + sizes.lesion_seeds * (len(STRENGTHS) * pilot.curves + pilot.repair)


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
    cost=_cost,
    studies=False,
    assumes="two pictures for each lesion of the pool and of those judged on, the probes of each strength and draw, "
    "one repair a draw; a folder of photographs costs what a study of as many pictures costs",
    lacking="no lesions were given; --lesions lesions takes the bundled synthetic ones",
    deviations=(
        "the paper names neither its data set nor its probe; the probe is a logistic regression, the biases are the "
        "three published ones, hair, ink and ruler",
        "on the bundled synthetic lesions, seven shortcuts are drawn and left out, and their own small CLIP is tested",
        "the remedy is a refit blind to the directions of what an audit found; the paper's remedies are not published",
    ),
)
