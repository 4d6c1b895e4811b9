"""Checks of the findings: against a known truth, and by editing pictures.

Owns the experiments `truth` and `pixels`. Bundled models bring worlds whose pictures can be rendered without a cause;
other truths are lists of prompts and causes. Start at `TRUTH`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from clipattr.discovery.findings import Findings
from clipattr.discovery.pixels.verify import VERDICTS, verify
from clipattr.reproduction.experiment import (
    NOT_SUPPORTED,
    UNDECIDED,
    Conclusion,
    Experiment,
    Values,
    decide,
    shown,
    together,
)
from clipattr.reproduction.experiments.surprises import findings_of
from clipattr.reproduction.figures import estimates
from clipattr.statistics import Interval, wilson

if TYPE_CHECKING:
    from clipattr.reproduction.run import Run

RENDERED, BY_NAME = "by rendering pictures again without the cause", "by the name of the cause"
HALF = 0.5  # share from which a claim about findings counts as supported


def _world(run: Run, variant: str) -> Any:
    """The bundled world a model was trained in, with the plants it has learnt; None for other models."""
    try:
        from clipattr_data.truth import learnt_plants
        from clipattr_data.world import World
    except ImportError:
        return None
    given = run.inputs.models[variant]
    try:
        world = World.open(given) if isinstance(given, str) else None
    except (ValueError, OSError):
        return None
    return None if world is None or not world.plants else (world, learnt_plants(world))


def _units(run: Run) -> list[str]:
    if not run.sizes.truth:
        return []
    if run.inputs.truth:
        return [variant for variant in run.inputs.variants if variant in run.inputs.truth]
    return [variant for variant in run.inputs.variants if _world(run, variant) is not None]


def _measure(run: Run, unit: str) -> dict[str, Any]:
    study = run.inputs.study(unit)
    findings = findings_of(run.value("counts", unit), study)
    prompts = set(run.inputs.prompts)
    if run.inputs.truth:
        return by_name([row for row in run.inputs.truth[unit] if row["prompt"] in prompts], findings)
    from clipattr_data.truth import Truth, judge

    world, learnt = _world(run, unit)
    learnt = [plant for plant in learnt if plant.prompt in prompts]
    # Scenes that decide what a latent responds to: as many as the checks need, 30 times over.
    truth = Truth(study.model, study.dictionary, world, 30 * run.sizes.truth)
    verdicts = judge(truth, list(findings), learnt, run.sizes.truth)
    matched: dict[tuple[str, str], str] = {}
    for finding, verdict in zip(findings, verdicts, strict=True):
        if verdict.plant is not None:
            matched.setdefault((verdict.plant.prompt, verdict.plant.cause), finding.kind)
    planted = [
        {"prompt": p.prompt, "cause": p.cause, "kind": p.kind, "found_as": kind,
         "right_kind": None if kind is None else kind == p.kind}
        for p, kind in ((p, matched.get((p.prompt, p.cause))) for p in learnt)
    ]  # fmt: skip
    said = [
        {"prompt": f.prompt, "label": f.label, "kind": f.kind, "right": bool(v.right), "cause": v.cause}
        for f, v in zip(findings, verdicts, strict=True)
    ]
    return {"planted": planted, "said": said, "how": RENDERED}


def by_name(truth: Sequence[Any], findings: Findings) -> dict[str, Any]:
    """Findings matched with a list of causes by prompt and label.

    A finding without an entry counts as wrong, though it may be a reliance that nobody planted, or name the cause by
    another word: the precision is a lower bound.
    """
    known = {(row["prompt"], str(row["cause"]).casefold()): row for row in truth}
    found = {(f.prompt, (f.label or "").casefold()): f.kind for f in reversed(list(findings))}
    planted = []
    for key, row in known.items():
        kinds = [kind for kind in (row.get("kind"), *row.get("accepts", ())) if kind]
        planted.append(
            {"prompt": row["prompt"], "cause": row["cause"], "kind": row.get("kind"), "found_as": found.get(key),
             "right_kind": found[key] in kinds if key in found and kinds else None}
        )  # fmt: skip
    said = [
        {"prompt": f.prompt, "label": f.label, "kind": f.kind, "cause": None,
         "right": (f.prompt, (f.label or "").casefold()) in known}
        for f in findings
    ]  # fmt: skip
    return {"planted": planted, "said": said, "how": BY_NAME}


def _rows(values: Values) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for variant, value in values.items():
        rows += [{"model": variant, "list": "planted", **row} for row in value["planted"]]
        rows += [{"model": variant, "list": "reported", **row} for row in value["said"]]
    return rows


def _share(flags: Sequence[bool]) -> Interval:
    return Interval(sum(flags) / len(flags) if flags else float("nan"), *wilson(sum(flags), len(flags)))


def _figures(values: Values) -> dict[str, Interval]:
    planted = [row for value in values.values() for row in value["planted"]]
    said = [row for value in values.values() for row in value["said"]]
    return {
        "recall": _share([row["found_as"] is not None for row in planted]),
        "precision": _share([row["right"] for row in said]),
        "kind_accuracy": _share([row["right_kind"] for row in planted if row["right_kind"] is not None]),
    }


def _conclude(values: Values) -> Conclusion:
    figures = _figures(values)
    by_name = next(iter(values.values()))["how"] == BY_NAME
    planted, said = (sum(len(value[name]) for value in values.values()) for name in ("planted", "said"))
    if not planted:
        return Conclusion(
            UNDECIDED, "None of the known causes belongs to a prompt that was audited.", figures
        )
    told = ", ".join(
        f"{name.replace('_', ' ')} {shown(each, 100, 0)} %" for name, each in figures.items() if _known(each)
    )
    outcomes = [decide(figures[name], HALF) for name in ("recall", "precision")]
    note = ""
    if by_name:
        # A finding that nobody planted may be right, so a low precision refutes nothing.
        outcomes[1] = UNDECIDED if outcomes[1] == NOT_SUPPORTED else outcomes[1]
        note = "; a finding that is not on the list counts as wrong, so the precision is a lower bound"
    how = next(iter(values.values()))["how"]
    sentence = f"{planted} known causes and {said} findings, matched {how}: {told}{note}."
    return Conclusion(together(outcomes), sentence, figures)


def _known(estimate: Interval) -> bool:
    return estimate.value == estimate.value


TRUTH = Experiment(
    name="truth",
    title="Ground truth",
    claim="Where the causes are known, the audit finds more than half of them, and more than half of its findings are "
    "right.",
    of_paper=False,
    units=_units,
    measure=_measure,
    rows=_rows,
    conclude=_conclude,
    draw=lambda values: estimates({"": list(_figures(values).items())}, "share, %", scale=100),
    seconds=lambda run, rates: 60 * run.sizes.truth * rates.picture,
    assumes="60 scenes are rendered and encoded per scene of a check",
    lacking="no causes are known for these models; give truth=",
)


def _verified(run: Run, unit: str) -> dict[str, Any]:
    study = run.inputs.study(unit)
    some = findings_of(run.value("counts", unit), study)[: run.sizes.verified]
    checked = verify(study, some, progress=False) if len(some) else some
    return {
        "checked": [
            {"prompt": f.prompt, "label": f.label, "kind": f.kind, **_pixels(f.evidence.get("pixels", {}))}
            for f in checked
        ]
    }


def _pixels(evidence: Any) -> dict[str, Any]:
    removal = evidence.get("removal") or {}
    return {
        "verdict": evidence.get("verdict", "untestable"),
        "edit": evidence.get("edit"),
        "removal": removal.get("value"),
        "low": removal.get("low"),
        "high": removal.get("high"),
    }


def _confirmed(values: Values) -> Interval:
    verdicts = [row["verdict"] for value in values.values() for row in value["checked"]]
    return _share([verdict == VERDICTS[0] for verdict in verdicts if verdict in VERDICTS[:2]])


def _pixel_conclusion(values: Values) -> Conclusion:
    rows = [row["verdict"] for value in values.values() for row in value["checked"]]
    counts = ", ".join(f"{rows.count(name)} {name}" for name in VERDICTS)
    share = _confirmed(values)
    if share.value != share.value:
        return Conclusion(
            UNDECIDED, f"No finding could be tested by an edit ({counts}).", {"confirmed": share}
        )
    sentence = f"Of the findings that an edit can test, {shown(share, 100, 0)} % are confirmed ({counts})."
    return Conclusion(decide(share, HALF), sentence, {"confirmed": share})


PIXELS = Experiment(
    name="pixels",
    title="Pixel evidence",
    claim="The reliances hold in pixels: taking the cause out of pictures, or putting it into others, moves the score.",
    of_paper=False,
    units=lambda run: run.inputs.variants if run.sizes.verified else [],
    measure=_verified,
    rows=lambda values: [{"model": v, **row} for v, value in values.items() for row in value["checked"]],
    conclude=_pixel_conclusion,
    draw=lambda values: None,
    seconds=lambda run, rates: run.sizes.verified * rates.verified * rates.forward,
    assumes="every finding needs as many forward passes as its settings allow",
)
