"""Kinds follow from evidence, and weak evidence is not a confident name."""

import math

import pytest
import torch

from clipattr.discovery.audit.candidates import Candidate, Route
from clipattr.discovery.audit.kinds import Roles, kind_of, kinship
from clipattr.discovery.audit.mediators import Family
from clipattr.discovery.audit.names import constituents, is_constituent
from clipattr.statistics import auc
from clipattr.statistics import mean_interval as interval

NOTHING = torch.zeros(3)
# Words: a thing, a mark, a place.
ROLES = Roles(
    {"mark": torch.tensor([0.0, 0.9, 0.0]), "text": NOTHING, "place": torch.tensor([0.0, 0.0, 0.9])}
)


def family(word=0, label="banana", route=Route.WORD, instead=False):
    nowhere = torch.zeros(2, dtype=torch.bool)
    candidate = Candidate(route, label, word, (nowhere, nowhere), (nowhere, nowhere), (), 0.5, 0.001)
    return Family(candidate, (1,), 0.1, instead, "co-occurrence")


@pytest.mark.parametrize(
    ("found", "kin", "focus", "kind"),
    [
        (family(), 0.5, 0.9, "companion"),
        (family(), 0.5, 0.2, "context"),
        (family(word=2), 0.5, 0.9, "context"),
        (family(word=1), 0.5, 0.2, "watermark"),
        (family(instead=True), 0.1, math.nan, "polysemy"),
        (family(instead=True), 0.9, math.nan, "coarse_label"),
        (family(route=Route.PART, instead=True), 0.5, math.nan, "compound"),
    ],
)
def test_the_evidence_decides_the_kind(found, kin, focus, kind):
    named, probability = kind_of(found, None, ROLES, kin, focus)
    assert named == kind and 0.25 <= probability <= 1


def test_a_family_that_no_word_fits_is_less_sure():
    nameless = kind_of(family(word=None, label=None), None, ROLES, 0.5, 0.9)
    assert nameless[1] < kind_of(family(), None, ROLES, 0.5, 0.9)[1]


def test_what_was_not_measured_does_not_decide():
    assert kind_of(family(), None, ROLES, 0.5)[1] < kind_of(family(), None, ROLES, 0.5, 0.9)[1]


def test_two_of_one_sort_look_alike_or_share_a_group_whatever_it_is_called():
    assert kinship(0.9, 0.6, (None, None)) == 1.0 and kinship(-0.2, -0.2, (None, None)) == 0.0
    assert kinship(0.1, 0.1, ("x", "x")) > 0.8 > 0.2 > kinship(0.1, 0.1, ("x", "y"))
    assert kinship(math.nan, math.nan, (None, "y")) == 0.5


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
