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
from clipattr.images.tables import HAM10000_CLASSES, Table, open_table
from clipattr.meaning.vocabulary import Vocabulary
from clipattr.reproduction.inputs import file_name
from clipattr.statistics import Interval, mean_interval
from clipattr.storage.files import json_digest
from clipattr.studies.start import build_study

if TYPE_CHECKING:
    from clipattr.reproduction.run import Run
    from clipattr.studies.study import Study

VOCABULARY = "dermatology"
BIASES = ("hair", "ink mark", "ruler")
MALIGNANT, BENIGN = "malignant", "benign"
PROMPTS = {MALIGNANT: "a malignant skin lesion", BENIGN: "a benign skin lesion"}
# How tables call the two classes, besides HAM10000's seven diagnoses.
CLASSES = HAM10000_CLASSES | {
    "malignant": MALIGNANT, "benign": BENIGN, "melanoma": MALIGNANT, "nevus": BENIGN, "1": MALIGNANT, "0": BENIGN,
    "basal cell carcinoma": MALIGNANT, "squamous cell carcinoma": MALIGNANT, "seborrheic keratosis": BENIGN,
}  # fmt: skip
ASIDE = "artefact"  # how groups of the vocabulary begin on which no diagnosis should rest
FEWEST = 20  # least pictures of a group that can be the worst: fewer have any accuracy by chance


def measured(run: Run, variant: str) -> dict[str, Any]:
    """All steps for one model; values as `lesions.py` reads them."""
    table = lesion_table(run.inputs.lesions or "")
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
        "how": "photographs",
        "curves": [],
        "reliance": reliance,
        "repairs": [repaired(study, probe, unwanted, pictures, truth, shown)],
        "pictures": len(study.images),
        "units": len(set(table.units)),
        "notes": list(table.notes),
    }


def lesion_table(folder: str) -> Table:
    """Step 1: pictures and classes, split so that no lesion or patient is on both sides."""
    return open_table(folder, labels=CLASSES)


def lesion_study(run: Run, variant: str, table: Table) -> Study:
    """Step 2: a dictionary on these pictures, its latents named with the words of dermatology."""
    inputs, sizes = run.inputs, run.sizes
    model, words = inputs.model(variant), Vocabulary.open(VOCABULARY)
    about = [
        model.weights_hash,
        inputs.judge.weights_hash,
        table.images.fingerprint,
        words.hash,
        sizes.to_dict(),
    ]
    settings = inputs.protocol.settings(
        n_latents=sizes.n_latents,
        k=sizes.k,
        examples=sizes.examples,
        evaluator=inputs.judge,
        vocabulary=words,
        training={**inputs.protocol.training, "epochs": sizes.epochs},
    )
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

    Groups are class × whether a bias is seen; the worst is the one with the lowest accuracy before.
    """
    fitted = fit_probe(study, folds=3, blind_to=directions_of(study, findings)) if findings else probe
    right = [(each.logits(pictures.embeddings).argmax(1) == truth).float() for each in (probe, fitted)]
    groups = {
        f"{name}, {bias if there else f'no {bias}'}": (truth == number) & ((each > 0.5) == there)
        for number, name in enumerate(probe.names)
        for bias, each in shown.items()
        for there in (True, False)
    }
    large = {name: mask for name, mask in groups.items() if int(mask.sum()) >= FEWEST}
    worst = min(large, key=lambda name: float(right[0][large[name]].mean())) if large else None
    mask = large[worst] if worst is not None else torch.ones(len(truth), dtype=torch.bool)
    return {
        "found": [finding.label for finding in findings],
        "worst_group": worst,
        "worst_before": float(right[0][mask].mean()),
        "worst_after": float(right[1][mask].mean()),
        "accuracy_before": float(right[0].mean()),
        "accuracy_after": float(right[1].mean()),
        "gain": vars(mean_interval(right[1][mask] - right[0][mask])),
    }
