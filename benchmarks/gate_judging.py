"""The gate's answers on fine-tunings that `gate_trainings.py` made and audited, from JSON as a release would read it.

A release without a change that fails is a false alarm, whatever its reason; a release whose plant is new (learnt, and
the base had not half of its effect) should fail. Start at `judged`; `trained_figures` pools its rows.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from world_kit.judging import names_cause
from world_kit.studying import family_of

from clipattr.discovery.findings import Findings
from clipattr.discovery.gate import FAILED, gate
from clipattr.discovery.rises import OWN_NAME
from clipattr.statistics import wilson

WAYS = {"": "", "previous": "_with_previous"}


def judged(out: Path, audits: str, above: Sequence[float], bases: Sequence[str] = ()) -> list[dict[str, Any]]:
    """One row a release, limit and way: with the audit of the base as baseline, and with its study as well.

    Args:
        out: of `gate_trainings.py`. audits: folder of the releases' audits. above: limits in points. bases: only these.
    """
    rows = []
    for file in sorted((out / audits).glob("*.json")):
        told = json.loads((out / "releases" / file.stem / "release.json").read_text("utf-8"))
        if bases and told["base"] not in bases:
            continue
        now, then = Findings.from_json(file), Findings.from_json(out / "audits" / f"{told['base']}.json")
        kept = json.loads(file.with_suffix(".previous").read_text("utf-8"))
        for limit in above:
            for way, decided in (("", gate(now, limit, then).to_dict()), ("previous", kept[str(limit)])):
                rows.append(row_of(told, decided, audits) | {"above": limit, "way": way})
    return rows


def row_of(told: dict[str, Any], decided: dict[str, Any], audits: str) -> dict[str, Any]:
    """A row of one decision. `own`: the plant's prompt fails; `named`: by its cause."""
    rises = [[one["prompt"], one["label"]] for one in decided["newly_rests_on"]]
    found = [
        [one["prompt"], one["label"] or ""] for one in decided["findings_above"] if one["outcome"] != "known"
    ]
    plant = next(iter(told["plants"]), None)
    row = {
        "sort": "trained", "release": told["name"], "base": told["base"], "audits": audits, "source": told["source"],
        "kind": plant and plant["kind"], "red": decided["outcome"] == FAILED, "rises": rises, "findings": found,
        "unjudged": len(decided["cannot_be_judged"]),
    }  # fmt: skip
    if plant:
        cause = (
            f"the word {plant['cause']}"
            if plant["kind"] == "typography"
            else plant["cause"].replace("_", " ")
        )
        own = [word for prompt, word in [*rises, *found] if prompt == plant["prompt"]]
        told_by_name = any(
            names_cause(word, cause) or word == OWN_NAME and plant["kind"] == "typography" for word in own
        )
        row |= {"prompt": plant["prompt"], "cause": plant["cause"], "form": plant["form"], "rate": plant["rate"],
                "effect": told["effect"], "effect_before": told["effect_before"], "learnt": told["learnt"],
                "new": told["new"], "own": bool(own), "named": told_by_name}  # fmt: skip
    return row


def trained_figures(rows: Sequence[dict[str, Any]], above: Sequence[float]) -> dict[str, float]:
    """Shares of red releases without a change and with a new plant, with Wilson bounds, by kind and family."""
    figures: dict[str, float] = {}

    def add(name: str, hits: Sequence[bool]) -> None:
        figures[f"{name}_releases"], figures[f"{name}_red"] = len(hits), sum(hits) / len(hits)
        figures[f"{name}_red_low"], figures[f"{name}_red_high"] = wilson(sum(hits), len(hits))

    for limit in above:
        for way, ending in WAYS.items():
            here = [row for row in rows if row["above"] == limit and row["way"] == way]
            groups = {
                "unchanged": [row for row in here if row["kind"] is None],
                "new": [row for row in here if row["kind"] is not None and row["new"]],
                "not_new": [row for row in here if row["kind"] is not None and not row["new"]],
            }
            for group in ("unchanged", "new"):
                for row in groups[group]:
                    groups.setdefault(f"{group}_{family_of(row['base'])}", []).append(row)
            for row in groups["new"]:
                groups.setdefault(f"new_{row['kind']}", []).append(row)
            for row in groups["unchanged"]:
                more = "unchanged_more_pictures" if row["source"] else "unchanged_alike"
                groups.setdefault(more, []).append(row)
            for group, some in groups.items():
                if not some:
                    continue
                name = f"trained_{group}_above_{limit:.0f}{ending}"
                add(name, [row["red"] for row in some])
                figures[f"{name}_by_rises"] = sum(bool(row["rises"]) for row in some) / len(some)
                figures[f"{name}_by_findings"] = sum(bool(row["findings"]) for row in some) / len(some)
                if group.startswith("new"):
                    figures[f"{name}_own"] = sum(row["own"] for row in some) / len(some)
                    figures[f"{name}_named"] = sum(row["named"] for row in some) / len(some)
    return figures
