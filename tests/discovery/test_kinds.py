"""Kinds follow from evidence, and weak evidence is not a confident name."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from clipattr.discovery.audit.candidates import Candidate, Route
from clipattr.discovery.audit.geometry import differing, extent_of
from clipattr.discovery.audit.kinds import Roles, Witness, kind_of, kinship
from clipattr.discovery.audit.mediators import Family
from clipattr.discovery.audit.names import constituents, is_constituent
from clipattr.discovery.audit.telling import _remains
from clipattr.discovery.opened import Opener
from clipattr.statistics import auc
from clipattr.statistics import mean_interval as interval

NOTHING = torch.zeros(3)
# Words: an object, a mark, a place.
ROLES = Roles(
    {"mark": torch.tensor([0.0, 0.9, 0.0]), "text": NOTHING, "place": torch.tensor([0.0, 0.0, 0.9])}
)


def family(word=0, label="banana", route=Route.WORD, instead=False, text=False, left=math.nan):
    nowhere = torch.zeros(2, dtype=torch.bool)
    candidate = Candidate(route, label, word, (nowhere, nowhere), (nowhere, nowhere), (), 0.5, 0.001, text)
    return Family(candidate, (1,), 0.1, instead, "co-occurrence", left)


@pytest.mark.parametrize(
    ("found", "seen", "kind"),
    [
        (family(), Witness(itself=0.8, edge=0.1, inside=0.2, focus=0.9), "companion"),
        (
            family(),
            Witness(itself=0.0, edge=0.3, inside=0.2, focus=0.9),
            "watermark",
        ),  # no pictures of its own
        (family(), Witness(itself=0.0, edge=1.0, inside=0.9, focus=0.2), "context"),
        (
            family(),
            Witness(itself=0.4, edge=0.8, inside=0.0, focus=0.4),
            "context",
        ),  # a surrounding, named by itself
        (
            family(),
            Witness(itself=0.0, edge=0.0, inside=0.1, focus=0.1),
            "coarse_label",
        ),  # a look of the whole
        (family(), Witness(itself=0.9, focus=0.9), "companion"),
        (family(), Witness(itself=0.1, focus=0.1), "context"),
        (family(word=2), Witness(focus=0.9), "context"),
        (family(word=1), Witness(focus=0.9), "watermark"),
        (family(left=0.2), Witness(itself=0.8, edge=0.1, inside=0.2), "companion"),
        (family(instead=True), Witness(kin=0.1), "polysemy"),
        (family(instead=True), Witness(kin=0.9), "coarse_label"),
        (
            family(instead=True),
            Witness(kin=0.5, remains=0.9, edge=0.5, inside=0.1),
            "watermark",
        ),  # over the object
        (family(instead=True), Witness(kin=0.1, remains=0.1, edge=0.5, inside=0.1), "polysemy"),
        (family(), Witness(kin=0.1, remains=0.1, edge=0.9, inside=0.9), "polysemy"),  # each in its own place
        (family(instead=True), Witness(kin=0.9, remains=0.9, edge=0.1, inside=0.5), "coarse_label"),
        (family(route=Route.PART, instead=True), Witness(), "compound"),
        (family(text=True), Witness(edge=1.0, inside=1.0), "typography"),
    ],
)
def test_the_evidence_decides_the_kind(found, seen, kind):
    named, probability = kind_of(found, ROLES, seen)
    assert named == kind and 0.25 <= probability <= 1


def test_a_family_that_no_word_fits_is_less_sure():
    seen = Witness(itself=0.9, edge=0.1, inside=0.1, focus=0.9)
    assert kind_of(family(word=None, label=None), ROLES, seen)[1] < kind_of(family(), ROLES, seen)[1]


def test_what_was_not_measured_does_not_decide():
    sure = Witness(itself=0.9, edge=0.1, inside=0.1, focus=0.9)
    assert kind_of(family(), ROLES, Witness())[1] < kind_of(family(), ROLES, sure)[1]


def test_two_looks_keep_the_object_and_two_of_one_sort_share_a_group_whatever_it_is_called():
    assert kinship(-0.2, 0.9, -0.2, (None, None)) == 1.0 and kinship(0.9, 0.1, 0.6, (None, None)) == 0.0
    assert kinship(0.3, math.nan, math.nan, (None, None)) == pytest.approx(0.5)
    assert kinship(0.1, 0.1, 0.1, ("x", "x")) > 0.8 > 0.2 > kinship(0.1, 0.1, 0.1, ("x", "y"))
    assert kinship(0.1, 0.9, 0.1, ("x", "y")) == 1.0  # a look is of another group than what it is a look of
    assert kinship(math.nan, math.nan, math.nan, (None, "y")) == 0.5


def test_what_remains_of_a_prompt_by_hand():
    cosine = torch.tensor([0.5] * 5 + [0.9] * 5 + [0.1] * 5 + [0.7] * 5)
    groups = [torch.arange(20) // 5 == number for number in range(4)]
    with_it, without, neither, elsewhere = groups
    own, few = with_it | without, SimpleNamespace(few=5)
    base = SimpleNamespace(settings=few, measuring=None, along=lambda half, text: cosine)

    def left(own, shown, there):
        side = SimpleNamespace(own=own, shown=shown, elsewhere=~own & ~shown)
        subject = SimpleNamespace(measuring=side, meant=None)
        return _remains(base, subject, there, own & there)

    assert left(own, own, with_it | elsewhere) == pytest.approx((0.5 - 0.1) / (0.9 - 0.1))
    # All own pictures show it: the reference is the other pictures in which the evaluator sees the prompt.
    assert left(with_it, without | with_it, with_it | elsewhere) == pytest.approx((0.5 - 0.1) / (0.9 - 0.1))
    assert math.isnan(left(own, own, elsewhere)) and math.isnan(left(with_it, with_it, with_it | elsewhere))


def test_a_surrounding_differs_at_the_edge_and_a_corner_does_not():
    rng = np.random.default_rng(0)
    plain = [rng.normal(120, 10, (96, 96, 3)) for _ in range(20)]
    around = [picture.copy() for picture in plain[:10]]
    corner = [picture.copy() for picture in plain[:10]]
    for picture in around:
        inner = picture[24:-24, 24:-24].copy()
        picture[:] = 220
        picture[24:-24, 24:-24] = inner
    for picture in corner:
        picture[:24, :24] = 220
    study = SimpleNamespace(
        had=np.ones(40, dtype=bool),
        images=[
            SimpleNamespace(load=lambda p=p: Image.fromarray(p.clip(0, 255).astype(np.uint8)))
            for p in [*plain, *around, *corner]
        ],
    )
    without, surround, small = np.arange(10, 20), np.arange(20, 30), np.arange(30, 40)
    base = SimpleNamespace(study=study, opener=Opener(study.images))
    assert extent_of(base, surround, without) == (1.0, 0.0)
    assert extent_of(base, small, without) == (pytest.approx(4 / 48), 0.0)
    assert all(math.isnan(value) for value in extent_of(base, small[:4], without))


def test_a_difference_counts_in_pooled_deviations():
    one, other = np.random.default_rng(0).normal(0, 1, (2, 12, 8, 8, 6))
    one += 5.0
    slow = max(
        abs(one[:, 3, 4, f].mean() - other[:, 3, 4, f].mean())
        / (math.sqrt((one[:, 3, 4, f].var(ddof=1) + other[:, 3, 4, f].var(ddof=1)) / 2) + 1)
        for f in range(6)
    )
    assert differing(one, other)[3, 4] == pytest.approx(slow)


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
