"""Side by side: several models, trained and frozen dictionaries, and several seeds, on the same pictures.

Owns the experiments `variants`, `dictionaries` and `seeds`. Findings come from the audits of `surprises.py`, the
matching of causes from `discovery/compare.py`. Start at `VARIANTS`.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

import torch

from clipattr.discovery.compare import compare
from clipattr.display.wording import be, counted
from clipattr.reproduction.baselines import by_chance
from clipattr.reproduction.experiment import (
    NONE_JUDGED,
    UNDECIDED,
    Conclusion,
    Experiment,
    Values,
    decide,
    joint,
    shown,
)
from clipattr.reproduction.experiments.surprises import (
    audited,
    findings_of,
    judged_prompts,
    rate_of,
    with_finding,
)
from clipattr.reproduction.figures import estimates
from clipattr.reproduction.inputs import FROZEN, NEURONS, PCA
from clipattr.statistics import Interval, paired_rate_difference, rate_difference, share_interval

if TYPE_CHECKING:
    from clipattr.discovery.compare import Comparison
    from clipattr.reproduction.pilot import Pilot
    from clipattr.reproduction.run import Run
    from clipattr.reproduction.times import Spent

ALL = "all"
CONTROLS = {FROZEN: "random directions", PCA: "principal components", NEURONS: "neurons"}
KINDS = ("trained", *CONTROLS.values())
AGAIN = 0.5  # share of findings that another seed must find again


def _compared(run: Run) -> Comparison:
    studies = {name: run.inputs.study(name) for name in run.inputs.variants}
    found = [findings_of(run.value("counts", name), studies[name]) for name in studies]
    return compare(studies, findings=found, progress=False)


def _compare(run: Run, unit: str) -> dict[str, Any]:
    made = _compared(run)
    return {
        "names": list(made.names),
        "causes": made.frame.to_dict("records"),
        "matches": len(made.matches),
        "rates": {
            name: with_finding(run.value("counts", name), written=False).tolist() for name in made.names
        },
        "chance": {name: with_finding(run.value("null", name)).tolist() for name in made.names},
        "met": {name: by_chance(run.value("counts", name)) for name in made.names},
    }


def _excess(value: Any, name: str) -> Interval:
    return rate_difference(torch.tensor(value["rates"][name]), torch.tensor(value["chance"][name]))


def _met(value: Any) -> str:
    """How many causes of the first model all others would share by chance at most, as a sentence."""
    if "met" not in value:
        return ""
    first, *others = value["names"]
    own = sum(cause[first] is not None for cause in value["causes"])
    shared = own * prod(value["met"][name] for name in others)
    return f" If the findings of the models were independent, at most {shared:.1f} would be."


def _compare_conclusion(values: Values) -> Conclusion:
    value = values[ALL]
    excess = {name: _excess(value, name) for name in value["names"]}
    shared = sum(cause["models"] == len(excess) for cause in value["causes"])
    told = "; ".join(f"{name}: {shown(each, 100, 1)}" for name, each in excess.items())
    sentence = (
        f"Share of prompts with a surprising component above that of shuffled pictures, in percentage points: {told}. "
        f"Of {counted(len(value['causes']), 'cause')}, {shared} {be(shared)} found in all {len(excess)} models."
        f"{_met(value)}"
    )
    return Conclusion(joint([decide(each) for each in excess.values()]), sentence, excess)


VARIANTS = Experiment(
    name="variants",
    title="Variants side by side",
    claim="Every one of several CLIP variants has surprising components; they are not a peculiarity of one.",
    of_paper=True,
    units=lambda run: [ALL] if len(run.inputs.variants) > 1 else [],
    measure=_compare,
    rows=lambda values: list(values[ALL]["causes"]),
    conclude=_compare_conclusion,
    draw=lambda values: estimates(
        {"": [(name, _excess(values[ALL], name)) for name in values[ALL]["names"]]},
        "share of prompts above shuffled pictures, percentage points",
        scale=100,
    ),
    cost=lambda run, unit, pilot: (
        (len(run.inputs.variants) - 1) * pilot.of(unit).matched(len(run.inputs.images))
    ),
    assumes="the audits are counted above; the latents of each further model are matched with the first one's",
    needs=("counts", "null"),
    lacking="it takes two models or more",
)


def _frozen(run: Run, unit: str) -> dict[str, Any]:
    trained = run.value("counts", unit)
    made = {name: audited(run, run.inputs.study(unit, parts), budget=0) for parts, name in CONTROLS.items()}
    from clipattr.studies.cards import study_card

    card = study_card(run.inputs.study(unit), keep=False)
    return {"trained": trained, **made, "card": card.to_dict()}


def _dictionary_rows(values: Values) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for variant, value in values.items():
        for name in KINDS:
            rate = rate_of(with_finding(value[name], written=False))
            figure = "share of prompts with a finding"
            rows.append({"model": variant, "dictionary": name, "figure": figure, **vars(rate)})
        figures = {"trained": value["card"]["figures"], **value["card"]["controls"]}
        for name, held in figures.items():
            rows += [
                {"model": variant, "dictionary": name, "figure": figure, "value": number}
                for figure, number in held.items()
            ]
    return rows


def _paired(values: Values, control: str) -> Interval:
    """Trained minus a control, paired by prompt that both could judge."""
    parts = []
    for value in values.values():
        one, other = (
            dict(
                zip(
                    judged_prompts(value[name]),
                    with_finding(value[name], written=False).tolist(),
                    strict=True,
                )
            )
            for name in ("trained", control)
        )
        parts += [one[prompt] - other[prompt] for prompt in one if prompt in other]
    return paired_rate_difference(torch.tensor(parts))


def _dictionary_conclusion(values: Values) -> Conclusion:
    if not any(value["trained"]["judged"] for value in values.values()):
        return Conclusion(UNDECIDED, NONE_JUDGED)
    differences = {control: _paired(values, control) for control in CONTROLS.values()}
    told = ", ".join(f"{shown(each, 100, 1)} over {control}" for control, each in differences.items())
    sentence = (
        "Share of prompts with a finding, inserted text left out, with trained directions minus that with untrained "
        f"ones, in percentage points, paired by prompt: {told}."
    )
    figures = {f"trained_over_{control}": each for control, each in differences.items()}
    return Conclusion(joint([decide(each) for each in differences.values()]), sentence, figures)


def _dictionary_cost(run: Run, unit: str, pilot: Pilot) -> Spent:
    rates, pictures = pilot.of(unit), len(run.inputs.images)
    return len(CONTROLS) * (rates.study(pictures) + rates.audited(run, passes=False)) + rates.card(pictures)


DICTIONARIES = Experiment(
    name="dictionaries",
    title="Trained and untrained dictionaries",
    claim="The findings need a trained dictionary: random directions, principal components and neurons give fewer.",
    of_paper=False,
    units=lambda run: run.inputs.variants,
    measure=_frozen,
    rows=_dictionary_rows,
    conclude=_dictionary_conclusion,
    draw=lambda values: estimates(
        {
            name: [
                (variant, rate_of(with_finding(value[name], written=False)))
                for variant, value in values.items()
            ]
            for name in KINDS
        },
        "share of prompts with a finding, %",
        scale=100,
    ),
    cost=_dictionary_cost,
    assumes="for each control a study from stored activations and one closed-form audit per prompt; a quality card",
    needs=("counts",),
)


def _seed_units(run: Run) -> list[str]:
    first = run.inputs.variants[0]
    return [f"{first} seed {seed}" for seed in range(1, run.sizes.seeds)]


def _seed(run: Run, unit: str) -> dict[str, Any]:
    first, seed = run.inputs.variants[0], int(unit.rpartition(" ")[2])
    studies = {"seed 0": run.inputs.study(first), f"seed {seed}": run.inputs.study(first, seed=seed)}
    before = run.value("counts", first)
    after = audited(run, studies[f"seed {seed}"], budget=run.sizes.budget)
    found = [
        findings_of(value, study) for value, study in zip((before, after), studies.values(), strict=True)
    ]
    made = compare(studies, findings=found, progress=False)
    return {
        "first": len(before["findings"]),
        "findings": len(after["findings"]),
        "prompts_judged": after["judged"],
        "again": len(made.shared()),
        "of": sum("seed 0" in each for _, _, each in made.rows),
        "by_chance": by_chance(after),
    }


def _found_again(values: Values) -> Interval:
    again, of = (sum(value[name] for value in values.values()) for name in ("again", "of"))
    return share_interval(again, of)


def _seed_conclusion(values: Values) -> Conclusion:
    share = _found_again(values)
    counts = [next(iter(values.values()))["first"], *(value["findings"] for value in values.values())]
    told = ", ".join(map(str, counts))
    if not share.known:
        return Conclusion(
            UNDECIDED, f"The first dictionary has no finding; numbers by seed: {told}.", {"again": share}
        )
    met = [value["by_chance"] for value in values.values() if "by_chance" in value]
    chance = f" (by chance at most {100 * sum(met) / len(met):.0f} %)" if met else ""
    sentence = (
        f"{shown(share, 100, 0)} % of the first dictionary's findings are found again with another seed{chance}; "
        f"numbers of findings by seed: {told}."
    )
    return Conclusion(decide(share, AGAIN), sentence, {"again": share})


def _seed_figure(values: Values) -> Any:
    again = [(unit, _found_again({unit: value})) for unit, value in values.items()]
    return estimates({"": again}, "findings of the first seed found again, %", scale=100)


SEEDS = Experiment(
    name="seeds",
    title="Seeds",
    claim="The findings do not depend on the dictionary's seed: more than half of them are found again.",
    of_paper=False,
    units=_seed_units,
    measure=_seed,
    rows=lambda values: [{"unit": unit, **value} for unit, value in values.items()],
    conclude=_seed_conclusion,
    draw=_seed_figure,
    cost=lambda run, unit, pilot: (
        pilot.of(unit).trained(run)
        + pilot.of(unit).audited(run, passes=True)
        + pilot.of(unit).matched(len(run.inputs.images))
    ),
    assumes="a study from stored activations, an audit like the first, and latents matched with the first one's",
    needs=("counts",),
    lacking="one seed was asked for",
)
