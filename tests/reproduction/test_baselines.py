"""The rules that a reproduction's experiments are compared with."""

import numpy as np
import pytest
import torch
from scipy.stats import fisher_exact

import clipattr as ca
from clipattr.reproduction.baselines import (
    by_chance,
    chance_directions,
    class_means,
    exchanged,
    untested,
)
from clipattr.reproduction.experiments.checks import PIXELS
from clipattr.reproduction.experiments.surprises import NULL
from clipattr.reproduction.experiments.variants import SEEDS
from clipattr.statistics import Interval


def test_class_means_answer_the_class_with_the_nearest_mean():
    generator = torch.Generator().manual_seed(0)
    pictures = torch.nn.functional.normalize(torch.randn(40, 6, generator=generator), dim=1)
    labels = [("a", "b", "c")[number % 3] for number in range(40)]
    probe = class_means(pictures, labels)
    for picture, answer in zip(pictures, probe.predict(pictures), strict=True):
        cosines = {}
        for name in "abc":
            mean = torch.stack([p for p, label in zip(pictures, labels, strict=True) if label == name]).mean(
                0
            )
            cosines[name] = float(picture @ mean / mean.norm())
        assert answer == max(cosines, key=cosines.get)


def test_a_test_without_correction_is_fishers_for_each_latent(study):
    labels, codes = np.array(study.images.columns["label"]), study.codes.to_dense().numpy() > 0
    expected = []
    for prompt in ("circle", "square"):
        own = labels == prompt
        chances = [
            fisher_exact(
                [[(fires & own).sum(), (fires & ~own).sum()], [(~fires & own).sum(), (~fires & ~own).sum()]],
                alternative="greater",
            ).pvalue
            for fires in codes.T
        ]
        expected.append(float(min(chances) <= 0.05))
    assert untested(study, ["circle", "square", "unknown"]) == expected


def test_directions_by_chance_are_of_unit_length_and_their_own_for_each_seed():
    pictures = torch.nn.functional.normalize(
        torch.randn(9, 4, generator=torch.Generator().manual_seed(1)), dim=1
    )
    one, other = chance_directions(pictures, 3, 0), chance_directions(pictures, 3, 1)
    assert one.shape == (4, 3) and torch.allclose(one.norm(dim=0), torch.ones(3))
    assert torch.equal(one, chance_directions(pictures, 3, 0)) and not torch.allclose(one, other)
    differences = [
        torch.nn.functional.normalize(a - b, dim=0)
        for a in pictures
        for b in pictures
        if not torch.equal(a, b)
    ]
    for column in one.T:
        assert any(torch.allclose(column, each, atol=1e-6) for each in differences)


def test_a_family_is_never_exchanged_onto_a_prompt_that_has_it(study):
    span = Interval(0.1, 0.05, 0.15)

    def finding(prompt, latents):
        return ca.Finding(prompt, latents, None, "unknown", 0.5, span, span, 0.1, 0.1, 0.1, 0.5)

    found = ca.Findings([finding("a", (1,)), finding("b", (1,)), finding("c", (2,))], study, {}, [])
    made = list(exchanged(found, ["a", "b", "c"], 3))
    assert [(f.prompt, f.latents) for f in made] == [("c", (1,)), ("c", (1,)), ("a", (2,))]
    assert not list(exchanged(found[:1], ["a"], 3))


def test_chance_is_the_share_of_prompts_with_a_finding():
    assert by_chance({"judged": 0, "findings": []}) == 0.0
    value = {"first": 2, "findings": 3, "again": 1, "of": 2, "prompts_judged": 4, "by_chance": 0.25}
    assert "by chance at most 25 %" in SEEDS.conclude({"one seed 1": value}).sentence
    del value["by_chance"]  # as earlier versions stored it
    assert "by chance" not in SEEDS.conclude({"one seed 1": value}).sentence


def test_controls_are_told_beside_what_they_are_compared_with():
    row = {
        "prompt": "p",
        "label": "l",
        "kind": "context",
        "edit": None,
        "removal": None,
        "low": None,
        "high": None,
    }
    values = {
        "m": {"checked": [{**row, "verdict": "confirmed"}], "control": [{**row, "verdict": "contradicted"}]}
    }
    made = PIXELS.conclude(values)
    assert made.figures["confirmed"].value == 1.0 and made.figures["confirmed_of_other_prompts"].value == 0.0
    assert [each["tested"] for each in PIXELS.rows(values)] == ["finding", "another prompt"]
    verdicts = [{"prompt": str(n), "outcome": "nothing found", "why": ""} for n in range(20)]
    null = {"m": {"findings": [], "verdicts": verdicts, "judged": 20, "untested": [1.0] * 19 + [0.0]}}
    made = NULL.conclude(null)
    assert made.figures["prompts_without_correction"].value == pytest.approx(0.95)
    assert made.figures["false_findings_per_prompt"].value == 0.0


def test_every_experiment_tells_its_baseline(finished):
    figures = {result.experiment.name: result for result in finished.results}
    methods = {row["method"] for row in figures["spurious"].rows}
    assert methods == {"probe", "prompts", "class means"}
    assert {row["method"] for row in figures["faithfulness"].rows} >= {"random", "energy"}
    assert all(row["without_correction"] is not None for row in figures["null"].rows)
    assert {row["dictionary"] for row in figures["dictionaries"].rows} >= {"random directions", "neurons"}
