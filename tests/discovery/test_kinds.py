"""Kinds follow from evidence, and weak evidence is not a confident name."""

import dataclasses
import math

import pytest
import torch

from clipattr.discovery.audit.evidence import Evidence
from clipattr.discovery.audit.kinds import constituents, is_constituent, kind_of
from clipattr.statistics import Interval, auc
from clipattr.statistics import mean_interval as interval

NOTHING = Interval(0.0, 0.0, 0.0)
BESIDE = Evidence(
    on_own=True,
    own_pictures=50,
    pictures=torch.arange(10),
    reliance=NOTHING,
    causal_effect=NOTHING,
    presence=0.9,
    presence_elsewhere=0.1,
    seen=0.9,
    together=0.95,
    elsewhere=NOTHING,
    standing=0.1,
    separation=0.8,
    share=0.2,
    clarity=0.7,
    shown=0.9,
    shown_elsewhere=0.05,
    beside=0.95,
    focus=0.9,
)


def seen(**changes):
    return dataclasses.replace(BESIDE, **changes)


@pytest.mark.parametrize(
    ("evidence", "prompt", "label", "group", "kind"),
    [
        (BESIDE, "monkey", "banana", "food", "companion"),
        (seen(focus=0.3), "camel", "desert", "place", "context"),
        (seen(focus=0.3), "camel", "desert", None, "context"),
        (seen(beside=0.02, shown=0.5), "bat", "cricket gear", "object", "polysemy"),
        (seen(beside=0.02, shown=0.5), "lion", "tiger", "animal", "coarse_label"),
        (seen(shown=0.0, standing=0.9, beside=math.nan), "bat", "cricket gear", "object", "polysemy"),
        (seen(shown=0.0, standing=0.2), "hot dog", "dog", "animal", "compound"),
        (seen(focus=0.3), "camel", "a watermark", "mark", "watermark"),
        (seen(focus=0.8), "camel", "a written word", "writing", "typography"),
        (seen(shown=0.0, standing=0.1), "duck", "swan", "animal", "unknown"),
    ],
)
def test_the_evidence_decides_the_kind(evidence, prompt, label, group, kind):
    own_group = {"bat": "tool", "lion": "animal"}.get(prompt)
    named, probability = kind_of(evidence, prompt, label, group, own_group)
    assert named == kind
    assert 0.25 <= probability <= 1


def test_a_family_that_no_word_fits_is_unknown():
    assert kind_of(BESIDE, "monkey", None, None)[0] in ("unknown", "companion")
    assert kind_of(seen(beside=0.5, focus=0.5), "monkey", None, None)[0] == "unknown"


def test_what_was_not_measured_does_not_decide():
    _, sure = kind_of(BESIDE, "monkey", "banana", None)
    _, unsure = kind_of(seen(focus=math.nan, beside=math.nan), "monkey", "banana", None)
    assert unsure < sure


@pytest.mark.parametrize(
    ("label", "prompt", "part"),
    [
        ("dog", "hot dog", True),
        ("butter", "butterfly", True),
        ("cake", "fishcake", True),
        ("dog", "dog", False),
        ("car", "oscar winner", False),
        ("ant", "elephant", True),  # the known price of looking inside words
        ("sea horse", "horse", False),
        ("", "horse", False),
    ],
)
def test_constituents_are_whole_words_or_ends_of_a_word(label, prompt, part):
    assert is_constituent(label, prompt) is part


def test_constituents_of_long_lists_are_those_that_each_pair_alone_gives():
    prompts = ["hot dog", "butterfly", "sea horse", "dog", "polar bear cub", "", "Rain-bow", "elephant"]
    words = [
        "dog",
        "Butter",
        "fly",
        "bear",
        "polar bear",
        "bear cub",
        "rain",
        "horse",
        "ant",
        "an",
        "",
        "hot dog",
    ]
    slow = [n for n, word in enumerate(words) if any(is_constituent(word, prompt) for prompt in prompts)]
    assert constituents(prompts, words) == slow and len(slow) >= 8


def test_the_area_under_the_curve_by_hand():
    assert (
        auc(torch.tensor([1.0, 2.0, 3.0, 4.0]).numpy(), torch.tensor([False, True, False, True]).numpy())
        == 0.75
    )
    assert auc(torch.ones(4).numpy(), torch.tensor([False, True, False, True]).numpy()) == 0.5
    assert auc(torch.ones(2).numpy(), torch.tensor([True, True]).numpy()) == 0.5


def test_an_interval_by_hand_and_its_width_without_data():
    found = interval(torch.tensor([1.0, 2.0, 3.0]))
    assert found.value == pytest.approx(2.0)
    assert found.high - found.value == pytest.approx(1.96 / 3**0.5)
    assert interval(torch.tensor([1.0])).low == -math.inf
