"""Audits one world in its forms and compares the findings with the truth.

Start at `audit_world`: its result is plain data, which `tally.figures` pools over worlds.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .effects import measure
from .judging import LEFT, Judge, Verdict, names_cause
from .scene import Plant
from .simpler import BASELINES, Looks, Suspect
from .studying import open_form, place
from .world import SPECS, World

TIMES = (1, 2, 4)  # as many suspects as the audit, for the simpler ways
SIMPLER_FORMS = ("plain", "labels")
SEEN = 0.75  # area under the ROC curve below which an evaluator, or every latent, is said not to see a cause
FEW = 10  # pictures of a prompt that show the cause, below which that is why it is missed
ALONE = 3  # prompts that are also audited alone


def truth_of(world: World, out: Path, n: int = 200) -> list[dict[str, Any]]:
    """The effect of every plant on the model as stored, measured once and kept beside the study."""
    file = out / "studies" / world.name / "truth.json"
    if file.exists():
        return list(json.loads(file.read_text(encoding="utf-8")))
    study = open_form(out, world.name, "plain")
    rows = measure(world, study.model, n) if world.plants else []
    file.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return rows


def learnt_of(world: World, rows: Sequence[dict[str, Any]]) -> list[Plant]:
    """The plants that the model has learnt."""
    return [plant for plant, row in zip(world.plants, rows, strict=True) if row["learnt"]]


def audit_world(
    world: World,
    out: Path,
    forms: Sequence[str],
    *,
    simpler: bool = True,
    laws: bool = False,
    tell: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Audit a world in its forms; what is known so far is in `audits/NAME.json` after each of them.

    Args:
        world: with its studies under `out`.
        out: as `build_forms` wrote it; gets the result.
        forms: those whose studies are there are audited.
        simpler: whether to judge the simpler ways beside it.
        laws: whether to audit again under changes that must not matter.
        tell: called with a line now and then.

    Returns:
        world, the truth's rows, and for each form: findings, plants, prompts, seconds, simpler ways and laws.
    """
    truth = truth_of(world, out)
    contents = json.loads((out / "pictures" / world.name / "contents.json").read_text(encoding="utf-8"))
    result: dict[str, Any] = {"world": world.name, "truth": truth, "forms": {}}
    forms = [form for form in forms if (place(out, world.name, form) / "study.json").exists()]
    studies = {form: open_form(out, world.name, form) for form in forms}
    if not studies:
        return result
    # Pictures, codes and dictionary are those of every form at one site.
    judges: dict[str, Judge] = {}
    twins = twin_plants(world.name)
    for form, study in studies.items():
        site = str(study.site)
        if site not in judges:
            judges[site] = Judge(study, world, contents, learnt_of(world, truth))
        judge = judges[site]
        told = audit_form(judge, study, world, tell)
        told["twins"] = [
            {"twin": name, "prompt": plant.prompt, "found_here": _speaks_of(judge, plant, told["findings"])}
            for name, plant in twins
        ]
        if laws:
            told["laws"] = held(study, world.prompts, told["findings"])
        result["forms"][form] = told
        _keep(out, result)
    for form in SIMPLER_FORMS if simpler and learnt_of(world, truth) else ():
        if form in studies:
            judge = judges[str(studies[form].site)]
            told = result["forms"][form]
            n = max(len(told["findings"]), len(judge.learnt))
            told["simpler"] = simpler_ways(judge, studies[form], n)
            tell(f"{world.name}, {form}: simpler ways judged")
            _keep(out, result)
    return result


def _keep(out: Path, result: dict[str, Any]) -> None:
    file = out / "audits" / f"{result['world']}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(result, default=float, indent=1) + "\n", encoding="utf-8")


def twin_plants(name: str) -> list[tuple[str, Plant]]:
    """The plants by which its twins differ from a world without plants."""
    stem = name.removesuffix("null")
    if stem == name:
        return []
    found = []
    for file in sorted(SPECS.glob(f"{stem}twin-*.json")):
        for plant in json.loads(file.read_text(encoding="utf-8"))["plants"]:
            found.append((file.stem, Plant(**{**plant, "accepts": tuple(plant["accepts"])})))
    return found


def _speaks_of(judge: Judge, plant: Plant, rows: Sequence[dict[str, Any]]) -> bool:
    """Whether some finding of the plant's prompt has latents that fall when the plant's cause is left out."""
    pairs = judge.of_plant(plant)
    return any(pairs.falls(row["latents"]) for row in rows if row["prompt"] == plant.prompt)


def audit_form(judge: Judge, study: Any, world: World, tell: Callable[[str], None]) -> dict[str, Any]:
    """One form's findings with verdicts, and plants with why they were missed."""
    import clipattr as ca

    start = time.perf_counter()
    findings = list(ca.audit(study, world.prompts, progress=False))
    seconds = time.perf_counter() - start
    verdicts = [judge.judge(f.prompt, f.latents) for f in findings]
    rows = [
        {
            **_columns(finding),
            **_told(verdict),
            "named": verdict.right and names_cause(finding.label, verdict.cause),
        }
        for finding, verdict in zip(findings, verdicts, strict=True)
    ]
    plants = [_plant(plant, judge, study, findings, verdicts) for plant in judge.learnt]
    tell(
        f"{world.name}: {sum(p['found'] for p in plants)} of {len(plants)} found, "
        f"{sum(r['right'] for r in rows)} of {len(rows)} right; audited in {seconds:.0f} s, "
        f"judged in {time.perf_counter() - start - seconds:.0f} s"
    )
    return {
        "prompts": len(world.prompts),
        "seconds": round(seconds, 1),
        "findings": rows,
        "plants": plants,
    }


def _columns(finding: Any) -> dict[str, Any]:
    return {
        "prompt": finding.prompt,
        "label": finding.label,
        "kind": finding.kind,
        "confidence": finding.confidence,
        "causal_effect": finding.causal_effect.value,
        "latents": list(finding.latents),
    }


def _told(verdict: Verdict) -> dict[str, Any]:
    return {
        "planted": verdict.plant.kind if verdict.plant else None,
        "cause": verdict.cause,
        "redrawn_effect": round(verdict.effect[0], 4),
        "redrawn_low": round(verdict.effect[1], 4),
        "kept": round(verdict.kept, 3),
        "right": verdict.right,
    }


def _plant(
    plant: Plant, judge: Judge, study: Any, findings: Sequence[Any], verdicts: Sequence[Verdict]
) -> dict[str, Any]:
    """Whether a plant was found and its name, else the reason why it was missed."""
    cause, pairs = judge.name_of(plant), judge.of_plant(plant)
    own = np.array([label == plant.prompt for label in _labels(judge, plant)])
    there = (
        judge.shown[:, judge.things.index(cause)] > 0 if cause in judge.things else np.zeros(len(own), bool)
    )
    row: dict[str, Any] = {
        "kind": plant.kind,
        "form": plant.form,
        "prompt": plant.prompt,
        "cause": cause,
        "rate": plant.rate,
        "pictures": int((own & there).sum()),
        "latent_area": round(pairs.latent_area(), 3),
        "word_area": _word_area(study, cause, there),
        "found": False,
    }
    mine = [(f, v) for f, v in zip(findings, verdicts, strict=True) if f.prompt == plant.prompt]
    row["halved"] = any(pairs.kept(f.latents) <= LEFT for f, _ in mine)
    hits = [f for f, v in mine if v.plant == plant]
    if hits:
        return row | {
            "found": True,
            "label": hits[0].label,
            "named": any(names_cause(f.label, cause) for f in hits),
            "called": hits[0].kind,
            "kind_right": hits[0].kind in plant.accepts,
            "confidence": hits[0].confidence,
        }
    if row["latent_area"] < SEEN:
        why = "no latent detects the cause"
    elif row["pictures"] < FEW:
        why = "too few pictures"
    elif row["word_area"] is not None and row["word_area"] < SEEN:
        why = "the evaluator does not see the cause"
    elif not mine:
        why = "nothing found for the prompt"
    else:
        near = min(mine, key=lambda pair: pairs.kept(pair[0].latents))[0]
        why = f"found instead: {near.label} ({near.kind}), {pairs.kept(near.latents):.2f} kept"
    return row | {"why": why}


def _labels(judge: Judge, plant: Plant) -> list[str]:
    """The prompt where a picture shows what it is planted in, by what the picture truly shows."""
    mine = judge.world.concepts[plant.concept]
    thing = judge.name_of(plant)
    columns = [judge.things.index(t) for t in {mine, thing} if t in judge.things]
    if plant.part is None or not columns:  # the cause is itself the main object
        return [plant.prompt] * len(judge.shown)
    place = judge.things.index(mine) if mine in judge.things else columns[0]
    return [plant.prompt if there else "" for there in judge.shown[:, place] > 0]


def _word_area(study: Any, cause: str, there: np.ndarray) -> float | None:
    """AUC of the evaluator's similarity to the cause's word for the pictures that show it."""
    from clipattr.statistics import auc

    words = list(study.vocabulary.words)
    word = "written word" if cause.startswith("the word ") else cause
    if word not in words or not there.any() or there.all():
        return None
    column = study.vocabulary_embeddings[words.index(word)].numpy()
    similar = np.asarray(study.evaluator_embeddings, dtype=np.float32) @ column
    return round(float(auc(similar, there)), 3)


def simpler_ways(judge: Judge, study: Any, n: int) -> dict[str, dict[str, list[int]]]:
    """For each simpler way and multiple of `n` suspects: plants found; for as many as the audit also how many
    suspects are right, and how many there are."""
    looks, result = Looks(study, judge.world.prompts), {}
    for name, way in BASELINES.items():
        told: list[tuple[Plant | None, bool]] = []
        for number, suspect in enumerate(way(looks, n * max(TIMES))):
            told.append(_verdict(judge, suspect, confirm=number < n))
        result[name] = {}
        for times in TIMES:
            some = told[: n * times]
            hits = len({plant for plant, _ in some if plant is not None})
            counts = [hits, sum(right for _, right in some), len(some)] if times == 1 else [hits]
            result[name][str(times)] = counts
    return result


def _verdict(judge: Judge, suspect: Suspect, confirm: bool) -> tuple[Plant | None, bool]:
    """The plant that a suspect found, and whether it is right; only plants are asked for without `confirm`."""
    if suspect.latents is None:
        plant, right = _by_word(judge, suspect.prompt, suspect.label, confirm)
        return plant, right
    matched = judge.match(suspect.prompt, suspect.latents)
    if matched is not None or not confirm:
        return (matched.plant, True) if matched else (None, False)
    return None, judge.confirm(suspect.prompt, suspect.latents).right


def _by_word(judge: Judge, prompt: str, label: str | None, confirm: bool) -> tuple[Plant | None, bool]:
    """A suspect without latents: the plant that its word names, or whether that word's concept lifts the prompt."""
    for plant in judge.learnt:
        if plant.prompt == prompt and names_cause(label, judge.name_of(plant)):
            return plant, True
    cause = next((t for t in judge.things if names_cause(label, t) and not t.startswith("the word ")), None)
    if cause is None or cause == prompt or not confirm:
        return None, False
    return None, judge.effect(prompt, cause, None).right


def held(study: Any, prompts: Sequence[str], rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Which of the irrelevant changes left the findings unchanged."""
    import clipattr as ca

    def asked(some: Sequence[str]) -> list[tuple[Any, ...]]:
        return sorted(_key(_columns(f)) for f in ca.audit(study, some, progress=False))

    every = sorted(_key(row) for row in rows)
    chosen = list(dict.fromkeys(row["prompt"] for row in rows))[: ALONE - 1]
    chosen += [p for p in prompts if p not in chosen][: ALONE - len(chosen)]
    alone = [asked([p]) == [key for key in every if key[0] == p] for p in chosen]
    return {"alone": [sum(alone), len(alone)], "order": asked(list(reversed(prompts))) == every}


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return (
        row["prompt"],
        tuple(row["latents"]),
        str(row["label"]),
        row["kind"],
        round(row["causal_effect"], 5),
        round(row["confidence"], 4),
    )
