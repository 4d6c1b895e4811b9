"""Pools the results of audits of worlds into figures, and keeps rounds of them. Start at `figures` and `add_round`."""

from __future__ import annotations

import datetime
import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import chi2

from clipattr.statistics import auc, wilson

BOUNDS = (25, 50, 150)  # pictures of a prompt with a cause, between which recall is given apart
ENOUGH = 4  # learnt plants of each kind that a family needs over its variants
Result = Mapping[str, Any]


def is_null(name: str) -> bool:
    """Whether a world has no plants."""
    return name.endswith("-null")


def groups_of(name: str) -> list[str]:
    """The pools that a world counts in: itself, its part of its family, its part over families, and all of its draw.

    >>> groups_of("photos2-first-a"), groups_of("photos-report-a")[-1]
    (['photos2-first-a', 'photos2-first', 'first', 'draw2'], 'report')
    """
    family, part = name.split("-")[:2]
    draw = family.lstrip("abcdefghijklmnopqrstuvwxyz")
    own = [] if "twin" in name else [f"{family}-{part}", part, *([f"draw{draw}"] if draw else [])]
    return [name, *own]


def figures(results: Sequence[Result]) -> dict[str, float]:
    """Figures per pool and form, as POOL.FORM.FIGURE, with 95 % Wilson bounds of recall and precision."""
    pooled: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
    nulls: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
    kept: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    added: dict[str, int] = defaultdict(int)
    for result in results:
        for form, told in result["forms"].items():
            for group in groups_of(result["world"]):
                (nulls if is_null(result["world"]) else pooled)[group, form].append(told)
        kept_of(result, kept)
        if {"plain", "names"} <= set(result["forms"]):
            for group in groups_of(result["world"]):
                added[group] += added_by_names(result)
    found: dict[str, float] = {}
    for (group, form), many in pooled.items():
        found |= {f"{group}.{form}.{name}": value for name, value in _planted(many).items()}
    for (group, form), many in nulls.items():
        found |= {f"{group}.{form}.{name}": value for name, value in _null(many).items()}
    found |= _twins(results)
    found |= {f"{group}.added_by_names": n for group, n in added.items()}
    found |= {f"{group}.labels_hidden_kept": kept_ / n for group, (kept_, n) in kept.items() if n}
    return found


def added_by_names(result: Result) -> int:
    """Findings that only a vocabulary with more names for every word brings: another prompt, or other latents."""
    forms = result["forms"]
    before: dict[str, list[set[int]]] = defaultdict(list)
    for row in forms["plain"]["findings"]:
        before[row["prompt"]].append(set(row["latents"]))
    return sum(
        not any(2 * len(old & set(row["latents"])) >= len(row["latents"]) for old in before[row["prompt"]])
        for row in forms["names"]["findings"]
    )


def _twins(results: Sequence[Result]) -> dict[str, float]:
    """How many learnt differences between twins the audit finds, and how many of them also in the world without."""
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    for result in results:
        for form, told in result["forms"].items():
            if "-twin-" in result["world"]:
                counts[form][0] += len(told["plants"])
                counts[form][1] += sum(plant["found"] for plant in told["plants"])
            counts[form][2] += sum(twin["found_here"] for twin in told.get("twins", []))
    names = ("learnt", "found", "found_in_null")
    return {
        f"twins.{form}.{name}": value
        for form, three in counts.items()
        if three[0]
        for name, value in zip(names, three, strict=True)
    }


def kept_of(result: Result, kept: dict[str, list[int]]) -> None:
    """Count plants found with labels, and how many of them are found without."""
    forms = result["forms"]
    if {"plain", "labels"} <= set(forms):
        pairs = zip(forms["labels"]["plants"], forms["plain"]["plants"], strict=True)
        both = [without["found"] for having, without in pairs if having["found"]]
        for group in groups_of(result["world"]):
            kept[group][0] += sum(both)
            kept[group][1] += len(both)


def _share(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")


def _planted(many: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    plants = [p for told in many for p in told["plants"]]
    rows = [r for told in many for r in told["findings"]]
    hits, right = [p for p in plants if p["found"]], [r for r in rows if r["right"]]
    told = {
        "learnt": len(plants),
        "findings": len(rows),
        "recall": _share(len(hits), len(plants)),
        "recall_by_name": _share(sum(p["named"] for p in hits), len(plants)),
        "precision": _share(len(right), len(rows)),
        "precision_by_name": _share(sum(r["named"] for r in rows), len(rows)),
        "kind_accuracy": _share(sum(p["kind_right"] for p in hits), len(hits)),
        "false_per_100": 100 * (len(rows) - len(right)) / max(1, sum(t["prompts"] for t in many)),
        "seconds": sum(t["seconds"] for t in many),
    }
    if all("halved" in p for p in plants):
        told["recall_without_chance_test"] = _share(sum(p["halved"] for p in plants), len(plants))
    told["recall_low"], told["recall_high"] = wilson(len(hits), len(plants))
    told["precision_low"], told["precision_high"] = wilson(len(right), len(rows))
    told |= _calibration(rows)
    for kind in sorted({p["kind"] for p in plants}):
        mine = [p["found"] for p in plants if p["kind"] == kind]
        low, high = wilson(sum(mine), len(mine))
        told |= {
            f"learnt_{kind}": len(mine),
            f"recall_{kind}": sum(mine) / len(mine),
            f"recall_{kind}_low": low,
            f"recall_{kind}_high": high,
        }
    for low, high in zip((0, *BOUNDS), (*BOUNDS, math.inf), strict=True):
        if mine := [p["found"] for p in plants if low <= p["pictures"] < high]:
            told[f"learnt_from_{low}_pictures"] = len(mine)
            told[f"recall_from_{low}_pictures"] = _share(sum(mine), len(mine))
    ways: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    beside = sum(len(one["plants"]) for one in many if "simpler" in one)
    for one in many:
        for name, times in one.get("simpler", {}).items():
            for multiple, counts in times.items():
                for place, count in enumerate(counts):
                    ways[f"{name}_x{multiple}"][place] += count
    for name, (hit, good, made) in ways.items():
        told |= {f"recall_of_{name}": _share(hit, beside), f"precision_of_{name}": _share(good, made)}
    laws = [one["laws"] for one in many if "laws" in one]
    if laws:
        told["law_alone"] = _share(sum(x["alone"][0] for x in laws), sum(x["alone"][1] for x in laws))
        told["law_order"] = _share(sum(x["order"] for x in laws), len(laws))
    return {name: value for name, value in told.items() if value == value}


def _calibration(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Brier score of the confidence, that of a constant at these findings' own rate, and area under the ROC curve."""
    if not rows:
        return {}
    said = np.array([r["confidence"] for r in rows], dtype=float)
    right = np.array([r["right"] for r in rows], dtype=bool)
    rate = float(right.mean())
    told = {"brier": float(((said - right) ** 2).mean()), "brier_of_base_rate": rate * (1 - rate)}
    if 0 < right.sum() < len(right):
        told["confidence_auc"] = float(auc(said, right))
    return told


def _null(many: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Findings that redrawing does not confirm, per 100 prompts, with the 95 % upper bound of a Poisson count."""
    prompts = sum(told["prompts"] for told in many)
    rows = [r for told in many for r in told["findings"]]
    wrong = sum(not r["right"] for r in rows)
    return {
        "null_prompts": prompts,
        "null_findings": len(rows),
        "null_per_100": 100 * wrong / prompts,
        "null_per_100_high": 100 * float(chi2.ppf(0.975, 2 * wrong + 2)) / 2 / prompts,
    }


def too_few(truths: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """What is short of `ENOUGH` learnt plants of a kind, over the variants of a part of a family."""
    learnt: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for name, rows in truths.items():
        if rows and "twin" not in name:
            for row in rows:
                learnt["-".join(name.split("-")[:2])][row["kind"]] += bool(row["learnt"])
    return [
        f"{part}: {count} learnt of {kind}"
        for part, kinds in sorted(learnt.items())
        for kind, count in sorted(kinds.items())
        if count < ENOUGH
    ]


def add_round(
    file: Path, title: str, results: Sequence[Result], about: Mapping[str, Any]
) -> dict[str, float]:
    """Append a round to the results file; rounds that are there stay as they are.

    Args:
        file: of results.
        title: what was audited with.
        results: of `audit_world`.
        about: machine, versions and commit.

    Returns:
        the round's figures.
    """
    before = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    measured = figures(results)
    rows = [
        {"world": result["world"], "form": form, **plant}
        for result in results
        for form, told in result["forms"].items()
        for plant in told["plants"]
    ]
    seen = [
        {"world": result["world"], "form": form, **{k: v for k, v in row.items() if k != "latents"}}
        for result in results
        for form, told in result["forms"].items()
        for row in told["findings"]
    ]
    when = datetime.datetime.now(datetime.UTC).date().isoformat()
    short = too_few({result["world"]: result["truth"] for result in results})
    new = {
        "title": title,
        "date": when,
        **about,
        "short": short,
        "figures": measured,
        "rows": rows,
        "findings": seen,
    }
    content = {**about, "figures": measured, "rows": rows, "rounds": [*before.get("rounds", []), new]}
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=1, default=float) + "\n", encoding="utf-8")
    partial.replace(file)
    return measured
