"""The gate on foreign worlds: an old release without plants, a new one with them, on the new one's pictures.

Nothing is chosen here. Start at `examine_foreign`, which `gate.py --foreign` calls; `foreign_figures` pools its rows.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from world_kit.effects import LEARNT, measure
from world_kit.families import open_world
from world_kit.judging import Judge, names_cause
from world_kit.studying import EVALUATORS, family_of
from world_kit.world import World

import clipattr as ca
from clipattr.discovery.findings import Findings
from clipattr.discovery.gate import gate
from clipattr.discovery.rises import OWN_NAME, rises
from clipattr.statistics import wilson

PAIRS = 40  # scenes with and without its cause, to see whether the old release has a plant


def kept(file: Path, make: Callable[[], Findings]) -> Findings:
    """An audit, made once and read from JSON, as a release would read it."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        make().to_json(file)
    return Findings.from_json(file)


def study_of(model: Any, given: Path, name: str, folder: Path, dictionary: str | None) -> Any:
    """A model's study of the pictures of a world, with the world's words and evaluator."""
    if not (folder / "study.json").exists():
        evaluator = given / "models" / f"{family_of(name)}-{EVALUATORS[0]}"
        pictures = given / "pictures" / name
        ca.build_study(
            model, pictures / "images", path=folder, vocabulary=str(pictures / "vocabulary.txt"),
            evaluator=ca.load_model(f"local-dir:{evaluator}"), dictionary=dictionary, thumbnails=False, progress=False,
        )  # fmt: skip
    return ca.open_study(folder)


def with_old(
    given: Path, name: str, old: str, photos: Path | None, out: Path, above: Sequence[float]
) -> list[dict[str, Any]]:
    """Rows of one new release against one old one, a row a prompt and limit.

    Args:
        given: models, pictures and studies as `worlds.py` makes them. name, old: worlds of the new and the old release.
        photos: for worlds of photographs. out: keeps what is slow.
    """
    folder, world = out / "foreign" / name, open_world(name, photos)
    model = ca.load_model(f"local-dir:{given / 'models' / old}")
    new_study = ca.open_study(given / "studies" / name / "plain")
    dictionary = given / "studies" / old / "plain" / "dictionary"
    old_study = study_of(model, given, name, folder / "study", str(dictionary))
    now, then = (
        kept(folder / f"{side}.json", lambda study=study: ca.audit(study, world.prompts, progress=False))
        for side, study in (("new", new_study), ("old", old_study))
    )
    truth = json.loads((given / "studies" / name / "truth.json").read_text("utf-8"))
    learnt = {(p.prompt, p.cause): row for p, row in zip(world.plants, truth, strict=True) if row["learnt"]}
    file = folder / "old-effects.json"
    if not file.exists():
        file.write_text(json.dumps(measure(world, model, PAIRS)), encoding="utf-8")
    before = {(row["prompt"], row["cause"]): row["effect"] for row in json.loads(file.read_text("utf-8"))}
    judged = {v.prompt for v in now.verdicts if v.outcome != "cannot be judged"}
    rows: list[dict[str, Any]] = []
    for limit in above:
        decided = gate(now, limit, then)
        every = rises(now, then, limit)  # the gate leaves out those that a failing finding names
        for prompt in world.prompts:
            risen = [one.word for one in every if one.prompt == prompt]
            found = [j.finding.label or "" for j in decided.failing if j.finding.prompt == prompt]
            common = {"sort": "foreign", "world": name, "old": old, "above": limit, "prompt": prompt,
                      "judged": prompt in judged, "rises": risen, "findings": found}  # fmt: skip
            plants = [plant for plant in world.plants if plant.prompt == prompt]
            for plant in plants:
                if row := learnt.get((plant.prompt, plant.cause)):
                    cause = cause_of(world, plant)
                    effect = before[plant.prompt, plant.cause]
                    rows.append({**common, "kind": plant.kind, "cause": cause, "effect": row["effect"],
                                 "effect_before": effect, "new": effect < row["effect"] / 2,
                                 "named": any(word == OWN_NAME and plant.kind == "typography"
                                              or names_cause(word, cause) for word in risen)})  # fmt: skip
            if not plants:
                rows.append({**common, "kind": None})
    _confirm(rows, new_study, old_study, world, given / "pictures" / name / "contents.json")
    return rows


def cause_of(world: World, plant: Any) -> str:
    """A plant's cause as contents and captions call it."""
    if plant.kind == "typography":
        return f"the word {plant.cause}"
    return str(world.concepts.get(plant.cause, plant.cause))


def _confirm(rows: list[dict[str, Any]], new: Any, old: Any, world: World, contents: Path) -> None:
    """Say of every word that makes a prompt without a plant fail by how much it raises the prompt in either model."""
    suspects = [row for row in rows if row["kind"] is None and (row["rises"] or row["findings"])]
    if not suspects:
        return
    pictures = json.loads(contents.read_text("utf-8"))
    judges = [Judge(study, world, pictures, []) for study in (new, old)]

    def real(row: dict[str, Any], word: str) -> bool:
        cause = f"the word {row['prompt']}" if word == OWN_NAME else word
        now, then = (judge.effect(row["prompt"], cause, None).effect for judge in judges)
        row["effects"][word] = [list(now), list(then)]
        return now[1] >= LEARNT and then[0] < now[0] / 2

    for row in suspects:
        row["effects"] = {}
        row["real"] = any([real(row, word) for word in row["rises"]])
        row["findings_real"] = any([real(row, word) for word in row["findings"]])


def unchanged(
    given: Path, name: str, old: str, noisy: Callable[[Path, Path], str], out: Path, above: Sequence[float]
) -> list[dict[str, Any]]:
    """Rows of a model against itself with noise on every weight, in both directions, on the pictures of a world.

    Args:
        noisy: makes such a model from a folder, in another; returns its reference.
    """
    folder, made = out / "foreign" / f"{name}-noise", {}
    prompts = (given / "pictures" / name / "prompts.txt").read_text("utf-8").splitlines()
    source, own = given / "models" / old, str(given / "studies" / old / "plain" / "dictionary")
    for side, reference, dictionary in (
        ("same", f"local-dir:{source}", own),
        ("noise", noisy(source, folder / "model"), None),
    ):
        study = study_of(ca.load_model(reference), given, name, folder / side, dictionary)
        made[side] = kept(
            folder / f"{side}.json", lambda study=study: ca.audit(study, prompts, progress=False)
        )
    rows = []
    for limit in above:
        for new, before in (("same", "noise"), ("noise", "same")):
            decided = gate(made[new], limit, made[before])
            risen = [[one.prompt, one.word] for one in rises(made[new], made[before], limit)]
            found = [[j.finding.prompt, j.finding.label] for j in decided.failing]
            rows.append({"sort": "foreign noise", "world": name, "model": old, "above": limit, "new": new,
                         "prompts": decided.judged, "rises": risen, "findings": found})  # fmt: skip
    return rows


def foreign_figures(rows: Sequence[dict[str, Any]], above: Sequence[float]) -> dict[str, float]:
    """Shares of red prompts with a new plant and without any, by rises alone and by the whole gate."""
    figures: dict[str, float] = {}
    for limit in above:
        here = [row for row in rows if row["above"] == limit]
        some = [row for row in here if row["sort"] == "foreign" and row["judged"]]
        groups = {
            "planted": [row for row in some if row["kind"] is not None and row["new"]],
            "learnt": [row for row in some if row["kind"] is not None],
            "unplanted": [row for row in some if row["kind"] is None],
        }
        kinds = sorted({row["kind"] for row in groups["planted"]})
        for kind in kinds:
            groups[f"planted_{kind}"] = [row for row in groups["planted"] if row["kind"] == kind]
        for family in sorted({family_of(row["world"]) for row in some}):
            for group in ("planted", "unplanted"):
                groups[f"{group}_{family}"] = [
                    row for row in groups[group] if family_of(row["world"]) == family
                ]
        for group, members in groups.items():
            name, n = f"foreign_{group}_above_{limit:.0f}", len(members)
            if not n:
                continue
            red = sum(bool(row["rises"] or row["findings"]) for row in members)
            figures[f"{name}_prompts"], figures[f"{name}_red"] = n, red / n
            if group.removeprefix("planted_") in kinds:
                continue
            figures[f"{name}_red_low"], figures[f"{name}_red_high"] = wilson(red, n)
            figures[f"{name}_by_rises"] = sum(bool(row["rises"]) for row in members) / n
            figures[f"{name}_by_findings"] = sum(bool(row["findings"]) for row in members) / n
            if not group.startswith("unplanted"):
                figures[f"{name}_named_by_rises"] = sum(row["named"] for row in members) / n
            else:
                figures[f"{name}_by_rises_count"] = sum(bool(row["rises"]) for row in members)
                figures[f"{name}_by_rises_real_count"] = sum(row.get("real", False) for row in members)
                sure = sum(row.get("real", False) or row.get("findings_real", False) for row in members)
                figures[f"{name}_real_count"] = sure
        if noise := [row for row in here if row["sort"] == "foreign noise"]:
            figures[f"foreign_noise_above_{limit:.0f}_comparisons"] = len(noise)
            figures[f"foreign_noise_above_{limit:.0f}_red"] = sum(
                bool(r["rises"] or r["findings"]) for r in noise
            )
    return figures


def examine_foreign(
    folders: Sequence[Path],
    photos: Path | None,
    out: Path,
    above: Sequence[float],
    noisy: Callable[[Path, Path], str],
    only: Sequence[str],
) -> list[dict[str, Any]]:
    """All rows; those of a world are kept under `out` and used again.

    Args:
        folders: that hold models, pictures and studies. only: names of new releases; NAME-noise for a model against
            itself with noise on the pictures of NAME; empty: every one with plants.
    """
    rows: list[dict[str, Any]] = []
    for given in folders:
        ready = sorted(file.parent.name for file in given.glob("studies/*/truth.json"))
        names = [name for name in ready if open_world(name, photos).plants and "-twin-" not in name]
        for name in [*names, *(f"{name}-noise" for name in names)]:
            if only and name not in only or not only and name.endswith("-noise"):
                continue
            file, world = out / "foreign" / f"{name}.rows.json", name.removesuffix("-noise")
            old = world.rsplit("-", 1)[0] + "-null"
            if not file.exists():
                made = (
                    unchanged(given, world, old, noisy, out, above)
                    if name != world
                    else with_old(given, world, old, photos, out, above)
                )
                file.write_text(json.dumps(made, default=float), encoding="utf-8")
                shutil.rmtree(out / "foreign" / world / "study" / "thumbnails", ignore_errors=True)
            rows += json.loads(file.read_text("utf-8"))
            print(name, len(rows), flush=True)
    return rows
