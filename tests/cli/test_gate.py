"""Which findings stop a release."""

import pytest

from clipattr.cli.gate import over_limit
from clipattr.discovery.findings import Findings
from clipattr.statistics import Interval


def effects(found):
    return [round(f.causal_effect.value, 3) for f in found]


def test_without_a_baseline_all_above_the_limit_stop_strongest_first(finding):
    found = Findings([finding(0.05), finding(0.2), finding(0.3)])
    assert effects(over_limit(found, 5)) == [0.3, 0.2]
    assert over_limit(found, 30) == []


@pytest.mark.parametrize(
    "known, excused",
    [
        ({}, True),
        ({"prompt": "bat"}, False),
        ({"label": "bird"}, False),
        ({"latents": (90,)}, True),  # other dictionary: latent numbers mean nothing
        ({"causal_effect": Interval(0.15, 0.1, 0.19)}, True),  # grown, but the intervals meet
        ({"causal_effect": Interval(0.1, 0.08, 0.12)}, False),  # clearly grown
        ({"causal_effect": Interval(0.5, 0.4, 0.6)}, True),  # fallen
    ],
)
def test_a_baseline_excuses_the_same_prompt_and_label_unless_it_has_clearly_grown(finding, known, excused):
    found, before = Findings([finding(0.2)]), Findings([finding(0.2, **known)])
    assert (over_limit(found, 5, before) == []) is excused


@pytest.mark.parametrize("known, excused", [({"latents": (7, 8)}, True), ({"latents": (90,)}, False)])
def test_with_the_same_dictionary_shared_latents_decide(finding, known, excused):
    about = {"dictionary_hash": "0123456789abcdef"}
    found = Findings([finding(0.2)], None, about)
    before = Findings([finding(0.2, label="something else", **known)], None, about)
    assert (over_limit(found, 5, before) == []) is excused


def test_without_labels_the_kind_decides(finding):
    found = Findings([finding(0.2, label=None, kind="unknown")])
    assert over_limit(found, 5, Findings([finding(0.2, label=None, kind="unknown")])) == []
    assert len(over_limit(found, 5, Findings([finding(0.2, label=None, kind="context")]))) == 1
