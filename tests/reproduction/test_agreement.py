"""A reproduction's figures agree with those of the benchmarks, which come to them by other code."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

import clipattr as ca
from clipattr.attribution import Faithfulness
from clipattr.attribution.faithfulness import faithfulness
from clipattr.reproduction.experiments.checks import RENDERED, TRUTH, simpler
from clipattr.reproduction.experiments.faithful import FAITHFULNESS, METHODS, chosen

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


def test_recall_precision_and_kinds_are_those_of_the_audits_benchmark():
    from clipattr_data.build import NULL
    from clipattr_data.truth import learnt_plants
    from clipattr_data.world import World

    stored = json.loads((RESULTS / "planted.json").read_text("utf-8"))
    values = {}
    for name in ("picture-world-a", "picture-world-b", "picture-world-c"):
        rows = [row for row in stored["rows"] if row["world"] == name]
        first = {(row["prompt"], row["cause"]): row["kind"] for row in reversed(rows) if row["planted"]}
        planted = [
            {"prompt": plant.prompt, "cause": plant.cause, "kind": plant.kind, "found_as": kind,
             "right_kind": None if kind is None else kind == plant.kind}
            for plant in learnt_plants(World.open(name))
            for kind in (first.get((plant.prompt, plant.cause)),)
        ]  # fmt: skip
        values[name] = {"planted": planted, "said": rows, "how": RENDERED, "simpler": {}}
    assert name != NULL
    found, figures = TRUTH.conclude(values).figures, stored["figures"]
    for measure in ("recall", "precision", "kind_accuracy"):
        assert found[measure].value == pytest.approx(figures[measure], abs=5e-4)


def test_areas_and_intervals_are_those_of_the_attribution_benchmark(finished, study):
    stored = json.loads((finished.folder / "experiments" / "faithfulness.json").read_text("utf-8"))
    rows, names = chosen(study, ["circle", "square"], 6, 2)
    pictures = study.images.select(rows)
    labels = pictures.columns["label"]
    report = faithfulness(
        study, pictures, ca.Similarity(names, templates=("{}",)), methods=METHODS, classes=labels, masks=4
    )
    own = torch.tensor([names.index(label) for label in labels])
    # The benchmark's table is over pictures and targets; here each picture has one target, its class.
    scores = {key: each[torch.arange(len(each)), own][:, None] for key, each in report.scores.items()}
    table = Faithfulness(scores, report.methods, report.unit).table
    compared = 0
    for row in table.to_dict("records"):
        (mine,) = [
            each
            for each in stored["rows"]
            if (each["measure"], each["method"], each["class"]) == (row["measure"], row["method"], "all")
        ]
        for bound in ("mean", "low", "high"):
            assert mine[bound] is None or mine[bound] == pytest.approx(row[bound], abs=1e-6)
        compared += 1
    assert compared >= 4 * len(METHODS) and FAITHFULNESS.name == "faithfulness"


def test_counts_by_kind_are_those_of_an_audit_of_the_same_study(finished, study):
    stored = json.loads((finished.folder / "experiments" / "counts.json").read_text("utf-8"))
    found = ca.audit(study, ["circle", "square"], budget=0, progress=False)
    (value,) = stored["values"].values()
    assert Counter(item["kind"] for item in value["findings"]) == Counter(f.kind for f in found)
    assert [(v["prompt"], v["outcome"]) for v in value["verdicts"]] == [
        (v.prompt, v.outcome) for v in found.verdicts
    ]


def test_simpler_ways_name_the_word_that_goes_with_a_prompt(study):
    # Word 0 is seen on all pictures of circles and no other, so it must be the evaluator's first suspect.
    import copy

    other = copy.copy(study)
    own = np.array(study.images.columns["label"]) == "circle"
    width = study.vocabulary_embeddings.shape[1]
    words = torch.eye(width)[: len(study.vocabulary.words)]
    seen = np.where(own[:, None], words[2].numpy(), words[3].numpy())
    other.__dict__ = dict(study.__dict__) | {"evaluator_embeddings": seen, "vocabulary_embeddings": words}
    cause, rest = study.vocabulary.words[2], study.vocabulary.words[4]
    truth = [{"prompt": "circle", "cause": cause}, {"prompt": "circle", "cause": rest}]
    assert simpler(other, ["circle"], truth[:1], 1)["evaluator alone"] == [True]
    assert simpler(other, ["circle"], truth[1:], 1)["evaluator alone"] == [False]
