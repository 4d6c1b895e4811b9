"""Strata: a finding's effect and rate by institution, device or group of patients.

Owns the comparison of strata on the pictures that an audit measures on. Ignores how findings are made (`audit/run.py`);
for probes, `audit_probe(groups=...)` gives accuracy by group. Start at `by_stratum`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from clipattr.attribution import ClosedFormTail
from clipattr.discovery.audit.base import halves
from clipattr.discovery.encoded import encoded, summed_codes
from clipattr.discovery.findings import Finding, Findings
from clipattr.errors import DataError, StudyError
from clipattr.statistics import Interval, difference_interval, share_interval, simultaneous, t_interval

if TYPE_CHECKING:
    import pandas as pd

    from clipattr.studies.study import Study

MOST = 128  # pictures measured per finding and stratum; more would not narrow an interval by much
FEWEST = 5  # least pictures of a stratum that is reported
BACKGROUND = 4096  # words whose mean similarity is subtracted, at most


def by_stratum(
    study: Study, findings: Findings | Iterable[Finding], strata: Sequence[str | None] | None = None
) -> pd.DataFrame:
    """One row per finding and stratum, in raw cosine of the prompt's contrast.

    Args:
        study: of the findings; the half of its pictures that audits measure on is used.
        findings: of `audit`, all, some or one.
        strata: name of the stratum of each picture of the study, None to leave it out, e.g. a column of `open_table`;
            default the pictures' groups.

    Returns:
        prompt, label, stratum; pictures: measured in the stratum; active, active_low, active_high: fraction of them on
        which the family is active (Wilson); effect, low, high: mean fall of the contrast when the family is ablated on
        those (Student's t); difference with bounds: effect minus that in all other strata (Welch), whose intervals hold
        for all strata of a finding together. NaN with fewer than two pictures.

    Raises:
        DataError: no strata, or fewer than two with enough pictures. StudyError: findings of latents that this study
            does not have.

    >>> import clipattr as ca
    >>> study = ca.open_study("picture-world")
    >>> findings = ca.audit(study, ["rabbit"], budget=0, progress=False)
    >>> sides = ["left" if n % 2 else "right" for n in range(len(study.images))]
    >>> sorted(set(by_stratum(study, findings, sides)["stratum"]))
    ['left', 'right']
    """
    import pandas as pd

    rows = [
        {"prompt": finding.prompt, "label": finding.label, **row}
        for finding, each in _measured(study, list(findings), strata)
        for row in each
    ]
    flat = []
    for row in rows:
        spans = {name: row.pop(name) for name in ("active", "effect", "difference")}
        for name, span in spans.items():
            prefix = "" if name == "effect" else f"{name}_"
            row |= {name: span.value, f"{prefix}low": span.low, f"{prefix}high": span.high}
        flat.append(row)
    columns = [
        "prompt",
        "label",
        "stratum",
        "pictures",
        "active",
        "active_low",
        "active_high",
        "effect",
        "low",
        "high",
    ]
    columns += ["difference", "difference_low", "difference_high"]
    return pd.DataFrame(flat, columns=columns).replace([np.inf, -np.inf], np.nan)


def with_strata(findings: Findings, strata: Sequence[str | None] | None = None) -> Findings:
    """The findings with their strata as `evidence["strata"]`, which reports and JSON show; see `by_stratum`.

    Args:
        findings: of an audit, with its study.
        strata: as for `by_stratum`.

    Returns:
        The same findings with `evidence["strata"]`.

    Raises:
        StudyError: the findings have no study. DataError: as `by_stratum`.

    >>> import clipattr as ca
    >>> study = ca.open_study("picture-world")
    >>> from clipattr.statistics import Interval
    >>> effect = Interval(0.06, 0.04, 0.08)
    >>> finding = ca.Finding("rose", (3,), "tulip", "companion", 0.8, effect, effect, 0.3, 0.1, 0.6, 0.9)
    >>> sites = ["north" if row % 2 else "south" for row in range(len(study.images))]
    >>> told = ca.with_strata(ca.Findings([finding], study, {}), sites)
    >>> sorted(row["stratum"] for row in told[0].evidence["strata"])
    ['north', 'south']
    """
    if findings.study is None:
        raise StudyError(
            "Strata are measured on a study's pictures, and these findings were read without their study. Read them "
            "with Findings.from_json(file, study)."
        )
    told = []
    for finding, rows in _measured(findings.study, list(findings), strata):
        evidence = [
            {
                "stratum": str(row["stratum"]),
                "pictures": row["pictures"],
                "active_share": round(row["active"].value, 4),
                "effect": _finite(row["effect"]),
            }
            for row in rows
        ]
        told.append(replace(finding, evidence={**finding.evidence, "strata": evidence}))
    return Findings(told, findings.study, findings.about, findings.verdicts)


def _finite(span: Interval) -> dict[str, float | None]:
    return {name: number if np.isfinite(number) else None for name, number in asdict(span).items()}


def _measured(
    study: Study, findings: list[Finding], strata: Sequence[str | None] | None
) -> list[tuple[Finding, list[dict[str, Any]]]]:
    names, rows = _strata(study, strata)
    pictures = encoded(study, rows=rows)
    here = np.array([names[row] or "" for row in np.asarray(pictures.rows)])
    known = [name for name in sorted(set(here) - {""}) if (here == name).sum() >= FEWEST]
    if len(known) < 2:
        raise DataError(
            f"Strata are compared, so two with {FEWEST} measured pictures each are needed; there are {len(known)}."
        )
    count = study.dictionary.n_latents
    if any(not 0 <= latent < count for finding in findings for latent in finding.latents):
        raise StudyError(
            f"These findings name latents that the study lacks; it has {count}, from 0. Use the study that was audited."
        )
    prompts = list(dict.fromkeys(finding.prompt for finding in findings))
    if not prompts:
        return []
    tail = ClosedFormTail(study.model, study.dictionary, _contrasts(study, prompts), site=study.site)
    told = []
    for finding in findings:
        active = summed_codes(pictures.codes, list(finding.latents)) > 0
        effects: dict[str, Tensor] = {}
        for name in known:
            inside = active.numpy() & (here == name)
            some = torch.from_numpy(np.flatnonzero(inside)[:MOST])
            falls = torch.zeros(0)
            if len(some):
                found = tail.exact_group(pictures.acts[some], pictures.codes.rows(some), [finding.latents])
                falls = found[:, 0, prompts.index(finding.prompt)].float().cpu()
            effects[name] = falls
        told.append((finding, [_row(name, known, here, active, effects) for name in known]))
    return told


def _row(
    name: str, known: list[str], here: np.ndarray, active: Tensor, effects: dict[str, Tensor]
) -> dict[str, Any]:
    inside = here == name
    hits, n = int((active.numpy() & inside).sum()), int(inside.sum())
    others = torch.cat([effects[other] for other in known if other != name])
    return {
        "stratum": name,
        "pictures": n,
        "active": share_interval(hits, n),
        "effect": t_interval(effects[name]) if len(effects[name]) else Interval(*(float("nan"),) * 3),
        "difference": simultaneous(difference_interval(effects[name], others), len(known)),
    }


def _strata(study: Study, strata: Sequence[str | None] | None) -> tuple[list[str | None], np.ndarray]:
    """Stratum of every picture of the study, and the rows that are measured."""
    given = study.images.columns["group"] if strata is None else list(strata)
    if len(given) != len(study.images):
        raise DataError(
            f"{len(study.images)} pictures need as many strata; got {len(given)}. Give one per picture, or None for it."
        )
    if not any(given):
        raise DataError(
            "No picture has a group. Give strata=..., one name per picture, or open the pictures with a column group."
        )
    return [None if name is None else str(name) for name in given], halves(study)[1]


def _contrasts(study: Study, prompts: list[str]) -> Tensor:
    """(embed, prompts): each prompt's text minus the mean over the vocabulary."""
    templates = tuple(study.manifest.get("plan", {}).get("meaning", {}).get("templates") or ("{}",))
    words = study.vocabulary.prompts
    words = words[:: -(-len(words) // BACKGROUND)]
    text = study.model.encode_text(prompts, templates=templates).float().cpu()
    mean = torch.cat(
        [
            study.model.encode_text(words[start : start + 512], templates=templates).float().cpu()
            for start in range(0, len(words), 512)
        ]
    ).mean(0)
    return (text - mean).T
