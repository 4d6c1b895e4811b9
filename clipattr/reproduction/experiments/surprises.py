"""Counts of surprising components: per model and kind, and where there is nothing to find.

Owns the experiments `counts` and `null`, and the audit that other experiments take their findings from. Ignores how an
audit works (`discovery/audit`). Start at `COUNTS`.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from clipattr.discovery.audit.run import audit
from clipattr.discovery.audit.settings import Settings
from clipattr.discovery.findings import KINDS, Finding, Findings, PromptVerdict
from clipattr.display.wording import counted, kind_word
from clipattr.reproduction.baselines import untested
from clipattr.reproduction.experiment import (
    NONE_JUDGED,
    UNDECIDED,
    Conclusion,
    Experiment,
    Values,
    decide,
    interval_of,
    joint,
    number_of,
    shown,
)
from clipattr.reproduction.figures import estimates
from clipattr.reproduction.inputs import TRAINED
from clipattr.statistics import Interval, rate_difference, share_interval
from clipattr.studies.study import Study

if TYPE_CHECKING:
    from clipattr.reproduction.run import Run

# The paper's families of surprising components, as kinds of findings.
FAMILIES = {
    "polysemous words": ("polysemy",),
    "compound nouns": ("compound",),
    "visual typography": ("typography",),
    "dataset artefacts": ("watermark", "context", "companion"),
}
HALF = 0.5  # share of the components that must belong to these families
FALSE_ALARMS = 0.05  # findings per prompt that an audit of shuffled pictures may have; the benchmarks' floor


def audited(run: Run, study: Study, *, budget: int) -> dict[str, Any]:
    """Findings and verdicts of one study as plain values, with what the paper's own triage counts."""
    inputs = run.inputs
    found = audit(
        study,
        inputs.prompts,
        settings=Settings(budget=budget),
        progress=inputs.progress,
        engine=inputs.engine,
    )
    latents, clear = study.latents, inputs.protocol.triage(study)
    return {
        "prompts": len(found.verdicts),
        "judged": sum(verdict.outcome != "cannot be judged" for verdict in found.verdicts),
        "findings": [asdict(finding) for finding in found],
        "verdicts": [{"prompt": v.prompt, "outcome": v.outcome, "why": v.why} for v in found.verdicts],
        "live": int((latents["frequency"] > 0).sum()),
        "clear": len(clear),
        "unaligned": len(inputs.protocol.outliers(study)),
        "unlabelled": int((~clear["aligned"].astype(bool)).sum()),
    }


def _finding(finding: Finding) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(finding)


def findings_of(value: Mapping[str, Any], study: Study | None = None) -> Findings:
    """The findings in a value of `audited`."""
    listed = [Finding.from_dict(_numbers(item)) for item in value["findings"]]
    verdicts = [PromptVerdict(v["prompt"], v["outcome"], v["why"]) for v in value["verdicts"]]
    about = {} if study is None else {"dictionary": study.dictionary.hash, "model": study.manifest["model"]}
    return Findings(listed, study, about | {"prompts_audited": value["prompts"]}, verdicts)


def _numbers(item: Mapping[str, Any]) -> dict[str, Any]:
    """A stored finding with NaN where JSON holds null."""
    numbers = ("kind_probability", "share", "alignment", "clarity", "confidence")
    spans = {name: vars(interval_of(item[name])) for name in ("reliance", "causal_effect")}
    return {**item, **{name: number_of(item[name]) for name in numbers}, **spans}


def with_finding(
    value: Mapping[str, Any], kinds: tuple[str, ...] = KINDS, *, written: bool = True
) -> torch.Tensor:
    """(prompts judged,) 1 where a prompt has a finding of these kinds.

    Args:
        written: whether findings that rest on inserted text alone count.
    """
    there = {
        item["prompt"]
        for item in value["findings"]
        if item["kind"] in kinds and (written or item["evidence"].get("reason") != "written")
    }
    return torch.tensor([float(prompt in there) for prompt in judged_prompts(value)])


def judged_prompts(value: Mapping[str, Any]) -> list[str]:
    """The prompts of an audit that could be judged, in its order."""
    return [v["prompt"] for v in value["verdicts"] if v["outcome"] != "cannot be judged"]


def rate_of(flags: torch.Tensor) -> Interval:
    return share_interval(int(flags.sum()), len(flags))


def _variants(run: Run) -> list[str]:
    return run.inputs.variants


def _count(run: Run, unit: str) -> dict[str, Any]:
    value = audited(run, run.inputs.study(unit, TRAINED), budget=run.sizes.budget)
    # The comparison with shuffled pictures belongs to this claim.
    return value | {"null": run.value("null", unit)}


def _count_rows(values: Values) -> list[dict[str, Any]]:
    rows = []
    for variant, value in values.items():
        kinds = Counter(item["kind"] for item in value["findings"])
        groups = {**{kind_word(kind): (kind,) for kind in KINDS}, **FAMILIES, "any kind": KINDS}
        for name, members in groups.items():
            rate = rate_of(with_finding(value, members))
            rows.append(
                {
                    "model": variant,
                    "kind": name,
                    "components": sum(kinds[kind] for kind in members),
                    "prompts_judged": value["judged"],
                    "share_of_prompts": rate.value,
                    "low": rate.low,
                    "high": rate.high,
                    "expected_by_chance": rate_of(with_finding(value["null"], members)).value,
                }
            )
        for name in ("live", "clear", "unaligned", "unlabelled"):
            rows.append({"model": variant, "kind": f"latents: {name}", "components": value[name]})
    return rows


def _count_conclusion(values: Values) -> Conclusion:
    pooled = torch.cat([with_finding(value, written=False) for value in values.values()])
    chance = torch.cat([with_finding(value["null"]) for value in values.values()])
    if not len(pooled) or not len(chance):
        return Conclusion(UNDECIDED, NONE_JUDGED)
    excess = rate_difference(pooled, chance)
    kinds = [item["kind"] for value in values.values() for item in value["findings"]]
    counts = {name: sum(kind in members for kind in kinds) for name, members in FAMILIES.items()}
    within = sum(counts.values())
    share = share_interval(within, len(kinds))
    told = [f"{count} {name}" for name, count in counts.items()] + [f"{len(kinds) - within} of other kinds"]
    belong = f", and {shown(share, 100, 0)} % of them belong to the four named kinds" if kinds else ""
    sentence = (
        f"{counted(len(kinds), 'surprising component')} in {counted(len(values), 'model')} and "
        f"{counted(len(pooled), 'judged prompt')} ({', '.join(told)}). The share of prompts with one, inserted "
        f"text alone left out, lies {shown(excess, 100, 1)} percentage points above that of shuffled pictures{belong}."
    )
    figures = {"excess_over_shuffled": excess, "share_of_named_kinds": share}
    return Conclusion(joint([decide(excess), decide(share, HALF)]), sentence, figures)


def _count_figure(values: Values) -> Any:
    series = {
        variant: [(name, rate_of(with_finding(value, kinds))) for name, kinds in FAMILIES.items()]
        for variant, value in values.items()
    }
    series["shuffled pictures"] = [
        (name, rate_of(torch.cat([with_finding(value["null"], kinds) for value in values.values()])))
        for name, kinds in FAMILIES.items()
    ]
    return estimates(series, "share of prompts with a surprising component, %", scale=100)


COUNTS = Experiment(
    name="counts",
    title="Surprising components",
    claim="CLIP models rest on many surprising components, tied to polysemous words, compound nouns, visual typography "
    "and dataset artefacts.",
    of_paper=True,
    units=_variants,
    measure=_count,
    rows=_count_rows,
    conclude=_count_conclusion,
    draw=_count_figure,
    cost=lambda run, unit, pilot: pilot.of(unit).audited(run, passes=True),
    assumes="what prompts share, its forward passes, and per prompt the mean of three, forward passes apart",
    needs=("null",),
    deviations=(
        "components are found by an audit with exact ablation, held-back pictures and false-discovery control; the "
        "paper filters by alignment and looks at the rest (rows “latents: unaligned” count what its filter leaves)",
        "kinds are decided by evidence, not by a person",
        "“hundreds” is read as a rate per prompt, since the number depends on how many prompts are audited",
    ),
)


def shuffled(study: Study, seed: int = 0) -> Study:
    """The study with its codes and activations given to other pictures: nothing in it can be found."""
    order = np.random.default_rng(seed).permutation(len(study.images))
    other = copy.copy(study)
    other.__dict__ = dict(study.__dict__) | {
        "activations": np.asarray(study.activations)[order],
        "codes": study.codes.rows(torch.from_numpy(order)),
    }
    return other


def _null(run: Run, unit: str) -> dict[str, Any]:
    study = shuffled(run.inputs.study(unit, TRAINED))
    # Budget 0: forward passes would read the pictures, whose codes are another's.
    return audited(run, study, budget=0) | {"untested": untested(study, run.inputs.prompts)}


def _null_rows(values: Values) -> list[dict[str, Any]]:
    rows = []
    for variant, value in values.items():
        rate = rate_of(with_finding(value))
        rows.append(
            {
                "model": variant,
                "false_findings": len(value["findings"]),
                "prompts_judged": value["judged"],
                "share_of_prompts": rate.value,
                "low": rate.low,
                "high": rate.high,
                "without_correction": rate_of(torch.tensor(value.get("untested", ()))).value,
            }
        )
    return rows


def _null_conclusion(values: Values) -> Conclusion:
    flags = torch.cat([with_finding(value) for value in values.values()])
    if not len(flags):
        return Conclusion(UNDECIDED, NONE_JUDGED)
    rate = rate_of(flags)
    n, hits = len(flags), int(flags.sum())
    below = Interval(FALSE_ALARMS - rate.value, FALSE_ALARMS - rate.high, FALSE_ALARMS - rate.low)
    sentence = (
        f"{hits} of {counted(n, 'prompt')} that could be judged, {shown(rate, 100, 1)} %, "
        f"{'has' if hits == 1 else 'have'} a finding although pictures and codes are shuffled; at most "
        f"{FALSE_ALARMS * 100:.0f} % is asked for."
    )
    figures = {"false_findings_per_prompt": rate}
    plain = torch.tensor([flag for value in values.values() for flag in value.get("untested", ())])
    if len(plain):
        figures["prompts_without_correction"] = rate_of(plain)
        sentence += (
            f" A test of each latent without correction for their number would report something for "
            f"{shown(rate_of(plain), 100, 1)} %."
        )
    return Conclusion(decide(below), sentence, figures)


NULL = Experiment(
    name="null",
    title="Null model",
    claim=f"Where codes are shuffled against pictures, at most {FALSE_ALARMS * 100:.0f} % of the prompts have a "
    "finding.",
    of_paper=False,
    units=_variants,
    measure=_null,
    rows=_null_rows,
    conclude=_null_conclusion,
    draw=lambda values: estimates(
        {"shuffled": [(variant, rate_of(with_finding(value))) for variant, value in values.items()]},
        "share of prompts with a finding, %",
        scale=100,
    ),
    cost=lambda run, unit, pilot: pilot.of(unit).shuffled(run),
    assumes="what prompts share, and per prompt the mean of three on shuffled pictures",
)
