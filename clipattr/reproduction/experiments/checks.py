"""Checks of the findings: against a known truth, and by editing pictures.

Owns the experiments `truth` and `pixels`. Bundled models bring worlds whose pictures can be rendered without a cause;
other truths are lists of prompts and causes. Start at `TRUTH`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from clipattr.discovery.findings import Findings
from clipattr.discovery.pixels.verify import VERDICTS, verify
from clipattr.reproduction.baselines import exchanged
from clipattr.reproduction.experiment import (
    NOT_SUPPORTED,
    UNDECIDED,
    Conclusion,
    Experiment,
    Values,
    decide,
    joint,
    shown,
)
from clipattr.reproduction.experiments.surprises import findings_of
from clipattr.reproduction.figures import estimates
from clipattr.reproduction.pilot import at_most, findings
from clipattr.statistics import Interval, share_interval
from clipattr.studies.presets import paper

if TYPE_CHECKING:
    from clipattr.reproduction.pilot import Pilot
    from clipattr.reproduction.run import Run
    from clipattr.reproduction.times import Spent
    from clipattr.studies.study import Study

RENDERED, BY_NAME = "by rendering pictures again without the cause", "by the name of the cause"
HALF = 0.5  # share from which a claim about findings counts as supported
ASIDE = 30  # scenes that show what latents respond to, for one scene of a check
CHECKED = (
    3  # scenes of a finding's checks for one scene of a check: 2 for a planted cause, 2 to 6 for another one
)
CONTROLS = 4  # findings for one that is also tested with another prompt


def world_of(run: Run, variant: str) -> Any:
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
    return [variant for variant in run.inputs.variants if world_of(run, variant) is not None]


def _measure(run: Run, unit: str) -> dict[str, Any]:
    study = run.inputs.study(unit)
    findings = findings_of(run.value("counts", unit), study)
    prompts = set(run.inputs.prompts)
    if run.inputs.truth:
        known = [row for row in run.inputs.truth[unit] if row["prompt"] in prompts]
        named = simpler(study, run.inputs.prompts, known, len(findings))
        return by_name(known, findings) | {"simpler": named}
    from clipattr_data.truth import Truth, judge

    world, learnt = world_of(run, unit)
    learnt = [plant for plant in learnt if plant.prompt in prompts]
    # Scenes that decide what a latent responds to: as many as the checks need, 30 times over.
    truth = Truth(study.model, study.dictionary, world, ASIDE * run.sizes.truth)
    verdicts = judge(truth, list(findings), learnt, run.sizes.truth)
    matched: dict[tuple[str, str], str] = {}
    for finding, verdict in zip(findings, verdicts, strict=True):
        if verdict.plant is not None:
            matched.setdefault((verdict.plant.prompt, verdict.plant.cause), finding.kind)
    planted = [_told(vars(p), matched.get((p.prompt, p.cause)), [p.kind]) for p in learnt]
    said = [
        {"prompt": f.prompt, "label": f.label, "kind": f.kind, "right": bool(v.right), "cause": v.cause}
        for f, v in zip(findings, verdicts, strict=True)
    ]
    known = [{"prompt": p.prompt, "cause": p.cause} for p in learnt]
    named = simpler(study, run.inputs.prompts, known, len(findings))
    return {"planted": planted, "said": said, "how": RENDERED, "simpler": named}


def simpler(study: Study, prompts: list[str], truth: Sequence[Any], n: int) -> dict[str, list[bool]]:
    """Which known causes simpler ways name among as many suspects as there are findings or causes, by prompt and word.

    "evaluator alone" suspects the words that the evaluator sees on a prompt's pictures more than on others; no audited
    model takes part. "unaligned latents" is the paper's filter: clear latents whose examples the prompt does not
    describe, strongest on the prompt's pictures, under their best word. One truth value per known cause.
    """
    words, seen = study.vocabulary.words, np.asarray(study.evaluator_embeddings, np.float32)
    presence = seen @ np.asarray(study.vocabulary_embeddings, np.float32).T
    labels, codes = np.array(study.images.columns["label"], dtype=object), study.codes.to_dense().numpy()
    best, low = list(study.latents["label"]), study.latents["alignment"].to_numpy() < paper.unaligned[1]
    filtered = low & (study.latents["clarity"].to_numpy() > paper.clear)
    suspects: dict[str, list[tuple[float, str, str]]] = {"evaluator alone": [], "unaligned latents": []}
    text = study.evaluator.encode_text(prompts).cpu().numpy()
    for number, prompt in enumerate(prompts):
        own = labels == prompt
        if not own.any():
            own = np.zeros(len(seen), bool)
            own[np.argsort(-(seen @ text[number]))[: max(20, len(seen) // max(len(prompts), 1))]] = True
        if own.all():
            continue
        lift = (presence[own].mean(0) - presence[~own].mean(0)) / presence.std(0).clip(1e-9)
        strength = codes[own].mean(0) * filtered
        suspects["evaluator alone"] += [
            (float(each), prompt, word) for each, word in zip(lift, words, strict=True) if word != prompt
        ]
        suspects["unaligned latents"] += [
            (float(strength[latent]), prompt, str(best[latent])) for latent in np.flatnonzero(strength > 0)
        ]
    named = {}
    for way, each in suspects.items():
        top = {
            (prompt, word.casefold()) for _, prompt, word in sorted(each, reverse=True)[: max(n, len(truth))]
        }
        named[way] = [(row["prompt"], str(row["cause"]).casefold()) in top for row in truth]
    return named


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
        planted.append(_told(row, found.get(key), kinds))
    said = [
        {"prompt": f.prompt, "label": f.label, "kind": f.kind, "cause": None,
         "right": (f.prompt, (f.label or "").casefold()) in known}
        for f in findings
    ]  # fmt: skip
    return {"planted": planted, "said": said, "how": BY_NAME}


def _told(row: Mapping[str, Any], found: str | None, kinds: Sequence[str]) -> dict[str, Any]:
    """A known cause, the kind it was found as, and whether that is one of its kinds; None where that is unknown."""
    right = found in kinds if found is not None and kinds else None
    own = {name: row.get(name) for name in ("prompt", "cause", "kind")}
    return {**own, "found_as": found, "right_kind": right}


def _rows(values: Values) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for variant, value in values.items():
        rows += [{"model": variant, "list": "planted", **row} for row in value["planted"]]
        rows += [{"model": variant, "list": "reported", **row} for row in value["said"]]
        rows += [
            {"model": variant, "list": "recall of a simpler way", "label": way, "right": found}
            for way, flags in value["simpler"].items()
            for found in flags
        ]
    return rows


def _share(flags: Sequence[bool]) -> Interval:
    return share_interval(sum(flags), len(flags))


def _figures(values: Values) -> dict[str, Interval]:
    planted = [row for value in values.values() for row in value["planted"]]
    said = [row for value in values.values() for row in value["said"]]
    return {
        "recall": _share([row["found_as"] is not None for row in planted]),
        "precision": _share([row["right"] for row in said]),
        **{f"recall of {way}": _share(flags) for way, flags in _simpler(values).items()},
        "kind_accuracy": _share([row["right_kind"] for row in planted if row["right_kind"] is not None]),
    }


def _simpler(values: Values) -> dict[str, list[bool]]:
    found: dict[str, list[bool]] = {}
    for value in values.values():
        for way, flags in value["simpler"].items():
            found.setdefault(way, []).extend(flags)
    return found


def _conclude(values: Values) -> Conclusion:
    figures = _figures(values)
    by_name = next(iter(values.values()))["how"] == BY_NAME
    planted, said = (sum(len(value[name]) for value in values.values()) for name in ("planted", "said"))
    if not planted:
        return Conclusion(
            UNDECIDED, "None of the known causes belongs to a prompt that was audited.", figures
        )
    told = ", ".join(
        f"{name.replace('_', ' ')} {shown(each, 100, 0)} %" for name, each in figures.items() if each.known
    )
    outcomes = [decide(figures[name], HALF) for name in ("recall", "precision")]
    note = ""
    if by_name:
        # A finding that nobody planted may be right, so a low precision refutes nothing.
        outcomes[1] = UNDECIDED if outcomes[1] == NOT_SUPPORTED else outcomes[1]
        note = "; a finding that is not on the list counts as wrong, so the precision is a lower bound"
    how = next(iter(values.values()))["how"]
    sentence = f"{planted} known causes and {said} findings, matched {how}: {told}{note}."
    return Conclusion(joint(outcomes), sentence, figures)


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
    draw=lambda values: estimates(
        {"": [(name.replace("_", " "), each) for name, each in _figures(values).items()]},
        "share, %",
        scale=100,
    ),
    cost=lambda run, unit, pilot: pilot.of(unit).scenes((ASIDE + CHECKED * findings(run)) * run.sizes.truth),
    assumes=f"{ASIDE} scenes are drawn and encoded per scene of a check, and {CHECKED} more for each finding that the "
    "plan counts with; matching by name takes no time",
    needs=("counts",),
    lacking="no causes are known for these models; give truth=",
)


def _verified(run: Run, unit: str) -> dict[str, Any]:
    study = run.inputs.study(unit)
    some = findings_of(run.value("counts", unit), study)[: run.sizes.verified]
    control = exchanged(some, run.inputs.prompts, -(-run.sizes.verified // CONTROLS))
    return {"checked": _edited(study, some), "control": _edited(study, control)}


def _edited(study: Study, some: Findings) -> list[dict[str, Any]]:
    return [
        {"prompt": f.prompt, "label": f.label, "kind": f.kind, **_pixels(f.evidence.get("pixels", {}))}
        for f in (verify(study, some, progress=False) if len(some) else some)
    ]


def _pixels(evidence: Any) -> dict[str, Any]:
    removal = evidence.get("removal") or {}
    return {
        "verdict": evidence.get("verdict", "untestable"),
        "edit": evidence.get("edit"),
        "removal": removal.get("value"),
        "low": removal.get("low"),
        "high": removal.get("high"),
    }


def _confirmed(values: Values, part: str = "checked") -> Interval:
    verdicts = [row["verdict"] for value in values.values() for row in value.get(part, ())]
    return _share([verdict == VERDICTS[0] for verdict in verdicts if verdict in VERDICTS[:2]])


def _pixel_conclusion(values: Values) -> Conclusion:
    rows = [row["verdict"] for value in values.values() for row in value["checked"]]
    counts = ", ".join(f"{rows.count(name)} {name}" for name in VERDICTS)
    share = _confirmed(values)
    if not share.known:
        return Conclusion(
            UNDECIDED, f"No finding could be tested by an edit ({counts}).", {"confirmed": share}
        )
    sentence = f"Of the findings that an edit can test, {shown(share, 100, 0)} % are confirmed ({counts})."
    control = _confirmed(values, "control")
    if control.known:
        sentence += f" With prompts of other pictures instead, {shown(control, 100, 0)} % are."
    return Conclusion(
        decide(share, HALF), sentence, {"confirmed": share, "confirmed_of_other_prompts": control}
    )


def _pixel_figure(values: Values) -> Any:
    """The fall of the score when the cause is taken out, of each finding that could be measured."""
    series: dict[str, list[tuple[str, Interval]]] = {"finding": [], "another prompt": []}
    for variant, value in values.items():
        for part, told in (("checked", "finding"), ("control", "another prompt")):
            for row in value.get(part, ()):
                if row["removal"] is not None:
                    name = f"{variant}: {row['prompt']}, {row['label'] or 'unnamed'}"
                    series[told].append((name, Interval(row["removal"], row["low"], row["high"])))
    kept = {told: pairs for told, pairs in series.items() if pairs}
    return estimates(kept, "fall of the score without the cause, points", scale=100) if kept else None


def _verified_cost(run: Run, unit: str, pilot: Pilot) -> Spent:
    n, most = findings(run), run.sizes.verified
    # With a finding or without one: nothing is opened for a model without findings.
    tests = at_most(n, most) + at_most(n, -(-most // CONTROLS))
    return tests * pilot.of(unit).verified + 2 * at_most(n, 1) * pilot.of(unit).opened(len(run.inputs.images))


PIXELS = Experiment(
    name="pixels",
    title="Pixel evidence",
    claim="The reliances hold in pixels: taking the cause out of pictures, or putting it into others, moves the score.",
    of_paper=False,
    units=lambda run: run.inputs.variants if run.sizes.verified else [],
    measure=_verified,
    rows=lambda values: [
        {"model": variant, "tested": told, **row}
        for variant, value in values.items()
        for part, told in (("checked", "finding"), ("control", "another prompt"))
        for row in value.get(part, ())
    ],
    conclude=_pixel_conclusion,
    draw=_pixel_figure,
    cost=_verified_cost,
    assumes="as many findings as the plan expects, in some models none; every fourth is also tested with another "
    "prompt; a test uses two thirds of the forward passes that it is allowed",
    needs=("counts",),
)
