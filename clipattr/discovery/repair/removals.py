"""Removals: the latents to remove and the prompts concerned, from findings or from the caller's lists.

Owns the check that findings and latents belong to the study. Ignores how they are removed (`repair.py`). Start at
`removals_of`.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clipattr.discovery.findings import Finding, Findings
from clipattr.errors import StudyError, TargetError

if TYPE_CHECKING:
    from clipattr.studies.study import Study


@dataclass(frozen=True)
class Removal:
    """One family to remove from one prompt's score (None: from all scores); `kind` is the finding's."""

    prompt: str | None
    latents: tuple[int, ...]
    label: str | None
    kind: str | None = None


def removals_of(
    study: Study, findings: Any, prompts: str | Sequence[str] | None, scope: str
) -> list[Removal]:
    """Removals for findings or latents, checked against the study."""
    if isinstance(findings, Findings):
        for part, here in (("model", study.manifest["model"]), ("dictionary", study.dictionary.hash)):
            there = findings.about.get(part, here)
            if _hash(there) != _hash(here):
                raise StudyError(
                    f"the findings are of the {part} {_told(there)}, the study is of {_told(here)}. Audit this study, "
                    "or open the one that was audited."
                )
    wanted = [prompts] if isinstance(prompts, str) else None if prompts is None else list(prompts)
    items = [findings] if isinstance(findings, Finding) else list(findings)
    if not items:
        raise TargetError(
            "there is nothing to repair: give findings of an audit, or latents with prompts=[...]."
        )
    findings = [item for item in items if isinstance(item, Finding)]
    if len(findings) == len(items):
        made = [
            Removal(f.prompt, tuple(f.latents), f.label, f.kind)
            for f in findings
            if wanted is None or f.prompt in wanted
        ]
        if not made:
            raise TargetError(f"none of the {len(items)} findings is about {wanted}.")
    elif findings:
        raise TargetError("both findings and latents were given. Repair one of them at a time.")
    else:
        try:
            latents = tuple(operator.index(item) for item in items)  # type: ignore[arg-type]
        except TypeError as error:
            raise TargetError(
                f"give findings of an audit, or numbers of latents; got {items[0]!r:.80}. A repair of prompts as such: "
                "repair(study, audit(study, prompts))."
            ) from error
        if wanted is None and scope == "prompts":
            raise TargetError(
                "latents were given without the prompts to repair. Give prompts=[...], or scope='model' for all "
                "prompts."
            )
        everywhere: list[str | None] = [None]
        made = [Removal(prompt, latents, None) for prompt in wanted or everywhere]
    count = study.dictionary.n_latents
    for removal in made:
        if not removal.latents or not all(0 <= latent < count for latent in removal.latents):
            raise StudyError(
                f"a finding names the latents {list(removal.latents)[:6]}; the dictionary of {study.path.name!r} has "
                f"{count}, from 0. Findings go with the study that they were found in."
            )
    return made


def _hash(value: Any) -> Any:
    return value.get("hash") if isinstance(value, dict) else value


def _told(value: Any) -> str:
    return f"{value['reference']} (weights {value['hash']})" if isinstance(value, dict) else str(value)
