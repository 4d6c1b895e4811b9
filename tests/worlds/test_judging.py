"""Judging of findings in the worlds: what matches, what is confirmed, what is named, and how figures are pooled."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import mannwhitneyu, norm, rankdata

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from world_kit import judging  # noqa: E402
from world_kit.judging import Judge, Pairs, names_cause  # noqa: E402
from world_kit.scene import Plant  # noqa: E402
from world_kit.tally import add_round, added_by_names, figures, too_few  # noqa: E402


@pytest.fixture
def judge() -> Judge:
    """A world of three prompts whose pictures are lists of objects, and codes that are those lists."""
    things = ["boat", "shark", "tint"]
    rng = np.random.default_rng(0)
    shown = (rng.random((200, 3)) < 0.4).astype(np.float64)
    made = Judge.__new__(Judge)
    made.prompts, made.things, made.shown = things, things, shown
    made.codes = np.concatenate([shown * 2.0, rng.random((200, 1))], 1)
    made.world = SimpleNamespace(concepts={"boat": "boat", "shark": "shark"})
    made.learnt = [Plant("context", "cast", "boat", "boat", "tint", 0.7, ("context",))]
    made._known = {}
    return made


def pairs(latent: int, lift: float, left: float = 0.0) -> Pairs:
    present, absent = np.zeros((50, 4)), np.zeros((50, 4))
    present[:, latent], absent[:, latent] = 1.0, left
    change = np.zeros((50, 3)) + np.linspace(-0.01, 0.01, 50)[:, None]
    change[:, 0] += lift
    return Pairs(present, absent, change)


def test_kept_effect_and_area_are_as_counted_by_hand():
    one = Pairs(np.array([[2.0, 0], [0, 4.0]]), np.array([[1.0, 0], [0, 1.0]]), np.array([[0.1], [0.3]]))
    assert one.kept([0, 1]) == pytest.approx(2 / 6) and one.kept([1]) == pytest.approx(0.25)
    mean, low, high = one.effect(0)
    assert mean == pytest.approx(0.2) and low == pytest.approx(
        0.2 - 1.96 * np.std([0.1, 0.3], ddof=1) / 2**0.5
    )
    assert high - mean == pytest.approx(mean - low)
    assert one.kept([]) == 1.0
    # Latent 1: 0 and 4 against 0 and 1: 4 wins over both, 0 ties and loses.
    assert one.latent_area() == pytest.approx((2 + 0.5) / 4)


def test_a_plant_is_matched_by_its_latents_alone(judge, monkeypatch):
    monkeypatch.setattr(Judge, "of_plant", lambda self, plant: pairs(2, 0.1, left=0.4))
    found = judge.match("boat", [2])
    assert (
        found is not None
        and found.right
        and found.plant is judge.learnt[0]
        and found.kept == pytest.approx(0.4)
    )
    assert judge.match("boat", [1]) is None and judge.match("shark", [2]) is None
    monkeypatch.setattr(Judge, "of_plant", lambda self, plant: pairs(2, 0.1, left=0.6))
    assert judge.match("boat", [2]) is None


def test_a_fall_in_a_few_pictures_is_chance():
    present = np.zeros((100, 2))
    present[:2, 0], present[:, 1] = 5.0, 1.0
    some = Pairs(present, np.zeros((100, 2)), np.zeros((100, 1)))
    assert some.kept([0]) == 0.0 and not some.falls([0]) and some.falls([1]) and some.falls([0, 1])


def test_cause_is_what_separates_the_family_best(judge):
    assert [judge.cause([j]) for j in (0, 1, 2)] == ["boat", "shark", "tint"]
    assert judge.cause([3]) is None  # noise
    rare = np.where(np.arange(200) % 10 == 0, judge.shown[:, 1], 0.0)  # a tenth of the sharks
    judge.codes = np.stack([rare, np.zeros(200)], 1)
    assert judge.cause([0]) == "shark" and judge.cause([1]) is None


def test_standard_error_of_a_rank_sum_allows_for_ties():
    rng = np.random.default_rng(0)
    values, there = np.floor(rng.random(300) * 4), rng.random(300) < 0.3
    n, m = there.sum(), (~there).sum()
    error = rankdata(values).std() * np.sqrt(300 / (n * m)) / 300
    area = (rankdata(values)[there].sum() - n * (n + 1) / 2) / (n * m)
    p = mannwhitneyu(values[there], values[~there], method="asymptotic", use_continuity=False).pvalue
    assert 2 * norm.sf(abs(area - 0.5) / error) == pytest.approx(p, rel=0.01)


def test_confirming_needs_an_effect_and_a_fall_and_not_the_prompt_itself(judge, monkeypatch):
    monkeypatch.setattr(Judge, "_scenes", lambda self, prompt, cause, n, first: {"around": [()] * n})
    for lift, left, right in ((0.1, 0.2, True), (0.001, 0.2, False), (0.1, 0.7, False)):
        drawn = pairs(2, lift, left)
        monkeypatch.setattr(Judge, "_pairs", lambda self, key, scenes, drawn=drawn: drawn)
        assert judge.confirm("boat", [2]).right is right
    monkeypatch.setattr(Judge, "_pairs", lambda self, key, scenes: pairs(0, 0.1))
    assert not judge.confirm("boat", [0]).right  # the boat itself
    assert judge.confirm("boat", [0]).cause == "boat"


@pytest.mark.parametrize(
    ("label", "cause", "named"),
    [
        ("curtain", "curtain", True),
        ("curtains", "curtain", True),
        ("a picture of a curtain", "curtain", True),
        ("one curtain", "curtain", True),
        ("text", "the word harp", True),
        ("harp", "the word harp", True),
        ("radar", "curtain", False),
        ("ring", "ring mark", False),
        (None, "curtain", False),
        ("curtain", None, False),
    ],
)
def test_names(label, cause, named):
    assert names_cause(label, cause) is named


def form(found: list[bool], right: list[bool], prompts: int = 10) -> dict:
    kinds = ["context", "typography"] * len(found)
    return {
        "prompts": prompts,
        "seconds": 1.0,
        "plants": [
            {
                "kind": k,
                "prompt": f"p{i}",
                "found": f,
                "halved": True,
                "named": f,
                "kind_right": f and i == 0,
                "pictures": 24 + 126 * i,
            }
            for i, (k, f) in enumerate(zip(kinds, found, strict=False))
        ],
        "findings": [
            {"right": r, "named": r and i > 0, "confidence": 0.8, "prompt": "p"} for i, r in enumerate(right)
        ],
        "simpler": {"activation": {"1": [1, 2, 4], "2": [2], "4": [2]}},
    }


def test_figures_pool_counts_and_not_shares():
    a = {
        "world": "photos-choose-a",
        "truth": [],
        "forms": {"plain": form([True, False], [True, False, True])},
    }
    b = {"world": "photos-choose-b", "truth": [], "forms": {"plain": form([True, True], [True])}}
    null = {"world": "photos-choose-null", "truth": [], "forms": {"plain": form([], [False, True], 50)}}
    told = figures([a, b, null])
    assert told["photos-choose-a.plain.recall"] == 0.5 and told["photos-choose.plain.recall"] == 0.75
    assert told["choose.plain.precision"] == 0.75 and told["choose.plain.precision_by_name"] == 0.25
    assert told["choose.plain.recall_without_chance_test"] == 1.0
    assert told["choose.plain.kind_accuracy"] == pytest.approx(2 / 3)
    assert told["choose.plain.learnt_from_0_pictures"] == told["choose.plain.learnt_from_150_pictures"] == 2
    assert (
        told["choose.plain.recall_from_0_pictures"] == 1.0
        and told["choose.plain.recall_from_150_pictures"] == 0.5
    )
    assert "choose.plain.learnt_from_25_pictures" not in told
    assert told["choose.plain.brier"] == pytest.approx((3 * 0.04 + 0.64) / 4)
    assert told["choose.plain.brier_of_base_rate"] == pytest.approx(0.75 * 0.25)
    assert told["choose.plain.recall_of_activation_x1"] == 0.5
    assert told["choose.plain.precision_of_activation_x1"] == 0.5
    assert (
        told["choose.plain.recall_of_activation_x4"] == 1.0
        and "choose.plain.precision_of_activation_x4" not in told
    )
    assert told["choose.plain.null_per_100"] == 2.0 and told["choose.plain.findings"] == 4
    del a["forms"]["plain"]["simpler"]
    assert figures([a, b])["choose.plain.recall_of_activation_x1"] == 0.5  # of b's two plants alone
    assert told["choose.plain.null_per_100_high"] == pytest.approx(
        2 * 5.5716, rel=1e-3
    )  # Garwood's table, one event
    assert told["choose.plain.recall_typography_low"] < 0.5 < told["choose.plain.recall_typography_high"]


def test_hidden_labels_are_compared_with_what_labels_found():
    forms = {"labels": form([True, True], []), "plain": form([True, False], [])}
    told = figures([{"world": "rendered-report-a", "truth": [], "forms": forms}])
    assert told["rendered-report.labels_hidden_kept"] == 0.5


def test_findings_that_more_names_add():
    def rows(*many):
        return {"findings": [{"prompt": p, "latents": list(latents)} for p, latents in many]}

    plain = rows(("boat", (1, 2, 3)), ("shark", (4,)))
    names = rows(("boat", (2, 3, 9)), ("boat", (7,)), ("shark", (4,)), ("tint", (4,)))
    assert added_by_names({"forms": {"plain": plain, "names": names}}) == 2


def test_rounds_are_appended(tmp_path):
    result = {"world": "photos-choose-a", "truth": [], "forms": {"plain": form([True, False], [True])}}
    file = tmp_path / "worlds.json"
    add_round(file, "before", [result], {"commit": "1"})
    before = json.loads(file.read_text())["rounds"][0]
    add_round(file, "after", [result], {"commit": "2"})
    content = json.loads(file.read_text())
    assert [r["title"] for r in content["rounds"]] == ["before", "after"] and content["rounds"][0] == before
    assert content["commit"] == "2" and content["figures"] == content["rounds"][1]["figures"]


def test_too_few_learnt_plants_are_said():
    rows = [{"kind": "context", "learnt": True}] * 3 + [{"kind": "typography", "learnt": False}]
    assert too_few({"photos-choose-a": rows}) == [
        "photos-choose: 3 learnt of context",
        "photos-choose: 0 learnt of typography",
    ]
    assert too_few({"photos-choose-a": rows, "photos-choose-b": rows + rows[:3]})[0].endswith("typography")


def test_cutoffs_are_those_of_the_definition():
    assert judging.LEFT == 0.5 and judging.LEARNT == 0.02 and judging.PAIRS >= 100
    assert torch.tensor(0.02) == torch.tensor(judging.LEARNT)
