"""Baselines: simple rules that the experiments are compared with, on the same pictures.

Owns rules that cost little beside an experiment. Simpler ways to name causes are in `experiments/checks.py`, untrained
dictionaries in `dictionaries/controls.py`. Start at `class_means`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from clipattr.discovery.findings import Findings
from clipattr.discovery.probes.probe import Probe
from clipattr.studies.study import Study

ALPHA = 0.05  # p-value of a test without correction


def class_means(embeddings: Tensor, labels: Sequence[str]) -> Probe:
    """Nearest class mean as a classifier: the simplest one that is trained on image embeddings.

    Args:
        embeddings: (pictures, embed), unit length. labels: class of each picture.

    >>> probe = class_means(torch.eye(2), ["left", "up"])
    >>> probe.predict(torch.tensor([[0.8, 0.6]]))
    ['left']
    """
    names, numbers = np.unique(np.asarray(labels), return_inverse=True)
    means = torch.stack(
        [embeddings[torch.from_numpy(numbers == place)].mean(0) for place in range(len(names))]
    )
    return Probe(tuple(map(str, names)), F.normalize(means.float(), dim=1), torch.zeros(len(names)))


def untested(study: Study, prompts: Sequence[str]) -> list[float]:
    """1 for each prompt on whose pictures some latent fires more often than elsewhere, at p ≤ 0.05 without correction.

    What a ranking of latents without control of false discoveries would report. Prompts without labelled pictures are
    left out.
    """
    from scipy.stats import hypergeom

    labels = np.array(study.images.columns["label"], dtype=object)
    fires = (study.codes.to_scipy() > 0).astype(np.float64)
    total, n = np.asarray(fires.sum(0)).ravel(), len(labels)
    flags = []
    for prompt in prompts:
        own = labels == prompt
        if own.any() and not own.all():
            there = np.asarray(fires[np.flatnonzero(own)].sum(0)).ravel()
            flags.append(float((hypergeom.sf(there - 1, n, total, own.sum()) <= ALPHA).any()))
    return flags


def by_chance(value: Mapping[str, Any]) -> float:
    """Share of the judged prompts with any finding: at most so often is a finding met again by chance, whatever its
    cause.

    >>> by_chance({"judged": 4, "findings": [{"prompt": "kite"}, {"prompt": "kite"}]})
    0.25
    """
    return len({item["prompt"] for item in value["findings"]}) / max(int(value["judged"]), 1)


def chance_directions(embeddings: Tensor, n: int, seed: int) -> Tensor:
    """(embed, n) differences of randomly paired pictures: directions as common as any in these embeddings."""
    order = torch.randperm(len(embeddings), generator=torch.Generator().manual_seed(seed))
    places = torch.arange(2 * n) % len(order)
    chosen = embeddings[order[places]].float()
    return F.normalize(chosen[0::2] - chosen[1::2], dim=1).T


def exchanged(findings: Findings, prompts: Sequence[str], n: int) -> Findings:
    """At most n findings, each with the family of one prompt and the text of another that has no finding with it."""
    families = {(finding.prompt, finding.latents) for finding in findings}
    made = []
    for finding in list(findings)[:n]:
        place = prompts.index(finding.prompt) if finding.prompt in prompts else 0
        others = [*prompts[place + 1 :], *prompts[:place]]
        other = next((each for each in others if (each, finding.latents) not in families), None)
        if other is not None:
            made.append(replace(finding, prompt=other))
    return Findings(made, findings.study, findings.about, [])
