"""Lesion study on photographs: a folder of skin lesions with a table, as the ISIC archive and HAM10000 come.

Owns the steps, one function each: table, study, classifiers, biases, repair. The three biases are those that are
published for such classifiers: hair, ink and ruler. Ignores synthetic lesions (`lesions.py`). Start at `measured`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from clipattr.discovery.encoded import Encoded, encoded
from clipattr.discovery.findings import Finding
from clipattr.discovery.probes.audit import audit_probe
from clipattr.discovery.probes.fitting import fit_probe
from clipattr.discovery.probes.matching import comparison
from clipattr.discovery.probes.null_space import directions_of
from clipattr.discovery.probes.presence import candidate_words, shown_words
from clipattr.discovery.probes.probe import Probe
from clipattr.images.tables import Table
from clipattr.meaning.vocabulary import Vocabulary
from clipattr.reproduction.baselines import chance_directions
from clipattr.reproduction.classes import BENIGN, MALIGNANT
from clipattr.reproduction.inputs import file_name
from clipattr.statistics import Interval, paired_rate_difference, share_interval
from clipattr.storage.files import json_digest
from clipattr.studies.start import build_study

if TYPE_CHECKING:
    from clipattr.reproduction.run import Run
    from clipattr.studies.study import Study

PHOTOGRAPHS = "photographs"  # marks values of this module, in contrast to those of synthetic lesions
VOCABULARY = "dermatology"
BIASES = ("hair", "ink mark", "ruler")
PROMPTS = {MALIGNANT: "a malignant skin lesion", BENIGN: "a benign skin lesion"}
ASIDE = "artefact"  # how groups of the vocabulary begin on which no diagnosis should rest
FEWEST = 20  # least pictures of a group with an accuracy of its own: fewer have any accuracy by chance


def measured(run: Run, variant: str) -> dict[str, Any]:
    """All steps for one model; values as `lesions.py` reads them."""
    table = run.inputs.lesions
    assert isinstance(table, Table)
    study = lesion_study(run, variant, table)
    probe = fit_probe(study, folds=3)
    prompts = Probe.of_prompts(study.model, {name: PROMPTS[name] for name in probe.names})
    pictures = encoded(study)
    place = {name: number for number, name in enumerate(probe.names)}
    truth = torch.tensor([place[str(label)] for label in pictures.images.columns["label"]])
    shown = {bias: presence(study, pictures, bias) for bias in BIASES}
    reliance = {
        bias: {
            name: vars(relied(study, pictures, truth, each, bias, place[MALIGNANT]))
            for name, each in (("probe", probe), ("prompts", prompts))
        }
        for bias in BIASES
    }
    findings = audit_probe(study, probe=probe).findings()
    unwanted = [f for f in findings if str(f.evidence["group"] or "").startswith(ASIDE)]
    return {
        "how": PHOTOGRAPHS,
        "curves": [],
        "reliance": reliance,
        "repairs": [repaired(study, probe, unwanted, pictures, truth, shown)],
        "strata": strata(pictures, truth, {"probe": probe, "prompts": prompts}),
        "pictures": len(study.images),
        "units": len(set(table.units)),
        "notes": list(table.notes),
    }


def lesion_study(run: Run, variant: str, table: Table) -> Study:
    """Step 2, after the table: a dictionary on these pictures, its latents named with the words of dermatology."""
    inputs, sizes = run.inputs, run.sizes
    model, words = inputs.model(variant), Vocabulary.open(VOCABULARY)
    about = [
        model.weights_hash,
        inputs.judge.weights_hash,
        table.images.fingerprint,
        words.hash,
        sizes.to_dict(),
    ]
    settings = inputs.settings(words)
    path = inputs.folder / f"{file_name(variant)}-lesions-{json_digest(about, digits=8)}.study"
    return build_study(
        model, table.images, path=path, engine=inputs.engine, progress=inputs.progress, **settings
    )


def presence(study: Study, pictures: Encoded, bias: str) -> Tensor:
    """(pictures,) probability that each shows a bias, by the evaluator."""
    return shown_words(study, pictures.seen(study), [study.vocabulary.words.index(bias)])[:, 0]


def relied(
    study: Study, pictures: Encoded, truth: Tensor, classifier: Probe, bias: str, number: int
) -> Interval:
    """Step 3: how far a bias moves a classifier's decision for class `number`, in class gaps.

    Pictures of one class with and without the bias are compared, other words held equal; 1 is the difference in margin
    between the classes. NaN for a classifier that does not separate them.
    """
    weights, constants = classifier.margins()
    margin = (pictures.embeddings @ weights + constants)[:, number]
    gap = float(margin[truth == number].mean() - margin[truth != number].mean())
    if gap <= 0:
        return Interval(math.nan, math.nan, math.nan)
    words = candidate_words(study, classifier.names)
    found = comparison(
        margin, truth, presence(study, pictures, bias), shown_words(study, pictures.seen(study), words)
    )
    return Interval(found.value / gap, found.low / gap, found.high / gap)


def repaired(
    study: Study,
    probe: Probe,
    findings: list[Finding],
    pictures: Encoded,
    truth: Tensor,
    shown: dict[str, Tensor],
) -> dict[str, Any]:
    """Step 4: the probe fitted again, blind to the artefacts that the audit found, on held-out pictures.

    Groups are class × whether a bias is seen. The worst group, with the lowest accuracy before the repair, is chosen on
    a random half of the pictures and judged on the other, and the reverse, so that the choice does not favour the
    repair.
    """
    fitted = control = probe
    if findings:
        fitted = fit_probe(study, folds=3, blind_to=directions_of(study, findings))
        random = chance_directions(encoded(study, rows=study.rows).embeddings, len(findings), 0)
        control = fit_probe(study, folds=3, blind_to=random)
    right = [
        (each.logits(pictures.embeddings).argmax(1) == truth).float() for each in (probe, fitted, control)
    ]
    groups = {
        f"{name}, {bias if there else f'no {bias}'}": (truth == number) & ((each > 0.5) == there)
        for number, name in enumerate(probe.names)
        for bias, each in shown.items()
        for there in (True, False)
    }
    half = torch.randperm(len(truth), generator=torch.Generator().manual_seed(0)) < len(truth) // 2
    worst, judged = [], []
    for choosing in (half, ~half):
        name, mask = _worst(right[0], groups, choosing)
        worst.append(name)
        judged.append(torch.nonzero(mask)[:, 0])
    rows = torch.cat(judged)
    return {
        "found": [finding.label for finding in findings],
        "worst_group": "; ".join(dict.fromkeys(worst)),
        "worst_before": float(right[0][rows].mean()),
        "worst_after": float(right[1][rows].mean()),
        "worst_random": float(right[2][rows].mean()),
        "accuracy_before": float(right[0].mean()),
        "accuracy_after": float(right[1].mean()),
        "gain": vars(paired_rate_difference(right[1][rows] - right[0][rows])),
        "gain_random": vars(paired_rate_difference(right[2][rows] - right[0][rows])),
    }


def _worst(right: Tensor, groups: dict[str, Tensor], choosing: Tensor) -> tuple[str, Tensor]:
    """The group with the lowest accuracy among `choosing`, and its other pictures; all of them if no group is large."""
    large = {
        name: mask
        for name, mask in groups.items()
        if min(int((mask & choosing).sum()), int((mask & ~choosing).sum())) >= FEWEST // 2
    }
    if not large:
        return "all", ~choosing
    name = min(large, key=lambda name: float(right[large[name] & choosing].mean()))
    return name, large[name] & ~choosing


def strata(pictures: Encoded, truth: Tensor, classifiers: dict[str, Probe]) -> list[dict[str, Any]]:
    """Accuracy of each classifier in each group of the table, e.g. institutions, on held-out pictures.

    One row per classifier and group of at least 20 pictures: method, group, pictures, and accuracy with its Wilson
    interval; empty where the table has no groups.
    """
    groups = pictures.images.columns["group"]
    rows = []
    for name, classifier in classifiers.items():
        right = classifier.logits(pictures.embeddings).argmax(1) == truth
        for group in sorted({each for each in groups if each}):
            mask = torch.tensor([each == group for each in groups])
            hits, n = int(right[mask].sum()), int(mask.sum())
            if n >= FEWEST:
                share = share_interval(hits, n)
                rows.append({"method": name, "group": group, "pictures": n, "accuracy": share.value,
                             "low": share.low, "high": share.high})  # fmt: skip
    return rows
